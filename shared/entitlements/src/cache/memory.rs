//! What must not be forgotten when the cache forgets.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use pulse_kernel::OrgId;
use quick_cache::Lifecycle;

use super::{Facts, entry::Entry};

/// Evicted entries without which a tenant could be let do more than it may.
///
/// Bounded too. When the bound is reached, what comes next is not remembered, and this says so from then on: a tenant
/// of which nothing is known might be one of those.
#[derive(Debug)]
pub(super) struct Remembered<F: Facts>(Arc<RememberedInner<F>>);

#[derive(Debug)]
struct RememberedInner<F: Facts> {
    facts: Arc<F>,
    entries: Mutex<HashMap<OrgId, Entry<F::Fact>>>,
    most: usize,
    forgetful: AtomicBool,
}

impl<F: Facts> Clone for Remembered<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<F: Facts> Remembered<F> {
    pub(super) fn new(most: usize, facts: Arc<F>) -> Self {
        let (entries, forgetful) = (Mutex::default(), AtomicBool::new(false));
        Self(Arc::new(RememberedInner { facts, entries, most, forgetful }))
    }

    /// The entry that was evicted, if it had to be remembered.
    pub(super) fn get(&self, org: &OrgId) -> Option<Entry<F::Fact>> {
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

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries().len()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<OrgId, Entry<F::Fact>>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Facts> Lifecycle<OrgId, Entry<F::Fact>> for Remembered<F> {
    type RequestState = ();

    /// Runs under the lock of the cache's shard: whoever misses the tenant there finds it here.
    fn on_evict(&self, _state: &mut (), org: OrgId, entry: Entry<F::Fact>) {
        if !entry.fact.as_ref().is_some_and(|fact| self.0.facts.must_be_remembered(fact)) {
            return;
        }
        let mut entries = self.entries();
        if entries.len() < self.0.most || entries.contains_key(&org) {
            entries.insert(org, entry);
        } else if !self.0.forgetful.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                most = self.0.most,
                "too many closed tenants to remember: unknown ones count as closed while the store fails"
            );
        }
    }
}
