//! A service that answers what a test says, whichever of its RPCs is called.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State, response::Response};
use prost::Message;
use pulse_kernel::{ApiError, Reason};
use pulse_rpc::{Channel, to_status};
use pulse_testkit::listener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Status, service::Routes, transport::Server};
use tonic_prost::ProstCodec;

/// An answer as it is encoded, or an error.
type Answer = Result<Vec<u8>, Status>;

/// A service that is running.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Script>>);

/// By path.
#[derive(Debug, Default)]
struct Script {
    answers: HashMap<&'static str, Answer>,
    calls: HashMap<String, usize>,
    timeouts: HashMap<String, String>,
}

impl Fake {
    /// Starts it; it serves until the test ends.
    pub(crate) async fn start() -> (Self, Channel) {
        let (listener, addr): (_, SocketAddr) = listener().await;
        let fake = Self::default();
        let routes = Routes::from(Router::new().fallback(answer).with_state(fake.clone()));
        tokio::spawn(
            Server::builder().add_routes(routes).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        (fake, pulse_rpc::channel(&format!("http://{addr}")).unwrap())
    }

    /// Answers calls of `path` with `message` from now on.
    pub(crate) fn answer(&self, path: &'static str, message: &impl Message) {
        self.0.lock().unwrap().answers.insert(path, Ok(message.encode_to_vec()));
    }

    /// Refuses calls of `path` from now on.
    pub(crate) fn fail(&self, path: &'static str, reason: Reason) {
        self.fail_with(path, to_status(&ApiError::new(reason, reason.title())));
    }

    pub(crate) fn fail_with(&self, path: &'static str, status: Status) {
        self.0.lock().unwrap().answers.insert(path, Err(status));
    }

    /// How often `path` was called.
    pub(crate) fn calls(&self, path: &str) -> usize {
        self.0.lock().unwrap().calls.get(path).copied().unwrap_or_default()
    }

    /// How long the last call of `path` said that it may take.
    pub(crate) fn timeout(&self, path: &str) -> Option<String> {
        self.0.lock().unwrap().timeouts.get(path).cloned()
    }
}

/// A message that is passed on as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buf: &mut impl bytes::BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: prost::encoding::WireType,
        buf: &mut impl bytes::Buf,
        ctx: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

async fn answer(State(fake): State<Fake>, request: axum::extract::Request) -> Response {
    let answer = {
        let Script { answers, calls, timeouts } = &mut *fake.0.lock().unwrap();
        let path = request.uri().path().to_owned();
        let answer = answers.get(path.as_str()).cloned();
        if let Some(timeout) = request.headers().get("grpc-timeout") {
            timeouts.insert(path.clone(), timeout.to_str().unwrap().to_owned());
        }
        *calls.entry(path).or_default() += 1;
        answer.unwrap_or_else(|| Err(Status::unavailable("nothing is answered yet")))
    };
    let service = tower::service_fn(move |_: tonic::Request<Raw>| {
        let answer = answer.clone();
        async move { answer.map(|bytes| tonic::Response::new(Raw(bytes))) }
    });
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<Raw, Raw>::default());
    grpc.unary(service, request).await.map(axum::body::Body::new)
}
