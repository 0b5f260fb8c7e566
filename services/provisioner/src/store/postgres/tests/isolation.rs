//! I10: what a tenant's transaction sees and changes. Row-level security alone decides: the statements here name no tenant.

use pulse_store::postgres::{turn_to, turn_to_every};
use pulse_tenant_guard::TenantRole;
use sqlx::AssertSqlSafe;

use super::*;
use crate::store::Effect;
use crate::store::conformance::{advance, change, provision, purge, tenant};

/// Every table with tenants' rows, and a column that the service may change, where there is one.
const TABLES: [(&str, Option<&str>); 5] = [
    ("accounts", None),
    ("memberships", None),
    ("sagas", Some("attempts = attempts + 1")),
    ("audit_events", None),
    ("audit_heads", Some("sequence = sequence + 1")),
];

/// A transaction, by what it is turned to.
#[derive(Clone)]
enum Turned {
    /// To no tenant.
    Nowhere,
    /// To that tenant.
    To(OrgId),
    /// To every tenant.
    ToAll,
}

/// What a statement in such a transaction yields: a count, or the rows that it has changed. The transaction is one of those
/// that write, so that nothing but the policies keeps it from writing; it is rolled back.
async fn yields(store: &PostgresStore, turned: Turned, statement: String) -> Result<u64, String> {
    #[derive(Debug, thiserror::Error)]
    enum Seen {
        #[error("{0:?}")]
        It(Result<u64, String>),
        #[error(transparent)]
        Store(#[from] StoreError),
    }

    impl pulse_store::postgres::Failure for Seen {
        fn as_store(&self) -> Option<&StoreError> {
            None
        }
    }

    let work: pulse_store::postgres::Work<(Turned, String), (), Seen> = |(turned, statement), conn| {
        Box::pin(async move {
            if let Turned::ToAll = turned {
                turn_to_every(conn).await.map_err(StoreError::from)?;
            }
            let seen = if statement.starts_with("SELECT") {
                let count = sqlx::query_scalar(AssertSqlSafe(statement.clone())).fetch_one(conn).await;
                count.map(i64::unsigned_abs)
            } else {
                let done = sqlx::query(AssertSqlSafe(statement.clone())).execute(conn).await;
                done.map(|done| done.rows_affected())
            };
            Err(Seen::It(seen.map_err(|error| error.to_string())))
        })
    };
    let input = (turned.clone(), statement);
    let seen = match turned {
        Turned::Nowhere => store.db.write_apart(input, work).await,
        Turned::To(org_id) => store.db.write(&org_id, input, work).await,
        Turned::ToAll => store.db.write(&OrgId::default_org(), input, work).await,
    };
    match seen {
        Err(Seen::It(seen)) => seen,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pooled_connection_forgets_the_tenant_that_it_served() {
    let database = Postgres::shared().await.database().await;
    let mut one = settings(database.url());
    one.database_max_connections = 1.try_into().unwrap();
    let store = PostgresStore::open(&one, Arc::new(OsEntropy)).await.unwrap();
    let (acme, ann) = tenant(&store, "ann@example.com").await;
    store.begin(purge(&acme)).await.unwrap();
    store.begin(provision("eve@example.com")).await.unwrap();
    let (globex, bob) = tenant(&store, "bob@example.com").await;

    let mut conn = superuser(&database).await;
    let mut backends = async || -> i64 {
        sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'pulse-provisioner'",
        )
        .fetch_one(&mut conn)
        .await
        .unwrap()
    };
    for (table, changes) in TABLES {
        // Used for the tenant just before, each time: found, and changed back and forth.
        assert!(store.find_member(&acme, ann).await.unwrap().is_some());
        store.set_roles(change(&acme, bob, &[TenantRole::Viewer])).await.unwrap();
        store.set_roles(change(&acme, bob, &[])).await.unwrap();

        let count = format!("SELECT count(*) FROM {table}");
        let delete = format!("DELETE FROM {table}");
        let own = yields(&store, Turned::To(acme.clone()), count.clone()).await.unwrap();
        let others = yields(&store, Turned::To(globex.clone()), count.clone()).await.unwrap();
        assert!(own > 0 && others > 0, "{table}: {own}, {others}");
        let all = yields(&store, Turned::ToAll, count.clone()).await.unwrap();
        // There is a third tenant, of which there is a saga only.
        assert_eq!(all, own + others + u64::from(table == "sagas"), "{table}");
        assert_eq!(yields(&store, Turned::Nowhere, count.clone()).await, Ok(0), "{table}");

        let statements = [Some(delete), changes.map(|changes| format!("UPDATE {table} SET {changes}"))];
        for statement in statements.into_iter().flatten() {
            for turned in [Turned::Nowhere, Turned::ToAll] {
                assert_eq!(yields(&store, turned, statement.clone()).await, Ok(0), "{statement}");
            }
            let of_others = yields(&store, Turned::To(globex.clone()), statement.clone()).await;
            // The last role of an account goes before the account.
            if table != "accounts" || !statement.starts_with("DELETE") {
                assert_eq!(of_others, Ok(others), "{statement}: its own rows, and no others");
            }
        }
    }
    assert_eq!(backends().await, 1, "all of it on one connection");
}

/// A row for another tenant is not written either, nor moved there.
#[tokio::test]
async fn nothing_is_written_for_another_tenant() {
    let (store, _database) = open().await;
    let (acme, ann) = tenant(&store, "ann@example.com").await;
    let (globex, _) = tenant(&store, "bob@example.com").await;
    let statements = [
        format!("INSERT INTO memberships VALUES ('{acme}', '{ann}', 'admin')"),
        format!(
            "INSERT INTO accounts VALUES ('x', '{acme}', 'x@example.com', 'x@example.com', '$argon2id$x', now())"
        ),
        format!(
            "INSERT INTO sagas (org_id, kind, state, step, attempts, next_attempt_at, version, created_at, updated_at)
             VALUES ('{acme}', 'purge', 'running', 'finish_purge', 0, now(), 1, now(), now())"
        ),
        format!("INSERT INTO audit_heads VALUES ('{acme}-2', 1, decode(repeat('00', 32), 'hex'))"),
    ];
    for statement in statements {
        for turned in [Turned::Nowhere, Turned::ToAll, Turned::To(globex.clone())] {
            let refused = yields(&store, turned, statement.clone()).await.unwrap_err();
            assert!(refused.contains("row-level security"), "{statement}: {refused}");
        }
        let own = statement.replace(&format!("{acme}-2"), acme.as_str());
        let allowed = yields(&store, Turned::To(acme.clone()), own.clone()).await;
        let there = allowed.as_ref().is_err_and(|error| error.contains("audit_heads_pkey"));
        assert!(there || allowed == Ok(1), "{own}: {allowed:?}");
    }
}

/// An account is seen at home, and where it is a guest; it goes only from home.
#[tokio::test]
async fn a_guest_is_seen_where_it_has_a_role_and_not_changed_there() {
    let (store, _database) = open().await;
    let (_, ann) = tenant(&store, "ann@example.com").await;
    let (globex, _) = tenant(&store, "bob@example.com").await;
    let count = || "SELECT count(*) FROM accounts".to_owned();
    assert_eq!(yields(&store, Turned::To(globex.clone()), count()).await, Ok(1));
    store.set_roles(change(&globex, ann, &[TenantRole::Viewer])).await.unwrap();
    assert_eq!(yields(&store, Turned::To(globex.clone()), count()).await, Ok(2));
    let delete = format!("DELETE FROM accounts WHERE user_id = '{ann}'");
    assert_eq!(yields(&store, Turned::To(globex.clone()), delete).await, Ok(0));
    store.set_roles(change(&globex, ann, &[])).await.unwrap();
    assert_eq!(yields(&store, Turned::To(globex), count()).await, Ok(1));
}

/// What turns to another tenant in the middle leaves the connection as clean.
#[tokio::test]
async fn a_deletion_that_reaches_into_another_tenant_leaves_no_tenant_behind() {
    let database = Postgres::shared().await.database().await;
    let mut one = settings(database.url());
    one.database_max_connections = 1.try_into().unwrap();
    let store = PostgresStore::open(&one, Arc::new(OsEntropy)).await.unwrap();
    let (acme, ann) = tenant(&store, "ann@example.com").await;
    let (globex, _) = tenant(&store, "bob@example.com").await;
    store.set_roles(change(&globex, ann, &[TenantRole::Viewer])).await.unwrap();
    store.begin(purge(&acme)).await.unwrap();
    store.advance(advance(purge(&acme), Effect::DeleteTenant)).await.unwrap();
    for (table, _) in TABLES {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(yields(&store, Turned::Nowhere, count).await, Ok(0), "{table}");
    }
    // The setting itself, which `SET LOCAL` gives back.
    let setting: Result<(String, String), StoreError> = store
        .db
        .write(&globex, acme, |acme, conn| {
            Box::pin(async move {
                turn_to(conn, acme).await?;
                let turned =
                    sqlx::query_scalar("SELECT current_setting('pulse.tenant')").fetch_one(conn).await?;
                Ok((turned, acme.to_string()))
            })
        })
        .await;
    let (turned, acme) = setting.unwrap();
    assert_eq!(turned, acme);
    let left = "SELECT length(coalesce(current_setting('pulse.tenant', true), ''))::bigint".to_owned();
    assert_eq!(yields(&store, Turned::Nowhere, left).await, Ok(0));
}
