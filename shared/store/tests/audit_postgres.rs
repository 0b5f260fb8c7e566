//! Audit chains in PostgreSQL: the same records as in the other stores, verified, and protected from being changed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use pulse_kernel::{OrgId, OsEntropy};
use pulse_runtime::DatabaseSettings;
use pulse_store::{
    PgDb, SqlErrorClass, StoreError,
    audit::{AuditDraft, AuditRecord, Damage, Salt, memory::Chains, postgres as audit, verify},
    postgres::{Schema, Scope},
};
use pulse_testkit::{Postgres, postgres::Database};
use serde_json::json;
use sqlx::{AssertSqlSafe, migrate::Migrator};

static MIGRATIONS: Migrator = sqlx::migrate!("tests/migrations/postgres/audit");
static SCHEMA: Schema =
    Schema { name: "pulse_lifecycle", program: "pulse-lifecycle", migrator: &MIGRATIONS, has_feed: false };

async fn open() -> (PgDb, Database) {
    let database = Postgres::shared().await.database().await;
    let settings = DatabaseSettings {
        database_url: Some(database.url().into()),
        database_max_connections: 4.try_into().unwrap(),
        database_acquire_timeout: std::time::Duration::from_secs(10),
        database_migrate: true,
    };
    (PgDb::open(&settings, &SCHEMA, Arc::new(OsEntropy)).await.unwrap(), database)
}

fn org(id: &str) -> OrgId {
    OrgId::parse(id).unwrap()
}

/// Numbers that `jsonb` would write otherwise are among them.
fn draft(org_id: &str, number: i64) -> AuditDraft {
    AuditDraft {
        org_id: org(org_id),
        at: Timestamp::new(1_700_000_000 + number, 987_654_321).unwrap(),
        actor: "service:test".to_owned(),
        action: "thing_changed".to_owned(),
        reason: Some("because \u{0} é".to_owned()),
        before: None,
        after: Some(json!({"number": number, "share": 0.1, "much": 1e21, "one": 1.0})),
        request_id: Some("r-1".to_owned()),
    }
}

fn salt(number: i64) -> Salt {
    Salt([u8::try_from(number).unwrap(); 16])
}

async fn append(db: &PgDb, org_id: &'static str, number: i64) -> Result<AuditRecord, StoreError> {
    db.write(&org(org_id), (org_id, number), |(org_id, number), conn| {
        Box::pin(async move { Ok(audit::append(conn, draft(org_id, *number), salt(*number)).await?) })
    })
    .await
}

async fn list(db: &PgDb, org_id: &str, before: Option<i64>, limit: u32) -> Vec<AuditRecord> {
    let org = org(org_id);
    db.read(Scope::Tenant(&org), &(org.clone(), before, limit), |(org, before, limit), conn| {
        Box::pin(async move { Ok::<_, StoreError>(audit::list(conn, org, *before, *limit).await?) })
    })
    .await
    .unwrap()
}

async fn broken(db: &PgDb) -> Vec<(OrgId, pulse_store::audit::Broken)> {
    db.read(Scope::EveryTenant, &(), |(), conn| {
        Box::pin(async move { Ok::<_, StoreError>(audit::verify_all(conn).await?) })
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn they_are_the_records_of_the_model_in_memory() {
    let (db, _database) = open().await;
    let mut model = Chains::default();
    for number in 1..=5 {
        append(&db, "acme", number).await.unwrap();
        append(&db, "other", number).await.unwrap();
        model.append(draft("acme", number), salt(number));
    }
    assert_eq!(list(&db, "acme", None, 10).await, model.list(&org("acme"), None, 10));
    assert_eq!(list(&db, "acme", Some(4), 2).await, model.list(&org("acme"), Some(4), 2));
    assert_eq!(broken(&db).await, []);

    db.write(&org("acme"), (), |(), conn| {
        Box::pin(async move { Ok::<_, StoreError>(audit::erase_details(conn, &org("acme")).await?) })
    })
    .await
    .unwrap();
    model.erase_details(&org("acme"));
    assert_eq!(list(&db, "acme", None, 10).await, model.list(&org("acme"), None, 10));
    append(&db, "acme", 6).await.unwrap();
    assert_eq!(broken(&db).await, []);

    db.write(&org("acme"), (), |(), conn| {
        Box::pin(async move { Ok::<_, StoreError>(audit::delete(conn, &org("acme")).await?) })
    })
    .await
    .unwrap();
    assert_eq!(list(&db, "acme", None, 10).await, []);
    assert_eq!(list(&db, "other", None, 10).await.len(), 5);
}

#[tokio::test]
async fn many_that_write_at_once_make_one_chain() {
    let (db, _database) = open().await;
    let appended = join_all((1..=40).map(|number| append(&db, "acme", number))).await;
    assert!(appended.iter().all(Result::is_ok), "{appended:?}");
    let mut records = list(&db, "acme", None, 100).await;
    records.reverse();
    assert_eq!(verify(&records, None).unwrap().sequence, 40);
    assert_eq!(broken(&db).await, []);
}

#[tokio::test]
async fn records_change_only_by_erasure() {
    let (db, database) = open().await;
    append(&db, "acme", 1).await.unwrap();
    append(&db, "acme", 2).await.unwrap();
    let acme = org("acme");
    for (statement, constraint) in [
        ("UPDATE audit_events SET details = '{}'", "audit_events_change_only_by_erasure"),
        ("UPDATE audit_events SET details = NULL WHERE sequence = 1", "erased_together"),
        ("UPDATE audit_heads SET sequence = 7", "audit_heads_only_advance"),
    ] {
        let refused = db.write(&acme, statement, |statement, conn| {
            Box::pin(async move {
                sqlx::query(*statement).execute(conn).await?;
                Ok::<_, StoreError>(())
            })
        });
        let named = SqlErrorClass::CheckViolation { constraint: constraint.to_owned() };
        assert_eq!(refused.await.unwrap_err().class(), Some(named), "{statement}");
    }
    let forged = db.write(&acme, (), |(), conn| {
        Box::pin(async move {
            sqlx::query("UPDATE audit_events SET actor = 'mallory'").execute(conn).await?;
            Ok::<_, StoreError>(())
        })
    });
    assert!(forged.await.unwrap_err().to_string().contains("permission denied"));

    // Whoever gets past all of this is found out.
    let mut superuser = database.connect().await;
    for (statement, sequence, what) in [
        ("UPDATE audit_events SET actor = 'mallory' WHERE sequence = 2", 2, Damage::Altered),
        ("DELETE FROM audit_events WHERE sequence = 2", 2, Damage::Missing),
        ("DELETE FROM audit_events WHERE sequence = 1", 1, Damage::Missing),
    ] {
        let sql =
            format!("SET session_replication_role = replica; SET search_path = pulse_lifecycle; {statement}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut superuser).await.unwrap();
        let found = broken(&db).await;
        assert_eq!(found.len(), 1, "{statement}");
        assert_eq!((found[0].1.sequence, found[0].1.what), (sequence, what), "{statement}");
    }
}

#[test]
fn the_migration_of_this_test_is_the_text_that_services_repeat() {
    assert!(MIGRATIONS.iter().any(|migration| migration.sql.as_str().contains(audit::DDL)));
}
