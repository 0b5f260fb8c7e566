//! A bare tonic server, as its documentation shows one: no layers, one service, one method, an answer made in advance.
//!
//! It runs as the services do: on tokio's multi-threaded runtime with its defaults.

use std::net::SocketAddr;

use bytes::Bytes;
use clap::Parser;
use tonic::{Request, Response, Status, transport::Server};

use self::proto::{
    EchoRequest, EchoResponse,
    echo_service_server::{EchoService, EchoServiceServer},
};

#[expect(
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code follows its generator's taste"
)]
mod proto {
    tonic::include_proto!("pulse.bench.v1");
}

/// Serves echoes until it is ended.
#[derive(Parser)]
struct Cli {
    /// Where to listen.
    #[arg(long)]
    addr: SocketAddr,
    /// How many bytes the payload of an answer has.
    #[arg(long)]
    answer: usize,
}

struct Echo(Bytes);

#[tonic::async_trait]
impl EchoService for Echo {
    async fn echo(&self, _: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        Ok(Response::new(EchoResponse { payload: self.0.clone() }))
    }
}

#[tokio::main]
async fn main() -> Result<(), tonic::transport::Error> {
    let Cli { addr, answer } = Cli::parse();
    let echo = EchoServiceServer::new(Echo(vec![b'x'; answer].into()));
    Server::builder().add_service(echo).serve(addr).await
}
