//! Who may do what.

use pulse_proto::lifecycle::v1::{
    GetOrganizationRequest, SuspendOrganizationRequest,
    lifecycle_admin_service_client::LifecycleAdminServiceClient,
};
use pulse_testkit::{
    eventually,
    system::{Operator, Plan, Service, grpc::rejection},
};
use reqwest::Method;
use serde_json::json;
use tonic::Code;

use crate::{PASSWORD, SOON};

in_every_shape!(
    each_route_asks_for_its_role,
    each_rpc_asks_for_its_role,
    tokens_come_and_go_without_a_restart
);

async fn each_route_asks_for_its_role(plan: Plan) {
    let system = plan.start().await;
    let org_id = system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let routes = [
        (Method::GET, "", "viewer"),
        (Method::GET, "/{id}", "viewer"),
        (Method::GET, "/{id}/billing-state", "viewer"),
        (Method::GET, "/{id}/audit-events", "viewer"),
        (Method::PUT, "/{id}/billing-state", "billing"),
        (Method::POST, "/{id}/suspend", "support"),
        (Method::POST, "/{id}/unsuspend", "support"),
        (Method::POST, "/{id}/soft-delete", "admin"),
        (Method::DELETE, "/{id}/soft-delete", "admin"),
        (Method::DELETE, "/{id}", "admin"),
        (Method::POST, "/{id}/restore", "admin"),
    ];
    for (method, route, needed) in routes {
        let call = async |token: Option<&str>, org_id: &str| {
            let path = format!("/api/admin/orgs{}", route.replace("{id}", org_id));
            let body = match method {
                Method::GET => None,
                Method::PUT => Some(json!({ "subscription_state": "active" })),
                _ => Some(json!({})),
            };
            system.admin_with(token).send(method.clone(), &path, body).await
        };
        let shown = format!("{method} {route}");
        for stranger in [None, Some("wrong"), Some("")] {
            let refused = call(stranger, &org_id).await.expect_problem(401, "unauthenticated");
            assert!(
                refused.header("www-authenticate").is_some_and(|how| how.starts_with("Bearer")),
                "{shown}"
            );
        }
        for role in ["viewer", "support", "billing", "admin"] {
            let token = Some(system.operators().token(role));
            if role == needed || role == "admin" || needed == "viewer" {
                // An organization that does not exist: whoever is let through finds nothing, and changes nothing.
                let answer = call(token, "no-such-org").await;
                let found = if route.is_empty() { 200 } else { 404 };
                let list = route.ends_with("audit-events") && answer.status == 200;
                assert!(list || answer.status == found, "{role}: {shown}: {answer}");
            } else {
                let _ = call(token, &org_id).await.expect_problem(403, "role_required");
            }
        }
    }
    let untouched = system.admin().organization(&org_id).await.expect(200).json();
    assert_eq!(untouched["status"], "active");
}

async fn each_rpc_asks_for_its_role(plan: Plan) {
    let system = plan.start().await;
    let org_id = system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let get = GetOrganizationRequest { org_id: org_id.clone() };
    let suspend = SuspendOrganizationRequest { org_id, ..Default::default() };

    let mut stranger = LifecycleAdminServiceClient::new(system.channel(Service::Lifecycle));
    let refused = rejection(stranger.get_organization(get.clone()).await);
    assert_eq!((refused.code, &*refused.reason), (Code::Unauthenticated, "UNAUTHENTICATED"));

    let token = system.operators().token("viewer");
    let mut viewer = LifecycleAdminServiceClient::new(system.channel_with_token(Service::Lifecycle, token));
    viewer.get_organization(get).await.unwrap();
    let refused = rejection(viewer.suspend_organization(suspend.clone()).await);
    assert_eq!((refused.code, &*refused.reason), (Code::PermissionDenied, "ROLE_REQUIRED"));

    let token = system.operators().token("support");
    let mut support = LifecycleAdminServiceClient::new(system.channel_with_token(Service::Lifecycle, token));
    support.suspend_organization(suspend).await.unwrap();
}

async fn tokens_come_and_go_without_a_restart(plan: Plan) {
    let system = plan.start().await;
    let olga = system.admin();
    let _ = olga.get("").await.expect(200);
    let owen = Operator::new("owen", &["viewer"]);
    let new = system.admin_with(Some(&owen.token));
    let _ = new.get("").await.expect(401);

    system.operators().replace_file(std::slice::from_ref(&owen));
    eventually(SOON, async || new.get("").await.status == 200 && olga.get("").await.status == 401).await;
    // Each service looks at the file by itself.
    eventually(SOON, async || new.get("/default/billing-state").await.status == 200).await;
    let _ = new.suspend("default", "").await.expect_problem(403, "role_required");

    // A file that cannot be read does not lock everybody out.
    std::fs::write(system.operators().file(), "[[token]]\nname = ").unwrap();
    eventually(SOON, async || system.log().contains("tokens file")).await;
    let _ = new.get("").await.expect(200);
}
