//! Hubs over a store that is a map, whose reads take their time.
//!
//! | module | holds |
//! |---|---|
//! | here | the store, and watchers that keep a copy of it |
//! | `streams` | what a stream says, one case at a time |
//! | `chaos` | writers, readers and losses at random: no version goes backwards, and nothing is missed (I8) |

mod chaos;
mod streams;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::StreamExt as _;
use pulse_kernel::{ApiError, OrgId, Reason};
use pulse_proto::watch::v1::WatchMode;
use pulse_runtime::Shutdown;
use pulse_testkit::{ManualClock, SeededEntropy};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::time::timeout;
use tonic::Status;

use super::*;
use crate::watch::hub::Limits;

/// How long a test waits for what a stream says next; nobody waits for real, as the clock is paused.
const WAIT: Duration = Duration::from_mins(1);

fn org(id: &str) -> OrgId {
    OrgId::parse(id).unwrap()
}

/// What is stored. Clones share it.
#[derive(Clone)]
struct Model(Arc<Mutex<Inner>>);

struct Inner {
    tenants: BTreeMap<OrgId, Now<u64>>,
    reads: usize,
    failing: bool,
    /// The longest that a read takes before and after the moment that it sees, in milliseconds.
    latency: u64,
    chance: SmallRng,
}

impl Model {
    fn new() -> Self {
        Self::with(0, 0)
    }

    fn with(latency: u64, seed: u64) -> Self {
        let chance = SmallRng::seed_from_u64(seed);
        let inner = Inner { tenants: BTreeMap::new(), reads: 0, failing: false, latency, chance };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    fn set(&self, id: &str, version: u64) {
        self.lock().tenants.insert(org(id), Now::State { version, state: version });
    }

    fn remove(&self, id: &str) {
        self.lock().tenants.insert(org(id), Now::Gone);
    }

    /// Every tenant that is there, with its version.
    fn all(&self) -> BTreeMap<OrgId, u64> {
        let inner = self.lock();
        let there = inner.tenants.iter().filter(|(_, now)| **now != Now::Gone);
        there.map(|(org, now)| (org.clone(), now.version().unwrap())).collect()
    }

    async fn pause(&self) {
        let pause = {
            let inner = &mut *self.lock();
            if inner.latency == 0 { 0 } else { inner.chance.next_u64() % inner.latency }
        };
        if pause > 0 {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn read<T>(&self, see: impl FnOnce(&BTreeMap<OrgId, Now<u64>>) -> T) -> Result<T, ApiError> {
        self.pause().await;
        let seen = {
            let mut inner = self.lock();
            inner.reads += 1;
            if inner.failing {
                return Err(ApiError::new(Reason::Unavailable, "told to fail"));
            }
            see(&inner.tenants)
        };
        self.pause().await;
        Ok(seen)
    }
}

impl Source for Model {
    type State = u64;
    type Error = ApiError;

    async fn current(&self, org: &OrgId) -> Result<Option<Now<u64>>, ApiError> {
        self.read(|tenants| tenants.get(org).cloned()).await
    }

    fn everything(&self) -> Pages<Self> {
        let page = |(model, after): (Self, Option<OrgId>)| async move {
            let page: Vec<_> = model
                .read(|tenants| {
                    let rest =
                        tenants.iter().filter(|(org, now)| Some(*org) > after.as_ref() && **now != Now::Gone);
                    rest.take(3).map(|(org, now)| Change { org: org.clone(), now: now.clone() }).collect()
                })
                .await?;
            let last = page.last().map(|change| change.org.clone());
            Ok(last.map(|last| (page, (model, Some(last)))))
        };
        futures::stream::try_unfold((self.clone(), None), page).boxed()
    }
}

/// A hub that runs over a model.
struct Running {
    model: Model,
    hub: Hub<Model>,
    shutdown: Shutdown,
}

impl Running {
    fn start(model: Model, limits: Limits) -> Self {
        let running = Self::prepare(model, limits);
        running.hub.run(&running.shutdown, None);
        running
    }

    fn prepare(model: Model, limits: Limits) -> Self {
        let clock = Arc::new(ManualClock::default());
        let hub = Hub::new("tests", model.clone(), limits, clock, &SeededEntropy::default());
        Self { model, hub, shutdown: Shutdown::new() }
    }

    /// A change that the hub hears of.
    fn set(&self, id: &str, version: u64) {
        self.model.set(id, version);
        self.hub.changed(&org(id));
    }

    fn remove(&self, id: &str) {
        self.model.remove(id);
        self.hub.changed(&org(id));
    }

    fn watch(&self) -> Stream {
        self.watch_with(&[], WatchMode::Snapshot, "")
    }

    fn watch_with(&self, named: &[&str], mode: WatchMode, token: &str) -> Stream {
        let named: Vec<_> = named.iter().map(|id| (*id).to_owned()).collect();
        let request = WatchRequest::parse(&named, mode.into(), token.to_owned()).unwrap();
        Stream { messages: self.hub.watch(request).unwrap(), token: token.to_owned() }
    }
}

/// A stream, and the last token that it gave.
struct Stream {
    messages: Messages<u64>,
    token: String,
}

impl Stream {
    /// What it says next; none where it says nothing for now.
    async fn try_next(&mut self, most: Duration) -> Option<Result<Event<u64>, Status>> {
        let said = timeout(most, self.messages.next()).await.ok()?;
        Some(said.expect("a stream ends with an error").map(|message| {
            if !message.resume_token.is_empty() {
                self.token = message.resume_token;
            }
            message.event
        }))
    }

    /// What it says next, in short: `a@1` for a change, `a-` where the tenant is gone.
    async fn next(&mut self) -> String {
        show(&self.try_next(WAIT).await.expect("the stream says something").unwrap())
    }

    /// As [`Stream::next`], without heartbeats.
    async fn news(&mut self) -> String {
        loop {
            let next = self.next().await;
            if next != "heartbeat" {
                return next;
            }
        }
    }

    async fn many(&mut self, count: usize) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..count {
            said.push(self.news().await);
        }
        said
    }

    async fn heartbeat(&mut self) -> Heartbeat {
        match self.try_next(WAIT).await.expect("the stream says something").unwrap() {
            Event::Heartbeat(heartbeat) => heartbeat,
            other => panic!("{}", show(&other)),
        }
    }

    async fn end(&mut self) -> ApiError {
        loop {
            if let Err(status) = self.try_next(WAIT).await.expect("the stream ends") {
                assert!(self.messages.next().await.is_none(), "nothing follows an error");
                return crate::from_status(&status);
            }
        }
    }

    /// Whether it has nothing to say at this moment.
    async fn is_silent(&mut self) -> bool {
        self.try_next(Duration::from_secs(1)).await.is_none()
    }
}

fn show<T: fmt::Debug>(event: &Event<T>) -> String {
    match event {
        Event::Changed(change) => match &change.now {
            Now::State { version, .. } => format!("{}@{version}", change.org),
            Now::Gone => format!("{}-", change.org),
            Now::Unreadable => format!("{}?", change.org),
        },
        Event::Synced => "synced".to_owned(),
        Event::Reset(reason) => format!("reset: {}", reason.as_str()),
        Event::Heartbeat(_) => "heartbeat".to_owned(),
    }
}
