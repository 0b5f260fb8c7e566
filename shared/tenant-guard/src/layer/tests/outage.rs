//! What counts while the sources do not know for certain, through the layers.

use axum::{Router, routing::get};
use tonic::Status;
use tower::ServiceExt as _;

use super::*;
use crate::{OnOutage, OutagePolicy};

/// A guard over an outage's answers: entitlements that ask for `hosts` need to be certain, all others do not.
fn strict_about_hosts(guard: Guard) -> Guard {
    let hosts = Name::parse("hosts").unwrap();
    guard.with_policy(OutagePolicy::new(OnOutage::Allow).with(hosts, OnOutage::Deny))
}

const ROUTES: [(&str, Requirement<'static>); 5] = [
    ("/", Requirement::active()),
    ("/alerts", Requirement::capability("alerting")),
    ("/oracle", Requirement::capability("clairvoyance")),
    ("/hosts", Requirement::limit("hosts", 10)),
    ("/many", Requirement::limit("hosts", 11)),
];

/// What REST and gRPC answer on each of the routes; 200 and `OK` where they let in.
async fn answers(guard: &Guard) -> Vec<(u16, String)> {
    let mut answers = Vec::new();
    for (route, requirement) in ROUTES {
        let request = || Request::get(route).header(ORG_ID_HEADER, "acme");
        let rest = GuardLayer::rest(guard.clone()).require(route, requirement);
        let rest = Router::new().route(route, get(async || "")).route_layer(rest);
        let answer = rest.oneshot(request().body(axum::body::Body::empty()).unwrap()).await.unwrap();
        let grpc = GuardLayer::grpc(guard.clone()).require(route, requirement);
        let inner =
            tower::service_fn(async |_| Ok::<_, std::convert::Infallible>(Status::ok("").into_http()));
        let status = grpc.layer(inner).oneshot(request().body(()).unwrap()).await.unwrap();
        let status = Status::from_header_map(status.headers()).unwrap();
        let reason = match status.code() {
            tonic::Code::Ok => "OK".to_owned(),
            _ => pulse_rpc::from_status(&status).reason().as_str().to_owned(),
        };
        answers.push((answer.status().as_u16(), reason));
    }
    answers
}

#[tokio::test]
async fn an_outage_ends_what_is_strict_and_nothing_else_and_opens_nothing() {
    let (tenant, guard) = Tenant::guard();
    let guard = strict_about_hosts(guard);
    let ok = (200, "OK");
    let capability = (403, "CAPABILITY_REQUIRED");
    let unavailable = (503, "UNAVAILABLE");
    let suspended = (403, "ORG_SUSPENDED");
    let inactive = (403, "SUBSCRIPTION_INACTIVE");
    let active = Ok(known(OrganizationStatus::Active, Source::Stale));
    let confirmed = Ok(known(OrganizationStatus::Active, Source::Cached));
    let paid = |source, confirmed| granted(SubscriptionState::Active, source, confirmed);
    for (status, granted, expected) in [
        // All is well.
        (confirmed, paid(Source::Cached, true), [ok, ok, capability, ok, (403, "LIMIT_EXCEEDED")]),
        // Neither answers: what is last known counts, where nothing more is wanted.
        (active, paid(Source::Stale, false), [ok, ok, capability, unavailable, unavailable]),
        // Only billing-state, or only lifecycle, does not answer.
        (confirmed, paid(Source::Stale, false), [ok, ok, capability, unavailable, unavailable]),
        (active, paid(Source::Cached, true), [ok, ok, capability, unavailable, unavailable]),
        // Nothing was ever heard: what a trial has is let in, and what it lacks is not refused for good.
        (
            Err(StatusError::Unknown),
            granted(SubscriptionState::Trial, Source::Default, false),
            [ok, ok, unavailable, unavailable, unavailable],
        ),
        // What is known to be closed stays closed.
        (Ok(known(OrganizationStatus::Suspended, Source::Stale)), paid(Source::Stale, false), [suspended; 5]),
        (
            active,
            granted(SubscriptionState::Expired, Source::Stale, false),
            [ok, inactive, inactive, inactive, inactive],
        ),
        (Err(StatusError::Forgotten), paid(Source::Stale, false), [unavailable; 5]),
    ] {
        tenant.says(status);
        tenant.may(granted.clone());
        for is_at_hand in [true, false] {
            tenant.is_at_hand(is_at_hand);
            let answers = answers(&guard).await;
            let answers: Vec<(u16, &str)> = answers.iter().map(|(http, reason)| (*http, &**reason)).collect();
            assert_eq!(answers, expected, "{status:?} {:?} {is_at_hand}", granted.source);
        }
    }
}

#[tokio::test]
async fn who_is_told_to_try_again_is_told_when() {
    let (tenant, guard) = Tenant::guard();
    tenant.says(Err(StatusError::Unknown));
    let layer = GuardLayer::rest(guard.with_policy(OutagePolicy::new(OnOutage::Deny)));
    let routes = Router::new().route("/", get(async || "")).route_layer(layer);
    let request = Request::get("/").header(ORG_ID_HEADER, "acme").body(axum::body::Body::empty()).unwrap();
    let answer = routes.oneshot(request).await.unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
}
