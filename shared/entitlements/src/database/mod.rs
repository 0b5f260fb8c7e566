//! [`DatabaseSource`]: entitlements out of a [`BillingStore`], remembered, and served on when the store fails.
//!
//! | module | holds |
//! |---|---|
//! | here | the source: hits, single-flight reads, updates |
//! | `entry` | what is known of one tenant, and what it is worth without a store; pure |
//! | `memory` | what survives eviction, and what tenants share |
//!
//! How an answer is found:
//!
//! 1. **Hit**: the entry is younger than the refresh age and its time has not passed. One look at the clock, one look
//!    into a sharded map, no allocation, no waiting. See [`DatabaseSource::cached`].
//! 2. **Time passed**: a trial or grace ended while cached. Its entry is re-evaluated; the store is not asked.
//! 3. **Read**: one task asks the store, everyone else who wants the same tenant waits for it. It runs on when they
//!    go away, and is given up after a bounded time.
//! 4. **The store failed**: see `Policy::without_store` for what is served. The store is asked again after a second.
//!
//! Reads and updates are numbered in the order in which they begin; an entry is only ever replaced by one with a
//! higher number, so a slow read never undoes an update that overtook it.

mod entry;
mod memory;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_kernel::{Clock, OrgId};
use quick_cache::{DefaultHashBuilder, UnitWeighter, sync::Cache};
use tokio::sync::watch;

use self::{
    entry::{Entry, Known, Policy, micros},
    memory::{Remembered, Shared},
};
use crate::{
    Answer, BillingStore, BillingStoreError, Catalog, EntitlementSource, Grants, Lookup, Name, SourceError,
    effective,
};

/// Settings of a [`DatabaseSource`].
#[derive(Debug, Clone, Copy)]
pub struct DatabaseSourceConfig {
    /// How long an answer is served without asking the store again.
    pub refresh: Duration,
    /// How long the last known state is served while the store fails, counted from the last successful read.
    pub max_stale: Duration,
    /// A read that takes longer has failed.
    pub read_timeout: Duration,
    /// After a failed read, the store is not asked again for the same tenant for so long; at most `refresh`.
    pub retry: Duration,
    /// How many tenants are cached.
    pub max_entries: usize,
    /// How many evicted tenants are remembered because forgetting them could unlock them.
    pub max_remembered: usize,
}

impl Default for DatabaseSourceConfig {
    fn default() -> Self {
        Self {
            refresh: Duration::from_mins(1),
            max_stale: Duration::from_hours(1),
            read_timeout: Duration::from_secs(2),
            retry: Duration::from_secs(1),
            max_entries: 1_000_000,
            max_remembered: 100_000,
        }
    }
}

/// An [`EntitlementSource`] over a [`BillingStore`]. Cheap to clone; clones share the cache.
#[derive(Debug, Clone)]
pub struct DatabaseSource(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn BillingStore>,
    clock: Arc<dyn Clock>,
    config: DatabaseSourceConfig,
    policy: Policy,
    cache: Cache<OrgId, Entry, UnitWeighter, DefaultHashBuilder, Remembered>,
    remembered: Remembered,
    writing: Mutex<Writing>,
}

/// Whatever changes an entry holds this; hits do not.
#[derive(Debug, Default)]
struct Writing {
    reads: HashMap<OrgId, Read>,
    sequence: u64,
    plans: Shared<Name>,
    grants: Shared<Grants>,
}

/// A read of the store that is under way.
#[derive(Debug)]
struct Read {
    sequence: u64,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// How a read ended: with what is known now.
#[derive(Debug, Clone)]
enum Outcome {
    Answered(Entry),
    Failed(Option<Entry>),
}

impl DatabaseSource {
    /// A source over `store`, with nothing known yet; `catalog` says what a trial grants.
    pub fn new(
        store: Arc<dyn BillingStore>,
        catalog: &Catalog,
        config: DatabaseSourceConfig,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let trial = catalog.trial().clone();
        let remembered = Remembered::new(config.max_remembered, trial.grants.clone());
        let cache = Cache::with(
            config.max_entries,
            u64::try_from(config.max_entries).unwrap_or(u64::MAX),
            UnitWeighter,
            DefaultHashBuilder::default(),
            remembered.clone(),
        );
        let config = DatabaseSourceConfig { retry: config.retry.min(config.refresh), ..config };
        let policy = Policy { trial, refresh: config.refresh, max_stale: config.max_stale };
        let writing = Mutex::default();
        Self(Arc::new(Inner { store, clock, config, policy, cache, remembered, writing }))
    }

    /// The tenant's entitlements where they are at hand: the hot path. None: ask [`answer`](Self::answer).
    ///
    /// # Errors
    /// When the tenant is known to be gone.
    pub fn cached(&self, org: &OrgId) -> Option<Result<Answer, SourceError>> {
        let now = self.0.clock.now();
        let entry = self.0.cache.get(org)?;
        if entry.is_settled(now, self.0.config.refresh) { entry.hit(now) } else { None }
    }

    /// The tenant's entitlements, from the cache, the store, or what is known without it.
    ///
    /// # Errors
    /// When the tenant is gone. A store that fails is not an error.
    pub async fn answer(&self, org: &OrgId) -> Result<Answer, SourceError> {
        if let Some(answer) = self.cached(org) {
            return answer;
        }
        let mut outcome = match self.0.settle(org) {
            Settled::Now(answer) => return answer,
            Settled::After(outcome) => outcome,
        };
        let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        let now = self.0.clock.now();
        match outcome {
            Some(Outcome::Answered(entry)) => {
                let entry = entry.carried_to(now).unwrap_or(entry);
                entry.clone().fresh(now).unwrap_or_else(|| self.0.serve(Some(&entry), org, now))
            }
            Some(Outcome::Failed(entry)) => self.0.serve(entry.as_ref(), org, now),
            // The task that read was aborted with the runtime, or the store panicked.
            None => self.0.serve(self.0.last_known(org).as_ref(), org, now),
        }
    }

    /// Takes over a change that the caller knows to be committed: the next answer has it, and a read that began before
    /// does not undo it. A revision older than the one that is known is ignored, and so is any after a purge.
    pub fn update(&self, org: &OrgId, lookup: Lookup) {
        self.0.update(org, lookup);
    }

    /// The next answer asks the store; until it has answered, what is known stays known.
    pub fn invalidate(&self, org: &OrgId) {
        let mut writing = self.0.writing();
        writing.reads.remove(org);
        if let Some(entry) = self.0.last_known(org) {
            self.0.keep(org, Entry { ask_after: Entry::MUST_ASK, failing: false, ..entry });
        }
    }
}

#[async_trait]
impl EntitlementSource for DatabaseSource {
    async fn entitlements(&self, org: &OrgId) -> Result<Answer, SourceError> {
        self.answer(org).await
    }

    fn cached(&self, org: &OrgId) -> Option<Result<Answer, SourceError>> {
        Self::cached(self, org)
    }
}

/// What a look beyond the hit path finds.
enum Settled {
    Now(Result<Answer, SourceError>),
    After(watch::Receiver<Option<Outcome>>),
}

impl Inner {
    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of a tenant, cached or remembered.
    fn last_known(&self, org: &OrgId) -> Option<Entry> {
        self.cache.peek(org).or_else(|| self.remembered.get(org))
    }

    /// Puts an entry into the cache; the caller holds `writing`.
    fn keep(&self, org: &OrgId, entry: Entry) {
        // In this order: once it is in the cache, an eviction may put it back among the remembered at any time.
        self.remembered.release(org);
        self.cache.insert(org.clone(), entry);
    }

    /// The best answer without asking the store.
    fn serve(&self, entry: Option<&Entry>, org: &OrgId, now: Timestamp) -> Result<Answer, SourceError> {
        entry
            .filter(|entry| entry.is_settled(now, self.config.refresh))
            .and_then(|entry| entry.clone().hit(now))
            .unwrap_or_else(|| self.policy.without_store(entry, self.remembered.is_forgetful(), org, now))
    }

    /// Answers without the store where that is possible, and otherwise joins or starts a read.
    fn settle(self: &Arc<Self>, org: &OrgId) -> Settled {
        let mut writing = self.writing();
        let now = self.clock.now();
        if let Some(mut entry) = self.last_known(org) {
            if let Some(carried) = entry.carried_to(now) {
                self.keep(org, carried.clone());
                entry = carried;
            }
            if entry.is_settled(now, self.config.refresh) {
                return Settled::Now(self.serve(Some(&entry), org, now));
            }
        }
        if let Some(read) = writing.reads.get(org) {
            return Settled::After(read.outcome.clone());
        }
        let (done, outcome) = watch::channel(None);
        writing.sequence += 1;
        let sequence = writing.sequence;
        writing.reads.insert(org.clone(), Read { sequence, outcome: outcome.clone() });
        drop(writing);
        tokio::spawn(UnderWay { inner: self.clone(), org: org.clone(), sequence, began: now }.run(done));
        Settled::After(outcome)
    }

    /// The entry for what the store said at `read_at`.
    fn entry(
        &self,
        writing: &mut Writing,
        org: &OrgId,
        lookup: Lookup,
        sequence: u64,
        read_at: Timestamp,
    ) -> Entry {
        let (known, revision) = match lookup {
            Lookup::Stored(stored) => {
                let mut entitlements = effective(&stored.state, read_at);
                entitlements.plan_version = writing.plans.share(entitlements.plan_version);
                entitlements.grants = writing.grants.share(entitlements.grants);
                (Known::Tenant(Arc::new(entitlements)), stored.revision)
            }
            Lookup::NotStored => (Known::NotStored(Arc::new(self.policy.trial_default(org, read_at))), 0),
            Lookup::Purged => (Known::Purged, 0),
        };
        let read_at = read_at.as_microsecond();
        let ask_after = read_at.saturating_add(micros(self.config.refresh));
        Entry { known, read_at, ask_after, sequence, revision, failing: false }
    }

    fn update(&self, org: &OrgId, lookup: Lookup) {
        let mut writing = self.writing();
        if let Lookup::Stored(stored) = &lookup {
            match self.last_known(org) {
                Some(Entry { known: Known::Tenant(_), revision, .. }) if revision > stored.revision => return,
                // Ids are never used twice: nothing comes after a purge.
                Some(Entry { known: Known::Purged, .. }) => return,
                Some(_) | None => {}
            }
        }
        writing.sequence += 1;
        writing.reads.remove(org);
        let sequence = writing.sequence;
        let entry = self.entry(&mut writing, org, lookup, sequence, self.clock.now());
        self.keep(org, entry);
    }

    /// The store answered a read. Returns what is known now, which may be newer.
    fn answered(&self, read: &UnderWay, lookup: Lookup) -> Entry {
        let mut writing = self.writing();
        let overtaken = !read.is_current(&writing);
        if let Some(newer) = self.last_known(&read.org).filter(|known| known.sequence > read.sequence) {
            return newer;
        }
        let entry = self.entry(&mut writing, &read.org, lookup, read.sequence, read.began);
        // A read that was overtaken by an invalidation is worth remembering, but the next answer asks again.
        let ask_after = if overtaken { Entry::MUST_ASK } else { entry.ask_after };
        self.keep(&read.org, Entry { ask_after, ..entry.clone() });
        entry
    }

    /// The store failed. Returns what is known all the same.
    fn failed(&self, read: &UnderWay, error: BillingStoreError) -> Option<Entry> {
        let mut writing = self.writing();
        let now = self.clock.now();
        let known = self.last_known(&read.org);
        if !known.as_ref().is_some_and(|entry| entry.failing) {
            tracing::warn!(org_id = %read.org, %error, "the billing store failed; serving what is known");
        }
        if !read.is_current(&writing) {
            return known;
        }
        // What the store recovered by itself counts as read now, unless as much was known before.
        let recovered = error.last_known.filter(|recovered| match &known {
            Some(Entry { known: Known::Tenant(_), revision, .. }) => *revision < recovered.revision,
            Some(Entry { known: Known::Purged, .. }) => false,
            Some(_) | None => true,
        });
        let entry = match (recovered, known) {
            (Some(recovered), _) => {
                self.entry(&mut writing, &read.org, Lookup::Stored(recovered), read.sequence, now)
            }
            (None, Some(known)) => Entry { sequence: read.sequence, ..known },
            (None, None) => {
                let (known, read_at) = (Known::Nothing, now.as_microsecond());
                Entry { known, read_at, ask_after: 0, sequence: read.sequence, revision: 0, failing: true }
            }
        };
        let ask_after = now.as_microsecond().saturating_add(micros(self.config.retry));
        let entry = Entry { ask_after, failing: true, ..entry };
        self.keep(&read.org, entry.clone());
        Some(entry)
    }
}

/// One read of the store. It is off the list when it is dropped, however it ends.
struct UnderWay {
    inner: Arc<Inner>,
    org: OrgId,
    sequence: u64,
    began: Timestamp,
}

impl UnderWay {
    async fn run(self, done: watch::Sender<Option<Outcome>>) {
        let Inner { store, config, .. } = &*self.inner;
        let outcome = match tokio::time::timeout(config.read_timeout, store.billing_state(&self.org)).await {
            Ok(Ok(lookup)) => Outcome::Answered(self.inner.answered(&self, lookup)),
            Ok(Err(error)) => Outcome::Failed(self.inner.failed(&self, error)),
            Err(_) => {
                let error = BillingStoreError::new("the billing store did not answer in time");
                Outcome::Failed(self.inner.failed(&self, error))
            }
        };
        drop(self);
        done.send_replace(Some(outcome));
    }

    /// Whether no update or invalidation has come in since the read began.
    fn is_current(&self, writing: &Writing) -> bool {
        writing.reads.get(&self.org).is_some_and(|read| read.sequence == self.sequence)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut writing = self.inner.writing();
        if self.is_current(&writing) {
            writing.reads.remove(&self.org);
        }
    }
}
