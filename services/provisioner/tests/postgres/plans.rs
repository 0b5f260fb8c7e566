//! How the database carries out each statement with 100,000 tenants in it: never by reading a table from end to end, nor a large
//! part of one. That goes for the background's looks as well, which come every second.

use std::time::Duration;

use jiff::Timestamp;
use pulse_kernel::{Clock as _, EmailAddress, OrgId, UserId};
use pulse_provisioner::{
    saga::{Progress, Saga, SagaId, SagaKind, State, Step, Subject},
    store::{Advance, Begun, Effect, EmailHolder, RoleChange, SagaCursor, SagaQuery, StateFilter, Store},
};
use pulse_tenant_guard::TenantRole;
use pulse_testkit::{Database, Postgres};
use sqlx::{Connection as _, Executor as _};

use crate::{
    faults::Chaos,
    replicas::{Deployment, Replica, account_of, store_at},
};

const TENANTS: u32 = 100_000;

/// How often each statement is carried out: from the sixth time on, the server may use a plan that is good for any parameters.
const TIMES: u32 = 8;

/// How many blocks a statement may look at; every table, and every index of a large part of one, has more.
const MOST_BLOCKS: u64 = 100;

/// Tenants of all kinds. Nearly all are there; some were undone, and the newest are stuck, are being undone or still run, under
/// a lease or not; the oldest are being purged. Each has an audit record or two, and every tenth owner is a guest of the next
/// tenant.
const SEED: &str = "
    SET session_replication_role = replica;
    SET search_path TO pulse_provisioner;
    CREATE TEMPORARY TABLE tenants AS
        SELECT n, 'org-' || lpad(n::text, 6, '0') AS org_id, md5(n::text)::uuid::text AS user_id,
               'owner-' || n || '@example.com' AS email, timestamptz '2026-01-01Z' + n * interval '1 minute' AS at,
               CASE WHEN n > 99600 THEN 'running' WHEN n > 99400 THEN 'compensating' WHEN n > 99200 THEN 'stuck'
                    WHEN n % 40 = 39 THEN 'undone' ELSE 'done' END AS state
        FROM generate_series(1, 100000) n;
    INSERT INTO accounts
        SELECT user_id, org_id, email, email, '$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g', at
        FROM tenants WHERE state IN ('done', 'stuck');
    INSERT INTO memberships SELECT home_org_id, user_id, 'owner' FROM accounts;
    INSERT INTO memberships
        SELECT 'org-' || lpad((n + 1)::text, 6, '0'), user_id, 'viewer' FROM tenants WHERE n % 10 = 0 AND n < 99000;
    INSERT INTO sagas (org_id, kind, state, step, direction, attempts, next_attempt_at, cause_reason, cause_message, version,
                       lease_owner, lease_until, owner_user_id, owner_email, owner_email_canonical, password_hash, org_name,
                       created_at, updated_at)
        SELECT org_id, 'provision', state, CASE WHEN state IN ('running', 'compensating', 'stuck') THEN 'start_trial' END,
               CASE state WHEN 'stuck' THEN 'backward' END, 0,
               CASE WHEN state IN ('running', 'compensating', 'stuck') THEN at END,
               CASE WHEN state IN ('compensating', 'undone', 'stuck') THEN 'UNAVAILABLE' END,
               CASE WHEN state IN ('compensating', 'undone', 'stuck') THEN 'away' END, 1,
               CASE WHEN state = 'running' THEN 'someone' END,
               -- Most are run by someone, until long after the test.
               CASE WHEN state = 'running' THEN CASE WHEN n > 99960 THEN at ELSE timestamptz '2100-01-01Z' END END,
               user_id, CASE WHEN state NOT IN ('done', 'undone') THEN email END,
               CASE WHEN state NOT IN ('done', 'undone') THEN email END,
               CASE WHEN state NOT IN ('done', 'undone') THEN '$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g' END,
               CASE WHEN state NOT IN ('done', 'undone') THEN 'Acme, Inc.' END, at, at
        FROM tenants;
    INSERT INTO sagas (org_id, kind, state, step, attempts, next_attempt_at, version, created_at, updated_at)
        SELECT org_id, 'purge', 'running', 'finish_purge', 0, timestamptz '2100-01-01Z', 1, at, at FROM tenants WHERE n <= 500;
    INSERT INTO audit_heads SELECT org_id, 1 + n % 2, decode(repeat('00', 32), 'hex') FROM tenants;
    INSERT INTO audit_events (org_id, sequence, occurred_at, actor, action, details_hash, previous_hash, hash)
        SELECT org_id, s, at, 'ann', 'tenant_provisioned', decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex'),
               decode(repeat('00', 32), 'hex')
        FROM tenants, generate_series(1, 1 + n % 2) s;
";

async fn seed(database: &Database) {
    let mut conn = database.connect().await;
    sqlx::raw_sql(SEED).execute(&mut conn).await.unwrap();
    // As autovacuum would have done by then.
    for table in ["accounts", "memberships", "sagas", "audit_events", "audit_heads"] {
        let vacuum = format!("VACUUM ANALYZE pulse_provisioner.{table}");
        conn.execute(sqlx::AssertSqlSafe(vacuum)).await.unwrap();
    }
    conn.close().await.unwrap();
}

fn org(number: u32) -> OrgId {
    format!("org-{number:06}").parse().unwrap()
}

fn email(number: u32) -> EmailAddress {
    EmailAddress::parse(&format!("owner-{number}@example.com")).unwrap()
}

/// The one whose account the tenant of that number was made for.
async fn owner(store: &dyn Store, number: u32) -> UserId {
    store.find_login(&email(number)).await.unwrap().unwrap().account.user_id
}

/// Every read, with something to find and without.
async fn reads(store: &dyn Store) {
    store.ping().await.unwrap();
    for n in 1..=TIMES {
        assert!(matches!(
            store.find_by_email(&email(1000 + n)).await.unwrap(),
            Some(EmailHolder::Account { purging: false, .. })
        ));
        let purging = store.find_by_email(&email(n)).await.unwrap();
        assert!(matches!(purging, Some(EmailHolder::Account { purging: true, .. })));
        assert!(matches!(store.find_by_email(&email(99_700 + n)).await.unwrap(), Some(EmailHolder::Saga(_))));
        assert!(store.find_by_email(&email(200_000 + n)).await.unwrap().is_none());

        assert!(store.find_login(&email(2000 + n)).await.unwrap().is_some());
        assert!(store.find_login(&email(200_000 + n)).await.unwrap().is_none());
        let guest = owner(store, n * 10).await;
        assert!(store.find_member(&org(n * 10), guest).await.unwrap().is_some());
        assert!(store.find_member(&org(n * 10 + 1), guest).await.unwrap().is_some());
        assert!(store.find_member(&org(n * 10 + 2), guest).await.unwrap().is_none());

        assert!(store.find_saga(&SagaId::provision(org(3000 + n))).await.unwrap().is_some());
        assert!(store.find_saga(&SagaId::purge(org(3000 + n))).await.unwrap().is_none());
        assert_eq!(store.count_stuck().await.unwrap(), 200);
        // Whoever looks for what is due passes over what is run by others.
        assert_eq!(store.due_sagas(Timestamp::constant(2_000_000_000, 0), 100).await.unwrap().len(), 100);
        let early = Timestamp::constant(1_700_000_000, 0);
        assert!(store.due_sagas(early, 100).await.unwrap().is_empty());
        assert_eq!(store.list_audit(&org(4000 + n * 2 + 1), None, 50).await.unwrap().len(), 2);
        assert_eq!(store.list_audit(&org(4000 + n * 2 + 1), Some(2), 50).await.unwrap().len(), 1);
    }
}

/// Every list, from its first page to its third.
async fn lists(store: &dyn Store) {
    let states = [
        StateFilter::Running,
        StateFilter::Compensating,
        StateFilter::Done,
        StateFilter::Undone,
        StateFilter::Stuck,
    ];
    for state in states.map(Some).into_iter().chain([None]) {
        for kind in [None, Some(SagaKind::Provision), Some(SagaKind::Purge)] {
            for _ in 0..TIMES {
                let mut query = SagaQuery { state, kind, limit: 51, after: None };
                for _page in 0..3 {
                    let page = store.list_sagas(query.clone()).await.unwrap();
                    let purge = kind == Some(SagaKind::Purge);
                    let expected = !purge || matches!(state, None | Some(StateFilter::Running));
                    assert_eq!(page.len(), if expected { 51 } else { 0 }, "{query:?}");
                    query.after = page.last().map(SagaCursor::after);
                }
            }
        }
    }
}

/// Every write, in all that it may do.
async fn writes(deployment: &Deployment, replica: &Replica) {
    let store = &*replica.store;
    for n in 1..=TIMES {
        let taken = deployment.saga(replica, &format!("owner-{}@example.com", 5000 + n));
        assert_eq!(store.begin(taken).await.unwrap(), Begun::Taken);
        let claimed = deployment.saga(replica, &format!("owner-{}@example.com", 99_800 + n));
        assert_eq!(store.begin(claimed).await.unwrap(), Begun::Taken);

        let saga = deployment.saga(replica, &format!("new-{n}@example.com"));
        assert_eq!(store.begin(saga.clone()).await.unwrap(), Begun::Started);
        let account = account_of(&saga);
        let owner = account.user_id;
        let advance =
            |version, effect| Advance { saga: Saga { version, ..saga.clone() }, effect, audit: None };
        store.advance(advance(1, Effect::None)).await.unwrap();
        store.advance(advance(2, Effect::InsertAccount(account))).await.unwrap();
        store.advance(advance(2, Effect::None)).await.unwrap_err();
        // A guest in a tenant of those that are there.
        let roles = |org_id: &OrgId, roles: &[TenantRole]| RoleChange {
            org_id: org_id.clone(),
            user_id: owner,
            roles: roles.iter().copied().collect(),
            at: deployment.plane.clock.now(),
            actor: "ann".into(),
            reason: None,
            request_id: None,
        };
        let place = org(6000 + n);
        store.set_roles(roles(&place, &[TenantRole::Admin, TenantRole::Viewer])).await.unwrap();
        store.set_roles(roles(&place, &[TenantRole::Viewer])).await.unwrap();
        store.set_roles(roles(&org(300_000 + n), &[TenantRole::Viewer])).await.unwrap_err();
        store.advance(advance(3, Effect::DeleteAccount(owner))).await.unwrap();
        assert_eq!(store.list_audit(&place, None, 1).await.unwrap()[0].action, "account_roles_changed");
        store.advance(advance(4, Effect::Forget)).await.unwrap();

        // A tenant whose owner is a guest elsewhere, and which has a guest.
        let doomed = org(n * 10 + 7000);
        let lease = replica.engine.runner().lease(Duration::ZERO);
        let purge = Saga::begin(doomed.clone(), Subject::Purge, lease, deployment.plane.clock.now());
        assert_eq!(store.begin(purge.clone()).await.unwrap(), Begun::Started);
        assert_eq!(store.begin(purge.clone()).await.unwrap(), Begun::Taken);
        let progress = Progress { state: State::Running(Step::FinishPurge), ..purge.progress.clone() };
        let purge = Saga { progress, ..purge };
        store
            .advance(Advance { saga: purge.clone(), effect: Effect::DeleteTenant, audit: None })
            .await
            .unwrap();
        assert!(store.list_audit(&doomed, None, 1).await.unwrap().is_empty());
        let ended = Saga { version: 2, ..purge };
        store.advance(Advance { saga: ended, effect: Effect::Forget, audit: None }).await.unwrap();
    }
}

#[tokio::test]
async fn nothing_is_read_from_end_to_end_with_100_000_tenants() {
    // A server of its own, whose log is about this test only.
    let server = Postgres::start().await;
    let database = server.database().await;
    store_at(database.url()).await.close().await;
    seed(&database).await;
    let mut conn = database.connect().await;
    let tenants: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pulse_provisioner.sagas WHERE kind = 'provision'")
            .fetch_one(&mut conn)
            .await
            .unwrap();
    assert_eq!(tenants, i64::from(TENANTS));

    database.log_plans().await;
    let buffers = format!("ALTER DATABASE {} SET auto_explain.log_buffers = on", database.name());
    sqlx::query(sqlx::AssertSqlSafe(buffers)).execute(&mut conn).await.unwrap();
    let deployment = Deployment::over(database.clone()).await;
    let replica = deployment.replica("one", &Chaos::new(&[])).await;
    reads(&*replica.store).await;
    lists(&*replica.store).await;
    writes(&deployment, &replica).await;

    let scans = database.sequential_scans();
    // One row for each migration, read when the store is opened.
    let big: Vec<_> = scans.iter().filter(|scan| !scan.starts_with("_sqlx_migrations: ")).collect();
    assert!(big.is_empty(), "{big:#?}");
    let log = server.log();
    let blocks = log.lines().filter_map(|line| {
        let (counted, blocks) = line.trim().split_once("\": ")?;
        let blocks = blocks.trim_end_matches(',');
        ["\"Shared Hit Blocks", "\"Shared Read Blocks"]
            .contains(&counted)
            .then(|| blocks.parse::<u64>().unwrap())
    });
    let most = blocks.max();
    assert!(most.is_some_and(|most| most <= MOST_BLOCKS), "{most:?} blocks were read for one statement");
}
