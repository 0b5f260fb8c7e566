//! Connections: how many there may be, how long each may be idle, and how they end.
//!
//! HTTP/1.1 and HTTP/2 (with prior knowledge) share the port. A connection is closed when it has not sent a whole
//! request's head ten seconds after it was made, when nothing whole was asked for 75 seconds, or when the answers it was
//! sent are not read; so a stranger holds a place only by using it.

mod linger;

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, response::Response};
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use pulse_runtime::Shutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// Connections open at the same time, per listener; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 4096;

/// How long the head of the first request may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// For how long a connection may be kept open without a request, and how long the head of a later one may take. Longer
/// than the minute for which load balancers keep theirs: whoever closes first must not be the one that is sent to.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long the last answer may take to be read once an idle connection is closed.
const FAREWELL: Duration = Duration::from_secs(10);

/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 32 * 1024;

/// Requests that an HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 64;

/// How often an HTTP/2 connection is asked whether the other end is there, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// How long to wait after the system could not accept, which is mostly for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Where a request's connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Serves `router` on `listener` until `shutdown` is done: when draining begins nothing new is accepted and what is in
/// flight goes on; when it is aborted, the connections that are left are dropped.
pub(crate) async fn serve(listener: TcpListener, router: Router, shutdown: &Shutdown) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        // The semaphore is never closed.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let (stream, peer) = accept(&listener).await;
            let connection = connection(stream, peer, router.clone(), shutdown.clone());
            connections.spawn(async move {
                connection.await;
                drop(place);
            });
        }
    };
    tokio::select! { () = accepting => {}, () = shutdown.draining() => {} }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, shutdown: Shutdown) {
    // Answers are small and whole; waiting to fill a segment only delays them.
    let _ = stream.set_nodelay(true);
    let activity = Activity::new();
    let requests = activity.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer.ip()));
        let (router, request_in_flight) = (router.clone(), requests.begin());
        async move {
            let answer = answer(router, request).await;
            drop(request_in_flight);
            Ok::<_, Infallible>(answer)
        }
    });
    let builder = builder();
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);

    let patience = tokio::select! {
        ended = connection.as_mut() => return log(ended),
        () = shutdown.aborted() => return,
        () = shutdown.draining() => None,
        () = activity.idle() => Some(FAREWELL),
    };
    connection.as_mut().graceful_shutdown();
    let farewell = async {
        match patience {
            Some(patience) => timeout(patience, connection).await.unwrap_or(Ok(())),
            None => connection.await,
        }
    };
    tokio::select! { ended = farewell => log(ended), () = shutdown.aborted() => {} }
}

async fn answer(router: Router, request: Request<Incoming>) -> Response {
    let (request, rest) = linger::split(request);
    let Ok(response) = router.oneshot(request).await;
    rest.discard().await;
    response
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1);
    builder
}

/// Strangers' connections end in every way there is; none of it needs anyone's attention.
fn log(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// What a connection is being used for.
#[derive(Debug, Clone)]
struct Activity(Arc<watch::Sender<Use>>);

#[derive(Debug, Clone, Copy)]
struct Use {
    in_flight: usize,
    /// How long it may stay as it is.
    patience: Duration,
    since: Instant,
}

impl Activity {
    fn new() -> Self {
        let fresh = Use { in_flight: 0, patience: HEAD_TIMEOUT, since: Instant::now() };
        Self(Arc::new(watch::Sender::new(fresh)))
    }

    /// A request begins; it ends when what this returns is dropped.
    fn begin(&self) -> InFlight {
        self.0.send_modify(|usage| usage.in_flight += 1);
        InFlight(self.clone())
    }

    /// Completes when nothing has been asked for too long.
    async fn idle(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let usage = *changes.borrow_and_update();
            let expires = async {
                if usage.in_flight > 0 {
                    std::future::pending::<()>().await;
                }
                sleep_until(usage.since + usage.patience).await;
            };
            tokio::select! {
                () = expires => return,
                // The sender is `self`, so there are always changes to come.
                _ = changes.changed() => {}
            }
        }
    }
}

/// A request being answered.
#[derive(Debug)]
struct InFlight(Activity);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.send_modify(|usage| {
            usage.in_flight -= 1;
            usage.patience = IDLE_TIMEOUT;
            usage.since = Instant::now();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_some_time_after_it_was_made_or_after_its_last_answer() {
        let start = Instant::now();
        Activity::new().idle().await;
        assert_eq!(start.elapsed(), HEAD_TIMEOUT);

        let activity = Activity::new();
        let (first, second) = (activity.begin(), activity.begin());
        let busy = timeout(Duration::from_hours(1), activity.idle()).await;
        assert!(busy.is_err(), "a request may take as long as it does");
        drop(first);
        assert!(timeout(Duration::from_hours(1), activity.idle()).await.is_err());
        let start = Instant::now();
        drop(second);
        activity.idle().await;
        assert_eq!(start.elapsed(), IDLE_TIMEOUT);
    }
}
