//! [`Hub`]: hears which tenants have changed, reads each once, and publishes what it read to all watchers.

use std::{
    collections::HashMap,
    fmt,
    future::pending,
    sync::{Arc, OnceLock},
    time::Duration,
};

use pulse_kernel::{ApiError, Clock, Entropy, OrgId, Reason};
use pulse_runtime::Shutdown;
use tokio::{
    sync::{RwLock as Turns, Semaphore, watch},
    time::{Instant, sleep_until},
};

use super::{
    Change, Messages, Now, Source, WatchRequest,
    hints::{Heard, Hints},
    metrics::{Metrics, Seat},
    ring::{Entry, Ring},
    watcher::Watcher,
};

/// When what could not be read is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// How often that is tried before watchers are told that a tenant cannot be read: for 15 seconds. It is tried on after that.
const GIVE_UP: u32 = 60;

/// What a watcher that is refused is told to wait.
const FULL: Duration = Duration::from_secs(1);

/// When a store's change feed was last read to its end; none before the first time.
pub type LastLook = watch::Receiver<Option<Instant>>;

/// The bounds of a hub. Only tests need others than these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Streams that may be open at the same time; more are refused with `OVERLOADED`.
    pub max_watchers: usize,
    /// Changes that are kept for watchers that are behind, or come back.
    pub kept: usize,
    /// Tenants that may have changed and not been read yet.
    pub unread: usize,
    /// Pages of snapshots that are read at the same time; who starts over together with many others waits for a turn.
    pub reads: usize,
    /// How often a watcher hears that its stream is alive.
    pub heartbeat: Duration,
    /// How long the transport may take for what a watcher is told.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_watchers: 4096,
            kept: 4096,
            unread: 10_000,
            reads: 4,
            heartbeat: Duration::from_secs(5),
            patience: Duration::from_secs(30),
        }
    }
}

/// The hub. Clones share it.
pub struct Hub<S: Source>(pub(super) Arc<Shared<S>>);

/// What a hub and its watchers share.
pub(super) struct Shared<S: Source> {
    pub(super) source: S,
    pub(super) limits: Limits,
    pub(super) clock: Arc<dyn Clock>,
    /// Tells its tokens from those of others.
    pub(super) id: u64,
    pub(super) ring: Ring<S::State>,
    pub(super) reads: Semaphore,
    pub(super) metrics: Arc<Metrics>,
    /// Held for writing from before a tenant is read until what was read is published.
    turns: Turns<()>,
    hints: Hints,
    seats: Arc<Semaphore>,
    /// Whether what happens from now on is heard of.
    hearing: watch::Sender<bool>,
    /// Where others change the store too: when the hub last heard what they did.
    others: OnceLock<LastLook>,
}

impl<S: Source> Hub<S> {
    /// A hub for what is in `source`, called `stream` in metrics. Nobody is told anything before it [runs](Hub::run).
    pub fn new(
        stream: &'static str,
        source: S,
        limits: Limits,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
    ) -> Self {
        let mut id = [0; 8];
        entropy.fill(&mut id);
        Self(Arc::new(Shared {
            source,
            limits,
            clock,
            id: u64::from_be_bytes(id),
            ring: Ring::new(limits.kept),
            reads: Semaphore::new(limits.reads),
            metrics: Arc::new(Metrics::new(stream)),
            turns: Turns::default(),
            hints: Hints::new(limits.unread),
            seats: Arc::new(Semaphore::new(limits.max_watchers.min(Semaphore::MAX_PERMITS))),
            hearing: watch::Sender::new(false),
            others: OnceLock::new(),
        }))
    }

    /// Reads and publishes what is heard of, in the background, until the process is told to stop; then every stream ends. Where
    /// others change the store too, `others` tells when it was last heard what they did.
    pub fn run(&self, shutdown: &Shutdown, others: Option<LastLook>) {
        if let Some(others) = &others {
            self.0.others.get_or_init(|| others.clone());
        }
        let (shared, draining) = (Arc::clone(&self.0), shutdown.draining());
        shutdown.spawn("watch hub", async move {
            let closing = Closing(&shared);
            let close = async {
                draining.await;
                closing.0.ring.close();
                pending::<()>().await;
            };
            // A read that is under way goes on to its end, so that nothing of the store is held afterwards.
            tokio::select! { () = closing.0.run(others) => {}, () = close => {} }
        });
    }

    /// This tenant may have changed. To be said after a commit, whoever made it, and also where its outcome is not known.
    pub fn changed(&self, org: &OrgId) {
        self.0.hints.add(org, None, self.0.last_look());
    }

    /// This tenant has changed, to that version or a later one.
    pub fn changed_to(&self, org: &OrgId, version: u64) {
        self.0.hints.add(org, Some(version), self.0.last_look());
    }

    /// Any tenant may have changed.
    pub fn missed(&self) {
        self.0.hints.missed(self.0.last_look());
    }

    /// Begins a stream. It ends when it is dropped.
    ///
    /// # Errors
    /// `OVERLOADED` when there are too many.
    pub fn watch(&self, request: WatchRequest) -> Result<Messages<S::State>, ApiError> {
        let place = Arc::clone(&self.0.seats).try_acquire_owned().map_err(|_| {
            ApiError::new(Reason::Overloaded, "there are too many watchers; try again, or another replica")
                .retry_after(FULL)
        })?;
        let seat = Seat::new(Arc::clone(&self.0.metrics), place);
        Ok(Watcher::new(Arc::clone(&self.0), request, seat).into_stream())
    }
}

impl<S: Source> Clone for Hub<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Source> fmt::Debug for Hub<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("id", &self.0.id)
            .field("head", &self.0.ring.head())
            .finish_non_exhaustive()
    }
}

/// However the hub ends, its watchers do not wait for it.
struct Closing<'a, S: Source>(&'a Shared<S>);

impl<S: Source> Drop for Closing<'_, S> {
    fn drop(&mut self) {
        self.0.ring.close();
    }
}

impl<S: Source> Shared<S> {
    async fn run(&self, others: Option<LastLook>) {
        let mut head = self.ring.subscribe();
        if let Some(mut others) = others {
            tokio::select! {
                // Nobody will ever tell where that fails. That only happens when the process stops.
                told = others.wait_for(Option::is_some) => if told.is_err() { return },
                _ = head.wait_for(|head| head.closed) => return,
            }
        }
        // Nobody has been told anything so far, so nothing of what was heard can be news.
        self.hints.take();
        self.hints.settle();
        self.hearing.send_replace(true);
        let mut unread: HashMap<OrgId, u32> = HashMap::new();
        let mut retry = None;
        loop {
            tokio::select! {
                biased;
                _ = head.wait_for(|head| head.closed) => return,
                () = self.hints.news() => {}
                () = until(retry) => {}
            }
            let taken = Instant::now();
            let Heard { mut orgs, missed, .. } = self.hints.take();
            if missed || unread.len() > self.limits.unread {
                // Whoever starts over asks for what is there.
                unread.clear();
                self.ring.push(Entry::Reset);
            }
            if retry.is_some_and(|retry| retry <= taken) {
                orgs.extend(unread.keys().map(|org| (org.clone(), None)));
            }
            for (org, version) in orgs {
                if head.borrow().closed {
                    return;
                }
                if let Err(error) = self.publish(&org, version).await {
                    let failures = unread.entry(org.clone()).or_default();
                    *failures += 1;
                    self.failed(&org, *failures, &error);
                } else {
                    unread.remove(&org);
                }
            }
            retry = (!unread.is_empty()).then(|| Instant::now() + RETRY);
            if unread.values().all(|failures| *failures >= GIVE_UP) {
                self.hints.settle();
            }
        }
    }

    /// A tenant could not be read so many times. One after the other fails while the store is away; one that goes on failing alone
    /// is not to spoil the age of all others, so it is said that nobody knows what it is.
    fn failed(&self, org: &OrgId, failures: u32, error: &S::Error) {
        if failures == 1 {
            tracing::warn!(org_id = %org, %error, "watchers are not told of a change before it can be read");
        }
        if failures == GIVE_UP {
            tracing::error!(org_id = %org, %error, "watchers are told that a tenant cannot be read");
            self.ring.push(Entry::Changed(Arc::new(Change { org: org.clone(), now: Now::Unreadable })));
        }
    }

    /// Publishes what the tenant is now, unless that was the last that was published, or no news since that version.
    async fn publish(&self, org: &OrgId, version: Option<u64>) -> Result<(), S::Error> {
        let last = self.ring.latest(org);
        let known = last.as_ref().and_then(|last| last.now.version());
        if version.is_some() && known >= version {
            return Ok(());
        }
        let _turn = self.turns.write().await;
        let Some(now) = self.source.current(org).await? else { return Ok(()) };
        if last.is_some_and(|last| last.now == now) {
            return Ok(());
        }
        if now.version().is_some_and(|version| known.is_some_and(|known| version < known)) {
            tracing::error!(org_id = %org, "a tenant has an older version than before; every watcher starts over");
            self.ring.push(Entry::Reset);
        }
        self.ring.push(Entry::Changed(Arc::new(Change { org: org.clone(), now })));
        Ok(())
    }

    /// Waits until no read is under way that began before this was called. What is published from the place that this returns
    /// on was read later.
    pub(super) async fn barrier(&self) -> u64 {
        let _turn = self.turns.read().await;
        self.ring.head()
    }

    /// Completes when what happens from then on is heard of.
    pub(super) async fn hearing(&self) {
        // The sender is in here, so it cannot be gone.
        let _ = self.hearing.subscribe().wait_for(|hearing| *hearing).await;
    }

    /// What was committed longer ago than this is in the ring, or was told before.
    pub(super) fn age(&self) -> Duration {
        self.last_look().elapsed().max(self.hints.age())
    }

    /// Until when it is heard what others have done; what is heard of from now on did not happen earlier.
    fn last_look(&self) -> Instant {
        self.others.get().and_then(|others| *others.borrow()).unwrap_or_else(Instant::now)
    }
}

/// Waits until then, if ever.
async fn until(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => pending().await,
    }
}
