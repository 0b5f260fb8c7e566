//! What HTTP itself can get wrong, and what protects the listener.

use std::time::Duration;

use pulse_kernel::{ApiError, Reason};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    client::{Answer, Request},
    support::{Edge, Setup},
};

const SIGNUP: &str = "/api/public/signup";
const LIMIT: usize = 64 * 1024;

fn signup(edge: &Edge) -> Request {
    edge.public("POST", SIGNUP)
}

fn valid() -> Value {
    json!({"email": "ann@example.com", "password": "orbit-lantern-72-quartz", "org_name": "Acme"})
}

/// A valid signup, padded to so many bytes.
fn of_length(length: usize) -> Vec<u8> {
    let mut body = valid().to_string().into_bytes();
    body.resize(length, b' ');
    body
}

#[tokio::test]
async fn a_body_of_64_kib_is_read_and_a_longer_one_is_not() {
    let edge = Edge::start().await;
    let post = |length| signup(&edge).header("content-type", "application/json").body(of_length(length));
    assert_eq!(post(LIMIT).send().await.status, 201);
    assert_eq!(post(LIMIT).chunked().send().await.status, 201);
    for length in [LIMIT + 1, 900_000] {
        post(length).send().await.problem(413, "payload_too_large");
        post(length).chunked().send().await.problem(413, "payload_too_large");
        let admin =
            edge.operator("POST", "/api/admin/orgs/acme/suspend").header("content-type", "application/json");
        admin.body(of_length(length)).send().await.problem(413, "payload_too_large");
    }
    assert_eq!(edge.world.passwords().len(), 2);
}

#[tokio::test]
async fn a_caller_who_is_refused_early_can_finish_and_learns_why() {
    let edge = Edge::start().await;
    let long = || vec![b' '; 900_000];
    for (request, status) in [
        (edge.public("POST", "/unknown").body(long()), 404),
        (edge.public("PUT", SIGNUP).body(long()), 405),
        (signup(&edge).header("content-type", "application/json").body(long()), 413),
        (signup(&edge).header("content-type", "application/json").body(long()).chunked(), 413),
        (signup(&edge).header("content-type", "text/plain").body(long()).chunked(), 415),
        (edge.admin("PUT", "/api/admin/orgs/acme/billing-state").body(long()), 401),
    ] {
        assert_eq!(request.send_all_first().await.status, status);
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let edge = Edge::start().await;
    let mut stream = TcpStream::connect(edge.public).await.unwrap();
    stream
        .write_all(b"POST /unknown HTTP/1.1\r\nhost: edge\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let chunk = [b"2000\r\n", &[b' '; 0x2000][..], b"\r\n"].concat();
    let (mut reader, mut writer) = stream.split();
    let sending = async { while writer.write_all(&chunk).await.is_ok() {} };
    let reading = async {
        let mut answer = [0; 12];
        reader.read_exact(&mut answer).await.unwrap();
        answer
    };
    let (answer, ()) = tokio::join!(reading, sending);
    assert_eq!(&answer, b"HTTP/1.1 404");
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_for_that() {
    let edge = Edge::start().await;
    for media_type in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp", ""]
    {
        let post = signup(&edge).header("content-type", media_type).body(valid().to_string());
        post.send().await.problem(415, "unsupported_media_type");
    }
    signup(&edge).body(valid().to_string()).send().await.problem(415, "unsupported_media_type");
    signup(&edge).send().await.problem(415, "unsupported_media_type");
    let gzip = signup(&edge).header("content-encoding", "gzip").json(&valid());
    gzip.send().await.problem(415, "unsupported_media_type");
    for media_type in [
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/vnd.api+json",
    ] {
        let post = signup(&edge).header("content-type", media_type).body(valid().to_string());
        assert_eq!(post.send().await.status, 201, "{media_type}");
    }
}

#[tokio::test]
async fn malformed_json_is_located() {
    let edge = Edge::start().await;
    let post = |body: &str| signup(&edge).header("content-type", "application/json").body(body).send();
    let document = post("{\"email\":\n  nonsense}").await.problem(400, "invalid_request");
    assert!(document["detail"].as_str().unwrap().contains("line 2, column"), "{document}");
    for body in [
        "",
        "{",
        "[]",
        "null",
        "\"text\"",
        "{\"email\":\"a\",\"email\":\"b\"}",
        "{\"a\":1e999}",
        "\u{feff}{}",
    ] {
        let document = post(body).await.problem(400, "invalid_request");
        assert!(document["detail"].as_str().unwrap().contains("line 1, column"), "{document}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let edge = Edge::start().await;
    for (request, allow) in [
        (edge.public("GET", SIGNUP), "POST"),
        (edge.public("PUT", SIGNUP).json(&valid()), "POST"),
        (edge.public("OPTIONS", SIGNUP), "POST"),
        (edge.public("POST", "/api/openapi.json"), "GET,HEAD"),
        (edge.operator("POST", "/api/admin/orgs"), "GET,HEAD"),
        (edge.operator("PATCH", "/api/admin/orgs/acme"), "GET,HEAD,DELETE"),
        (edge.operator("POST", "/api/admin/orgs/acme/billing-state"), "GET,HEAD,PUT"),
        (edge.operator("GET", "/api/admin/orgs/acme/soft-delete"), "POST,DELETE"),
        (edge.operator("DELETE", "/api/admin/orgs/acme/suspend"), "POST"),
    ] {
        let answer = request.send().await;
        answer.problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allow));
    }
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let edge = Edge::start().await;
    for path in
        ["/api/admin/orgs", "/api/admin/orgs/acme", "/api/admin/orgs/acme/billing-state", "/api/openapi.json"]
    {
        let (get, head) = (edge.get(path).await, edge.operator("HEAD", path).send().await);
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(head.header("content-length"), get.header("content-length"), "{path}");
        assert_eq!(head.header("etag"), get.header("etag"), "{path}");
    }
}

#[tokio::test]
async fn every_answer_carries_an_id_and_what_an_api_tells_browsers() {
    let edge = Edge::start().await;
    let answers = [
        edge.public("GET", "/livez").send().await,
        edge.public("GET", "/unknown").send().await,
        edge.public("PUT", SIGNUP).send().await,
        signup(&edge).body(vec![b' '; LIMIT + 1]).send().await,
        signup(&edge).json(&valid()).send().await,
        edge.admin("GET", "/api/admin/orgs").send().await,
        edge.get("/api/admin/orgs").await,
    ];
    for answer in answers {
        assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 36), "{answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{answer:?}");
        let policy = "default-src 'none'; frame-ancestors 'none'";
        assert_eq!(answer.header("content-security-policy"), Some(policy), "{answer:?}");
        assert_eq!(answer.header("server"), None, "{answer:?}");
    }
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_any_other_replaced() {
    let edge = Edge::start().await;
    let id = async |id: &str| {
        let answer = edge.public("PUT", SIGNUP).header("x-request-id", id).send().await;
        answer.problem(405, "method_not_allowed")["request_id"].as_str().unwrap().to_owned()
    };
    assert_eq!(id("web-1.a_B").await, "web-1.a_B");
    let long = "x".repeat(129);
    for insane in ["", "a b", "<script>", "{\"a\":1}", &long] {
        assert_ne!(id(insane).await, insane);
    }
}

#[tokio::test]
async fn the_general_limit_counts_every_request_of_a_client_but_health() {
    let edge = Edge::with(Setup { flags: vec!["--request-limit-per-minute", "4"], ..Setup::default() }).await;
    for _ in 0..8 {
        assert_eq!(edge.public("GET", "/livez").send().await.status, 200);
    }
    for request in [
        edge.public("GET", "/unknown"),
        signup(&edge).json(&json!({})),
        edge.public("PUT", SIGNUP),
        signup(&edge).json(&valid()),
    ] {
        assert_ne!(request.send().await.status, 429);
    }
    for path in [SIGNUP, "/unknown", "/api/openapi.json"] {
        let answer = edge.public("GET", path).send().await;
        answer.problem(429, "rate_limited");
        let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=15).contains(&retry_after), "one more every 15 s: {retry_after}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"requests\";q=4;w=60"));
        assert_eq!(answer.header("ratelimit").unwrap(), format!("\"requests\";r=0;t={retry_after}"));
    }
    assert_eq!(edge.public("GET", "/readyz").send().await.status, 200);
    for _ in 0..8 {
        assert_eq!(edge.get("/api/admin/orgs").await.status, 200, "operators are known, and not limited");
    }
}

#[tokio::test]
async fn clients_are_told_apart_by_what_a_trusted_proxy_says() {
    let flags = vec!["--request-limit-per-minute", "2", "--trusted-proxies", "127.0.0.0/8,10.0.0.0/8"];
    let edge = Edge::with(Setup { flags, ..Setup::default() }).await;
    let from = async |forwarded: &str| -> Answer {
        signup(&edge).header("x-forwarded-for", forwarded).json(&valid()).send().await
    };
    for _ in 0..2 {
        assert_eq!(from("198.51.100.1, 203.0.113.9, 10.0.0.2").await.status, 201);
    }
    assert!(edge.world.call("SignUp").request.contains("203.0.113.9"));
    from("198.51.100.77, 203.0.113.9").await.problem(429, "rate_limited");
    assert_eq!(from("203.0.113.9, 203.0.113.10").await.status, 201);
    // An IPv6 client is its /64.
    for last in 1..=2 {
        assert_eq!(from(&format!("2001:db8:1:2::{last}")).await.status, 201);
    }
    from("2001:db8:1:2:ffff::9").await.problem(429, "rate_limited");
    assert_eq!(from("2001:db8:1:3::1").await.status, 201);
}

#[tokio::test]
async fn a_header_of_a_stranger_is_not_believed() {
    let edge = Edge::with(Setup { flags: vec!["--request-limit-per-minute", "2"], ..Setup::default() }).await;
    for last in 1..=2 {
        let request = signup(&edge).header("x-forwarded-for", &format!("203.0.113.{last}"));
        assert_eq!(request.json(&valid()).send().await.status, 201);
    }
    assert!(edge.world.call("SignUp").request.contains("127.0.0.1"));
    signup(&edge).header("x-forwarded-for", "203.0.113.3").send().await.problem(429, "rate_limited");
}

#[tokio::test]
async fn what_is_too_much_at_once_is_refused_and_not_queued() {
    let flags =
        vec!["--request-limit-per-minute", "1000", "--max-in-flight", "1", "--request-timeout", "60s"];
    let edge = Edge::with(Setup { flags, ..Setup::default() }).await;
    edge.world.hang("SignUp");
    let waiting = signup(&edge).json(&valid());
    let waiting = tokio::spawn(waiting.send());
    pulse_testkit::eventually(crate::support::SOON, async || {
        edge.world.calls().iter().any(|call| call.rpc == "SignUp")
    })
    .await;
    let answer = signup(&edge).json(&valid()).send().await;
    answer.problem(429, "overloaded");
    assert_eq!((answer.header("retry-after"), answer.header("ratelimit")), (Some("1"), None));
    assert_eq!(edge.public("GET", "/livez").send().await.status, 200, "health is never refused");
    assert_eq!(edge.get("/api/admin/orgs").await.status, 200, "operators get through");
    waiting.abort();
}

#[tokio::test]
async fn a_request_that_takes_too_long_ends() {
    let flags = vec!["--request-limit-per-minute", "1000", "--request-timeout", "300ms"];
    let edge = Edge::with(Setup { flags, ..Setup::default() }).await;
    edge.world.hang("SignUp");
    let answer = signup(&edge).json(&valid()).send().await;
    answer.problem(503, "unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
    // A body that does not arrive takes no longer either.
    let mut stream = TcpStream::connect(edge.public).await.unwrap();
    let head = "POST /api/public/signup HTTP/1.1\r\nhost: edge\r\ncontent-type: application/json\r\n\
                content-length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
}

#[tokio::test]
async fn requests_follow_each_other_on_a_connection_in_http_1_and_http_2() {
    let edge = Edge::start().await;
    let mut stream = TcpStream::connect(edge.public).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"HEAD /livez HTTP/1.1\r\nhost: edge\r\n\r\n").await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    }

    let stream = TcpStream::connect(edge.public).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..3 {
        let request = http::Request::get(format!("http://{}/livez", edge.public));
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (http::StatusCode::OK, http::Version::HTTP_2));
    }
    connection.abort();
}

#[tokio::test]
async fn garbage_on_the_wire_ends_the_connection_and_nothing_else() {
    let edge = Edge::start().await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"POST /api/public/signup HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense nonsense nonsense",
    ] {
        let mut stream = TcpStream::connect(edge.public).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
            .await
            .expect("an end");
        assert!(!answer.windows(4).any(|w| w == b" 200"), "{}", String::from_utf8_lossy(&answer));
    }
    let huge = edge.public("GET", "/livez").header("x-huge", &"x".repeat(100_000)).send().await;
    assert_eq!(huge.status, 431);
    assert_eq!(edge.public("GET", "/livez").send().await.status, 200);
}

#[tokio::test]
async fn a_code_that_only_a_newer_service_knows_is_still_a_problem() {
    let edge = Edge::start().await;
    edge.world.fail_with("SignUp", &ApiError::new(Reason::OrgSuspended, "the organization is suspended"));
    signup(&edge).json(&valid()).send().await.problem(403, "org_suspended");
}
