//! Settings: every one is a flag and an environment variable of the same name.
//!
//! | file | holds |
//! |---|---|
//! | `parse` | [`parse`] and its testable forms |
//! | `error` | [`SettingError`]: one line that names the setting, the value and what is accepted |
//! | `values` | parsers of the kinds of value that settings share |
//! | `common` | [`CommonSettings`], which every program takes, and the strict checks of a start |
//! | `database` | [`DatabaseSettings`]: PostgreSQL instead of the embedded stores |
//! | `endpoints` | [`Endpoints`]: where the gRPC services listen and are reached |
//! | `listener` | [`bind`]: a listener, or an error that names its setting |
//!
//! A program derives [`clap::Parser`], flattens what it shares and adds its own:
//!
//! ```
//! use pulse_runtime::settings::{self, CommonSettings};
//!
//! #[derive(Debug, clap::Parser)]
//! struct Config {
//!     #[command(flatten)]
//!     common: CommonSettings,
//!     /// How long a trial lasts, in days.
//!     #[arg(long, env = "PULSE_TRIAL_DAYS", default_value = "14")]
//!     trial_days: u32,
//! }
//!
//! let config: Config = settings::try_parse_from(["billing", "--trial-days", "30"])?;
//! assert_eq!(config.trial_days, 30);
//!
//! let error = settings::try_parse_from::<Config>(["billing", "--hosted-mode", "yes"]).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     r#"PULSE_HOSTED_MODE (--hosted-mode): "yes" is not accepted; expected true or false"#
//! );
//! # Ok::<(), pulse_runtime::SettingError>(())
//! ```
//!
//! The flag of `PULSE_TRIAL_DAYS` is always `--trial-days`. A setting that holds a secret is marked with
//! `hide_env_values = true`; its value then appears neither in `--help` nor in an error.

mod common;
mod database;
mod endpoints;
mod error;
mod listener;
mod parse;
mod values;

#[cfg(test)]
mod tests;

pub use common::{CommonSettings, LogFormat};
pub use database::{DatabaseSettings, Task};
pub use endpoints::{Endpoints, Service};
pub use error::SettingError;
pub use listener::bind;
pub use parse::{or_exit, parse, try_parse_command, try_parse_from, try_parse_with_defaults, with_defaults};
pub use values::{
    boolean, duration, http_url, log_filter, password_min_length, positive_duration, postgres_url,
};
