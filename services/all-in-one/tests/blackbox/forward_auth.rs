//! Requests decided before they are passed on: with a real nginx and a real Caddy, as `deploy` has them, in front of an upstream
//! that says what it was told.

use pulse_testkit::{
    eventually,
    system::{Plan, Service, System},
};
use serde_json::json;

use crate::{
    PASSWORD, SOON,
    gateway::{Gateway, got, refused},
};

in_every_shape!(
    nginx_refuses_a_suspended_tenant_and_lets_it_back_in,
    nginx_lets_in_by_capability_and_limit_as_billing_changes,
    nginx_tells_the_application_what_is_true_and_nothing_that_a_client_says,
);

async fn nginx_refuses_a_suspended_tenant_and_lets_it_back_in(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let other = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let gateway = Gateway::nginx(&system).await;
    for tenant in [org_id, other] {
        let answer = gateway.ask(&system, tenant, "/reports?id=7", &[]).await.expect(200);
        assert!(answer.body.starts_with(b"post /reports?id=7 http/1.1\r\n"), "{answer}");
    }

    let _ = system.admin().suspend(org_id, "chargeback").await.expect(200);
    gateway.until_refused(&system, org_id, "/reports", "org_suspended").await;
    let _ = gateway.ask(&system, other, "/reports", &[]).await.expect(200);

    let _ = system.admin().unsuspend(org_id).await.expect(200);
    gateway.until_let_in(&system, org_id, "/reports").await;

    let _ = system.admin().soft_delete(org_id, 30.0).await.expect(200);
    gateway.until_refused(&system, org_id, "/", "org_pending_deletion").await;

    for nobody in ["no-such-org", "0198c5b1-0000-7000-8000-000000000000"] {
        refused(gateway.ask(&system, nobody, "/", &[]).await, 403, "org_not_found");
    }
    // Nothing in the host name that could be a tenant.
    refused(gateway.ask(&system, "-acme", "/", &[("x-pulse-org-id", other)]).await, 403, "invalid_org_id");
}

async fn nginx_lets_in_by_capability_and_limit_as_billing_changes(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let gateway = Gateway::nginx(&system).await;
    let _ = gateway.ask(&system, org_id, "/alerts/", &[]).await.expect(200);
    for path in ["/hosts/11/", "/hosts/11"] {
        refused(gateway.ask(&system, org_id, path, &[]).await, 403, "limit_exceeded");
    }
    // What nginx and an application might read in two ways is nobody's path.
    for path in ["//hosts/11/", "/alerts;x/", "/x%2F..%2Fhosts/11/"] {
        let _ = gateway.ask(&system, org_id, path, &[]).await.expect(400);
    }
    let _ = gateway.ask(&system, org_id, "/x?back=//y/../z;%2F", &[]).await.expect(200);

    let bare = json!({
        "subscription_state": "active", "plan_version": "bare", "capabilities": [], "limits": { "monitored_hosts": 11 },
    });
    let _ = system.admin().set_billing_state(org_id, bare, None).await.expect(200);
    gateway.until_refused(&system, org_id, "/alerts/", "capability_required").await;
    gateway.until_let_in(&system, org_id, "/hosts/11/").await;

    let expired = json!({ "subscription_state": "expired" });
    let _ = system.admin().set_billing_state(org_id, expired, None).await.expect(200);
    gateway.until_refused(&system, org_id, "/hosts/11/", "subscription_inactive").await;
    // Whoever has to pay gets in.
    let answer = gateway.ask(&system, org_id, "/", &[]).await.expect(200);
    assert_eq!(got(&answer, "x-pulse-org-status"), ["active"]);
}

async fn nginx_tells_the_application_what_is_true_and_nothing_that_a_client_says(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let other = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let _ = system.admin().suspend(other, "chargeback").await.expect(200);
    let gateway = Gateway::nginx(&system).await;

    let lies = [
        ("x-pulse-org-id", &**other),
        ("X-Pulse-Org-Status", "suspended"),
        ("x-pulse-org-status-source", "mine"),
        ("x-pulse-org-status-age", "-1"),
        ("x-pulse-subscription-state", "active"),
        ("x-pulse-plan", "enterprise"),
        ("x-pulse-entitlement-source", "mine"),
        ("x-pulse-entitlement-age", "-1"),
        ("x-pulse-capability", "teleporting"),
        ("x-pulse-deny-reason", "none"),
        ("x_pulse_plan", "enterprise"),
        ("x-request-id", "mine"),
        ("x-other", "the client's own"),
    ];
    let answer = gateway.ask(&system, org_id, "/alerts/", &lies).await.expect(200);
    for (name, value) in [
        ("x-pulse-org-id", &**org_id),
        ("x-pulse-org-status", "active"),
        ("x-pulse-subscription-state", "trial"),
        ("x-pulse-plan", "trial"),
        ("x-other", "the client's own"),
    ] {
        assert_eq!(got(&answer, name), [value], "{answer}");
    }
    for name in ["x-pulse-org-status-source", "x-pulse-entitlement-source"] {
        let source = got(&answer, name);
        assert!(["fresh", "cached"].contains(&&*source.concat()), "{name}: {source:?}");
    }
    for name in ["x-pulse-org-status-age", "x-pulse-entitlement-age"] {
        assert!(got(&answer, name).concat().parse::<u64>().is_ok_and(|age| age < 60), "{name}: {answer}");
    }
    for name in ["x-pulse-capability", "x-pulse-deny-reason", "x_pulse_plan"] {
        assert_eq!(got(&answer, name), [""; 0], "{answer}");
    }
    assert_ne!(got(&answer, "x-request-id"), ["mine"]);

    // Nor does it help a tenant that is suspended to be somebody else in a header, or to ask the gateway's own questions.
    let lies = [("x-pulse-org-id", &**org_id)];
    gateway.until_refused(&system, other, "/", "org_suspended").await;
    refused(gateway.ask(&system, other, "/", &lies).await, 403, "org_suspended");
    let _ = gateway.ask(&system, org_id, "/_pulse/active", &[]).await.expect(404);
}

#[tokio::test]
async fn caddy_refuses_a_suspended_tenant_and_lets_it_back_in_and_believes_no_client() {
    let system = System::all_in_one().start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let other = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let gateway = Gateway::caddy(&system).await;
    let lies = [
        ("x-pulse-org-id", &**other),
        ("x-pulse-org-status", "suspended"),
        ("x-pulse-org-status-source", "mine"),
        ("x-pulse-org-status-age", "-1"),
        ("x-pulse-subscription-state", "active"),
        ("x-pulse-plan", "enterprise"),
        ("x-pulse-entitlement-source", "mine"),
        ("x-pulse-entitlement-age", "-1"),
        ("x-pulse-capability", "teleporting"),
        ("x-pulse-deny-reason", "none"),
        ("x_pulse_plan", "enterprise"),
        ("x-pulse_plan", "enterprise"),
    ];
    let answer = gateway.ask(&system, org_id, "/alerts/7?x=1", &lies).await.expect(200);
    assert!(answer.body.starts_with(b"post /alerts/7?x=1 http/1.1\r\n"), "{answer}");
    for (name, value) in [
        ("x-pulse-org-id", &**org_id),
        ("x-pulse-org-status", "active"),
        ("x-pulse-subscription-state", "trial"),
        ("x-pulse-plan", "trial"),
    ] {
        assert_eq!(got(&answer, name), [value], "{answer}");
    }
    for name in [
        "x-pulse-org-status-source",
        "x-pulse-org-status-age",
        "x-pulse-entitlement-source",
        "x-pulse-entitlement-age",
    ] {
        let value = got(&answer, name).concat();
        assert!(!value.is_empty() && !["mine", "-1"].contains(&&*value), "{name}: {answer}");
    }
    for name in ["x-pulse-capability", "x-pulse-deny-reason", "x_pulse_plan", "x-pulse_plan"] {
        assert_eq!(got(&answer, name), [""; 0], "{answer}");
    }
    for path in ["/hosts/11/", "/hosts/11"] {
        refused(gateway.ask(&system, org_id, path, &[]).await, 403, "limit_exceeded");
    }
    refused(gateway.ask(&system, "-acme", "/", &lies).await, 403, "invalid_org_id");

    let _ = system.admin().suspend(org_id, "chargeback").await.expect(200);
    gateway.until_refused(&system, org_id, "/", "org_suspended").await;
    for path in ["/", "/alerts/7", "/hosts/11/", "/exports/"] {
        refused(gateway.ask(&system, org_id, path, &lies).await, 403, "org_suspended");
    }
    let _ = gateway.ask(&system, other, "/", &[]).await.expect(200);
    let _ = system.admin().unsuspend(org_id).await.expect(200);
    gateway.until_let_in(&system, org_id, "/").await;
}

#[tokio::test]
async fn without_the_services_behind_decisions_go_on_and_a_suspension_stays_one() {
    let mut system = System::five_processes().start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let suspended = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let gateway = Gateway::nginx(&system).await;
    let _ = system.admin().suspend(suspended, "chargeback").await.expect(200);
    gateway.until_refused(&system, suspended, "/", "org_suspended").await;
    let _ = gateway.ask(&system, org_id, "/alerts/", &[]).await.expect(200);

    system.kill(Service::Lifecycle).await;
    system.kill(Service::BillingState).await;
    let stale = eventually(SOON, async || {
        let answer = gateway.ask(&system, org_id, "/alerts/", &[]).await.expect(200);
        let sources = [got(&answer, "x-pulse-org-status-source"), got(&answer, "x-pulse-entitlement-source")];
        if sources.concat() == ["stale", "stale"] { Ok(answer) } else { Err(sources) }
    })
    .await;
    for name in ["x-pulse-org-status-age", "x-pulse-entitlement-age"] {
        assert!(got(&stale, name).concat().parse::<u64>().is_ok_and(|age| age > 0), "{name}: {stale}");
    }
    refused(gateway.ask(&system, org_id, "/exports/", &[]).await, 503, "unavailable");
    for path in ["/", "/alerts/", "/exports/"] {
        refused(gateway.ask(&system, suspended, path, &[]).await, 403, "org_suspended");
    }

    system.start_again().await;
    gateway.until_let_in(&system, org_id, "/exports/").await;
    let _ = system.admin().unsuspend(suspended).await.expect(200);
    gateway.until_let_in(&system, suspended, "/").await;

    // Without the edge there is no decision, and so nothing is let in.
    system.kill(Service::Edge).await;
    refused(gateway.ask(&system, org_id, "/", &[]).await, 503, "unavailable");
}
