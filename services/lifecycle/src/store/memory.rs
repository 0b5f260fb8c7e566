//! A model of the store, in memory: the same rules in the plainest form, and faults on demand.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_kernel::{Clock, Entropy, OrgId};
use pulse_store::{
    StoreError,
    audit::{AuditDraft, AuditRecord, Salt, memory::Chains},
    time::truncate,
};
use tokio::time::Instant;

use super::{Counts, Creation, Found, Lease, QueueEntry, SELF, StatusChange, Store, Written};
use crate::domain::{Author, Organization, Removal, Status, StatusKind, Tombstone, Transition};

/// What goes wrong with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not even tried.
    Unavailable,
    /// It is rolled back at its end.
    Aborted,
    /// It takes effect, and the caller is told that nobody knows.
    Ambiguous,
}

/// A store that forgets everything with the process. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    entropy: Arc<dyn Entropy>,
}

#[derive(Debug, Default)]
struct State {
    data: Data,
    /// Each lease as it was last taken, and until when. Faults are for what callers ask for, and leave them alone.
    leases: BTreeMap<&'static str, (Lease, Instant)>,
    faults: VecDeque<Fault>,
    closed: bool,
}

#[derive(Debug, Clone, Default)]
struct Data {
    organizations: BTreeMap<OrgId, Organization>,
    history: BTreeMap<OrgId, Vec<StatusChange>>,
    tombstones: BTreeMap<OrgId, Tombstone>,
    audit: Chains,
}

impl MemoryStore {
    /// A store that holds nothing but the default organization.
    pub fn new(clock: &dyn Clock, entropy: Arc<dyn Entropy>) -> Self {
        let mut data = Data::default();
        let default = Organization::create_default(truncate(clock.now()));
        let author = Author { actor: SELF.to_owned(), request_id: None };
        data.audit.append(default.audit(author), Salt::random(&*entropy));
        data.put(default);
        let state = State { data, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), entropy }
    }

    /// Lets the next write that has no fault yet go wrong.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push_back(fault);
    }

    /// What is stored, to verify its audit chains; returns those that are broken.
    pub fn broken_audit_chains(&self) -> usize {
        self.lock().data.audit.verify_all().len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, read: impl FnOnce(&Data) -> T) -> Result<T, StoreError> {
        let state = self.lock();
        if state.closed {
            return Err(StoreError::Unavailable("the store is closed"));
        }
        Ok(read(&state.data))
    }

    /// Does `write` as a transaction that ends with an audit record, where it makes one.
    fn write<T>(&self, write: impl FnOnce(&mut Data) -> (T, Option<AuditDraft>)) -> Result<T, StoreError> {
        self.write_in(&mut self.lock(), write)
    }

    fn write_in<T>(
        &self,
        state: &mut State,
        write: impl FnOnce(&mut Data) -> (T, Option<AuditDraft>),
    ) -> Result<T, StoreError> {
        let fault = state.faults.pop_front();
        if state.closed || fault == Some(Fault::Unavailable) {
            return Err(StoreError::Unavailable("the store is closed or told to be unavailable"));
        }
        let mut data = state.data.clone();
        let (outcome, audit) = write(&mut data);
        // As in a database, a record without an actor cannot be written, and so neither what it records.
        let refused = audit.as_ref().is_some_and(|draft| draft.actor.is_empty());
        if refused || fault == Some(Fault::Aborted) {
            return Err(StoreError::Aborted(Arc::new(sqlx::Error::WorkerCrashed)));
        }
        if let Some(draft) = audit {
            data.audit.append(draft, Salt::random(&*self.entropy));
        }
        state.data = data;
        if fault == Some(Fault::Ambiguous) {
            return Err(StoreError::Ambiguous(None));
        }
        Ok(outcome)
    }
}

impl State {
    fn is_held(&self, lease: &Lease) -> bool {
        self.leases.get(lease.name).is_some_and(|(held, until)| held == lease && Instant::now() < *until)
    }
}

impl Data {
    fn put(&mut self, Transition { organization, from, .. }: Transition) {
        let change = StatusChange {
            version: organization.version,
            from,
            to: organization.status.kind(),
            at: organization.updated_at,
        };
        self.history.entry(organization.id.clone()).or_default().push(change);
        self.organizations.insert(organization.id.clone(), organization);
    }

    fn id_is_used(&self, id: &OrgId) -> bool {
        self.organizations.contains_key(id) || self.tombstones.contains_key(id)
    }

    fn is_at(&self, id: &OrgId, version: i64) -> bool {
        self.organizations.get(id).is_some_and(|organization| organization.version == version)
    }

    fn change(&mut self, transition: Transition, author: Author) -> (Written, Option<AuditDraft>) {
        if !self.is_at(&transition.organization.id, transition.expected_version()) {
            return (Written::Stale, None);
        }
        let audit = transition.audit(author);
        self.put(transition);
        (Written::Done(None), Some(audit))
    }

    fn with_email_of(&self, new: &Organization) -> Option<&Organization> {
        let email = &new.owner.as_ref()?.email;
        let same = |other: &&Organization| other.owner.as_ref().is_some_and(|owner| owner.email == *email);
        self.organizations.values().find(same)
    }

    /// A queue of the organizations that `at` gives a time.
    fn queue(
        &self,
        at: impl Fn(&Status) -> Option<Timestamp>,
        after: Option<&QueueEntry>,
        limit: usize,
    ) -> Vec<QueueEntry> {
        let entry = |organization: &Organization| {
            Some(QueueEntry { at: at(&organization.status)?, id: organization.id.clone() })
        };
        let mut entries: Vec<_> = self.organizations.values().filter_map(entry).collect();
        entries.sort_unstable();
        entries.into_iter().filter(|entry| after.is_none_or(|after| entry > after)).take(limit).collect()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create(&self, new: Transition, author: Author) -> Result<Creation, StoreError> {
        self.write(|data| {
            if data.id_is_used(&new.organization.id) {
                return (Creation::IdUsed, None);
            }
            if let Some(other) = data.with_email_of(&new.organization) {
                return (Creation::EmailUsed { by: other.status.kind() }, None);
            }
            let audit = new.audit(author);
            data.put(new);
            (Creation::Created, Some(audit))
        })
    }

    async fn change(&self, transition: Transition, author: Author) -> Result<Written, StoreError> {
        self.write(|data| data.change(transition, author))
    }

    async fn change_under(
        &self,
        lease: &Lease,
        transition: Transition,
        author: Author,
    ) -> Result<Option<Written>, StoreError> {
        let mut state = self.lock();
        if !state.closed && !state.is_held(lease) {
            return Ok(None);
        }
        self.write_in(&mut state, |data| data.change(transition, author)).map(Some)
    }

    async fn remove(&self, removal: Removal, author: Author) -> Result<Written, StoreError> {
        self.write(|data| {
            let id = &removal.tombstone.id;
            let as_decided = match removal.expected {
                Some((_, version)) => data.is_at(id, version),
                None => !data.id_is_used(id),
            };
            if !as_decided {
                return (Written::Stale, None);
            }
            data.organizations.remove(id);
            data.history.remove(id);
            data.audit.erase_details(id);
            data.tombstones.insert(id.clone(), removal.tombstone.clone());
            (Written::Done(None), Some(removal.audit(author)))
        })
    }

    async fn find(&self, id: &OrgId) -> Result<Found, StoreError> {
        self.read(|data| match (data.organizations.get(id), data.tombstones.get(id)) {
            (Some(organization), _) => Found::Organization(organization.clone()),
            (None, Some(tombstone)) => Found::Tombstone(tombstone.clone()),
            (None, None) => Found::Nothing,
        })
    }

    async fn list(
        &self,
        status: Option<StatusKind>,
        after: Option<&OrgId>,
        limit: usize,
    ) -> Result<Vec<Organization>, StoreError> {
        self.read(|data| {
            let wanted = |organization: &&Organization| {
                status.is_none_or(|status| organization.status.kind() == status)
                    && after.is_none_or(|after| organization.id > *after)
            };
            data.organizations.values().filter(wanted).take(limit).cloned().collect()
        })
    }

    async fn due(
        &self,
        now: Timestamp,
        after: Option<&QueueEntry>,
        limit: usize,
    ) -> Result<Vec<QueueEntry>, StoreError> {
        let due = |status: &Status| match status {
            Status::PendingDeletion(deletion) if deletion.purge_after <= now => Some(deletion.purge_after),
            _ => None,
        };
        self.read(|data| data.queue(due, after, limit))
    }

    async fn purging(&self, after: Option<&QueueEntry>, limit: usize) -> Result<Vec<QueueEntry>, StoreError> {
        let since = |status: &Status| match status {
            Status::Purging(purge) => Some(purge.since),
            _ => None,
        };
        self.read(|data| data.queue(since, after, limit))
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.read(|data| {
            let mut counts = BTreeMap::new();
            for organization in
                data.organizations.values().filter(|organization| !organization.id.is_default())
            {
                *counts.entry(organization.status.kind()).or_default() += 1;
            }
            counts.into_iter().collect()
        })
    }

    async fn history(&self, id: &OrgId) -> Result<Vec<StatusChange>, StoreError> {
        self.read(|data| data.history.get(id).cloned().unwrap_or_default())
    }

    async fn audit_events(
        &self,
        id: &OrgId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        self.read(|data| data.audit.list(id, before, limit))
    }

    async fn take_lease(
        &self,
        name: &'static str,
        owner: &str,
        lasting: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let mut state = self.lock();
        if state.closed {
            return Err(StoreError::Unavailable("the store is closed"));
        }
        let last = state.leases.get(name);
        let held = last.filter(|(last, _)| state.is_held(last)).map(|(held, _)| held);
        if held.is_some_and(|held| held.owner != owner) {
            return Ok(None);
        }
        let next = last.map_or(1, |(last, _)| last.token + 1);
        let token = held.map_or(next, |held| held.token);
        let lease = Lease { name, owner: owner.to_owned(), token };
        state.leases.insert(name, (lease.clone(), Instant::now() + lasting));
        Ok(Some(lease))
    }

    async fn return_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.is_held(lease) {
            state.leases.insert(lease.name, (lease.clone(), Instant::now()));
        }
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(|_| ())
    }

    async fn close(&self) {
        self.lock().closed = true;
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use pulse_testkit::{ManualClock, SeededEntropy};

    use super::*;
    use crate::store::conformance::{by, new, store_conformance};

    fn open() -> Ready<(MemoryStore, ())> {
        ready((MemoryStore::new(&ManualClock::default(), Arc::new(SeededEntropy::default())), ()))
    }

    store_conformance!(open());

    #[tokio::test]
    async fn a_fault_does_what_it_says_and_only_once() {
        let (store, ()) = open().await;
        for (fault, takes_effect) in
            [(Fault::Unavailable, false), (Fault::Aborted, false), (Fault::Ambiguous, true)]
        {
            let org_id = format!("{fault:?}").to_lowercase();
            let email = format!("{org_id}@example.com");
            store.inject(fault);
            store.create(new(&org_id, &email), by("service:test")).await.unwrap_err();
            let again = store.create(new(&org_id, &email), by("service:test")).await.unwrap();
            assert_eq!(again == Creation::IdUsed, takes_effect, "{fault:?}");
        }
        assert_eq!(store.broken_audit_chains(), 0);
    }
}
