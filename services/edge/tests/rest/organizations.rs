//! `/api/admin/orgs`: who may do what, what is passed on, what is answered.

use pulse_kernel::{ApiError, Reason};
use pulse_proto::lifecycle::v1::{Organization, OrganizationStatus};
use serde_json::{Value, json};

use crate::{
    client::Answer,
    fakes::{NOON, organization},
    support::{ADMIN, BILLING, Edge, SUPPORT, VIEWER},
};

const ACME: &str = "/api/admin/orgs/acme";

async fn post(edge: &Edge, action: &str, body: &Value) -> Answer {
    edge.operator("POST", &format!("{ACME}/{action}")).json(body).send().await
}

#[tokio::test]
async fn nobody_without_a_token_learns_anything() {
    let edge = Edge::start().await;
    let routes = [
        ("GET", "/api/admin/orgs"),
        ("GET", "/api/admin/orgs?status=nonsense"),
        ("GET", ACME),
        ("GET", "/api/admin/orgs/NOT-an-id"),
        ("GET", "/api/admin/orgs/unknown"),
        ("DELETE", ACME),
        ("PATCH", ACME),
        ("GET", "/api/admin/orgs/acme/billing-state"),
        ("PUT", "/api/admin/orgs/acme/billing-state"),
        ("POST", "/api/admin/orgs/acme/suspend"),
        ("POST", "/api/admin/orgs/acme/unsuspend"),
        ("POST", "/api/admin/orgs/acme/soft-delete"),
        ("DELETE", "/api/admin/orgs/acme/soft-delete"),
        ("POST", "/api/admin/orgs/acme/restore"),
        ("GET", "/api/admin/orgs/acme/audit-events"),
    ];
    for (method, path) in routes {
        for authorization in [None, Some("Bearer wrong"), Some("Basic YTpi"), Some("Bearer "), Some(ADMIN)] {
            let mut request = edge.admin(method, path).header("content-type", "text/plain").body("{");
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let answer = request.send().await;
            answer.problem(401, "unauthenticated");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{method} {path}");
        }
        let too_large = edge.admin(method, path).body(vec![b' '; 100_000]).send().await;
        too_large.problem(401, "unauthenticated");
    }
    assert!(edge.world.calls().is_empty(), "no service is asked on behalf of nobody");
}

#[tokio::test]
async fn the_services_decide_on_roles() {
    let edge = Edge::start().await;
    for (method, path, enough, too_few) in [
        ("GET", "/api/admin/orgs", vec![VIEWER, SUPPORT, BILLING, ADMIN], vec![]),
        ("GET", ACME, vec![VIEWER, SUPPORT, BILLING, ADMIN], vec![]),
        ("GET", "/api/admin/orgs/acme/billing-state", vec![VIEWER, BILLING], vec![]),
        ("GET", "/api/admin/orgs/acme/audit-events", vec![VIEWER, SUPPORT], vec![]),
        ("POST", "/api/admin/orgs/acme/suspend", vec![SUPPORT], vec![VIEWER, BILLING]),
        ("POST", "/api/admin/orgs/acme/unsuspend", vec![ADMIN], vec![VIEWER, BILLING]),
        ("DELETE", ACME, vec![], vec![VIEWER, SUPPORT, BILLING]),
        ("POST", "/api/admin/orgs/acme/soft-delete", vec![], vec![VIEWER, SUPPORT, BILLING]),
        ("DELETE", "/api/admin/orgs/acme/soft-delete", vec![ADMIN], vec![VIEWER, SUPPORT, BILLING]),
        ("POST", "/api/admin/orgs/acme/restore", vec![ADMIN], vec![VIEWER, SUPPORT, BILLING]),
    ] {
        for token in too_few {
            edge.admin(method, path).bearer(token).send().await.problem(403, "role_required");
        }
        for token in enough {
            let answer = edge.admin(method, path).bearer(token).send().await;
            assert!(matches!(answer.status, 200 | 409), "{method} {path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn the_token_and_the_request_id_go_along() {
    let edge = Edge::start().await;
    edge.operator("GET", ACME).header("x-request-id", "op-1").send().await;
    let call = edge.world.call("GetOrganization");
    assert_eq!(call.metadata.get("authorization").unwrap(), &format!("Bearer {ADMIN}"));
    assert_eq!(call.metadata.get("x-request-id").unwrap(), "op-1");
}

#[tokio::test]
async fn an_organization_is_shown_with_every_key_and_its_etag() {
    let edge = Edge::start().await;
    let answer = edge.get(ACME).await;
    assert_eq!((answer.status, answer.header("etag")), (200, Some("\"v1\"")));
    assert_eq!(
        answer.json(),
        json!({
            "id": "acme", "display_name": "ACME", "owner_user_id": "0190a5c8-7c3e-7000-8000-000000000001",
            "owner_email": "owner@acme.example", "status": "active", "suspended_at": null,
            "suspend_reason": null, "deletion_requested_at": null, "retention_days": null,
            "purge_after": null, "created_at": "2026-01-31T12:00:00Z",
            "updated_at": "2026-01-31T12:00:00Z", "etag": "v1",
        })
    );
    edge.world.add(Organization {
        suspended_at: Some(NOON),
        suspend_reason: "abuse".into(),
        retention_days: Some(0.5),
        ..organization("globex")
    });
    let shown = edge.get("/api/admin/orgs/globex").await.json();
    assert_eq!((&shown["suspend_reason"], &shown["retention_days"]), (&json!("abuse"), &json!(0.5)));
    edge.get("/api/admin/orgs/nobody").await.problem(404, "org_not_found");
}

#[tokio::test]
async fn an_id_that_cannot_be_one_is_refused_before_any_service_is_asked() {
    let edge = Edge::start().await;
    for id in ["ACME", "a.b", "%2e%2e", "-a", "%C3%A9", "%ff", &"a".repeat(65)] {
        let answer = edge.get(&format!("/api/admin/orgs/{id}")).await;
        assert_eq!(
            answer.refused_fields(400, "invalid_org_id"),
            [("org_id".into(), "invalid_org_id".into())]
        );
    }
    assert!(edge.world.calls().is_empty());
}

#[tokio::test]
async fn organizations_are_listed_by_status_and_in_pages() {
    let edge = Edge::start().await;
    for id in ["b", "c", "d"] {
        edge.world.add(Organization { status: OrganizationStatus::Suspended.into(), ..organization(id) });
    }
    let ids = |page: &Value| -> Vec<String> {
        let organizations = page["organizations"].as_array().expect("a list");
        organizations.iter().map(|o| o["id"].as_str().expect("an id").to_owned()).collect()
    };
    let all = edge.get("/api/admin/orgs").await.json();
    assert_eq!(
        (ids(&all), &all["next_page_token"]),
        (vec!["acme".into(), "b".into(), "c".into(), "d".into(), "default".into()], &json!(""))
    );

    let first = edge.get("/api/admin/orgs?status=suspended&page_size=2").await.json();
    assert_eq!(ids(&first), ["b", "c"]);
    let token = first["next_page_token"].as_str().expect("a token");
    let second =
        edge.get(&format!("/api/admin/orgs?status=suspended&page_size=2&page_token={token}")).await.json();
    assert_eq!((ids(&second), &second["next_page_token"]), (vec!["d".to_owned()], &json!("")));

    for (query, field) in [
        ("status=gone", "status"),
        ("status=Active", "status"),
        ("page_size=ten", "page_size"),
        ("page_size=-1", "page_size"),
        ("page_token=garbage", "page_token"),
    ] {
        let answer = edge.get(&format!("/api/admin/orgs?{query}")).await;
        assert_eq!(answer.refused_fields(400, "invalid_request"), [(field.into(), "invalid_request".into())]);
    }
    edge.get("/api/admin/orgs?page_size=1&page_size=2").await.problem(400, "invalid_request");
}

#[tokio::test]
async fn an_organization_goes_through_its_life() {
    let edge = Edge::start().await;
    let suspended = post(&edge, "suspend", &json!({"reason": "abuse"})).await;
    assert_eq!((suspended.status, suspended.header("etag")), (200, Some("\"v1+\"")));
    let shown = suspended.json();
    assert_eq!((&shown["status"], &shown["suspend_reason"]), (&json!("suspended"), &json!("abuse")));
    post(&edge, "suspend", &json!({})).await.problem(409, "already_suspended");
    assert_eq!(post(&edge, "unsuspend", &json!({"reason": "resolved"})).await.json()["status"], "active");
    assert!(edge.world.call("UnsuspendOrganization").request.contains("resolved"));
    post(&edge, "unsuspend", &json!({})).await.problem(409, "not_suspended");

    let deleted = post(&edge, "soft-delete", &json!({"retention_days": 7, "reason": "asked for"})).await;
    assert_eq!(deleted.status, 200);
    assert_eq!(
        (&deleted.json()["status"], &deleted.json()["retention_days"]),
        (&json!("pending_deletion"), &json!(7))
    );
    assert!(
        String::from_utf8_lossy(&deleted.body).contains("\"retention_days\":7,"),
        "whole days print as such"
    );
    post(&edge, "soft-delete", &json!({})).await.problem(409, "already_pending_deletion");
    post(&edge, "suspend", &json!({})).await.problem(409, "pending_deletion");
    assert_eq!(post(&edge, "restore", &json!({"reason": "sorry"})).await.json()["status"], "active");
    post(&edge, "restore", &json!({})).await.problem(409, "not_pending_deletion");
    for action in ["suspend", "soft-delete"] {
        let answer = edge.operator("POST", &format!("/api/admin/orgs/default/{action}")).send().await;
        answer.problem(400, "default_org_immutable");
    }
    edge.operator("POST", "/api/admin/orgs/nobody/suspend").send().await.problem(404, "org_not_found");
}

#[tokio::test]
async fn a_deletion_is_asked_for_in_three_ways() {
    let edge = Edge::start().await;
    for (method, path) in [
        ("DELETE", ACME),
        ("DELETE", "/api/admin/orgs/acme/soft-delete"),
        ("POST", "/api/admin/orgs/acme/soft-delete"),
    ] {
        let answer = edge.operator(method, path).json(&json!({"retention_days": 0.25})).send().await;
        assert_eq!((answer.status, &answer.json()["retention_days"]), (200, &json!(0.25)), "{method} {path}");
        assert_eq!(post(&edge, "restore", &json!({})).await.status, 200);
        let answer = edge.operator(method, path).send().await;
        assert_eq!(answer.json()["retention_days"], 30, "the default is the service's");
        assert!(edge.world.call("SoftDeleteOrganization").request.contains("retention_days: None"));
        assert_eq!(post(&edge, "restore", &json!({})).await.status, 200);
    }
}

#[tokio::test]
async fn a_retention_is_a_number_of_days_above_zero() {
    let edge = Edge::start().await;
    for bad in [json!(0), json!(-1), json!(-0.5), json!("30"), json!(true), json!([]), json!({})] {
        let answer = post(&edge, "soft-delete", &json!({"retention_days": bad})).await;
        let fields = answer.refused_fields(400, "invalid_retention_days");
        assert_eq!(fields, [("retention_days".into(), "invalid_retention_days".into())], "{bad}");
    }
    assert!(edge.world.calls().is_empty());
    edge.world.fail_with(
        "SoftDeleteOrganization",
        &ApiError::field(Reason::InvalidRetentionDays, "retention_days", "must be at most 3650"),
    );
    post(&edge, "soft-delete", &json!({"retention_days": 4000})).await.problem(400, "invalid_retention_days");
}

#[tokio::test]
async fn a_body_may_be_left_out_but_not_be_something_else() {
    let edge = Edge::start().await;
    let suspend = || edge.operator("POST", "/api/admin/orgs/acme/suspend");
    assert_eq!(suspend().send().await.status, 200);
    assert_eq!(post(&edge, "unsuspend", &json!({"reason": null})).await.status, 200);
    // What curl sends for `-X POST -d ''`.
    let form = suspend().header("content-type", "application/x-www-form-urlencoded").body("");
    assert_eq!(form.send().await.status, 200);
    suspend().body("{}").send().await.problem(415, "unsupported_media_type");
    suspend()
        .header("content-type", "application/json")
        .body("{")
        .send()
        .await
        .problem(400, "invalid_request");
    assert_eq!(post(&edge, "unsuspend", &json!({"reason": "é".repeat(500)})).await.status, 200);
    let long = edge.operator("POST", "/api/admin/orgs/acme/suspend").header("if-match", "\"stale\"");
    let answer = long.json(&json!({"reason": "é".repeat(501)})).send().await;
    assert_eq!(answer.refused_fields(400, "invalid_request"), [("reason".into(), "invalid_request".into())]);
    let answer = post(&edge, "suspend", &json!({"resaon": "typo", "reason": 1})).await;
    let fields = answer.refused_fields(400, "invalid_request");
    assert_eq!(fields.iter().map(|(field, _)| field.as_str()).collect::<Vec<_>>(), ["reason", "resaon"]);
}

#[tokio::test]
async fn a_change_is_conditional_on_if_match() {
    let edge = Edge::start().await;
    let suspend = |condition: &str| {
        edge.operator("POST", "/api/admin/orgs/acme/suspend").header("if-match", condition).send()
    };
    for stale in ["\"v0\"", "\"v0\", \"v00\"", "W/\"v1\"", "\"\"", "", "nonsense here"] {
        suspend(stale).await.problem(412, "etag_mismatch");
    }
    assert!(
        edge.world.calls().iter().all(|call| !call.request.contains("etag: \"\"")),
        "none went on unconditionally"
    );
    let unsuspend = async || assert_eq!(post(&edge, "unsuspend", &json!({})).await.status, 200);
    assert_eq!(suspend("\"v1\"").await.status, 200);
    unsuspend().await;
    assert_eq!(suspend("\"other\", \"v1++\"").await.status, 200);
    unsuspend().await;
    assert_eq!(suspend("*").await.status, 200);
    unsuspend().await;
    assert_eq!(suspend("v1++++++").await.status, 200, "as it stands in the body");
    let nobody = edge.operator("POST", "/api/admin/orgs/nobody/suspend").header("if-match", "*").send().await;
    nobody.problem(404, "org_not_found");
}
