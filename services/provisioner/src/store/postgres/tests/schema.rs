//! Opening the schema, and what it refuses whatever the program does.

use futures::future::join_all;
use pulse_store::postgres::migrate;
use sqlx::AssertSqlSafe;

use super::*;
use crate::store::Effect;
use crate::store::conformance::{NOW, advance, provision, tenant};

#[test]
fn the_audit_tables_are_those_that_the_audit_chain_expects() {
    let migration = include_str!("../../../../migrations/postgres/0001_accounts_and_sagas.sql");
    assert!(migration.contains(audit::postgres::DDL));
}

#[tokio::test]
async fn replicas_that_start_at_once_make_the_schema_once() {
    let database = Postgres::shared().await.database().await;
    let stores = join_all((0..4).map(|_| open_on(&database))).await;
    for store in &stores {
        store.ping().await.unwrap();
        assert_eq!(store.count_stuck().await.unwrap(), 0);
    }
    migrate(&settings(database.url()), &SCHEMA).await.unwrap();
    stores[0].close().await;
    assert!(stores[0].ping().await.is_err(), "closed");
    stores[1].ping().await.unwrap();
}

/// Leases are other replicas' own; only their time ends them.
#[tokio::test]
async fn a_start_leaves_the_leases_of_others_alone() {
    let (store, database) = open().await;
    let saga = provision("ann@example.com");
    store.begin(saga.clone()).await.unwrap();
    let another = open_on(&database).await;
    assert!(another.due_sagas(NOW, 10).await.unwrap().is_empty());
    let until = saga.lease.as_ref().unwrap().until;
    assert_eq!(another.due_sagas(until, 10).await.unwrap().len(), 1);
    store.advance(advance(saga, Effect::None)).await.unwrap();
}

#[tokio::test]
async fn a_row_that_cannot_be_read_hides_no_other() {
    let (store, database) = open().await;
    for number in 0..5 {
        store.begin(provision(&format!("user{number}@example.com"))).await.unwrap();
    }
    let newest = store.list_sagas(SagaQuery { limit: 2, ..SagaQuery::default() }).await.unwrap();
    let damage = sqlx::query("UPDATE sagas SET owner_user_id = 'damaged' WHERE org_id = $1");
    damage.bind(newest[0].org_id.as_str()).execute(&mut superuser(&database).await).await.unwrap();
    let page = store.list_sagas(SagaQuery { limit: 4, ..SagaQuery::default() }).await.unwrap();
    assert_eq!(page.len(), 4, "a full page, as there are four others");
    assert_eq!(page[0].org_id, newest[1].org_id);
    let later = NOW.checked_add(Duration::from_secs(31)).unwrap();
    assert_eq!(store.due_sagas(later, 10).await.unwrap().len(), 4);
    assert!(store.find_saga(&newest[0].id()).await.is_err());
}

/// I12: what code must not do, the schema does not let it do, nor a superuser.
#[tokio::test]
async fn illegal_rows_are_refused_by_the_schema() {
    let (store, database) = open().await;
    let (done, owner) = tenant(&store, "ann@example.com").await;
    store.begin(provision("bob@example.com")).await.unwrap();
    let mut conn = superuser(&database).await;
    let running = |set: &str| format!("UPDATE sagas SET {set} WHERE state = 'running'");
    let ended = |set: &str| format!("UPDATE sagas SET {set} WHERE state = 'done'");
    let purge = |org_id: &str, state: &str, step: &str| {
        format!(
            "INSERT INTO sagas (org_id, kind, state, step, attempts, next_attempt_at, version, created_at, updated_at)
             VALUES ('{org_id}', 'purge', '{state}', {step}, 0, now(), 1, now(), now())"
        )
    };
    let account = |set: &str| format!("UPDATE accounts SET {set}");
    for (constraint, statement) in [
        (
            "sagas_step_until_ended",
            running(
                "state = 'done', next_attempt_at = NULL, lease_owner = NULL, lease_until = NULL,
          owner_email = NULL, owner_email_canonical = NULL, password_hash = NULL, org_name = NULL",
            ),
        ),
        ("sagas_step_of_its_kind", running("step = 'finish_purge'")),
        ("sagas_step_of_its_kind", running("step = 'no_such_step'")),
        ("sagas_undone_for_a_cause", running("state = 'compensating'")),
        ("sagas_running_is_tried", running("next_attempt_at = NULL")),
        (
            "sagas_claim_until_ended",
            running(
                "owner_email = NULL, owner_email_canonical = NULL, password_hash = NULL, org_name = NULL",
            ),
        ),
        ("sagas_claim_is_whole", running("password_hash = NULL")),
        ("sagas_claim_is_whole", running("owner_email = NULL")),
        ("sagas_claim_is_whole", running("org_name = NULL")),
        ("sagas_password_is_hashed", running("password_hash = 'plaintext'")),
        ("sagas_direction_of_its_kind", running("state = 'stuck', direction = 'forward'")),
        (
            "sagas_direction_when_stuck",
            running("direction = 'backward', cause_reason = 'x', cause_message = 'x'"),
        ),
        ("sagas_direction_is_known", running("direction = 'sideways'")),
        ("sagas_state_is_known", running("state = 'lost'")),
        (
            "sagas_kind_is_known",
            running(
                "kind = 'other', owner_user_id = NULL, owner_email = NULL,
          owner_email_canonical = NULL, password_hash = NULL, org_name = NULL",
            ),
        ),
        ("sagas_provision_has_an_owner", running("owner_user_id = NULL")),
        ("sagas_lease_is_whole", running("lease_until = NULL")),
        ("sagas_cause_is_whole", running("cause_message = 'x'")),
        ("sagas_failure_is_whole", running("failure_reason = 'x'")),
        ("sagas_attempts_are_counted", running("attempts = -1")),
        ("sagas_version_begins_at_one", running("version = 0")),
        ("sagas_org_is_an_id", running("org_id = '*'")),
        ("sagas_org_is_an_id", running("org_id = 'Acme'")),
        ("sagas_ended_is_not_tried", ended("next_attempt_at = now()")),
        ("sagas_ended_is_not_leased", ended("lease_owner = 'x', lease_until = now()")),
        (
            "sagas_claim_until_ended",
            ended(
                "owner_email = 'x', owner_email_canonical = 'x', password_hash = '$argon2id$x',
          org_name = 'x'",
            ),
        ),
        ("sagas_purge_is_never_undone", purge(done.as_str(), "compensating", "'finish_purge'")),
        ("sagas_step_until_ended", purge(done.as_str(), "running", "NULL")),
        ("sagas_pkey", format!("INSERT INTO sagas SELECT * FROM sagas WHERE org_id = '{done}'")),
        ("accounts_password_is_hashed", account("password_hash = 'plaintext'")),
        ("accounts_home_is_an_id", account("home_org_id = '*'")),
        ("accounts_pkey", "INSERT INTO accounts SELECT * FROM accounts".to_owned()),
        (
            "accounts_one_per_email",
            "INSERT INTO accounts SELECT 'other', home_org_id, email, email_canonical,
          password_hash, created_at FROM accounts"
                .to_owned(),
        ),
        ("memberships_role_is_known", "UPDATE memberships SET role = 'god'".to_owned()),
        ("memberships_org_is_an_id", "UPDATE memberships SET org_id = '*'".to_owned()),
        ("memberships_of_accounts", format!("INSERT INTO memberships VALUES ('{done}', 'nobody', 'owner')")),
        ("memberships_of_accounts", format!("DELETE FROM accounts WHERE user_id = '{owner}'")),
        ("memberships_pkey", "INSERT INTO memberships SELECT * FROM memberships".to_owned()),
        ("audit_events_change_only_by_erasure", "UPDATE audit_events SET actor = 'someone else'".to_owned()),
        ("audit_heads_only_advance", "UPDATE audit_heads SET sequence = sequence + 2".to_owned()),
    ] {
        let refused = sqlx::query(AssertSqlSafe(statement.clone())).execute(&mut conn).await;
        let Err(sqlx::Error::Database(error)) = &refused else { panic!("{statement}: {refused:?}") };
        assert_eq!(error.constraint(), Some(constraint), "{statement}: {error}");
    }
    // One provisioning an address; the claim is what an insert runs into.
    let other = provision("Bob@example.com");
    assert_eq!(store.begin(other).await.unwrap(), Begun::Taken);
}

/// The service can do what its statements do, and nothing else.
#[tokio::test]
async fn the_service_may_do_no_more_than_it_does() {
    let (store, database) = open().await;
    tenant(&store, "ann@example.com").await;
    let mut conn = superuser(&database).await;
    sqlx::query("SET ROLE pulse_provisioner").execute(&mut conn).await.unwrap();
    for statement in [
        "UPDATE accounts SET password_hash = '$argon2id$x'",
        "UPDATE accounts SET home_org_id = 'other'",
        "UPDATE memberships SET role = 'owner'",
        "UPDATE sagas SET org_id = 'other'",
        "UPDATE sagas SET kind = 'purge'",
        "UPDATE sagas SET owner_user_id = 'other'",
        "UPDATE sagas SET created_at = now()",
        "UPDATE audit_events SET details = NULL, salt = NULL",
        "UPDATE audit_heads SET org_id = 'other'",
        "TRUNCATE accounts CASCADE",
        "TRUNCATE audit_events",
        "ALTER TABLE accounts DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE accounts NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY one_tenant ON accounts",
        "DROP TABLE audit_events",
        "CREATE TABLE things (id bigint)",
        "UPDATE _sqlx_migrations SET success = false",
        "DELETE FROM _sqlx_migrations",
        "SET session_replication_role = replica",
    ] {
        let refused = sqlx::query(statement).execute(&mut conn).await;
        let Err(sqlx::Error::Database(error)) = &refused else { panic!("{statement}: {refused:?}") };
        assert_eq!(error.code().as_deref(), Some("42501"), "{statement}: {error}");
    }

    let granted: Vec<String> = sqlx::query_scalar(
        "SELECT table_name || ': ' || string_agg(privilege_type, ', ' ORDER BY privilege_type)
         FROM information_schema.role_table_grants WHERE grantee = 'pulse_provisioner'
         GROUP BY table_name ORDER BY table_name",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    let all = [
        "_sqlx_migrations: SELECT",
        "accounts: DELETE, INSERT, SELECT",
        "audit_events: DELETE, INSERT, SELECT",
        "audit_heads: DELETE, INSERT, SELECT",
        "memberships: DELETE, INSERT, SELECT",
        "sagas: DELETE, INSERT, SELECT",
    ];
    assert_eq!(granted, all);
}

/// Row-level security holds for the owner too, on every table but the list of migrations.
#[tokio::test]
async fn row_level_security_is_forced_on_every_table() {
    let (_store, database) = open().await;
    let open: Vec<String> = sqlx::query_scalar(
        "SELECT relname FROM pg_class WHERE relnamespace = 'pulse_provisioner'::regnamespace AND relkind = 'r'
         AND NOT (relrowsecurity AND relforcerowsecurity)",
    )
    .fetch_all(&mut superuser(&database).await)
    .await
    .unwrap();
    assert_eq!(open, ["_sqlx_migrations"]);
}

/// One dead row is enough: addresses and hashes that were deleted do not wait for more.
#[tokio::test]
async fn one_deleted_account_is_vacuumed_away() {
    // Its own server: how often vacuum looks is the server's setting.
    let server = Postgres::start().await;
    let database = server.database().await;
    let store = open_on(&database).await;
    let mut conn = superuser(&database).await;
    for statement in ["ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()"] {
        sqlx::query(statement).execute(&mut conn).await.unwrap();
    }
    for number in 0..20 {
        tenant(&store, &format!("owner-{number}@example.com")).await;
    }
    let (acme, _) = tenant(&store, "ann@example.com").await;
    let saga = crate::store::conformance::purge(&acme);
    store.begin(saga.clone()).await.unwrap();
    store.advance(advance(saga, Effect::DeleteTenant)).await.unwrap();
    let vacuumed = "SELECT count(*) FROM pg_stat_user_tables
                    WHERE relname IN ('accounts', 'sagas', 'audit_events') AND autovacuum_count > 0 AND n_dead_tup = 0";
    // The launcher is in the middle of a pause that began before it was told to look more often.
    eventually(Duration::from_mins(1), async || {
        let tables: i64 = sqlx::query_scalar(vacuumed).fetch_one(&mut conn).await.unwrap();
        tables == 3
    })
    .await;
}
