//! `/ofrep/v1/…`: flags, failures and etags, as the OpenFeature Remote Evaluation Protocol has them.

use pulse_proto::{
    billing::v1::{BillingState, SubscriptionState},
    lifecycle::v1::{Organization, OrganizationStatus},
};
use pulse_testkit::eventually;
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    client::{Answer, Request},
    fakes::organization,
    internal_fakes::{ENTITLEMENTS, STATUS, pro},
    support::{Edge, SOON},
};

const FLAGS: &str = "/ofrep/v1/evaluate/flags";

fn post(edge: &Edge, path: &str) -> Request {
    edge.internal("POST", &format!("{FLAGS}{path}"))
}

fn context(tenant: &str) -> Value {
    json!({"context": {"targetingKey": tenant}})
}

async fn flag(edge: &Edge, tenant: &str, key: &str) -> Value {
    let answer = post(edge, &format!("/{key}")).json(&context(tenant)).send().await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
    let flag = answer.json();
    assert_eq!(flag["key"], key, "{flag}");
    flag
}

/// A failure in the protocol's own words.
#[track_caller]
fn failed(answer: &Answer, status: u16, code: &str, key: Option<&str>) {
    let failure = answer.json();
    assert_eq!((answer.status, failure["errorCode"].as_str()), (status, Some(code)), "{failure}");
    assert_eq!(failure.get("key").and_then(Value::as_str), key, "{failure}");
    assert!(failure["errorDetails"].as_str().is_some_and(|details| !details.is_empty()), "{failure}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

async fn start() -> Edge {
    let edge = Edge::start().await;
    edge.world.store_billing(pro("acme"));
    edge
}

#[tokio::test]
async fn capabilities_are_booleans_and_limits_integers() {
    let edge = start().await;
    for (key, value, variant) in [
        ("capability.alerting", json!(true), "on"),
        ("alerting", json!(true), "on"),
        ("teleporting", json!(true), "on"),
        // A plan has it, this tenant has not.
        ("dashboards", json!(false), "off"),
        ("capability.dashboards", json!(false), "off"),
        ("capability.flying", json!(false), "off"),
        ("limit.users", json!(50), "limited"),
        ("limit.alert_rules", json!(-1), "unlimited"),
        ("limit.monitored_hosts", json!(0), "none"),
        ("limit.boats", json!(0), "none"),
    ] {
        let said = flag(&edge, "acme", key).await;
        let shown = (&said["value"], &said["variant"], &said["reason"]);
        assert_eq!(shown, (&value, &json!(variant), &json!("TARGETING_MATCH")), "{said}");
        let metadata = &said["metadata"];
        assert_eq!(metadata["org_status"], "active", "{said}");
        assert_eq!(
            (&metadata["subscription_state"], &metadata["plan_version"]),
            (&json!("active"), &json!("pro"))
        );
        assert!(["fresh", "cached"].contains(&metadata["source"].as_str().unwrap()), "{said}");
        assert!(metadata["age_seconds"].is_u64() && metadata.get("denied").is_none(), "{said}");
    }
    for unknown in ["flying", "users", "limit.", "capability.", "two%20words", "limit.two%20words", "%ff"] {
        let answer = post(&edge, &format!("/{unknown}")).json(&context("acme")).send().await;
        let key = match unknown {
            "two%20words" => "two words",
            "limit.two%20words" => "limit.two words",
            "%ff" => "",
            key => key,
        };
        failed(&answer, 404, "FLAG_NOT_FOUND", Some(key).filter(|key| !key.is_empty()));
    }
}

#[tokio::test]
async fn whoever_is_refused_has_nothing_and_that_is_no_error() {
    let edge = start().await;
    for (id, status) in
        [("suspended", OrganizationStatus::Suspended), ("deleted", OrganizationStatus::PendingDeletion)]
    {
        edge.world.add(Organization { status: status.into(), ..organization(id) });
        edge.world.store_billing(pro(id));
    }
    edge.world.add(organization("expired"));
    let expired = BillingState { subscription_state: SubscriptionState::Expired.into(), ..pro("expired") };
    edge.world.store_billing(expired);
    for (tenant, status, denied) in [
        ("suspended", "suspended", "org_suspended"),
        ("deleted", "pending_deletion", "org_pending_deletion"),
        ("nobody", "not_found", "org_not_found"),
        ("expired", "active", "subscription_inactive"),
    ] {
        for (key, value) in [
            ("capability.alerting", json!(false)),
            ("alerting", json!(false)),
            // Its own, of which nothing is said while it is refused.
            ("teleporting", json!(false)),
            ("limit.users", json!(0)),
        ] {
            let said = flag(&edge, tenant, key).await;
            assert_eq!((&said["value"], &said["reason"]), (&value, &json!("DISABLED")), "{said}");
            let metadata = &said["metadata"];
            assert_eq!((&metadata["org_status"], &metadata["denied"]), (&json!(status), &json!(denied)));
        }
        let bulk = post(&edge, "").json(&context(tenant)).send().await.json();
        let flags = bulk["flags"].as_array().unwrap();
        assert!(flags.len() > 10 && flags.iter().all(|flag| flag["reason"] == "DISABLED"), "{bulk}");
        assert_eq!(bulk["metadata"]["denied"], denied, "{bulk}");
    }
    assert!(
        edge.world.calls().iter().all(|call| !(call.rpc == ENTITLEMENTS && call.request.contains("nobody")))
    );
}

#[tokio::test]
async fn all_flags_are_those_of_the_plans_and_of_the_tenant_each_once() {
    let edge = start().await;
    let own = BillingState { capabilities: vec!["alerting".into(), "limit.users".into()], ..pro("acme") };
    edge.world.store_billing(own);
    let bulk = post(&edge, "").json(&context("acme")).send().await.json();
    let flags = bulk["flags"].as_array().unwrap();
    let keys: std::collections::BTreeSet<_> =
        flags.iter().map(|flag| flag["key"].as_str().unwrap()).collect();
    assert_eq!(keys.len(), flags.len(), "{bulk}");
    for key in
        ["capability.alerting", "alerting", "capability.dashboards", "limit.users", "limit.alert_rules"]
    {
        assert!(keys.contains(key), "{key}: {bulk}");
    }
    for among_all in flags {
        let alone = flag(&edge, "acme", among_all["key"].as_str().unwrap()).await;
        for member in ["key", "value", "reason", "variant"] {
            assert_eq!(among_all[member], alone[member], "{alone}");
        }
    }
    // What a capability of that name says is found under its full name only.
    assert_eq!(flag(&edge, "acme", "limit.users").await["value"], 50);
    assert_eq!(flag(&edge, "acme", "capability.limit.users").await["value"], true);
}

#[tokio::test]
async fn an_etag_stands_for_what_is_said_and_not_for_how_old_it_is() {
    let edge = start().await;
    let send = |etag: Option<&str>| {
        let request = post(&edge, "").json(&context("acme"));
        etag.iter().fold(request, |request, etag| request.header("if-none-match", etag)).send()
    };
    let first = send(None).await;
    let etag = first.header("etag").unwrap().to_owned();
    assert!(etag.starts_with("W/\"") && etag.ends_with('"'), "{etag}");
    // Older by now, and read again in between.
    eventually(SOON, async || {
        let again = send(None).await;
        assert_eq!(again.header("etag"), Some(&*etag));
        again.json()["metadata"]["age_seconds"].as_u64().unwrap() > 0
    })
    .await;
    for known in [&*etag, etag.trim_start_matches("W/"), etag.trim_start_matches("W/").trim_matches('"')] {
        let same = send(Some(known)).await;
        assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some(&*etag)), "{known}");
    }
    assert_eq!(send(Some("\"other\"")).await.status, 200);
    edge.world.store_billing(BillingState { limits: [("users".into(), 51)].into(), ..pro("acme") });
    let changed = eventually(SOON, async || {
        let answer = send(Some(&etag)).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_ne!(changed.header("etag"), Some(&*etag));
}

#[tokio::test]
async fn a_request_that_names_no_tenant_is_told_why_in_the_protocol_s_words() {
    let edge = start().await;
    for (body, code) in [
        ("{}", "TARGETING_KEY_MISSING"),
        (r#"{"context":{}}"#, "TARGETING_KEY_MISSING"),
        (r#"{"context":{"targetingKey":"Acme, Inc."}}"#, "INVALID_CONTEXT"),
        (r#"{"context":[]}"#, "INVALID_CONTEXT"),
        ("[]", "INVALID_CONTEXT"),
        ("{", "PARSE_ERROR"),
        ("", "PARSE_ERROR"),
    ] {
        let send = |path| post(&edge, path).header("content-type", "application/json").body(body).send();
        failed(&send("").await, 400, code, None);
        failed(&send("/alerting").await, 400, code, Some("alerting"));
    }
    for path in ["", "/alerting"] {
        let long =
            post(&edge, path).header("content-type", "application/json").body(vec![b' '; 64 * 1024 + 1]);
        long.send().await.problem(413, "payload_too_large");
        post(&edge, path).body("{}").send().await.problem(415, "unsupported_media_type");
        edge.internal("GET", &format!("{FLAGS}{path}")).send().await.problem(405, "method_not_allowed");
    }
}

#[tokio::test]
async fn without_the_services_behind_flags_say_how_old_they_are_or_that_they_cannot_be_told() {
    let edge = start().await;
    assert_eq!(flag(&edge, "acme", "alerting").await["value"], true);
    let until = async |source: &str| {
        eventually(SOON, async || {
            let said = flag(&edge, "acme", "alerting").await;
            assert_eq!((&said["value"], &said["reason"]), (&json!(true), &json!("TARGETING_MATCH")));
            (said["metadata"]["source"] == source).then_some(said)
        })
        .await
    };
    // It is enough that one of them is away.
    for away in [STATUS, ENTITLEMENTS] {
        edge.world.fail(away, Status::unavailable("away"));
        let stale = until("stale").await;
        assert!(stale["metadata"]["age_seconds"].as_u64().unwrap() > 0, "{stale}");
        for _ in 0..3 {
            assert_eq!(flag(&edge, "acme", "alerting").await["metadata"]["source"], "stale");
        }
        edge.world.mend(away);
        until("cached").await;
    }
    edge.world.fail(STATUS, Status::unavailable("away"));
    edge.world.fail(ENTITLEMENTS, Status::unavailable("away"));

    let guess = flag(&edge, "unheard-of", "alerting").await;
    assert_eq!((&guess["value"], &guess["metadata"]["source"]), (&json!(true), &json!("default")), "{guess}");
    assert_eq!(guess["metadata"]["org_status"], "unknown", "{guess}");
    // What a trial has not may be what it pays for: then the application's own default counts.
    let answer = post(&edge, "/anomaly_detection").json(&context("unheard-of")).send().await;
    answer.problem(503, "unavailable");
    let bulk = post(&edge, "").json(&context("unheard-of")).send().await.json();
    let untold = bulk["flags"].as_array().unwrap().iter().find(|flag| flag["key"] == "anomaly_detection");
    assert_eq!(untold.unwrap()["errorCode"], "GENERAL", "{bulk}");
}
