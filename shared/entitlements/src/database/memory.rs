//! What must not be forgotten when the cache forgets, and what tenants of one plan share.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use pulse_kernel::OrgId;
use quick_cache::Lifecycle;

use super::entry::Entry;
use crate::Grants;

/// Evicted entries without which a tenant could be granted more than it may have.
///
/// Bounded too. When the bound is reached, what comes next is not remembered, and this says so from then on: a tenant
/// of which nothing is known might be one of those, and is answered as locked while the store fails.
#[derive(Debug, Clone)]
pub(super) struct Remembered(Arc<RememberedInner>);

#[derive(Debug)]
struct RememberedInner {
    entries: Mutex<HashMap<OrgId, Entry>>,
    most: usize,
    forgetful: AtomicBool,
    trial: Arc<Grants>,
}

impl Remembered {
    pub(super) fn new(most: usize, trial: Arc<Grants>) -> Self {
        let forgetful = AtomicBool::new(false);
        Self(Arc::new(RememberedInner { entries: Mutex::default(), most, forgetful, trial }))
    }

    /// The entry that was evicted, if it had to be remembered.
    pub(super) fn get(&self, org: &OrgId) -> Option<Entry> {
        self.entries().get(org).cloned()
    }

    /// The cache is about to hold the tenant again.
    pub(super) fn release(&self, org: &OrgId) {
        self.entries().remove(org);
    }

    /// Whether an entry that had to be remembered was not.
    pub(super) fn is_forgetful(&self) -> bool {
        self.0.forgetful.load(Ordering::Relaxed)
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<OrgId, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lifecycle<OrgId, Entry> for Remembered {
    type RequestState = ();

    /// Runs under the lock of the cache's shard: whoever misses the tenant there finds it here.
    fn on_evict(&self, _state: &mut (), org: OrgId, entry: Entry) {
        if !entry.must_be_remembered(&self.0.trial) {
            return;
        }
        let mut entries = self.entries();
        if entries.len() < self.0.most || entries.contains_key(&org) {
            entries.insert(org, entry);
        } else if !self.0.forgetful.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                most = self.0.most,
                "too many locked tenants to remember: unknown ones count as locked while the store fails"
            );
        }
    }
}

/// Equal values, held once: thousands of tenants on a plan share its name and grants.
#[derive(Debug)]
pub(super) struct Shared<T>(HashSet<Arc<T>>);

impl<T: Hash + Eq> Shared<T> {
    /// Beyond so many distinct values those that nobody uses any more are let go.
    const TIDY_ABOVE: usize = 1024;

    /// The value, or the equal one that is there.
    pub(super) fn share(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.0.get(&value) {
            return known.clone();
        }
        if self.0.len() >= Self::TIDY_ABOVE && self.0.len().is_power_of_two() {
            self.0.retain(|value| Arc::strong_count(value) > 1);
        }
        self.0.insert(value.clone());
        value
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_unused_ones_are_let_go() {
        let mut shared = Shared::default();
        let first = shared.share(Arc::new(7_usize));
        assert!(Arc::ptr_eq(&first, &shared.share(Arc::new(7))));
        for value in 0..10_000 {
            shared.share(Arc::new(value));
        }
        assert!(shared.0.len() <= 2 * Shared::<usize>::TIDY_ABOVE, "{}", shared.0.len());
        assert!(Arc::ptr_eq(&first, &shared.share(Arc::new(7))));
    }
}
