//! The layer in front of a real axum router.

use axum::{Router, body::Body, routing::get};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use pulse_kernel::Reason;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;

/// Answers with the tenant that the verdict names, or `nobody`.
async fn who(verdict: Option<Verdict>) -> String {
    verdict.map_or("nobody".to_owned(), |verdict| verdict.org.to_string())
}

/// The same where there has to be one.
async fn needs_tenant(verdict: Verdict) -> String {
    verdict.org.to_string()
}

fn rest(guard: Guard) -> GuardLayer<Rest> {
    GuardLayer::rest(guard)
        .require("/alerts", Requirement::capability("alerting"))
        .require("/oracle/{id}", Requirement::capability("clairvoyance"))
        .require_for(Method::POST, "/hosts", Requirement::limit("hosts", 11))
        .open("/livez")
}

fn routes(layer: GuardLayer<Rest>) -> Router {
    Router::new()
        .route("/", get(who))
        .route("/alerts", get(who))
        .route("/oracle/{id}", get(who))
        .route("/hosts", get(who).post(who))
        .route("/livez", get(who))
        .route_layer(layer)
}

async fn ask(routes: &Router, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
    let (head, body) = routes.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
}

fn request(method: &str, path: &str, org: Option<&str>) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    org.into_iter()
        .fold(request, |request, org| request.header(ORG_ID_HEADER, org))
        .body(Body::empty())
        .unwrap()
}

/// The code of a refusal, or the tenant that was let in.
async fn code(routes: &Router, method: &str, path: &str, org: Option<&str>) -> (u16, String) {
    let (status, _, body) = ask(routes, request(method, path, org)).await;
    let code =
        serde_json::from_str::<Value>(&body).ok().map(|problem| problem["code"].as_str().unwrap().to_owned());
    (status.as_u16(), code.unwrap_or(body))
}

#[tokio::test]
async fn every_rest_route_lets_in_who_meets_its_requirement_and_tells_the_handler_who_that_is() {
    let (tenant, guard) = Tenant::guard();
    let routes = routes(rest(guard));
    for is_at_hand in [true, false] {
        tenant.is_at_hand(is_at_hand);
        for (method, path, org, status, code_or_org) in [
            ("GET", "/", Some("acme"), 200, "acme"),
            ("GET", "/alerts", Some("acme"), 200, "acme"),
            ("GET", "/hosts", Some("acme"), 200, "acme"),
            ("POST", "/hosts", Some("acme"), 403, "limit_exceeded"),
            ("GET", "/oracle/7", Some("acme"), 403, "capability_required"),
            ("GET", "/oracle/%37", Some("acme"), 403, "capability_required"),
            ("GET", "/", Some("other"), 404, "org_not_found"),
            ("GET", "/", None, 400, "invalid_org_id"),
            ("GET", "/", Some("Not an id"), 400, "invalid_org_id"),
            ("GET", "/livez", None, 200, "nobody"),
            ("GET", "/livez", Some("Not an id"), 200, "nobody"),
        ] {
            let answer = code(&routes, method, path, org).await;
            assert_eq!(answer, (status, code_or_org.to_owned()), "{method} {path} {org:?} {is_at_hand}");
        }
    }
    assert!(tenant.waits.load(Ordering::SeqCst) > 0);
    let (status, ..) = ask(&routes, request("GET", "/nowhere", None)).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "what is not served is not guarded");
}

#[tokio::test]
async fn a_suspended_tenant_is_refused_everywhere_with_a_problem_and_let_in_again() {
    let (tenant, guard) = Tenant::guard();
    let routes = routes(rest(guard));
    for is_at_hand in [true, false] {
        tenant.is_at_hand(is_at_hand);
        tenant.is(OrganizationStatus::Suspended);
        for (method, path) in [("GET", "/"), ("GET", "/alerts"), ("POST", "/hosts"), ("GET", "/oracle/7")] {
            let (status, headers, body) = ask(&routes, request(method, path, Some("acme"))).await;
            assert_eq!(status, StatusCode::FORBIDDEN);
            assert_eq!(headers["content-type"], "application/problem+json");
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                problem,
                json!({
                    "type": "urn:pulse:problem:org_suspended",
                    "title": "The organization is suspended",
                    "status": 403,
                    "detail": "the organization is suspended",
                    "code": "org_suspended",
                })
            );
        }
        tenant.is(OrganizationStatus::Active);
        assert_eq!(code(&routes, "GET", "/", Some("acme")).await, (200, "acme".to_owned()));
    }
}

#[tokio::test]
async fn a_tenant_that_is_named_twice_or_with_other_bytes_than_text_is_not_named() {
    let (_, guard) = Tenant::guard();
    let routes = routes(rest(guard));
    for values in
        [&[&b"acme"[..], b"acme"][..], &[b"acme", b"other"], &[b"acme,other"], &[b"\xc3\xa9"], &[b""]]
    {
        let mut request = request("GET", "/", None);
        for value in values {
            request.headers_mut().append(ORG_ID_HEADER, HeaderValue::from_bytes(value).unwrap());
        }
        let (status, _, body) = ask(&routes, request).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{values:?}");
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["code"], "invalid_org_id");
        assert_eq!(problem["errors"][0]["field"], ORG_ID_HEADER);
    }
}

#[tokio::test]
async fn a_guard_around_the_router_refuses_rather_than_guess_the_route() {
    let (_, guard) = Tenant::guard();
    let inner = Router::new().route("/oracle/{id}", get(who));
    let service = rest(guard.clone()).layer(inner.clone());
    let answer = service.oneshot(request("GET", "/oracle/7", Some("acme"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    // The same for what no route matches, where the layer is around the routes and what answers in their stead.
    let around = inner.clone().layer(rest(guard.clone()));
    assert_eq!(code(&around, "GET", "/oracle/7", Some("acme")).await.1, "capability_required");
    assert_eq!(code(&around, "GET", "/nowhere", Some("acme")).await.1, "internal");
    // Without rules for routes, it does not matter which one it is.
    let service = GuardLayer::rest(guard).layer(inner);
    let answer = service.oneshot(request("GET", "/oracle/7", Some("acme"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_all_routes_require_gives_way_to_rules_and_a_route_without_a_rule_can_be_refused() {
    let (_, guard) = Tenant::guard();
    let demanding = routes(rest(guard.clone()).require_of_all(Requirement::capability("clairvoyance")));
    assert_eq!(code(&demanding, "GET", "/", Some("acme")).await.1, "capability_required");
    assert_eq!(code(&demanding, "GET", "/hosts", Some("acme")).await.1, "capability_required");
    assert_eq!(code(&demanding, "GET", "/alerts", Some("acme")).await.1, "acme");
    let listed = routes(rest(guard.clone()).refuse_unlisted());
    assert_eq!(code(&listed, "GET", "/", Some("acme")).await, (500, "internal".to_owned()));
    assert_eq!(code(&listed, "GET", "/alerts", Some("acme")).await.1, "acme");
    // The last rule counts, and that of a method before that of all.
    let changed = routes(
        rest(guard.clone())
            .require_for(Method::POST, "/hosts", Requirement::limit("hosts", 10))
            .require("/hosts", Requirement::capability("clairvoyance")),
    );
    assert_eq!(code(&changed, "POST", "/hosts", Some("acme")).await.1, "acme");
    assert_eq!(code(&changed, "GET", "/hosts", Some("acme")).await.1, "capability_required");
    // A handler of GET answers HEAD.
    let read = routes(GuardLayer::rest(guard).require_for(
        Method::GET,
        "/hosts",
        Requirement::capability("clairvoyance"),
    ));
    for (method, status) in [("HEAD", 403), ("GET", 403), ("POST", 200)] {
        assert_eq!(code(&read, method, "/hosts", Some("acme")).await.0, status, "{method}");
    }
}

#[tokio::test]
async fn operators_are_let_through_whatever_the_tenant_and_their_handler_is_told_of_it() {
    async fn decision(verdict: Option<Verdict>) -> String {
        verdict.map_or("nobody".to_owned(), |verdict| format!("{} {:?}", verdict.org, verdict.decision))
    }

    let (tenant, guard) = Tenant::guard();
    tenant.is(OrganizationStatus::Suspended);
    let is_operator =
        |head: &Head<'_>| head.headers.get("authorization").is_some_and(|who| who == "operator");
    let layer = rest(guard).let_through(is_operator);
    let inner = Router::new().route("/oracle/{id}", get(decision));
    let ask_as = async |layer: &GuardLayer<Rest>, who: &'static str, org: Option<&str>| {
        let mut request = request("GET", "/oracle/7", org);
        request.headers_mut().insert("authorization", HeaderValue::from_static(who));
        let (status, _, body) = ask(&inner.clone().route_layer(layer.clone()), request).await;
        (status.as_u16(), body)
    };
    for is_at_hand in [true, false] {
        tenant.is_at_hand(is_at_hand);
        assert_eq!(ask_as(&layer, "stranger", Some("acme")).await.0, 403);
        assert_eq!(ask_as(&layer, "stranger", None).await.0, 400);
        for (org, told) in [
            (Some("acme"), "acme Deny(OrgSuspended)"),
            (Some("other"), "other Deny(OrgNotFound)"),
            (Some("Not an id"), "nobody"),
            (None, "nobody"),
        ] {
            assert_eq!(ask_as(&layer, "operator", org).await, (200, told.to_owned()));
        }
        let (unasked, waits) = (layer.clone().without_verdict(), tenant.waits.load(Ordering::SeqCst));
        assert_eq!(ask_as(&unasked, "operator", Some("acme")).await, (200, "nobody".to_owned()));
        assert_eq!(tenant.waits.load(Ordering::SeqCst), waits, "nobody asks what nobody looks at");
        assert_eq!(ask_as(&unasked, "stranger", Some("acme")).await.0, 403);
    }
}

#[tokio::test]
async fn the_tenant_may_come_from_elsewhere_and_then_the_header_says_nothing() {
    #[derive(Clone)]
    struct Session(OrgId);

    let (tenant, guard) = Tenant::guard();
    let by_session = GuardLayer::rest(guard).tenant_from(|head| match head.extensions.get::<Session>() {
        Some(session) => Ok(session.0.clone()),
        None => Err(ApiError::new(Reason::Unauthenticated, "sign in")),
    });
    let routes = Router::new().route("/", get(who)).route_layer(by_session);
    for is_at_hand in [true, false] {
        tenant.is_at_hand(is_at_hand);
        let (status, headers, _) = ask(&routes, request("GET", "/", Some("acme"))).await;
        assert_eq!(
            (status.as_u16(), &headers["www-authenticate"]),
            (401, &HeaderValue::from_static("Bearer"))
        );
        for (org, expected) in [("acme", "acme"), ("other", "org_not_found")] {
            let mut request = request("GET", "/", Some("acme"));
            request.extensions_mut().insert(Session(OrgId::parse(org).unwrap()));
            let (_, _, body) = ask(&routes, request).await;
            assert!(body.contains(expected), "{body}");
        }
    }
}

#[tokio::test]
async fn a_nested_route_is_named_with_what_it_is_nested_in() {
    let (_, guard) = Tenant::guard();
    let layer = GuardLayer::rest(guard)
        .require("/v1/oracle/{id}", Requirement::capability("clairvoyance"))
        .refuse_unlisted();
    let nested = Router::new().route("/oracle/{id}", get(who)).route_layer(layer);
    let routes = Router::new().nest("/v1", nested);
    assert_eq!(code(&routes, "GET", "/v1/oracle/7", Some("acme")).await.1, "capability_required");
}

#[tokio::test]
async fn a_single_route_can_have_a_guard_of_its_own() {
    let (_, guard) = Tenant::guard();
    let sees = GuardLayer::rest(guard).require_of_all(Requirement::capability("clairvoyance"));
    let routes = Router::new().route("/oracle", get(who).layer(sees).post(who)).route("/", get(who));
    assert_eq!(code(&routes, "GET", "/oracle", Some("acme")).await.1, "capability_required");
    assert_eq!(code(&routes, "POST", "/oracle", Some("acme")).await, (200, "nobody".to_owned()));
    assert_eq!(code(&routes, "GET", "/", None).await, (200, "nobody".to_owned()));
}

#[tokio::test]
async fn a_handler_that_needs_a_verdict_fails_where_no_guard_gives_one() {
    let (_, guard) = Tenant::guard();
    let bare = Router::new().route("/", get(needs_tenant));
    assert_eq!(code(&bare, "GET", "/", Some("acme")).await, (500, "internal".to_owned()));
    let guarded = bare.route_layer(GuardLayer::rest(guard));
    assert_eq!(code(&guarded, "GET", "/", Some("acme")).await, (200, "acme".to_owned()));
}

#[tokio::test]
async fn without_a_verdict_there_is_none() {
    let (_, guard) = Tenant::guard();
    let routes = routes(rest(guard).without_verdict());
    assert_eq!(code(&routes, "GET", "/", Some("acme")).await.1, "nobody");
}
