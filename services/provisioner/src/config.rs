//! The settings of this service.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use pulse_kernel::PasswordPolicy;
use pulse_runtime::{
    CommonSettings, Endpoints, Service, SettingError, Task,
    settings::{password_min_length, positive_duration},
};

use crate::hashing::HashingSettings;

/// Everything that the program takes.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "pulse-provisioner", version, about = "Makes and unmakes tenants; knows who someone is")]
pub struct Config {
    /// What every program takes.
    #[command(flatten)]
    pub common: CommonSettings,
    /// Where the services are.
    #[command(flatten)]
    pub endpoints: Endpoints,
    /// What only this service takes.
    #[command(flatten)]
    pub provisioner: ProvisionerSettings,

    /// The fewest characters a password may have.
    #[arg(
        long,
        env = "PULSE_PASSWORD_MIN_LENGTH",
        value_name = "COUNT",
        default_value = "8",
        value_parser = password_min_length
    )]
    pub password_min_length: usize,

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
        self.common.check_strict(&[self.endpoints.listener(Service::Provisioner)])
    }

    /// What a new password must satisfy.
    pub const fn password_policy(&self) -> PasswordPolicy {
        PasswordPolicy { min_length: self.password_min_length }
    }

    /// The file of the embedded store.
    pub fn file(&self) -> PathBuf {
        self.common.data_dir.join("provisioner.db")
    }
}

/// The settings that only the provisioner has; what it shares with one other service is in [`Config`] itself.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Provisioner")]
pub struct ProvisionerSettings {
    /// How many threads hash passwords, each with 19 MiB of memory [default: one for each core].
    #[arg(long, env = "PULSE_HASH_THREADS", value_name = "COUNT")]
    pub hash_threads: Option<NonZeroUsize>,

    /// How many passwords may wait to be hashed; more are refused [default: 64 for each thread, about a second's work].
    #[arg(long, env = "PULSE_HASH_QUEUE", value_name = "COUNT")]
    pub hash_queue: Option<NonZeroUsize>,

    /// How often organizations are looked for that are to be purged.
    #[arg(
        long,
        env = "PULSE_PURGE_INTERVAL",
        value_name = "DURATION",
        default_value = "5s",
        value_parser = positive_duration
    )]
    pub purge_interval: Duration,

    /// How often somebody may try to sign in with one email address.
    #[arg(
        long,
        env = "PULSE_SIGN_IN_LIMIT_PER_EMAIL_PER_MINUTE",
        value_name = "COUNT",
        default_value = "10"
    )]
    pub sign_in_limit_per_email_per_minute: NonZeroU32,

    /// How often sign-ins may be tried from one client address.
    #[arg(
        long,
        env = "PULSE_SIGN_IN_LIMIT_PER_CALLER_PER_MINUTE",
        value_name = "COUNT",
        default_value = "60"
    )]
    pub sign_in_limit_per_caller_per_minute: NonZeroU32,
}

impl ProvisionerSettings {
    /// How much hashing there may be.
    pub fn hashing(&self) -> HashingSettings {
        HashingSettings::new(self.hash_threads, self.hash_queue)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use pulse_runtime::settings::try_parse_from;

    use super::*;

    #[test]
    fn the_command_is_sound_and_its_defaults_are_the_documented_ones() {
        Config::command().debug_assert();
        let config: Config = try_parse_from(["pulse-provisioner"]).unwrap();
        assert_eq!(config.password_policy().min_length, 8);
        assert_eq!(config.provisioner.purge_interval, Duration::from_secs(5));
        let hashing = config.provisioner.hashing();
        assert_eq!(hashing.queue.get(), hashing.threads.get() * 64);
    }

    #[test]
    fn it_serves_unless_it_is_told_to_migrate() {
        let config: Config = try_parse_from(["pulse-provisioner"]).unwrap();
        assert_eq!(config.task, None);
        let url = "--database-url=postgres://localhost/pulse";
        for args in [["pulse-provisioner", url, "migrate"], ["pulse-provisioner", "migrate", url]] {
            let config: Config = try_parse_from(args).unwrap();
            assert_eq!(config.task, Some(Task::Migrate));
            assert!(config.common.database.database_url.is_some());
        }
    }

    #[test]
    fn a_limit_of_zero_is_refused_by_name() {
        for flag in [
            "--password-min-length",
            "--hash-threads",
            "--hash-queue",
            "--sign-in-limit-per-email-per-minute",
        ] {
            let error = try_parse_from::<Config>(["pulse-provisioner", flag, "0"]).unwrap_err();
            assert!(error.to_string().contains(flag), "{error}");
        }
    }
}
