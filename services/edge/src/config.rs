//! The settings of the edge.

use std::{net::SocketAddr, num::NonZeroU32};

use pulse_runtime::{CommonSettings, Endpoints, SettingError};
use pulse_tenant_client::TenantSettings;

use crate::client_ip::TrustedProxies;

/// Everything that `pulse-edge` is started with.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "pulse-edge", version, about = "REST in front of the services of Pulse Hosted")]
pub struct Config {
    /// What every program takes.
    #[command(flatten)]
    pub common: CommonSettings,
    /// Where the services are.
    #[command(flatten)]
    pub endpoints: Endpoints,
    /// What only the edge takes.
    #[command(flatten)]
    pub edge: EdgeSettings,

    /// How many requests of any kind a client of the public listener may make in a minute.
    #[arg(long, env = "PULSE_REQUEST_LIMIT_PER_MINUTE", value_name = "COUNT", default_value = "60")]
    pub request_limit_per_minute: NonZeroU32,

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
        self.common.check_strict(&self.edge.listeners(self.common.hosted_mode))?;
        self.tenants.catalog().map(|_| ())
    }
}

/// The settings that only the edge has.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Edge")]
pub struct EdgeSettings {
    /// Where the public REST surface listens.
    #[arg(long, env = PUBLIC_ADDR, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub edge_public_addr: SocketAddr,

    /// Where the admin REST surface listens, in hosted mode; the public address serves both on one port.
    #[arg(long, env = ADMIN_ADDR, value_name = "ADDR", default_value = "127.0.0.1:8081")]
    pub edge_admin_addr: SocketAddr,

    /// Where internal services ask what a tenant may do: forward-auth and OpenFeature remote evaluation.
    #[arg(long, env = INTERNAL_ADDR, value_name = "ADDR", default_value = "127.0.0.1:8082")]
    pub edge_internal_addr: SocketAddr,

    /// Networks, separated by commas, whose X-Forwarded-For is believed.
    #[arg(long, env = "PULSE_TRUSTED_PROXIES", value_name = "CIDR,…", default_value = "")]
    pub trusted_proxies: TrustedProxies,
}

/// The setting of the public listener.
pub(crate) const PUBLIC_ADDR: &str = "PULSE_EDGE_PUBLIC_ADDR";
/// The setting of the admin listener.
pub(crate) const ADMIN_ADDR: &str = "PULSE_EDGE_ADMIN_ADDR";
/// The setting of the internal listener.
pub(crate) const INTERNAL_ADDR: &str = "PULSE_EDGE_INTERNAL_ADDR";

impl EdgeSettings {
    /// The listeners that are opened, each with its setting's name.
    pub fn listeners(&self, hosted_mode: bool) -> Vec<(&'static str, SocketAddr)> {
        let admin = self.has_admin_listener(hosted_mode).then_some((ADMIN_ADDR, self.edge_admin_addr));
        let always = [(PUBLIC_ADDR, self.edge_public_addr), (INTERNAL_ADDR, self.edge_internal_addr)];
        always.into_iter().chain(admin).collect()
    }

    /// Whether the admin surface has a listener of its own. Port 0 means a different port each time it is asked for.
    pub(crate) fn has_admin_listener(&self, hosted_mode: bool) -> bool {
        hosted_mode && !self.shares_one_listener()
    }

    fn shares_one_listener(&self) -> bool {
        self.edge_public_addr == self.edge_admin_addr && self.edge_public_addr.port() != 0
    }
}

#[cfg(test)]
mod tests {
    use pulse_runtime::settings::try_parse_from;

    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, SettingError> {
        try_parse_from(std::iter::once("pulse-edge").chain(flags.iter().copied()))
    }

    #[test]
    fn the_defaults_are_those_of_the_contract_and_safe() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.edge.edge_public_addr.to_string(), "127.0.0.1:8080");
        assert_eq!(config.edge.edge_admin_addr.to_string(), "127.0.0.1:8081");
        assert_eq!(config.edge.edge_internal_addr.to_string(), "127.0.0.1:8082");
        assert_eq!(config.request_limit_per_minute.get(), 60);
        assert!(!config.common.hosted_mode);
        assert_eq!(config.edge.listeners(false).len(), 2);
        assert_eq!(config.edge.listeners(true).len(), 3);
        assert_eq!(config.check_strict(), Ok(()));
    }

    #[test]
    fn one_address_for_both_is_one_listener() {
        let config = parse(&["--edge-admin-addr", "127.0.0.1:8080"]).unwrap();
        let settings: Vec<_> = config.edge.listeners(true).into_iter().map(|(setting, _)| setting).collect();
        assert_eq!(settings, [PUBLIC_ADDR, INTERNAL_ADDR]);
        let any_port =
            parse(&["--edge-public-addr", "127.0.0.1:0", "--edge-admin-addr", "127.0.0.1:0"]).unwrap();
        assert_eq!(any_port.edge.listeners(true).len(), 3);
    }

    #[test]
    fn a_network_that_is_none_stops_the_start_and_is_named() {
        let error = parse(&["--trusted-proxies", "10.0.0.0/8,lan"]).unwrap_err().to_string();
        assert!(error.starts_with("PULSE_TRUSTED_PROXIES (--trusted-proxies):"), "{error}");
        assert!(error.contains("10.0.0.0/8"), "{error}");
        assert!(parse(&["--trusted-proxies", ""]).is_ok());
        assert!(parse(&["--request-limit-per-minute", "0"]).is_err());
        assert!(parse(&["--entitlement-max-stale", "0s"]).is_err());
        let error = parse(&["--plan-catalog", "no-such-file"]).unwrap().check_strict().unwrap_err();
        assert!(
            error.to_string().starts_with("PULSE_PLAN_CATALOG (--plan-catalog): no-such-file"),
            "{error}"
        );
    }

    #[test]
    fn a_hosted_start_needs_tokens_and_no_surface_leaves_loopback_in_plaintext() {
        let error = parse(&["--hosted-mode", "true"]).unwrap().check_strict().unwrap_err().to_string();
        assert!(error.starts_with("PULSE_ADMIN_TOKENS_FILE"), "{error}");
        let exposed =
            ["--hosted-mode", "true", "--admin-tokens-file", "t", "--edge-admin-addr", "0.0.0.0:81"];
        let error = parse(&exposed).unwrap().check_strict().unwrap_err().to_string();
        assert!(error.contains("PULSE_EDGE_ADMIN_ADDR=0.0.0.0:81"), "{error}");
        // Outside hosted mode the admin listener is not opened, wherever it would be.
        assert_eq!(parse(&exposed[4..]).unwrap().check_strict(), Ok(()));
        // The internal one is, in every mode.
        let error = parse(&["--edge-internal-addr", "0.0.0.0:82"]).unwrap().check_strict().unwrap_err();
        assert!(error.to_string().contains("PULSE_EDGE_INTERNAL_ADDR=0.0.0.0:82"), "{error}");
    }
}
