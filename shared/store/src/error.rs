//! What can go wrong in a store, told apart by what a caller can do about it.

use std::sync::Arc;

use sqlx::postgres::PgDatabaseError;

/// A failure of the store itself. Refusals that follow from the data are the service's own errors.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing was done, and a retry may succeed.
    #[error("the store is unavailable: {0}")]
    Unavailable(&'static str),
    /// Nothing was done, because too much is being done already.
    #[error("the store is overloaded: {0}")]
    Overloaded(&'static str),
    /// The transaction certainly did not take effect.
    #[error("the transaction was rolled back")]
    Aborted(#[source] Arc<sqlx::Error>),
    /// The commit failed in a way that leaves its outcome unknown: read back, never assume.
    #[error("the outcome of the commit is unknown")]
    Ambiguous(#[source] Option<Arc<sqlx::Error>>),
    /// A closure given to the store panicked; its changes were rolled back.
    #[error("a store operation panicked and was rolled back")]
    Panicked,
    /// A statement failed; its transaction did not take effect.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
}

impl StoreError {
    /// What the underlying SQL error means, where there is one.
    pub fn class(&self) -> Option<SqlErrorClass> {
        match self {
            Self::Unavailable(_) | Self::Overloaded(_) => Some(SqlErrorClass::Unavailable),
            Self::Aborted(error) | Self::Ambiguous(Some(error)) => Some(classify(error)),
            Self::Sql(error) => Some(classify(error)),
            Self::Ambiguous(None) | Self::Panicked => None,
        }
    }

    /// Whether the same call may succeed later without anything being repaired.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Ambiguous(_) => true,
            Self::Panicked => false,
            Self::Unavailable(_) | Self::Overloaded(_) | Self::Aborted(_) | Self::Sql(_) => matches!(
                self.class(),
                Some(SqlErrorClass::Busy | SqlErrorClass::Full | SqlErrorClass::Unavailable)
            ),
        }
    }
}

/// What an SQL error means, whatever the backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqlErrorClass {
    /// A row like it exists. SQLite names the columns (`table.column, table.column`), other backends the
    /// constraint.
    UniqueViolation {
        /// As the backend names it.
        constraint: String,
    },
    /// The row refers to one that does not exist, or is referred to.
    ForeignKeyViolation,
    /// The row is illegal: a CHECK, NOT NULL, type or trigger refused it. The name is the backend's.
    CheckViolation {
        /// As the backend names it.
        constraint: String,
    },
    /// Another transaction is in the way; a retry may succeed.
    Busy,
    /// There is no room left.
    Full,
    /// The database cannot be reached, read or written at the moment.
    Unavailable,
    /// The file is damaged, or not a database.
    Corrupt,
    /// A stored value is not what the program expects of it.
    Decode,
    /// Anything else: a defect in a statement or in this program.
    Other,
}

/// Says what an SQL error means, by its code; the message is read only for the constraint's name, which
/// SQLite gives nowhere else.
pub fn classify(error: &sqlx::Error) -> SqlErrorClass {
    use sqlx::Error as E;
    match error {
        E::Database(database) => {
            if let Some(postgres) = database.try_downcast_ref::<PgDatabaseError>() {
                return classify_postgres(postgres.code(), postgres.constraint());
            }
            let code = database.code().and_then(|code| code.parse().ok());
            classify_sqlite(code, database.message())
        }
        E::Io(_)
        | E::Tls(_)
        | E::Protocol(_)
        | E::PoolTimedOut
        | E::PoolClosed
        | E::WorkerCrashed
        | E::BeginFailed => SqlErrorClass::Unavailable,
        E::Decode(_)
        | E::ColumnDecode { .. }
        | E::ColumnNotFound(_)
        | E::ColumnIndexOutOfBounds { .. }
        | E::TypeNotFound { .. } => SqlErrorClass::Decode,
        // `sqlx::Error` may grow, so this match cannot be exhaustive.
        _ => SqlErrorClass::Other,
    }
}

/// SQLite's result codes (<https://www.sqlite.org/rescode.html>): the low byte is the primary code, the rest
/// says which kind of constraint it was.
fn classify_sqlite(code: Option<u32>, message: &str) -> SqlErrorClass {
    const CONSTRAINT: u32 = 19;
    const CONSTRAINT_FOREIGNKEY: u32 = 787;
    const CONSTRAINT_PRIMARYKEY: u32 = 1555;
    const CONSTRAINT_UNIQUE: u32 = 2067;
    const CONSTRAINT_ROWID: u32 = 2579;
    let Some(code) = code else { return SqlErrorClass::Other };
    let constraint = || message.split_once("failed: ").map_or(message, |(_, name)| name).to_owned();
    match (code & 0xff, code) {
        (_, CONSTRAINT_UNIQUE | CONSTRAINT_PRIMARYKEY | CONSTRAINT_ROWID) => {
            SqlErrorClass::UniqueViolation { constraint: constraint() }
        }
        (_, CONSTRAINT_FOREIGNKEY) => SqlErrorClass::ForeignKeyViolation,
        (CONSTRAINT, _) => SqlErrorClass::CheckViolation { constraint: constraint() },
        // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL (a locking race)
        (5 | 6 | 15, _) => SqlErrorClass::Busy,
        // SQLITE_FULL
        (13, _) => SqlErrorClass::Full,
        // SQLITE_PERM, _NOMEM, _READONLY, _INTERRUPT, _IOERR, _CANTOPEN, _NOLFS, _AUTH
        (3 | 7 | 8 | 9 | 10 | 14 | 22 | 23, _) => SqlErrorClass::Unavailable,
        // SQLITE_CORRUPT, SQLITE_NOTADB
        (11 | 26, _) => SqlErrorClass::Corrupt,
        _ => SqlErrorClass::Other,
    }
}

/// PostgreSQL's SQLSTATE codes (<https://www.postgresql.org/docs/current/errcodes-appendix.html>): the first two characters are
/// the class, the rest says which error it was.
fn classify_postgres(code: &str, constraint: Option<&str>) -> SqlErrorClass {
    let constraint = || constraint.unwrap_or_default().to_owned();
    match (code.get(..2).unwrap_or_default(), code) {
        (_, "23505") => SqlErrorClass::UniqueViolation { constraint: constraint() },
        (_, "23503") => SqlErrorClass::ForeignKeyViolation,
        ("23", _) => SqlErrorClass::CheckViolation { constraint: constraint() },
        // serialization_failure, deadlock_detected, lock_not_available
        (_, "40001" | "40P01" | "55P03") => SqlErrorClass::Busy,
        // disk_full
        (_, "53100") => SqlErrorClass::Full,
        // connection_exception; insufficient_resources; query_canceled, admin_shutdown, crash_shutdown, cannot_connect_now,
        // idle_session_timeout; read_only_sql_transaction, as on a standby; idle_in_transaction_session_timeout;
        // statement_completion_unknown; io_error
        ("08" | "53" | "57", _) | (_, "25006" | "25P03" | "40003" | "58030") => SqlErrorClass::Unavailable,
        // data_corrupted, index_corrupted
        (_, "XX001" | "XX002") => SqlErrorClass::Corrupt,
        _ => SqlErrorClass::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_primary_code_that_callers_branch_on_has_its_class() {
        for (code, class) in [
            (5, SqlErrorClass::Busy),
            (0x0205, SqlErrorClass::Busy),
            (6, SqlErrorClass::Busy),
            (13, SqlErrorClass::Full),
            (8, SqlErrorClass::Unavailable),
            (0x040a, SqlErrorClass::Unavailable),
            (14, SqlErrorClass::Unavailable),
            (11, SqlErrorClass::Corrupt),
            (26, SqlErrorClass::Corrupt),
            (1, SqlErrorClass::Other),
            (787, SqlErrorClass::ForeignKeyViolation),
        ] {
            assert_eq!(classify_sqlite(Some(code), ""), class, "{code}");
        }
        assert_eq!(classify_sqlite(None, ""), SqlErrorClass::Other);
    }

    #[test]
    fn every_sqlstate_that_callers_branch_on_has_its_class() {
        let named = || "organizations_one_per_email".to_owned();
        for (code, class) in [
            ("23505", SqlErrorClass::UniqueViolation { constraint: named() }),
            ("23514", SqlErrorClass::CheckViolation { constraint: named() }),
            ("23502", SqlErrorClass::CheckViolation { constraint: named() }),
            ("23503", SqlErrorClass::ForeignKeyViolation),
            ("40001", SqlErrorClass::Busy),
            ("40P01", SqlErrorClass::Busy),
            ("55P03", SqlErrorClass::Busy),
            ("53100", SqlErrorClass::Full),
            ("53300", SqlErrorClass::Unavailable),
            ("57P01", SqlErrorClass::Unavailable),
            ("57014", SqlErrorClass::Unavailable),
            ("08006", SqlErrorClass::Unavailable),
            ("25006", SqlErrorClass::Unavailable),
            ("XX001", SqlErrorClass::Corrupt),
            ("42501", SqlErrorClass::Other),
            ("25P02", SqlErrorClass::Other),
            ("", SqlErrorClass::Other),
        ] {
            assert_eq!(classify_postgres(code, Some("organizations_one_per_email")), class, "{code}");
        }
    }

    #[test]
    fn what_a_retry_may_mend_is_transient() {
        assert!(StoreError::Overloaded("too many wait").is_transient());
        assert!(StoreError::Unavailable("the queue is full").is_transient());
        assert!(StoreError::Ambiguous(None).is_transient());
        assert!(StoreError::Sql(sqlx::Error::PoolTimedOut).is_transient());
        assert!(!StoreError::Panicked.is_transient());
        assert!(!StoreError::Sql(sqlx::Error::RowNotFound).is_transient());
    }
}
