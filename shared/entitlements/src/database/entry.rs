//! What the cache knows about one tenant, and what that is worth when the store does not answer: no locks, no I/O.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use pulse_kernel::OrgId;

use crate::{Answer, Entitlements, Grants, Plan, Source, SourceError, SubscriptionState};

/// What the store last said.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// The tenant has a state, and this is what it entitles to.
    Tenant(Arc<Entitlements>),
    /// The tenant has none, so this is what a trial grants.
    NotStored(Arc<Entitlements>),
    /// The tenant was purged.
    Purged,
    /// The store never said anything.
    Nothing,
}

/// One tenant in the cache. Times are microseconds since 1970, to be compared at once.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) known: Known,
    /// When the store was last read with success.
    pub(super) read_at: i64,
    /// Until then the store is not asked again. See [`Entry::MUST_ASK`].
    pub(super) ask_after: i64,
    /// Order in which reads began and updates arrived: an older one never replaces a newer one.
    pub(super) sequence: u64,
    pub(super) revision: u64,
    /// The store failed when it was last asked.
    pub(super) failing: bool,
}

/// The settings that decide without a store.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) trial: Plan,
    pub(super) refresh: Duration,
    pub(super) max_stale: Duration,
}

impl Entry {
    /// The `ask_after` of an entry that is only good for when the store fails.
    pub(super) const MUST_ASK: i64 = i64::MIN;

    /// Whether the store need not be asked at `now`. A clock that was set back counts as time passed, so that it
    /// never keeps an entry longer than the refresh age.
    pub(super) fn is_settled(&self, now: Timestamp, refresh: Duration) -> bool {
        let left = self.ask_after.saturating_sub(now.as_microsecond());
        left > 0 && left <= micros(refresh)
    }

    /// The answer of a settled entry whose time has not passed; none where that takes more than a look.
    pub(super) fn hit(self, now: Timestamp) -> Option<Result<Answer, SourceError>> {
        if self.failing {
            return None;
        }
        let age = self.age(now);
        let (entitlements, source) = match self.known {
            Known::Tenant(entitlements) if entitlements.holds_at(now) => (entitlements, Source::Cached),
            Known::NotStored(entitlements) => (entitlements, Source::Default),
            Known::Purged => return Some(Err(SourceError::Purged)),
            Known::Tenant(_) | Known::Nothing => return None,
        };
        Some(Ok(Answer { entitlements, source, age, revision: self.revision, confirmed: true }))
    }

    /// The answer right after the store was read.
    pub(super) fn fresh(self, now: Timestamp) -> Option<Result<Answer, SourceError>> {
        let mut answer = self.hit(now)?;
        if let Ok(answer) = &mut answer
            && answer.source == Source::Cached
        {
            answer.source = Source::Fresh;
        }
        Some(answer)
    }

    /// The entry with what the passing of time has changed; none when that is nothing.
    pub(super) fn carried_to(&self, now: Timestamp) -> Option<Self> {
        match &self.known {
            Known::Tenant(entitlements) => entitlements
                .past_its_end(now)
                .map(|over| Self { known: Known::Tenant(Arc::new(over)), ..self.clone() }),
            Known::NotStored(_) | Known::Purged | Known::Nothing => None,
        }
    }

    /// Whether a tenant whose entry is forgotten could be granted more than it may have: it is locked or gone, will
    /// be at a known time, or has less than a trial.
    pub(super) fn must_be_remembered(&self, trial: &Grants) -> bool {
        match &self.known {
            Known::Purged => true,
            Known::Tenant(known) => known.valid_until.is_some() || !known.grants.covers(trial),
            Known::NotStored(_) | Known::Nothing => false,
        }
    }

    /// How long ago the store was last read with success.
    fn age(&self, now: Timestamp) -> Duration {
        let age = now.as_microsecond().saturating_sub(self.read_at);
        Duration::from_micros(u64::try_from(age).unwrap_or(0))
    }
}

impl Policy {
    /// What a tenant without a known state may use: a trial without an end of its own, so that no later check refuses
    /// it, to be asked for again after the refresh age.
    pub(super) fn trial_default(&self, org: &OrgId, now: Timestamp) -> Entitlements {
        Entitlements {
            org_id: org.clone(),
            subscription_state: SubscriptionState::Trial,
            plan_version: self.trial.name.clone(),
            grants: self.trial.grants.clone(),
            trial_started_at: None,
            trial_ends_at: None,
            valid_until: Some(later(now, self.refresh)),
        }
    }

    /// The answer while the store fails, from what is known of the tenant.
    ///
    /// - Locked and purged tenants stay so, however long.
    /// - Any other known state is served while the last read is within the bound on staleness.
    /// - Beyond it a trial is granted, but no more than the last known state has, and no longer.
    /// - Where nothing is known, a trial is granted; unless something that had to be remembered is forgotten, as it
    ///   could be this very tenant.
    pub(super) fn without_store(
        &self,
        entry: Option<&Entry>,
        forgetful: bool,
        org: &OrgId,
        now: Timestamp,
    ) -> Result<Answer, SourceError> {
        let default = |entitlements, entry: Option<&Entry>| Answer {
            entitlements: Arc::new(entitlements),
            source: Source::Default,
            age: entry.map_or(Duration::ZERO, |entry| entry.age(now)),
            revision: entry.map_or(0, |entry| entry.revision),
            confirmed: false,
        };
        match entry.map(|entry| (entry, &entry.known)) {
            Some((_, Known::Purged)) => Err(SourceError::Purged),
            Some((entry, Known::Tenant(known))) => {
                let known = known.past_its_end(now).map_or_else(|| known.clone(), Arc::new);
                if known.is_locked() || entry.age(now) <= self.max_stale {
                    let (age, revision) = (entry.age(now), entry.revision);
                    let (entitlements, source) = (known, Source::Stale);
                    return Ok(Answer { entitlements, source, age, revision, confirmed: false });
                }
                let mut trial = self.trial_default(org, now);
                if !known.grants.covers(&trial.grants) {
                    trial.grants = Arc::new(trial.grants.meet(&known.grants));
                }
                trial.valid_until = trial.valid_until.into_iter().chain(known.valid_until).min();
                Ok(default(trial, Some(entry)))
            }
            Some((entry, Known::NotStored(_))) => Ok(default(self.trial_default(org, now), Some(entry))),
            Some((_, Known::Nothing)) | None if forgetful => {
                let mut locked = self.trial_default(org, now);
                locked.subscription_state = SubscriptionState::Expired;
                locked.grants = Arc::default();
                let (entitlements, source, age) = (Arc::new(locked), Source::Stale, Duration::ZERO);
                Ok(Answer { entitlements, source, age, revision: 0, confirmed: false })
            }
            Some((_, Known::Nothing)) | None => Ok(default(self.trial_default(org, now), None)),
        }
    }
}

/// A duration in microseconds.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// `now` and a while, or the end of time.
fn later(now: Timestamp, duration: Duration) -> Timestamp {
    now.checked_add(duration).unwrap_or(Timestamp::MAX)
}
