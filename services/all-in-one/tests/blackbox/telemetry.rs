//! Metrics, and what no log, no store and no label may hold.

use pulse_testkit::{
    eventually,
    system::{Metrics, Plan},
};
use serde_json::Value;

use crate::{PASSWORD, SOON};

in_every_shape!(metrics_count_what_happens, secrets_are_nowhere, one_request_id_runs_through_the_logs);

#[track_caller]
fn assert_grew(before: &Metrics, after: &Metrics, name: &str, labels: &[(&str, &str)], by: f64) {
    let grown = after.sum(name, labels) - before.sum(name, labels);
    assert!((grown - by).abs() < 0.5, "{name}{labels:?} grew by {grown}, not {by}:\n{}", after.text());
}

async fn metrics_count_what_happens(plan: Plan) {
    let system = plan.start().await;
    let before = system.metrics().await;
    for name in [
        "pulse_hosted_signups_total",
        "pulse_hosted_signup_attempts_total",
        "pulse_hosted_provisions_total",
        "pulse_hosted_lifecycle_transitions_total",
        "pulse_hosted_active_tenants",
        "pulse_hosted_provisionings_stuck",
    ] {
        assert!(before.has(name), "{name} is missing from the first scrape on:\n{}", before.text());
    }

    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let _ = system.signup("ann@example.com", PASSWORD, "Acme").await.expect(200);
    let _ = system.signup("ann", "short", "..").await.expect(400);
    let admin = system.admin();
    let _ = admin.suspend(org_id, "").await.expect(200);
    let _ = admin.unsuspend(org_id).await.expect(200);
    let _ = admin.soft_delete(org_id, 30.0).await.expect(200);

    // The gauge of active tenants may follow a moment later.
    let after = eventually(SOON, async || {
        let now = system.metrics().await;
        let same =
            now.sum("pulse_hosted_active_tenants", &[]) - before.sum("pulse_hosted_active_tenants", &[]);
        (same.abs() < 0.5).then_some(now)
    })
    .await;
    assert_grew(&before, &after, "pulse_hosted_signups_total", &[], 1.0);
    assert_grew(&before, &after, "pulse_hosted_signup_attempts_total", &[], 3.0);
    assert_grew(&before, &after, "pulse_hosted_provisions_total", &[("status", "success")], 1.0);
    assert_grew(&before, &after, "pulse_hosted_provision_duration_seconds_count", &[], 1.0);
    let transitions = "pulse_hosted_lifecycle_transitions_total";
    assert_grew(
        &before,
        &after,
        transitions,
        &[("from_status", "provisioning"), ("to_status", "active")],
        1.0,
    );
    assert_grew(&before, &after, transitions, &[("from_status", "active"), ("to_status", "suspended")], 1.0);
    assert_grew(&before, &after, transitions, &[("from_status", "suspended"), ("to_status", "active")], 1.0);
    assert_grew(
        &before,
        &after,
        transitions,
        &[("from_status", "active"), ("to_status", "pending_deletion")],
        1.0,
    );
    let suspend =
        [("rpc_service", "pulse.lifecycle.v1.LifecycleAdminService"), ("rpc_method", "SuspendOrganization")];
    assert_grew(&before, &after, "rpc_server_duration_seconds_count", &suspend, 1.0);
    assert!(after.sum("http_server_request_duration_seconds_count", &[]) >= 6.0, "{}", after.text());
    assert!(after.sum("pulse_hosted_billing_propagation_seconds_count", &[]) >= 1.0, "{}", after.text());

    let _ = admin.restore(org_id).await.expect(200);
    eventually(SOON, async || {
        let now = system.metrics().await;
        now.sum("pulse_hosted_active_tenants", &[]) > before.sum("pulse_hosted_active_tenants", &[]) + 0.5
    })
    .await;

    for sample in after.samples() {
        for (label, value) in &sample.labels {
            let telling = ["ann", "Acme", org_id, "127.0.0.1"].iter().any(|secret| value.contains(secret));
            assert!(!telling, "{}: {label}={value:?}", sample.name);
        }
    }
}

async fn secrets_are_nowhere(plan: Plan) {
    let mut system = plan.set("PULSE_LOG", "debug").start().await;
    let secrets = ["canary-violin-38-meadow", "canary-walnut-51-harbor", "c4nary"];
    let org_id = system.new_tenant("Ann.Canary@example.com", secrets[0], "Acme").await;
    let _ = system.signup("ann.canary@example.com", secrets[1], "Acme").await.expect(409);
    let _ = system.signup("ann.canary@example.com", secrets[2], "Acme").await.expect(400);
    let _ = system.admin().suspend(&org_id, "").await.expect(200);
    let token = system.operators().token("olga").to_owned();
    let _ = system.stop().await;

    // Of the programs, and of PostgreSQL, which shows the values that it complains of.
    let log = system.log() + &system.database_log().await;
    assert!(log.lines().count() > 10, "{log}");
    for secret in [secrets[0], secrets[1], secrets[2], &token, "$argon2id$v="] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} in the log: {line:?}");
    }
    assert!(!log.to_lowercase().contains("ann.canary"), "an email address in the log");

    let known = system.places_with("ann.canary@example.com").await;
    assert!(
        known.iter().any(|place| place.contains("provisioner")),
        "the search finds what is there: {known:?}"
    );
    for secret in secrets.iter().copied().chain([&*token]) {
        assert_eq!(system.places_with(secret).await, Vec::<String>::new(), "{secret}");
    }
}

async fn one_request_id_runs_through_the_logs(plan: Plan) {
    let mut system = plan.set("PULSE_LOG", "debug").start().await;
    let request = system.visitor().request(reqwest::Method::POST, "/api/public/signup");
    let body = serde_json::json!({ "email": "ann@example.com", "password": PASSWORD, "org_name": "Acme" });
    let answer = request.header("x-request-id", "trace-me-0123456789").json(&body).send().await.unwrap();
    assert_eq!(answer.headers()["x-request-id"], "trace-me-0123456789");
    let org_id = answer.json::<Value>().await.unwrap()["org_id"].as_str().unwrap().to_owned();
    for event in system.admin().audit_events(&org_id).await {
        assert_eq!(event["request_id"], "trace-me-0123456789", "{event}");
    }
    let _ = system.stop().await;
    let log = system.log();
    let lines = log.lines().filter(|line| line.contains("trace-me-0123456789")).collect::<Vec<_>>();
    assert!(!lines.is_empty(), "{log}");
    for line in lines {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "one JSON object a line: {line}");
    }
}
