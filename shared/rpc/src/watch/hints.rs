//! What the hub has heard of and not read yet.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pulse_kernel::OrgId;
use tokio::{sync::Notify, time::Instant};

/// Tenants that have changed, each once however often it has.
#[derive(Debug)]
pub(super) struct Hints {
    heard: Mutex<Heard>,
    news: Notify,
    /// How many tenants are kept. More are as good as all.
    most: usize,
}

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The tenants, with the newest version that was heard of, where it was told along.
    pub(super) orgs: HashMap<OrgId, Option<u64>>,
    /// Whether there may be more.
    pub(super) missed: bool,
    /// When the oldest of what has been heard and not settled may have happened.
    unsettled: Option<Instant>,
    /// The same of what has been heard since it was last taken.
    arrived: Option<Instant>,
}

impl Heard {
    fn arrived_at(&mut self, since: Instant) {
        for earliest in [&mut self.unsettled, &mut self.arrived] {
            *earliest = Some(earliest.map_or(since, |earliest| earliest.min(since)));
        }
    }
}

impl Hints {
    pub(super) fn new(most: usize) -> Self {
        Self { heard: Mutex::default(), news: Notify::new(), most }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tenant has changed, to that version or a later one where it is known; not before `since`.
    pub(super) fn add(&self, org: &OrgId, version: Option<u64>, since: Instant) {
        let mut heard = self.heard();
        heard.arrived_at(since);
        if let Some(known) = heard.orgs.get_mut(org) {
            // Without a version it has to be read in any case.
            *known = known.zip(version).map(|(known, version)| known.max(version));
        } else if heard.orgs.len() < self.most {
            heard.orgs.insert(org.clone(), version);
        } else {
            heard.orgs.clear();
            heard.missed = true;
        }
        drop(heard);
        self.news.notify_one();
    }

    /// Anything may have changed, but not before `since`.
    pub(super) fn missed(&self, since: Instant) {
        let mut heard = self.heard();
        heard.arrived_at(since);
        heard.missed = true;
        drop(heard);
        self.news.notify_one();
    }

    /// Completes when something was heard since it last did.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// All that was heard. It counts as unsettled until [`Hints::settle`].
    pub(super) fn take(&self) -> Heard {
        let mut heard = self.heard();
        let unsettled = heard.unsettled;
        mem::replace(&mut heard, Heard { unsettled, ..Heard::default() })
    }

    /// What was taken has been published.
    pub(super) fn settle(&self) {
        let mut heard = self.heard();
        heard.unsettled = heard.arrived;
    }

    /// How long ago the oldest of what was heard and has not been published may have happened; zero when all has been.
    pub(super) fn age(&self) -> Duration {
        self.heard().unsettled.map_or(Duration::ZERO, |since| since.elapsed())
    }
}
