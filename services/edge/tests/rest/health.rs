//! `/livez`, `/readyz`, and the end in two phases.

use std::{net::SocketAddr, sync::Arc};

use pulse_runtime::Service;
use pulse_testkit::eventually;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    client::request,
    support::{Edge, SOON, Setup},
};

#[tokio::test]
async fn every_listener_says_that_it_is_alive_and_ready() {
    let edge = Edge::start().await;
    for addr in [edge.public, edge.admin.expect("an admin listener"), edge.internal] {
        for path in ["/livez", "/readyz"] {
            let answer = request(addr, "GET", path).send().await;
            assert_eq!((answer.status, answer.json()), (200, json!({"status": "ok"})));
            let head = request(addr, "HEAD", path).send().await;
            assert_eq!((head.status, head.body.len()), (200, 0));
            request(addr, "POST", path).send().await.problem(405, "method_not_allowed");
        }
    }
}

#[tokio::test]
async fn what_is_not_ready_is_named_and_alive_all_the_same() {
    let edge = Edge::start().await;
    for service in Service::ALL {
        edge.set_serving(service, false);
        let answer = eventually(SOON, async || {
            let answer = edge.public("GET", "/readyz").send().await;
            (answer.status == 503).then_some(answer)
        })
        .await;
        let document = answer.problem(503, "unavailable");
        assert_eq!(document["detail"], format!("not ready: {}", service.name()));
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(edge.public("GET", "/livez").send().await.status, 200);
        assert_eq!(edge.internal("GET", "/readyz").send().await.status, 200, "what is known is still told");
        edge.set_serving(service, true);
        edge.until_ready().await;
    }
    edge.stop(Service::Lifecycle).await;
    eventually(SOON, async || edge.public("GET", "/readyz").send().await.status == 503).await;
}

#[tokio::test]
async fn outside_hosted_mode_no_service_is_needed() {
    let edge = Edge::with(Setup { hosted_off: true, ..Setup::default() }).await;
    for service in Service::ALL {
        edge.stop(service).await;
    }
    assert_eq!(edge.public("GET", "/readyz").send().await.status, 200);
}

#[tokio::test]
async fn when_told_to_stop_what_is_in_flight_is_answered_and_nothing_new_accepted() {
    let edge = Edge::start().await;
    // Two requests whose bodies are still on their way, and a connection without one.
    let mut posts = [open_post(edge.public).await, open_post(edge.public).await];
    let mut idle = TcpStream::connect(edge.public).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: edge\r\n\r\n").await.unwrap();
    let mut byte = [0; 1];
    idle.read_exact(&mut byte).await.unwrap();

    edge.shutdown.trigger();
    eventually(SOON, async || TcpStream::connect(edge.public).await.is_err()).await;
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    for stream in &mut posts {
        stream.write_all(b"}").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    }
    edge.shutdown.wait().await.unwrap();
}

#[tokio::test]
async fn what_does_not_end_is_dropped_in_the_second_phase() {
    let edge = Arc::new(Edge::start().await);
    let mut post = open_post(edge.public).await;
    edge.shutdown.trigger();
    edge.shutdown.abort();
    edge.shutdown.wait().await.unwrap();
    let mut answer = Vec::new();
    let ended = post.read_to_end(&mut answer).await;
    assert!(ended.is_err() || answer.is_empty(), "{answer:?}");
}

/// A signup of which all but the last byte was sent, and begun to be read.
async fn open_post(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = "POST /api/public/signup HTTP/1.1\r\nhost: edge\r\ncontent-type: application/json\r\n\
                content-length: 2\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{").await.unwrap();
    stream
}
