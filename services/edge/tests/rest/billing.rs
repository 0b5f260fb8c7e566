//! `/api/admin/orgs/{id}/billing-state`.

use pulse_proto::billing::v1::{BillingState, SubscriptionState};
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    client::Answer,
    fakes::NOON,
    support::{BILLING, Edge, SUPPORT, VIEWER},
};

const PATH: &str = "/api/admin/orgs/acme/billing-state";

async fn put(edge: &Edge, body: &Value) -> Answer {
    edge.operator("PUT", PATH).json(body).send().await
}

fn stored() -> BillingState {
    BillingState {
        org_id: "acme".into(),
        subscription_state: SubscriptionState::Grace.into(),
        plan_version: "pro".into(),
        capabilities: vec!["alerts".into(), "sso".into()],
        limits: [("max_nodes".to_owned(), 50), ("max_users".to_owned(), 5)].into(),
        meters_enabled: vec!["nodes".into()],
        trial_started_at: Some(NOON),
        trial_ends_at: Some(NOON),
        grace_ends_at: Some(NOON),
        updated_at: Some(NOON),
        etag: "e1".into(),
    }
}

#[tokio::test]
async fn the_stored_state_is_shown_with_its_etag_and_the_default_without() {
    let edge = Edge::start().await;
    let default = edge.get(PATH).await;
    assert_eq!((default.status, default.header("etag")), (200, None));
    assert_eq!(
        (&default.json()["subscription_state"], &default.json()["etag"]),
        (&json!("trial"), &Value::Null)
    );

    edge.world.store_billing(stored());
    let answer = edge.get(PATH).await;
    assert_eq!((answer.status, answer.header("etag")), (200, Some("\"e1\"")));
    let noon = "2026-01-31T12:00:00Z";
    assert_eq!(
        answer.json(),
        json!({
            "org_id": "acme", "subscription_state": "grace", "plan_version": "pro",
            "capabilities": ["alerts", "sso"], "limits": {"max_nodes": 50, "max_users": 5},
            "meters_enabled": ["nodes"], "trial_started_at": noon, "trial_ends_at": noon,
            "grace_ends_at": noon, "updated_at": noon, "etag": "e1",
        })
    );
}

#[tokio::test]
async fn a_state_is_set_as_a_whole() {
    let edge = Edge::start().await;
    let body = json!({
        "subscription_state": "active", "plan_version": "pro", "capabilities": ["alerts"],
        "limits": {"max_nodes": 50}, "meters_enabled": ["nodes"], "trial_ends_at": "2026-01-31T12:00:00Z",
        "grace_ends_at": "2026-01-31T13:00:00+01:00", "reason": "paid by invoice",
    });
    let answer = put(&edge, &body).await;
    assert_eq!((answer.status, answer.header("etag")), (200, Some("\"+\"")));
    let shown = answer.json();
    assert_eq!((&shown["org_id"], &shown["subscription_state"]), (&json!("acme"), &json!("active")));
    assert_eq!(
        (&shown["limits"], &shown["grace_ends_at"]),
        (&json!({"max_nodes": 50}), &json!("2026-01-31T12:00:00Z"))
    );
    let call = edge.world.call("SetBillingState");
    assert!(
        call.request.contains("paid by invoice") && call.request.contains("allow_missing: true"),
        "{call:?}"
    );

    for state in ["trial", "active", "grace", "expired", "suspended"] {
        let answer =
            put(&edge, &json!({"subscription_state": state, "plan_version": null, "limits": null})).await;
        assert_eq!((answer.status, &answer.json()["subscription_state"]), (200, &json!(state)));
    }
}

#[tokio::test]
async fn nothing_granted_is_not_the_same_as_nothing_said_about_grants() {
    let edge = Edge::start().await;
    let explicit = async |body: Value| {
        assert_eq!(put(&edge, &body).await.status, 200);
        edge.world.call("SetBillingState").request.contains("explicit_grants: true")
    };
    let nothing = json!({"capabilities": null, "limits": null, "meters_enabled": null});
    assert!(!explicit(json!({"subscription_state": "active"})).await);
    for (field, value) in [("capabilities", json!([])), ("limits", json!({})), ("meters_enabled", json!([]))]
    {
        let mut body = nothing.clone();
        body["subscription_state"] = json!("active");
        assert!(!explicit(body.clone()).await, "{body}");
        body[field] = value;
        assert!(explicit(body.clone()).await, "{body}");
    }
}

#[tokio::test]
async fn an_answer_can_be_edited_and_sent_back() {
    let edge = Edge::start().await;
    edge.world.store_billing(stored());
    let mut state = edge.get(PATH).await.json();
    state["subscription_state"] = json!("active");
    assert_eq!(put(&edge, &state).await.status, 200);
    assert!(edge.world.call("SetBillingState").request.contains("etag: \"e1\""), "its etag is a condition");
    put(&edge, &state).await.problem(412, "etag_mismatch");
}

#[tokio::test]
async fn only_the_five_states_are_accepted() {
    let edge = Edge::start().await;
    let bad = ["paid", "Trial", "TRIAL", "", " trial", "SUBSCRIPTION_STATE_TRIAL", "unspecified"];
    let bad = bad.map(Value::from).into_iter().chain([
        json!(1),
        json!(true),
        json!(["trial"]),
        json!({}),
        Value::Null,
    ]);
    for state in bad {
        let answer = put(&edge, &json!({"subscription_state": state})).await;
        let fields = answer.refused_fields(400, "invalid_subscription_state");
        assert_eq!(fields, [("subscription_state".into(), "invalid_subscription_state".into())], "{state}");
    }
    put(&edge, &json!({})).await.problem(400, "invalid_subscription_state");
    assert!(edge.world.calls().is_empty());
}

#[tokio::test]
async fn everything_else_that_is_wrong_is_named() {
    let edge = Edge::start().await;
    for (field, value) in [
        ("plan_version", json!(1)),
        ("capabilities", json!("alerts")),
        ("capabilities", json!([1])),
        ("limits", json!([])),
        ("limits", json!({"max_nodes": 1.5})),
        ("limits", json!({"max_nodes": "50"})),
        ("limits", json!({"max_nodes": 1e30})),
        ("meters_enabled", json!({})),
        ("trial_ends_at", json!("tomorrow")),
        ("trial_ends_at", json!(1_769_860_800)),
        ("grace_ends_at", json!("2026-01-31")),
        ("reason", json!(["x"])),
        ("subscription", json!("active")),
    ] {
        let answer = put(&edge, &json!({"subscription_state": "active", field: value})).await;
        assert_eq!(
            answer.refused_fields(400, "invalid_request"),
            [(field.into(), "invalid_request".into())],
            "{value}"
        );
    }
    let answer = put(&edge, &json!({"subscription_state": "gold", "limits": 1, "x": 1})).await;
    assert_eq!(answer.refused_fields(400, "invalid_request").len(), 3);
    edge.operator("PUT", PATH).send().await.problem(415, "unsupported_media_type");
    edge.operator("PUT", PATH)
        .header("content-type", "application/json")
        .send()
        .await
        .problem(400, "invalid_request");
}

#[tokio::test]
async fn a_tenant_that_does_not_exist_has_no_billing_state() {
    let edge = Edge::start().await;
    let path = "/api/admin/orgs/nobody/billing-state";
    edge.get(path).await.problem(404, "org_not_found");
    let answer = edge.operator("PUT", path).json(&json!({"subscription_state": "active"})).send().await;
    answer.problem(404, "org_not_found");
    assert!(edge.world.calls().iter().all(|call| call.rpc == "GetOrganization"));
}

#[tokio::test]
async fn only_billing_may_set_it() {
    let edge = Edge::start().await;
    let put =
        |token| edge.admin("PUT", PATH).bearer(token).json(&json!({"subscription_state": "active"})).send();
    put(VIEWER).await.problem(403, "role_required");
    put(SUPPORT).await.problem(403, "role_required");
    assert_eq!(put(BILLING).await.status, 200);
}

#[tokio::test]
async fn a_change_is_conditional_on_if_match() {
    let edge = Edge::start().await;
    let put = |condition: &str| {
        let request = edge.operator("PUT", PATH).header("if-match", condition);
        request.json(&json!({"subscription_state": "active"})).send()
    };
    put("*").await.problem(412, "etag_mismatch");
    put("\"e1\"").await.problem(412, "etag_mismatch");
    edge.world.store_billing(stored());
    put("\"e0\"").await.problem(412, "etag_mismatch");
    assert_eq!(put("\"e0\", \"e1\"").await.status, 200);
    assert_eq!(put("\"e1+\"").await.status, 200);
    put("\"e1+\"").await.problem(412, "etag_mismatch");
    assert_eq!(put("*").await.status, 200);
}

#[tokio::test]
async fn a_stored_state_that_cannot_be_read_is_told_without_detail() {
    let edge = Edge::start().await;
    edge.world.fail("GetBillingState", Status::data_loss("/data/orgs/acme/billing.json is broken"));
    let document = edge.get(PATH).await.problem(500, "stored_state_unreadable");
    assert!(!document.to_string().contains("/data"), "{document}");
}
