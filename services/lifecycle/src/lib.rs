//! Lifecycle owns the organizations: it decides which changes of their status are legal, and when one is due for
//! purge.
//!
//! A request goes `grpc -> app -> domain` to be decided, and `app -> store` to be kept:
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the settings of this service |
//! | `grpc` | `OrganizationService`, Envoy's `Authorization` and, in hosted mode, `LifecycleAdminService`: convert, call, convert |
//! | `convert` | protobuf to and from domain types |
//! | `app` | the use cases, the reaper, the metrics |
//! | [`domain`] | organizations and their transitions, pure |
//! | [`store`] | where organizations, their history and their audit records are kept |
//! | `error` | everything that can go wrong, mapped once to what callers see |

mod app;
pub mod config;
mod convert;
pub mod domain;
mod error;
mod grpc;
pub mod store;

use std::{sync::Arc, time::Duration};

use pulse_entitlements::DatabaseSource;
use pulse_envoy_api::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use pulse_kernel::{Clock, Entropy, OsEntropy, SystemClock};
use pulse_proto::lifecycle::v1::{
    lifecycle_admin_service_server::LifecycleAdminServiceServer,
    organization_service_server::OrganizationServiceServer,
};
use pulse_rpc::{GrpcServer, Limits, OperatorTokens, server::MAX_MESSAGE_BYTES};
use pulse_runtime::{Readiness, Service, Shutdown, telemetry::meter};
use pulse_tenant_client::{RemoteBilling, follow::follow_billing_states, gateway::Gatekeeper};
use pulse_tenant_guard::StatusCache;
use tokio::net::TcpListener;

pub use crate::config::{Config, LifecycleSettings};
use crate::{
    app::{Organizations, reaper::Reaper, status::Authority},
    store::{PostgresStore, SqliteStore, Store, postgres::SCHEMA},
};

/// How often the store is asked whether it can be used.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Opens the store that the settings name: the one in PostgreSQL where they name a database, else the embedded one.
///
/// # Errors
/// When it cannot be opened, or does not fit this program; an embedded one also when another process uses it.
pub async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let (database, entropy) = (&config.common.database, Arc::new(OsEntropy));
    Ok(if database.database_url.is_some() {
        Arc::new(PostgresStore::open(database, &SystemClock, entropy).await?)
    } else {
        Arc::new(SqliteStore::open(&config.file(), &SystemClock, entropy).await?)
    })
}

/// Brings the schema in PostgreSQL up to date, and says at which version it is.
///
/// # Errors
/// When the settings name no database, its user may not change the schema, or it belongs to a newer program.
pub async fn migrate(config: &Config) -> anyhow::Result<String> {
    pulse_store::postgres::migrate(&config.common.database, &SCHEMA).await?;
    let version = SCHEMA.migrator.iter().map(|migration| migration.version).max().unwrap_or_default();
    Ok(format!("{} is at version {version}", SCHEMA.name))
}

/// Serves on `listener` until `shutdown` is done, then closes the store.
///
/// # Errors
/// When the operators' tokens or the store cannot be read, or the server fails.
pub async fn serve(
    config: Config,
    store: Arc<dyn Store>,
    listener: TcpListener,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    serve_at(config, store, Arc::new(SystemClock), listener, shutdown).await
}

/// As [`serve`], by `clock`.
///
/// # Errors
/// As [`serve`].
pub async fn serve_at(
    config: Config,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    listener: TcpListener,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let cache = config.tenants.cache();
    let organizations = Organizations::new(Arc::clone(&store), Arc::clone(&clock), &OsEntropy, cache).await?;
    let gatekeeper = gatekeeper(&config, organizations.statuses(), clock, &shutdown)?;
    let settings = config.lifecycle;
    organizations.follow(&shutdown);
    let reaper = Reaper::new(
        organizations.clone(),
        replica_id(&OsEntropy),
        settings.reaper_interval,
        settings.reaper_dry_run,
    );
    let reaper_ended = reaper.run_in_background(&shutdown);

    let limits = Limits {
        max_in_flight: config.common.max_in_flight.get(),
        request_timeout: config.common.request_timeout,
    };
    let internal = grpc::organization::Service::new(organizations.clone());
    let internal = OrganizationServiceServer::new(internal).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let gateways = grpc::authorization::Service::new(gatekeeper);
    let gateways = AuthorizationServer::new(gateways).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut server =
        GrpcServer::new(limits).describe(pulse_envoy_api::FILE_DESCRIPTOR_SET).add(internal).add(gateways);
    if let Some(tokens_file) = config.common.admin_tokens_file()? {
        let operators = OperatorTokens::watch(tokens_file, &shutdown)?;
        let admin = grpc::admin::Service::new(organizations, operators, settings.retention_days);
        server =
            server.add(LifecycleAdminServiceServer::new(admin).max_decoding_message_size(MAX_MESSAGE_BYTES));
    }

    let probed = Arc::clone(&store);
    let readiness = Readiness::follow(&shutdown, PROBE_INTERVAL, move || {
        let store = Arc::clone(&probed);
        async move { store.ping().await }
    });
    let stopping = shutdown.clone();
    let outcome = server.serve(listener, readiness, shutdown).await;
    if stopping.is_draining() {
        // It gives its lease back, for which it needs the store. It may have been aborted.
        reaper_ended.await.ok();
    }
    store.close().await;
    Ok(outcome?)
}

/// Who decides about tenants: by statuses that are at hand here, and by what billing-state says they may use, which it tells of
/// every change.
fn gatekeeper(
    config: &Config,
    statuses: &StatusCache,
    clock: Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> anyhow::Result<Gatekeeper> {
    let billing_state = pulse_rpc::channel(&config.endpoints.url(Service::BillingState).to_string())?;
    let (catalog, cache) = (config.tenants.catalog()?, config.tenants.cache());
    let billing = Arc::new(RemoteBilling::new(billing_state.clone()));
    let entitlements = DatabaseSource::new(billing, &catalog, cache, Arc::clone(&clock));
    let meter = meter("pulse-lifecycle");
    statuses.report(&meter, "lifecycle_statuses");
    entitlements.report(&meter, "lifecycle_entitlements");
    // Whether it does is told by metrics; what is not heard of is asked for.
    let _ = follow_billing_states(billing_state, entitlements.clone(), clock, shutdown);
    Ok(Gatekeeper::new(Arc::new(Authority(statuses.clone())), Arc::new(entitlements)))
}

/// What this process calls itself among its replicas.
fn replica_id(entropy: &dyn Entropy) -> String {
    let mut id = [0; 8];
    entropy.fill(&mut id);
    format!("{:016x}", u64::from_be_bytes(id))
}
