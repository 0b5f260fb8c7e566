//! How each statement finds its rows among many: every method of the store is called where there are 100,000 tenants of each
//! kind, and none may read a table from end to end.

use futures::StreamExt as _;

use super::*;
use crate::store::PAGE;

/// 100,000 of each, with what they leave behind; nothing is as the program would make it but what it reads.
const SEED: &str = "\
SET session_replication_role = replica;
SET search_path = pulse_billing_state;
INSERT INTO audit_events
SELECT 'seed-' || n, 1, now(), 'seed', 'trial_started', '{}', decode(repeat('00', 16), 'hex'), zero, zero, zero
FROM generate_series(1, 100000) AS n, decode(repeat('00', 32), 'hex') AS zero;
INSERT INTO audit_heads SELECT org_id, sequence, hash FROM audit_events;
INSERT INTO billing_states
SELECT org_id, kind, jsonb_build_object('org_id', org_id, 'subscription_state', kind, 'etag', etag, 'plan_version', 'trial',
    'capabilities', '[]'::jsonb, 'limits', '{}'::jsonb, 'meters_enabled', '[]'::jsonb), etag, 1, 'k', now()
FROM audit_events, LATERAL (SELECT md5(org_id) AS etag,
    (ARRAY['trial', 'active', 'grace', 'expired', 'suspended'])[1 + hashtext(org_id) % 2 + 1] AS kind) AS seed;
INSERT INTO purged_tenants SELECT 'gone-' || n, now() FROM generate_series(1, 100000) AS n;
-- A chain that is too long to be verified whole.
INSERT INTO audit_events
SELECT 'long', n, now(), 'seed', 'trial_started', '{}', decode(repeat('00', 16), 'hex'), zero, zero, zero
FROM generate_series(1, 20000) AS n, decode(repeat('00', 32), 'hex') AS zero;
INSERT INTO audit_heads SELECT 'long', 20000, decode(repeat('00', 32), 'hex');
-- Of transactions long ago: what was changed since the oldest one that still goes on is read again and again.
INSERT INTO changes (xid, org_id, version, at)
SELECT (1 + row_number() OVER () % 500)::text::xid8, org_id, 1, now() FROM billing_states;
ANALYZE";

/// Tables of a fixed, small size.
const SMALL: [&str; 3] = ["feed", "followers", "_sqlx_migrations"];

#[tokio::test]
async fn no_statement_reads_a_table_from_end_to_end_among_100_000_tenants() {
    let (first, database) = open_new().await;
    run(&mut database.connect().await, SEED).await.unwrap();
    first.db.close();

    database.log_plans().await;
    let store = open(&database, 4).await;
    let id = |text: &str| OrgId::parse(text).unwrap();
    let shutdown = Shutdown::new();
    let (told, hears) = std::sync::mpsc::channel();
    store.follow(&shutdown, Box::new(move |event| told.send(event).unwrap_or_default()));
    pulse_testkit::eventually(WAIT, async || hears.try_recv()).await;

    let trial = store.put(trial_write("k", 0)).await.unwrap();
    let again = store.put(trial_write("k", 9)).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    store.put(set_on(&trial.stored.state, &ask(Active), 1)).await.unwrap();
    assert!(matches!(store.put(trial_of("gone-7")).await, Err(StoreError::Purged)));
    assert!(matches!(store.put(trial_of("seed-7")).await, Err(StoreError::Conflict)));

    assert!(matches!(store.get(&id("seed-50000")).await.unwrap(), Lookup::Stored(_)));
    assert_eq!(store.get(&id("gone-50000")).await.unwrap(), Lookup::Purged);
    assert_eq!(store.get(&id("nowhere")).await.unwrap(), Lookup::NotStored);
    let unreadable = "SET search_path = pulse_billing_state; SET session_replication_role = replica;
        UPDATE billing_states SET state = state - 'limits' WHERE org_id = 'seed-3'";
    run(&mut database.connect().await, unreadable).await.unwrap();
    assert!(matches!(store.get(&id("seed-3")).await, Err(StoreError::Unreadable { .. })));

    for org in ["seed-9", "gone-9", "nowhere"] {
        let creator = store.creator(&id(org)).await.unwrap();
        assert_eq!(creator.is_some(), org == "seed-9");
    }
    assert_eq!(store.audit(&org(), None, 10).await.unwrap().len(), 2);
    assert_eq!(store.audit(&org(), Some(2), 10).await.unwrap().len(), 1);
    assert!(matches!(store.audit(&id("long"), Some(15_000), 10).await, Err(StoreError::BrokenChain { .. })));

    for (org, created_by, purge) in [
        ("seed-11", Some(key("theirs")), Purge::NotTheirs),
        ("seed-11", Some(key("k")), Purge::Removed),
        ("seed-12", None, Purge::Removed),
        ("gone-12", None, Purge::Nothing),
        ("nothing", None, Purge::Nothing),
    ] {
        let purged = store.purge(&id(org), created_by.as_ref()).await.unwrap();
        assert_eq!(purged.purge, purge, "{org}");
        if let Some(transaction) = purged.transaction {
            assert!(store.heard(transaction).await);
        }
    }
    let mut pages = store.list();
    for _ in 0..3 {
        assert_eq!(pages.next().await.unwrap().unwrap().len(), PAGE);
    }
    store.ping().await.unwrap();
    pulse_testkit::eventually(WAIT, async || hears.try_recv()).await;
    shutdown.trigger();
    shutdown.wait().await.unwrap();

    let scans = database.sequential_scans();
    let is_small = |scan: &String| SMALL.iter().any(|table| scan.starts_with(&format!("{table}: ")));
    let (small, large): (Vec<_>, Vec<_>) = scans.into_iter().partition(is_small);
    assert_eq!(large, [""; 0]);
    // The feed is one row, which no index would find faster: so plans were looked at.
    assert!(small.iter().any(|scan| scan.starts_with("feed")), "{small:?}");
}
