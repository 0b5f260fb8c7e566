//! Connections: how they are opened, how many there are, and who has to wait for one.

use std::{fmt, str::FromStr as _, time::Duration};

use deadpool::{
    Runtime,
    managed::{self, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, Timeouts},
};
use pulse_runtime::{DatabaseSettings, SettingError};
use secrecy::ExposeSecret as _;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};

use super::{PgOpenError, Schema};
use crate::StoreError;

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(3);

/// How long a connection that was idle may take to show that it is still one.
const CHECK: Duration = Duration::from_secs(1);

/// A connection that was used within this time is taken to be alive.
const FRESH: Duration = Duration::from_secs(1);

/// Which run of the server a connection belongs to. A server that crashes, fails over or is restored gives out ids of transactions
/// once more that it gave out in its last moments; it then also counts anew in its statistics. One that is stopped in good order
/// does neither. Nor can a connection outlive its run, so that it is asked once.
pub(super) const RUN: &str = "SELECT stats_reset::text FROM pg_stat_bgwriter";

/// How many may wait for each connection. One more is refused: who waits longer has lost its caller anyway.
const WAITING_PER_CONNECTION: usize = 16;

/// What the server itself does to a statement that takes too long, a lock that does not come, and a transaction that its
/// client has forgotten. All are shorter than a request may take.
const LIMITS: [(&str, &str); 4] = [
    ("statement_timeout", "5s"),
    ("lock_timeout", "3s"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("timezone", "UTC"),
];

/// The role that owns every schema.
pub(super) const MIGRATOR: &str = "pulse_migrator";

/// The database that the settings name.
#[derive(Clone)]
pub(super) struct Target(PgConnectOptions);

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options hold a password.
        f.debug_struct("Target").field("database", &self.0.get_database()).finish_non_exhaustive()
    }
}

impl Target {
    pub(super) fn of(settings: &DatabaseSettings) -> Result<Self, PgOpenError> {
        const SETTING: &str = "PULSE_DATABASE_URL";
        let missing = || SettingError::missing(SETTING, "it names the PostgreSQL database");
        let url = settings.database_url.as_ref().ok_or_else(|| PgOpenError::Setting(missing()))?;
        // The error is not told: it may quote the URL.
        let options = PgConnectOptions::from_str(url.expose_secret()).map_err(|_| {
            let why =
                "the value (not shown) is not accepted; expected a URL such as postgres://user@host/database";
            PgOpenError::Setting(SettingError::new(SETTING, why))
        })?;
        // Statements are the server's to log, where it knows which were slow.
        Ok(Self(options.disable_statement_logging()))
    }

    /// As whoever the URL says.
    pub(super) fn as_given(&self, schema: &Schema) -> PgConnectOptions {
        self.0.clone().application_name(schema.program)
    }

    /// As the owner of the schema, to change it.
    pub(super) fn as_migrator(&self, schema: &Schema) -> PgConnectOptions {
        let set = [("role", MIGRATOR), ("search_path", schema.name), ("client_min_messages", "warning")];
        self.as_given(schema).options(set)
    }

    /// As the service: with its role, its schema, and limits on everything.
    pub(super) fn as_service(&self, schema: &Schema) -> PgConnectOptions {
        self.as_given(schema).options([("role", schema.name), ("search_path", schema.name)]).options(LIMITS)
    }
}

/// Opens a connection, within bounds.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    tokio::time::timeout(CONNECT, options.connect()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Opens connections, and tells whether an idle one still is one.
struct Manager(PgConnectOptions);

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options hold a password.
        f.write_str("Manager")
    }
}

/// A connection, and the [`RUN`] of the server that it belongs to.
#[derive(Debug)]
struct Connected {
    conn: PgConnection,
    run: Option<String>,
}

impl managed::Manager for Manager {
    type Type = Connected;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<Connected, sqlx::Error> {
        let mut conn = self.0.connect().await?;
        let run = sqlx::query_scalar(RUN).fetch_one(&mut conn).await?;
        Ok(Connected { conn, run })
    }

    async fn recycle(&self, connected: &mut Connected, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.last_used() < FRESH {
            return Ok(());
        }
        connected.conn.ping().await.map_err(RecycleError::Backend)
    }
}

/// The connections of one service.
#[derive(Clone)]
pub(super) struct Connections {
    pool: Pool<Manager>,
    most_waiting: usize,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("status", &self.pool.status()).finish_non_exhaustive()
    }
}

impl Connections {
    pub(super) fn new(options: PgConnectOptions, settings: &DatabaseSettings) -> Result<Self, PgOpenError> {
        let most = usize::try_from(settings.database_max_connections.get()).unwrap_or(usize::MAX);
        let wait = settings.database_acquire_timeout;
        let timeouts = Timeouts { wait: Some(wait), create: Some(CONNECT), recycle: Some(CHECK) };
        let pool = Pool::builder(Manager(options)).max_size(most).timeouts(timeouts).runtime(Runtime::Tokio1);
        let pool = pool.build().map_err(|error| PgOpenError::Pool(error.to_string()))?;
        Ok(Self { pool, most_waiting: most.saturating_mul(WAITING_PER_CONNECTION) })
    }

    /// A connection to use, once there is one.
    ///
    /// # Errors
    /// `Overloaded` when too many wait or none becomes free in time; otherwise what became of connecting.
    pub(super) async fn get(&self) -> Result<Session, StoreError> {
        if self.pool.status().waiting >= self.most_waiting {
            return Err(StoreError::Overloaded("too many requests wait for a database connection"));
        }
        let object = self.pool.get().await.map_err(|error| match error {
            PoolError::Timeout(managed::TimeoutType::Wait) => {
                StoreError::Overloaded("no database connection became free in time")
            }
            PoolError::Timeout(_) => StoreError::Unavailable("the database does not answer"),
            PoolError::Backend(source) => StoreError::Sql(source),
            PoolError::Closed => StoreError::Unavailable("the database is closed"),
            PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                StoreError::Unavailable("the pool of connections is not usable")
            }
        })?;
        Ok(Session(Some(object)))
    }

    /// How many connections are in use, and how many requests wait for one.
    pub(super) fn load(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size.saturating_sub(status.available), status.waiting)
    }

    pub(super) fn close(&self) {
        self.pool.close();
    }
}

/// A connection in use. Unless it is [kept](Session::keep), it is closed when it is dropped: whoever leaves in the middle of a
/// transaction, or cannot say whether it has ended, leaves a connection that nobody else may use.
pub(super) struct Session(Option<Object<Manager>>);

impl Session {
    /// The connection.
    ///
    /// # Errors
    /// Never: it is there until it is kept, which takes the session.
    pub(super) fn conn(&mut self) -> Result<&mut PgConnection, StoreError> {
        let connected = self.0.as_deref_mut().ok_or(StoreError::Unavailable("the connection is gone"))?;
        Ok(&mut connected.conn)
    }

    /// Which run of the server it belongs to, where the server says so.
    pub(super) fn run(&self) -> Option<String> {
        self.0.as_deref().and_then(|connected| connected.run.clone())
    }

    /// Gives the connection back, for others to use.
    pub(super) fn keep(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}
