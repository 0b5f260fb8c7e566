//! [`TenantCache`]: what a store says about tenants, remembered, and known on when the store fails.
//!
//! | module | holds |
//! |---|---|
//! | here | the cache: hits, single-flight reads, updates |
//! | `facts` | [`Facts`]: what tells one cache from another |
//! | `entry` | one tenant in the cache, and for how long it counts; pure |
//! | `feed` | until when a change feed vouches for what is cached |
//! | `memory` | what survives eviction |
//! | `passed` | which changes were told of tenants of which nothing was known |
//! | `counts` | what is counted, and how it is told |
//!
//! How a tenant is looked up:
//!
//! 1. **Hit**: the entry is younger than the refresh age, and what it says still holds. One look at the clock, one look
//!    into a sharded map, no allocation, no waiting. See [`TenantCache::hit`].
//! 2. **Time passed**: what is known has changed by time alone. Its entry is carried on; the store is not asked.
//! 3. **Read**: one task asks the store, everyone else who wants the same tenant waits for it. It runs on when they
//!    go away, and is given up after a bounded time.
//! 4. **The store failed**: what is known is told as such. The store is asked again after a second.
//!
//! Reads and updates are numbered in the order in which they begin; an entry is only ever replaced by one with a
//! higher number, so a slow read never undoes an update that overtook it.
//!
//! Whoever follows a change feed tells the cache of every change ([`TenantCache::tell`]), how far the feed is whole
//! ([`TenantCache::confirm`]), that it broke ([`TenantCache::lost`]), and that something may have been missed
//! ([`TenantCache::invalidate_all`]). While the feed is whole, nothing that it covers is read again.

mod counts;
mod entry;
mod facts;
mod feed;
mod memory;
mod passed;
#[cfg(test)]
mod tests;

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use opentelemetry::metrics::Meter;
use pulse_kernel::{Clock, OrgId};
use quick_cache::{DefaultHashBuilder, UnitWeighter, sync::Cache};
use tokio::sync::watch;

pub use self::facts::{Facts, ReadError, Reading, Told};
use self::{
    counts::Counts,
    entry::{Entry, MUST_ASK, micros},
    feed::Feed,
    memory::{Evicted, Remembered},
    passed::Passed,
};

/// Settings of a cache of tenants.
#[derive(Debug, Clone, Copy)]
pub struct CacheConfig {
    /// How long an answer is served without asking the store again.
    pub refresh: Duration,
    /// How long a feed that was not said to be [lost](TenantCache::lost) vouches for what is known after it was last whole; no
    /// less than `refresh`. So long may a change go unheard of when a feed goes silent.
    pub silence: Duration,
    /// How long the last known state is served while the store fails, counted from when the store last confirmed it.
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

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            refresh: Duration::from_mins(1),
            silence: Duration::from_secs(15),
            max_stale: Duration::from_hours(1),
            read_timeout: Duration::from_secs(2),
            retry: Duration::from_secs(1),
            max_entries: 1_000_000,
            max_remembered: 100_000,
        }
    }
}

/// What a cache says about a tenant.
#[derive(Debug, Clone)]
pub enum Found<T> {
    /// The store said so, `age` ago; and for this very answer where it is fresh.
    Confirmed {
        /// What it said.
        fact: T,
        /// How long ago.
        age: Duration,
        /// Whether it was asked for this answer.
        is_fresh: bool,
    },
    /// The store does not answer. This is the last that it said, if it ever said anything.
    Unconfirmed {
        /// What it said, and what time has made of it, and how long ago.
        known: Option<(T, Duration)>,
        /// Whether it may have said something that had to be remembered and was not.
        is_forgetful: bool,
        /// When this was asked.
        now: Timestamp,
    },
}

/// A cache of facts about tenants. Cheap to clone; clones share it.
#[derive(Debug)]
pub struct TenantCache<F: Facts>(Arc<Inner<F>>);

impl<F: Facts> Clone for TenantCache<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Inner<F: Facts> {
    facts: Arc<F>,
    /// What the store is called in the log.
    store: &'static str,
    clock: Arc<dyn Clock>,
    config: CacheConfig,
    cache: Cache<OrgId, Entry<F::Fact>, UnitWeighter, DefaultHashBuilder, Evicted>,
    remembered: Remembered<F>,
    feed: Feed,
    counts: Arc<Counts>,
    writing: Mutex<Writing<F::Fact>>,
}

/// Whatever changes an entry holds this; hits do not.
#[derive(Debug)]
struct Writing<T> {
    reads: HashMap<OrgId, Read<T>>,
    passed: Passed,
    sequence: u64,
}

/// A read of the store that is under way.
#[derive(Debug)]
struct Read<T> {
    sequence: u64,
    outcome: watch::Receiver<Option<Outcome<T>>>,
}

/// How a read ended: with what is known now.
#[derive(Debug, Clone)]
enum Outcome<T> {
    Answered(Entry<T>),
    Failed(Option<Entry<T>>),
}

impl<F: Facts> TenantCache<F> {
    /// A cache of `facts`, with nothing known yet; `store` is what the log calls the place that they come from.
    pub fn new(facts: F, store: &'static str, config: CacheConfig, clock: Arc<dyn Clock>) -> Self {
        let facts = Arc::new(facts);
        let remembered = Remembered::new(config.max_remembered, facts.clone());
        let cache = Cache::with(
            config.max_entries,
            u64::try_from(config.max_entries).unwrap_or(u64::MAX),
            UnitWeighter,
            DefaultHashBuilder::default(),
            Evicted,
        );
        let config = CacheConfig {
            retry: config.retry.min(config.refresh),
            silence: config.silence.max(config.refresh),
            ..config
        };
        let writing = Mutex::new(Writing { reads: HashMap::new(), passed: Passed::default(), sequence: 0 });
        let (feed, counts) = (Feed::default(), Arc::default());
        Self(Arc::new(Inner { facts, store, clock, config, cache, remembered, feed, counts, writing }))
    }

    /// What is known for certain where it is at hand: the hot path, by an id or its text. None: [`ask`](Self::ask).
    pub fn hit<Q>(&self, org: &Q) -> Option<(F::Fact, Duration)>
    where
        Q: Hash + Eq + ?Sized,
        OrgId: Borrow<Q>,
    {
        let now = self.0.clock.now();
        let entry = self.0.cache.get(org)?;
        let (fact, age) = self.0.certain(entry, now)?;
        self.0.counts.hit(age);
        Some((fact, age))
    }

    /// What is known, from the cache, the store, or without it.
    pub async fn ask(&self, org: &OrgId) -> Found<F::Fact> {
        if let Some((fact, age)) = self.hit(org) {
            return Found::Confirmed { fact, age, is_fresh: false };
        }
        self.0.counts.miss();
        let (entry, is_fresh, now) = match self.0.settle(org) {
            Settled::Now(entry, now) => (Some(entry), false, now),
            Settled::After(mut outcome) => {
                let outcome =
                    outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
                let now = self.0.clock.now();
                match outcome {
                    Some(Outcome::Answered(entry)) => (Some(entry), true, now),
                    Some(Outcome::Failed(entry)) => (entry, false, now),
                    // The task that read was aborted with the runtime, or the store panicked.
                    None => {
                        let _writing = self.0.writing();
                        (self.0.last_known(org), false, now)
                    }
                }
            }
        };
        self.0.found(entry, is_fresh, now)
    }

    /// Takes over a change that the caller knows to be committed: the next answer has it, and a read that began before
    /// does not undo it. What is older than what is known is ignored; see [`Facts::after`].
    pub fn update(&self, org: &OrgId, lookup: F::Lookup) {
        self.0.update(org, lookup, |_| true);
    }

    /// The same for a change that a feed tells, of whatever tenant: it is taken over where anything is known of the tenant, or
    /// is being read, or where it closes it. Any other tenant is asked about when it is needed.
    pub fn tell(&self, org: &OrgId, lookup: F::Lookup) {
        self.0.update(org, lookup, |fact| self.0.facts.closes(fact));
    }

    /// The next answer about this tenant asks the store; until it has answered, what is known stays known.
    pub fn invalidate(&self, org: &OrgId) {
        let mut writing = self.0.writing();
        writing.reads.remove(org);
        if let Some(entry) = self.0.last_known(org) {
            let read_at = self.0.feed.read_at(&entry);
            self.0.keep(org, Entry { read_at, ask_after: MUST_ASK, failing: false, ..entry });
        }
    }

    /// The same for every tenant: something may have been missed. Whoever follows a feed calls this once it is connected
    /// again, unless the feed goes on where it stopped.
    pub fn invalidate_all(&self) {
        let mut writing = self.0.writing();
        writing.reads.clear();
        self.0.feed.begin_again(self.0.clock.now());
    }

    /// The feed is whole: every change of any tenant that was committed longer ago than `age` has been told. Counts as if
    /// everything that is known since the last [`invalidate_all`](Self::invalidate_all) had been read then.
    pub fn confirm(&self, age: Duration) {
        let _writing = self.0.writing();
        let now = self.0.clock.now();
        self.0.feed.confirm(now.as_microsecond().saturating_sub(micros(age)));
    }

    /// The feed broke: until it is whole again, what is known counts for no longer than the refresh age after it last was.
    pub fn lost(&self) {
        let _writing = self.0.writing();
        self.0.feed.lost();
    }

    /// Tells what is counted through `meter`, as `pulse_tenant_cache_…{cache="<name>"}`. Once a cache.
    pub fn report(&self, meter: &Meter, name: &'static str) {
        counts::report(&self.0, meter, name);
    }

    /// How many tenants are in the cache.
    pub fn len(&self) -> usize {
        self.0.cache.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the cache is of.
    pub fn facts(&self) -> &F {
        &self.0.facts
    }

    /// The settings.
    pub fn config(&self) -> &CacheConfig {
        &self.0.config
    }
}

/// What a look beyond the hit path finds.
enum Settled<T> {
    Now(Entry<T>, Timestamp),
    After(watch::Receiver<Option<Outcome<T>>>),
}

impl<F: Facts> Inner<F> {
    fn writing(&self) -> MutexGuard<'_, Writing<F::Fact>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of a tenant, cached or remembered; the caller holds `writing`.
    fn last_known(&self, org: &OrgId) -> Option<Entry<F::Fact>> {
        self.cache.peek(org).or_else(|| self.remembered.get(org))
    }

    /// Puts an entry into the cache; the caller holds `writing`, so whoever misses what is evicted here waits for it to
    /// be remembered.
    fn keep(&self, org: &OrgId, entry: Entry<F::Fact>) {
        let mut evicted = Vec::new();
        self.cache.insert_with_lifecycle(org.clone(), entry, &mut evicted);
        if self.cache.contains_key(org) {
            // What was evicted of this tenant is what the entry replaces.
            evicted.retain(|(evicted, _)| evicted != org);
            self.remembered.release(org);
        }
        self.remembered.take(evicted);
    }

    /// Whether the store need not be asked at `now`.
    fn is_settled(&self, entry: &Entry<F::Fact>, now: Timestamp) -> bool {
        let (refresh, silence) = (micros(self.config.refresh), micros(self.config.silence));
        self.feed.vouches_for(entry, now, refresh, silence)
            || (entry.is_settled(now, refresh) && self.feed.knows(entry))
    }

    /// What a settled entry says for certain.
    fn certain(&self, entry: Entry<F::Fact>, now: Timestamp) -> Option<(F::Fact, Duration)> {
        if entry.failing || !self.is_settled(&entry, now) {
            return None;
        }
        let age = entry::age(self.feed.read_at(&entry), now);
        entry.fact.filter(|fact| self.facts.holds_at(fact, now)).map(|fact| (fact, age))
    }

    fn found(&self, entry: Option<Entry<F::Fact>>, is_fresh: bool, now: Timestamp) -> Found<F::Fact> {
        let is_forgetful = self.remembered.is_forgetful();
        let Some(entry) = entry.map(|entry| self.carried_to(entry, now).0) else {
            self.counts.unknown();
            return Found::Unconfirmed { known: None, is_forgetful, now };
        };
        let age = entry::age(self.feed.read_at(&entry), now);
        let is_certain = !entry.failing && (is_fresh || self.is_settled(&entry, now));
        match entry.fact {
            Some(fact) if is_certain => Found::Confirmed { fact, age, is_fresh },
            Some(fact) => {
                self.counts.stale(age);
                Found::Unconfirmed { known: Some((fact, age)), is_forgetful, now }
            }
            None => {
                self.counts.unknown();
                Found::Unconfirmed { known: None, is_forgetful, now }
            }
        }
    }

    /// The entry with what the passing of time has changed, and whether that is anything.
    fn carried_to(&self, entry: Entry<F::Fact>, now: Timestamp) -> (Entry<F::Fact>, bool) {
        match &entry.fact {
            Some(fact) if !self.facts.holds_at(fact, now) => {
                let fact = Some(self.facts.carried_to(fact, now));
                (Entry { fact, ..entry }, true)
            }
            Some(_) | None => (entry, false),
        }
    }

    /// Answers without the store where that is possible, and otherwise joins or starts a read.
    fn settle(self: &Arc<Self>, org: &OrgId) -> Settled<F::Fact> {
        let mut writing = self.writing();
        let now = self.clock.now();
        if let Some(entry) = self.last_known(org) {
            let (entry, has_changed) = self.carried_to(entry, now);
            if has_changed {
                self.keep(org, entry.clone());
            }
            if self.is_settled(&entry, now) {
                return Settled::Now(entry, now);
            }
        }
        if let Some(read) = writing.reads.get(org) {
            return Settled::After(read.outcome.clone());
        }
        let (done, outcome) = watch::channel(None);
        writing.sequence += 1;
        let sequence = writing.sequence;
        writing.reads.insert(org.clone(), Read { sequence, outcome: outcome.clone() });
        let (inner, org, epoch) = (self.clone(), org.clone(), self.feed.epoch());
        drop(writing);
        tokio::spawn(UnderWay { inner, org, sequence, began: now, epoch }.run(done));
        Settled::After(outcome)
    }

    /// The entry for what the store said at `read_at`.
    fn entry(&self, fact: F::Fact, sequence: u64, read_at: Timestamp) -> Entry<F::Fact> {
        let refresh = self.facts.refresh(&fact, self.config.refresh).min(self.config.refresh);
        let read_at = read_at.as_microsecond();
        let ask_after = read_at.saturating_add(micros(refresh));
        let epoch = self.feed.epoch();
        let (fact, told_in) = (Some(fact), epoch);
        Entry { fact, read_at, ask_after, sequence, epoch, told_in, covered: true, failing: false }
    }

    /// What is known once that was told; none where what was known before stands.
    fn after(&self, known: Option<&Entry<F::Fact>>, new: F::Fact, told: Told) -> Option<F::Fact> {
        match known.and_then(|entry| entry.fact.as_ref()) {
            Some(known) => self.facts.after(known, new, told),
            None => Some(new),
        }
    }

    /// Takes over a change, of a tenant of which nothing is known where the change `matters`.
    fn update(&self, org: &OrgId, lookup: F::Lookup, matters: impl FnOnce(&F::Fact) -> bool) {
        let mut writing = self.writing();
        let now = self.clock.now();
        let told = self.facts.learn(org, lookup, now);
        let known = self.last_known(org);
        if known.is_none() && !writing.reads.contains_key(org) && !matters(&told) {
            writing.passed.note(org, now.as_microsecond());
            return;
        }
        let Some(fact) = self.after(known.as_ref(), told, Told::ByUpdate) else { return };
        writing.sequence += 1;
        writing.reads.remove(org);
        self.keep(org, self.entry(fact, writing.sequence, now));
    }

    /// The store answered a read.
    fn answered(&self, read: &UnderWay<F>, reading: Reading<F::Lookup>) -> Outcome<F::Fact> {
        let Reading { lookup, age, is_recalled } = reading;
        let writing = self.writing();
        let known = self.last_known(&read.org);
        if let Some(newer) = known.as_ref().filter(|known| known.sequence > read.sequence) {
            return Outcome::Answered(newer.clone());
        }
        let new = self.facts.learn(&read.org, lookup, read.began);
        let read_at = read.began.as_microsecond().saturating_sub(micros(age));
        // A look into the store that began before what is known was so does not contradict it.
        let is_late = known.as_ref().is_none_or(|known| known.read_at <= read_at);
        // Nor does one that began before the feed did contradict what is from before that too.
        let is_anew = read.epoch == self.feed.epoch() && self.feed.has_begun_at(read_at);
        let told = match &known {
            _ if is_recalled || !is_late => Told::ByMemory,
            Some(known) if is_anew && known.told_in != read.epoch => Told::ByReadAnew,
            Some(_) | None => Told::ByRead,
        };
        let Some(fact) = self.after(known.as_ref(), new, told) else {
            let message = "it told something older than is known".to_owned();
            return Outcome::Failed(self.give_up(
                read,
                known,
                ReadError { message, last_known: None },
                &writing,
            ));
        };
        let entry = self.entry(fact, read.sequence, read.began);
        // What was so before the feed began may have changed before it did, which the feed does not tell; and what it told was
        // passed over as long as nothing was known.
        let covered =
            self.feed.has_begun_at(read_at) && !writing.passed.may_have_been_since(&read.org, read_at);
        let entry = Entry { read_at, covered, told_in: read.epoch, ..entry };
        // A read that was overtaken by an invalidation is worth remembering, but the next answer asks again.
        let ask_after = if read.is_current(&writing) { entry.ask_after } else { MUST_ASK };
        self.keep(&read.org, Entry { ask_after, ..entry.clone() });
        Outcome::Answered(entry)
    }

    /// The store failed.
    fn failed(&self, read: &UnderWay<F>, error: ReadError<F::Lookup>) -> Outcome<F::Fact> {
        let writing = self.writing();
        Outcome::Failed(self.give_up(read, self.last_known(&read.org), error, &writing))
    }

    /// Returns what is known all the same.
    fn give_up(
        &self,
        read: &UnderWay<F>,
        known: Option<Entry<F::Fact>>,
        error: ReadError<F::Lookup>,
        writing: &Writing<F::Fact>,
    ) -> Option<Entry<F::Fact>> {
        let now = self.clock.now();
        if !known.as_ref().is_some_and(|entry| entry.failing) {
            let (org_id, error, store) = (&read.org, &error.message, self.store);
            tracing::warn!(%org_id, %error, store, "a store failed; serving what is known");
        }
        if !read.is_current(writing) {
            return known;
        }
        // What the store recovered by itself counts as read now, unless as much was known before.
        let recovered = error
            .last_known
            .map(|lookup| self.facts.learn(&read.org, lookup, now))
            .and_then(|told| self.after(known.as_ref(), told, Told::ByHistory));
        let entry = match (recovered, known) {
            (Some(recovered), _) => self.entry(recovered, read.sequence, now),
            (None, Some(known)) => {
                let read_at = self.feed.read_at(&known);
                Entry { sequence: read.sequence, read_at, ..known }
            }
            (None, None) => Entry::unknown(read.sequence, now),
        };
        let ask_after = now.as_microsecond().saturating_add(micros(self.config.retry));
        let entry = Entry { ask_after, epoch: self.feed.epoch(), failing: true, ..entry };
        self.keep(&read.org, entry.clone());
        Some(entry)
    }
}

/// One read of the store. It is off the list when it is dropped, however it ends.
struct UnderWay<F: Facts> {
    inner: Arc<Inner<F>>,
    org: OrgId,
    sequence: u64,
    began: Timestamp,
    epoch: u32,
}

impl<F: Facts> UnderWay<F> {
    async fn run(self, done: watch::Sender<Option<Outcome<F::Fact>>>) {
        let Inner { facts, config, .. } = &*self.inner;
        let outcome = match tokio::time::timeout(config.read_timeout, facts.read(&self.org)).await {
            Ok(Ok(reading)) => self.inner.answered(&self, reading),
            Ok(Err(error)) => self.inner.failed(&self, error),
            Err(_) => {
                let message = "it did not answer in time".to_owned();
                self.inner.failed(&self, ReadError { message, last_known: None })
            }
        };
        drop(self);
        done.send_replace(Some(outcome));
    }

    /// Whether no update or invalidation has come in since the read began.
    fn is_current(&self, writing: &Writing<F::Fact>) -> bool {
        writing.reads.get(&self.org).is_some_and(|read| read.sequence == self.sequence)
    }
}

impl<F: Facts> Drop for UnderWay<F> {
    fn drop(&mut self) {
        let mut writing = self.inner.writing();
        if self.is_current(&writing) {
            writing.reads.remove(&self.org);
        }
    }
}
