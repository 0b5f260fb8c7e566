//! How each statement finds its rows among many: every method of the store is called where there are 100,000 organizations, and
//! none may read a table from end to end.

use jiff::SignedDuration;
use jiff_sqlx::ToSqlx as _;
use serde_json::Value;

use super::*;
use crate::domain::Retention;

/// 100,000 of each, in every status, with what they leave behind; nothing is as the program would make it but what it reads.
const SEED: &str = "\
SET session_replication_role = replica;
SET search_path = pulse_lifecycle;
INSERT INTO organizations (id, display_name, owner_user_id, owner_email, owner_email_canonical, status, suspended_at,
    deletion_requested_at, retention_days, purge_after, purging_since, created_at, updated_at, version)
SELECT 'seed-' || n, 'Seed', '0198c0de-0000-7000-8000-000000000001', n || '@seed.org', n || '@seed.org', status,
    CASE status WHEN 'suspended' THEN at END,
    CASE WHEN status IN ('pending_deletion', 'purging') THEN at END,
    CASE WHEN status IN ('pending_deletion', 'purging') THEN 30 END,
    CASE WHEN status IN ('pending_deletion', 'purging') THEN at + interval '30 days' END,
    CASE status WHEN 'purging' THEN at + interval '31 days' END,
    at, at, 1
FROM generate_series(1, 100000) AS n,
    LATERAL (SELECT '2026-01-01'::timestamptz + n * interval '1 second' AS at,
        (ARRAY['active', 'active', 'active', 'active', 'active', 'active', 'provisioning', 'suspended', 'pending_deletion',
               'purging'])[1 + n % 10] AS status) AS seed;
INSERT INTO status_history SELECT id, 1, NULL, status, created_at FROM organizations WHERE id LIKE 'seed-%';
INSERT INTO tombstones SELECT 'gone-' || n, 'purged', now() FROM generate_series(1, 100000) AS n;
INSERT INTO audit_events
SELECT id, 1, created_at, 'seed', 'organization_created', '{}', decode(repeat('00', 16), 'hex'), zero, zero, zero
FROM organizations, decode(repeat('00', 32), 'hex') AS zero WHERE id LIKE 'seed-%';
INSERT INTO audit_heads SELECT org_id, sequence, hash FROM audit_events WHERE org_id LIKE 'seed-%';
-- Of transactions long ago: what was changed since the oldest one that still goes on is read again and again.
INSERT INTO changes (xid, org_id, version, at)
SELECT (1 + row_number() OVER () % 500)::text::xid8, id, 1, created_at FROM organizations WHERE id LIKE 'seed-%';
SELECT count_tenants_anew();
ANALYZE";

/// Tables of a fixed, small size.
const SMALL: [&str; 6] =
    ["status_counts", "leases", "legal_transitions", "feed", "followers", "_sqlx_migrations"];

/// How often each statement that reads is carried out: from the sixth time on, the server may use a plan that is good for any
/// parameters.
const TIMES: u32 = 8;

/// How many rows a plan, and what is below it, read only to leave them out, and whether each is found by an index.
fn waste(plan: &Value) -> u64 {
    let below = plan["Plans"].as_array().into_iter().flatten();
    let kind = plan["Node Type"].as_str().unwrap_or_default();
    // A result is the setting that says whose rows are seen.
    assert!(["Limit", "Index Scan", "Index Only Scan", "Result"].contains(&kind), "{plan:#}");
    plan["Rows Removed by Filter"].as_u64().unwrap_or_default() + below.map(waste).sum::<u64>()
}

#[tokio::test]
async fn no_list_reads_more_rows_than_it_returns() {
    let (store, database) = open().await;
    run(&mut database.connect().await, SEED).await.unwrap();
    let mut conn = connect_as(&database, "pulse_lifecycle").await;
    run(&mut conn, "SET pulse.tenant = '*'").await.unwrap();
    let middle = store.due(Timestamp::MAX, None, 5000).await.unwrap().pop().unwrap();
    for mode in ["force_custom_plan", "force_generic_plan"] {
        run(&mut conn, &format!("SET plan_cache_mode = {mode}")).await.unwrap();
        for query in [reads::LIST, reads::LIST_BY_STATUS, reads::FIND, reads::DUE, reads::PURGING] {
            let explain = AssertSqlSafe(format!("EXPLAIN (ANALYZE, FORMAT JSON) {query}"));
            let explain = sqlx::query_scalar(explain);
            let explain = match query {
                reads::FIND => explain.bind("seed-5"),
                reads::LIST => explain.bind("seed-5").bind(10_i64),
                reads::LIST_BY_STATUS => explain.bind("seed-5").bind(10_i64).bind("suspended"),
                _ => explain.bind(middle.at.to_sqlx()).bind(middle.id.as_str()).bind(10_i64),
            };
            let explain = if query == reads::DUE { explain.bind(Timestamp::MAX.to_sqlx()) } else { explain };
            let plan: Value = explain.fetch_one(&mut conn).await.unwrap();
            assert_eq!(waste(&plan[0]["Plan"]), 0, "{mode}: {query}\n{plan:#}");
        }
    }
}

async fn read_everything(store: &PostgresStore) {
    for status in [None].into_iter().chain(StatusKind::ALL.map(Some)) {
        for after in ["a", "seed-5", "seed-99998"] {
            store.list(status, Some(&id(after)), 100).await.unwrap();
        }
        assert_eq!(store.list(status, None, 100).await.unwrap().len(), 100);
    }
    let due = store.due(Timestamp::MAX, None, 100).await.unwrap();
    assert_eq!(store.due(Timestamp::MAX, due.last(), 100).await.unwrap().len(), 100);
    let purging = store.purging(None, 100).await.unwrap();
    assert_eq!(store.purging(purging.last(), 100).await.unwrap().len(), 100);
    assert_eq!(store.history(&id("seed-8")).await.unwrap().len(), 1);
    assert_eq!(store.audit_events(&id("seed-8"), None, 100).await.unwrap().len(), 1);
    assert_eq!(store.audit_events(&id("acme"), Some(4), 2).await.unwrap().len(), 2);
    store.counts().await.unwrap();
}

#[tokio::test]
async fn no_statement_reads_a_table_from_end_to_end_among_100_000_organizations() {
    let (first, database) = open().await;
    run(&mut database.connect().await, SEED).await.unwrap();
    let counts = first.counts().await.unwrap();
    assert_eq!(StatusKind::ALL.map(|kind| counts.of(kind)), [10_000, 60_000, 10_000, 10_000, 10_000]);
    first.close().await;

    database.log_plans().await;
    let store = replica(&database).await;
    assert_eq!(store.create(new("acme", "acme@x.org"), by("service:test")).await.unwrap(), Creation::Created);
    let taken = new("other", "7@seed.org");
    assert!(matches!(store.create(taken, by("a")).await.unwrap(), Creation::EmailUsed { .. }));
    for used in ["seed-7", "gone-7"] {
        let again = store.create(new(used, "new@x.org"), by("service:test")).await.unwrap();
        assert_eq!(again, Creation::IdUsed);
    }
    let mut now = organization(&store, "acme").await.activate(START).unwrap();
    assert!(store.change(now.clone(), by("service:test")).await.unwrap().is_done());
    now = now.organization.soft_delete(Retention::from_days(1.0).unwrap(), None, START).unwrap();
    assert!(store.change(now.clone(), by("ann")).await.unwrap().is_done());
    let lease = store.take_lease("reaper", "one", Duration::from_hours(1)).await.unwrap().unwrap();
    now = now.organization.begin_purge(START + SignedDuration::from_hours(24)).unwrap();
    let purge = store.change_under(&lease, now.clone(), by("service:lifecycle")).await.unwrap();
    assert!(purge.is_some_and(Written::is_done));
    store.return_lease(&lease).await.unwrap();
    let gone = now.organization.finish_purge(START).unwrap();
    assert!(store.remove(gone, by("service:test")).await.unwrap().is_done());
    let barred = Removal::of_unknown(id("late"), START);
    assert!(store.remove(barred, by("service:test")).await.unwrap().is_done());

    for _ in 0..TIMES {
        read_everything(&store).await;
    }
    store.ping().await.unwrap();
    assert!(matches!(store.find(&id("gone-9")).await.unwrap(), Found::Tombstone(_)));
    assert_eq!(store.find(&id("nowhere")).await.unwrap(), Found::Nothing);
    let shutdown = Shutdown::new();
    let (told, hears) = std::sync::mpsc::channel();
    store.follow(&shutdown, Box::new(move |event| told.send(event).unwrap_or_default()));
    pulse_testkit::eventually(WAIT, async || hears.try_recv()).await;
    store.create(new("more", "more@x.org"), by("service:test")).await.unwrap();
    pulse_testkit::eventually(WAIT, async || hears.try_recv()).await;
    shutdown.trigger();
    shutdown.wait().await.unwrap();

    let scans = database.sequential_scans();
    let is_small = |scan: &String| SMALL.iter().any(|table| scan.starts_with(&format!("{table}: ")));
    let (small, large): (Vec<_>, Vec<_>) = scans.into_iter().partition(is_small);
    assert_eq!(large, [""; 0]);
    // The counts are sixteen rows, which no index would find faster: so plans were looked at.
    assert!(small.iter().any(|scan| scan.starts_with("status_counts")), "{small:?}");
}
