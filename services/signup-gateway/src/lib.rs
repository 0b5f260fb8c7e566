//! The public door: whoever signs up passes here first.
//!
//! A request goes `grpc -> app -> store -> provisioner`, and is refused as early as it can be:
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the settings of this service |
//! | `grpc` | `SignupService`: converts, calls, converts |
//! | `convert` | protobuf to and from domain types |
//! | `app` | the order of things: general limit, validation, signup limit, provisioning; the limits; the metrics |
//! | `domain` | what a signup is, checked all at once; what came of it; how many a client may have |
//! | [`store`] | how far each client has used up its allowance: in memory, or in PostgreSQL for all replicas |
//! | `clients` | the provisioner, as a function of domain values |
//! | `error` | everything that can go wrong, mapped once to what callers see |
//!
//! This service keeps nothing but counters. A password passes through as a secret and ends in the
//! provisioner, which alone hashes it.

mod app;
mod clients;
pub mod config;
mod convert;
mod domain;
mod error;
mod grpc;
pub mod store;

use std::{sync::Arc, time::Duration};

use pulse_kernel::{Clock, SystemClock};
use pulse_proto::signup::v1::signup_service_server::SignupServiceServer;
use pulse_rpc::{GrpcServer, Limits as ServerLimits, limit::SteadyClock, server::MAX_MESSAGE_BYTES};
use pulse_runtime::{Readiness, Service, Shutdown};
use tokio::net::TcpListener;

pub use crate::config::{Config, SignupSettings};
use crate::{
    app::{SignUps, limits::Limits},
    clients::Provisioner,
    store::{Known, MemoryStore, PostgresStore, SCHEMA, Store},
};

/// How often the store is asked whether it can be used.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Opens the store that the settings name: PostgreSQL, or the memory of this process.
///
/// # Errors
/// When the database cannot be used.
pub async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let (database, allowance) = (&config.common.database, config.signup.allowance());
    let clock = Arc::new(SteadyClock::set_by(&SystemClock));
    if database.database_url.is_none() {
        return Ok(Arc::new(MemoryStore::new(allowance, clock)));
    }
    let store = PostgresStore::open(database, allowance).await?;
    Ok(Arc::new(Known::in_front_of(store, allowance, clock)))
}

/// Brings the schema in PostgreSQL up to date; says what it is then.
///
/// # Errors
/// When there is no database, or its user may not.
pub async fn migrate(config: &Config) -> anyhow::Result<String> {
    pulse_store::postgres::migrate(&config.common.database, &SCHEMA).await?;
    let version = SCHEMA.migrator.iter().map(|migration| migration.version).max().unwrap_or_default();
    Ok(format!("{} is at version {version}", SCHEMA.name))
}

/// Serves on `listener` until `shutdown` is done, then closes the store.
///
/// # Errors
/// When the provisioner's URL is not one, or the server fails.
pub async fn serve(
    config: Config,
    store: Arc<dyn Store>,
    listener: TcpListener,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    serve_at(config, store, Arc::new(SystemClock), listener, shutdown).await
}

/// As [`serve`], with a general limit that goes by `clock`.
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
    let channel = pulse_rpc::channel(&config.endpoints.url(Service::Provisioner).to_string())?;
    let limits = Limits::new(&config, Arc::clone(&store), clock);
    limits.sweep_in_background(&shutdown);
    let sign_ups = SignUps::new(limits, config.password_policy(), Provisioner::new(channel));
    let service =
        SignupServiceServer::new(grpc::Signup::new(sign_ups)).max_decoding_message_size(MAX_MESSAGE_BYTES);

    let limits = ServerLimits {
        max_in_flight: config.common.max_in_flight.get(),
        request_timeout: config.common.request_timeout,
    };
    let probed = Arc::clone(&store);
    let readiness = Readiness::follow(&shutdown, PROBE_INTERVAL, move || {
        let store = Arc::clone(&probed);
        async move { store.ping().await }
    });
    let server = GrpcServer::new(limits).add_if(config.common.hosted_mode, service);
    let outcome = server.serve(listener, readiness, shutdown).await;
    store.close().await;
    Ok(outcome?)
}
