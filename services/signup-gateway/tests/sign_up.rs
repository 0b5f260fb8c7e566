//! Signing up, as the edge meets it: over the wire, with a provisioner behind.

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::time::Duration;

use pulse_kernel::{ApiError, Reason};
use pulse_proto::signup::v1::{SignUpOutcome, SignUpRequest};
use pulse_testkit::eventually;
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use self::support::{Gateway, PASSWORD, WAIT, good};

const IP: &str = "192.0.2.7";

fn fields(error: &ApiError) -> Vec<(&str, Reason)> {
    error.violations().iter().map(|violation| (violation.field.as_str(), violation.reason)).collect()
}

#[tokio::test]
async fn a_stranger_gets_a_tenant_and_the_same_one_again() {
    let gateway = Gateway::start().await;
    let first = gateway.sign_up(good("Ann@Example.com", IP)).await.unwrap();
    assert_eq!(first.outcome(), SignUpOutcome::Created);
    assert!(!first.org_id.is_empty() && !first.user_id.is_empty() && first.trial_ends_at.is_some());
    let again = gateway.sign_up(good("Ann@Example.com", IP)).await.unwrap();
    assert_eq!(again.outcome(), SignUpOutcome::Existing);
    assert_eq!((&again.org_id, &again.user_id), (&first.org_id, &first.user_id));

    let (_, asked) = gateway.provisioner.calls().remove(0);
    assert_eq!((asked.owner_email.as_str(), asked.org_name.as_str()), ("Ann@Example.com", "Acme, Inc."));
    assert_eq!(asked.password, PASSWORD);
}

#[tokio::test]
async fn the_request_goes_along_with_its_id_and_what_is_left_of_its_time() {
    let gateway = Gateway::start().await;
    let mut request = tonic::Request::new(good("ann@example.com", IP));
    request.metadata_mut().insert("x-request-id", "req-42".parse().unwrap());
    request.set_timeout(Duration::from_secs(2));
    gateway.client().sign_up(request).await.unwrap();
    let (metadata, _) = gateway.provisioner.calls().remove(0);
    assert_eq!(metadata.get("x-request-id").unwrap(), "req-42");
    let timeout = metadata.get("grpc-timeout").unwrap().to_str().unwrap().to_owned();
    let micros: u64 = timeout.strip_suffix('u').expect(&timeout).parse().unwrap();
    assert!((1..2_000_000).contains(&micros), "{timeout}");
}

#[tokio::test]
async fn every_mistake_is_refused_and_named() {
    let gateway = Gateway::start().await;
    let long = "x".repeat(65);
    for (change, field, reason) in [
        (("", PASSWORD, "Acme"), "email", Reason::InvalidEmail),
        (("ann@example", PASSWORD, "Acme"), "email", Reason::InvalidEmail),
        (("Ann <ann@example.com>", PASSWORD, "Acme"), "email", Reason::InvalidEmail),
        (("ann@example.com", "", "Acme"), "password", Reason::WeakPassword),
        (("ann@example.com", "k9;Qz!2", "Acme"), "password", Reason::WeakPassword),
        (("ann@example.com", "password1234", "Acme"), "password", Reason::WeakPassword),
        (("ann@example.com", "ann@example.com", "Acme"), "password", Reason::WeakPassword),
        (("ann@example.com", "acme rockets", "Acme Rockets"), "password", Reason::WeakPassword),
        (("ann@example.com", PASSWORD, ""), "org_name", Reason::InvalidOrgName),
        (("ann@example.com", PASSWORD, "ab"), "org_name", Reason::InvalidOrgName),
        (("ann@example.com", PASSWORD, &long), "org_name", Reason::InvalidOrgName),
        (("ann@example.com", PASSWORD, "../etc"), "org_name", Reason::InvalidOrgName),
        (("ann@example.com", PASSWORD, "Ac\u{202e}me"), "org_name", Reason::InvalidOrgName),
    ] {
        let (email, password, org_name) = change;
        let request = SignUpRequest {
            email: email.into(),
            password: password.into(),
            org_name: org_name.into(),
            client_ip: IP.into(),
        };
        let error = gateway.sign_up(request).await.expect_err(&format!("{change:?}"));
        assert_eq!(error.reason(), reason, "{change:?}");
        assert_eq!(fields(&error), [(field, reason)], "{change:?}");
    }
    assert!(gateway.provisioner.calls().is_empty());
}

#[tokio::test]
async fn several_mistakes_are_named_together() {
    let gateway = Gateway::start().await;
    let request = SignUpRequest { client_ip: IP.into(), ..SignUpRequest::default() };
    let error = gateway.sign_up(request).await.unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidRequest);
    let all = [
        ("email", Reason::InvalidEmail),
        ("password", Reason::WeakPassword),
        ("org_name", Reason::InvalidOrgName),
    ];
    assert_eq!(fields(&error), all);
}

#[tokio::test]
async fn a_longer_minimum_holds() {
    let gateway = Gateway::start_with(&["--hosted-mode", "true", "--password-min-length", "40"]).await;
    let error = gateway.sign_up(good("ann@example.com", IP)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::WeakPassword);
}

#[tokio::test]
async fn a_caller_that_does_not_say_for_whom_is_refused() {
    let gateway = Gateway::start().await;
    for ip in ["", "unknown", "192.0.2.7:443"] {
        let error = gateway.sign_up(good("ann@example.com", ip)).await.unwrap_err();
        assert_eq!((error.reason(), fields(&error)[0].0), (Reason::InvalidRequest, "client_ip"), "{ip:?}");
    }
    assert!(gateway.provisioner.calls().is_empty());
}

#[tokio::test]
async fn what_the_provisioner_says_reaches_the_caller() {
    let gateway = Gateway::start().await;
    gateway.sign_up(good("ann@example.com", IP)).await.unwrap();
    let stranger = SignUpRequest { password: "another-Quartz-lamp-19".into(), ..good("ann@example.com", IP) };
    let taken = gateway.sign_up(stranger).await.unwrap_err();
    assert_eq!(
        (taken.reason(), taken.message()),
        (Reason::EmailTaken, "the email address already has an account")
    );
    for (email, reason, seconds) in
        [("busy@example.com", Reason::Overloaded, 3), ("down@example.com", Reason::Unavailable, 7)]
    {
        let error = gateway.sign_up(good(email, "192.0.2.8")).await.unwrap_err();
        assert_eq!(
            (error.reason(), error.retry_delay()),
            (reason, Some(Duration::from_secs(seconds))),
            "{email}"
        );
    }
}

#[tokio::test]
async fn what_went_wrong_inside_stays_inside() {
    let gateway = Gateway::start().await;
    for email in ["broken@example.com", "nonsense@example.com"] {
        let status = gateway.client().sign_up(good(email, IP)).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{email}");
        assert!(!format!("{status:?}").contains("canary"), "{status:?}");
        assert!(pulse_rpc::status::request_id_of(&status).is_some(), "{email}");
    }
}

#[tokio::test]
async fn without_a_provisioner_signups_are_unavailable_for_now() {
    let gateway = Gateway::start_alone().await;
    let error = gateway.sign_up(good("ann@example.com", IP)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Unavailable);
    assert!(error.retry_delay().is_some());
}

#[tokio::test]
async fn a_provisioner_that_does_not_answer_is_not_waited_for_without_end() {
    let gateway = Gateway::start_with(&["--hosted-mode", "true", "--request-timeout", "50ms"]).await;
    let error = gateway.sign_up(good("slow@example.com", IP)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Unavailable);
    assert!(error.retry_delay().is_some());
}

#[tokio::test]
async fn outside_hosted_mode_there_is_no_signup() {
    let gateway = Gateway::start_with(&[]).await;
    let status = gateway.client().sign_up(good("ann@example.com", IP)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().is_empty() && status.details().is_empty(), "{status:?}");
    let transport = Endpoint::from_shared(gateway.url()).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(transport);
    let check = |service: &str| HealthCheckRequest { service: service.into() };
    assert_eq!(health.check(check("")).await.unwrap().into_inner().status(), ServingStatus::Serving);
    let hidden = health.check(check("pulse.signup.v1.SignupService")).await.unwrap_err();
    assert_eq!(hidden.code(), Code::NotFound);
}

#[tokio::test]
async fn it_is_ready_when_it_serves_and_stops_when_told() {
    let gateway = Gateway::start().await;
    eventually(WAIT, async || {
        let transport = Endpoint::from_shared(gateway.url()).unwrap().connect().await.ok()?;
        let request = HealthCheckRequest { service: "pulse.signup.v1.SignupService".into() };
        let answer = HealthClient::new(transport).check(request).await.ok()?;
        (answer.into_inner().status() == ServingStatus::Serving).then_some(())
    })
    .await;
    gateway.shutdown.trigger();
    tokio::time::timeout(WAIT, gateway.served).await.unwrap().unwrap().unwrap();
}
