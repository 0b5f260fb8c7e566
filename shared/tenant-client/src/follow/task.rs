//! Opens a stream, listens, and opens it again; the same for every stream.

use std::{sync::Arc, time::Duration};

use pulse_kernel::{Clock, OsEntropy};
use pulse_rpc::from_status;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::Status;

use super::{
    backoff::Backoff,
    feed::{Feed, Heard},
    lateness::Lateness,
    metrics::Metrics,
};

/// How long a stream may be silent, and so how long it may take to open: two and a half heartbeats.
const PATIENCE: Duration = Duration::from_millis(12_500);

/// What follows one stream.
#[derive(Debug)]
pub(super) struct Task<F: Feed> {
    feed: F,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    synced: watch::Sender<bool>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("nothing was heard for {PATIENCE:?}")]
    Silent,
    #[error("what is heard is {0:?} late")]
    Late(Duration),
    #[error("the server ended it without a reason")]
    Closed,
    #[error("{:?}: {}", .0.code(), .0.message())]
    Failed(Status),
}

impl End {
    /// How long the server asked to be left alone, if it did.
    fn asked(&self) -> Duration {
        match self {
            Self::Silent | Self::Late(_) | Self::Closed => Duration::ZERO,
            Self::Failed(status) => from_status(status).retry_delay().unwrap_or_default(),
        }
    }
}

impl<F: Feed> Task<F> {
    pub(super) fn new(feed: F, clock: Arc<dyn Clock>, synced: watch::Sender<bool>) -> Self {
        Self { feed, clock, metrics: Metrics::new(F::STREAM), synced }
    }

    /// Never ends by itself.
    pub(super) async fn run(self) {
        let (mut token, mut backoff) = (String::new(), Backoff::default());
        let mut is_known_broken = false;
        loop {
            let (end, was_synced) = self.listen(&mut token).await;
            self.metrics.reconnect();
            if was_synced {
                backoff.reset();
                is_known_broken = false;
            }
            let pause = backoff.next(end.asked(), &OsEntropy);
            if is_known_broken {
                tracing::debug!(stream = F::STREAM, error = %end, ?pause, "still no changes are told");
            } else {
                tracing::warn!(
                    stream = F::STREAM, error = %end, ?pause,
                    "changes are not told any more; tenants are asked about instead"
                );
                is_known_broken = true;
            }
            sleep(pause).await;
        }
    }

    /// Follows one stream from its beginning, or from the token of an earlier one, to its end. Says why it ended, and whether it
    /// was ever synced.
    async fn listen(&self, token: &mut String) -> (End, bool) {
        let mut stream = match timeout(PATIENCE, self.feed.open(token.clone())).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(status)) => return (End::Failed(status), false),
            Err(_) => return (End::Silent, false),
        };
        // Whoever begins anew has not been told what changed before.
        let (mut is_new, mut was_synced) = (token.is_empty(), false);
        let (mut connection, mut lateness) = (None, Lateness::default());
        loop {
            let message = match timeout(PATIENCE, stream.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return (End::Closed, was_synced),
                Ok(Err(status)) => return (End::Failed(status), was_synced),
                Err(_) => return (End::Silent, was_synced),
            };
            let (heard, next) = self.feed.hear(message);
            match heard {
                Heard::Changed(at) => {
                    if let Some(at) = at {
                        self.metrics.propagated(at, self.clock.now());
                    }
                }
                Heard::Reset => {
                    // From then on what changes is told, so what is asked for from now on is covered, and nothing else is.
                    self.feed.invalidate_all();
                    self.metrics.reset();
                    (is_new, connection) = (false, None);
                }
                Heard::Garbled => self.feed.invalidate_all(),
                Heard::Synced => {
                    if std::mem::take(&mut is_new) {
                        self.feed.invalidate_all();
                    }
                    was_synced = true;
                    connection.get_or_insert_with(|| Connection::new(self));
                }
                Heard::Heartbeat(Some(beat)) => {
                    let late = lateness.of(beat.server_time, self.clock.now());
                    if late > PATIENCE {
                        return (End::Late(late), was_synced);
                    }
                    if connection.is_some() {
                        self.feed.confirm(beat.age.saturating_add(late));
                    }
                }
                Heard::Heartbeat(None) | Heard::Unknown => {}
            }
            // Not before the message has been heeded: what comes after the token is all that will be told again.
            if !next.is_empty() {
                *token = next;
            }
        }
    }
}

/// A stream that is synced; when this is dropped, however that comes, its changes are not told any more.
struct Connection<'a, F: Feed>(&'a Task<F>);

impl<'a, F: Feed> Connection<'a, F> {
    fn new(task: &'a Task<F>) -> Self {
        tracing::info!(stream = F::STREAM, "changes are told");
        task.metrics.connected();
        task.synced.send_replace(true);
        Self(task)
    }
}

impl<F: Feed> Drop for Connection<'_, F> {
    fn drop(&mut self) {
        self.0.synced.send_replace(false);
        self.0.metrics.disconnected();
        self.0.feed.lost();
    }
}
