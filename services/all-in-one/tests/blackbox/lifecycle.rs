//! Suspension, deletion, restoration, purge.

use pulse_proto::provisioner::v1::{CheckAccessRequest, TenantRole, VerifyCredentialsRequest};
use pulse_testkit::{
    eventually,
    system::{Plan, Service, System, grpc::rejection, rest::time},
};
use reqwest::Method;
use serde_json::json;
use tonic::Code;

use crate::{PASSWORD, SOON};

in_every_shape!(
    a_suspended_tenant_is_refused_until_it_is_not,
    a_deletion_can_be_taken_back,
    past_its_retention_nothing_is_left_anywhere
);

/// The outcome of a sign-in: `None` when it succeeds, else the reason.
async fn sign_in(system: &System, email: &str) -> Option<String> {
    let request =
        VerifyCredentialsRequest { email: email.into(), password: PASSWORD.into(), client_ip: String::new() };
    system
        .accounts()
        .verify_credentials(request)
        .await
        .err()
        .map(|status| rejection::<()>(Err(status)).reason)
}

async fn a_suspended_tenant_is_refused_until_it_is_not(plan: Plan) {
    let system = plan.start().await;
    let created = system.signup("ann@example.com", PASSWORD, "Acme").await.expect(201).json();
    let (org_id, user_id) = (created["org_id"].as_str().unwrap(), created["user_id"].as_str().unwrap());
    let support = system.admin_as("support");
    let access = async || {
        let request = CheckAccessRequest {
            org_id: org_id.to_owned(),
            user_id: user_id.to_owned(),
            required_role: TenantRole::Owner.into(),
            capability: String::new(),
        };
        let answer = system.accounts().check_access(request).await.unwrap().into_inner();
        (answer.allowed, answer.reason)
    };
    assert_eq!(sign_in(&system, "ann@example.com").await, None);
    assert_eq!(access().await, (true, String::new()));

    let suspended = support.suspend(org_id, "chargeback").await.expect(200).json();
    assert_eq!(
        (&suspended["status"], &suspended["suspend_reason"]),
        (&json!("suspended"), &json!("chargeback"))
    );
    time(&suspended["suspended_at"]);
    assert_eq!(sign_in(&system, "ann@example.com").await.as_deref(), Some("ORG_SUSPENDED"));
    assert_eq!(access().await, (false, "ORG_SUSPENDED".to_owned()));
    let _ = support.suspend(org_id, "again").await.expect_problem(409, "already_suspended");

    // Billing has no say in an operator's suspension.
    let paid = json!({ "subscription_state": "active" });
    let _ = system.admin_as("billing").set_billing_state(org_id, paid, None).await.expect(200);
    assert_eq!(sign_in(&system, "ann@example.com").await.as_deref(), Some("ORG_SUSPENDED"));

    let active = support.unsuspend(org_id).await.expect(200).json();
    assert_eq!((&active["status"], &active["suspended_at"]), (&json!("active"), &json!(null)));
    assert_eq!(sign_in(&system, "ann@example.com").await, None);
    let _ = support.unsuspend(org_id).await.expect_problem(409, "not_suspended");

    let events = system.admin().audit_events(org_id).await;
    let by_support: Vec<_> = events.iter().filter(|event| event["actor"] == "support").collect();
    assert_eq!(by_support.len(), 2, "{events:?}");
    let suspension = by_support[1];
    assert_eq!(suspension["service"], "lifecycle");
    assert_eq!(
        (&suspension["before"]["status"], &suspension["after"]["status"]),
        (&json!("active"), &json!("suspended"))
    );
    assert_eq!(suspension["reason"], "chargeback");
    assert!(suspension["request_id"].as_str().is_some_and(|id| !id.is_empty()));
}

async fn a_deletion_can_be_taken_back(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let admin = system.admin();
    let path = format!("/api/admin/orgs/{org_id}/soft-delete");
    let delete = async || admin.send(Method::DELETE, &path, None).await;

    let _ = admin.restore(org_id).await.expect_problem(409, "not_pending_deletion");
    for invalid in [0.0, -1.0, 4000.0] {
        let _ = admin.soft_delete(org_id, invalid).await.expect_problem(400, "invalid_retention_days");
    }
    let deleted = delete().await.expect(200).json();
    assert_eq!((&deleted["status"], &deleted["retention_days"]), (&json!("pending_deletion"), &json!(30)));
    let kept = time(&deleted["purge_after"]).duration_since(time(&deleted["deletion_requested_at"]));
    assert_eq!(kept.as_hours(), 30 * 24);
    assert_eq!(sign_in(&system, "ann@example.com").await.as_deref(), Some("ORG_PENDING_DELETION"));
    let _ = delete().await.expect_problem(409, "already_pending_deletion");
    let _ = admin.suspend(org_id, "").await.expect_problem(409, "pending_deletion");

    assert_eq!(admin.restore(org_id).await.expect(200).json()["status"], "active");
    assert_eq!(sign_in(&system, "ann@example.com").await, None);

    let _ = admin.suspend(org_id, "chargeback").await.expect(200);
    let _ = admin.soft_delete(org_id, 7.0).await.expect(200);
    let restored = admin.restore(org_id).await.expect(200).json();
    assert_eq!(
        (&restored["status"], &restored["suspend_reason"]),
        (&json!("suspended"), &json!("chargeback"))
    );
    assert_eq!((&restored["purge_after"], &restored["retention_days"]), (&json!(null), &json!(null)));

    let events = admin.audit_events(org_id).await;
    let changes: Vec<_> = events
        .iter()
        .filter(|event| event["actor"] == "olga")
        .map(|event| {
            [&event["before"]["status"], &event["after"]["status"]].map(|status| status.as_str().unwrap())
        })
        .collect();
    let newest_first = [
        ["pending_deletion", "suspended"],
        ["suspended", "pending_deletion"],
        ["active", "suspended"],
        ["pending_deletion", "active"],
        ["active", "pending_deletion"],
    ];
    assert_eq!(changes, newest_first, "one record for each change, none for what was refused: {events:?}");

    let _ = admin.suspend("default", "").await.expect_problem(400, "default_org_immutable");
    let _ = admin.soft_delete("default", 1.0).await.expect_problem(400, "default_org_immutable");

    let pending = admin.get("?status=pending_deletion").await.expect(200).json();
    assert_eq!(pending["organizations"], json!([]));
    let suspended = admin.get("?status=suspended").await.expect(200).json();
    assert_eq!(suspended["organizations"][0]["id"], *org_id);
    let page = admin.get("?page_size=1").await.expect(200).json();
    assert_eq!(page["organizations"].as_array().unwrap().len(), 1);
    let token = page["next_page_token"].as_str().unwrap();
    let rest = admin.get(&format!("?page_size=5&page_token={token}")).await.expect(200).json();
    assert_eq!(rest["organizations"].as_array().unwrap().len(), 1);
    assert_ne!(rest["organizations"][0]["id"], page["organizations"][0]["id"]);
}

async fn past_its_retention_nothing_is_left_anywhere(plan: Plan) {
    let system = plan.set("PULSE_REAPER_INTERVAL", "1s").set("PULSE_PURGE_INTERVAL", "1s").start().await;
    let org_id = &system.new_tenant("Ann.Purged@Example.com", PASSWORD, "Purged Goods").await;
    let kept = &system.new_tenant("bob@example.com", PASSWORD, "Kept Goods").await;
    let admin = system.admin();

    let _ = admin.soft_delete(org_id, 0.000_01).await.expect(200);
    eventually(SOON, async || admin.organization(org_id).await.status == 404).await;
    let _ = admin.billing_state(org_id).await.expect_problem(404, "org_not_found");
    assert_eq!(system.stored_billing_state(org_id).await, None);
    let with_billing = system.tenants_with_billing().await;
    assert!(!with_billing.contains(org_id) && with_billing.contains(kept), "{with_billing:?}");
    assert_eq!(sign_in(&system, "ann.purged@example.com").await.as_deref(), Some("UNAUTHENTICATED"));
    let listed = admin.get("?page_size=1000").await.expect(200).json();
    assert!(!listed.to_string().contains(org_id.as_str()), "{listed}");

    for service in [Service::Lifecycle, Service::Provisioner] {
        let mut store = system.store(service).await;
        for personal in ["ann.purged@example.com", "Purged Goods"] {
            assert_eq!(
                store.rows_with(personal).await,
                Vec::<String>::new(),
                "{service:?} still knows {personal}"
            );
        }
        assert!(
            !store.rows_with("bob@example.com").await.is_empty(),
            "{service:?}: the search finds what is there"
        );
    }

    assert_eq!(sign_in(&system, "bob@example.com").await, None, "another tenant is untouched");
    let _ = admin.billing_state(kept).await.expect(200);
    let again = system.signup("ann.purged@example.com", PASSWORD, "Purged Goods").await.expect(201).json();
    assert_ne!(again["org_id"], **org_id, "the email is free again, the id is never used twice");
}

#[tokio::test]
async fn a_dry_run_purges_nothing() {
    let plan = System::all_in_one().set("PULSE_REAPER_INTERVAL", "1s").set("PULSE_REAPER_DRY_RUN", "true");
    let system = plan.start().await;
    let org_id = system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let _ = system.admin().soft_delete(&org_id, 0.000_01).await.expect(200);
    eventually(SOON, async || {
        system.log().lines().any(|line| line.contains("dry") && line.contains(&org_id))
    })
    .await;
    let kept = system.admin().organization(&org_id).await.expect(200).json();
    assert_eq!(kept["status"], "pending_deletion");
}

#[tokio::test]
async fn wrong_passwords_and_unknown_emails_get_the_same_answer() {
    let system = System::all_in_one().start().await;
    let _ = system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let refused = async |email: &str, password: &str| {
        let request = VerifyCredentialsRequest {
            email: email.into(),
            password: password.into(),
            client_ip: "203.0.113.1".into(),
        };
        rejection(system.accounts().verify_credentials(request).await)
    };
    let wrong = refused("ann@example.com", "harbor-violin-38-meadow").await;
    assert_eq!((wrong.code, &*wrong.reason), (Code::Unauthenticated, "UNAUTHENTICATED"));
    assert_eq!(refused("nobody@example.com", PASSWORD).await, wrong);
}
