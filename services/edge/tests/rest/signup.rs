//! `POST /api/public/signup`.

use std::time::Duration;

use pulse_kernel::{ApiError, Quota, Reason};
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    client::{Answer, Request},
    support::Edge,
};

const PATH: &str = "/api/public/signup";

fn valid() -> Value {
    json!({"email": "Ann@Example.com", "password": "orbit-lantern-72-quartz", "org_name": "Acme, Inc."})
}

fn post(edge: &Edge) -> Request {
    edge.public("POST", PATH)
}

async fn sign_up(edge: &Edge, body: &Value) -> Answer {
    post(edge).json(body).send().await
}

#[tokio::test]
async fn a_new_tenant_is_created_and_a_known_one_found() {
    let edge = Edge::start().await;
    let answer = sign_up(&edge, &valid()).await;
    assert_eq!((answer.status, answer.header("content-type")), (201, Some("application/json")));
    assert_eq!(
        answer.json(),
        json!({
            "org_id": "acme",
            "user_id": "0190a5c8-7c3e-7000-8000-000000000001",
            "status": "created",
            "trial_ends_at": "2026-01-31T12:00:00Z",
        })
    );
    let known =
        json!({"email": "known@example.com", "password": "orbit-lantern-72-quartz", "org_name": "Acme"});
    let answer = sign_up(&edge, &known).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        (&answer.json()["status"], &answer.json()["trial_ends_at"]),
        (&json!("existing"), &Value::Null)
    );
}

#[tokio::test]
async fn the_gateway_gets_what_was_typed_and_where_from() {
    let edge = Edge::start().await;
    sign_up(&edge, &valid()).await;
    let call = edge.world.call("SignUp");
    assert!(call.request.contains("127.0.0.1"), "{call:?}");
    assert_eq!(edge.world.passwords(), ["orbit-lantern-72-quartz"]);
}

#[tokio::test]
async fn everything_that_is_wrong_is_named_at_once() {
    let edge = Edge::start().await;
    let named = [("email", "invalid_email"), ("password", "weak_password"), ("org_name", "invalid_org_name")]
        .map(|(field, code)| (field.to_owned(), code.to_owned()));
    let nulls = json!({"email": null, "password": null, "org_name": null});
    for nothing in [json!({}), nulls, json!({"email": "", "password": "", "org_name": ""})] {
        let answer = sign_up(&edge, &nothing).await;
        assert_eq!(answer.refused_fields(400, "invalid_request"), named, "{nothing}");
    }
    let mut no_email = valid();
    no_email["email"] = json!("");
    assert_eq!(sign_up(&edge, &no_email).await.refused_fields(400, "invalid_email"), named[..1]);
}

#[tokio::test]
async fn wrong_types_and_unknown_fields_are_named_without_their_values_and_go_no_further() {
    let edge = Edge::start().await;
    let answer =
        sign_up(&edge, &json!({"email": [], "password": 12_345_678, "org_name": {}, "plan": "gold"})).await;
    let fields = answer.refused_fields(400, "invalid_request");
    assert_eq!(
        fields.iter().map(|(field, _)| field.as_str()).collect::<Vec<_>>(),
        ["email", "password", "org_name", "plan"]
    );
    assert!(!answer.json().to_string().contains("12345678"));
    assert!(edge.world.calls().is_empty());
}

#[tokio::test]
async fn what_the_gateway_refuses_is_told_with_its_code() {
    let edge = Edge::start().await;
    for (reason, status, code) in [
        (Reason::InvalidEmail, 400, "invalid_email"),
        (Reason::WeakPassword, 400, "weak_password"),
        (Reason::InvalidOrgName, 400, "invalid_org_name"),
    ] {
        edge.world.fail_with("SignUp", &ApiError::field(reason, "a_field", "is not accepted"));
        let fields = sign_up(&edge, &valid()).await.refused_fields(status, code);
        assert_eq!(fields, [("a_field".to_owned(), code.to_owned())]);
    }
    edge.world.fail_with("SignUp", &ApiError::new(Reason::EmailTaken, "the email owns a tenant"));
    assert_eq!(
        sign_up(&edge, &valid()).await.problem(409, "email_taken")["detail"],
        "the email owns a tenant"
    );
}

#[tokio::test]
async fn the_hourly_limit_says_when_the_next_signup_is_allowed() {
    let edge = Edge::start().await;
    let limited = ApiError::new(Reason::RateLimited, "too many signups")
        .retry_after(Duration::from_millis(719_001))
        .quota(Quota { policy: "signup".into(), limit: 5, window_seconds: 3600 });
    edge.world.fail_with("SignUp", &limited);
    let answer = sign_up(&edge, &valid()).await;
    answer.problem(429, "rate_limited");
    assert_eq!(answer.header("retry-after"), Some("720"));
    assert_eq!(answer.header("ratelimit-policy"), Some("\"signup\";q=5;w=3600"));
    assert_eq!(answer.header("ratelimit"), Some("\"signup\";r=0;t=720"));
}

#[tokio::test]
async fn what_is_away_or_broken_behind_is_told_without_detail() {
    let edge = Edge::start().await;
    let secret = "10.0.0.7:50052 said table accounts";
    for (status, http, code) in [
        (Status::unavailable(secret), 503, "unavailable"),
        (Status::deadline_exceeded(secret), 503, "unavailable"),
        (Status::unimplemented(secret), 503, "unavailable"),
        (Status::unknown(secret), 503, "unavailable"),
        (Status::internal(secret), 500, "internal"),
        (Status::data_loss(secret), 500, "stored_state_unreadable"),
    ] {
        let shown = format!("{status:?}");
        edge.world.fail("SignUp", status);
        let answer = sign_up(&edge, &valid()).await;
        let document = answer.problem(http, code);
        assert!(!document.to_string().contains("10.0.0.7"), "{shown}: {document}");
        assert_eq!(answer.header("retry-after").is_some(), http == 503, "{shown}");
    }
    let overloaded = ApiError::new(Reason::Overloaded, "no capacity to hash another password now");
    edge.world.fail_with("SignUp", &overloaded);
    let answer = sign_up(&edge, &valid()).await;
    answer.problem(429, "overloaded");
    assert_eq!((answer.header("retry-after"), answer.header("ratelimit")), (Some("1"), None));
}

#[tokio::test]
async fn a_gateway_that_is_gone_is_unavailable() {
    let edge = Edge::start().await;
    edge.stop(pulse_runtime::Service::SignupGateway).await;
    let answer = sign_up(&edge, &valid()).await;
    answer.problem(503, "unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn request_id_and_deadline_go_along() {
    let edge = Edge::start().await;
    let answer = post(&edge).header("x-request-id", "from-the-web").json(&valid()).send().await;
    assert_eq!(answer.header("x-request-id"), Some("from-the-web"));
    let call = edge.world.call("SignUp");
    assert_eq!(call.metadata.get("x-request-id").unwrap(), "from-the-web");
    assert!(call.metadata.get("grpc-timeout").is_some());
}
