//! `/api/admin/orgs/{id}/audit-events`: three services' records as one list.

use pulse_proto::audit::v1::AuditEvent;
use serde_json::{Value, json};
use tonic::Status;

use crate::{fakes::NOON, support::Edge};

const PATH: &str = "/api/admin/orgs/acme/audit-events";

async fn page(edge: &Edge, query: &str) -> (Vec<String>, String) {
    let answer = edge.get(&format!("{PATH}?{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let page = answer.json();
    let hash = |event: &Value| event["hash"].as_str().expect("a hash").to_owned();
    let hashes = page["audit_events"].as_array().expect("a list").iter().map(hash).collect();
    (hashes, page["next_page_token"].as_str().expect("a token").to_owned())
}

#[tokio::test]
async fn every_service_s_events_are_told_newest_first_in_pages_that_nothing_disturbs() {
    let edge = Edge::start().await;
    for (service, second) in [
        ("lifecycle", 1),
        ("provisioner", 2),
        ("billing-state", 3),
        ("billing-state", 4),
        ("lifecycle", 5),
        ("lifecycle", 6),
        ("provisioner", 7),
    ] {
        edge.world.record(service, second);
    }
    let expected = [
        "provisioner-2",
        "lifecycle-3",
        "lifecycle-2",
        "billing-state-2",
        "billing-state-1",
        "provisioner-1",
        "lifecycle-1",
    ];
    assert_eq!(page(&edge, "").await, (expected.map(str::to_owned).to_vec(), String::new()));

    let (mut told, mut token) = page(&edge, "page_size=2").await;
    while !token.is_empty() {
        // Newer ones belong to a list that begins later.
        edge.world.record("lifecycle", 100);
        edge.world.record("billing-state", 100);
        let (events, next) = page(&edge, &format!("page_size=2&page_token={token}")).await;
        told.extend(events);
        token = next;
    }
    assert_eq!(told, expected);
}

#[tokio::test]
async fn an_event_is_shown_with_every_key() {
    let edge = Edge::start().await;
    let before = pulse_rpc::convert::structure(serde_json::from_value(json!({"status": "active"})).unwrap());
    let after = json!({"status": "suspended", "seats": 25, "nested": [{"a": null}]});
    edge.world.record_event(
        "lifecycle",
        AuditEvent {
            org_id: "acme".into(),
            service: "lifecycle".into(),
            sequence: 1,
            occurred_at: Some(NOON),
            actor: "ada".into(),
            action: "organization_suspended".into(),
            reason: "abuse".into(),
            before: Some(before),
            after: Some(pulse_rpc::convert::structure(serde_json::from_value(after.clone()).unwrap())),
            request_id: "r-1".into(),
            previous_hash: String::new(),
            hash: "abc".into(),
        },
    );
    edge.world.record("billing-state", 1);
    let events = edge.get(PATH).await.json()["audit_events"].clone();
    assert_eq!(
        events[0],
        json!({
            "service": "lifecycle", "sequence": 1, "occurred_at": "2026-01-31T12:00:00Z", "actor": "ada",
            "action": "organization_suspended", "reason": "abuse", "before": {"status": "active"},
            "after": after, "request_id": "r-1", "hash": "abc",
        })
    );
    for absent in ["reason", "before", "after", "request_id"] {
        assert_eq!(events[1][absent], Value::Null, "{absent}");
    }
}

#[tokio::test]
async fn a_tenant_without_records_must_exist_and_a_purged_one_still_has_some() {
    let edge = Edge::start().await;
    assert_eq!(page(&edge, "").await, (Vec::new(), String::new()));
    edge.get("/api/admin/orgs/nobody/audit-events").await.problem(404, "org_not_found");
    // Its organization is gone; its records are not.
    edge.world.record("lifecycle", 1);
    edge.world.fail("GetOrganization", Status::not_found("purged"));
    assert_eq!(page(&edge, "").await.0, ["lifecycle-1"]);
}

#[tokio::test]
async fn a_token_or_size_that_is_none_is_refused() {
    let edge = Edge::start().await;
    for second in 1..4 {
        edge.world.record("lifecycle", second);
    }
    let (_, token) = page(&edge, "page_size=1").await;
    for (path, field) in [
        (format!("{PATH}?page_token=garbage"), "page_token"),
        (format!("{PATH}?page_size=-1"), "page_size"),
        (format!("{PATH}?page_size=x"), "page_size"),
        (format!("/api/admin/orgs/default/audit-events?page_token={token}"), "page_token"),
    ] {
        let answer = edge.get(&path).await;
        assert_eq!(
            answer.refused_fields(400, "invalid_request"),
            [(field.into(), "invalid_request".into())],
            "{path}"
        );
    }
    assert_eq!(page(&edge, "page_size=100000").await.0.len(), 3, "a size beyond the largest is that");
}

#[tokio::test]
async fn part_of_a_list_is_not_passed_off_as_all_of_it() {
    for rpc in ["lifecycle.ListAuditEvents", "provisioner.ListAuditEvents", "billing.ListAuditEvents"] {
        let edge = Edge::start().await;
        edge.world.fail(rpc, Status::unavailable("away"));
        edge.get(PATH).await.problem(503, "unavailable");
    }
}
