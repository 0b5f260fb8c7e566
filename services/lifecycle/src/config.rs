//! The settings of this service.

use std::{path::PathBuf, time::Duration};

use pulse_runtime::{
    CommonSettings, Endpoints, Service, SettingError, Task,
    settings::{boolean, positive_duration},
};
use pulse_tenant_client::TenantSettings;

use crate::domain::Retention;

/// Everything that `pulse-lifecycle` is started with.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "pulse-lifecycle",
    version,
    about = "The organizations of Pulse Hosted, their status, and the reaper"
)]
pub struct Config {
    /// What every program takes.
    #[command(flatten)]
    pub common: CommonSettings,

    /// Where the services are.
    #[command(flatten)]
    pub endpoints: Endpoints,

    /// What only this service takes.
    #[command(flatten)]
    pub lifecycle: LifecycleSettings,

    /// What is remembered of tenants.
    #[command(flatten)]
    pub tenants: TenantSettings,

    /// What to do instead of serving.
    #[command(subcommand)]
    pub task: Option<Task>,
}

impl Config {
    /// Whether a start with these settings is a safe one.
    ///
    /// # Errors
    /// The first setting to change.
    pub fn check_strict(&self) -> Result<(), SettingError> {
        self.common.check_strict(&[self.endpoints.listener(Service::Lifecycle)])?;
        self.tenants.catalog().map(|_| ())
    }

    /// The file of the embedded store.
    pub fn file(&self) -> PathBuf {
        self.common.data_dir.join("lifecycle.db")
    }
}

/// The settings that only lifecycle has.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Lifecycle")]
pub struct LifecycleSettings {
    /// How long a deleted organization can be restored where the operator does not say, in days.
    #[arg(long, env = "PULSE_RETENTION_DAYS", value_name = "DAYS", default_value = "30")]
    pub retention_days: Retention,

    /// How often the reaper looks for organizations whose retention is over.
    #[arg(
        long,
        env = "PULSE_REAPER_INTERVAL",
        value_name = "DURATION",
        default_value = "5m",
        value_parser = positive_duration
    )]
    pub reaper_interval: Duration,

    /// Whether the reaper only says what it would purge.
    #[arg(
        long,
        env = "PULSE_REAPER_DRY_RUN",
        value_name = "true|false",
        default_value = "false",
        action = clap::ArgAction::Set,
        value_parser = boolean
    )]
    pub reaper_dry_run: bool,
}

#[cfg(test)]
mod tests {
    use pulse_runtime::settings::try_parse_from;

    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, SettingError> {
        try_parse_from(std::iter::once("pulse-lifecycle").chain(flags.iter().copied()))
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let settings = parse(&[]).unwrap().lifecycle;
        assert_eq!(settings.retention_days, Retention::from_days(30.0).unwrap());
        assert_eq!((settings.reaper_interval, settings.reaper_dry_run), (Duration::from_mins(5), false));
    }

    #[test]
    fn it_serves_unless_it_is_told_to_migrate() {
        assert_eq!(parse(&[]).unwrap().task, None);
        let url = "--database-url=postgres://localhost/pulse";
        for args in [[url, "migrate"], ["migrate", url]] {
            let config = parse(&args).unwrap();
            assert_eq!(config.task, Some(Task::Migrate));
            assert!(config.common.database.database_url.is_some());
        }
    }

    #[test]
    fn what_is_not_accepted_is_named_with_what_is() {
        for (flags, says) in [
            (
                ["--retention-days", "0"],
                "PULSE_RETENTION_DAYS (--retention-days): \"0\" is not accepted; expected a number of days, more than 0",
            ),
            (["--retention-days", "9999"], "at most 3650"),
            (["--reaper-interval", "5"], "expected a duration longer than zero"),
            (["--reaper-dry-run", "yes"], "expected true or false"),
        ] {
            let error = parse(&flags).unwrap_err();
            assert!(error.to_string().contains(says), "{flags:?}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn a_hosted_start_needs_operators() {
        let error = parse(&["--hosted-mode", "true"]).unwrap().check_strict().unwrap_err();
        assert!(error.to_string().starts_with("PULSE_ADMIN_TOKENS_FILE"), "{error}");
        assert_eq!(parse(&[]).unwrap().check_strict(), Ok(()));
    }

    #[test]
    fn a_catalog_that_cannot_be_read_stops_the_start() {
        let error = parse(&["--plan-catalog", "no-such-file"]).unwrap().check_strict().unwrap_err();
        assert!(
            error.to_string().starts_with("PULSE_PLAN_CATALOG (--plan-catalog): no-such-file"),
            "{error}"
        );
        assert!(parse(&["--entitlement-max-stale", "0s"]).is_err());
    }
}
