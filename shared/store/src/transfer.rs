//! Moving what a service has kept in its embedded store into its schema in PostgreSQL: all of it, compared row by row, or
//! nothing.
//!
//! | module | holds |
//! |---|---|
//! | here | [`transfer`], and [`Origin`]: where rows come from |
//! | `columns` | how a column of PostgreSQL takes a value, and gives it back |
//! | [`sqlite`] | rows of a SQLite database |
//!
//! Rows move by the names of their columns. One transaction holds the schema for itself, copies table after table, reads
//! everything back next to the origin, and only then commits; so whoever breaks off in the middle finds the target as it was.
//! Constraints hold as ever. Triggers, which watch over one change after another, are off meanwhile: what is copied has gone
//! through all that in the embedded store.

mod columns;
pub mod sqlite;

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use pulse_kernel::OrgId;
use pulse_runtime::DatabaseSettings;
use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, Transaction};

use self::columns::Columns;
use crate::{
    PgOpenError, audit,
    postgres::{self, Schema},
};

/// How many rows go to the database together.
const BATCH: usize = 500;

/// A row: the name of each column, and its value. Instants are microseconds since the Unix epoch, bytes are hex.
pub type Row = Map<String, Value>;

/// A table to be moved.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name, the same on both sides.
    pub name: &'static str,
    /// The column that says whose a row is.
    pub tenant: &'static str,
    /// The columns that tell rows apart, in the order of the primary key.
    pub key: &'static [&'static str],
}

/// What is moved, and where to.
#[derive(Debug)]
pub struct Plan {
    /// The service's schema.
    pub schema: &'static Schema,
    /// The tenant that a schema holds from its first start on: where there are no others, nothing was moved yet.
    pub fresh: Option<&'static str>,
    /// The tables, those first that others refer to.
    pub tables: &'static [Table],
    /// Statements that follow the rows: what is derived from them.
    pub afterwards: &'static [&'static str],
}

/// Where rows come from.
#[async_trait]
pub trait Origin: Send + Sync {
    /// About how many rows a table has, to say how far the transfer is.
    ///
    /// # Errors
    /// When it cannot be read.
    async fn count(&self, table: &Table) -> Result<u64, TransferError>;

    /// The rows of a table in the order of its key, texts by their bytes.
    fn rows<'a>(&'a self, table: &'a Table) -> BoxStream<'a, Result<Row, TransferError>>;
}

/// How far a transfer is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// The schema.
    pub schema: &'static str,
    /// The table.
    pub table: &'static str,
    /// Rows copied, or compared.
    pub done: u64,
    /// Out of about so many.
    pub of: u64,
    /// Whether they are being compared.
    pub comparing: bool,
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transferred {
    /// The schema.
    pub schema: &'static str,
    /// Each table, with how many rows are the same on both sides.
    pub tables: Vec<(&'static str, u64)>,
    /// Whether they were there already, all of them the same.
    pub already_there: bool,
    /// Audit chains that do not verify. They did not before either: they were moved as they were.
    pub broken_chains: Vec<(OrgId, audit::Broken)>,
}

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The target cannot be used.
    #[error(transparent)]
    Target(#[from] PgOpenError),
    /// The embedded store cannot be read.
    #[error("the embedded store cannot be read: {0}")]
    Origin(String),
    /// The target has tenants of its own.
    #[error(
        "{schema}.{table} in the target holds a row that is not in the embedded store ({row}); move into a database without tenants"
    )]
    OtherTenants {
        /// The schema.
        schema: &'static str,
        /// The table.
        table: &'static str,
        /// The key of the first such row.
        row: String,
    },
    /// A row differs, or is missing in the target, which therefore was moved to before and has changed since.
    #[error(
        "{schema}.{table} in the target differs from the embedded store ({row}); it was moved to before, and one of the two has \
         changed since"
    )]
    Differs {
        /// The schema.
        schema: &'static str,
        /// The table.
        table: &'static str,
        /// The key of the first such row.
        row: String,
    },
    /// The answer to the commit did not come.
    #[error("whether {schema} was moved is not known ({source}); run this again, which compares")]
    Unknown {
        /// The schema.
        schema: &'static str,
        /// Why.
        source: sqlx::Error,
    },
    /// The database failed; it is as it was.
    #[error("the database failed, and nothing of {schema} was moved: {source}")]
    Database {
        /// The schema.
        schema: &'static str,
        /// Why.
        source: sqlx::Error,
    },
}

impl TransferError {
    /// The embedded store failed.
    #[must_use]
    pub fn origin(error: impl std::fmt::Display) -> Self {
        Self::Origin(error.to_string())
    }
}

/// Moves everything of a service into its schema, which is made where it is not there. A target that holds the same already is
/// compared and left as it is; one that holds nothing but what it begins with is filled.
///
/// # Errors
/// Why nothing was moved.
pub async fn transfer(
    settings: &DatabaseSettings,
    plan: &Plan,
    origin: &dyn Origin,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Transferred, TransferError> {
    let schema = plan.schema.name;
    let failed = |source| TransferError::Database { schema, source };
    postgres::migrate(settings, plan.schema).await?;
    let mut conn = postgres::connect_as_migrator(settings, plan.schema).await?;
    let mut moving = Moving { plan, origin, transaction: conn.begin().await.map_err(failed)?, progress };
    moving.take_hold().await.map_err(failed)?;
    let already_there = !moving.is_empty().await.map_err(failed)?;
    if !already_there {
        moving.copy().await?;
    }
    let tables = moving.compare().await?;
    let broken_chains = audit::postgres::verify_all(&mut moving.transaction).await.map_err(failed)?;
    moving.let_go().await.map_err(failed)?;
    moving.transaction.commit().await.map_err(|source| TransferError::Unknown { schema, source })?;
    Ok(Transferred { schema, tables, already_there, broken_chains })
}

struct Moving<'a> {
    plan: &'a Plan,
    origin: &'a dyn Origin,
    transaction: Transaction<'a, Postgres>,
    progress: &'a mut (dyn FnMut(Progress) + Send),
}

impl Moving<'_> {
    /// Keeps everyone else out, and lets the owner write what was decided elsewhere.
    async fn take_hold(&mut self) -> Result<(), sqlx::Error> {
        let names: Vec<_> = self.plan.tables.iter().map(|table| table.name).collect();
        // At once, and not for ever: whoever waits for these tables keeps others waiting behind it.
        let sql = format!(
            "SET LOCAL lock_timeout = '10s'; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
            names.join(", ")
        );
        execute(&mut self.transaction, &sql).await?;
        for table in self.plan.tables {
            let name = table.name;
            let sql = format!(
                "ALTER TABLE {name} DISABLE TRIGGER USER; ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY"
            );
            execute(&mut self.transaction, &sql).await?;
        }
        Ok(())
    }

    async fn let_go(&mut self) -> Result<(), sqlx::Error> {
        for table in self.plan.tables {
            let name = table.name;
            let sql = format!(
                "ALTER TABLE {name} ENABLE TRIGGER USER; ALTER TABLE {name} FORCE ROW LEVEL SECURITY"
            );
            execute(&mut self.transaction, &sql).await?;
        }
        Ok(())
    }

    /// Whether no tenant is there but the one that the schema begins with.
    async fn is_empty(&mut self) -> Result<bool, sqlx::Error> {
        for Table { name, tenant, .. } in self.plan.tables {
            let sql = format!("SELECT EXISTS (SELECT FROM {name} WHERE $1::text IS NULL OR {tenant} <> $1)");
            let used: bool = sqlx::query_scalar(AssertSqlSafe(sql))
                .bind(self.plan.fresh)
                .fetch_one(&mut *self.transaction)
                .await?;
            if used {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn copy(&mut self) -> Result<(), TransferError> {
        let schema = self.plan.schema.name;
        let failed = |source| TransferError::Database { schema, source };
        for table in self.plan.tables.iter().rev() {
            execute(&mut self.transaction, &format!("DELETE FROM {}", table.name)).await.map_err(failed)?;
        }
        for table in self.plan.tables {
            let columns = Columns::of(&mut self.transaction, table).await.map_err(failed)?;
            let insert = columns.insert();
            let (of, mut done) = (self.origin.count(table).await?, 0);
            let mut batches = self.origin.rows(table).try_chunks(BATCH);
            while let Some(rows) = batches.next().await {
                let rows = rows.map_err(|error| error.1)?;
                columns.check(&rows)?;
                done += rows.len() as u64;
                sqlx::query(AssertSqlSafe(insert.clone()))
                    .bind(Value::from_iter(rows))
                    .execute(&mut *self.transaction)
                    .await
                    .map_err(failed)?;
                (self.progress)(Progress { schema, table: table.name, done, of, comparing: false });
            }
        }
        for statement in self.plan.afterwards {
            execute(&mut self.transaction, statement).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Reads both sides next to each other; how many rows each table has.
    async fn compare(&mut self) -> Result<Vec<(&'static str, u64)>, TransferError> {
        let schema = self.plan.schema.name;
        let mut counts = Vec::new();
        for table in self.plan.tables {
            let failed = |source| TransferError::Database { schema, source };
            let columns = Columns::of(&mut self.transaction, table).await.map_err(failed)?;
            let of = self.origin.count(table).await?;
            let mut theirs = self.origin.rows(table);
            let mut ours = columns.rows(&mut self.transaction);
            let mut done = 0_u64;
            loop {
                let (their, our) = (theirs.try_next().await?, ours.try_next().await.map_err(failed)?);
                let (their, our) = match (their, our) {
                    (None, None) => break,
                    (None, Some(row)) => {
                        return Err(TransferError::OtherTenants {
                            schema,
                            table: table.name,
                            row: columns.key(&row),
                        });
                    }
                    (Some(row), None) => {
                        return Err(TransferError::Differs {
                            schema,
                            table: table.name,
                            row: columns.key(&row),
                        });
                    }
                    (Some(their), Some(our)) => (columns.normalized(their), our),
                };
                if their != our {
                    // Whichever comes first is missing on the other side.
                    let (table, row) = (table.name, columns.key(&our));
                    return Err(if columns.key(&their) > row {
                        TransferError::OtherTenants { schema, table, row }
                    } else {
                        TransferError::Differs { schema, table, row: columns.key(&their) }
                    });
                }
                done += 1;
                if done.is_multiple_of(BATCH as u64) {
                    (self.progress)(Progress { schema, table: table.name, done, of, comparing: true });
                }
            }
            counts.push((table.name, done));
        }
        Ok(counts)
    }
}

async fn execute(conn: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map(|_| ())
}
