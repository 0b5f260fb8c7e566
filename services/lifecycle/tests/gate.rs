//! What is there in which mode, and how it stops.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use pulse_proto::lifecycle::v1::{GetOrganizationRequest, ListOrganizationsRequest};
use pulse_testkit::eventually;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use self::support::{Lifecycle, WAIT, request, signed};

const INTERNAL: &str = "pulse.lifecycle.v1.OrganizationService";
const GATEWAYS: &str = "envoy.service.auth.v3.Authorization";
const ADMIN: &str = "pulse.lifecycle.v1.LifecycleAdminService";

async fn listed(lifecycle: &Lifecycle) -> Vec<String> {
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(lifecycle.channel());
    let answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap();
    match answers.into_inner().next().await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

async fn health(lifecycle: &Lifecycle, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(lifecycle.channel()).check(request).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

#[tokio::test]
async fn outside_hosted_mode_there_is_no_admin_service() {
    let lifecycle = Lifecycle::start(&[]).await;
    for operator in ["", "admin"] {
        let list = signed(operator, ListOrganizationsRequest::default());
        let get = signed(operator, GetOrganizationRequest { org_id: "default".into() });
        let mut admin = lifecycle.admin();
        assert_eq!(admin.list_organizations(list).await.unwrap_err().code(), Code::Unimplemented);
        assert_eq!(admin.get_organization(get).await.unwrap_err().code(), Code::Unimplemented);
    }
    let services = listed(&lifecycle).await;
    for service in [INTERNAL, GATEWAYS] {
        assert!(services.iter().any(|name| name == service), "{services:?}");
    }
    assert!(!services.iter().any(|name| name == ADMIN), "{services:?}");
    assert_eq!(health(&lifecycle, ADMIN).await, Err(Code::NotFound));
    lifecycle.create(request("acme")).await.unwrap();
}

#[tokio::test]
async fn in_hosted_mode_all_services_are_there_and_become_ready() {
    let lifecycle = Lifecycle::hosted().await;
    let services = listed(&lifecycle).await;
    for service in [INTERNAL, GATEWAYS, ADMIN] {
        assert!(services.iter().any(|name| name == service), "{services:?}");
        eventually(WAIT, async || health(&lifecycle, service).await == Ok(ServingStatus::Serving)).await;
    }
    assert_eq!(health(&lifecycle, "").await, Ok(ServingStatus::Serving));
}

#[tokio::test]
async fn it_stops_when_told_to_and_lets_go_of_the_database() {
    let lifecycle = Lifecycle::hosted().await;
    lifecycle.active("acme").await;
    let (directory, clock) = lifecycle.stop().await;
    // Opening it again fails while anything holds it.
    Lifecycle::start_in(directory, clock, &[]).await.get("acme").await.unwrap();
}
