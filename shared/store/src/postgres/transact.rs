//! One transaction, from BEGIN to an answer that can be relied on.
//!
//! ```text
//! BEGIN; SET LOCAL pulse.tenant = …      one round trip
//! lock the tenant, learn the transaction's id
//! work                                    fails for another transaction's sake: again, after a pause
//! COMMIT                                  cut off: ask the database what became of that id
//! ```
//! Only a commit can leave a doubt: a connection that is lost before it takes its transaction with it.

use std::{fmt::Write as _, time::Duration};

use pulse_kernel::OrgId;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Failure, Inner, Scope, Work,
    connect::{RUN, Session, connect},
};
use crate::{SqlErrorClass, StoreError, classify};

/// The tenant of a transaction that reads those of every tenant. No id is like it.
pub(super) const EVERY_TENANT: &str = "*";

/// How long a transaction may take, its commit included.
const TRANSACTION: Duration = Duration::from_secs(5);

/// How long a commit whose answer did not come is asked about.
const SETTLING: Duration = Duration::from_secs(2);

/// How often a transaction is tried that gives way to others, and one whose connection turns out to be lost.
const TRIES: u32 = 8;
const TRIES_TO_CONNECT: u32 = 2;

/// A database on which nothing has succeeded for this long is not busy but away.
pub(super) const AT_WORK: Duration = Duration::from_secs(2);

/// After this long nothing is tried again: whoever waits for it would not live to see it.
const PATIENCE: Duration = Duration::from_secs(4);

/// The pause after the first failure; it doubles with each, up to the longest.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Fails where the transaction has failed already: alone, COMMIT would then roll back and call that a success.
const COMMIT: &str = "SELECT 1; COMMIT";

/// How a try ended that did not succeed.
enum Ended<T, E> {
    /// It was rolled back.
    RolledBack(E),
    /// The commit of this transaction was cut off, with the answer that it would have had.
    CutOff { answer: T, transaction: Transaction, error: StoreError },
}

/// A transaction that can be asked about.
#[derive(Debug)]
struct Transaction {
    id: i64,
    /// The run of the server that gave it this id; another may give it to another transaction.
    run: Option<String>,
}

/// What became of a transaction.
enum Fate {
    Committed,
    RolledBack,
    /// It is still going on.
    Open,
    /// It was too long ago for the server to remember, or before it crashed.
    Forgotten,
}

impl<T, E: From<StoreError>> From<StoreError> for Ended<T, E> {
    fn from(error: StoreError) -> Self {
        Self::RolledBack(error.into())
    }
}

impl Inner {
    pub(super) async fn read<I, T, E>(&self, scope: Scope<'_>, input: &I, work: Work<I, T, E>) -> Result<T, E>
    where
        E: Failure,
    {
        let mut tries = Tries::begin();
        loop {
            let error = match self.try_read(scope, input, work).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !tries.another(error.as_store()) {
                return Err(error);
            }
            sleep(tries.pause(self)).await;
        }
    }

    async fn try_read<I, T, E>(&self, scope: Scope<'_>, input: &I, work: Work<I, T, E>) -> Result<T, E>
    where
        E: Failure,
    {
        let mut session = self.session().await?;
        let read = async {
            let conn = session.conn()?;
            let tenant = match scope {
                Scope::Tenant(org) => org.as_str(),
                Scope::EveryTenant => EVERY_TENANT,
            };
            run(conn, begin("REPEATABLE READ READ ONLY", Some(tenant))).await.map_err(StoreError::from)?;
            let answer = work(input, &mut *conn).await;
            if answer.is_ok() {
                run(conn, "COMMIT").await.map_err(StoreError::from)?;
            }
            Ok::<_, E>(answer)
        };
        match timeout(TRANSACTION, read).await.unwrap_or_else(|_| Err(too_slow().into()))? {
            Ok(answer) => {
                session.keep();
                self.succeeded();
                Ok(answer)
            }
            Err(error) => {
                roll_back(session).await;
                Err(error)
            }
        }
    }

    pub(super) async fn write<I, T, E>(
        &self,
        org: Option<&OrgId>,
        input: &I,
        work: Work<I, T, E>,
    ) -> Result<T, E>
    where
        E: Failure,
    {
        let mut tries = Tries::begin();
        loop {
            let error = match self.try_write(org, input, work).await {
                Ok(answer) => {
                    self.succeeded();
                    self.written.notify_one();
                    return Ok(answer);
                }
                Err(Ended::RolledBack(error)) => error,
                Err(Ended::CutOff { answer, transaction, error }) => match self.settle(&transaction).await {
                    Some(true) => {
                        tracing::info!(transaction.id, "a commit that was cut off has happened");
                        self.written.notify_one();
                        return Ok(answer);
                    }
                    Some(false) => error.into(),
                    None => return Err(ambiguous(error).into()),
                },
            };
            if !tries.another(error.as_store()) {
                return Err(error);
            }
            sleep(tries.pause(self)).await;
        }
    }

    async fn try_write<I, T, E>(
        &self,
        org: Option<&OrgId>,
        input: &I,
        work: Work<I, T, E>,
    ) -> Result<T, Ended<T, E>>
    where
        E: Failure,
    {
        let mut session = self.session().await?;
        let end = Instant::now() + TRANSACTION;
        let before_commit = async {
            let conn = session.conn()?;
            run(conn, begin("READ COMMITTED", org.map(OrgId::as_str))).await.map_err(StoreError::from)?;
            let id = enter(conn, org).await.map_err(StoreError::from)?;
            let answer = work(input, &mut *conn).await;
            Ok::<_, E>((answer, id))
        };
        let worked = tokio::time::timeout_at(end, before_commit).await;
        let (answer, id) = worked.unwrap_or_else(|_| Err(too_slow().into())).map_err(Ended::RolledBack)?;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                roll_back(session).await;
                return Err(Ended::RolledBack(error));
            }
        };
        let commit = async { run(session.conn()?, COMMIT).await.map_err(StoreError::from) };
        match tokio::time::timeout_at(end, commit).await.unwrap_or_else(|_| Err(too_slow())) {
            Ok(()) => {
                session.keep();
                Ok(answer)
            }
            Err(error) if is_certainly_rolled_back(&error) => Err(aborted(error).into()),
            Err(error) => {
                let transaction = Transaction { id, run: session.run() };
                Err(Ended::CutOff { answer, transaction, error })
            }
        }
    }

    /// What became of a transaction, if the database can say so in time.
    async fn settle(&self, transaction: &Transaction) -> Option<bool> {
        let asking = async {
            loop {
                match self.fate_of(transaction).await {
                    Ok(Fate::Committed) => return Some(true),
                    Ok(Fate::RolledBack) => return Some(false),
                    Ok(Fate::Forgotten) => return None,
                    // The server has not noticed yet that its client is gone.
                    Ok(Fate::Open) => {}
                    // The transaction is one that this server never had.
                    Err(error) if !error.is_transient() => return None,
                    Err(error) => {
                        tracing::debug!(transaction.id, %error, "a commit that was cut off is not settled yet");
                    }
                }
                sleep(PAUSE * 4).await;
            }
        };
        timeout(SETTLING, asking).await.unwrap_or_default()
    }

    async fn fate_of(&self, transaction: &Transaction) -> Result<Fate, StoreError> {
        // Not from the pool, whose connections are the ones that were cut off.
        let mut conn = connect(&self.target.as_service(self.schema)).await?;
        let run: Option<String> = sqlx::query_scalar(RUN).fetch_one(&mut conn).await?;
        if run.is_none() || run != transaction.run {
            return Ok(Fate::Forgotten);
        }
        let status: Option<String> = sqlx::query_scalar("SELECT pg_xact_status($1::text::xid8)")
            .bind(transaction.id.to_string())
            .fetch_one(&mut conn)
            .await?;
        Ok(match status.as_deref() {
            Some("committed") => Fate::Committed,
            Some("aborted") => Fate::RolledBack,
            Some(_) => Fate::Open,
            None => Fate::Forgotten,
        })
    }

    /// A connection. That all of them are busy is overload while the work on them succeeds; otherwise the database does not answer.
    async fn session(&self) -> Result<Session, StoreError> {
        match self.connections.get().await {
            Err(StoreError::Overloaded(_)) if !self.succeeded_within(AT_WORK) => {
                Err(StoreError::Unavailable("the database does not answer"))
            }
            session => session,
        }
    }

    /// Whether statements are run, and rows could be written.
    pub(super) async fn ask(&self) -> Result<(), StoreError> {
        let mut session = self.connections.get().await?;
        let writable: bool = sqlx::query_scalar(
            "SELECT NOT pg_is_in_recovery() AND current_setting('default_transaction_read_only') = 'off'",
        )
        .fetch_one(session.conn()?)
        .await?;
        session.keep();
        if !writable {
            return Err(StoreError::Unavailable("the database takes no writes"));
        }
        self.succeeded();
        Ok(())
    }

    fn succeeded(&self) {
        *self.last_success.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn succeeded_within(&self, time: Duration) -> bool {
        let last = *self.last_success.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < time)
    }
}

/// The tries of one transaction.
#[derive(Debug)]
struct Tries {
    began: Instant,
    failed: u32,
}

impl Tries {
    fn begin() -> Self {
        Self { began: Instant::now(), failed: 0 }
    }

    /// Whether to try again after this failure.
    fn another(&mut self, error: Option<&StoreError>) -> bool {
        self.failed += 1;
        let most = match error {
            // Waiting again would only make the queue longer, and keep the caller from knowing.
            None
            | Some(
                StoreError::Overloaded(_)
                | StoreError::Unavailable(_)
                | StoreError::Ambiguous(_)
                | StoreError::Panicked,
            ) => 0,
            Some(error) => match error.class() {
                Some(SqlErrorClass::Busy) => TRIES,
                Some(SqlErrorClass::Unavailable) => TRIES_TO_CONNECT,
                _ => 0,
            },
        };
        self.failed < most && self.began.elapsed() < PATIENCE
    }

    /// How long to wait before it: those who met do not meet again.
    fn pause(&self, inner: &Inner) -> Duration {
        let mut random = [0; 2];
        inner.entropy.fill(&mut random);
        let pause = PAUSE.saturating_mul(1 << self.failed.min(16)).min(LONGEST_PAUSE);
        pause / 2 + (pause / 2).mul_f64(f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX))
    }
}

/// The lock that lets one write of a tenant through at a time, in one service. It ends with the transaction.
macro_rules! lock {
    () => {
        "pg_advisory_xact_lock(hashtextextended(current_schema() || '/' || $1, 0))"
    };
}

/// Waits until no other write of the tenant is under way, and gives the transaction its id.
async fn enter(conn: &mut PgConnection, org: Option<&OrgId>) -> Result<i64, sqlx::Error> {
    match org {
        None => sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint").fetch_one(conn).await,
        Some(org) => {
            sqlx::query_scalar(concat!("SELECT pg_current_xact_id()::text::bigint FROM ", lock!()))
                .bind(org.as_str())
                .fetch_one(conn)
                .await
        }
    }
}

/// Waits until no other write of the tenant is under way, and lets the rest of the transaction see and change its rows.
pub(super) async fn turn_to(conn: &mut PgConnection, org: &OrgId) -> Result<(), sqlx::Error> {
    let turn = concat!("SELECT set_config('pulse.tenant', $1, true) FROM ", lock!());
    sqlx::query(turn).bind(org.as_str()).execute(conn).await.map(|_| ())
}

/// Lets the rest of the transaction see the rows of every tenant.
pub(super) async fn turn_to_every(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let turn = "SELECT set_config('pulse.tenant', $1, true)";
    sqlx::query(turn).bind(EVERY_TENANT).execute(conn).await.map(|_| ())
}

/// The statements that begin a transaction, in one message.
fn begin(isolation: &str, tenant: Option<&str>) -> String {
    let mut begin = format!("BEGIN ISOLATION LEVEL {isolation}");
    if let Some(tenant) = tenant {
        // An id of an organization holds letters, digits and hyphens only. Writing to a string cannot fail.
        let _ = write!(begin, "; SET LOCAL pulse.tenant = '{tenant}'");
    }
    begin
}

/// Runs statements without parameters, in one message.
async fn run(conn: &mut PgConnection, statements: impl Into<String>) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statements.into())).execute(conn).await.map(|_| ())
}

/// Ends a transaction that is not wanted. Where that fails, closing the connection does it.
async fn roll_back(mut session: Session) {
    let rolled_back = async { run(session.conn()?, "ROLLBACK").await.map_err(StoreError::from) };
    if matches!(timeout(TRANSACTION, rolled_back).await, Ok(Ok(()))) {
        session.keep();
    }
}

/// Whether a commit that failed so has certainly not happened: the server says so. When the connection was lost, or the server
/// ended it, the commit may have come before that.
fn is_certainly_rolled_back(error: &StoreError) -> bool {
    match error {
        StoreError::Sql(error @ sqlx::Error::Database(_)) => {
            !matches!(classify(error), SqlErrorClass::Unavailable | SqlErrorClass::Other)
        }
        _ => false,
    }
}

fn aborted(error: StoreError) -> StoreError {
    match error {
        StoreError::Sql(error) => StoreError::Aborted(error.into()),
        other => other,
    }
}

fn ambiguous(error: StoreError) -> StoreError {
    match error {
        StoreError::Sql(error) => StoreError::Ambiguous(Some(error.into())),
        _ => StoreError::Ambiguous(None),
    }
}

const fn too_slow() -> StoreError {
    StoreError::Unavailable("the database does not answer in time")
}
