//! What is between the client and the services: it can be cut, and it can lose everything without a word.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hyper_util::rt::TokioIo;
use pulse_rpc::{Channel, client::propagating};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    sync::{mpsc, watch},
};
use tonic::transport::Endpoint;
use tower::service_fn;

use crate::service::Replica;

/// How much is on its way at a time.
const BUFFER: usize = 64 * 1024;

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Cut,
    Frozen,
}

/// The way from the client to one service. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    mode: watch::Sender<Mode>,
    replicas: Vec<mpsc::UnboundedSender<DuplexStream>>,
    next: Arc<AtomicUsize>,
}

impl Network {
    pub(crate) fn to(replicas: &[Replica]) -> Self {
        let replicas = replicas.iter().map(|replica| replica.incoming.clone()).collect();
        Self { mode: watch::Sender::new(Mode::Open), replicas, next: Arc::default() }
    }

    /// A channel over it, which connects when it is used.
    pub(crate) fn channel(&self) -> Channel {
        let network = self.clone();
        let connect = service_fn(move |_| {
            let connected = network.connect();
            async move { connected.map(TokioIo::new) }
        });
        propagating(Endpoint::from_static("http://service").connect_with_connector_lazy(connect))
    }

    /// Ends every connection and refuses new ones.
    pub(crate) fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Passes nothing on, without a word.
    pub(crate) fn freeze(&self) {
        self.mode.send_replace(Mode::Frozen);
    }

    /// Passes on what was held back, and lets connections be made.
    pub(crate) fn heal(&self) {
        self.mode.send_replace(Mode::Open);
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.mode.borrow() == Mode::Open
    }

    /// The next connection goes to that replica.
    pub(crate) fn turn_to(&self, replica: usize) {
        self.next.store(replica, Ordering::SeqCst);
    }

    fn connect(&self) -> io::Result<DuplexStream> {
        if *self.mode.borrow() == Mode::Cut {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let replica = &self.replicas[self.next.load(Ordering::SeqCst) % self.replicas.len()];
        let ((client, near), (far, server)) = (duplex(BUFFER), duplex(BUFFER));
        replica.send(server).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        let mode = self.mode.subscribe();
        tokio::spawn(forward(near, far, mode));
        Ok(client)
    }
}

/// One connection, to its end.
async fn forward(near: DuplexStream, far: DuplexStream, mode: watch::Receiver<Mode>) {
    let ((from_near, to_near), (from_far, to_far)) = (split(near), split(far));
    let mut cut = mode.clone();
    tokio::select! {
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
        _ = async { tokio::try_join!(pump(from_near, to_far, mode.clone()), pump(from_far, to_near, mode)) } => {}
    }
}

async fn pump(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        // Without a network there is no more to wait for.
        let _ = mode.wait_for(|mode| *mode != Mode::Frozen).await;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}
