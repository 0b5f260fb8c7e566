//! The public door.

use std::net::Ipv4Addr;

use jiff::{SignedDuration, Timestamp};
use pulse_proto::signup::v1::{SignUpOutcome, SignUpRequest};
use pulse_testkit::system::{
    Plan, System,
    grpc::rejection,
    rest::{Answer, time},
};
use reqwest::Method;
use serde_json::{Value, json};
use tonic::Code;

use crate::PASSWORD;

in_every_shape!(a_stranger_becomes_a_tenant, grpc_says_the_same, the_sixth_signup_in_an_hour_has_to_wait);

async fn a_stranger_becomes_a_tenant(plan: Plan) {
    let system = plan.start().await;

    let answer = system.signup("Ann@Example.com", PASSWORD, "Acme, Inc.").await.expect(201);
    assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()));
    let created = answer.json();
    assert_eq!(created["status"], "created");
    assert_ends_in_14_days(&created["trial_ends_at"]);
    let org_id = created["org_id"].as_str().unwrap();
    assert_eq!(org_id.len(), 36, "a UUID");

    let billing = system.stored_billing_state(org_id).await.unwrap();
    assert_eq!((&billing["subscription_state"], &billing["org_id"]), (&json!("trial"), &json!(org_id)));
    assert_eq!(time(&billing["trial_ends_at"]), time(&created["trial_ends_at"]));

    let organization = system.admin().organization(org_id).await.expect(200).json();
    assert_eq!(organization["status"], "active");
    assert_eq!(organization["display_name"], "Acme, Inc.");
    assert_eq!(organization["owner_email"], "Ann@Example.com", "as typed");
    assert_eq!(organization["owner_user_id"], created["user_id"]);

    let again = system.signup(" ann@EXAMPLE.com ", PASSWORD, "Another Name").await.expect(200).json();
    assert_eq!(again["status"], "existing");
    for same in ["org_id", "user_id", "trial_ends_at"] {
        assert_eq!(again[same], created[same], "{same}");
    }

    let other_password = system.signup("ann@example.com", "harbor-violin-38-meadow", "Acme").await;
    let _ = other_password.expect_problem(409, "email_taken");
}

#[track_caller]
fn assert_ends_in_14_days(end: &Value) {
    let left = time(end).duration_since(now());
    let a_fortnight = SignedDuration::from_hours(14 * 24);
    assert!(left <= a_fortnight && left > a_fortnight - SignedDuration::from_mins(2), "{left}");
}

#[expect(clippy::disallowed_methods, reason = "the programs under test run on the machine's clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

async fn grpc_says_the_same(plan: Plan) {
    let system = plan.start().await;
    let request = |email: &str, password: &str, org_name: &str| SignUpRequest {
        email: email.to_owned(),
        password: password.to_owned(),
        org_name: org_name.to_owned(),
        client_ip: "203.0.113.7".to_owned(),
    };
    let mut signups = system.signups();

    let created = signups.sign_up(request("ann@example.com", PASSWORD, "Acme")).await.unwrap().into_inner();
    assert_eq!(created.outcome(), SignUpOutcome::Created);
    assert!(created.trial_ends_at.is_some());

    let again = signups.sign_up(request("ann@example.com", PASSWORD, "Acme")).await.unwrap().into_inner();
    assert_eq!(again.outcome(), SignUpOutcome::Existing);
    assert_eq!((again.org_id, again.user_id), (created.org_id, created.user_id));

    let taken =
        rejection(signups.sign_up(request("ann@example.com", "harbor-violin-38-meadow", "Acme")).await);
    assert_eq!((taken.code, &*taken.reason), (Code::AlreadyExists, "EMAIL_TAKEN"));
    assert_eq!(taken.domain, "hosted.pulse");

    let invalid = rejection(signups.sign_up(request("ann", "short", "..")).await);
    assert_eq!((invalid.code, &*invalid.reason), (Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(invalid.fields, ["email", "password", "org_name"]);

    let weak = rejection(signups.sign_up(request("bob@example.com", "password1", "Bob's")).await);
    assert_eq!((weak.code, &*weak.reason), (Code::InvalidArgument, "WEAK_PASSWORD"));
    assert_eq!(weak.fields, ["password"]);

    // Three have counted, the invalid ones have not.
    for _ in 0..2 {
        signups.sign_up(request("ann@example.com", PASSWORD, "Acme")).await.unwrap();
    }
    let limited = rejection(signups.sign_up(request("bob@example.com", PASSWORD, "Bob's")).await);
    assert_eq!((limited.code, &*limited.reason), (Code::ResourceExhausted, "RATE_LIMITED"));
    let wait = limited.retry_after.unwrap().as_secs();
    assert!((600..=720).contains(&wait), "{wait}");
}

async fn the_sixth_signup_in_an_hour_has_to_wait(plan: Plan) {
    let system = plan.start().await;
    for _ in 0..3 {
        let _ = system.signup("ann@", "short", "..").await.expect(400);
    }
    let _ = system.signup("one@example.com", PASSWORD, "Tenant 1").await.expect(201);
    for _ in 2..=5 {
        let _ = system.signup("one@example.com", PASSWORD, "Tenant 1").await.expect(200);
    }

    let refused =
        system.signup("six@example.com", PASSWORD, "Tenant 6").await.expect_problem(429, "rate_limited");
    assert_eq!(refused.header("ratelimit-policy"), Some(r#""signup";q=5;w=3600"#), "{refused}");
    let wait = refused.header("retry-after").unwrap();
    assert_eq!(refused.header("ratelimit"), Some(&*format!(r#""signup";r=0;t={wait}"#)), "{refused}");
    let wait: u32 = wait.parse().unwrap();
    assert!((600..=720).contains(&wait), "a fifth of an hour from the first: {wait}");

    let elsewhere = system.visitor_from(Ipv4Addr::new(127, 0, 0, 2).into());
    let _ = elsewhere.signup("six@example.com", PASSWORD, "Tenant 6").await.unwrap().expect(201);
}

#[tokio::test]
async fn a_forwarded_address_is_believed_from_a_trusted_proxy_only() {
    let signup = async |system: &System, forwarded: &str, number: u32| {
        let body =
            json!({ "email": format!("u{number}@example.com"), "password": PASSWORD, "org_name": "Acme" });
        let request = system.visitor().request(Method::POST, "/api/public/signup").json(&body);
        Answer::to(request.header("x-forwarded-for", forwarded)).await.unwrap().status
    };

    let open = System::all_in_one().set("PULSE_SIGNUP_LIMIT_PER_HOUR", "1").start().await;
    assert_eq!(signup(&open, "203.0.113.1", 1).await, 201);
    assert_eq!(signup(&open, "203.0.113.2", 2).await, 429, "anyone can write a header");

    let behind = System::all_in_one()
        .set("PULSE_SIGNUP_LIMIT_PER_HOUR", "1")
        .set("PULSE_TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8")
        .start()
        .await;
    assert_eq!(signup(&behind, "203.0.113.1, 10.1.1.1", 1).await, 201);
    assert_eq!(signup(&behind, "203.0.113.2, 10.1.1.1", 2).await, 201);
    assert_eq!(signup(&behind, "198.51.100.9, 203.0.113.2", 3).await, 429, "the rightmost that is no proxy");
    assert_eq!(signup(&behind, "2001:db8:1:2::1", 4).await, 201);
    assert_eq!(signup(&behind, "2001:db8:1:2:ffff::1", 5).await, 429, "of the same /64");
    assert_eq!(signup(&behind, "2001:db8:1:3::1", 6).await, 201);
}

#[tokio::test]
async fn every_kind_of_invalid_input_is_refused_with_every_bad_field_named() {
    let system = System::all_in_one().without_limits().start().await;
    let good = json!({ "email": "ann@example.com", "password": PASSWORD, "org_name": "Acme" });
    let expect = async |changes: Value, code: &str, fields: &[(&str, &str)]| {
        let mut body = good.clone();
        for (field, value) in changes.as_object().unwrap() {
            body[field] = value.clone();
        }
        let answer = system.post("/api/public/signup", &body).await.expect_problem(400, code);
        let named = answer.field_errors();
        let named: Vec<_> = named.iter().map(|(field, code)| (&**field, &**code)).collect();
        assert_eq!(named, fields, "{changes}: {answer}");
    };

    let long = format!("{}@example.com", "a".repeat(250));
    for email in [
        "",
        " ",
        "ann",
        "ann@",
        "@example.com",
        "ann@localhost",
        "a@b.c, d@e.f",
        "ann <a@b.c>",
        "a b@c.de",
        &long,
    ] {
        expect(json!({ "email": email }), "invalid_email", &[("email", "invalid_email")]).await;
    }
    let long = "aB3-".repeat(257);
    for password in
        ["", "Sh0rt-7", "password", "12345678", "aaaaaaaaaaaa", "ann@example.com", "qwertyuiop", &long]
    {
        expect(json!({ "password": password }), "weak_password", &[("password", "weak_password")]).await;
    }
    let (same, long) = ("Kestrel Orchard Nineteen", "x".repeat(65));
    expect(json!({ "password": same, "org_name": same }), "weak_password", &[("password", "weak_password")])
        .await;
    for name in [
        "",
        "ab",
        "  ab  ",
        &long,
        "a/b",
        "a\\b",
        "..",
        "Acme\u{0}",
        "Ac\nme",
        "Ac\u{202e}me",
        "Ac\u{200b}me",
    ] {
        expect(json!({ "org_name": name }), "invalid_org_name", &[("org_name", "invalid_org_name")]).await;
    }
    let all = [("email", "invalid_email"), ("password", "weak_password"), ("org_name", "invalid_org_name")];
    expect(json!({ "email": "ann", "password": "short", "org_name": ".." }), "invalid_request", &all).await;
    expect(json!({ "email": "ann", "org_name": ".." }), "invalid_request", &[all[0], all[2]]).await;

    let nothing = system.post("/api/public/signup", &json!({})).await.expect_problem(400, "invalid_request");
    let named = nothing.field_errors();
    assert_eq!(
        named.iter().map(|(field, _)| &**field).collect::<Vec<_>>(),
        ["email", "password", "org_name"]
    );

    for name in ["Acme, Inc.", "My Organization", "Zażółć & Söhne", "株式会社パルス", "..."] {
        let body =
            json!({ "email": format!("{}@example.com", name.len()), "password": PASSWORD, "org_name": name });
        let _ = system.post("/api/public/signup", &body).await.expect(201);
    }
    let organizations = system.admin().get("?page_size=1000").await.expect(200).json();
    assert_eq!(organizations["organizations"].as_array().unwrap().len(), 6, "those five and the default one");
}

#[tokio::test]
async fn what_is_not_the_expected_json_is_refused() {
    let system = System::all_in_one().without_limits().start().await;
    let send = async |content_type: &str, body: Vec<u8>| {
        let request = system.visitor().request(Method::POST, "/api/public/signup");
        Answer::to(request.header("content-type", content_type).body(body)).await.unwrap()
    };
    let good = json!({ "email": "ann@example.com", "password": PASSWORD, "org_name": "Acme" }).to_string();

    assert_eq!(send("text/plain", good.clone().into_bytes()).await.status, 415);
    assert_eq!(send("application/x-www-form-urlencoded", b"email=a".to_vec()).await.status, 415);
    for body in ["", "{", "[]", "null", r#"{"email":5,"password":true,"org_name":[]}"#, "\u{feff}{}"] {
        let _ = send("application/json", body.into()).await.expect_problem(400, "invalid_request");
    }
    let _ = send("application/json", b"{\"email\":\"\xff\"}".to_vec())
        .await
        .expect_problem(400, "invalid_request");
    let huge = json!({ "email": "a".repeat(64 * 1024) }).to_string();
    assert_eq!(send("application/json", huge.into_bytes()).await.status, 413);
    let _ = send("application/json; charset=utf-8", good.into_bytes()).await.expect(201);

    let wrong_method = system.get("/api/public/signup").await.expect(405);
    assert_eq!(wrong_method.header("allow"), Some("POST"));
    let _ = system.get("/no/such/path").await.expect(404);
    let _ = system.get("/api/admin/orgs").await.expect(404);
}

#[tokio::test]
async fn every_request_counts_against_the_general_limit() {
    let system = System::all_in_one().set("PULSE_REQUEST_LIMIT_PER_MINUTE", "10").start().await;
    let visitor = system.visitor_from(Ipv4Addr::new(127, 0, 0, 3).into());
    for _ in 0..10 {
        let _ = visitor.get("/no/such/path").await.unwrap().expect(404);
    }
    let refused = visitor.signup("ann@example.com", PASSWORD, "Acme").await.unwrap();
    let refused = refused.expect_problem(429, "rate_limited");
    let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=6).contains(&wait), "a tenth of a minute: {wait}");
    let _ = visitor.get("/livez").await.unwrap().expect(200);
    let _ = visitor.get("/readyz").await.unwrap().expect(200);
}
