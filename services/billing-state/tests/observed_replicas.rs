//! What operators see of billing where replicas share a database: how fast a change is enforced, in each of them. The only test
//! of its process, as the metrics are the process's own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::time::Duration;

use pulse_proto::billing::v1::{
    EntitlementSource,
    SubscriptionState::{Active, Suspended},
};
use pulse_runtime::telemetry::metrics_text;
use pulse_testkit::{ManualClock, Postgres, eventually};

use self::support::{Billing, WAIT, to};

fn propagation(what: &str) -> f64 {
    let text = metrics_text().unwrap();
    let name = format!("pulse_hosted_billing_propagation_seconds_{what} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn a_change_is_timed_in_every_replica_that_served_an_older_state() {
    let database = Postgres::shared().await.database().await;
    let clock = ManualClock::default();
    let one = Billing::replica(&database.url(), clock.clone()).await;
    // Its clock is ahead: between replicas, the time is that of two clocks.
    let ahead = ManualClock::default();
    ahead.advance(Duration::from_secs(100));
    let other = Billing::replica(&database.url(), ahead).await;
    // Until it follows, it may be told to forget what it serves, and then nothing older is replaced.
    let mut conn = database.connect().await;
    eventually(WAIT, async || {
        let count = "SELECT count(*) FROM pulse_billing_state.followers";
        let following: i64 = sqlx::query_scalar(count).fetch_one(&mut conn).await.unwrap();
        following == 2
    })
    .await;
    one.start_trial("acme", "k").await.unwrap();
    assert!((propagation("count") - 1.0).abs() < 0.1, "where nothing was served, nothing is enforced late");

    for round in 1..=10_u8 {
        let state = if round % 2 == 0 { Active } else { Suspended };
        let revision = u64::from(round);
        // From its cache: what it has just read for an answer may be asked for once more, and is then no older state that it serves.
        eventually(WAIT, async || {
            let served = other.entitlements("acme").await.unwrap();
            (served.revision, served.source()) == (revision, EntitlementSource::Cached)
        })
        .await;
        one.set("billing", to("acme", state)).await.unwrap();
        let expected = 1.0 + 2.0 * f64::from(round);
        eventually(WAIT, async || propagation("count") > expected - 0.1).await;
        assert!((propagation("count") - expected).abs() < 0.1, "{}", propagation("count"));
    }
    let seconds = propagation("sum");
    assert!((1000.0..1050.0).contains(&seconds), "ten times 100 s, and little more: {seconds}");
}
