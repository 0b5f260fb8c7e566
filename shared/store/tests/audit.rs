//! Audit chains in SQLite: kept, listed, erased, verified, and protected from being changed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use jiff::Timestamp;
use pulse_kernel::OrgId;
use pulse_store::{
    SqlErrorClass, SqliteDb, StoreError,
    audit::{AuditDraft, AuditRecord, Broken, Damage, Head, Salt, memory::Chains, sqlite as audit, verify},
};
use serde_json::json;
use sqlx::{AssertSqlSafe, migrate::Migrator};

static AUDIT: Migrator = sqlx::migrate!("tests/migrations/audit");

async fn open(directory: &tempfile::TempDir) -> SqliteDb {
    SqliteDb::open(&directory.path().join("audit.db"), &AUDIT).await.unwrap()
}

fn org(id: &str) -> OrgId {
    OrgId::parse(id).unwrap()
}

fn draft(org_id: &str, number: i64) -> AuditDraft {
    AuditDraft {
        org_id: org(org_id),
        at: Timestamp::new(1_700_000_000 + number, 987_654_321).unwrap(),
        actor: "service:test".to_owned(),
        action: "thing_changed".to_owned(),
        reason: Some("because".to_owned()),
        before: None,
        after: Some(json!({"number": number, "share": 0.1 * f64::from(u8::try_from(number).unwrap())})),
        request_id: Some("r-1".to_owned()),
    }
}

fn salt(number: i64) -> Salt {
    Salt([u8::try_from(number).unwrap(); 16])
}

async fn fill(db: &SqliteDb, org_id: &'static str, length: i64) -> Vec<AuditRecord> {
    db.write(move |conn| {
        Box::pin(async move {
            let mut records = Vec::new();
            for number in 1..=length {
                records.push(audit::append(conn, draft(org_id, number), salt(number)).await?);
            }
            Ok::<_, StoreError>(records)
        })
    })
    .await
    .unwrap()
}

async fn list(db: &SqliteDb, org_id: &'static str, before: Option<i64>, limit: u32) -> Vec<AuditRecord> {
    db.read(move |conn| {
        Box::pin(async move { Ok::<_, StoreError>(audit::list(conn, &org(org_id), before, limit).await?) })
    })
    .await
    .unwrap()
}

async fn verify_all(db: &SqliteDb) -> Vec<(OrgId, Broken)> {
    db.read(|conn| Box::pin(async move { Ok::<_, StoreError>(audit::verify_all(conn).await?) }))
        .await
        .unwrap()
}

async fn execute(db: &SqliteDb, statement: &str) -> Result<(), StoreError> {
    let statement = statement.to_owned();
    db.write(move |conn| {
        Box::pin(async move {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(conn).await?;
            Ok(())
        })
    })
    .await
}

#[tokio::test]
async fn records_are_listed_newest_first_in_pages_and_verify() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    let written = fill(&db, "acme", 5).await;
    fill(&db, "other", 2).await;
    let first = list(&db, "acme", None, 3).await;
    let second = list(&db, "acme", Some(first[2].sequence), 3).await;
    let mut all = [first, second].concat();
    all.reverse();
    assert_eq!(all, written);
    assert_eq!(verify(&all, Some(&written[4].head())).unwrap().sequence, 5);
    assert_eq!(verify_all(&db).await, []);
}

#[tokio::test]
async fn the_model_in_memory_seals_the_same_records() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    fill(&db, "acme", 4).await;
    let mut model = Chains::default();
    for number in 1..=4 {
        model.append(draft("acme", number), salt(number));
    }
    assert_eq!(model.list(&org("acme"), None, 10), list(&db, "acme", None, 10).await);
    assert_eq!(model.list(&org("acme"), Some(3), 1), list(&db, "acme", Some(3), 1).await);
    model.erase_details(&org("acme"));
    assert_eq!(model.verify_all(), []);
    model.delete(&org("acme"));
    assert_eq!(model.list(&org("acme"), None, 10), []);
}

#[tokio::test]
async fn erased_details_are_gone_and_the_chain_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    fill(&db, "acme", 3).await;
    fill(&db, "other", 1).await;
    db.write(|conn| {
        Box::pin(async move {
            audit::erase_details(conn, &org("acme")).await?;
            audit::append(conn, draft("acme", 4), salt(4)).await?;
            Ok::<_, StoreError>(())
        })
    })
    .await
    .unwrap();
    let records = list(&db, "acme", None, 10).await;
    assert!(records[0].details.is_some());
    assert!(records[1..].iter().all(|record| record.details.is_none() && record.salt.is_none()));
    assert!(list(&db, "other", None, 1).await[0].details.is_some(), "another tenant's details stay");
    assert_eq!(verify_all(&db).await, []);
}

#[tokio::test]
async fn a_deleted_chain_is_gone_head_and_all() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    fill(&db, "acme", 3).await;
    db.write(|conn| Box::pin(async move { Ok::<_, StoreError>(audit::delete(conn, &org("acme")).await?) }))
        .await
        .unwrap();
    assert_eq!(list(&db, "acme", None, 10).await, []);
    assert_eq!(fill(&db, "acme", 1).await[0].previous_hash, Head::EMPTY.hash);
}

#[tokio::test]
async fn the_database_refuses_to_change_a_record_or_to_move_a_head_back() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    fill(&db, "acme", 3).await;
    for statement in [
        "UPDATE audit_events SET actor = 'x'",
        "UPDATE audit_events SET details = '{}'",
        "UPDATE audit_events SET details = NULL",
        "UPDATE audit_events SET hash = zeroblob(32)",
        "UPDATE audit_events SET occurred_at = occurred_at + 1",
        "UPDATE audit_heads SET sequence = 2",
        "INSERT INTO audit_events SELECT org_id, 9, occurred_at, actor, action, 'no json', salt, details_hash,
         previous_hash, hash FROM audit_events WHERE sequence = 1",
    ] {
        let refused = execute(&db, statement).await.unwrap_err();
        assert!(matches!(refused.class(), Some(SqlErrorClass::CheckViolation { .. })), "{statement}: {refused}");
    }
}

#[tokio::test]
async fn whoever_gets_around_the_triggers_is_found_out() {
    for (tampering, sequence, what) in [
        ("UPDATE audit_events SET actor = 'x' WHERE sequence = 2", 2, Damage::Altered),
        (
            "UPDATE audit_events SET details = '{\"reason\":\"x\"}' WHERE sequence = 1",
            1,
            Damage::DetailsAltered,
        ),
        ("DELETE FROM audit_events WHERE sequence = 2", 2, Damage::OutOfOrder { found: 3 }),
        ("DELETE FROM audit_events WHERE sequence = 3", 3, Damage::Missing),
        ("DELETE FROM audit_events", 1, Damage::Missing),
        ("DELETE FROM audit_heads", 1, Damage::BeyondHead),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let db = open(&directory).await;
        fill(&db, "acme", 3).await;
        execute(&db, "DROP TRIGGER audit_events_change_only_by_erasure").await.unwrap();
        execute(&db, tampering).await.unwrap();
        assert_eq!(verify_all(&db).await, [(org("acme"), Broken { sequence, what })], "{tampering}");
    }
}

#[test]
fn the_documented_tables_are_the_ones_tested() {
    assert_eq!(include_str!("migrations/audit/0001_audit.sql"), audit::DDL);
}
