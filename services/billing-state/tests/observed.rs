//! What operators see of billing: the metric of how fast a change is enforced. The only test of its process, as the
//! metrics are the process's own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use pulse_proto::billing::v1::SubscriptionState;
use pulse_runtime::telemetry::metrics_text;

use self::support::{Billing, to};

fn propagations() -> Option<String> {
    let text = metrics_text().unwrap();
    let count =
        text.lines().find_map(|line| line.strip_prefix("pulse_hosted_billing_propagation_seconds_count "));
    count.map(ToOwned::to_owned)
}

#[tokio::test]
async fn every_commit_is_timed_until_it_is_enforced() {
    let billing = Billing::hosted().await;
    billing.start_trial("acme", "k").await.unwrap();
    billing.start_trial("acme", "k").await.unwrap();
    assert_eq!(propagations().as_deref(), Some("1"), "a repetition commits nothing");
    billing.set("billing", to("acme", SubscriptionState::Active)).await.unwrap();
    billing.set("viewer", to("acme", SubscriptionState::Active)).await.unwrap_err();
    assert_eq!(propagations().as_deref(), Some("2"));
    let text = metrics_text().unwrap();
    let told: Vec<_> = text.lines().filter(|line| line.contains("acme")).collect();
    assert_eq!(told, [""; 0], "no label carries a tenant");
}
