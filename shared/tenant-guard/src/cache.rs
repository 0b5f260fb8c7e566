//! [`StatusCache`]: statuses out of a [`StatusStore`], remembered, and what of them counts when lifecycle does not answer.
//!
//! It is the twin of [`pulse_entitlements::DatabaseSource`], over the same [`TenantCache`].

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use opentelemetry::metrics::Meter;
use pulse_entitlements::{
    Source,
    cache::{CacheConfig, Facts, Found, ReadError, Reading, TenantCache, Told},
};
use pulse_kernel::{Clock, OrgId};

use crate::{OrganizationStatus, StatusAnswer, StatusError, StatusLookup, StatusSource, StatusStore};

/// A [`StatusSource`] over a [`StatusStore`]. Cheap to clone; clones share the cache.
///
/// While lifecycle does not answer, a tenant last known as anything but active stays so, however long, and also when the
/// cache has to make room. One that was active counts as active for the bound on staleness, and then as unknown.
#[derive(Debug, Clone)]
pub struct StatusCache(TenantCache<Statuses>);

/// What lifecycle says about tenants.
#[derive(Debug)]
struct Statuses {
    store: Arc<dyn StatusStore>,
    retry: Duration,
}

/// What it last said about one of them.
#[derive(Debug, Clone)]
struct Fact {
    /// The tenant, so that who asked by a text gets an id.
    org: OrgId,
    known: StatusLookup,
    /// The greatest that was ever told; 0 where there never was such an organization.
    version: u64,
}

#[async_trait]
impl Facts for Statuses {
    type Fact = Fact;
    type Lookup = (StatusLookup, u64);

    async fn read(&self, org: &OrgId) -> Result<Reading<Self::Lookup>, ReadError<Self::Lookup>> {
        let read = self.store.status(org).await;
        read.map(Reading::fresh).map_err(|error| ReadError { message: error.0, last_known: None })
    }

    fn learn(&self, org: &OrgId, (known, version): Self::Lookup, _: Timestamp) -> Fact {
        Fact { org: org.clone(), known, version }
    }

    /// Versions never go backwards, and nothing comes after a purge, as ids are never used twice; unless lifecycle itself went
    /// back, to a backup. That there is no such organization has no version of its own when it is read; what was told before it
    /// is older all the same.
    fn after(&self, known: &Fact, new: Fact, told: Told) -> Option<Fact> {
        if (known.known, new.known) == (StatusLookup::Purged, StatusLookup::NotFound) {
            // Who was not told of the purge does not contradict it.
            return Some(known.clone());
        }
        if told == Told::ByReadAnew && new.known != StatusLookup::NotFound {
            return Some(new);
        }
        let is_newer = match (known.known, new.known, told) {
            (_, StatusLookup::Purged, _) => true,
            (StatusLookup::Purged, ..) => false,
            (_, StatusLookup::NotFound, Told::ByRead | Told::ByReadAnew) if new.version == 0 => true,
            _ => new.version >= known.version,
        };
        is_newer.then(|| Fact { version: new.version.max(known.version), ..new })
    }

    /// An active one that is forgotten is unknown, and no more is granted then. Organizations that never existed are
    /// not remembered either: there is no end to them.
    fn must_be_remembered(&self, fact: &Fact) -> bool {
        match fact.known {
            StatusLookup::Status(OrganizationStatus::Active) => false,
            StatusLookup::Status(
                OrganizationStatus::Provisioning
                | OrganizationStatus::Suspended
                | OrganizationStatus::PendingDeletion
                | OrganizationStatus::Purging,
            )
            | StatusLookup::Purged => true,
            StatusLookup::NotFound => fact.version > 0,
        }
    }

    fn closes(&self, fact: &Fact) -> bool {
        match fact.known {
            StatusLookup::Status(OrganizationStatus::Active | OrganizationStatus::Provisioning) => false,
            StatusLookup::Status(_) | StatusLookup::Purged => true,
            StatusLookup::NotFound => fact.version > 0,
        }
    }

    /// Who is not there yet may be at any moment, and waits for it.
    fn refresh(&self, fact: &Fact, usual: Duration) -> Duration {
        match fact.known {
            StatusLookup::NotFound | StatusLookup::Status(OrganizationStatus::Provisioning) => self.retry,
            StatusLookup::Purged | StatusLookup::Status(_) => usual,
        }
    }
}

impl Fact {
    fn answer(&self, source: Source, age: Duration) -> Result<StatusAnswer, StatusError> {
        match self.known {
            StatusLookup::Status(status) => Ok(StatusAnswer { status, source, age, version: self.version }),
            StatusLookup::NotFound | StatusLookup::Purged => Err(StatusError::NotFound),
        }
    }
}

/// The answer while lifecycle does not give one.
fn without_store(
    known: Option<(Fact, Duration)>,
    is_forgetful: bool,
    max_stale: Duration,
) -> Result<StatusAnswer, StatusError> {
    match known {
        Some((Fact { known: StatusLookup::Status(OrganizationStatus::Active), .. }, age))
            if age > max_stale =>
        {
            Err(StatusError::Unknown)
        }
        Some((fact, age)) => fact.answer(Source::Stale, age),
        None if is_forgetful => Err(StatusError::Forgotten),
        None => Err(StatusError::Unknown),
    }
}

impl StatusCache {
    /// A cache over `store`, with nothing known yet.
    pub fn new(store: Arc<dyn StatusStore>, config: CacheConfig, clock: Arc<dyn Clock>) -> Self {
        let statuses = Statuses { store, retry: config.retry };
        Self(TenantCache::new(statuses, "lifecycle", config, clock))
    }

    /// Takes over a change that the caller knows to be committed: the next answer has it, and a read that began before
    /// does not undo it. A version older than the one that is known is ignored, and so is any after a purge.
    pub fn update(&self, org: &OrgId, lookup: StatusLookup, version: u64) {
        self.0.update(org, (lookup, version));
    }

    /// The same for a change that a feed tells, of whatever tenant; see [`TenantCache::tell`].
    pub fn tell(&self, org: &OrgId, lookup: StatusLookup, version: u64) {
        self.0.tell(org, (lookup, version));
    }

    /// The next answer about this tenant asks the store; until it has answered, what is known stays known.
    pub fn invalidate(&self, org: &OrgId) {
        self.0.invalidate(org);
    }

    /// The same for every tenant; see [`TenantCache::invalidate_all`].
    pub fn invalidate_all(&self) {
        self.0.invalidate_all();
    }

    /// Every change that was committed longer ago than `age` has been told; see [`TenantCache::confirm`].
    pub fn confirm(&self, age: Duration) {
        self.0.confirm(age);
    }

    /// Changes are not told any more; see [`TenantCache::lost`].
    pub fn lost(&self) {
        self.0.lost();
    }

    /// Tells what is counted through `meter`; see [`TenantCache::report`].
    pub fn report(&self, meter: &Meter, name: &'static str) {
        self.0.report(meter, name);
    }
}

#[async_trait]
impl StatusSource for StatusCache {
    async fn status(&self, org: &OrgId) -> Result<StatusAnswer, StatusError> {
        match self.0.ask(org).await {
            Found::Confirmed { fact, age, is_fresh } => {
                fact.answer(if is_fresh { Source::Fresh } else { Source::Cached }, age)
            }
            Found::Unconfirmed { known, is_forgetful, .. } => {
                without_store(known, is_forgetful, self.0.config().max_stale)
            }
        }
    }

    fn cached(&self, org: &OrgId) -> Option<Result<StatusAnswer, StatusError>> {
        self.0.hit(org).map(|(fact, age)| fact.answer(Source::Cached, age))
    }

    fn find(&self, org: &str) -> Option<(OrgId, Result<StatusAnswer, StatusError>)> {
        let (fact, age) = self.0.hit(org)?;
        let answer = fact.answer(Source::Cached, age);
        Some((fact.org, answer))
    }
}

#[cfg(test)]
mod tests;
