//! The settings: flags, and environment variables of the same names.

use std::net::SocketAddr;

use http::Uri;
use pulse_runtime::{CommonSettings, SettingError, settings::http_url};
use pulse_tenant_client::TenantSettings;

/// The setting of the REST listener.
pub(crate) const REST_ADDR: &str = "ACME_HOSTS_REST_ADDR";
/// The setting of the gRPC listener.
pub(crate) const GRPC_ADDR: &str = "ACME_HOSTS_GRPC_ADDR";

/// Everything that `acme-hosts` is started with.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "acme-hosts", version, about = "The hosts that a tenant monitors")]
pub struct Config {
    /// What every program takes.
    #[command(flatten)]
    pub common: CommonSettings,

    /// Where REST is served.
    #[arg(long = "acme-hosts-rest-addr", env = REST_ADDR, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    pub rest_addr: SocketAddr,

    /// Where gRPC is served.
    #[arg(long = "acme-hosts-grpc-addr", env = GRPC_ADDR, value_name = "ADDR", default_value = "127.0.0.1:50090")]
    pub grpc_addr: SocketAddr,

    /// How lifecycle is reached.
    #[arg(
        long,
        env = "PULSE_LIFECYCLE_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:50054",
        value_parser = http_url
    )]
    pub lifecycle_url: Uri,

    /// How billing-state is reached.
    #[arg(
        long,
        env = "PULSE_BILLING_STATE_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:50053",
        value_parser = http_url
    )]
    pub billing_state_url: Uri,

    /// What is remembered of tenants.
    #[command(flatten)]
    pub tenants: TenantSettings,
}

impl Config {
    /// Whether a start with these settings is a safe one.
    ///
    /// # Errors
    /// The first setting to change.
    pub fn check_strict(&self) -> Result<(), SettingError> {
        self.common.check_strict(&[(REST_ADDR, self.rest_addr), (GRPC_ADDR, self.grpc_addr)])
    }
}
