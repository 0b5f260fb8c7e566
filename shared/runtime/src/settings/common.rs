//! The settings that every program takes, and what a start must satisfy.

use std::{
    io::IsTerminal as _,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    DatabaseSettings, SettingError,
    values::{boolean, log_filter, positive_duration},
};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// The settings that every program takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Common")]
pub struct CommonSettings {
    /// Where data is kept when it is kept in PostgreSQL.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Whether what is only for hosting is there at all: signup, provisioning, every admin surface.
    #[arg(
        long,
        env = "PULSE_HOSTED_MODE",
        value_name = "true|false",
        default_value = "false",
        action = clap::ArgAction::Set,
        value_parser = boolean
    )]
    pub hosted_mode: bool,

    /// The folder of the embedded stores; made when it is not there.
    #[arg(long, env = "PULSE_DATA_DIR", value_name = "PATH", default_value = "./data")]
    pub data_dir: PathBuf,

    /// TOML file of the operators' tokens: `[[token]]` with name, sha256 (hex) and roles; reloaded when it changes.
    #[arg(long, env = "PULSE_ADMIN_TOKENS_FILE", value_name = "PATH")]
    pub admin_tokens_file: Option<PathBuf>,

    /// Where Prometheus reads `/metrics`.
    #[arg(long, env = "PULSE_METRICS_ADDR", value_name = "ADDR", default_value = "127.0.0.1:9091")]
    pub metrics_addr: SocketAddr,

    /// Whether to listen beyond loopback without TLS, behind something that encrypts.
    #[arg(
        long,
        env = "PULSE_INSECURE_PLAINTEXT",
        value_name = "true|false",
        default_value = "false",
        action = clap::ArgAction::Set,
        value_parser = boolean
    )]
    pub insecure_plaintext: bool,

    /// Not accepted by this version, which does not serve TLS itself.
    #[arg(long, env = "PULSE_TLS_CERT", value_name = "PATH")]
    pub tls_cert: Option<PathBuf>,

    /// Not accepted by this version, which does not serve TLS itself.
    #[arg(long, env = "PULSE_TLS_KEY", value_name = "PATH")]
    pub tls_key: Option<PathBuf>,

    /// Not accepted by this version, which does not serve TLS itself.
    #[arg(long, env = "PULSE_TLS_CLIENT_CA", value_name = "PATH")]
    pub tls_client_ca: Option<PathBuf>,

    /// How long what is in flight may take to finish after a signal to stop.
    #[arg(
        long,
        env = "PULSE_SHUTDOWN_GRACE",
        value_name = "DURATION",
        default_value = "20s",
        value_parser = positive_duration
    )]
    pub shutdown_grace: Duration,

    /// The longest that a request may take, unless its caller's deadline is earlier.
    #[arg(
        long,
        env = "PULSE_REQUEST_TIMEOUT",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = positive_duration
    )]
    pub request_timeout: Duration,

    /// How many requests each server works on at once; more are refused, not queued.
    #[arg(long, env = "PULSE_MAX_IN_FLIGHT", value_name = "COUNT", default_value = "1024")]
    pub max_in_flight: NonZeroUsize,

    /// What is logged: a level, or levels by module, such as `info,pulse_lifecycle=debug`.
    #[arg(long, env = "PULSE_LOG", value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log: String,

    /// How log lines look [default: pretty on a terminal, else json].
    #[arg(long, env = "PULSE_LOG_FORMAT", value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

impl CommonSettings {
    /// How log lines look: as set, else by whether the log goes to a terminal.
    pub fn effective_log_format(&self) -> LogFormat {
        let by_output = || if std::io::stderr().is_terminal() { LogFormat::Pretty } else { LogFormat::Json };
        self.log_format.unwrap_or_else(by_output)
    }

    /// The file of the operators' tokens, in hosted mode; outside it there is no surface that takes one.
    ///
    /// # Errors
    /// When hosted mode is on and the setting is not set.
    pub fn admin_tokens_file(&self) -> Result<Option<&Path>, SettingError> {
        if !self.hosted_mode {
            return Ok(None);
        }
        self.admin_tokens_file.as_deref().map(Some).ok_or_else(|| {
            SettingError::missing(
                "PULSE_ADMIN_TOKENS_FILE",
                "hosted mode needs operator tokens; set it to a TOML file of [[token]] name, sha256, roles",
            )
        })
    }

    /// Whether a start with these settings is a safe one: operators have tokens in hosted mode, nothing listens
    /// beyond loopback in plaintext unless that was asked for, and nothing is set that this version would ignore.
    /// The metrics listener is checked with those given, each a setting's name and its address.
    ///
    /// # Errors
    /// The first setting to change.
    pub fn check_strict(&self, listeners: &[(&str, SocketAddr)]) -> Result<(), SettingError> {
        self.check_supported()?;
        self.admin_tokens_file()?;
        let metrics = ("PULSE_METRICS_ADDR", self.metrics_addr);
        let exposed = listeners.iter().copied().chain([metrics]).find(|(_, addr)| !addr.ip().is_loopback());
        match exposed {
            Some((env, addr)) if !self.insecure_plaintext => Err(SettingError::new(
                "PULSE_INSECURE_PLAINTEXT",
                format_args!(
                    "{env}={addr} would listen beyond loopback without TLS; set this to true where a mesh or a \
                     proxy encrypts, or listen on loopback"
                ),
            )),
            _ => Ok(()),
        }
    }

    fn check_supported(&self) -> Result<(), SettingError> {
        let tls = [
            ("PULSE_TLS_CERT", &self.tls_cert),
            ("PULSE_TLS_KEY", &self.tls_key),
            ("PULSE_TLS_CLIENT_CA", &self.tls_client_ca),
        ];
        match tls.into_iter().find(|(_, path)| path.is_some()) {
            Some((env, _)) => Err(SettingError::new(
                env,
                "this version does not serve TLS itself; leave it unset, terminate TLS in front or in a mesh, and \
                 set PULSE_INSECURE_PLAINTEXT=true to listen beyond loopback",
            )),
            None => Ok(()),
        }
    }
}
