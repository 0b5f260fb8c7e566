//! A gRPC client that costs little and treats every server alike: requests are encoded in advance, answers are not decoded.

use std::{cell::Cell, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use bytes::{Buf as _, BufMut as _, Bytes};
use futures::future::try_join_all;
use http::uri::PathAndQuery;
use tokio::time::Instant;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

/// How many connections there are to a server: that of a service or two.
const CONNECTIONS: usize = 2;

/// How many calls are under way on each.
const CALLS: usize = 16;

/// Calls one method of one server.
#[derive(Debug)]
pub(crate) struct Load {
    channels: Vec<Channel>,
    path: PathAndQuery,
    requests: Vec<Bytes>,
}

/// What a server did under load.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    pub(crate) calls: usize,
    pub(crate) took: Duration,
}

impl Load {
    /// Of the method at `path`, such as `/package.Service/Method`, with each of these encoded requests in turn.
    pub(crate) async fn connect(addr: SocketAddr, path: &'static str, requests: Vec<Bytes>) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{addr}"))?.tcp_nodelay(true);
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(endpoint.connect().await.with_context(|| format!("nobody answers at {addr}"))?);
        }
        Ok(Self { channels, path: PathAndQuery::from_static(path), requests })
    }

    /// Calls until the time is over, and waits for what is still under way then.
    pub(crate) async fn run(&self, time: Duration) -> Result<Done> {
        let begun = Instant::now();
        self.call(|_| begun.elapsed() < time, begun).await
    }

    /// Makes every request once.
    pub(crate) async fn once(&self) -> Result<Done> {
        self.call(|number| number < self.requests.len(), Instant::now()).await
    }

    async fn call(&self, goes_on: impl Fn(usize) -> bool, begun: Instant) -> Result<Done> {
        let next = Cell::new(0);
        let callers = self.channels.iter().flat_map(|channel| (0..CALLS).map(move |_| channel.clone()));
        let callers = callers.map(|channel| self.caller(channel, &next, &goes_on));
        let calls = try_join_all(callers).await?.into_iter().sum();
        Ok(Done { calls, took: begun.elapsed() })
    }

    /// Makes one call after the other.
    async fn caller(
        &self,
        channel: Channel,
        next: &Cell<usize>,
        goes_on: &impl Fn(usize) -> bool,
    ) -> Result<usize> {
        let mut grpc = Grpc::new(channel);
        let mut calls = 0;
        while goes_on(next.get()) {
            let request = self.requests[next.get() % self.requests.len()].clone();
            next.set(next.get() + 1);
            grpc.ready().await?;
            grpc.unary(Request::new(request), self.path.clone(), Encoded).await?;
            calls += 1;
        }
        Ok(calls)
    }
}

/// Sends what is encoded, and counts what comes.
#[derive(Debug, Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = buffer.remaining();
        buffer.advance(length);
        Ok(Some(length))
    }
}
