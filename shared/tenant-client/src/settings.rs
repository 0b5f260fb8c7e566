//! [`TenantSettings`]: what every program takes that remembers what tenants may do.

use std::{fs, path::PathBuf, time::Duration};

use pulse_entitlements::{Catalog, cache::CacheConfig};
use pulse_runtime::{SettingError, settings::positive_duration};

use crate::TenantClient;

const PLAN_CATALOG: &str = "PULSE_PLAN_CATALOG";

/// Settings of what is remembered of tenants. They should be those of billing-state.
#[derive(Debug, Clone, clap::Args)]
pub struct TenantSettings {
    /// TOML file of the plans, as billing-state has it [default: built in].
    #[arg(long, env = PLAN_CATALOG, value_name = "PATH")]
    pub plan_catalog: Option<PathBuf>,

    /// How long the last known status and entitlements of a tenant are served while who knows them does not answer.
    #[arg(
        long,
        env = "PULSE_ENTITLEMENT_MAX_STALE",
        value_name = "DURATION",
        default_value = "1h",
        value_parser = positive_duration
    )]
    pub entitlement_max_stale: Duration,
}

impl TenantSettings {
    /// The plans: what a tenant of which nothing is known has, and which capabilities and limits there are.
    ///
    /// # Errors
    /// When the catalog cannot be read or is not one.
    pub fn catalog(&self) -> Result<Catalog, SettingError> {
        let Some(path) = &self.plan_catalog else { return Ok(Catalog::built_in()) };
        let refuse =
            |problem: String| SettingError::new(PLAN_CATALOG, format_args!("{}: {problem}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        Catalog::parse(&text).map_err(|error| refuse(error.to_string()))
    }

    /// How both caches are set: as usual, for as long as this says.
    pub fn cache(&self) -> CacheConfig {
        CacheConfig { max_stale: self.entitlement_max_stale, ..TenantClient::config() }
    }
}
