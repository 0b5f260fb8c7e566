//! Starts runners, recovers what nobody runs, finds what is to be purged, and wakes those who wait.

use std::{sync::Arc, time::Duration};

use pulse_kernel::{ApiError, OrgId};
use pulse_rpc::RequestId;
use pulse_store::{StoreError, time};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use super::{
    Saga, SagaId, SagaKind, Subject,
    endings::Endings,
    runner::{Runner, Stopped},
};
use crate::store::Begun;

/// How many due sagas are looked at in one go.
const DUE_PAGE: u32 = 100;

/// How many sagas that requests began run at once. While another service is away they outlive their requests by minutes, and
/// each holds a claim: what is more is refused before it claims anything.
const MOST_BEGUN: usize = 1024;

/// Room for a saga that a request wants to begin.
#[derive(Debug)]
pub struct Room(OwnedSemaphorePermit);

/// The engine; clones share it.
#[derive(Debug, Clone)]
pub struct Engine {
    runner: Runner,
    endings: Endings,
    begun: Arc<Semaphore>,
    recovered: Arc<Semaphore>,
    purged: Arc<Semaphore>,
    running: TaskTracker,
}

impl Engine {
    /// An engine that starts runners such as `runner`.
    pub fn new(runner: Runner) -> Self {
        let room = || Arc::new(Semaphore::new(runner.tuning.concurrency));
        let (begun, recovered, purged) = (Arc::new(Semaphore::new(MOST_BEGUN)), room(), room());
        Self { runner, endings: Endings::default(), begun, recovered, purged, running: TaskTracker::new() }
    }

    /// What its runners have.
    pub const fn runner(&self) -> &Runner {
        &self.runner
    }

    /// Who waits for what.
    pub const fn endings(&self) -> &Endings {
        &self.endings
    }

    /// Room to begin a saga; none when as many as there may be are under way.
    pub fn room(&self) -> Option<Room> {
        Arc::clone(&self.begun).try_acquire_owned().ok().map(Room)
    }

    /// Begins a saga and runs it in the background. Both go on when the caller stops waiting: a claim without a runner
    /// would have to wait for its lease to run out.
    ///
    /// # Errors
    /// When the journal cannot be written, or nobody knows whether it was.
    pub async fn begin(&self, saga: Saga, request_id: RequestId, room: Room) -> Result<Begun, StoreError> {
        let (caller, answer) = oneshot::channel();
        let (engine, span) = (self.clone(), span_of(&saga));
        self.spawn_saga(span, async move {
            let begun = engine.write_beginning(&saga).await;
            let started = matches!(begun, Ok(Begun::Started));
            // The caller may have gone; the saga goes on.
            caller.send(begun).ok();
            if started {
                engine.run(saga, Some(&request_id)).await;
            }
            drop(room.0);
        });
        answer.await.unwrap_or(Err(StoreError::Unavailable("the process is being stopped")))
    }

    /// Writes the first row of the journal; reads back when nobody knows whether it is there.
    async fn write_beginning(&self, saga: &Saga) -> Result<Begun, StoreError> {
        match self.runner.store.begin(saga.clone()).await {
            Err(StoreError::Ambiguous(cause)) => match self.runner.store.find_saga(&saga.id()).await? {
                Some(_) => Ok(Begun::Started),
                None => Err(StoreError::Ambiguous(cause)),
            },
            begun => begun,
        }
    }

    /// Runs a saga in the background, on which this process holds the lease. It goes on whoever stops waiting for it.
    pub fn start(&self, saga: Saga, request_id: RequestId) {
        let (engine, span) = (self.clone(), span_of(&saga));
        self.spawn_saga(span, async move { engine.run(saga, Some(&request_id)).await });
    }

    /// Waits until no saga runs here any more.
    pub async fn idle(&self) {
        self.running.close();
        self.running.wait().await;
    }

    /// Runs a saga that no request in hand has caused; gives its place back at the end.
    fn start_with_room(&self, saga: Saga, permit: OwnedSemaphorePermit) {
        let (engine, span) = (self.clone(), span_of(&saga));
        self.spawn_saga(span, async move {
            engine.run(saga, None).await;
            drop(permit);
        });
    }

    /// Takes a saga over and runs it. In the background, so that one that is slow to be taken over does not keep those behind it.
    fn take_over_with_room(&self, saga: Saga, permit: OwnedSemaphorePermit) {
        let (engine, span) = (self.clone(), span_of(&saga));
        self.spawn_saga(span, async move {
            match engine.runner.take_over(&saga).await {
                Ok(None) => {}
                Ok(Some(saga)) => {
                    tracing::info!(org_id = %saga.org_id, kind = saga.subject.kind().as_str(), "taken over");
                    engine.run(saga, None).await;
                }
                Err(error) => tracing::error!(org_id = %saga.org_id, %error, "a saga cannot be taken over"),
            }
            drop(permit);
        });
    }

    fn spawn_saga(&self, span: Span, work: impl Future<Output = ()> + Send + 'static) {
        self.runner.shutdown.spawn("saga", self.running.track_future(work.instrument(span)));
    }

    /// Recovers what nobody runs and finds what is to be purged, in the background, until the process is stopped.
    pub fn spawn(&self, purge_interval: Duration) {
        let every = self.runner.tuning.recovery_interval;
        let (engine, draining) = (self.clone(), self.runner.shutdown.draining());
        self.runner.shutdown.spawn("saga recovery", async move {
            tokio::select! { () = engine.keep_recovering(every) => {}, () = draining => {} }
        });
        let (engine, draining) = (self.clone(), self.runner.shutdown.draining());
        self.runner.shutdown.spawn("purge", async move {
            let purging = async {
                loop {
                    if let Err(error) = engine.find_purging().await {
                        tracing::warn!(%error, "organizations to be purged cannot be found");
                    }
                    tokio::time::sleep(purge_interval).await;
                }
            };
            tokio::select! { () = purging => {}, () = draining => {} }
        });
    }

    async fn keep_recovering(&self, every: Duration) {
        let half = u32::try_from(self.runner.tuning.concurrency.div_ceil(2)).unwrap_or(u32::MAX);
        loop {
            match self.recover().await {
                Ok(false) => tokio::time::sleep(every).await,
                // The next look is worth it as soon as there is some room, and not much sooner if what is due resists.
                Ok(true) => {
                    tokio::time::sleep(every / 10).await;
                    tokio::time::timeout(every, self.recovered.acquire_many(half)).await.ok();
                }
                Err(error) => {
                    tracing::warn!(%error, "due sagas cannot be read");
                    tokio::time::sleep(every).await;
                }
            }
        }
    }

    /// Takes over what is due and nobody runs, in the background, and counts what is stuck. Says whether more is due than there
    /// was room for.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn recover(&self) -> Result<bool, StoreError> {
        self.runner.count_stuck().await;
        let mut due = self.runner.store.due_sagas(self.runner.clock.now(), DUE_PAGE).await?;
        self.shuffle(&mut due);
        for saga in due {
            let Ok(permit) = Arc::clone(&self.recovered).try_acquire_owned() else { return Ok(true) };
            self.take_over_with_room(saga, permit);
        }
        Ok(false)
    }

    /// Replicas that look at the same time find the same sagas. Each saga goes to the one that advances its version first; that
    /// the others try in vain costs them little, and in an order of their own they seldom do.
    fn shuffle(&self, sagas: &mut [Saga]) {
        sagas.sort_by_cached_key(|_| {
            let mut key = [0; 8];
            self.runner.entropy.fill(&mut key);
            key
        });
    }

    /// Begins to purge what lifecycle says is to be purged, page by page, as far as there is room.
    ///
    /// # Errors
    /// When lifecycle does not answer.
    pub async fn find_purging(&self) -> Result<(), FindPurgingError> {
        let mut page = None;
        loop {
            let found = self.runner.organizations.list_purging(page.as_deref()).await?;
            for org_id in found.org_ids {
                let Ok(permit) = Arc::clone(&self.purged).try_acquire_owned() else { return Ok(()) };
                match self.begin_purge(org_id.clone()).await {
                    Ok(None) => {}
                    Ok(Some(saga)) => self.start_with_room(saga, permit),
                    // As above: the next look tries it again.
                    Err(error) => tracing::error!(%org_id, %error, "a purge cannot begin"),
                }
            }
            page = found.next;
            if page.is_none() {
                return Ok(());
            }
        }
    }

    /// The saga that purges the tenant, unless it has begun already.
    async fn begin_purge(&self, org_id: OrgId) -> Result<Option<Saga>, StoreError> {
        if org_id.is_default() {
            tracing::error!("lifecycle lists the default organization as purging; it is left alone");
            return Ok(None);
        }
        if self.runner.store.find_saga(&SagaId::purge(org_id.clone())).await?.is_some() {
            return Ok(None);
        }
        let now = time::truncate(self.runner.clock.now());
        let saga = Saga::begin(org_id, Subject::Purge, self.runner.lease(Duration::ZERO), now);
        match self.runner.store.begin(saga.clone()).await? {
            Begun::Started => Ok(Some(saga)),
            Begun::Taken => Ok(None),
        }
    }

    /// Runs a saga until its runner stops, and tells those who wait for it.
    async fn run(&self, saga: Saga, request: Option<&RequestId>) {
        let (saga, stopped) = self.runner.run(saga, request).await;
        let (org_id, kind) = (saga.org_id.clone(), saga.subject.kind());
        match stopped {
            Stopped::Ended | Stopped::Stuck => {
                if kind == SagaKind::Provision {
                    self.endings.announce(&Arc::new(saga));
                }
            }
            Stopped::Draining | Stopped::Fenced => {
                tracing::info!(%org_id, kind = kind.as_str(), ?stopped, "left to another runner");
            }
            Stopped::Store(error) => {
                tracing::error!(%org_id, kind = kind.as_str(), %error, "the journal failed; left to be recovered");
            }
            Stopped::Invalid(error) => {
                tracing::error!(%org_id, kind = kind.as_str(), %error, "the journal holds what cannot be");
            }
        }
    }
}

/// The span of a saga, within that of the request that causes it.
fn span_of(saga: &Saga) -> Span {
    tracing::info_span!("saga", org_id = %saga.org_id, kind = saga.subject.kind().as_str())
}

/// Why organizations to be purged were not found.
#[derive(Debug, thiserror::Error)]
pub enum FindPurgingError {
    /// lifecycle does not say.
    #[error("lifecycle does not list them: {0}")]
    Organizations(#[from] ApiError),
    /// The journal fails.
    #[error("the journal fails: {0}")]
    Store(#[from] StoreError),
}
