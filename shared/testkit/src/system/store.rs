//! The stores, looked at from outside: the files under the data folder, or the schemas in PostgreSQL.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, Row, SqliteConnection, postgres::PgRow,
    sqlite::SqliteConnectOptions,
};

use super::{Service, System};
use crate::postgres::Database;

/// The tables of one service, opened for reading.
#[derive(Debug)]
pub struct Store {
    /// The file, or the schema.
    name: String,
    db: Db,
}

#[derive(Debug)]
enum Db {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl System {
    /// Opens the tables of lifecycle or provisioner, as an operator with sqlite3 or psql might. Those of the other services
    /// are in PostgreSQL only.
    ///
    /// # Panics
    /// When they cannot be opened.
    pub async fn store(&self, service: Service) -> Store {
        match self.database() {
            Some(database) => Store::in_postgres(database, service).await,
            None => Store::in_file(&self.data().join(file(service))).await,
        }
    }

    /// A tenant's billing state as it is stored, in the form of `billing.json`; none when there is none.
    ///
    /// # Panics
    /// When what is stored cannot be read.
    pub async fn stored_billing_state(&self, org_id: &str) -> Option<Value> {
        if self.database().is_some() {
            let query = "SELECT state FROM billing_states WHERE org_id = $1";
            let rows = self.billing_rows(query, org_id).await;
            assert!(rows.len() <= 1, "one row a tenant: {rows:?}");
            return rows.into_iter().next();
        }
        match fs::read_to_string(self.billing_file(org_id, "billing.json")) {
            Ok(text) => Some(serde_json::from_str(&text).expect("the file holds JSON")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => panic!("{org_id}: {error}"),
        }
    }

    /// A tenant's audit records as billing-state has stored them, oldest first.
    ///
    /// # Panics
    /// When they cannot be read.
    pub async fn stored_billing_audit(&self, org_id: &str) -> Vec<Value> {
        if self.database().is_some() {
            let query = "SELECT to_jsonb(audit_events) FROM audit_events WHERE org_id = $1 ORDER BY sequence";
            return self.billing_rows(query, org_id).await;
        }
        let log = fs::read_to_string(self.billing_file(org_id, "billing-audit.jsonl"));
        let log = log.expect("a tenant has an audit log");
        log.lines().map(|line| serde_json::from_str(line).expect("a line holds JSON")).collect()
    }

    /// The ids of the tenants of whom the billing store holds anything but a tombstone, sorted.
    ///
    /// # Panics
    /// When there is no billing store.
    pub async fn tenants_with_billing(&self) -> Vec<String> {
        if let Some(database) = self.database() {
            let ids = "SELECT org_id FROM billing_states UNION SELECT org_id FROM audit_events ORDER BY 1";
            return Store::in_postgres(database, Service::BillingState).await.column(ids).await;
        }
        let folders = fs::read_dir(self.data().join("orgs")).expect("the billing store has a folder");
        let names = folders.map(|entry| entry.expect("a folder can be read").file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        // A tenant's id begins with a letter or a digit; what begins otherwise is the store's own.
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    /// Every place in which `text` is stored: the files under the data folder that hold it, and the columns in PostgreSQL.
    ///
    /// # Panics
    /// When the stores cannot be read.
    pub async fn places_with(&self, text: &str) -> Vec<String> {
        let holds = |file: &PathBuf| {
            let content = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            content.windows(text.len()).any(|window| window == text.as_bytes())
        };
        let files = files(&self.data()).into_iter().filter(holds);
        let mut places: Vec<String> = files.map(|file| file.display().to_string()).collect();
        if let Some(database) = self.database() {
            for service in Service::ALL.into_iter().filter(|service| *service != Service::Edge) {
                places.extend(Store::in_postgres(database, service).await.rows_with(text).await);
            }
        }
        places
    }

    async fn billing_rows(&self, query: &'static str, org_id: &str) -> Vec<Value> {
        let database = self.database().expect("the data is in PostgreSQL");
        let Db::Postgres(mut db) = Store::in_postgres(database, Service::BillingState).await.db else {
            unreachable!("it was opened there")
        };
        let rows = sqlx::query(query).bind(org_id).fetch_all(&mut db).await;
        let rows: Vec<PgRow> = rows.unwrap_or_else(|error| panic!("{query}: {error}"));
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// The file in which a service has its tables, with embedded stores.
///
/// # Panics
/// When it has none.
fn file(service: Service) -> &'static str {
    match service {
        Service::Lifecycle => "lifecycle.db",
        Service::Provisioner => "provisioner.db",
        Service::Edge | Service::SignupGateway | Service::BillingState => {
            panic!("{service:?} has no tables in a file")
        }
    }
}

/// The schema in which a service has its tables, in PostgreSQL.
///
/// # Panics
/// When it has none.
fn schema(service: Service) -> &'static str {
    match service {
        Service::Lifecycle => "pulse_lifecycle",
        Service::Provisioner => "pulse_provisioner",
        Service::BillingState => "pulse_billing_state",
        Service::SignupGateway => "pulse_signup_gateway",
        Service::Edge => panic!("the edge keeps nothing"),
    }
}

/// Every file below the folder, if there is one.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let entries = entries.map(|entry| entry.expect("a folder can be read").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

impl Store {
    async fn in_file(path: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(path).read_only(true);
        let db = SqliteConnection::connect_with(&options).await;
        let db = db.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { name: path.display().to_string(), db: Db::Sqlite(db) }
    }

    async fn in_postgres(database: &Database, service: Service) -> Self {
        let (name, mut db) = (schema(service), database.connect().await);
        let search_path = format!("SET search_path TO {name}");
        sqlx::query(AssertSqlSafe(search_path)).execute(&mut db).await.expect("a setting can be set");
        Self { name: name.to_owned(), db: Db::Postgres(db) }
    }

    /// The first column of every row of a query, as text.
    ///
    /// # Panics
    /// When the query fails.
    pub async fn column(&mut self, query: &str) -> Vec<String> {
        let column = match &mut self.db {
            Db::Sqlite(db) => sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(db).await,
            Db::Postgres(db) => sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(db).await,
        };
        column.unwrap_or_else(|error| panic!("{}: {query}: {error}", self.name))
    }

    /// Every row of every table that holds `text` in any column, in any case, as `store table: column`.
    ///
    /// # Panics
    /// When the tables cannot be read.
    pub async fn rows_with(&mut self, text: &str) -> Vec<String> {
        let needle = text.to_lowercase().replace('\'', "''");
        let mut found = Vec::new();
        // Each is a query for the rows of one column.
        for rows in self.column(&self.searches(&needle)).await {
            found.extend(self.column(&rows).await);
        }
        found
    }

    /// A query for queries: for each column of each table, one that looks for `needle` in it.
    fn searches(&self, needle: &str) -> String {
        // Quoted once more, as it becomes text within text.
        let (name, needle) = (&self.name, needle.replace('\'', "''"));
        match &self.db {
            Db::Sqlite(_) => format!(
                "SELECT format('SELECT ''{name} %s: %s'' FROM \"%w\" \
                                WHERE instr(lower(CAST(\"%w\" AS TEXT)), ''{needle}'') > 0', \
                               tables.name, columns.name, tables.name, columns.name) \
                 FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns \
                 WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite%'"
            ),
            Db::Postgres(_) => format!(
                "SELECT format('SELECT ''{name} %1$s: %2$s'' FROM %1$I \
                                WHERE strpos(lower(' \
                               || CASE typname WHEN 'bytea' THEN 'encode(%2$I, ''escape'')' ELSE '%2$I::text' END \
                               || '), ''{needle}'') > 0', relname, attname) \
                 FROM pg_class \
                 JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped \
                 JOIN pg_type ON pg_type.oid = atttypid \
                 WHERE relkind = 'r' AND relnamespace = '{name}'::regnamespace"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Postgres;

    #[tokio::test]
    async fn a_search_finds_text_in_any_column_of_any_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut db = SqliteConnection::connect_with(&options).await.unwrap();
        let tables = "CREATE TABLE notes (id INTEGER, body TEXT, raw BLOB);
                      INSERT INTO notes VALUES (17, 'Ann''s Goods', CAST('ann@example.com' AS BLOB));";
        sqlx::raw_sql(tables).execute(&mut db).await.unwrap();
        let sqlite = Store::in_file(&path).await;

        let database = Postgres::shared().await.database().await;
        let mut db = database.connect().await;
        let tables = "CREATE SCHEMA pulse_lifecycle;
                      CREATE TABLE pulse_lifecycle.notes (id bigint, body text, raw bytea, more jsonb);
                      INSERT INTO pulse_lifecycle.notes VALUES (17, 'Ann''s Goods', 'ann@example.com', '{\"a\": \"deep\"}');";
        sqlx::raw_sql(tables).execute(&mut db).await.unwrap();
        let mut postgres = Store::in_postgres(&database, Service::Lifecycle).await;
        assert_eq!(postgres.rows_with("DEEP").await, ["pulse_lifecycle notes: more"]);

        for mut store in [sqlite, postgres] {
            let name = store.name.clone();
            for (text, column) in [("17", "id"), ("ann's goods", "body"), ("ANN@Example.com", "raw")] {
                assert_eq!(store.rows_with(text).await, [format!("{name} notes: {column}")]);
            }
            assert_eq!(store.rows_with("bob@example.com").await, Vec::<String>::new());
        }
    }
}
