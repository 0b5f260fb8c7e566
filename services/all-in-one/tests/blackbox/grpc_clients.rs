//! Clients that are not ours: grpcurl, and one in Python.

use pulse_testkit::system::{Plan, Service, System, tools::repository};
use serde_json::{Value, json};

use crate::PASSWORD;

in_every_shape!(grpcurl_lists_describes_and_calls, python_reads_errors_health_and_reflection);

/// The gRPC services that each server lists in hosted mode, besides health and reflection.
const SERVED: [(Service, &[&str]); 4] = [
    (Service::SignupGateway, &["pulse.signup.v1.SignupService"]),
    (
        Service::Provisioner,
        &[
            "pulse.provisioner.v1.AccountService",
            "pulse.provisioner.v1.ProvisionerAdminService",
            "pulse.provisioner.v1.ProvisionerService",
        ],
    ),
    (
        Service::BillingState,
        &[
            "pulse.billing.v1.BillingAdminService",
            "pulse.billing.v1.BillingStateService",
            "pulse.billing.v1.EntitlementService",
        ],
    ),
    (
        Service::Lifecycle,
        &[
            "envoy.service.auth.v3.Authorization",
            "pulse.lifecycle.v1.LifecycleAdminService",
            "pulse.lifecycle.v1.OrganizationService",
        ],
    ),
];

/// A call with grpcurl, as an operator; its answer.
async fn call(system: &System, service: Service, rpc: &str, request: &Value) -> Result<Value, String> {
    let authorization = format!("authorization: Bearer {}", system.operators().token("olga"));
    let (addr, request) = (system.addr(service).to_string(), request.to_string());
    let printed = system.grpcurl(&["-plaintext", "-H", &authorization, "-d", &request, &addr, rpc]).await;
    if printed.success { Ok(serde_json::from_str(&printed.stdout).unwrap()) } else { Err(printed.stderr) }
}

async fn grpcurl_lists_describes_and_calls(plan: Plan) {
    let system = plan.start().await;
    for (service, names) in SERVED {
        let addr = system.addr(service).to_string();
        let listed = system.grpcurl(&["-plaintext", &addr, "list"]).await.ok();
        let ours: Vec<_> = listed.lines().filter(|name| !name.starts_with("grpc.")).collect();
        assert_eq!(ours, names, "{service:?}");
        for name in names {
            let described = system.grpcurl(&["-plaintext", &addr, "describe", name]).await.ok();
            assert!(described.contains("is a service:"), "{described}");
            let health = json!({ "service": name });
            let health = call(&system, service, "grpc.health.v1.Health/Check", &health).await.unwrap();
            assert_eq!(health["status"], "SERVING", "{name}");
        }
        let live = call(&system, service, "grpc.health.v1.Health/Check", &json!({})).await.unwrap();
        assert_eq!(live["status"], "SERVING");
        let unknown =
            call(&system, service, "grpc.health.v1.Health/Check", &json!({ "service": "no.such" })).await;
        assert!(unknown.unwrap_err().contains("NotFound"));
    }

    let signup = json!({ "email": "ann@example.com", "password": PASSWORD, "orgName": "Acme", "clientIp": "203.0.113.1" });
    let created =
        call(&system, Service::SignupGateway, "pulse.signup.v1.SignupService/SignUp", &signup).await.unwrap();
    assert_eq!(created["outcome"], "SIGN_UP_OUTCOME_CREATED");
    let org = json!({ "orgId": created["orgId"] });

    let lifecycle = "pulse.lifecycle.v1.LifecycleAdminService";
    let operator = async |rpc: &str, request: &Value| {
        call(&system, Service::Lifecycle, &format!("{lifecycle}/{rpc}"), request).await
    };
    let found = operator("GetOrganization", &org).await.unwrap();
    assert_eq!(found["organization"]["displayName"], "Acme");
    let suspend = json!({ "orgId": created["orgId"], "reason": "chargeback" });
    let suspended = operator("SuspendOrganization", &suspend).await.unwrap();
    assert_eq!(suspended["organization"]["status"], "ORGANIZATION_STATUS_SUSPENDED");
    assert!(operator("SuspendOrganization", &suspend).await.unwrap_err().contains("FailedPrecondition"));
    let etag = json!({ "orgId": created["orgId"], "etag": "stale" });
    assert!(operator("UnsuspendOrganization", &etag).await.unwrap_err().contains("Aborted"));
    operator("UnsuspendOrganization", &org).await.unwrap();
    let deletion = json!({ "orgId": created["orgId"], "retentionDays": 7 });
    let deleted = operator("SoftDeleteOrganization", &deletion).await.unwrap();
    assert_eq!(deleted["organization"]["retentionDays"], 7);
    let restored = operator("RestoreOrganization", &org).await.unwrap();
    assert_eq!(restored["organization"]["status"], "ORGANIZATION_STATUS_ACTIVE");
    let events = operator("ListAuditEvents", &org).await.unwrap();
    let events = events["auditEvents"].as_array().unwrap();
    assert_eq!((&events[0]["actor"], &events[0]["service"]), (&json!("olga"), &json!("lifecycle")));

    let provisionings = "pulse.provisioner.v1.ProvisionerAdminService/ListProvisionings";
    let listed = call(&system, Service::Provisioner, provisionings, &json!({})).await.unwrap();
    assert_eq!(listed["provisionings"][0]["orgId"], created["orgId"]);
    assert_eq!(listed["provisionings"][0]["state"], "PROVISIONING_STATE_DONE");
    let billing = "pulse.billing.v1.BillingAdminService/GetBillingState";
    let state = call(&system, Service::BillingState, billing, &org).await.unwrap();
    assert_eq!(state["billingState"]["subscriptionState"], "SUBSCRIPTION_STATE_TRIAL");
    let verify = json!({ "email": "ann@example.com", "password": PASSWORD });
    let verified =
        call(&system, Service::Provisioner, "pulse.provisioner.v1.AccountService/VerifyCredentials", &verify);
    assert_eq!(verified.await.unwrap()["roles"], json!(["TENANT_ROLE_OWNER"]));

    let addr = system.addr(Service::Lifecycle).to_string();
    let stranger = system.grpcurl(&["-plaintext", &addr, &format!("{lifecycle}/ListOrganizations")]).await;
    assert!(!stranger.success && stranger.stderr.contains("Unauthenticated"), "{}", stranger.stderr);
}

async fn python_reads_errors_health_and_reflection(plan: Plan) {
    let system = plan.start().await;
    let script = repository().join("services/all-in-one/tests/blackbox/client.py");
    let addr = |service| system.addr(service).to_string();
    let (gateway, lifecycle) = (addr(Service::SignupGateway), addr(Service::Lifecycle));
    let said = system
        .python(&script, &[&gateway, &lifecycle, system.operators().token("olga"), PASSWORD])
        .await
        .ok();
    let said: Value = serde_json::from_str(&said).unwrap();

    assert_eq!(said["health"], "SERVING");
    let services = json!(["grpc.health.v1.Health", "pulse.signup.v1.SignupService"]);
    for version in ["v1", "v1alpha"] {
        let listed = said["reflection"][version].as_array().unwrap();
        assert!(
            services.as_array().unwrap().iter().all(|name| listed.contains(name)),
            "{version}: {listed:?}"
        );
    }
    assert_eq!(said["created"], "SIGN_UP_OUTCOME_CREATED");

    let invalid = &said["invalid"];
    assert_eq!(
        (&invalid["code"], &invalid["reason"]),
        (&json!("INVALID_ARGUMENT"), &json!("INVALID_REQUEST"))
    );
    assert_eq!(invalid["domain"], "hosted.pulse");
    assert_eq!(invalid["fields"], json!(["email", "password", "org_name"]));
    let limited = &said["limited"];
    assert_eq!(
        (&limited["code"], &limited["reason"]),
        (&json!("RESOURCE_EXHAUSTED"), &json!("RATE_LIMITED"))
    );
    assert!(
        limited["retry_seconds"].as_f64().is_some_and(|wait| (600.0..=720.0).contains(&wait)),
        "{limited}"
    );
    let unknown = &said["unknown_organization"];
    assert_eq!((&unknown["code"], &unknown["reason"]), (&json!("NOT_FOUND"), &json!("ORG_NOT_FOUND")));
    let stranger = &said["stranger"];
    assert_eq!(
        (&stranger["code"], &stranger["reason"]),
        (&json!("UNAUTHENTICATED"), &json!("UNAUTHENTICATED"))
    );
    assert_eq!(said["organizations"], json!(["Acme"]));
}
