//! Billing states: read, set, and what they grant.

use pulse_proto::billing::v1::{
    BillingState, EntitlementSource, GetBillingStateRequest, GetEntitlementsRequest, GetEntitlementsResponse,
    SetBillingStateRequest, SubscriptionState,
};
use pulse_testkit::system::{Plan, System, grpc::rejection, rest::time};
use serde_json::{Value, json};
use tonic::Code;

use crate::PASSWORD;

in_every_shape!(an_operator_reads_and_sets_it, grpc_reads_and_sets_it, it_decides_what_is_granted);

async fn an_operator_reads_and_sets_it(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let (viewer, billing) = (system.admin_as("viewer"), system.admin_as("billing"));

    let first = viewer.billing_state(org_id).await.expect(200);
    let (etag, trial) = (first.header("etag").unwrap().to_owned(), first.json());
    assert_eq!((&trial["subscription_state"], &trial["org_id"]), (&json!("trial"), &json!(org_id)));
    assert!(
        etag.starts_with('"') && etag.contains(trial["etag"].as_str().unwrap().trim_matches('"')),
        "{etag}"
    );
    for known in ["capabilities", "limits", "meters_enabled", "plan_version", "grace_ends_at"] {
        assert!(trial.get(known).is_some(), "{known} is missing: {trial}");
    }

    let paid = json!({
        "subscription_state": "active", "plan_version": "pro", "reason": "paid by invoice",
        "capabilities": ["alerts", "api"], "limits": { "max_nodes": 250 }, "meters_enabled": ["nodes"],
    });
    let stored = billing.set_billing_state(org_id, paid.clone(), Some(&etag)).await.expect(200);
    let read = viewer.billing_state(org_id).await.expect(200);
    assert_eq!(stored.json(), read.json());
    assert_eq!(stored.header("etag"), read.header("etag"));
    for field in ["subscription_state", "plan_version", "capabilities", "limits", "meters_enabled"] {
        assert_eq!(read.json()[field], paid[field], "{field}");
    }
    let kept = system.stored_billing_state(org_id).await.unwrap();
    assert_eq!(
        (&kept["subscription_state"], &kept["limits"]),
        (&json!("active"), &json!({ "max_nodes": 250 }))
    );

    let stale = billing.set_billing_state(org_id, paid.clone(), Some(&etag)).await;
    let _ = stale.expect_problem(412, "etag_mismatch");
    let current = read.header("etag").unwrap();
    let grace = json!({ "subscription_state": "grace" });
    let _ = billing.set_billing_state(org_id, grace, Some(current)).await.expect(200);
    let _ = billing.set_billing_state(org_id, paid, None).await.expect(200);

    for invalid in [json!("paused"), json!(""), json!("TRIAL")] {
        let answer = billing.set_billing_state(org_id, json!({ "subscription_state": invalid }), None).await;
        let answer = answer.expect_problem(400, "invalid_subscription_state");
        assert_eq!(
            answer.field_errors(),
            [("subscription_state".into(), "invalid_subscription_state".into())]
        );
    }
    assert_eq!(viewer.billing_state(org_id).await.json()["subscription_state"], "active");

    for stranger in ["no-such-org", "0198c5b1-0000-7000-8000-000000000000"] {
        let _ = viewer.billing_state(stranger).await.expect_problem(404, "org_not_found");
        let answer =
            billing.set_billing_state(stranger, json!({ "subscription_state": "active" }), None).await;
        let _ = answer.expect_problem(404, "org_not_found");
    }
    let _ = viewer.billing_state("..%2F..%2Fetc").await.expect_problem(400, "invalid_org_id");

    let events = viewer.audit_events(org_id).await;
    let changes: Vec<_> = events.iter().filter(|event| event["actor"] == "billing").collect();
    assert_eq!(changes.len(), 3, "one for each change: {events:?}");
    let first = changes.last().unwrap();
    assert_eq!(
        (&first["before"]["subscription_state"], &first["after"]["subscription_state"]),
        (&json!("trial"), &json!("active"))
    );
    assert_eq!((&first["service"], &first["reason"]), (&json!("billing-state"), &json!("paid by invoice")));
    let newest_first =
        events.windows(2).all(|pair| time(&pair[0]["occurred_at"]) >= time(&pair[1]["occurred_at"]));
    assert!(newest_first, "{events:?}");
    let kept = system.stored_billing_audit(org_id).await;
    assert!(kept.len() >= 4 && kept.iter().all(Value::is_object), "{kept:?}");

    let default = viewer.billing_state("default").await.expect(200).json();
    assert_eq!(default["subscription_state"], "trial", "what is not stored is a trial");
}

async fn grpc_reads_and_sets_it(plan: Plan) {
    let system = plan.start().await;
    let org_id = system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let mut admin = system.billing_admin();
    let set = |org_id: &str, state: SubscriptionState, etag: &str| SetBillingStateRequest {
        org_id: org_id.to_owned(),
        billing_state: Some(BillingState { subscription_state: state.into(), ..Default::default() }),
        etag: etag.to_owned(),
        ..Default::default()
    };

    let get = GetBillingStateRequest { org_id: org_id.clone() };
    let trial = admin.get_billing_state(get.clone()).await.unwrap().into_inner().billing_state.unwrap();
    assert_eq!(trial.subscription_state(), SubscriptionState::Trial);
    let stored = admin.set_billing_state(set(&org_id, SubscriptionState::Active, &trial.etag)).await.unwrap();
    let stored = stored.into_inner().billing_state;
    assert_eq!(admin.get_billing_state(get).await.unwrap().into_inner().billing_state, stored);

    let stale = rejection(admin.set_billing_state(set(&org_id, SubscriptionState::Grace, &trial.etag)).await);
    assert_eq!((stale.code, &*stale.reason), (Code::Aborted, "ETAG_MISMATCH"));
    let invalid = rejection(admin.set_billing_state(set(&org_id, SubscriptionState::Unspecified, "")).await);
    assert_eq!((invalid.code, &*invalid.reason), (Code::InvalidArgument, "INVALID_SUBSCRIPTION_STATE"));
    let missing = rejection(admin.set_billing_state(set("no-such-org", SubscriptionState::Active, "")).await);
    assert_eq!((missing.code, &*missing.reason), (Code::NotFound, "ORG_NOT_FOUND"));
}

/// What a tenant is granted now.
pub(crate) async fn entitlements(system: &System, org_id: &str) -> GetEntitlementsResponse {
    let request = GetEntitlementsRequest { org_id: org_id.to_owned() };
    system.entitlements().get_entitlements(request).await.unwrap().into_inner()
}

async fn it_decides_what_is_granted(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let granted = entitlements(&system, org_id).await;
    assert_eq!(granted.subscription_state(), SubscriptionState::Trial);
    assert!(!granted.capabilities.is_empty() && !granted.limits.is_empty(), "{granted:?}");
    assert!(granted.valid_until.is_some() && granted.valid_until == granted.trial_ends_at);
    assert!(granted.revision > 0 && granted.age.is_some());
    let known = [EntitlementSource::Fresh, EntitlementSource::Cached];
    assert!(known.contains(&granted.source()), "{granted:?}");

    for (state, locked) in [("suspended", true), ("active", false), ("expired", true), ("grace", false)] {
        let answer =
            system.admin().set_billing_state(org_id, json!({ "subscription_state": state }), None).await;
        let _ = answer.expect(200);
        let now = entitlements(&system, org_id).await;
        let name = now.subscription_state().as_str_name().to_lowercase();
        assert_eq!(name, format!("subscription_state_{state}"), "at once, not after a while");
        assert_eq!(now.capabilities.is_empty(), locked, "{state}: {now:?}");
    }

    let ended = json!({ "subscription_state": "trial", "trial_ends_at": "2020-01-01T00:00:00Z" });
    let _ = system.admin().set_billing_state(org_id, ended, None).await.expect(200);
    let now = entitlements(&system, org_id).await;
    assert_eq!(now.subscription_state(), SubscriptionState::Expired);
    assert!(now.capabilities.is_empty());

    let unknown = entitlements(&system, "never-heard-of").await;
    assert_eq!(
        (unknown.source(), unknown.subscription_state()),
        (EntitlementSource::Default, SubscriptionState::Trial)
    );
}
