//! The command line: two modes and a task, one set of settings.

use std::{ffi::OsString, num::NonZeroU32};

use clap::CommandFactory as _;
use pulse_billing_state::BillingSettings;
use pulse_edge::EdgeSettings;
use pulse_lifecycle::LifecycleSettings;
use pulse_provisioner::ProvisionerSettings;
use pulse_runtime::{
    CommonSettings, Endpoints, Service, SettingError,
    settings::{password_min_length, try_parse_command, with_defaults},
};
use pulse_signup_gateway::SignupSettings;
use pulse_tenant_client::TenantSettings;

use crate::{dev, transfer::Move};

/// The whole control plane of Pulse Hosted in one process.
#[derive(Debug, clap::Parser)]
#[command(name = "pulse-hosted", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) mode: Mode,
}

/// How to start.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Mode {
    /// Start to try things: hosted mode on, an operator token made, no email verification.
    Dev(Box<Config>),
    /// Start as configured: what is unsafe or undecided stops the start.
    Serve(Box<Config>),
    /// Bring every service's schema in PostgreSQL up to date, and end.
    Migrate(Box<Config>),
    /// Move an embedded installation into PostgreSQL, compare what arrived, and end.
    MigrateToPostgres(Move),
}

/// The settings of the five services, each once.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Config {
    #[command(flatten)]
    pub(crate) common: CommonSettings,
    #[command(flatten)]
    pub(crate) endpoints: Endpoints,
    #[command(flatten)]
    pub(crate) edge: EdgeSettings,
    #[command(flatten)]
    pub(crate) signup: SignupSettings,
    #[command(flatten)]
    pub(crate) provisioner: ProvisionerSettings,
    #[command(flatten)]
    pub(crate) billing: BillingSettings,
    #[command(flatten)]
    pub(crate) lifecycle: LifecycleSettings,

    /// How many requests of any kind a client of the public door may make in a minute.
    #[arg(long, env = "PULSE_REQUEST_LIMIT_PER_MINUTE", value_name = "COUNT", default_value = "60")]
    pub(crate) request_limit_per_minute: NonZeroU32,

    /// The fewest characters a password may have.
    #[arg(
        long,
        env = "PULSE_PASSWORD_MIN_LENGTH",
        value_name = "COUNT",
        default_value = "8",
        value_parser = password_min_length
    )]
    pub(crate) password_min_length: usize,
}

impl Cli {
    /// Reads the arguments (the first is the program's name) and the environment.
    ///
    /// # Errors
    /// The setting that is not accepted, or the text of `--help`.
    pub(crate) fn try_parse_from(
        args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, SettingError> {
        let command = Self::command()
            .mut_subcommand("dev", |dev| with_defaults(dev, &dev::DEFAULTS))
            // Whatever is changed goes to the end; this keeps `dev` first.
            .mut_subcommand("serve", |serve| serve)
            .mut_subcommand("migrate", |migrate| migrate);
        try_parse_command(command, args)
    }
}

/// Each service's own view of the settings.
impl Config {
    pub(crate) fn edge(&self) -> pulse_edge::Config {
        pulse_edge::Config {
            common: self.common.clone(),
            endpoints: self.endpoints.clone(),
            edge: self.edge.clone(),
            request_limit_per_minute: self.request_limit_per_minute,
            tenants: self.tenants(),
        }
    }

    /// What billing-state serves, others remember.
    fn tenants(&self) -> TenantSettings {
        TenantSettings {
            plan_catalog: self.billing.plan_catalog.clone(),
            entitlement_max_stale: self.billing.entitlement_max_stale,
        }
    }

    pub(crate) fn signup_gateway(&self) -> pulse_signup_gateway::Config {
        pulse_signup_gateway::Config {
            task: None,
            common: self.common.clone(),
            endpoints: self.endpoints.clone(),
            signup: self.signup.clone(),
            request_limit_per_minute: self.request_limit_per_minute,
            password_min_length: self.password_min_length,
        }
    }

    pub(crate) fn provisioner(&self) -> pulse_provisioner::Config {
        pulse_provisioner::Config {
            common: self.common.clone(),
            endpoints: self.endpoints.clone(),
            provisioner: self.provisioner.clone(),
            password_min_length: self.password_min_length,
            task: None,
        }
    }

    pub(crate) fn billing_state(&self) -> pulse_billing_state::Config {
        pulse_billing_state::Config {
            common: self.common.clone(),
            endpoints: self.endpoints.clone(),
            billing: self.billing.clone(),
            task: None,
        }
    }

    pub(crate) fn lifecycle(&self) -> pulse_lifecycle::Config {
        pulse_lifecycle::Config {
            common: self.common.clone(),
            endpoints: self.endpoints.clone(),
            lifecycle: self.lifecycle.clone(),
            tenants: self.tenants(),
            task: None,
        }
    }
}

impl Config {
    /// Whether a start with these settings is a safe one; `dev` is held to the same rules.
    ///
    /// # Errors
    /// The first setting to change.
    pub(crate) fn check_strict(&self) -> Result<(), SettingError> {
        let mut listeners = self.edge.listeners(self.common.hosted_mode);
        listeners.extend(Service::ALL.map(|service| self.endpoints.listener(service)));
        self.common.check_strict(&listeners)?;
        self.signup.check_strict(self.common.hosted_mode)?;
        self.billing.check_strict()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_only_changes_defaults() {
        let parse =
            |args: &[&str]| match Cli::try_parse_from(["pulse-hosted"].iter().chain(args)).unwrap().mode {
                Mode::Dev(config) | Mode::Serve(config) | Mode::Migrate(config) => config,
                Mode::MigrateToPostgres(_) => unreachable!(),
            };
        let dev = parse(&["dev"]);
        assert!(dev.common.hosted_mode && dev.signup.signup_verification.is_some());
        let serve = parse(&["serve"]);
        assert!(!serve.common.hosted_mode && serve.signup.signup_verification.is_none());
        let off = parse(&["dev", "--hosted-mode", "false", "--log", "debug"]);
        assert_eq!((off.common.hosted_mode, off.common.log.as_str()), (false, "debug"));
    }

    #[test]
    fn every_setting_is_a_flag_and_an_environment_variable_of_the_same_name() {
        for mode in Cli::command().get_subcommands() {
            // What is moved is no setting: it is said once.
            for arg in mode.get_arguments().filter(|arg| !["help", "from"].contains(&arg.get_id().as_str())) {
                let env = arg.get_env().unwrap_or_else(|| panic!("{} has no environment", arg.get_id()));
                let name = env.to_str().unwrap().strip_prefix("PULSE_").unwrap();
                assert_eq!(arg.get_long(), Some(name.to_lowercase().replace('_', "-").as_str()));
                assert!(arg.get_help().is_some(), "{name} is not explained");
            }
        }
    }
}
