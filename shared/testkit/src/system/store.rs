//! The embedded stores, looked at from outside.

use std::{fs, path::PathBuf};

use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use super::System;

/// One of the SQLite files, opened for reading.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    db: SqliteConnection,
}

impl System {
    /// Opens `lifecycle.db` or `provisioner.db`, as an operator with the sqlite3 program might.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub async fn store(&self, file: &str) -> Store {
        let path = self.data().join(file);
        let options = SqliteConnectOptions::new().filename(&path).read_only(true);
        let db = SqliteConnection::connect_with(&options).await;
        Store { db: db.unwrap_or_else(|error| panic!("{}: {error}", path.display())), path }
    }

    /// The ids of the tenants that have a folder in the billing store, sorted.
    ///
    /// # Panics
    /// When there is no billing store.
    pub fn billing_folders(&self) -> Vec<String> {
        let folders = fs::read_dir(self.data().join("orgs")).expect("the billing store has a folder");
        let names = folders.map(|entry| entry.expect("a folder can be read").file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        // A tenant's id begins with a letter or a digit; what begins otherwise is the store's own.
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }
}

impl Store {
    /// The first column of every row of a query, as text.
    ///
    /// # Panics
    /// When the query fails.
    pub async fn column(&mut self, query: &str) -> Vec<String> {
        let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&mut self.db).await;
        let rows = rows.unwrap_or_else(|error| panic!("{}: {query}: {error}", self.path.display()));
        rows.iter().map(|row| row.get::<String, _>(0)).collect()
    }

    /// Every row of every table that holds `text` in any column, in any case, as `table: column`.
    ///
    /// # Panics
    /// When the file cannot be read.
    pub async fn rows_with(&mut self, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'";
        for table in self.column(tables).await {
            for column in self.column(&format!("SELECT name FROM pragma_table_info('{table}')")).await {
                let needle = text.to_lowercase().replace('\'', "''");
                let rows = format!(
                    "SELECT '{table}: {column}' FROM \"{table}\" \
                     WHERE instr(lower(CAST(\"{column}\" AS TEXT)), '{needle}') > 0"
                );
                found.extend(self.column(&rows).await);
            }
        }
        found
    }
}
