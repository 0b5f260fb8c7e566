//! Opening: who may, with which settings, and at which version of the schema.

use std::{
    fs::{DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{SqlErrorClass, StoreError, classify};

/// How many reads run at once. SQLite reads from the page cache and is rarely what a request waits for.
const READERS: u32 = 4;

/// How long a statement waits for a lock that another process holds, such as a backup tool's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each holds the file's path and the cause")]
pub enum OpenError {
    /// Its directory or its lock file cannot be used.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    /// Another process holds the lock.
    #[error("{path} is in use by another process")]
    InUse { path: PathBuf },
    /// It was last opened by a newer program, whose schema this one does not know.
    #[error(
        "{path} was written by a newer version of this program (schema {version}); run that version or a newer one"
    )]
    NewerSchema { path: PathBuf, version: i64 },
    /// It is damaged, or not a database at all.
    #[error("{path} is damaged or not a database: {source}")]
    Damaged { path: PathBuf, source: sqlx::Error },
    /// It cannot be opened.
    #[error("{path} cannot be opened: {source}")]
    Connect { path: PathBuf, source: sqlx::Error },
    /// Its schema cannot be brought up to date.
    #[error("the schema of {path} cannot be brought up to date: {source}")]
    Migrate { path: PathBuf, source: MigrateError },
}

/// The advisory lock that keeps a second process out; released when the last holder is dropped, also by a
/// crash. The file stays: removing it would let two processes hold locks on two files of one name.
#[derive(Debug)]
pub(super) struct LockFile(
    #[expect(dead_code, reason = "held, not used: closing it releases the lock")] File,
);

impl LockFile {
    pub(super) fn acquire(database: &Path) -> Result<Self, OpenError> {
        let failed = |path: &Path, source| OpenError::File { path: path.to_owned(), source };
        if let Some(directory) = database.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            // The files hold personal data: nobody but their owner needs to look inside.
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|source| failed(directory, source))?;
        }
        let path = lock_path(database);
        let file = open_private(&path).map_err(|source| failed(&path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: database.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(&path, source)),
        }
    }
}

/// Opens a file for writing; one that is made belongs to its owner alone, whatever the umask.
fn open_private(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn lock_path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Which file was opened, to notice that it was removed or replaced underneath.
#[derive(Debug)]
pub(super) struct FileIdentity {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl FileIdentity {
    pub(super) fn of(path: &Path) -> Result<Self, OpenError> {
        let metadata = path.metadata().map_err(|source| OpenError::File { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), device_and_inode: (metadata.dev(), metadata.ino()) })
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.path.metadata() {
            Ok(now) if (now.dev(), now.ino()) == self.device_and_inode => Ok(()),
            Ok(_) => Err(StoreError::Unavailable("the database file was replaced while it was open")),
            Err(_) => Err(StoreError::Unavailable("the database file cannot be found")),
        }
    }
}

fn base_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("temp_store", "MEMORY")
        // A damaged page is noticed when it is read, and a tampered schema cannot run functions.
        .pragma("cell_size_check", "ON")
        .pragma("trusted_schema", "OFF")
}

pub(super) fn write_options(path: &Path) -> SqliteConnectOptions {
    base_options(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // What is deleted is overwritten: a purged tenant's data must not linger in the file's free space. Only where
        // SQLite rebuilt a page can a copy be left in its gap, until the page is used again or the file vacuumed.
        .pragma("secure_delete", "ON")
        // After a burst the log shrinks back to this many bytes.
        .pragma("journal_size_limit", "16777216")
}

pub(super) fn readers(path: &Path) -> SqlitePool {
    let options = base_options(path).read_only(true).pragma("query_only", "ON");
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(BUSY_TIMEOUT)
        // Local connections do not go stale; testing each would double the cost of a short read.
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options)
}

pub(super) async fn connect_and_migrate(
    path: &Path,
    migrator: &Migrator,
) -> Result<SqliteConnection, OpenError> {
    let failed = |source: sqlx::Error| {
        let path = path.to_owned();
        match classify(&source) {
            SqlErrorClass::Corrupt => OpenError::Damaged { path, source },
            _ => OpenError::Connect { path, source },
        }
    };
    // SQLite takes an empty file for an empty database, and gives its other files the same mode.
    open_private(path).map_err(|source| OpenError::File { path: path.to_owned(), source })?;
    let mut conn = write_options(path).connect().await.map_err(failed)?;
    migrator.run_direct(None, &mut conn, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => OpenError::NewerSchema { path: path.to_owned(), version },
        MigrateError::Execute(source) => failed(source),
        source => OpenError::Migrate { path: path.to_owned(), source },
    })?;
    Ok(conn)
}
