//! billing-state: owns one billing state per tenant, and says what it entitles to.
//!
//! A request goes `grpc -> app -> domain + store`, and back. Questions for entitlements, which are most of them, end in
//! the cache of [`pulse_entitlements::DatabaseSource`].
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the settings of this service |
//! | `grpc` | the three gRPC services: convert, call, convert |
//! | `convert` | protobuf to and from domain types |
//! | `app` | the use cases, and the push of every change to the cache, whichever replica made it |
//! | [`domain`] | what a state may become; pure |
//! | [`store`] | where states and their history are kept |
//! | `error` | everything that can go wrong, mapped once to what callers see |
//!
//! What a state grants at a moment, and which transitions it has, is decided in `pulse-entitlements`, which other
//! services share.

mod app;
pub mod config;
mod convert;
pub mod domain;
mod error;
mod grpc;
pub mod store;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use pulse_entitlements::DatabaseSource;
use pulse_kernel::{Clock, OsEntropy, SystemClock};
use pulse_proto::billing::v1::{
    billing_admin_service_server::BillingAdminServiceServer,
    billing_state_service_server::BillingStateServiceServer,
};
use pulse_rpc::{GrpcServer, Limits, OperatorTokens, server::MAX_MESSAGE_BYTES};
use pulse_runtime::{Readiness, Shutdown};
use tokio::net::TcpListener;

pub use crate::config::{BillingSettings, Config};
use crate::{
    app::{BillingStates, source::Stored},
    store::{
        Store,
        file::FileStore,
        postgres::{PostgresStore, SCHEMA},
    },
};

/// How often the store is probed for readiness.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Opens the store that the settings name: the one in PostgreSQL where they name a database, else the files.
///
/// # Errors
/// When the database cannot be used, or does not fit this program; or when another process has the files, or the disk fails.
pub async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let (database, clock, entropy) = (&config.common.database, Arc::new(SystemClock), Arc::new(OsEntropy));
    Ok(if database.database_url.is_some() {
        Arc::new(PostgresStore::open(database, clock, entropy).await?)
    } else {
        let files = FileStore::open(&config.common.data_dir, clock, entropy);
        Arc::new(files.context("cannot open the billing store (PULSE_DATA_DIR)")?)
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

/// Serves on `listener` until `shutdown` is done.
///
/// # Errors
/// When the plan catalog or the operators' tokens cannot be read, or the server fails.
pub async fn serve(
    config: Config,
    store: Arc<dyn Store>,
    listener: TcpListener,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    serve_at(config, store, Arc::new(SystemClock), listener, shutdown).await
}

/// As [`serve`], at the time of `clock`.
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
    let plans = config.billing.plans()?;
    let reader = Arc::new(Stored(store.clone()));
    let source = DatabaseSource::new(reader, &plans.catalog, config.billing.source(), clock.clone());
    let states = BillingStates::new(store.clone(), source, plans, clock, &OsEntropy);
    states.follow(&shutdown);

    let limits = Limits {
        max_in_flight: config.common.max_in_flight.get(),
        request_timeout: config.common.request_timeout,
    };
    let state = BillingStateServiceServer::new(grpc::billing_state::State(states.clone()));
    let mut server = GrpcServer::new(limits)
        .add(grpc::at_hand::AtHand::new(states.clone()))
        .add(state.max_decoding_message_size(MAX_MESSAGE_BYTES));
    if let Some(tokens) = config.common.admin_tokens_file()? {
        let operators = OperatorTokens::watch(tokens, &shutdown)?;
        let admin = BillingAdminServiceServer::new(grpc::admin::Admin { states, operators });
        server = server.add(admin.max_decoding_message_size(MAX_MESSAGE_BYTES));
    }
    let readiness = Readiness::follow(&shutdown, PROBE_INTERVAL, move || {
        let store = store.clone();
        async move { store.ping().await }
    });
    server.serve(listener, readiness, shutdown).await?;
    Ok(())
}
