//! What a tenant may use, asked with a stock OpenFeature SDK, and the protocol below it.

use pulse_testkit::{
    eventually,
    system::{Answer, Plan, Service, System, tools::repository},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{PASSWORD, SOON};

in_every_shape!(
    a_stock_sdk_sees_capabilities_and_limits_and_their_change,
    a_stock_sdk_is_refused_for_a_suspended_tenant_and_let_back_in,
    all_flags_come_at_once_and_not_again_while_nothing_changes,
);

/// What the SDK makes of these flags for the tenant.
async fn evaluate(system: &System, tenant: &str, flags: &[&str]) -> Value {
    let script = repository().join("services/all-in-one/tests/blackbox/flags.py");
    let base = format!("http://{}", system.internal_addr());
    let printed = system.python(&script, &[&[base.as_str(), tenant], flags].concat()).await.ok();
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// Evaluates until one of the flags has that value.
async fn until(system: &System, tenant: &str, flags: &[&str], key: &str, value: Value) -> Value {
    until_there_is(system, tenant, flags, &format!("/{key}/value"), value).await
}

/// Evaluates until that is at the place that the pointer leads to. Replicas hear of a change one after the other; flags that
/// come later in the list are at least as new.
async fn until_there_is(system: &System, tenant: &str, flags: &[&str], pointer: &str, value: Value) -> Value {
    eventually(SOON, async || {
        let said = evaluate(system, tenant, flags).await;
        if said.pointer(pointer) == Some(&value) { Ok(said) } else { Err(said) }
    })
    .await
}

async fn a_stock_sdk_sees_capabilities_and_limits_and_their_change(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let flags = [
        "bool:capability.alerting",
        "bool:alerting",
        "bool:anomaly_detection",
        "bool:capability.teleporting",
        "bool:teleporting",
        "int:limit.monitored_hosts",
        "int:limit.teleports",
    ];
    let trial = evaluate(&system, org_id, &flags).await;
    for (key, value, variant) in [
        ("capability.alerting", json!(true), "on"),
        ("alerting", json!(true), "on"),
        ("anomaly_detection", json!(false), "off"),
        ("capability.teleporting", json!(false), "off"),
        ("limit.monitored_hosts", json!(10), "limited"),
        ("limit.teleports", json!(0), "none"),
    ] {
        let said = &trial[key];
        assert_eq!((&said["value"], &said["reason"]), (&value, &json!("TARGETING_MATCH")), "{key}: {said}");
        assert_eq!((&said["variant"], &said["error"]), (&json!(variant), &Value::Null), "{key}: {said}");
        let metadata = &said["metadata"];
        assert!(["fresh", "cached"].contains(&metadata["source"].as_str().unwrap()), "{said}");
        assert!(metadata["age_seconds"].as_u64().is_some_and(|age| age < 60), "{said}");
        let (subscription, plan, status) =
            (&metadata["subscription_state"], &metadata["plan_version"], &metadata["org_status"]);
        assert_eq!((subscription, plan, status), (&json!("trial"), &json!("trial"), &json!("active")));
    }
    let unknown = &trial["teleporting"];
    assert_eq!(
        (&unknown["value"], &unknown["error"]),
        (&json!(true), &json!("FLAG_NOT_FOUND")),
        "the default"
    );
    let mistaken = evaluate(&system, org_id, &["bool:limit.users"]).await;
    assert_eq!(mistaken["limit.users"]["error"], "TYPE_MISMATCH", "{mistaken}");

    let paid = json!({ "subscription_state": "active", "plan_version": "pro" });
    let _ = system.admin().set_billing_state(org_id, paid, None).await.expect(200);
    let pro = until(&system, org_id, &flags, "anomaly_detection", json!(true)).await;
    assert_eq!(pro["limit.monitored_hosts"]["value"], 250, "{pro}");
    let metadata = &pro["anomaly_detection"]["metadata"];
    assert_eq!(
        (&metadata["subscription_state"], &metadata["plan_version"]),
        (&json!("active"), &json!("pro"))
    );

    let own = json!({
        "subscription_state": "active", "plan_version": "pro",
        "capabilities": ["teleporting"], "limits": { "monitored_hosts": -1 },
    });
    let _ = system.admin().set_billing_state(org_id, own, None).await.expect(200);
    let own = until(&system, org_id, &flags, "capability.alerting", json!(false)).await;
    let hosts = &own["limit.monitored_hosts"];
    assert_eq!((&hosts["value"], &hosts["variant"]), (&json!(-1), &json!("unlimited")), "{own}");
    for key in ["capability.teleporting", "teleporting"] {
        assert_eq!((&own[key]["value"], &own[key]["error"]), (&json!(true), &Value::Null), "{own}");
    }

    for (tenant, error) in [("", "TARGETING_KEY_MISSING"), ("Acme, Inc.", "INVALID_CONTEXT")] {
        let said = evaluate(&system, tenant, &["bool:capability.alerting"]).await;
        assert_eq!(said["capability.alerting"]["error"], error, "{said}");
    }
    let said = evaluate(&system, "no-such-org", &["bool:capability.alerting", "bool:alerting"]).await;
    for key in ["capability.alerting", "alerting"] {
        let said = &said[key];
        assert_eq!((&said["value"], &said["reason"]), (&json!(false), &json!("DISABLED")), "{said}");
        assert_eq!(said["metadata"]["denied"], "org_not_found", "{said}");
    }
}

async fn a_stock_sdk_is_refused_for_a_suspended_tenant_and_let_back_in(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let flags = ["bool:alerting", "bool:capability.alerting", "int:limit.users"];
    until(&system, org_id, &flags, "alerting", json!(true)).await;

    let _ = system.admin().suspend(org_id, "chargeback").await.expect(200);
    let said = until(&system, org_id, &flags, "alerting", json!(false)).await;
    assert_eq!(
        (&said["capability.alerting"]["value"], &said["limit.users"]["value"]),
        (&json!(false), &json!(0))
    );
    for said in said.as_object().unwrap().values() {
        assert_eq!((&said["reason"], &said["error"]), (&json!("DISABLED"), &Value::Null), "{said}");
        let metadata = &said["metadata"];
        assert_eq!(
            (&metadata["org_status"], &metadata["denied"]),
            (&json!("suspended"), &json!("org_suspended"))
        );
        assert_eq!(metadata["subscription_state"], "trial", "billing has nothing against the tenant");
    }
    // Paying does not lift it.
    let paid = json!({ "subscription_state": "active", "plan_version": "pro" });
    let _ = system.admin().set_billing_state(org_id, paid, None).await.expect(200);
    let pays = "/alerting/metadata/subscription_state";
    let said = until_there_is(&system, org_id, &flags, pays, json!("active")).await;
    assert_eq!(said["alerting"]["value"], false, "{said}");

    let _ = system.admin().unsuspend(org_id).await.expect(200);
    until(&system, org_id, &flags, "limit.users", json!(50)).await;

    let expired = json!({ "subscription_state": "expired" });
    let _ = system.admin().set_billing_state(org_id, expired, None).await.expect(200);
    let denied = "/alerting/metadata/denied";
    let said = until_there_is(&system, org_id, &flags, denied, json!("subscription_inactive")).await;
    let said = &said["alerting"];
    assert_eq!((&said["value"], &said["reason"]), (&json!(false), &json!("DISABLED")), "{said}");
}

/// What is answered to this body; `etag` is of an earlier answer.
async fn post(system: &System, path: &str, body: &Value, etag: Option<&str>) -> Answer {
    let internal = system.visitor().at(system.internal_addr());
    let request = internal.request(Method::POST, &format!("/ofrep/v1/evaluate/flags{path}")).json(body);
    let request = if let Some(etag) = etag { request.header("if-none-match", etag) } else { request };
    Answer::to(request).await.unwrap()
}

fn flag<'a>(bulk: &'a Value, key: &str) -> &'a Value {
    let found = bulk["flags"].as_array().unwrap().iter().find(|flag| flag["key"] == key);
    found.unwrap_or_else(|| panic!("no {key} in {bulk}"))
}

async fn all_flags_come_at_once_and_not_again_while_nothing_changes(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let context = json!({ "context": { "targetingKey": org_id } });

    let first = post(&system, "", &context, None).await.expect(200);
    let bulk = first.json();
    assert_eq!(flag(&bulk, "capability.alerting")["value"], true);
    assert_eq!(flag(&bulk, "alerting")["value"], true);
    assert_eq!(flag(&bulk, "anomaly_detection")["value"], false);
    assert_eq!(flag(&bulk, "limit.monitored_hosts")["value"], 10);
    assert_eq!(bulk["metadata"]["org_status"], "active", "{bulk}");
    let single = post(&system, "/capability.alerting", &context, None).await.expect(200).json();
    for member in ["key", "value", "reason", "variant"] {
        assert_eq!(single[member], flag(&bulk, "capability.alerting")[member], "{member}");
    }
    let as_user = json!({ "context": { "targetingKey": "ann", "org_id": org_id } });
    assert_eq!(post(&system, "/alerting", &as_user, None).await.expect(200).json()["value"], true);

    let etag = first.header("etag").unwrap().to_owned();
    let same = post(&system, "", &context, Some(&etag)).await.expect(304);
    assert_eq!((same.header("etag"), &*same.body), (Some(&*etag), &b""[..]));
    let _ = post(&system, "", &context, Some("\"another\"")).await.expect(200);

    let _ = system.admin().suspend(org_id, "chargeback").await.expect(200);
    let changed = eventually(SOON, async || {
        let answer = post(&system, "", &context, Some(&etag)).await;
        if answer.status == 200 { Ok(answer) } else { Err(answer.to_string()) }
    })
    .await;
    assert_ne!(changed.header("etag"), Some(&*etag));
    let bulk = changed.json();
    assert!(
        bulk["flags"].as_array().unwrap().iter().all(|flag| flag["reason"] == "DISABLED"
            && (flag["value"] == json!(false) || flag["value"] == json!(0))),
        "{bulk}"
    );

    let failure = post(&system, "/teleporting", &json!({ "context": {} }), None).await.expect(400).json();
    assert_eq!(
        (&failure["errorCode"], &failure["key"]),
        (&json!("TARGETING_KEY_MISSING"), &json!("teleporting"))
    );
    let failure = post(&system, "", &json!({ "context": 1 }), None).await.expect(400).json();
    assert_eq!((&failure["errorCode"], failure.get("key")), (&json!("INVALID_CONTEXT"), None));
}

#[tokio::test]
async fn without_the_services_behind_flags_go_on_and_say_how_old_they_are() {
    let mut system = System::five_processes().start().await;
    let org_id = system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let suspended = system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let _ = system.admin().suspend(&suspended, "chargeback").await.expect(200);
    until(&system, &org_id, &["bool:alerting"], "alerting", json!(true)).await;
    until(&system, &suspended, &["bool:alerting"], "alerting", json!(false)).await;

    system.kill(Service::Lifecycle).await;
    system.kill(Service::BillingState).await;
    let stale = async |tenant: &str| {
        let source = "/alerting/metadata/source";
        until_there_is(&system, tenant, &["bool:alerting"], source, json!("stale")).await["alerting"].take()
    };
    let said = stale(&org_id).await;
    assert_eq!((&said["value"], &said["error"]), (&json!(true), &Value::Null), "{said}");
    assert!(said["metadata"]["age_seconds"].as_u64().is_some_and(|age| age > 0), "{said}");
    let said = stale(&suspended).await;
    assert_eq!((&said["value"], &said["reason"]), (&json!(false), &json!("DISABLED")), "{said}");
}
