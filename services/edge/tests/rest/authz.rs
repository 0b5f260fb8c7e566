//! `/api/internal/authz`: which questions are understood, and how each answer is told to a gateway.

use pulse_kernel::Reason;
use pulse_proto::{
    billing::v1::{BillingState, SubscriptionState},
    lifecycle::v1::{Organization, OrganizationStatus},
};
use pulse_runtime::Service;
use pulse_testkit::eventually;
use serde_json::json;
use tonic::Status;

use crate::{
    client::{Answer, Request},
    fakes::{organization, refusal},
    internal_fakes::{ENTITLEMENTS, STATUS, pro},
    support::{Edge, SOON, Setup},
};

const AUTHZ: &str = "/api/internal/authz";

/// The headers of an answer that lets in.
const TRUSTED: [&str; 8] = [
    "x-pulse-org-id",
    "x-pulse-org-status",
    "x-pulse-org-status-source",
    "x-pulse-org-status-age",
    "x-pulse-subscription-state",
    "x-pulse-plan",
    "x-pulse-entitlement-source",
    "x-pulse-entitlement-age",
];

fn ask(edge: &Edge, query: &str) -> Request {
    edge.internal("GET", &format!("{AUTHZ}{query}"))
}

/// A refusal, told in the body and in a header.
#[track_caller]
fn denied(answer: &Answer, status: u16, code: &str) {
    answer.problem(status, code);
    assert_eq!(answer.header("x-pulse-deny-reason"), Some(code));
    for name in TRUSTED {
        assert_eq!(answer.header(name), None, "{name}");
    }
}

/// An edge that knows acme, which pays.
async fn start() -> Edge {
    let edge = Edge::start().await;
    edge.world.store_billing(pro("acme"));
    edge
}

#[tokio::test]
async fn whoever_may_go_on_comes_with_what_is_known_of_the_tenant() {
    let edge = start().await;
    for request in [
        ask(&edge, "").header("x-pulse-org-id", "acme"),
        ask(&edge, "?org_id=acme"),
        ask(&edge, "?org_id=acme").header("x-pulse-org-id", "acme"),
        ask(&edge, "?org_id=acme&capability=alerting&limit=users:50&on_outage=deny"),
        ask(&edge, "?org_id=acme&limit=alert_rules:18446744073709551615")
            .header("x-pulse-capability", "alerting"),
    ] {
        let shown = format!("{request:?}");
        let answer = request.send().await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{shown}: {answer:?}");
        for (name, value) in [
            ("x-pulse-org-id", "acme"),
            ("x-pulse-org-status", "active"),
            ("x-pulse-subscription-state", "active"),
            ("x-pulse-plan", "pro"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{shown}");
        }
        for name in TRUSTED {
            assert!(answer.header(name).is_some_and(|value| !value.is_empty()), "{shown}: {name}");
        }
    }
}

#[tokio::test]
async fn any_method_and_path_below_is_the_same_question_and_its_body_is_not_read() {
    let edge = start().await;
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
        for path in ["", "/", "/orders", "/api/orders/7%2F8//..;/x"] {
            let request = edge.internal(method, &format!("{AUTHZ}{path}")).header("x-pulse-org-id", "acme");
            let answer = request.body(vec![b'x'; 200_000]).send_all_first().await;
            assert_eq!(answer.status, 200, "{method} {path:?}: {answer:?}");
        }
    }
    let head = edge.internal("HEAD", AUTHZ).header("x-pulse-org-id", "acme").send().await;
    assert_eq!((head.status, head.header("x-pulse-plan")), (200, Some("pro")));
    assert_eq!(edge.internal("GET", "/api/internal/authzx").send().await.status, 404);
}

#[tokio::test]
async fn every_reason_is_a_403_for_gateways_that_know_no_other() {
    let edge = start().await;
    let organization =
        |id: &str, status: OrganizationStatus| Organization { status: status.into(), ..organization(id) };
    edge.world.add(organization("suspended", OrganizationStatus::Suspended));
    edge.world.add(organization("deleted", OrganizationStatus::PendingDeletion));
    edge.world.add(organization("purging", OrganizationStatus::Purging));
    edge.world.add(organization("new", OrganizationStatus::Provisioning));
    edge.world.add(organization("expired", OrganizationStatus::Active));
    let expired = BillingState { subscription_state: SubscriptionState::Expired.into(), ..pro("expired") };
    edge.world.store_billing(expired);
    for (query, code) in [
        ("?org_id=suspended", "org_suspended"),
        ("?org_id=suspended&capability=alerting", "org_suspended"),
        ("?org_id=deleted", "org_pending_deletion"),
        ("?org_id=purging", "org_pending_deletion"),
        ("?org_id=new", "org_not_found"),
        ("?org_id=nobody", "org_not_found"),
        ("?org_id=expired&capability=alerting", "subscription_inactive"),
        ("?org_id=expired&limit=users:0", "subscription_inactive"),
        ("?org_id=acme&capability=flying", "capability_required"),
        ("?org_id=acme&limit=users:51", "limit_exceeded"),
        ("?org_id=acme&limit=boats:1", "limit_exceeded"),
    ] {
        denied(&ask(&edge, query).send().await, 403, code);
    }
    // To be told that one has to pay, one must get in.
    let answer = ask(&edge, "?org_id=expired").send().await;
    assert_eq!((answer.status, answer.header("x-pulse-subscription-state")), (200, Some("expired")));
}

#[tokio::test]
async fn a_tenant_is_named_once_and_clearly_or_the_request_is_refused() {
    let edge = start().await;
    for request in [
        ask(&edge, ""),
        ask(&edge, "?org_id="),
        ask(&edge, "?org_id=Acme"),
        ask(&edge, "?org_id=..%2Facme"),
        ask(&edge, "").header("x-pulse-org-id", ""),
        ask(&edge, "").header("x-pulse-org-id", "acme, default"),
        ask(&edge, "").header("x-pulse-org-id", "acme").header("x-pulse-org-id", "acme"),
        ask(&edge, "?org_id=default").header("x-pulse-org-id", "acme"),
    ] {
        let shown = format!("{request:?}");
        let answer = request.send().await;
        assert_eq!(answer.status, 403, "{shown}");
        denied(&answer, 403, "invalid_org_id");
    }
    assert!(edge.world.calls().iter().all(|call| call.rpc != STATUS), "nobody is asked about nobody");
}

#[tokio::test]
async fn a_question_that_is_none_is_the_gateway_s_mistake_and_lets_nobody_in() {
    let edge = start().await;
    for request in [
        ask(&edge, "?org_id=acme&capability="),
        ask(&edge, "?org_id=acme&capability=two%20words"),
        ask(&edge, "?org_id=acme&capability=alerting&capability=flying"),
        ask(&edge, "?org_id=acme&capability=alerting").header("x-pulse-capability", "teleporting"),
        ask(&edge, "?org_id=acme").header("x-pulse-capability", "a b"),
        ask(&edge, "?org_id=acme&capabilty=alerting"),
        ask(&edge, "?org_id=acme&limit=users"),
        ask(&edge, "?org_id=acme&limit=users:"),
        ask(&edge, "?org_id=acme&limit=users:-1"),
        ask(&edge, "?org_id=acme&limit=users:%2B1"),
        ask(&edge, "?org_id=acme&limit=:1"),
        ask(&edge, "?org_id=acme&limit=users:18446744073709551616"),
        ask(&edge, "?org_id=acme&on_outage=maybe"),
    ] {
        let shown = format!("{request:?}");
        let answer = request.send().await;
        assert_eq!(answer.status, 400, "{shown}");
        answer.problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_change_is_heard_of_within_seconds() {
    let edge = start().await;
    assert_eq!(ask(&edge, "?org_id=acme").send().await.status, 200);
    edge.world.add(Organization { status: OrganizationStatus::Suspended.into(), ..organization("acme") });
    let answer = eventually(SOON, async || {
        let answer = ask(&edge, "?org_id=acme").send().await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    denied(&answer, 403, "org_suspended");
    edge.world.add(organization("acme"));
    eventually(SOON, async || ask(&edge, "?org_id=acme").send().await.status == 200).await;
    edge.world.store_billing(BillingState { capabilities: Vec::new(), ..pro("acme") });
    let answer = eventually(SOON, async || {
        let answer = ask(&edge, "?org_id=acme&capability=alerting").send().await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    denied(&answer, 403, "capability_required");
}

#[tokio::test]
async fn while_a_service_is_away_what_is_known_goes_on_and_says_so_unless_that_is_not_wanted() {
    let edge = start().await;
    edge.world.add(Organization { status: OrganizationStatus::Suspended.into(), ..organization("closed") });
    assert_eq!(ask(&edge, "?org_id=acme&capability=alerting").send().await.status, 200);
    denied(&ask(&edge, "?org_id=closed").send().await, 403, "org_suspended");
    edge.world.fail(STATUS, Status::unavailable("away"));
    edge.world.fail(ENTITLEMENTS, Status::unavailable("away"));

    let stale = eventually(SOON, async || {
        let answer = ask(&edge, "?org_id=acme&capability=alerting").send().await;
        assert_eq!(answer.status, 200);
        let sources =
            [answer.header("x-pulse-org-status-source"), answer.header("x-pulse-entitlement-source")];
        (sources == [Some("stale"); 2]).then_some(answer)
    })
    .await;
    for name in ["x-pulse-org-status-age", "x-pulse-entitlement-age"] {
        assert!(stale.header(name).unwrap().parse::<u64>().unwrap() > 0, "{name}: {stale:?}");
    }
    denied(&ask(&edge, "?org_id=acme&on_outage=deny").send().await, 503, "unavailable");
    for query in ["?org_id=closed", "?org_id=closed&on_outage=deny", "?org_id=closed&on_outage=allow"] {
        denied(&ask(&edge, query).send().await, 403, "org_suspended");
    }

    // Of this one nothing was ever known.
    let unheard = ask(&edge, "?org_id=unheard-of").send().await;
    assert_eq!((unheard.status, unheard.header("x-pulse-org-status")), (200, Some("unknown")));
    for name in ["x-pulse-org-status-source", "x-pulse-entitlement-source"] {
        assert_eq!(unheard.header(name), Some("default"));
    }
    assert_eq!(unheard.header("x-pulse-subscription-state"), Some("trial"));
    // What a trial has not may be what it pays for.
    let answer = ask(&edge, "?org_id=unheard-of&capability=flying").send().await;
    denied(&answer, 503, "unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));

    edge.world.mend(STATUS);
    edge.world.mend(ENTITLEMENTS);
    eventually(SOON, async || ask(&edge, "?org_id=acme&on_outage=deny").send().await.status == 200).await;
}

#[tokio::test]
async fn a_tenant_whose_billing_state_is_gone_is_gone() {
    let edge = start().await;
    edge.world.fail(ENTITLEMENTS, refusal(Reason::OrgNotFound));
    denied(&ask(&edge, "?org_id=acme").send().await, 403, "org_not_found");
    denied(&ask(&edge, "?org_id=acme&capability=alerting").send().await, 403, "org_not_found");
}

#[tokio::test]
async fn it_is_there_outside_hosted_mode_and_on_no_other_listener() {
    let edge = Edge::with(Setup { hosted_off: true, ..Setup::default() }).await;
    edge.world.store_billing(pro("acme"));
    assert_eq!(ask(&edge, "?org_id=acme").send().await.status, 200);
    assert_eq!(edge.public("GET", &format!("{AUTHZ}?org_id=acme")).send().await.status, 404);
    let hosted = start().await;
    assert_eq!(hosted.operator("GET", &format!("{AUTHZ}?org_id=acme")).send().await.status, 404);
    let flags = json!({"context": {"targetingKey": "acme"}});
    let evaluate = |request: Request| request.json(&flags).send();
    assert_eq!(evaluate(hosted.operator("POST", "/ofrep/v1/evaluate/flags")).await.status, 404);
    assert_eq!(evaluate(hosted.public("POST", "/ofrep/v1/evaluate/flags")).await.status, 404);
    assert_eq!(evaluate(edge.internal("POST", "/ofrep/v1/evaluate/flags")).await.status, 200);
}

#[tokio::test]
async fn the_internal_listener_counts_nobody_s_requests_but_bounds_what_is_under_way() {
    let flags = vec!["--request-limit-per-minute", "1", "--max-in-flight", "1"];
    let edge = Edge::with(Setup { flags, ..Setup::default() }).await;
    edge.world.store_billing(pro("acme"));
    for _ in 0..20 {
        assert_eq!(ask(&edge, "?org_id=acme").send().await.status, 200);
    }
    edge.world.hang(STATUS);
    let first = tokio::spawn(ask(&edge, "?org_id=slow").send());
    eventually(SOON, async || edge.world.calls().iter().any(|call| call.request.contains("slow"))).await;
    let shed = ask(&edge, "?org_id=acme").send().await;
    shed.problem(429, "overloaded");
    assert_eq!(edge.internal("GET", "/livez").send().await.status, 200);
    edge.stop(Service::Lifecycle).await;
    assert_eq!(first.await.unwrap().status, 200, "given up after a while, and then decided without");
}
