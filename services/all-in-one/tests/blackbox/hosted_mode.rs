//! Outside hosted mode, what is only for hosting does not exist.

use pulse_proto::{
    billing::v1 as billing, lifecycle::v1 as lifecycle, provisioner::v1 as provisioner, signup::v1 as signup,
};
use pulse_testkit::system::{Plan, Service, System, grpc::rejection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use crate::PASSWORD;

in_every_shape!(
    hosted_routes_are_unknown_paths_byte_for_byte,
    hosted_rpcs_are_not_served_and_not_listed,
    internal_services_answer_all_the_same
);

/// The whole answer as it came over the wire, but for its `date`.
async fn raw(system: &System, method: &str, path: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(system.public_addr()).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: pulse.example\r\nx-request-id: 0123456789abcdef\r\nconnection: close\r\n\
         content-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    answer.split_inclusive("\r\n").filter(|line| !line.to_lowercase().starts_with("date:")).collect()
}

async fn hosted_routes_are_unknown_paths_byte_for_byte(plan: Plan) {
    let system = plan.not_hosted().without_limits().start().await;
    let body = format!(r#"{{"email":"ann@example.com","password":"{PASSWORD}","org_name":"Acme"}}"#);
    let json = "content-type: application/json\r\n";
    let operator = format!("{json}authorization: Bearer {}\r\n", system.operators().token("olga"));

    for method in ["POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD"] {
        for headers in [json, &operator, ""] {
            let unknown = raw(&system, method, "/no/such/path", headers, &body).await;
            assert!(unknown.starts_with("HTTP/1.1 404 "), "{unknown}");
            for path in [
                "/api/public/signup",
                "/api/public/signup/confirm",
                "/api/admin/orgs",
                "/api/admin/orgs/default",
                "/api/admin/orgs/default/billing-state",
                "/api/admin/orgs/default/suspend",
            ] {
                assert_eq!(raw(&system, method, path, headers, &body).await, unknown, "{method} {path}");
            }
        }
    }
    let huge = "x".repeat(70_000);
    let unknown = raw(&system, "POST", "/no/such/path", json, &huge).await;
    assert_eq!(raw(&system, "POST", "/api/public/signup", json, &huge).await, unknown);

    for edge in 0..system.replicas(Service::Edge) {
        let admin = TcpStream::connect(system.replica_admin_addr(edge)).await;
        assert!(admin.is_err(), "the admin listener is not opened");
    }
    let _ = system.get("/livez").await.expect(200);
    let _ = system.get("/readyz").await.expect(200);
}

async fn hosted_rpcs_are_not_served_and_not_listed(plan: Plan) {
    let system = plan.not_hosted().start().await;
    for service in [Service::SignupGateway, Service::Provisioner, Service::BillingState, Service::Lifecycle] {
        let addr = system.addr(service).to_string();
        let listed = system.grpcurl(&["-plaintext", &addr, "list"]).await.ok();
        assert!(listed.contains("grpc.health.v1.Health"), "{listed}");
        for hidden in ["Admin", "SignupService", "ProvisionerService"] {
            assert!(!listed.contains(hidden), "{service:?} lists {hidden}: {listed}");
        }
    }

    let sign_up = signup::SignUpRequest { email: "ann@example.com".into(), ..Default::default() };
    let organization = lifecycle::GetOrganizationRequest { org_id: "default".into() };
    let billing = billing::GetBillingStateRequest { org_id: "default".into() };
    for refused in [
        rejection(system.signups().sign_up(sign_up).await),
        rejection(
            system.provisioner().provision_tenant(provisioner::ProvisionTenantRequest::default()).await,
        ),
        rejection(
            system
                .provisioner_admin()
                .list_provisionings(provisioner::ListProvisioningsRequest::default())
                .await,
        ),
        rejection(system.billing_admin().get_billing_state(billing).await),
        rejection(system.lifecycle_admin().get_organization(organization).await),
    ] {
        assert_eq!(refused.code, Code::Unimplemented, "{refused:?}");
    }

    let addr = system.addr(Service::Lifecycle).to_string();
    let described =
        system.grpcurl(&["-plaintext", &addr, "describe", "pulse.lifecycle.v1.LifecycleAdminService"]).await;
    assert!(!described.success, "{}", described.stdout);
}

async fn internal_services_answer_all_the_same(plan: Plan) {
    let system = plan.not_hosted().start().await;
    let organization = lifecycle::OrganizationServiceGetOrganizationRequest { org_id: "default".into() };
    let found = system.organizations().get_organization(organization).await.unwrap().into_inner();
    assert_eq!(found.organization.unwrap().id, "default");
    let request = billing::GetEntitlementsRequest { org_id: "default".into() };
    let entitlements = system.entitlements().get_entitlements(request).await.unwrap().into_inner();
    assert_eq!(entitlements.org_id, "default");
    let request = provisioner::VerifyCredentialsRequest {
        email: "ann@example.com".into(),
        password: PASSWORD.into(),
        client_ip: String::new(),
    };
    let refused = rejection(system.accounts().verify_credentials(request).await);
    assert_eq!((refused.code, &*refused.reason), (Code::Unauthenticated, "UNAUTHENTICATED"));
}
