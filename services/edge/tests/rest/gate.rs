//! Hosted mode off: nothing tells a hosted-only route from a path that never existed.

use serde_json::json;

use crate::{
    client::{Answer, Request, request},
    support::{ADMIN, Edge, Setup},
};

const UNKNOWN: &str = "/api/public/no-such-route";

fn off() -> Setup {
    Setup { hosted_off: true, flags: vec!["--request-limit-per-minute", "100000"], ..Setup::default() }
}

/// Every way of asking that might make a difference.
fn probes(edge: &Edge, path: &str) -> Vec<Request> {
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"];
    let mut probes: Vec<_> = methods.iter().map(|method| edge.public(method, path)).collect();
    let post = || edge.public("POST", path);
    let body = json!({"email": "ann@example.com", "password": "orbit-lantern-72-quartz", "org_name": "Acme"});
    probes.extend([
        post().json(&body),
        post().json(&json!({})),
        post().json(&json!([])),
        post().body("not json"),
        post().header("content-type", "text/plain").body("x"),
        post().header("content-type", "application/json").body("{"),
        post().header("content-type", "application/json").body(vec![b' '; 64 * 1024]),
        post().header("content-type", "application/json").body(vec![b' '; 64 * 1024 + 1]),
        post().header("content-type", "application/json").body(vec![b' '; 900_000]),
        post().header("content-type", "application/json").body(vec![b' '; 200_000]).chunked(),
        post().bearer(ADMIN).json(&body),
        post().header("expect", "100-continue").body("{}"),
        post().header("x-request-id", "mine").json(&body),
        post().header("accept", "text/html").header("origin", "https://example.com").json(&body),
        edge.public("DELETE", path).bearer(ADMIN),
    ]);
    probes
}

async fn answers(edge: &Edge, path: &str) -> Vec<Answer> {
    let mut answers = Vec::new();
    for probe in probes(edge, path) {
        answers.push(probe.send().await.without_id_and_time());
    }
    answers
}

#[tokio::test]
async fn every_hosted_route_answers_byte_for_byte_what_an_unknown_path_answers() {
    let edge = Edge::with(off()).await;
    let expected = answers(&edge, UNKNOWN).await;
    assert!(expected.iter().all(|answer| answer.status == 404), "{expected:?}");
    for path in [
        "/api/public/signup",
        "/api/public/signup/",
        "/api/public/signup?x=1",
        "/api/admin/orgs",
        "/api/admin/orgs?page_size=x",
        "/api/admin/orgs/default",
        "/api/admin/orgs/default/billing-state",
        "/api/admin/orgs/default/suspend",
        "/api/admin/orgs/default/unsuspend",
        "/api/admin/orgs/default/soft-delete",
        "/api/admin/orgs/default/restore",
        "/api/admin/orgs/default/audit-events",
    ] {
        assert_eq!(answers(&edge, path).await, expected, "{path}");
    }
}

#[tokio::test]
async fn an_unknown_path_is_a_problem_that_says_nothing_about_itself() {
    for edge in [Edge::with(off()).await, Edge::start().await] {
        let answer = edge.public("GET", UNKNOWN).send().await;
        assert_eq!(
            answer.json(),
            json!({
                "type": "urn:pulse:problem:not_found",
                "title": "Not found",
                "status": 404,
                "detail": "there is nothing at this path",
                "code": "not_found",
            })
        );
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert!(answer.header("x-request-id").is_some());
    }
}

#[tokio::test]
async fn the_admin_listener_is_closed_and_no_service_is_asked_anything() {
    let edge = Edge::with(off()).await;
    assert_eq!(edge.admin, None);
    edge.public("POST", "/api/public/signup").json(&json!({})).send().await;
    assert!(edge.world.calls().is_empty());
}

#[tokio::test]
async fn the_public_listener_of_a_hosted_edge_has_no_admin_routes_and_the_admin_listener_no_public_ones() {
    let edge = Edge::start().await;
    for path in ["/api/admin/orgs", "/api/admin/orgs/default", "/api/admin/orgs/default/billing-state"] {
        let answer = edge.public("GET", path).bearer(ADMIN).send().await.without_id_and_time();
        assert_eq!(answer, edge.public("GET", UNKNOWN).bearer(ADMIN).send().await.without_id_and_time());
    }
    assert_eq!(edge.operator("POST", "/api/public/signup").json(&json!({})).send().await.status, 404);
}

#[tokio::test]
async fn one_address_for_both_surfaces_serves_both() {
    let flags = vec!["--request-limit-per-minute", "100000"];
    let edge = Edge::with(Setup { shared: true, flags, ..Setup::default() }).await;
    assert_eq!(edge.admin, None);
    assert_eq!(edge.get("/api/admin/orgs/default").await.status, 200);
    let signup =
        json!({"email": "ann@example.com", "password": "orbit-lantern-72-quartz", "org_name": "Acme"});
    assert_eq!(request(edge.public, "POST", "/api/public/signup").json(&signup).send().await.status, 201);
}
