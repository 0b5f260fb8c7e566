//! `http_server_request_duration_seconds`.

use pulse_runtime::telemetry::metrics_text;
use pulse_testkit::eventually;
use serde_json::json;

use crate::support::{Edge, SOON};

#[tokio::test]
async fn every_request_is_counted_by_method_route_and_status_and_nothing_a_stranger_chose() {
    let edge = Edge::start().await;
    edge.get("/api/admin/orgs/acme").await;
    edge.admin("GET", "/api/admin/orgs/acme").send().await;
    edge.public("POST", "/api/public/signup").json(&json!({})).send().await;
    edge.public("BREW", "/teapot-of-a-stranger").send().await;
    for (method, route, status) in [
        ("GET", "/api/admin/orgs/{id}", 200),
        ("GET", "/api/admin/orgs/{id}", 401),
        ("POST", "/api/public/signup", 400),
        ("_OTHER", "none", 404),
        ("GET", "/readyz", 200),
    ] {
        let labels = format!(r#"_count{{method="{method}",route="{route}",status="{status}"}}"#);
        let line = format!("http_server_request_duration_seconds{labels}");
        eventually(SOON, async || metrics_text().unwrap().contains(&line)).await;
    }
    let text = metrics_text().unwrap();
    assert!(!text.contains("teapot") && !text.contains("BREW") && !text.contains("acme"), "{text}");
}
