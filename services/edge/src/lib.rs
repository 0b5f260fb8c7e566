//! REST in front of the services: what strangers and operators reach over HTTP, and nothing else.
//!
//! A request goes `server -> layers -> routes -> clients`, and an answer the same way back:
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the settings of the edge |
//! | `server` | connections: accepted, bounded, closed in two phases |
//! | `layers` | the one stack of layers around every route, with the reason for its order |
//! | `surface` | which routes a listener serves, and the document that describes exactly those |
//! | `routes` | a file per resource: converts, calls, converts |
//! | `auth`, `client_ip`, `etag`, `extract` | what is taken out of a request: operator, client, precondition, body |
//! | `problem` | every error answer |
//! | `model`, `convert` | what REST shows and takes; protobuf to and from it |
//! | `clients`, `upstreams` | the services as functions of domain values; whether they are there |
//! | `tenants` | what is known of tenants, and decided from it |
//!
//! The edge keeps nothing but counters and what it last heard of tenants in memory. Outside hosted mode the public surface
//! is health and its own description, and there is no admin surface: no route, no listener. The internal surface, where
//! other services ask what a tenant may do, is always there.

mod auth;
mod client_ip;
mod clients;
pub mod config;
mod convert;
mod etag;
mod extract;
mod layers;
mod model;
mod problem;
mod routes;
mod server;
mod surface;
mod tenants;
mod upstreams;

use std::sync::Arc;

use pulse_kernel::SystemClock;
use pulse_rpc::OperatorTokens;
use pulse_runtime::{SettingError, Shutdown, settings::bind, telemetry::meter};
use pulse_tenant_client::TenantClient;
use tokio::net::TcpListener;

pub use crate::{
    client_ip::TrustedProxies,
    config::{Config, EdgeSettings},
};
use crate::{
    clients::{Channels, Clients},
    config::{ADMIN_ADDR, INTERNAL_ADDR, PUBLIC_ADDR},
    surface::Surfaces,
    tenants::Tenants,
    upstreams::Upstreams,
};

/// Where the edge listens.
#[derive(Debug)]
pub struct Listeners {
    /// The public surface; the admin surface too, where that has no listener of its own.
    pub public: TcpListener,
    /// The admin surface.
    pub admin: Option<TcpListener>,
    /// The internal surface.
    pub internal: TcpListener,
}

impl Listeners {
    /// Opens the listeners that the settings ask for.
    ///
    /// # Errors
    /// Names the setting whose address cannot be listened on.
    pub async fn bind(config: &Config) -> Result<Self, SettingError> {
        let public = bind(PUBLIC_ADDR, config.edge.edge_public_addr).await?;
        let admin = if config.edge.has_admin_listener(config.common.hosted_mode) {
            Some(bind(ADMIN_ADDR, config.edge.edge_admin_addr).await?)
        } else {
            None
        };
        let internal = bind(INTERNAL_ADDR, config.edge.edge_internal_addr).await?;
        Ok(Self { public, admin, internal })
    }
}

/// Serves on `listeners` until `shutdown` is done. Outside hosted mode an admin listener is closed at once.
///
/// # Errors
/// When a service's URL is not one, or, in hosted mode, the operators' tokens cannot be read.
pub async fn serve(config: Config, listeners: Listeners, shutdown: Shutdown) -> anyhow::Result<()> {
    let channels = Channels::new(&config.endpoints)?;
    let tenants = tenants(&config, &channels, &shutdown)?;
    let hosted = hosted(&config, &channels, &shutdown)?;
    let Listeners { public, admin, internal } = listeners;
    let admin = admin.filter(|_| hosted.is_some());
    let surfaces = Surfaces::new(&config, hosted, admin.is_none(), tenants, &shutdown)?;
    let admin = async {
        if let (Some(listener), Some(router)) = (admin, surfaces.admin) {
            server::serve(listener, router, &shutdown).await;
        }
    };
    tokio::join!(
        server::serve(public, surfaces.public, &shutdown),
        admin,
        server::serve(internal, surfaces.internal, &shutdown),
    );
    Ok(())
}

/// What is known of tenants, from the services that know, and tell how it changes.
fn tenants(config: &Config, channels: &Channels, shutdown: &Shutdown) -> anyhow::Result<Tenants> {
    let (catalog, cache) = (config.tenants.catalog()?, config.tenants.cache());
    let (lifecycle, billing_state) = (channels.lifecycle.clone(), channels.billing.clone());
    let client = TenantClient::new(lifecycle, billing_state, &catalog, cache, Arc::new(SystemClock));
    client.report(&meter("pulse-edge"));
    client.follow(shutdown);
    Ok(Tenants::new(client, &catalog))
}

/// What only hosted mode needs.
#[derive(Debug)]
pub(crate) struct Hosted {
    tokens: OperatorTokens,
    clients: Clients,
    upstreams: Upstreams,
}

fn hosted(config: &Config, channels: &Channels, shutdown: &Shutdown) -> anyhow::Result<Option<Hosted>> {
    let Some(tokens_file) = config.common.admin_tokens_file()? else { return Ok(None) };
    let tokens = OperatorTokens::watch(tokens_file, shutdown)?;
    let (upstreams, clients) = (Upstreams::new(channels), Clients::new(channels.clone()));
    Ok(Some(Hosted { tokens, clients, upstreams }))
}
