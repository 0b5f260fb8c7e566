//! Which questions are read out of what Envoy sends, and what it is told.

use std::collections::HashMap;

use pulse_envoy_api::envoy::{
    config::core::v3 as core,
    service::auth::v3::{AttributeContext, attribute_context},
    r#type::v3::StatusCode,
};
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::*;

fn check(extensions: &[(&str, &str)], headers: &[(&str, &str)]) -> CheckRequest {
    let owned = |pairs: &[(&str, &str)]| {
        let owned = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        owned.collect::<HashMap<_, _>>()
    };
    let http = HttpRequest { headers: owned(headers), ..HttpRequest::default() };
    let request = attribute_context::Request { http: Some(http), time: None };
    let attributes = AttributeContext {
        request: Some(request),
        context_extensions: owned(extensions),
        ..AttributeContext::default()
    };
    CheckRequest { attributes: Some(attributes) }
}

/// The same request as Envoy shows it where `encode_raw_headers` is set.
fn raw(headers: &[(&str, &[u8])]) -> CheckRequest {
    let mut request = check(&[], &[]);
    let header = |(name, value): &(&str, &[u8])| core::HeaderValue {
        key: (*name).to_owned(),
        raw_value: value.to_vec(),
        value: String::new(),
    };
    let http = request.attributes.as_mut().and_then(|attributes| attributes.request.as_mut()).unwrap();
    http.http.as_mut().unwrap().header_map =
        Some(core::HeaderMap { headers: headers.iter().map(header).collect() });
    request
}

fn question(request: CheckRequest) -> Result<Question, Refusal> {
    Inquiry::from(request).question
}

fn parsed(capability: Option<&str>, limit: Option<&str>, on_outage: OnOutage) -> Result<Question, Refusal> {
    Question::parse(Some("acme"), capability, limit, on_outage)
}

/// The code of a problem, or nothing where the question was read.
fn code(question: Result<Question, Refusal>) -> (u16, String) {
    let (parts, body) = question.unwrap_err().to_response().into_parts();
    let problem: Value = serde_json::from_slice(&body).unwrap();
    (parts.status.as_u16(), problem["code"].as_str().unwrap().to_owned())
}

fn shown(options: &[HeaderValueOption]) -> HashMap<&str, &str> {
    let one =
        |option: &'_ HeaderValueOption| option.append_action() == HeaderAppendAction::OverwriteIfExistsOrAdd;
    assert!(options.iter().all(one), "nothing is left beside what is set: {options:?}");
    options.iter().filter_map(|option| option.header.as_ref()).map(|h| (&*h.key, &*h.value)).collect()
}

fn refuse(request: CheckRequest, refusal: Refusal) -> (CheckResponse, DeniedHttpResponse) {
    let answer = Inquiry::from(request).answer(Err(refusal));
    match answer.http_response.clone() {
        Some(HttpResponse::DeniedResponse(denied)) => (answer, denied),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_asked_is_read_from_the_header_and_the_route() {
    let tenant = [("x-pulse-org-id", "acme")];
    for (extensions, expected) in [
        (&[][..], parsed(None, None, OnOutage::Allow)),
        (&[("capability", "alerting")], parsed(Some("alerting"), None, OnOutage::Allow)),
        (&[("limit", "users:5"), ("on_outage", "deny")], parsed(None, Some("users:5"), OnOutage::Deny)),
        (
            &[("capability", "a"), ("limit", "b:c:1"), ("on_outage", "allow")],
            parsed(Some("a"), Some("b:c:1"), OnOutage::Allow),
        ),
    ] {
        assert!(expected.is_ok());
        assert_eq!(question(check(extensions, &tenant)), expected, "{extensions:?}");
    }
    assert_eq!(question(raw(&[("x-pulse-org-id", b"acme")])), parsed(None, None, OnOutage::Allow));
    // What a client asks for itself is no question.
    let own = [("x-pulse-org-id", "acme"), ("x-pulse-capability", "flying")];
    assert_eq!(question(check(&[], &own)), parsed(None, None, OnOutage::Allow));
}

#[test]
fn a_tenant_that_is_not_named_once_and_clearly_is_refused() {
    for request in [
        CheckRequest::default(),
        check(&[], &[]),
        check(&[], &[("x-pulse-org-id", "")]),
        check(&[], &[("x-pulse-org-id", "Acme")]),
        check(&[], &[("x-pulse-org-id", "../acme")]),
        // As Envoy merges two.
        check(&[], &[("x-pulse-org-id", "acme,acme")]),
        check(&[], &[("x-pulse-org-id", "acme"), ("X-Pulse-Org-Id", "other")]),
        check(&[("capability", "alerting")], &[("x-other", "acme")]),
        raw(&[("x-pulse-org-id", b"acme"), ("x-pulse-org-id", b"acme")]),
        raw(&[("x-pulse-org-id", b"acm\xff")]),
    ] {
        assert_eq!(code(question(request.clone())), (403, "invalid_org_id".to_owned()), "{request:?}");
    }
}

#[test]
fn a_route_that_asks_for_nothing_known_lets_nobody_in() {
    for extensions in [
        ("capabilty", "alerting"),
        ("capability", ""),
        ("capability", "two words"),
        ("limit", "users"),
        ("limit", "users:-1"),
        ("limit", "users:18446744073709551616"),
        ("on_outage", "maybe"),
        ("org_id", "acme"),
    ] {
        let request = check(&[extensions], &[("x-pulse-org-id", "acme")]);
        assert_eq!(code(question(request)), (400, "invalid_request".to_owned()), "{extensions:?}");
    }
    // Whoever the client says that it is.
    assert_eq!(code(question(check(&[("capability", "")], &[]))).0, 400);
}

#[test]
fn what_is_known_takes_the_place_of_whatever_the_client_said() {
    let lies = [
        ("x-pulse-org-id", "acme"),
        ("x-pulse-plan", "enterprise"),
        ("x-pulse-capability", "flying"),
        ("x_pulse_plan", "enterprise"),
        ("x-pulse-anything", "1"),
        ("x-other", "the client's own"),
    ];
    let mut trusted = HeaderMap::new();
    trusted.insert(header::PLAN, HeaderValue::from_static("trial"));
    let answer = Inquiry::from(check(&[], &lies)).answer(Ok(trusted));
    assert_eq!(answer.status.unwrap().code, 0);
    let Some(HttpResponse::OkResponse(allowed)) = answer.http_response else { panic!("it is allowed") };
    assert_eq!(shown(&allowed.headers), HashMap::from([("x-pulse-plan", "trial")]));
    let removed = ["x-pulse-anything", "x-pulse-capability", "x-pulse-deny-reason", "x_pulse_plan"];
    assert_eq!(allowed.headers_to_remove, removed);
}

#[test]
fn a_refusal_is_a_problem_for_http_and_a_status_for_grpc() {
    let refusal = || Refusal::denied(ApiError::new(Reason::OrgSuspended, "the organization is suspended"));
    for content_type in
        [None, Some("application/json"), Some("application/grpc-web"), Some("application/grpcx")]
    {
        let headers: Vec<_> = content_type.map(|value| ("content-type", value)).into_iter().collect();
        let (answer, denied) = refuse(check(&[], &headers), refusal());
        assert_eq!(answer.status.unwrap().code, i32::from(Code::PermissionDenied));
        assert_eq!(denied.status.unwrap().code(), StatusCode::Forbidden);
        let headers = shown(&denied.headers);
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(headers["x-pulse-deny-reason"], "org_suspended");
        assert_eq!(headers["cache-control"], "no-store");
        let problem: Value = serde_json::from_str(&denied.body).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&"org_suspended".into(), &403.into()));
    }
    for content_type in ["application/grpc", "application/grpc+proto"] {
        let (_, denied) = refuse(check(&[], &[("content-type", content_type)]), refusal());
        assert_eq!(denied.status.unwrap().code(), StatusCode::Forbidden);
        assert_eq!(denied.body, "the organization is suspended");
        let headers = shown(&denied.headers);
        assert_eq!(headers["x-pulse-deny-reason"], "org_suspended");
        assert!(!headers.contains_key("content-type"), "it would not be gRPC any more: {headers:?}");
        let trailers = headers.iter().map(|(name, value)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap())
        });
        let status = Status::from_header_map(&trailers.collect()).unwrap();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(status.get_details_error_info().unwrap().reason, "ORG_SUSPENDED");
    }
}

#[test]
fn whatever_speaks_against_the_tenant_is_a_no_and_what_is_not_known_is_to_be_asked_again() {
    for (reason, status, code) in [
        (Reason::OrgNotFound, StatusCode::Forbidden, Code::PermissionDenied),
        (Reason::LimitExceeded, StatusCode::Forbidden, Code::PermissionDenied),
        (Reason::InvalidOrgId, StatusCode::Forbidden, Code::PermissionDenied),
        (Reason::Unavailable, StatusCode::ServiceUnavailable, Code::Unavailable),
    ] {
        for headers in [&[][..], &[("content-type", "application/grpc")]] {
            let (answer, denied) = refuse(check(&[], headers), Refusal::denied(ApiError::new(reason, "no")));
            assert_eq!(denied.status.unwrap().code(), status, "{reason:?}");
            assert_eq!(answer.status.unwrap().code, i32::from(code), "{reason:?}");
        }
    }
    let misconfigured = Refusal::not_understood(ApiError::new(Reason::InvalidRequest, "no"));
    let (answer, denied) = refuse(check(&[], &[]), misconfigured);
    assert_eq!(denied.status.unwrap().code(), StatusCode::BadRequest);
    assert_eq!(answer.status.unwrap().code, i32::from(Code::InvalidArgument));
}
