//! The server as its callers meet it: a real one on a free port, by real clients.

#[cfg(test)]
mod support;

use std::time::Duration;

use pulse_kernel::Reason;
use pulse_proto::billing::v1::{
    GetEntitlementsRequest, entitlement_service_client::EntitlementServiceClient,
};
use pulse_rpc::{Limits, RequestContext, from_status, server::ServeError, status::request_id_of};
use pulse_testkit::eventually;
use tonic::{Code, Request, Status, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use self::support::{Running, WAIT, entitlements, unimplemented_path};

fn limits(max_in_flight: usize, request_timeout: Duration) -> Limits {
    Limits { max_in_flight, request_timeout }
}

#[tokio::test]
async fn answers_and_echoes_the_request_id() {
    let server = Running::start(Limits::default()).await;
    let mut request = entitlements("ok");
    request.metadata_mut().insert("x-request-id", "abc-1.2_3".parse().unwrap());
    let answer = server.client().get_entitlements(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "abc-1.2_3");
    assert_eq!(answer.get_ref().plan_version, "abc-1.2_3", "the handler knew it");
}

#[tokio::test]
async fn a_missing_or_wild_request_id_is_replaced_and_errors_carry_it() {
    let server = Running::start(Limits::default()).await;
    let mut request = entitlements("missing");
    request.metadata_mut().insert("x-request-id", "a b\"c".parse().unwrap());
    let status = server.client().get_entitlements(request).await.unwrap_err();
    let id = status.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    assert_eq!(id.len(), 36, "{id}");
    assert_eq!(request_id_of(&status), Some(id));
    assert_eq!(from_status(&status).reason(), Reason::OrgNotFound);
}

#[tokio::test]
async fn a_panic_is_an_internal_error_that_tells_nothing_and_the_server_goes_on() {
    let server = Running::start(Limits::default()).await;
    for org in ["panic", "panic-at-once"] {
        let status = server.client().get_entitlements(entitlements(org)).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{org}");
        assert!(!format!("{status:?}").contains("secret"), "{status:?}");
        assert!(request_id_of(&status).is_some());
    }
    server.client().get_entitlements(entitlements("ok")).await.unwrap();
}

#[tokio::test]
async fn what_is_too_much_is_refused_at_once_and_health_is_not() {
    let server = Running::start(limits(2, Duration::from_mins(1))).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = server.client();
        waiting.push(tokio::spawn(async move { client.get_entitlements(entitlements("wait")).await }));
    }
    eventually(WAIT, async || server.entered() == 2).await;

    let status = server.client().get_entitlements(entitlements("ok")).await.unwrap_err();
    let error = from_status(&status);
    assert_eq!((status.code(), error.reason()), (Code::ResourceExhausted, Reason::Overloaded));
    assert!(error.retry_delay().is_some() && request_id_of(&status).is_some());
    assert_eq!(server.health("").await.unwrap(), ServingStatus::Serving);

    server.release();
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    server.client().get_entitlements(entitlements("ok")).await.expect("the places are free again");
}

#[tokio::test]
async fn a_cancelled_call_gives_its_place_back() {
    let server = Running::start(limits(1, Duration::from_mins(1))).await;
    let mut client = server.client();
    let call = tokio::spawn(async move { client.get_entitlements(entitlements("wait")).await });
    eventually(WAIT, async || server.entered() == 1).await;
    call.abort();
    eventually(WAIT, async || server.client().get_entitlements(entitlements("ok")).await).await;
}

#[tokio::test]
async fn no_request_outlives_its_deadline() {
    let server = Running::start(limits(10, Duration::from_millis(50))).await;
    let status = server.client().get_entitlements(entitlements("wait")).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "the server's bound");
    assert_eq!(from_status(&status).reason(), Reason::Unavailable);
    assert!(request_id_of(&status).is_some());

    let server = Running::start(limits(10, Duration::from_mins(1))).await;
    let mut client = server.raw_client().await;
    let mut request = entitlements("wait");
    // By hand, so that only the server knows of it.
    request.metadata_mut().insert("grpc-timeout", "20m".parse().unwrap());
    let status = client.get_entitlements(request).await.unwrap_err();
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "the caller's bound: {status:?}"
    );
    eventually(WAIT, async || server.left() == server.entered()).await;
}

#[tokio::test]
async fn a_client_passes_on_what_is_left_of_the_time() {
    let server = Running::start(limits(10, Duration::from_mins(1))).await;
    let context = RequestContext {
        request_id: pulse_rpc::RequestId::accept(&http::HeaderValue::from_static("outer-1")).unwrap(),
        deadline: Some(tokio::time::Instant::now() + Duration::from_millis(100)),
    };
    let mut client = server.client();
    let status = context.scope(client.get_entitlements(entitlements("wait"))).await.unwrap_err();
    assert_eq!(from_status(&status).reason(), Reason::Unavailable);
    assert!(from_status(&status).retry_delay().is_some());
}

#[tokio::test]
async fn an_unreachable_server_is_unavailable() {
    let (listener, addr) = pulse_testkit::listener().await;
    drop(listener);
    let channel = pulse_rpc::channel(&format!("http://{addr}")).unwrap();
    let status =
        EntitlementServiceClient::new(channel).get_entitlements(entitlements("ok")).await.unwrap_err();
    assert_eq!(from_status(&status).reason(), Reason::Unavailable);
}

#[tokio::test]
async fn a_hidden_service_is_like_one_that_never_existed() {
    let server = Running::start(Limits::default()).await;
    let hidden = unimplemented_path(&server, "/pulse.billing.v1.BillingAdminService/GetBillingState").await;
    let unknown = unimplemented_path(&server, "/pulse.billing.v1.NeverExisted/GetBillingState").await;
    assert_eq!(hidden, unknown);
    assert_eq!(hidden.0, Code::Unimplemented);
}

#[tokio::test]
async fn reflection_shows_what_is_registered_and_nothing_else() {
    let server = Running::start(Limits::default()).await;
    let expected = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "pulse.billing.v1.EntitlementService",
    ];
    assert_eq!(server.list_services_v1().await, expected);
    assert_eq!(server.list_services_v1alpha().await, expected);
    assert!(server.describes("pulse.billing.v1.EntitlementService").await);
    assert!(server.describes("pulse.billing.v1.GetEntitlementsRequest").await);
    assert!(server.describes("google.protobuf.Timestamp").await);
    for hidden in [
        "pulse.billing.v1.BillingAdminService",
        "pulse.billing.v1.SetBillingStateRequest",
        "pulse.billing.v1.BillingAdminService.SetBillingState",
        "pulse.signup.v1.SignupService",
    ] {
        assert!(!server.describes(hidden).await, "{hidden}");
    }
}

#[tokio::test]
async fn health_tells_liveness_and_the_readiness_of_each_service() {
    let server = Running::start(Limits::default()).await;
    assert_eq!(server.health("").await.unwrap(), ServingStatus::Serving);
    let service = "pulse.billing.v1.EntitlementService";
    eventually(WAIT, async || server.health(service).await.ok() == Some(ServingStatus::Serving)).await;
    server.set_store(false);
    eventually(WAIT, async || server.health(service).await.ok() == Some(ServingStatus::NotServing)).await;
    assert_eq!(server.health("").await.unwrap(), ServingStatus::Serving);
    let hidden = server.health("pulse.billing.v1.BillingAdminService").await.unwrap_err();
    assert_eq!(hidden.code(), Code::NotFound);
}

#[tokio::test]
async fn draining_lets_what_is_in_flight_finish_and_ends_health_watches() -> Result<(), ServeError> {
    let server = Running::start(Limits::default()).await;
    let mut watch = HealthClient::new(server.transport().await)
        .watch(HealthCheckRequest { service: String::new() })
        .await
        .unwrap()
        .into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let mut client = server.client();
    let call = tokio::spawn(async move { client.get_entitlements(entitlements("wait")).await });
    eventually(WAIT, async || server.entered() == 1).await;

    server.shutdown.trigger();
    while watch.message().await.is_ok_and(|message| message.is_some()) {}
    eventually(WAIT, async || Endpoint::from_shared(server.url()).unwrap().connect().await.is_err()).await;
    server.release();
    assert!(call.await.unwrap().is_ok(), "what was in flight is answered");
    server.stopped().await
}

#[tokio::test]
async fn aborting_does_not_wait() -> Result<(), ServeError> {
    let server = Running::start(Limits::default()).await;
    let mut client = server.client();
    let _call = tokio::spawn(async move { client.get_entitlements(entitlements("wait")).await });
    eventually(WAIT, async || server.entered() == 1).await;
    server.shutdown.trigger();
    server.shutdown.abort();
    server.stopped().await
}

#[tokio::test]
async fn metrics_have_labels_for_what_exists_only() {
    let server = Running::start(Limits::default()).await;
    server.client().get_entitlements(entitlements("ok")).await.unwrap();
    server.client().get_entitlements(entitlements("panic")).await.unwrap_err();
    for path in [
        "/pulse.billing.v1.EntitlementService/NoSuchMethod",
        "/a/b",
        "/pulse.billing.v1.BillingAdminService/X",
    ] {
        unimplemented_path(&server, path).await;
    }
    let count = |code: u16| {
        format!(
            r#"rpc_server_duration_seconds_count{{rpc_grpc_status_code="{code}",rpc_method="GetEntitlements",rpc_service="pulse.billing.v1.EntitlementService"}}"#
        )
    };
    let text = eventually(WAIT, async || {
        let text = pulse_runtime::telemetry::metrics_text().unwrap();
        [count(0), count(13), "rpc_method=\"_OTHER\"".into()]
            .iter()
            .all(|line| text.contains(line))
            .then_some(text)
    })
    .await;
    assert!(!text.contains("NoSuchMethod") && !text.contains("BillingAdminService"), "{text}");
}

#[tokio::test]
async fn a_caller_that_goes_away_is_counted_as_cancelled() {
    let server = Running::start(Limits::default()).await;
    let mut client = server.client();
    let call = tokio::spawn(async move { client.get_entitlements(entitlements("wait")).await });
    eventually(WAIT, async || server.entered() == 1).await;
    call.abort();
    eventually(WAIT, async || {
        pulse_runtime::telemetry::metrics_text().unwrap().contains(
            r#"{rpc_grpc_status_code="1",rpc_method="GetEntitlements",rpc_service="pulse.billing.v1.EntitlementService"}"#,
        )
    })
    .await;
}

#[tokio::test]
async fn a_message_that_is_garbage_is_refused_and_nothing_breaks() {
    let server = Running::start(Limits::default()).await;
    let long =
        Request::new(GetEntitlementsRequest { org_id: "x".repeat(pulse_rpc::server::MAX_MESSAGE_BYTES) });
    let status: Status = server.client().get_entitlements(long).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    server.client().get_entitlements(entitlements("ok")).await.unwrap();
}
