//! The settings of the billing-state service.

use std::{fs, path::PathBuf, time::Duration};

use jiff::SignedDuration;
use pulse_entitlements::{Catalog, DatabaseSourceConfig};
use pulse_runtime::{CommonSettings, Endpoints, Service, SettingError, Task, settings::positive_duration};

use crate::domain::Plans;

/// The longest a trial or a grace may be, in days: ten years.
const MAX_DAYS: f64 = 3650.0;

/// Everything that `pulse-billing-state` is started with.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "pulse-billing-state", version, about = "Billing state per tenant, and what it entitles to")]
pub struct Config {
    /// What every program takes.
    #[command(flatten)]
    pub common: CommonSettings,

    /// Where the services are.
    #[command(flatten)]
    pub endpoints: Endpoints,

    /// What only this service takes.
    #[command(flatten)]
    pub billing: BillingSettings,

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
        self.common.check_strict(&[self.endpoints.listener(Service::BillingState)])?;
        self.billing.check_strict()
    }
}

/// The settings that only billing-state has.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Billing")]
pub struct BillingSettings {
    /// How many days a trial lasts; a fraction of a day is one too.
    #[arg(long, env = "PULSE_TRIAL_DAYS", value_name = "DAYS", default_value = "14", value_parser = days)]
    pub trial_days: SignedDuration,

    /// How many days a grace lasts where none is given.
    #[arg(long, env = "PULSE_GRACE_DAYS", value_name = "DAYS", default_value = "7", value_parser = days)]
    pub grace_days: SignedDuration,

    /// TOML file of the plans: capabilities, limits and meters of each [default: built in].
    #[arg(long, env = "PULSE_PLAN_CATALOG", value_name = "PATH")]
    pub plan_catalog: Option<PathBuf>,

    /// How long entitlements are served without reading the billing state again.
    #[arg(
        long,
        env = "PULSE_ENTITLEMENT_REFRESH",
        value_name = "DURATION",
        default_value = "60s",
        value_parser = positive_duration
    )]
    pub entitlement_refresh: Duration,

    /// How long the last known entitlements are served while the billing state cannot be read.
    #[arg(
        long,
        env = "PULSE_ENTITLEMENT_MAX_STALE",
        value_name = "DURATION",
        default_value = "1h",
        value_parser = positive_duration
    )]
    pub entitlement_max_stale: Duration,
}

impl BillingSettings {
    /// Whether the catalog can be used and the durations fit each other.
    ///
    /// # Errors
    /// The first setting to change.
    pub fn check_strict(&self) -> Result<(), SettingError> {
        if self.entitlement_max_stale < self.entitlement_refresh {
            return Err(SettingError::new(
                "PULSE_ENTITLEMENT_MAX_STALE",
                "must not be shorter than PULSE_ENTITLEMENT_REFRESH",
            ));
        }
        self.plans().map(|_| ())
    }

    /// The plans, with the catalog read.
    ///
    /// # Errors
    /// When the catalog cannot be read or is not one; the message names the plan and the key.
    pub fn plans(&self) -> Result<Plans, SettingError> {
        let catalog = match &self.plan_catalog {
            None => Catalog::built_in(),
            Some(path) => {
                let refuse = |problem: String| {
                    SettingError::new("PULSE_PLAN_CATALOG", format_args!("{}: {problem}", path.display()))
                };
                let text =
                    fs::read_to_string(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
                Catalog::parse(&text).map_err(|error| refuse(error.to_string()))?
            }
        };
        Ok(Plans { catalog, trial: self.trial_days, grace: self.grace_days })
    }

    /// How entitlements are cached.
    pub fn source(&self) -> DatabaseSourceConfig {
        DatabaseSourceConfig {
            refresh: self.entitlement_refresh,
            max_stale: self.entitlement_max_stale,
            ..DatabaseSourceConfig::default()
        }
    }
}

/// A number of days greater than 0, as a length of time.
fn days(text: &str) -> Result<SignedDuration, String> {
    let expected = || "expected a number of days greater than 0 and at most 3650".to_owned();
    let days: f64 = text.parse().map_err(|_| expected())?;
    if !(days > 0.0 && days <= MAX_DAYS) {
        return Err(expected());
    }
    SignedDuration::try_from_secs_f64(days * 86_400.0).map_err(|_| expected())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use pulse_runtime::settings::try_parse_from;

    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, SettingError> {
        try_parse_from(std::iter::once("pulse-billing-state").chain(flags.iter().copied()))
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let config = parse(&[]).unwrap();
        let plans = config.billing.plans().unwrap();
        assert_eq!((plans.trial.as_hours(), plans.grace.as_hours()), (14 * 24, 7 * 24));
        let source = config.billing.source();
        assert_eq!((source.refresh, source.max_stale), (Duration::from_mins(1), Duration::from_hours(1)));
        assert_eq!(config.check_strict(), Ok(()));
    }

    #[test]
    fn days_may_be_fractions_and_must_be_some() {
        let trial = |days| parse(&["--trial-days", days]).unwrap().billing.trial_days;
        assert_eq!((trial("0.5").as_hours(), trial("1").as_hours()), (12, 24));
        for bad in ["0", "-1", "many", "NaN", "inf", "3651", ""] {
            let error = parse(&[&format!("--trial-days={bad}")]).unwrap_err().to_string();
            assert!(error.contains("PULSE_TRIAL_DAYS") && error.contains("at most 3650"), "{error}");
        }
    }

    #[test]
    fn a_catalog_that_is_none_stops_the_start_by_name() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        file.write_all(b"[trial.limits]\nhosts = -7").unwrap();
        for (path, says) in
            [(path.as_str(), "plan \"trial\": limits.hosts must be"), ("/nowhere", "cannot be read")]
        {
            let error = parse(&["--plan-catalog", path]).unwrap().check_strict().unwrap_err().to_string();
            assert!(error.contains("PULSE_PLAN_CATALOG") && error.contains(says), "{error}");
        }
        let durations = ["--entitlement-refresh", "2h"];
        let error = parse(&durations).unwrap().check_strict().unwrap_err().to_string();
        assert!(error.contains("PULSE_ENTITLEMENT_MAX_STALE"), "{error}");
    }
}
