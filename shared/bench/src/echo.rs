//! The bare server that others are measured against, as a process: `pulse-bench-echo`.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use prost::Message;
use pulse_testkit::{eventually, ports::Port, system::program::Program};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// Its method.
pub(crate) const PATH: &str = "/pulse.bench.v1.EchoService/Echo";

/// How long it may take to listen.
const START: Duration = Duration::from_secs(30);

/// The running server.
#[derive(Debug)]
pub(crate) struct Echo {
    program: Program,
    port: Port,
    #[expect(dead_code, reason = "held, not used: its log is in there")]
    folder: TempDir,
}

/// Both messages of the method.
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
}

/// How long the payload of a message is that is `length` bytes long in all.
fn payload(length: usize) -> usize {
    (0..=length).rev().find(|payload| encoded(*payload).len() <= length).unwrap_or_default()
}

fn encoded(payload: usize) -> Bytes {
    Payload { payload: vec![b'x'; payload].into() }.encode_to_vec().into()
}

/// A request of that many bytes.
pub(crate) fn request(length: usize) -> Bytes {
    encoded(payload(length))
}

impl Echo {
    /// Starts one whose answers have that many bytes.
    pub(crate) async fn start(answer: usize) -> anyhow::Result<Self> {
        let (folder, port) = (tempfile::tempdir()?, Port::reserve());
        let (addr, answer) = (port.addr().to_string(), payload(answer).to_string());
        let args = ["--addr", &addr, "--answer", &answer];
        let mut program = Program::new("pulse-bench-echo", &args, folder.path());
        program.start();
        eventually(START, async || TcpStream::connect(port.addr()).await.map(drop)).await;
        Ok(Self { program, port, folder })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.program.pid().ok_or_else(|| anyhow::anyhow!("the echo server has ended"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_long_as_they_are_to_be() {
        for length in [3, 38, 129, 131, 300] {
            assert_eq!(request(length).len(), length);
        }
        // No payload makes a message of 130 bytes: from 128 on its length takes another byte.
        assert_eq!(request(130).len(), 129);
    }
}
