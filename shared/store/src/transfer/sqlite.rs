//! Rows of a SQLite database.

use std::path::Path;

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use serde_json::{Map, Value};
use sqlx::{
    AssertSqlSafe, Column as _, Row as _, SqlitePool, TypeInfo as _, ValueRef as _, migrate::Migrator,
    sqlite::SqliteRow,
};

use super::{Origin, Row, Table, TransferError};
use crate::SqliteDb;

/// The tables of a database that nobody else has open.
#[derive(Debug)]
pub struct SqliteOrigin {
    /// Held, so that nobody opens it meanwhile.
    db: SqliteDb,
    pool: SqlitePool,
}

impl SqliteOrigin {
    /// The tables of the database at `path`, after bringing them to the version that this program knows.
    ///
    /// # Errors
    /// When there is none, when another process has it open, or when it cannot be read.
    pub async fn open(path: &Path, migrator: &'static Migrator) -> Result<Self, TransferError> {
        if !path.exists() {
            return Err(TransferError::Origin(format!("{} does not exist", path.display())));
        }
        let db = SqliteDb::open(path, migrator).await.map_err(TransferError::origin)?;
        let pool = db.readers();
        Ok(Self { db, pool })
    }

    /// Lets go of the database.
    pub async fn close(self) {
        self.db.close().await;
    }
}

#[async_trait]
impl Origin for SqliteOrigin {
    async fn count(&self, table: &Table) -> Result<u64, TransferError> {
        let sql = format!("SELECT count(*) FROM {}", table.name);
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&self.pool)
            .await
            .map_err(TransferError::origin)?;
        Ok(count.unsigned_abs())
    }

    fn rows<'a>(&'a self, table: &'a Table) -> BoxStream<'a, Result<Row, TransferError>> {
        let sql = format!("SELECT * FROM {} ORDER BY {}", table.name, table.key.join(", "));
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch(&self.pool).map_err(TransferError::origin);
        rows.map(|row| read(&row?).map_err(TransferError::origin)).boxed()
    }
}

/// The values of a row, whatever they are.
fn read(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    let mut values = Map::new();
    for column in row.columns() {
        let raw = row.try_get_raw(column.ordinal())?;
        let value = match raw.type_info().name() {
            _ if raw.is_null() => Value::Null,
            "INTEGER" => Value::from(row.try_get::<i64, _>(column.ordinal())?),
            "REAL" => Value::from(row.try_get::<f64, _>(column.ordinal())?),
            "BLOB" => Value::from(hex::encode(row.try_get::<Vec<u8>, _>(column.ordinal())?)),
            _ => Value::from(row.try_get::<String, _>(column.ordinal())?),
        };
        values.insert(column.name().to_owned(), value);
    }
    Ok(values)
}
