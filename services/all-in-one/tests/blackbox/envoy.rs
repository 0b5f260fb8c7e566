//! Requests decided for a real Envoy, as `deploy` has it, over HTTP and gRPC.

use pulse_testkit::{
    eventually,
    system::{Answer, Plan, Rejection, Service, System},
};
use serde_json::json;
use tonic::Code;

use crate::{
    PASSWORD, SOON,
    gateway::{Gateway, got, refused, values_of},
};

in_every_shape!(
    envoy_refuses_a_suspended_tenant_and_lets_it_back_in,
    envoy_lets_in_by_capability_and_limit_as_billing_changes,
    envoy_tells_the_application_what_is_true_and_nothing_that_a_client_says,
    envoy_refuses_a_grpc_call_as_grpc,
);

/// A method that needs an active organization, and one that needs a capability too.
const LIST: &str = "/acme.hosts.v1.Hosts/List";
const PAGE: &str = "/acme.alerts.v1.Alerts/Page";

/// The headers that only the gateway can set.
const LIES: [(&str, &str); 12] = [
    ("x-pulse-org-status", "suspended"),
    ("x-pulse-org-status-source", "mine"),
    ("x-pulse-org-status-age", "-1"),
    ("x-pulse-subscription-state", "active"),
    ("x-pulse-plan", "enterprise"),
    ("x-pulse-plan", "enterprise-too"),
    ("x-pulse-entitlement-source", "mine"),
    ("x-pulse-entitlement-age", "-1"),
    ("x-pulse-capability", "teleporting"),
    ("x-pulse-deny-reason", "none"),
    ("x-pulse-anything", "mine"),
    ("x_pulse_plan", "enterprise"),
];

/// Whether a change is known as soon as the operator has the answer: one process decides, and made the change.
fn at_once(system: &System) -> bool {
    system.replicas(Service::Lifecycle) == 1
}

/// Asks after a change; where another replica may have made it, until that is known.
async fn ask_after(
    system: &System,
    gateway: &Gateway,
    tenant: &str,
    is_as_expected: impl Fn(&Answer) -> bool,
) -> Answer {
    let ask = async || gateway.ask(system, tenant, "/reports", &[]).await;
    if at_once(system) {
        return ask().await;
    }
    eventually(SOON, async || {
        let answer = ask().await;
        if is_as_expected(&answer) { Ok(answer) } else { Err(answer.to_string()) }
    })
    .await
}

#[track_caller]
fn refusal(called: Result<String, tonic::Status>) -> (Code, String) {
    let rejection = Rejection::from(called.unwrap_err());
    (rejection.code, rejection.reason)
}

/// What an application is told of an active tenant on a trial, whatever its client said.
#[track_caller]
fn knows_the_truth(head: &str, org_id: &str) {
    for (name, value) in [
        ("x-pulse-org-id", org_id),
        ("x-pulse-org-status", "active"),
        ("x-pulse-subscription-state", "trial"),
        ("x-pulse-plan", "trial"),
    ] {
        assert_eq!(values_of(head, name), [value], "{head}");
    }
    for name in ["x-pulse-org-status-source", "x-pulse-entitlement-source"] {
        let source = values_of(head, name);
        assert!(["fresh", "cached"].contains(&&*source.concat()), "{name}: {source:?}");
    }
    for name in ["x-pulse-org-status-age", "x-pulse-entitlement-age"] {
        assert!(values_of(head, name).concat().parse::<u64>().is_ok_and(|age| age < 60), "{name}: {head}");
    }
    for name in ["x-pulse-capability", "x-pulse-deny-reason", "x-pulse-anything", "x_pulse_plan"] {
        assert_eq!(values_of(head, name), [""; 0], "{head}");
    }
}

async fn envoy_refuses_a_suspended_tenant_and_lets_it_back_in(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let other = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let gateway = Gateway::envoy(&system).await;
    for tenant in [org_id, other] {
        let answer = gateway.ask(&system, tenant, "/reports?id=7", &[]).await.expect(200);
        assert!(answer.body.starts_with(b"post /reports?id=7 http/1.1\r\n"), "{answer}");
    }

    for _ in 0..3 {
        let _ = system.admin().suspend(org_id, "chargeback").await.expect(200);
        let answer = ask_after(&system, &gateway, org_id, |answer| answer.status == 403).await;
        assert_eq!(answer.header("x-pulse-deny-reason"), Some("org_suspended"), "{answer}");
        refused(answer, 403, "org_suspended");
        let _ = gateway.ask(&system, other, "/reports", &[]).await.expect(200);

        let _ = system.admin().unsuspend(org_id).await.expect(200);
        let _ = ask_after(&system, &gateway, org_id, |answer| answer.status == 200).await.expect(200);
    }

    let _ = system.admin().soft_delete(org_id, 30.0).await.expect(200);
    let answer = ask_after(&system, &gateway, org_id, |answer| answer.status == 403).await;
    refused(answer, 403, "org_pending_deletion");

    for nobody in ["no-such-org", "0198c5b1-0000-7000-8000-000000000000"] {
        refused(gateway.ask(&system, nobody, "/", &[]).await, 403, "org_not_found");
    }
    // Nothing in the host name that could be a tenant.
    refused(gateway.ask(&system, "-acme", "/", &[("x-pulse-org-id", other)]).await, 403, "invalid_org_id");
}

async fn envoy_lets_in_by_capability_and_limit_as_billing_changes(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let gateway = Gateway::envoy(&system).await;
    let _ = gateway.ask(&system, org_id, "/alerts/", &[]).await.expect(200);
    let _ = gateway.ask(&system, org_id, "/exports/", &[]).await.expect(200);
    for path in ["/hosts/11/", "/hosts/11", "/alerts/../hosts/11/", "//hosts/11/", "/hosts//11/"] {
        refused(gateway.ask(&system, org_id, path, &[]).await, 403, "limit_exceeded");
    }
    // What Envoy and an application might read in two ways is nobody's path.
    let _ = gateway.ask(&system, org_id, "/x%2F..%2Fhosts/11/", &[]).await.expect(400);

    let bare = json!({
        "subscription_state": "active", "plan_version": "bare", "capabilities": [], "limits": { "monitored_hosts": 11 },
    });
    let _ = system.admin().set_billing_state(org_id, bare, None).await.expect(200);
    gateway.until_refused(&system, org_id, "/alerts/", "capability_required").await;
    gateway.until_let_in(&system, org_id, "/hosts/11/").await;
    assert_eq!(refusal(gateway.call(org_id, PAGE, &[]).await).1, "CAPABILITY_REQUIRED");

    let expired = json!({ "subscription_state": "expired" });
    let _ = system.admin().set_billing_state(org_id, expired, None).await.expect(200);
    gateway.until_refused(&system, org_id, "/hosts/11/", "subscription_inactive").await;
    // Whoever has to pay gets in.
    let answer = gateway.ask(&system, org_id, "/", &[]).await.expect(200);
    assert_eq!(got(&answer, "x-pulse-org-status"), ["active"]);
}

async fn envoy_tells_the_application_what_is_true_and_nothing_that_a_client_says(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let other = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let _ = system.admin().suspend(other, "chargeback").await.expect(200);
    let gateway = Gateway::envoy(&system).await;

    let own = [("x-pulse-org-id", &**other), ("x-other", "the client's own")];
    let headers = [&LIES[..], &own].concat();
    let answer = gateway.ask(&system, org_id, "/alerts/", &headers).await.expect(200);
    knows_the_truth(&String::from_utf8(answer.body.clone()).unwrap(), org_id);
    assert_eq!(got(&answer, "x-other"), ["the client's own"]);
    let head = gateway.call(org_id, PAGE, &headers).await.unwrap();
    assert!(head.starts_with(&format!("post {PAGE}\r\n")), "{head}");
    knows_the_truth(&head, org_id);
    assert_eq!(values_of(&head, "x-other"), ["the client's own"]);

    // Nor does it help a tenant that is suspended to be somebody else in a header.
    gateway.until_refused(&system, other, "/", "org_suspended").await;
    let lies = [("x-pulse-org-id", &**org_id)];
    refused(gateway.ask(&system, other, "/", &lies).await, 403, "org_suspended");
    assert_eq!(refusal(gateway.call(other, LIST, &lies).await).1, "ORG_SUSPENDED");
}

async fn envoy_refuses_a_grpc_call_as_grpc(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let gateway = Gateway::envoy(&system).await;
    for method in [LIST, PAGE] {
        let head = gateway.call(org_id, method, &[]).await.unwrap();
        assert!(head.starts_with(&format!("post {method}\r\n")), "{head}");
    }

    let _ = system.admin().suspend(org_id, "chargeback").await.expect(200);
    let _ = ask_after(&system, &gateway, org_id, |answer| answer.status == 403).await.expect(403);
    for method in [LIST, PAGE] {
        let refused = gateway.call(org_id, method, &[]).await.unwrap_err();
        assert_eq!(refused.message(), "the organization is suspended");
        assert_eq!(refused.metadata().get("x-pulse-deny-reason").unwrap(), "org_suspended");
        let details = refusal(Err(refused));
        assert_eq!(details, (Code::PermissionDenied, "ORG_SUSPENDED".to_owned()));
    }
    for nobody in ["no-such-org", "-acme"] {
        assert_eq!(refusal(gateway.call(nobody, LIST, &[]).await).0, Code::PermissionDenied, "{nobody}");
    }
    let _ = system.admin().unsuspend(org_id).await.expect(200);
    let _ = ask_after(&system, &gateway, org_id, |answer| answer.status == 200).await.expect(200);
    gateway.call(org_id, PAGE, &[]).await.unwrap();
}

#[tokio::test]
async fn behind_envoy_a_tenant_is_named_once_and_clearly_or_the_request_is_refused() {
    let system = System::all_in_one().start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    // As where something in front, which can be trusted, sets the header.
    let gateway = Gateway::envoy_with(&system, |text| {
        let (before, rest) = text.split_once("- name: tenant_of_host\n").unwrap();
        let (_, after) = rest.split_once("- name: pulse\n").unwrap();
        format!("{before}- name: pulse\n{after}")
    })
    .await;
    let _ = gateway.ask(&system, "any", "/alerts/", &[("x-pulse-org-id", org_id)]).await.expect(200);
    let twice = format!("{org_id},{org_id}");
    for headers in [
        &[][..],
        &[("x-pulse-org-id", "")],
        &[("x-pulse-org-id", "Acme")],
        &[("x-pulse-org-id", "../acme")],
        &[("x-pulse-org-id", &twice)],
        &[("x-pulse-org-id", org_id), ("x-pulse-org-id", org_id)],
        &[("x-pulse-org-id", org_id), ("x-pulse-org-id", "other")],
        &[("x_pulse_org_id", org_id)],
    ] {
        refused(gateway.ask(&system, org_id, "/", headers).await, 403, "invalid_org_id");
        let (code, reason) = refusal(gateway.call(org_id, LIST, headers).await);
        assert_eq!((code, &*reason), (Code::PermissionDenied, "INVALID_ORG_ID"), "{headers:?}");
    }
}

#[tokio::test]
async fn behind_envoy_a_route_that_is_misspelt_lets_nobody_in() {
    let system = System::all_in_one().start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let gateway =
        Gateway::envoy_with(&system, |text| text.replace("capability: alerting", "capabilty: alerting"))
            .await;
    refused(gateway.ask(&system, org_id, "/alerts/", &[]).await, 400, "invalid_request");
    let (code, reason) = refusal(gateway.call(org_id, PAGE, &[]).await);
    assert_eq!((code, &*reason), (Code::InvalidArgument, "INVALID_REQUEST"));
    let _ = gateway.ask(&system, org_id, "/", &[]).await.expect(200);
}

#[tokio::test]
async fn behind_envoy_nobody_is_let_in_without_a_decision_and_decisions_outlast_billing_state() {
    let mut system = System::five_processes().start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let suspended = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let gateway = Gateway::envoy(&system).await;
    let _ = system.admin().suspend(suspended, "chargeback").await.expect(200);
    let _ = gateway.ask(&system, org_id, "/alerts/", &[]).await.expect(200);

    // Without billing-state, what is known goes on, and says so, where that is good enough.
    system.kill(Service::BillingState).await;
    let stale = eventually(SOON, async || {
        let answer = gateway.ask(&system, org_id, "/alerts/", &[]).await.expect(200);
        if got(&answer, "x-pulse-entitlement-source") == ["stale"] {
            Ok(answer)
        } else {
            Err(answer.to_string())
        }
    })
    .await;
    let age = got(&stale, "x-pulse-entitlement-age").concat();
    assert!(age.parse::<u64>().is_ok_and(|age| age > 0), "{stale}");
    refused(gateway.ask(&system, org_id, "/exports/", &[]).await, 503, "unavailable");
    for path in ["/", "/alerts/", "/exports/"] {
        refused(gateway.ask(&system, suspended, path, &[]).await, 403, "org_suspended");
    }
    system.health(Service::Lifecycle, "envoy.service.auth.v3.Authorization").await.unwrap();
    // And what an operator decides counts at once.
    let mut admin = system.lifecycle_admin();
    let suspend = pulse_proto::lifecycle::v1::SuspendOrganizationRequest {
        org_id: org_id.clone(),
        reason: "chargeback".into(),
        etag: String::new(),
    };
    admin.suspend_organization(suspend).await.unwrap();
    refused(gateway.ask(&system, org_id, "/", &[]).await, 403, "org_suspended");

    // Without lifecycle there is no decision, and so nothing is let in.
    system.kill(Service::Lifecycle).await;
    for tenant in [org_id, suspended] {
        for path in ["/", "/alerts/"] {
            refused(gateway.ask(&system, tenant, path, &[]).await, 503, "unavailable");
        }
        assert_eq!(gateway.call(tenant, LIST, &[]).await.unwrap_err().code(), Code::Unavailable);
    }

    system.start_again().await;
    refused(gateway.ask(&system, suspended, "/", &[]).await, 403, "org_suspended");
    let _ = system.admin().unsuspend(org_id).await.expect(200);
    gateway.until_let_in(&system, org_id, "/exports/").await;
    gateway.call(org_id, PAGE, &[]).await.unwrap();
}
