//! Moving an embedded store into PostgreSQL: every value the same, and a target that is not empty left alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;
use pulse_kernel::OrgId;
use pulse_runtime::DatabaseSettings;
use pulse_store::{
    SqliteDb, StoreError,
    audit::{AuditDraft, Damage, Salt, sqlite as audit},
    postgres::Schema,
    transfer::{Plan, Table, TransferError, Transferred, sqlite::SqliteOrigin, transfer},
};
use pulse_testkit::{Postgres, postgres::Database};
use sqlx::{AssertSqlSafe, migrate::Migrator};

static SQLITE: Migrator = sqlx::migrate!("tests/migrations/transfer");
static POSTGRES: Migrator = sqlx::migrate!("tests/migrations/postgres/audit");
static SCHEMA: Schema =
    Schema { name: "pulse_lifecycle", program: "pulse-lifecycle", migrator: &POSTGRES, has_feed: false };

const PLAN_TABLES: &[Table] = &[
    Table { name: "kinds", tenant: "org_id", key: &["org_id", "n"] },
    Table { name: "audit_events", tenant: "org_id", key: &["org_id", "sequence"] },
    Table { name: "audit_heads", tenant: "org_id", key: &["org_id"] },
];

static PLAN: Plan = Plan {
    schema: &SCHEMA,
    fresh: Some(OrgId::DEFAULT),
    tables: PLAN_TABLES,
    afterwards: &["INSERT INTO totals SELECT count(*) FROM kinds"],
};

/// More than fit into one batch.
const TENANTS: i64 = 1234;

struct World {
    folder: tempfile::TempDir,
    database: Database,
}

impl World {
    async fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
            database: Postgres::shared().await.database().await,
        };
        let db = world.open().await;
        let filled: Result<(), StoreError> = db
            .write(|conn| {
                Box::pin(async move {
                    sqlx::query(
                        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)
                         INSERT INTO kinds SELECT 'org-' || n, n, n / 8.0, 1800000000123456 + n, randomblob(9),
                                                  'it''s ' || n || ' é \"' || char(10) FROM n",
                    )
                    .bind(TENANTS)
                    .execute(&mut *conn)
                    .await?;
                    sqlx::query(
                        "INSERT INTO kinds VALUES
                         ('default', -9223372036854775807, 30.0, -62135596800000000, x'', ''),
                         ('default', 9223372036854775807, 1e-9, 9000000000000001, x'00ff', NULL),
                         ('a', 0, NULL, NULL, NULL, NULL)",
                    )
                    .execute(&mut *conn)
                    .await?;
                    for number in 1..=3 {
                        let draft = AuditDraft {
                            org_id: OrgId::parse("org-7").unwrap(),
                            at: Timestamp::UNIX_EPOCH,
                            actor: "ann".to_owned(),
                            action: "thing_changed".to_owned(),
                            reason: None,
                            before: None,
                            after: Some(serde_json::json!({"much": 1e21, "n": number})),
                            request_id: None,
                        };
                        audit::append(conn, draft, Salt([number; 16])).await?;
                    }
                    Ok(())
                })
            })
            .await;
        filled.unwrap();
        db.close().await;
        world
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("things.db")
    }

    async fn open(&self) -> SqliteDb {
        SqliteDb::open(&self.path(), &SQLITE).await.unwrap()
    }

    async fn embedded(&self, statement: &str) {
        let db = self.open().await;
        let statement = statement.to_owned();
        let done: Result<(), StoreError> = db
            .write(|conn| {
                Box::pin(async move {
                    sqlx::raw_sql(AssertSqlSafe(statement)).execute(conn).await?;
                    Ok(())
                })
            })
            .await;
        done.unwrap();
        db.close().await;
    }

    async fn target(&self, statement: &str) -> Vec<i64> {
        let mut conn = self.database.connect().await;
        let setup = "SET session_replication_role = replica; SET search_path = pulse_lifecycle";
        sqlx::raw_sql(setup).execute(&mut conn).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(statement)).fetch_all(&mut conn).await.unwrap()
    }

    async fn run(&self) -> Result<(Transferred, usize), TransferError> {
        self.run_plan(&PLAN).await
    }

    async fn run_plan(&self, plan: &Plan) -> Result<(Transferred, usize), TransferError> {
        let settings = DatabaseSettings {
            database_url: Some(self.database.url().into()),
            database_max_connections: 2.try_into().unwrap(),
            database_acquire_timeout: Duration::from_secs(5),
            database_migrate: true,
        };
        let origin = SqliteOrigin::open(&self.path(), &SQLITE).await?;
        let mut told = 0;
        let done = transfer(&settings, plan, &origin, &mut |_| told += 1).await;
        origin.close().await;
        Ok((done?, told))
    }
}

#[tokio::test]
async fn everything_moves_and_a_second_run_finds_it_there() {
    let world = World::new().await;
    let (moved, told) = world.run().await.unwrap();
    let rows = u64::try_from(TENANTS).unwrap() + 3;
    assert_eq!(moved.tables, [("kinds", rows), ("audit_events", 3), ("audit_heads", 1)]);
    assert!(!moved.already_there && moved.broken_chains.is_empty());
    assert!(told >= 5, "it says how far it is: {told}");
    assert_eq!(world.target("SELECT total FROM totals").await, [TENANTS + 3]);
    let instant = "SELECT n FROM kinds WHERE at = '2027-01-15T08:00:00.123463Z' AND t = E'it''s 7 é \"\\n' AND r = 0.875";
    assert_eq!(world.target(instant).await, [7]);

    let (again, _) = world.run().await.unwrap();
    assert_eq!(again, Transferred { already_there: true, ..moved });
    assert_eq!(world.target("SELECT total FROM totals").await.len(), 1, "nothing was done again");
    // What was switched off is on again.
    let guarded =
        "SELECT count(*) FROM pg_class WHERE relname = 'kinds' AND relforcerowsecurity AND relrowsecurity";
    assert_eq!(world.target(guarded).await, [1]);
    let on = "SELECT count(*) FROM pg_trigger WHERE tgname = 'kinds_refuse' AND tgenabled = 'O'";
    assert_eq!(world.target(on).await, [1]);
}

#[tokio::test]
async fn a_target_with_other_tenants_is_refused_and_left_as_it_is() {
    let world = World::new().await;
    let _ = world.run().await.unwrap();
    world.embedded("DELETE FROM kinds WHERE org_id = 'org-500'").await;
    let refused = world.run().await.unwrap_err();
    let expected =
        matches!(&refused, TransferError::OtherTenants { table: "kinds", row, .. } if row == "org-500 / 500");
    assert!(expected, "{refused}");
    assert_eq!(world.target("SELECT count(*) FROM kinds").await, [TENANTS + 3]);
}

#[tokio::test]
async fn a_target_that_has_changed_since_is_refused_and_left_as_it_is() {
    for change in [
        "UPDATE kinds SET t = 'changed' WHERE org_id = 'org-500'",
        "UPDATE kinds SET r = r + 1e-9 WHERE org_id = 'org-500'",
        "UPDATE kinds SET at = at + 1 WHERE org_id = 'org-500'",
        "UPDATE kinds SET b = x'00' WHERE org_id = 'org-500'",
        "INSERT INTO kinds (org_id, n) VALUES ('org-5000', 1)",
    ] {
        let world = World::new().await;
        let _ = world.run().await.unwrap();
        world.embedded(change).await;
        let refused = world.run().await.unwrap_err();
        assert!(
            matches!(&refused, TransferError::Differs { table: "kinds", row, .. } if row.starts_with("org-500")),
            "{change}: {refused}"
        );
        assert_eq!(world.target("SELECT count(*) FROM kinds").await, [TENANTS + 3]);
    }
}

#[tokio::test]
async fn a_target_that_holds_only_the_default_organization_is_filled() {
    let world = World::new().await;
    let _ = world.run().await.unwrap();
    let _ = world.target("WITH gone AS (DELETE FROM kinds WHERE org_id <> 'default' RETURNING n) SELECT count(*) FROM gone").await;
    let _ = world.target("WITH gone AS (DELETE FROM audit_events RETURNING 1), heads AS (DELETE FROM audit_heads RETURNING 1) SELECT count(*) FROM gone, heads").await;
    let (moved, _) = world.run().await.unwrap();
    assert!(!moved.already_there);
    assert_eq!(world.target("SELECT count(*) FROM kinds").await, [TENANTS + 3]);
}

#[tokio::test]
async fn what_is_stored_of_the_default_organization_counts_where_it_is_not_there_from_the_start() {
    static STRICT: Plan = Plan { schema: &SCHEMA, fresh: None, tables: PLAN_TABLES, afterwards: &[] };
    let world = World::new().await;
    world.embedded("DELETE FROM kinds WHERE org_id <> 'default'").await;
    let (moved, _) = world.run_plan(&STRICT).await.unwrap();
    assert!(!moved.already_there);
    let changed = "WITH changed AS (UPDATE kinds SET r = 7 WHERE org_id = 'default' AND n > 0 RETURNING n) SELECT count(*) FROM changed";
    assert_eq!(world.target(changed).await, [1]);
    let refused = world.run_plan(&STRICT).await.unwrap_err();
    assert!(matches!(refused, TransferError::Differs { table: "kinds", .. }), "{refused}");
    assert_eq!(world.target("SELECT n FROM kinds WHERE r = 7").await, [i64::MAX], "it is as it was");
}

#[tokio::test]
async fn a_chain_that_was_broken_before_is_moved_as_it_is_and_named() {
    let world = World::new().await;
    world
        .embedded(
            "DROP TRIGGER audit_events_change_only_by_erasure;
             UPDATE audit_events SET actor = 'mallory' WHERE sequence = 2",
        )
        .await;
    let (moved, _) = world.run().await.unwrap();
    assert_eq!(moved.broken_chains.len(), 1);
    let (org, broken) = &moved.broken_chains[0];
    assert_eq!((org.as_str(), broken.sequence, broken.what), ("org-7", 2, Damage::Altered));
}

#[tokio::test]
async fn a_store_that_is_not_there_or_in_use_is_not_moved() {
    let world = World::new().await;
    let open = world.open().await;
    let refused = world.run().await.unwrap_err().to_string();
    assert!(refused.contains("in use by another process"), "{refused}");
    open.close().await;
    std::fs::remove_file(world.path()).unwrap();
    let refused = world.run().await.unwrap_err().to_string();
    assert!(refused.contains("does not exist"), "{refused}");
    assert!(!world.path().exists(), "nothing was made in its place");
}
