//! States that cannot be understood, and histories that were altered: only a superuser can have done that, or another version
//! of this program.

use pulse_entitlements::Stored;
use pulse_store::audit::{Salt, seal};

use super::*;

/// The problem and the last known state of a row that cannot be understood.
fn unreadable<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> (String, Option<Stored>) {
    match outcome {
        Err(error @ StoreError::Unreadable { .. }) => {
            let text = error.to_string();
            let StoreError::Unreadable { last_known, .. } = error else { unreachable!() };
            (text, last_known.map(|stored| *stored))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_understood_is_named_kept_and_stood_in_for() {
    let (store, database) = open_new().await;
    let stored = with_history(&store).await;
    let mut vandal = connect_as_vandal(&database).await;
    let rows = "SELECT jsonb_agg(to_jsonb(billing_states))::text FROM billing_states";
    for (damage, says) in [
        (r#"state || '{"colour": "blue"}'"#, "unknown field `colour`"),
        ("state - 'limits'", "missing field `limits`"),
        (r#"state || '{"limits": {"hosts": -7}}'"#, "limits must be"),
        (r#"state || '{"trial_ends_at": "soon"}'"#, "failed to parse"),
    ] {
        run(&mut vandal, &format!("UPDATE billing_states SET state = {damage}")).await.unwrap();
        let before: String = sqlx::query_scalar(rows).fetch_one(&mut vandal).await.unwrap();

        let (problem, last_known) = unreadable(store.get(&org()).await);
        assert!(problem.starts_with("billing_states of acme: ") && problem.contains(says), "{problem}");
        assert_eq!(last_known, Some(stored.clone()), "from the history");
        let write = set_on(&stored.state, &ask(Suspended), 9);
        assert_eq!(unreadable(store.put(write).await), (problem, last_known));
        assert_eq!(store.creator(&org()).await.unwrap().as_deref(), Some("k"));
        assert_eq!(store.audit(&org(), None, 10).await.unwrap().len(), 3);

        let after: String = sqlx::query_scalar(rows).fetch_one(&mut vandal).await.unwrap();
        assert_eq!(after, before, "it is left as it is");
        let mended =
            "UPDATE billing_states SET state = (details::jsonb -> 'after') - 'change' FROM audit_events
            WHERE audit_events.org_id = billing_states.org_id AND sequence = revision";
        run(&mut vandal, mended).await.unwrap();
        assert_eq!(store.get(&org()).await.unwrap(), Lookup::Stored(Box::new(stored.clone())));
    }

    run(&mut vandal, "UPDATE billing_states SET state = state - 'limits'; DELETE FROM audit_events")
        .await
        .unwrap();
    assert_eq!(unreadable(store.get(&org()).await).1, None, "nothing is known any more");
    assert_eq!(store.purge(&org(), Some(&key("theirs"))).await.unwrap().purge, Purge::NotTheirs);
    assert_eq!(
        store.purge(&org(), Some(&key("k"))).await.unwrap().purge,
        Purge::Removed,
        "it can be purged all the same"
    );
    assert_eq!(store.get(&org()).await.unwrap(), Lookup::Purged);
}

/// What is wrong with the tenant's chain, as a list of any part of it says.
async fn broken(store: &PostgresStore, before: Option<i64>) -> String {
    match store.audit(&org(), before, 1).await {
        Err(error @ StoreError::BrokenChain { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_chain_that_was_altered_anywhere_is_not_listed_in_part() {
    let (store, database) = open_new().await;
    with_history(&store).await;
    let mut vandal = connect_as_vandal(&database).await;
    for (damage, says) in [
        ("UPDATE audit_events SET actor = 'mallory' WHERE sequence = 1", "record 1: was altered"),
        ("UPDATE audit_events SET details = '{}' WHERE sequence = 2", "record 2: its details were altered"),
        ("DELETE FROM audit_events WHERE sequence = 3", "record 3: is missing"),
        ("DELETE FROM audit_events WHERE sequence = 1", "record 1: record 2 stands in its place"),
        ("DELETE FROM audit_events", "record 1: is missing"),
        ("DELETE FROM audit_heads", "record 1: lies beyond the head"),
    ] {
        run(&mut vandal, &format!("BEGIN; CREATE TABLE kept AS TABLE audit_events; CREATE TABLE heads AS TABLE audit_heads; COMMIT; {damage}"))
            .await
            .unwrap();
        for before in [None, Some(3), Some(1)] {
            let problem = broken(&store, before).await;
            assert!(problem.starts_with("audit_events of acme: ") && problem.contains(says), "{problem}");
        }
        let mend = "DELETE FROM audit_events; INSERT INTO audit_events SELECT * FROM kept; DROP TABLE kept;
            DELETE FROM audit_heads; INSERT INTO audit_heads SELECT * FROM heads; DROP TABLE heads";
        run(&mut vandal, mend).await.unwrap();
        assert_eq!(store.audit(&org(), None, 10).await.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn of_a_very_long_chain_what_is_listed_is_verified() {
    let (store, database) = open_new().await;
    let mut vandal = connect_as_vandal(&database).await;
    let length = history::WHOLE + 30;
    let mut head = None;
    let mut rows = Vec::new();
    for number in 0..length {
        let record = seal(head.as_ref(), trial_write("k", number).draft, Salt([7; 16]));
        head = Some(record.head());
        rows.push(serde_json::json!({
            "sequence": record.sequence, "at": record.occurred_at, "actor": record.actor, "action": record.action,
            "details": String::from_utf8(pulse_store::audit::canonical::details(record.details.as_ref().unwrap())).unwrap(),
            "details_hash": record.details_hash.to_string(), "previous_hash": record.previous_hash.to_string(),
            "hash": record.hash.to_string(),
        }));
    }
    sqlx::query(
        "INSERT INTO audit_events SELECT 'acme', sequence, at, actor, action, details, decode(repeat('07', 16), 'hex'),
             decode(details_hash, 'hex'), decode(previous_hash, 'hex'), decode(hash, 'hex')
         FROM jsonb_to_recordset($1::text::jsonb) AS rows (sequence bigint, at timestamptz, actor text, action text, details text,
             details_hash text, previous_hash text, hash text)",
    )
    .bind(serde_json::to_string(&rows).unwrap())
    .execute(&mut vandal)
    .await
    .unwrap();
    let last = "INSERT INTO audit_heads SELECT org_id, sequence, hash FROM audit_events ORDER BY sequence DESC LIMIT 1";
    run(&mut vandal, last).await.unwrap();

    // Page by page, to the end.
    let mut before = None;
    let mut seen = Vec::new();
    loop {
        let page = store.audit(&org(), before, 1000).await.unwrap();
        let Some(oldest) = page.last() else { break };
        before = Some(oldest.sequence);
        seen.extend(page.iter().map(|record| record.sequence));
    }
    assert!(seen.iter().copied().eq((1..=length).rev()), "{}", seen.len());

    run(&mut vandal, "UPDATE audit_events SET actor = 'mallory' WHERE sequence = 5000").await.unwrap();
    for (before, limit, is_broken) in [
        (None, 10, false),
        (Some(4999), 10, false),
        (Some(5000), 10, true),
        (Some(5001), 1, true),
        (Some(5010), 5, false),
    ] {
        let listed = store.audit(&org(), before, limit).await;
        assert_eq!(listed.is_err(), is_broken, "{before:?}: {listed:?}");
    }
    run(&mut vandal, "DELETE FROM audit_events WHERE sequence > 10020").await.unwrap();
    assert!(broken(&store, None).await.contains("record 10021: is missing"));
    run(&mut vandal, "DELETE FROM audit_events WHERE sequence < 5").await.unwrap();
    assert!(broken(&store, Some(6)).await.contains("record 1: record 5 stands in its place"));
    assert!(broken(&store, Some(3)).await.contains("is missing"));
}
