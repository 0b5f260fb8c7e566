//! One embedded database file: a few read-only connections and one writer.
//!
//! | module | holds |
//! |---|---|
//! | `open` | the lock on the file, the connection settings, migrations |
//! | `writer` | the task that owns the writing connection, and group commit |
//!
//! Durability is what the settings say: a write is answered after its commit has been synced to the disk
//! (WAL, `synchronous=FULL`). Since one sync costs milliseconds, writes that arrive together share one.

mod open;
mod writer;

use std::{path::Path, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use sqlx::{SqliteConnection, SqlitePool, migrate::Migrator};

pub use open::OpenError;
use open::{FileIdentity, LockFile};
pub use writer::WriteStats;
use writer::WriterHandle;

use crate::StoreError;

/// How long [`SqliteDb::ping`] waits for the writer.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// An open database. Clones share it.
///
/// Nothing but this process may write the file while it is open: an advisory lock on `<path>.lock` keeps
/// other processes of this kind out.
#[derive(Debug, Clone)]
pub struct SqliteDb(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    readers: SqlitePool,
    writer: WriterHandle,
    file: FileIdentity,
}

impl SqliteDb {
    /// Opens the database at `path`, making its directory (mode 0700) and the file where they are missing,
    /// and brings its schema up to date. Must be called within a tokio runtime, which then runs the writer.
    ///
    /// # Errors
    /// When another process has it open, when its schema is newer than this program, when it is damaged, or
    /// when it cannot be opened or migrated. The message names the file.
    pub async fn open(path: &Path, migrator: &'static Migrator) -> Result<Self, OpenError> {
        let lock = LockFile::acquire(path)?;
        let writing = open::connect_and_migrate(path, migrator).await?;
        let readers = open::readers(path);
        let file = FileIdentity::of(path)?;
        let writer = writer::spawn(writing, open::write_options(path), lock);
        Ok(Self(Arc::new(Inner { readers, writer, file })))
    }

    /// Runs `work` on a read-only connection, in one transaction: everything it reads is of one moment.
    ///
    /// # Errors
    /// What `work` returns, or a [`StoreError`] when it could not be run.
    pub async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, E>> + Send,
        E: From<StoreError>,
    {
        let mut snapshot = self.0.readers.begin().await.map_err(StoreError::from)?;
        let read = work(&mut snapshot).await?;
        snapshot.rollback().await.map_err(StoreError::from)?;
        Ok(read)
    }

    /// Runs `work` on the writing connection and answers once its changes are on the disk.
    ///
    /// `work` is one transaction: when it returns an error or panics, nothing of it takes effect. It shares
    /// its commit with other writes that are waiting, so it should do nothing but talk to the database, must
    /// end with any error that it gets other than a constraint violation, and must not use deferred
    /// constraints. It may still run after the caller has gone, and is skipped when the caller left before
    /// it began.
    ///
    /// # Errors
    /// What `work` returns, or a [`StoreError`]: `Unavailable` when it was not run, `Aborted` when it was
    /// rolled back with its batch, `Ambiguous` when nobody can say.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.0.writer.run(work).await
    }

    /// The read-only connections, for what reads whole tables one row after the other.
    pub(crate) fn readers(&self) -> SqlitePool {
        self.0.readers.clone()
    }

    /// Whether the database can be used: the file is still the one that was opened, can be read, and takes a
    /// durable write.
    ///
    /// # Errors
    /// A [`StoreError`] that says what cannot be done.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.0.file.check()?;
        let touched: Result<i64, StoreError> = self
            .read(|conn| {
                Box::pin(async move {
                    let tables = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(conn);
                    Ok(tables.await?)
                })
            })
            .await;
        touched?;
        let written = self.write(|conn| {
            Box::pin(async move {
                // Writes the file's header, and changes nothing that anyone reads.
                sqlx::query("PRAGMA user_version = 0").execute(conn).await?;
                Ok(())
            })
        });
        tokio::time::timeout(PING_TIMEOUT, written)
            .await
            .map_err(|_| StoreError::Unavailable("the writer does not answer"))?
    }

    /// Copies the write-ahead log into the database and empties it, so that what was overwritten or deleted stands in no
    /// file any more. Costs some syncs and waits for readers: for use after a purge, not after every write.
    ///
    /// # Errors
    /// A [`StoreError`] when a reader holds the log for too long, or the database cannot be written.
    pub async fn empty_log(&self) -> Result<(), StoreError> {
        self.0.writer.empty_log().await
    }

    /// How many writes there were, and how many commits they took.
    pub fn write_stats(&self) -> WriteStats {
        self.0.writer.stats()
    }

    /// Finishes the writes that are queued, refuses later ones, copies the write-ahead log into the
    /// database, closes it and releases the lock. Clones of this handle answer `Unavailable` from then on.
    pub async fn close(&self) {
        self.0.readers.close().await;
        self.0.writer.close().await;
    }
}
