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
pub(super) struct Remembered<F: Facts> {
    facts: Arc<F>,
    entries: Mutex<HashMap<OrgId, Entry<F::Fact>>>,
    most: usize,
    forgetful: AtomicBool,
}

impl<F: Facts> Remembered<F> {
    pub(super) fn new(most: usize, facts: Arc<F>) -> Self {
        Self { facts, entries: Mutex::default(), most, forgetful: AtomicBool::new(false) }
    }

    /// The entry that was evicted, if it had to be remembered.
    pub(super) fn get(&self, org: &OrgId) -> Option<Entry<F::Fact>> {
        self.entries().get(org).cloned()
    }

    /// The cache holds the tenant again.
    pub(super) fn release(&self, org: &OrgId) {
        self.entries().remove(org);
    }

    /// Takes over what was evicted, in that order; of a tenant that is there twice, the last entry counts.
    pub(super) fn take(&self, evicted: Vec<(OrgId, Entry<F::Fact>)>) {
        if evicted.is_empty() {
            return;
        }
        let last: HashMap<_, _> = evicted.into_iter().collect();
        let mut entries = self.entries();
        for (org, entry) in last {
            if !entry.fact.as_ref().is_some_and(|fact| self.facts.must_be_remembered(fact)) {
                entries.remove(&org);
            } else if entries.len() < self.most || entries.contains_key(&org) {
                entries.insert(org, entry);
            } else if !self.forgetful.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    most = self.most,
                    "too many closed tenants to remember: unknown ones count as closed while the store fails"
                );
            }
        }
    }

    /// Whether an entry that had to be remembered was not.
    pub(super) fn is_forgetful(&self) -> bool {
        self.forgetful.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries().len()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<OrgId, Entry<F::Fact>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Collects what an insertion evicts: other tenants, the tenant's own former entry, and the new one where there is no
/// room for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evicted;

impl<T> Lifecycle<OrgId, Entry<T>> for Evicted {
    type RequestState = Vec<(OrgId, Entry<T>)>;

    fn on_evict(&self, evicted: &mut Self::RequestState, org: OrgId, entry: Entry<T>) {
        evicted.push((org, entry));
    }
}
