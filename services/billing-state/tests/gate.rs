//! What is there in which mode, who may use it, and how it stops.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use pulse_kernel::Reason;
use pulse_proto::billing::v1::{
    GetBillingStateRequest, ListAuditEventsRequest, SetBillingStateRequest, SubscriptionState,
};
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

use self::support::{Billing, WAIT, signed, to};

const INTERNAL: [&str; 2] = ["pulse.billing.v1.BillingStateService", "pulse.billing.v1.EntitlementService"];
const ADMIN: &str = "pulse.billing.v1.BillingAdminService";

async fn listed(billing: &Billing) -> Vec<String> {
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(billing.channel());
    let answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap();
    match answers.into_inner().next().await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

async fn health(billing: &Billing, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(billing.channel()).check(request).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

#[tokio::test]
async fn outside_hosted_mode_there_is_no_admin_service() {
    let billing = Billing::start(&[]).await;
    for operator in ["", "admin"] {
        let get = signed(operator, GetBillingStateRequest { org_id: "acme".into() });
        let set = signed(operator, to("acme", SubscriptionState::Active));
        let list = signed(operator, ListAuditEventsRequest::default());
        let mut admin = billing.admin();
        assert_eq!(admin.get_billing_state(get).await.unwrap_err().code(), Code::Unimplemented);
        assert_eq!(admin.set_billing_state(set).await.unwrap_err().code(), Code::Unimplemented);
        assert_eq!(admin.list_audit_events(list).await.unwrap_err().code(), Code::Unimplemented);
    }
    let services = listed(&billing).await;
    assert!(INTERNAL.iter().all(|name| services.iter().any(|service| service == name)), "{services:?}");
    assert!(!services.iter().any(|service| service == ADMIN), "{services:?}");
    assert_eq!(health(&billing, ADMIN).await, Err(Code::NotFound));
    billing.start_trial("acme", "k").await.unwrap();
    billing.entitlements("acme").await.unwrap();
}

#[tokio::test]
async fn in_hosted_mode_every_service_is_there_and_becomes_ready() {
    let billing = Billing::hosted().await;
    let services = listed(&billing).await;
    for service in INTERNAL.into_iter().chain([ADMIN]) {
        assert!(services.iter().any(|name| name == service), "{services:?}");
        eventually(WAIT, async || health(&billing, service).await == Ok(ServingStatus::Serving)).await;
    }
    assert_eq!(health(&billing, "").await, Ok(ServingStatus::Serving));
}

#[tokio::test]
async fn operators_need_a_token_and_the_role() {
    let billing = Billing::hosted().await;
    billing.start_trial("acme", "k").await.unwrap();
    let set = || SetBillingStateRequest { reason: "test".into(), ..to("acme", SubscriptionState::Active) };
    for (operator, reads, writes) in [
        ("", Some(Reason::Unauthenticated), Some(Reason::Unauthenticated)),
        ("nobody", Some(Reason::Unauthenticated), Some(Reason::Unauthenticated)),
        ("viewer", None, Some(Reason::RoleRequired)),
        ("support", None, Some(Reason::RoleRequired)),
        ("billing", None, None),
        ("admin", None, None),
    ] {
        let get = billing.get(operator, "acme").await;
        assert_eq!(get.err().map(|error| error.reason()), reads, "{operator}");
        let set = billing.set(operator, set()).await;
        assert_eq!(set.err().map(|error| error.reason()), writes, "{operator}");
        let list = signed(operator, ListAuditEventsRequest { org_id: "acme".into(), ..Default::default() });
        let listed = support::answer(billing.admin().list_audit_events(list).await);
        assert_eq!(listed.err().map(|error| error.reason()), reads, "{operator}");
    }
    let actors: Vec<_> = billing.audit("acme").await.unwrap().into_iter().map(|event| event.actor).collect();
    assert_eq!(actors, ["admin", "billing", "service:provisioner"], "who was refused changed nothing");
}

#[tokio::test]
async fn it_stops_when_told_to_and_lets_go_of_the_files() {
    let billing = Billing::hosted().await;
    billing.start_trial("acme", "k").await.unwrap();
    // Opening the directory again fails while anything holds it.
    let billing = billing.restart().await;
    billing.stored("acme").await.unwrap();
}
