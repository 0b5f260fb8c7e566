//! I10: what an organization's transaction sees and changes. Row-level security alone decides: no statement here says whose
//! rows it means.

use super::*;

/// Every table with organizations' rows, the column that says whose a row is, and a change that the service may make there.
const TABLES: [(&str, &str, Option<&str>); 6] = [
    ("organizations", "id", Some("version = version + 1")),
    ("status_history", "org_id", None),
    ("tombstones", "org_id", None),
    ("audit_events", "org_id", Some("details = NULL, salt = NULL")),
    ("audit_heads", "org_id", Some("sequence = sequence + 1")),
    ("changes", "org_id", None),
];

/// Whose transaction it is.
#[derive(Debug, Clone, Copy)]
enum Turned {
    Nowhere,
    To(&'static str),
    ToAll,
}

/// What a transaction saw or did, which is rolled back.
#[derive(Debug)]
enum Seen {
    Ids(Vec<String>),
    Rows(u64),
    Refused(String),
}

impl From<StoreError> for Seen {
    fn from(error: StoreError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl Failure for Seen {
    fn as_store(&self) -> Option<&StoreError> {
        None
    }
}

/// Runs a statement in a transaction that may write, so that nothing but the policies keeps it from doing so.
async fn see(store: &PostgresStore, turned: Turned, statement: &str) -> Seen {
    let work: Work<(Turned, String), (), Seen> = |(turned, statement), conn| {
        Box::pin(async move {
            if let Turned::ToAll = turned {
                turn_to_every(conn).await.map_err(StoreError::from)?;
            }
            let statement = AssertSqlSafe(statement.clone());
            let seen = if statement.0.starts_with("SELECT") {
                sqlx::query_scalar(statement).fetch_all(conn).await.map(Seen::Ids)
            } else {
                sqlx::query(statement).execute(conn).await.map(|done| Seen::Rows(done.rows_affected()))
            };
            Err(seen.unwrap_or_else(|error| Seen::Refused(refusal(&error).0)))
        })
    };
    let input = (turned, statement.to_owned());
    let seen = match turned {
        Turned::Nowhere => store.db.write_apart(input, work).await,
        Turned::To(org) => store.db.write(&id(org), input, work).await,
        Turned::ToAll => store.db.write(&OrgId::default_org(), input, work).await,
    };
    seen.unwrap_err()
}

async fn ids(
    store: &PostgresStore,
    turned: Turned,
    (table, column, _): (&str, &str, Option<&str>),
) -> Vec<String> {
    let statement = format!("SELECT DISTINCT {column} FROM {table} ORDER BY 1");
    match see(store, turned, &statement).await {
        Seen::Ids(ids) => ids,
        other => panic!("{statement}: {other:?}"),
    }
}

async fn rows(store: &PostgresStore, turned: Turned, statement: &str) -> u64 {
    match see(store, turned, statement).await {
        Seen::Rows(rows) => rows,
        other => panic!("{statement}: {other:?}"),
    }
}

/// `a` and `b` have rows in every table: each was there, and is there again, which only the owner can bring about.
async fn two_with_everything(database: &Database) -> PostgresStore {
    let store = replica_by(database.url(), 1).await;
    for org in ["a", "b"] {
        make(&store, org, StatusKind::Provisioning).await;
    }
    let mut superuser = database.connect().await;
    let tombstones = "SET session_replication_role = replica;
        INSERT INTO pulse_lifecycle.tombstones VALUES ('a', 'purged', now()), ('b', 'purged', now())";
    run(&mut superuser, tombstones).await.unwrap();
    store
}

#[tokio::test]
async fn a_pooled_connection_forgets_whom_it_served() {
    let database = Postgres::shared().await.database().await;
    let store = two_with_everything(&database).await;
    let server = "SELECT pg_backend_pid()::text";
    let Seen::Ids(first) = see(&store, Turned::To("a"), server).await else { panic!("no id") };
    for table in TABLES {
        assert_eq!(ids(&store, Turned::To("a"), table).await, ["a"], "{table:?}");
        assert_eq!(ids(&store, Turned::Nowhere, table).await, [""; 0], "{table:?}");
        assert_eq!(ids(&store, Turned::To("b"), table).await, ["b"], "{table:?}");
        let everyone = ids(&store, Turned::ToAll, table).await;
        assert!(everyone.starts_with(&["a".to_owned(), "b".to_owned()]), "{table:?}: {everyone:?}");
    }
    let Seen::Ids(last) = see(&store, Turned::To("b"), server).await else { panic!("no id") };
    assert_eq!(first, last, "it was one connection all the time");
}

#[tokio::test]
async fn nobody_changes_or_deletes_the_rows_of_another() {
    let database = Postgres::shared().await.database().await;
    let store = two_with_everything(&database).await;
    for (table, _, change) in TABLES {
        let Some(change) = change else { continue };
        let update = format!("UPDATE {table} SET {change}");
        for nobody in [Turned::Nowhere, Turned::ToAll] {
            assert_eq!(rows(&store, nobody, &update).await, 0, "{nobody:?}: {update}");
        }
        assert_eq!(rows(&store, Turned::To("b"), &update).await, 1, "{update}: its own, and not the other's");
    }
    for table in ["organizations", "changes"] {
        let delete = format!("DELETE FROM {table}");
        assert_eq!(rows(&store, Turned::Nowhere, &delete).await, 0, "{delete}");
        assert_eq!(rows(&store, Turned::To("b"), &delete).await, 1, "{delete}");
    }
    assert_eq!(rows(&store, Turned::ToAll, "DELETE FROM organizations").await, 0);
    // Old changes are dropped for all at once.
    assert!(rows(&store, Turned::ToAll, "DELETE FROM changes").await > 2);
    for insert in [
        "INSERT INTO tombstones VALUES ('c', 'purged', now())",
        "INSERT INTO audit_heads VALUES ('c', 1, decode(repeat('00', 32), 'hex'))",
        "INSERT INTO changes (org_id, version, at) VALUES ('c', 1, now())",
        "INSERT INTO organizations (id, display_name, owner_user_id, owner_email, owner_email_canonical, status,
         created_at, updated_at, version)
         VALUES ('c', 'C', 'u', 'c@x.org', 'c@x.org', 'provisioning', now(), now(), 1)",
    ] {
        for nobody in [Turned::Nowhere, Turned::ToAll, Turned::To("b")] {
            let seen = see(&store, nobody, insert).await;
            assert!(matches!(&seen, Seen::Refused(code) if code == DENIED), "{nobody:?}: {insert}: {seen:?}");
        }
        assert_eq!(rows(&store, Turned::To("c"), insert).await, 1, "{insert}");
    }
}

#[tokio::test]
async fn every_table_with_a_tenant_in_it_is_closed_even_to_its_owner() {
    let (_store, database) = open().await;
    let mut conn = database.connect().await;
    let tables: Vec<(String, bool)> = sqlx::query_as(
        "SELECT relname::text, relrowsecurity AND relforcerowsecurity FROM pg_class
         WHERE relnamespace = 'pulse_lifecycle'::regnamespace AND relkind = 'r' AND (relname = 'organizations'
             OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'org_id'))
         ORDER BY 1",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    let mut expected: Vec<_> = TABLES.iter().map(|(table, ..)| ((*table).to_owned(), true)).collect();
    expected.sort();
    assert_eq!(tables, expected);
}
