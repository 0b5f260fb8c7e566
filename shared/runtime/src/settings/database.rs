//! Where data is kept when it is kept in PostgreSQL.

use std::{num::NonZeroU32, time::Duration};

use secrecy::SecretString;

use super::values::{boolean, positive_duration, postgres_url};

/// What a service's program does instead of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Subcommand)]
pub enum Task {
    /// Bring this service's schema in PostgreSQL up to date, and end.
    Migrate,
}

/// The settings of the database. Without a URL every service keeps its embedded store.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseSettings {
    /// PostgreSQL instead of the embedded stores: `postgres://user:password@host:port/database`.
    #[arg(
        long,
        global = true,
        env = "PULSE_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        value_parser = postgres_url
    )]
    pub database_url: Option<SecretString>,

    /// How many connections each service of this process opens at the most.
    #[arg(long, env = "PULSE_DATABASE_MAX_CONNECTIONS", value_name = "COUNT", default_value = "10")]
    pub database_max_connections: NonZeroU32,

    /// How long a request waits for a free connection before it is refused.
    #[arg(
        long,
        env = "PULSE_DATABASE_ACQUIRE_TIMEOUT",
        value_name = "DURATION",
        default_value = "2s",
        value_parser = positive_duration
    )]
    pub database_acquire_timeout: Duration,

    /// Whether a start brings the schema up to date where the database user may; otherwise `migrate` does.
    #[arg(
        long,
        env = "PULSE_DATABASE_MIGRATE",
        value_name = "true|false",
        default_value = "true",
        action = clap::ArgAction::Set,
        value_parser = boolean
    )]
    pub database_migrate: bool,
}
