//! The provisioner: makes tenants and unmakes them, each as one saga, and knows who someone is.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the settings |
//! | [`grpc`], `convert`, [`error`] | the gRPC services, thin, and what passes through them |
//! | [`app`] | what the service does |
//! | [`saga`] | the engine of the two sagas: a pure plan over a fenced journal |
//! | [`hashing`] | passwords: argon2id on bounded threads |
//! | [`domain`] | accounts and their roles, pure |
//! | [`store`] | what is kept |
//! | [`clients`] | lifecycle and billing-state, as this service needs them |
//!
//! The service owns accounts, roles and the journal of the sagas; organizations are lifecycle's, billing states are
//! billing-state's. It is the only place where passwords are hashed.

#![warn(missing_docs)]

pub mod app;
pub mod clients;
pub mod config;
mod convert;
pub mod domain;
pub mod error;
pub mod grpc;
pub mod hashing;
pub mod saga;
pub mod store;

use std::{hash::Hash, num::NonZeroU32, sync::Arc, time::Duration};

use pulse_kernel::{Clock, Entropy, Ids, OsEntropy, SystemClock};
use pulse_proto::provisioner::v1::{
    account_service_server::AccountServiceServer,
    provisioner_admin_service_server::ProvisionerAdminServiceServer,
    provisioner_service_server::ProvisionerServiceServer,
};
use pulse_rpc::{
    GrpcServer, KeyedLimiter, Limits, OperatorTokens, channel, limit::DEFAULT_MAX_KEYS,
    server::MAX_MESSAGE_BYTES,
};
use pulse_runtime::{Readiness, Service, Shutdown, telemetry::meter};
use tokio::net::TcpListener;

pub use config::{Config, ProvisionerSettings};

use app::{App, SIGN_IN_WINDOW, SignInLimits};
use clients::grpc::{BillingClient, LifecycleClient};
use grpc::{AccountServiceImpl, AdminServiceImpl, ProvisionerServiceImpl};
use hashing::HashingPool;
use saga::{engine::Engine, meters::Meters, retry::Tuning, runner::Runner};
use store::{PostgresStore, SqliteStore, Store, postgres::SCHEMA};

/// How often the store is asked whether it can be used.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Opens the store that the settings name: the one in PostgreSQL where they name a database, else the embedded one.
///
/// # Errors
/// When it cannot be opened, or does not fit this program; an embedded one also when another process uses it.
pub async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let (database, entropy) = (&config.common.database, Arc::new(OsEntropy));
    Ok(if database.database_url.is_some() {
        Arc::new(PostgresStore::open(database, entropy).await?)
    } else {
        Arc::new(SqliteStore::open(&config.file(), entropy).await?)
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

/// Serves on `listener` and runs the sagas until `shutdown` is done, then closes the store.
///
/// # Errors
/// When the operators' tokens cannot be read, a thread cannot be started, or the server fails.
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
    let tokens_file = config.common.admin_tokens_file()?;
    let operators = tokens_file.map(|path| OperatorTokens::watch(path, &shutdown)).transpose()?;
    let app = app(&config, Arc::clone(&store), clock, &shutdown)?;
    let engine = app.engine.clone();
    // What is stuck is known before anyone can ask.
    engine.runner().count_stuck().await;
    engine.spawn(config.provisioner.purge_interval);

    let probed = Arc::clone(&store);
    let readiness = Readiness::follow(&shutdown, PROBE_INTERVAL, move || {
        let store = Arc::clone(&probed);
        async move { store.ping().await }
    });
    let outcome = server(&config, app, operators).serve(listener, readiness, shutdown.clone()).await;
    // Sagas finish the step that they are at; whatever is left goes on at the next start.
    tokio::select! { () = engine.idle() => {}, () = shutdown.aborted() => {} }
    store.close().await;
    Ok(outcome?)
}

/// The gRPC server. Outside hosted mode nobody makes tenants, and there are no operators.
fn server(config: &Config, app: App, operators: Option<OperatorTokens>) -> GrpcServer {
    let limits = Limits {
        max_in_flight: config.common.max_in_flight.get(),
        request_timeout: config.common.request_timeout,
    };
    let account = AccountServiceServer::new(AccountServiceImpl(app.clone()));
    let server = GrpcServer::new(limits).add(account.max_decoding_message_size(MAX_MESSAGE_BYTES));
    let Some(tokens) = operators else { return server };
    let provisioner = ProvisionerServiceServer::new(ProvisionerServiceImpl(app.clone()));
    let admin = ProvisionerAdminServiceServer::new(AdminServiceImpl { app, tokens });
    server
        .add(provisioner.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add(admin.max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// The service with the real dependencies.
fn app(
    config: &Config,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> anyhow::Result<App> {
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
    let url = |service| config.endpoints.url(service).to_string();
    let organizations = Arc::new(LifecycleClient::new(channel(&url(Service::Lifecycle))?));
    let billing = Arc::new(BillingClient::new(channel(&url(Service::BillingState))?));
    let hashing = Arc::new(HashingPool::start(config.provisioner.hashing(), Arc::clone(&entropy))?);
    let ids = Ids::new(Arc::clone(&clock), Arc::clone(&entropy));
    let runner = Runner {
        store: Arc::clone(&store),
        organizations: organizations.clone(),
        billing: billing.clone(),
        clock: Arc::clone(&clock),
        entropy,
        tuning: Tuning::default(),
        meters: Meters::new(&meter("pulse-provisioner"), hashing.waiting()),
        owner: ids.uuid().to_string().into(),
        shutdown: shutdown.clone(),
    };
    let settings = &config.provisioner;
    let sign_in = SignInLimits {
        by_email: limiter(settings.sign_in_limit_per_email_per_minute, &clock, shutdown),
        by_client: limiter(settings.sign_in_limit_per_caller_per_minute, &clock, shutdown),
    };
    Ok(App {
        store,
        organizations,
        billing,
        hashing,
        engine: Engine::new(runner),
        clock,
        ids,
        password_policy: config.password_policy(),
        sign_in,
    })
}

/// A limit on sign-ins by some key.
fn limiter<K: Hash + Eq + Clone + Send + Sync + 'static>(
    limit: NonZeroU32,
    clock: &Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> Arc<KeyedLimiter<K>> {
    let limiter = Arc::new(KeyedLimiter::new(limit, SIGN_IN_WINDOW, DEFAULT_MAX_KEYS, Arc::clone(clock)));
    limiter.sweep_in_background(shutdown);
    limiter
}
