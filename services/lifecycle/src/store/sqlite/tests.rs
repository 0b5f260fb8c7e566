//! What only the database itself can promise: illegal rows are refused, queries use their indexes, and everything
//! is there again after a restart.

use std::sync::Arc;

use jiff::SignedDuration;
use pulse_store::StoreError;
use pulse_testkit::{ManualClock, SeededEntropy};
use sqlx::{AssertSqlSafe, Row};
use tempfile::TempDir;

use super::*;
use crate::store::conformance::{START, by, id, make, new, organization, store_conformance};

async fn open_in(directory: &TempDir) -> SqliteStore {
    let path = directory.path().join("lifecycle.db");
    SqliteStore::open(&path, &ManualClock::default(), Arc::new(SeededEntropy::default())).await.unwrap()
}

async fn open() -> (SqliteStore, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (open_in(&directory).await, directory)
}

store_conformance!(open());

async fn execute(store: &SqliteStore, statement: String) -> Result<(), StoreError> {
    store
        .db
        .write(move |conn| {
            Box::pin(async move {
                sqlx::raw_sql(AssertSqlSafe(statement)).execute(conn).await?;
                Ok(())
            })
        })
        .await
}

#[tokio::test]
async fn everything_is_there_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_in(&directory).await;
    let mut before = Vec::new();
    for kind in StatusKind::ALL {
        before.push(make(&store, &format!("org-{}", kind.as_str().replace('_', "-")), kind).await);
    }
    store.close().await;
    let store = open_in(&directory).await;
    for organization in before {
        let found = store.find(&organization.id).await.unwrap();
        assert_eq!(found, Found::Organization(organization));
    }
    assert_eq!(store.audit_events(&OrgId::default_org(), None, 10).await.unwrap().len(), 1, "made once");
    let broken =
        store.db.read(|conn| Box::pin(async move { Ok::<_, StoreError>(audit::verify_all(conn).await?) }));
    assert_eq!(broken.await.unwrap(), []);
}

#[tokio::test]
async fn a_lease_ends_with_the_process_that_held_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_in(&directory).await;
    let lasting = Duration::from_hours(1);
    let held = store.take_lease("reaper", "one", lasting).await.unwrap().unwrap();
    // It did not give it back.
    store.close().await;
    let store = open_in(&directory).await;
    let next = store.take_lease("reaper", "two", lasting).await.unwrap().unwrap();
    assert!(next.token > held.token);
}

#[tokio::test]
async fn rows_that_the_program_never_writes_cannot_be_written() {
    let (store, _directory) = open().await;
    for kind in StatusKind::ALL {
        make(&store, &format!("org-{}", kind.as_str().replace('_', "-")), kind).await;
    }
    store.take_lease("reaper", "one", Duration::ZERO).await.unwrap().unwrap();
    let set = |org: &str, what: &str| {
        format!("UPDATE organizations SET version = version + 1, {what} WHERE id = '{org}'")
    };
    let insert = |columns: &str| {
        format!(
            "INSERT INTO organizations (id, display_name, owner_user_id, owner_email, owner_email_canonical, status,
             created_at, updated_at, version) VALUES ({columns})"
        )
    };
    for statement in [
        // Illegal changes of status, each with the columns that would fit it.
        set("org-provisioning", "status = 'suspended', suspended_at = 1"),
        set("org-suspended", "status = 'provisioning', suspended_at = NULL"),
        set("org-active", "status = 'provisioning'"),
        set(
            "org-active",
            "status = 'purging', deletion_requested_at = 1, retention_days = 1, purge_after = 2, purging_since = 3",
        ),
        set(
            "org-purging",
            "status = 'active', deletion_requested_at = NULL, retention_days = NULL, purge_after = NULL,
             purging_since = NULL",
        ),
        set("org-purging", "status = 'pending_deletion', purging_since = NULL"),
        // A purge before its time, also by way of moving the time.
        set("org-pending-deletion", "status = 'purging', purging_since = purge_after - 1"),
        set("org-pending-deletion", "status = 'purging', purging_since = purge_after, purge_after = purge_after - 9"),
        // A deletion that takes a suspension along, a restoration that brings one.
        set(
            "org-suspended",
            "status = 'pending_deletion', suspended_at = NULL, suspend_reason = NULL, deletion_requested_at = 1,
             retention_days = 1, purge_after = 2",
        ),
        set(
            "org-pending-deletion",
            "status = 'suspended', suspended_at = 1, deletion_requested_at = NULL, retention_days = NULL,
             purge_after = NULL",
        ),
        // The default organization.
        set("default", "status = 'suspended', suspended_at = 1"),
        set("default", "status = 'pending_deletion', deletion_requested_at = 1, retention_days = 1, purge_after = 2"),
        set("default", "owner_user_id = 'x', owner_email = 'x', owner_email_canonical = 'x'"),
        "DELETE FROM organizations WHERE id = 'default'".to_owned(),
        "INSERT INTO tombstones VALUES ('default', 'purged', 1)".to_owned(),
        // Columns that contradict the status.
        set("org-active", "suspended_at = 1"),
        set("org-active", "suspend_reason = 'x'"),
        set("org-active", "purge_after = 1"),
        set("org-suspended", "suspended_at = NULL"),
        set("org-pending-deletion", "retention_days = NULL"),
        set("org-pending-deletion", "retention_days = 0"),
        set("org-pending-deletion", "retention_days = 3651"),
        set("org-pending-deletion", "purge_after = deletion_requested_at"),
        set("org-active", "status = 'unheard-of'"),
        set("org-active", "owner_email = NULL"),
        // What never changes, and what only counts up.
        set("org-active", "created_at = 1"),
        set("org-active", "id = 'renamed'"),
        "UPDATE organizations SET display_name = 'x' WHERE id = 'org-active'".to_owned(),
        "UPDATE organizations SET version = version + 2 WHERE id = 'org-active'".to_owned(),
        // Ends and beginnings out of turn.
        "DELETE FROM organizations WHERE id = 'org-active'".to_owned(),
        "DELETE FROM organizations WHERE id = 'org-pending-deletion'".to_owned(),
        "INSERT INTO tombstones VALUES ('org-active', 'purged', 1)".to_owned(),
        insert("'new', 'New', 'u', 'n@example.com', 'n@example.com', 'active', 1, 1, 1"),
        insert("'new', 'New', 'u', 'n@example.com', 'n@example.com', 'provisioning', 1, 1, 2"),
        insert("'new', 'New', NULL, NULL, NULL, 'provisioning', 1, 1, 1"),
        insert("'New', 'New', 'u', 'n@example.com', 'n@example.com', 'provisioning', 1, 1, 1"),
        insert("'../x', 'New', 'u', 'n@example.com', 'n@example.com', 'provisioning', 1, 1, 1"),
        "INSERT INTO status_history VALUES ('org-active', 9, 'purging', 'active', 1)".to_owned(),
        "INSERT INTO status_history VALUES ('nowhere', 9, NULL, 'active', 1)".to_owned(),
        // A lease whose tokens begin anew, or that changes hands without a greater one.
        "UPDATE leases SET token = token - 1".to_owned(),
        "UPDATE leases SET owner = 'two'".to_owned(),
        "UPDATE leases SET name = 'sweeper'".to_owned(),
        "DELETE FROM leases".to_owned(),
    ] {
        let refused = execute(&store, statement.clone()).await.expect_err(&statement);
        let class = refused.class().unwrap();
        assert!(
            matches!(class, SqlErrorClass::CheckViolation { .. } | SqlErrorClass::ForeignKeyViolation),
            "{statement}: {refused}"
        );
    }
    // The same statements are fine where they are legal, so it is the rule that refused them.
    execute(&store, set("org-active", "status = 'suspended', suspended_at = 1")).await.unwrap();
    execute(&store, insert("'new', 'New', 'u', 'n@example.com', 'n@example.com', 'provisioning', 1, 1, 1"))
        .await
        .unwrap();
}

#[tokio::test]
async fn tombstones_neither_change_nor_go_nor_let_their_id_be_used() {
    let (store, _directory) = open().await;
    store.remove(Removal::of_unknown(id("late"), START), by("service:test")).await.unwrap();
    for statement in [
        "DELETE FROM tombstones",
        "UPDATE tombstones SET kind = 'purged'",
        "INSERT INTO organizations (id, display_name, owner_user_id, owner_email, owner_email_canonical, status,
         created_at, updated_at, version) VALUES ('late', 'L', 'u', 'l@x.org', 'l@x.org', 'provisioning', 1, 1, 1)",
    ] {
        let refused = execute(&store, statement.to_owned()).await.unwrap_err();
        assert!(matches!(refused.class(), Some(SqlErrorClass::CheckViolation { .. })), "{statement}");
    }
}

#[tokio::test]
async fn no_query_reads_more_rows_than_it_returns() {
    let (store, _directory) = open().await;
    for query in [LIST, LIST_BY_STATUS, FIND, DUE, PURGING] {
        let plan = store.db.read(move |conn| {
            Box::pin(async move {
                let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}"));
                Ok::<_, StoreError>(sqlx::query(explain).fetch_all(conn).await?)
            })
        });
        for row in plan.await.unwrap() {
            let step: String = row.get("detail");
            assert!(step.starts_with("SEARCH") && !step.contains("TEMP B-TREE"), "{step}\n{query}");
        }
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named() {
    let (store, _directory) = open().await;
    make(&store, "acme", StatusKind::Active).await;
    execute(
        &store,
        "UPDATE organizations SET version = version + 1, owner_user_id = 'no uuid' WHERE id = 'acme'"
            .to_owned(),
    )
    .await
    .unwrap();
    let error = store.find(&id("acme")).await.unwrap_err();
    assert_eq!(error.class(), Some(SqlErrorClass::Decode));
    assert!(error.to_string().contains("acme"), "{error}");
}

#[tokio::test]
async fn the_migration_holds_the_audit_tables_as_documented() {
    let migration = include_str!("../../../migrations/sqlite/0001_organizations.sql");
    assert!(migration.contains(audit::DDL));
}

#[tokio::test]
async fn changes_of_many_organizations_share_commits() {
    let (store, _directory) = open().await;
    let before = store.db.write_stats();
    let creations = (0..50).map(|number| {
        store.create(new(&format!("org-{number}"), &format!("{number}@example.com")), by("service:test"))
    });
    futures::future::join_all(creations).await.into_iter().for_each(|created| {
        assert_eq!(created.unwrap(), Creation::Created);
    });
    let stats = store.db.write_stats();
    assert_eq!(stats.jobs - before.jobs, 50);
    assert!(stats.commits - before.commits < 10);
    assert_eq!(organization(&store, "org-7").await.created_at + SignedDuration::ZERO, START);
}
