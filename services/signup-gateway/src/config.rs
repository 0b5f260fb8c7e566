//! The settings of the signup gateway.

use std::{num::NonZeroU32, time::Duration};

use pulse_kernel::PasswordPolicy;
use pulse_runtime::{CommonSettings, Endpoints, Service, SettingError, Task, settings::password_min_length};

use crate::store::Allowance;

/// Everything that `pulse-signup-gateway` is started with.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "pulse-signup-gateway",
    version,
    about = "The public door of Pulse Hosted: validation and abuse control"
)]
pub struct Config {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub task: Option<Task>,

    /// What every program takes.
    #[command(flatten)]
    pub common: CommonSettings,

    /// Where the services are.
    #[command(flatten)]
    pub endpoints: Endpoints,

    /// What only this service takes.
    #[command(flatten)]
    pub signup: SignupSettings,

    /// How many requests of any kind a client may make in a minute, at each replica.
    #[arg(long, env = "PULSE_REQUEST_LIMIT_PER_MINUTE", value_name = "COUNT", default_value = "60")]
    pub request_limit_per_minute: NonZeroU32,

    /// The fewest characters a password may have.
    #[arg(
        long,
        env = "PULSE_PASSWORD_MIN_LENGTH",
        value_name = "COUNT",
        default_value = "8",
        value_parser = password_min_length
    )]
    pub password_min_length: usize,
}

impl Config {
    /// Whether a start with these settings is a safe one.
    ///
    /// # Errors
    /// The first setting to change.
    pub fn check_strict(&self) -> Result<(), SettingError> {
        self.common.check_strict(&[self.endpoints.listener(Service::SignupGateway)])?;
        self.signup.check_strict(self.common.hosted_mode)
    }

    /// What a new password must satisfy.
    pub fn password_policy(&self) -> PasswordPolicy {
        PasswordPolicy { min_length: self.password_min_length }
    }
}

/// The settings that only the signup gateway has; what it shares with one other service is in [`Config`] itself.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Signup")]
pub struct SignupSettings {
    /// How many signups a client may make in an hour; an IPv6 client is its /64. With PostgreSQL, at all replicas together.
    #[arg(long, env = "PULSE_SIGNUP_LIMIT_PER_HOUR", value_name = "COUNT", default_value = "5")]
    pub signup_limit_per_hour: NonZeroU32,

    /// How a new owner proves that the email address is theirs; must be set in hosted mode.
    #[arg(long, env = "PULSE_SIGNUP_VERIFICATION", value_name = "none", value_parser = verification)]
    pub signup_verification: Option<Verification>,
}

impl SignupSettings {
    /// How many signups a client may have.
    pub fn allowance(&self) -> Allowance {
        Allowance::new(self.signup_limit_per_hour, Duration::from_hours(1))
    }

    /// Whether what must be decided has been.
    ///
    /// # Errors
    /// When hosted mode is on and nothing says how email addresses are verified.
    pub fn check_strict(&self, hosted_mode: bool) -> Result<(), SettingError> {
        match self.signup_verification {
            None if hosted_mode => Err(SettingError::missing(
                "PULSE_SIGNUP_VERIFICATION",
                "hosted mode needs a decision on whether new owners prove their email address; set it to none, the \
                 only choice of this version",
            )),
            None | Some(Verification::None) => Ok(()),
        }
    }
}

/// How a new owner proves that the email address is theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// Not at all: the account is theirs at once.
    None,
}

fn verification(text: &str) -> Result<Verification, String> {
    match text {
        "none" => Ok(Verification::None),
        "email" => Err("expected none: this version does not verify email addresses".into()),
        _ => Err("expected none".into()),
    }
}

#[cfg(test)]
mod tests {
    use pulse_runtime::settings::try_parse_from;

    use super::*;

    const HOSTED: [&str; 4] = ["--hosted-mode", "true", "--admin-tokens-file", "tokens.toml"];

    fn parse(flags: &[&str]) -> Result<Config, SettingError> {
        try_parse_from(std::iter::once("pulse-signup-gateway").chain(flags.iter().copied()))
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.signup.signup_limit_per_hour.get(), 5);
        assert_eq!(config.request_limit_per_minute.get(), 60);
        assert_eq!(config.password_policy().min_length, 8);
        assert_eq!(config.check_strict(), Ok(()), "outside hosted mode nothing has to be decided");
    }

    #[test]
    fn a_hosted_start_needs_a_decision_on_verification() {
        let undecided = parse(&HOSTED).unwrap().check_strict().unwrap_err().to_string();
        assert!(
            undecided.starts_with("PULSE_SIGNUP_VERIFICATION (--signup-verification): must be set"),
            "{undecided}"
        );
        assert!(undecided.contains("set it to none"), "{undecided}");
        let decided = [&HOSTED[..], &["--signup-verification", "none"]].concat();
        assert_eq!(parse(&decided).unwrap().check_strict(), Ok(()));
    }

    #[test]
    fn what_this_version_does_not_do_is_refused_by_name() {
        for (flags, says) in [
            (["--signup-verification", "email"], "\"email\" is not accepted; expected none: this version"),
            (["--signup-verification", "sms"], "\"sms\" is not accepted; expected none"),
            (["--signup-limit-per-hour", "0"], "PULSE_SIGNUP_LIMIT_PER_HOUR"),
            (["--request-limit-per-minute", "many"], "PULSE_REQUEST_LIMIT_PER_MINUTE"),
            (["--password-min-length", "7"], "expected a whole number from 8 to 128"),
        ] {
            let error = parse(&flags).unwrap_err();
            assert!(error.to_string().contains(says), "{flags:?}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
