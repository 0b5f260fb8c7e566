//! The writer: a task that owns the writing connection and commits together what has queued up.
//!
//! ```text
//! write() --> bounded queue --> BEGIN IMMEDIATE
//!                                 SAVEPOINT, job 1, RELEASE   (or ROLLBACK TO, when it fails or panics)
//!                                 SAVEPOINT, job 2, RELEASE
//!                               COMMIT (one sync) --> every job is answered
//! ```
//! A job is answered only after the commit, also when it failed: its refusal may rest on what an earlier job
//! of the same batch wrote.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{FutureExt, future::BoxFuture};
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::{mpsc, oneshot};

use super::open::LockFile;
use crate::{SqlErrorClass, StoreError, classify};

/// How many writes may wait. One more is refused: a queue without bound would only hide the overload.
const QUEUE: usize = 1024;

/// How many writes share one commit at most, which bounds how long the first of them waits for the last.
const BATCH: usize = 64;

const NOT_EMPTIED: StoreError = StoreError::Unavailable("the log could not be emptied");

/// How many writes there were since the database was opened, and how many commits they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteStats {
    /// Writes that were run, whether they succeeded or not.
    pub jobs: u64,
    /// Transactions that were committed.
    pub commits: u64,
}

#[derive(Debug, Default)]
struct Counters {
    jobs: AtomicU64,
    commits: AtomicU64,
}

/// Where writes are handed in.
#[derive(Debug)]
pub(super) struct WriterHandle {
    queue: mpsc::Sender<Command>,
    counters: Arc<Counters>,
}

impl WriterHandle {
    pub(super) async fn run<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let job = TypedJob { work: Some(work), result: None, caller };
        self.queue.try_send(Command::Run(Box::new(job))).map_err(|error| {
            StoreError::Unavailable(match error {
                mpsc::error::TrySendError::Full(_) => "too many writes are waiting",
                mpsc::error::TrySendError::Closed(_) => "the database is closed",
            })
        })?;
        // No answer means that the writer went away with the job, before or after its commit.
        answer.await.unwrap_or_else(|_| Err(StoreError::Ambiguous(None).into()))
    }

    pub(super) fn stats(&self) -> WriteStats {
        WriteStats {
            jobs: self.counters.jobs.load(Ordering::Relaxed),
            commits: self.counters.commits.load(Ordering::Relaxed),
        }
    }

    pub(super) async fn empty_log(&self) -> Result<(), StoreError> {
        let (caller, answer) = oneshot::channel();
        let closed = || StoreError::Unavailable("the database is closed");
        self.queue.send(Command::EmptyLog(caller)).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Command::Close(done)).await.is_ok() {
            // An error means that it is closed already.
            closed.await.ok();
        }
    }
}

enum Command {
    Run(Box<dyn Job>),
    EmptyLog(oneshot::Sender<Result<(), StoreError>>),
    Close(oneshot::Sender<()>),
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run(_) => "Run",
            Self::EmptyLog(_) => "EmptyLog",
            Self::Close(_) => "Close",
        })
    }
}

/// A write whose types the writer need not know.
trait Job: Send {
    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool;

    /// Does the work; says whether its changes are to be kept.
    fn run<'c>(&'c mut self, conn: &'c mut SqliteConnection) -> BoxFuture<'c, bool>;

    /// Answers the caller, once the outcome of the batch is known.
    fn answer(self: Box<Self>, outcome: Result<(), &BatchFailure>);
}

struct TypedJob<F, T, E> {
    work: Option<F>,
    result: Option<Result<T, E>>,
    caller: oneshot::Sender<Result<T, E>>,
}

impl<F, T, E> Job for TypedJob<F, T, E>
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, E>> + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn is_abandoned(&self) -> bool {
        self.caller.is_closed()
    }

    fn run<'c>(&'c mut self, conn: &'c mut SqliteConnection) -> BoxFuture<'c, bool> {
        Box::pin(async move {
            let Some(work) = self.work.take() else { return false };
            // The changes of a job that panics are rolled back, so nothing half-done can be seen.
            let attempt = AssertUnwindSafe(async { work(conn).await }).catch_unwind().await;
            let result = attempt.unwrap_or_else(|_| Err(StoreError::Panicked.into()));
            self.result.insert(result).is_ok()
        })
    }

    fn answer(self: Box<Self>, outcome: Result<(), &BatchFailure>) {
        let answer = match (outcome, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(StoreError::Unavailable("the write was not run").into()),
            (Err(failure), _) => Err(failure.to_store_error().into()),
        };
        // The caller may have gone; the write stands all the same.
        self.caller.send(answer).ok();
    }
}

/// Why a whole batch failed.
enum BatchFailure {
    /// There is no connection, so nothing was begun.
    NotBegun,
    /// Certainly rolled back.
    Aborted(Arc<sqlx::Error>),
    /// The commit may or may not be on the disk.
    Ambiguous(Arc<sqlx::Error>),
}

impl BatchFailure {
    fn aborted(error: sqlx::Error) -> Self {
        Self::Aborted(Arc::new(error))
    }

    /// A commit that ran into another transaction, a constraint or a full disk has not happened. After any
    /// other failure, such as a failed sync, the log may hold it or not.
    fn of_commit(error: sqlx::Error) -> Self {
        match classify(&error) {
            SqlErrorClass::Busy
            | SqlErrorClass::Full
            | SqlErrorClass::ForeignKeyViolation
            | SqlErrorClass::CheckViolation { .. }
            | SqlErrorClass::UniqueViolation { .. } => Self::Aborted(Arc::new(error)),
            SqlErrorClass::Unavailable
            | SqlErrorClass::Corrupt
            | SqlErrorClass::Decode
            | SqlErrorClass::Other => Self::Ambiguous(Arc::new(error)),
        }
    }

    fn to_store_error(&self) -> StoreError {
        match self {
            Self::NotBegun => StoreError::Unavailable("the database cannot be written"),
            Self::Aborted(error) => StoreError::Aborted(Arc::clone(error)),
            Self::Ambiguous(error) => StoreError::Ambiguous(Some(Arc::clone(error))),
        }
    }
}

impl fmt::Display for BatchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBegun => f.write_str("no connection"),
            Self::Aborted(error) => write!(f, "rolled back: {error}"),
            Self::Ambiguous(error) => write!(f, "outcome unknown: {error}"),
        }
    }
}

/// Starts the writer. It ends, and releases the lock on the file, when it is closed or its handle is dropped.
pub(super) fn spawn(conn: SqliteConnection, options: SqliteConnectOptions, lock: LockFile) -> WriterHandle {
    let (queue, commands) = mpsc::channel(QUEUE);
    let counters = Arc::new(Counters::default());
    let writer = Writer { conn: Some(conn), options, counters: Arc::clone(&counters) };
    tokio::spawn(async move {
        let closing = writer.serve(commands).await;
        drop(lock);
        for done in closing {
            done.send(()).ok();
        }
    });
    WriterHandle { queue, counters }
}

struct Writer {
    /// `None` after a failure that leaves the state of the connection unknown: the next batch reconnects.
    conn: Option<SqliteConnection>,
    options: SqliteConnectOptions,
    counters: Arc<Counters>,
}

impl Writer {
    /// Serves until it is closed or its handle is dropped; returns who waits for the closing.
    async fn serve(mut self, mut commands: mpsc::Receiver<Command>) -> Vec<oneshot::Sender<()>> {
        let mut received = Vec::with_capacity(BATCH);
        let mut closing = Vec::new();
        let mut emptying = Vec::new();
        while commands.recv_many(&mut received, BATCH).await > 0 {
            let mut batch = Vec::with_capacity(received.len());
            for command in received.drain(..) {
                match command {
                    Command::Run(job) => batch.push(job),
                    Command::EmptyLog(caller) => emptying.push(caller),
                    Command::Close(done) => {
                        // What is queued already is still received; anything later is refused.
                        commands.close();
                        closing.push(done);
                    }
                }
            }
            self.run_batch(batch).await;
            if !emptying.is_empty() {
                let emptied = self.empty_log().await;
                if let Err(error) = &emptied {
                    tracing::warn!(%error, "the write-ahead log could not be emptied");
                }
                for caller in emptying.drain(..) {
                    // The caller may have gone; the log is empty all the same.
                    let answer = if emptied.is_ok() { Ok(()) } else { Err(NOT_EMPTIED) };
                    caller.send(answer).ok();
                }
            }
        }
        self.shut_down().await;
        closing
    }

    async fn run_batch(&mut self, mut batch: Vec<Box<dyn Job>>) {
        batch.retain(|job| !job.is_abandoned());
        if batch.is_empty() {
            return;
        }
        let outcome = match self.connection().await {
            Some(conn) => transact(conn, &mut batch).await,
            None => Err(BatchFailure::NotBegun),
        };
        let jobs = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        self.counters.jobs.fetch_add(jobs, Ordering::Relaxed);
        match &outcome {
            Ok(()) => {
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => {
                tracing::error!(%failure, jobs, "a batch of writes failed");
                // SQLite may have ended the transaction by itself, or not: only a new connection is known
                // to be outside of one.
                if let Some(conn) = self.conn.take() {
                    conn.close_hard().await.ok();
                }
            }
        }
        for job in batch {
            job.answer(outcome.as_ref().copied());
        }
    }

    async fn connection(&mut self) -> Option<&mut SqliteConnection> {
        if self.conn.is_none() {
            // Never creates: an empty database in the place of one that has gone would look like success.
            match self.options.clone().create_if_missing(false).connect().await {
                Ok(conn) => self.conn = Some(conn),
                Err(error) => tracing::error!(%error, "the database cannot be opened for writing"),
            }
        }
        self.conn.as_mut()
    }

    /// Copies the log into the database and cuts it to nothing. A reader that looks at an older moment is waited for
    /// as long as a lock would be.
    async fn empty_log(&mut self) -> Result<(), StoreError> {
        let Some(conn) = self.connection().await else {
            return Err(StoreError::Unavailable("the database cannot be written"));
        };
        let busy: i64 = sqlx::query_scalar("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(conn).await?;
        if busy == 0 { Ok(()) } else { Err(StoreError::Unavailable("the log is in use")) }
    }

    async fn shut_down(mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        // Not needed for durability: the log is replayed at the next start. It leaves one file to back up.
        if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut conn).await {
            tracing::warn!(%error, "the write-ahead log could not be copied into the database");
        }
        if let Err(error) = conn.close().await {
            tracing::warn!(%error, "the database did not close cleanly");
        }
    }
}

/// Runs a batch in one transaction, each job in a savepoint of its own.
async fn transact(conn: &mut SqliteConnection, batch: &mut [Box<dyn Job>]) -> Result<(), BatchFailure> {
    let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await.map_err(BatchFailure::aborted)?;
    for job in batch {
        let mut savepoint = Connection::begin(&mut *transaction).await.map_err(BatchFailure::aborted)?;
        let keep = job.run(&mut savepoint).await;
        let ended = if keep { savepoint.commit().await } else { savepoint.rollback().await };
        // This fails when SQLite has rolled back everything by itself, for want of space for example.
        ended.map_err(BatchFailure::aborted)?;
    }
    transaction.commit().await.map_err(BatchFailure::of_commit)
}
