//! The file that a billing state is, with the embedded store: pretty-printed, and edited by hand.

use std::fs;

use pulse_proto::billing::v1::SubscriptionState;
use pulse_testkit::{eventually, system::Plan};
use serde_json::json;

use crate::{PASSWORD, SOON, billing::entitlements};

in_embedded_shapes!(the_file_is_the_truth);

async fn the_file_is_the_truth(plan: Plan) {
    let system = plan.set("PULSE_ENTITLEMENT_REFRESH", "1s").start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let path = system.billing_file(org_id, "billing.json");
    let original = fs::read_to_string(&path).unwrap();
    assert!(original.contains("\n  \"subscription_state\": \"trial\""), "pretty-printed: {original}");
    let log = fs::read_to_string(system.billing_file(org_id, "billing-audit.jsonl")).unwrap();
    assert!(log.lines().count() == 1 && log.starts_with('{'), "a record a line: {log}");

    let edited = original.replacen(r#""trial""#, r#""expired""#, 1);
    assert_ne!(edited, original);
    fs::write(&path, &edited).unwrap();
    eventually(SOON, async || {
        system.admin().billing_state(org_id).await.json()["subscription_state"] == "expired"
    })
    .await;
    eventually(SOON, async || {
        entitlements(&system, org_id).await.subscription_state() == SubscriptionState::Expired
    })
    .await;

    fs::write(&path, "{ not json").unwrap();
    let unreadable = eventually(SOON, async || {
        let answer = system.admin().billing_state(org_id).await;
        (answer.status == 500).then_some(answer)
    })
    .await;
    assert_eq!(unreadable.json()["code"], "stored_state_unreadable", "{unreadable}");
    let refused =
        system.admin().set_billing_state(org_id, json!({ "subscription_state": "active" }), None).await;
    assert_eq!(refused.status, 500, "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "{ not json", "never overwritten");
    assert!(system.log().contains(org_id.as_str()), "the file is named");
    let known = entitlements(&system, org_id).await;
    assert_eq!(known.subscription_state(), SubscriptionState::Expired, "the last known state goes on");
}
