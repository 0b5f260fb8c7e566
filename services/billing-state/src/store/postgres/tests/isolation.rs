//! I10: what a tenant's transaction sees and changes. Row-level security alone decides: no statement here says whose rows it
//! means.

use pulse_store::{
    StoreError as DatabaseError,
    postgres::{Failure, Work, turn_to_every},
};

use super::*;

/// Every table with tenants' rows, and a change that the service may make there.
const TABLES: [(&str, Option<&str>); 5] = [
    ("billing_states", Some("revision = revision + 1")),
    ("purged_tenants", None),
    ("audit_events", None),
    ("audit_heads", Some("sequence = sequence + 1")),
    ("changes", None),
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

impl From<DatabaseError> for Seen {
    fn from(error: DatabaseError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl Failure for Seen {
    fn as_store(&self) -> Option<&DatabaseError> {
        None
    }
}

/// Runs a statement in a transaction that may write, so that nothing but the policies keeps it from doing so.
async fn see(store: &PostgresStore, turned: Turned, statement: &str) -> Seen {
    let work: Work<(Turned, String), (), Seen> = |(turned, statement), conn| {
        Box::pin(async move {
            if let Turned::ToAll = turned {
                turn_to_every(conn).await.map_err(DatabaseError::from)?;
            }
            let statement = AssertSqlSafe(statement.clone());
            let seen = if statement.0.starts_with("SELECT") {
                sqlx::query_scalar(statement).fetch_all(conn).await.map(Seen::Ids)
            } else {
                sqlx::query(statement).execute(conn).await.map(|done| Seen::Rows(done.rows_affected()))
            };
            Err(seen.unwrap_or_else(|error| {
                let (code, constraint) = refusal(&error);
                Seen::Refused(if constraint.is_empty() { code } else { constraint })
            }))
        })
    };
    let input = (turned, statement.to_owned());
    let seen = match turned {
        Turned::Nowhere => store.db.write_apart(input, work).await,
        Turned::To(org) => store.db.write(&OrgId::parse(org).unwrap(), input, work).await,
        Turned::ToAll => store.db.write(&OrgId::default_org(), input, work).await,
    };
    seen.unwrap_err()
}

async fn ids(store: &PostgresStore, turned: Turned, table: &str) -> Vec<String> {
    let statement = format!("SELECT DISTINCT org_id FROM {table} ORDER BY 1");
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

/// `a` and `b` have rows in every table: a tombstone beside a state, which only a superuser can bring about.
async fn two_with_everything() -> (PostgresStore, Database) {
    let database = Postgres::shared().await.database().await;
    let store = open(&database, 1).await;
    for org in ["a", "b"] {
        store.put(trial_of(org)).await.unwrap();
    }
    let mut vandal = connect_as_vandal(&database).await;
    run(&mut vandal, "INSERT INTO purged_tenants VALUES ('a', now()), ('b', now())").await.unwrap();
    (store, database)
}

#[tokio::test]
async fn a_pooled_connection_forgets_whom_it_served() {
    let (store, _database) = two_with_everything().await;
    let server = "SELECT pg_backend_pid()::text";
    let Seen::Ids(first) = see(&store, Turned::To("a"), server).await else { panic!("no id") };
    for (table, _) in TABLES {
        assert_eq!(ids(&store, Turned::To("a"), table).await, ["a"], "{table}");
        assert_eq!(ids(&store, Turned::Nowhere, table).await, [""; 0], "{table}");
        assert_eq!(ids(&store, Turned::To("b"), table).await, ["b"], "{table}");
        assert_eq!(ids(&store, Turned::ToAll, table).await, ["a", "b"], "{table}");
    }
    let Seen::Ids(last) = see(&store, Turned::To("b"), server).await else { panic!("no id") };
    assert_eq!(first, last, "it was one connection all the time");
}

#[tokio::test]
async fn nobody_changes_or_deletes_the_rows_of_another() {
    let (store, _database) = two_with_everything().await;
    for (table, change) in TABLES {
        let Some(change) = change else { continue };
        let update = format!("UPDATE {table} SET {change}");
        for nobody in [Turned::Nowhere, Turned::ToAll, Turned::To("c")] {
            assert_eq!(rows(&store, nobody, &update).await, 0, "{nobody:?}: {update}");
        }
    }
    assert_eq!(rows(&store, Turned::To("b"), "UPDATE audit_heads SET sequence = sequence + 1").await, 1);
    let own = see(&store, Turned::To("b"), "UPDATE billing_states SET revision = revision + 1").await;
    assert!(
        matches!(&own, Seen::Refused(constraint) if constraint == "billing_states_are_audited"),
        "{own:?}"
    );

    for table in ["billing_states", "audit_heads", "changes"] {
        let delete = format!("DELETE FROM {table}");
        assert_eq!(rows(&store, Turned::Nowhere, &delete).await, 0, "{delete}");
        assert_eq!(rows(&store, Turned::To("b"), &delete).await, 1, "{delete}: its own, and not the other's");
    }
    for table in ["billing_states", "audit_heads", "audit_events"] {
        let delete = format!("DELETE FROM {table}");
        assert_eq!(rows(&store, Turned::ToAll, &delete).await, 0, "{delete}");
    }
    // Old changes are dropped for all at once.
    assert_eq!(rows(&store, Turned::ToAll, "DELETE FROM changes").await, 2);
    for insert in [
        "INSERT INTO purged_tenants VALUES ('c', now())",
        "INSERT INTO audit_heads VALUES ('c', 1, decode(repeat('00', 32), 'hex'))",
        "INSERT INTO changes (org_id, version, at) VALUES ('c', 1, now())",
        "INSERT INTO audit_events SELECT 'c', 1, now(), 'x', 'x', NULL, NULL, zero, zero, zero
         FROM decode(repeat('00', 32), 'hex') AS zero",
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
    let (_store, database) = open_new().await;
    let tables: Vec<(String, bool)> = sqlx::query_as(
        "SELECT relname::text, relrowsecurity AND relforcerowsecurity FROM pg_class
         WHERE relnamespace = 'pulse_billing_state'::regnamespace AND relkind = 'r'
             AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'org_id')
         ORDER BY 1",
    )
    .fetch_all(&mut database.connect().await)
    .await
    .unwrap();
    let mut expected: Vec<_> = TABLES.iter().map(|(table, _)| ((*table).to_owned(), true)).collect();
    expected.sort();
    assert_eq!(tables, expected);
}
