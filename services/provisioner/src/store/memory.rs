//! A model of the store in memory, for tests and simulation. It obeys the same constraints, and can be told to fail.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_kernel::{EmailAddress, Entropy, OrgId, UserId};
use pulse_store::{
    StoreError,
    audit::{AuditDraft, AuditRecord, Salt, memory::Chains},
};
use pulse_tenant_guard::TenantRole;

use super::{
    Advance, AdvanceError, Begun, Effect, EmailHolder, RoleChange, SagaCursor, SagaQuery, SetRolesError,
    StateFilter, Store, removal_record, roles_record,
};
use crate::{
    domain::{Account, Member, Roles, may_replace},
    saga::{Claim, Saga, SagaId, State, Subject},
};

/// How a write fails when it is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happened, and the caller is told so.
    Unavailable,
    /// It happened, but the caller is told that nobody knows.
    AmbiguousCommitted,
    /// It did not happen, and the caller is told that nobody knows.
    AmbiguousLost,
}

/// The model store. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
    entropy: Arc<dyn Entropy>,
}

#[derive(Debug, Default)]
struct Inner {
    tables: Tables,
    faults: VecDeque<Option<Fault>>,
}

#[derive(Debug, Clone, Default)]
struct Tables {
    accounts: BTreeMap<UserId, Account>,
    memberships: BTreeMap<(OrgId, UserId), Roles>,
    sagas: BTreeMap<SagaId, Saga>,
    audit: Chains,
}

impl MemoryStore {
    /// An empty store, whose audit records are salted from `entropy`.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self { inner: Arc::default(), entropy }
    }

    /// What becomes of the next writes, in order; `None` lets one through.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.lock().faults.extend(faults);
    }

    /// Whether every audit chain verifies.
    pub fn audit_is_intact(&self) -> bool {
        self.lock().tables.audit.verify_all().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A transaction works on a copy, so a panic leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, work: impl FnOnce(&Tables) -> T) -> T {
        work(&self.lock().tables)
    }

    /// All of `work` or nothing of it.
    fn write<T, E: From<StoreError>>(&self, work: impl FnOnce(&mut Tables) -> Result<T, E>) -> Result<T, E> {
        let mut inner = self.lock();
        let fault = inner.faults.pop_front().flatten();
        if fault == Some(Fault::Unavailable) {
            return Err(StoreError::Unavailable("told to fail").into());
        }
        let mut tables = inner.tables.clone();
        let done = work(&mut tables)?;
        if fault == Some(Fault::AmbiguousLost) {
            return Err(StoreError::Ambiguous(None).into());
        }
        inner.tables = tables;
        match fault {
            Some(Fault::AmbiguousCommitted) => Err(StoreError::Ambiguous(None).into()),
            _ => Ok(done),
        }
    }

    fn append(&self, tables: &mut Tables, draft: AuditDraft) {
        tables.audit.append(draft, Salt::random(&*self.entropy));
    }

    fn apply(&self, tables: &mut Tables, saga: &Saga, effect: Effect) -> Result<(), AdvanceError> {
        match effect {
            Effect::None | Effect::Forget => {}
            Effect::InsertAccount(account) => {
                if tables.account_by_email(&account.email).is_some() {
                    return Err(AdvanceError::EmailTaken);
                }
                let place = (account.home_org_id.clone(), account.user_id);
                tables.memberships.insert(place, Roles::from_iter([TenantRole::Owner]));
                tables.accounts.insert(account.user_id, account);
            }
            Effect::DeleteAccount(user_id) => self.delete_accounts(tables, saga, Some(user_id)),
            Effect::DeleteTenant => {
                self.delete_accounts(tables, saga, None);
                tables.audit.delete(&saga.org_id);
                tables.sagas.remove(&SagaId::provision(saga.org_id.clone()));
            }
        }
        Ok(())
    }

    /// Deletes the accounts of the saga's tenant, all of them or one, with their roles anywhere, and all roles in the tenant.
    fn delete_accounts(&self, tables: &mut Tables, saga: &Saga, only: Option<UserId>) {
        let home = &saga.org_id;
        let ids: Vec<_> = tables
            .accounts
            .values()
            .filter(|account| account.home_org_id == *home && only.is_none_or(|only| only == account.user_id))
            .map(|account| account.user_id)
            .collect();
        let guests: Vec<_> = tables
            .memberships
            .iter()
            .filter(|((org_id, user_id), _)| org_id != home && ids.contains(user_id))
            .map(|((org_id, user_id), roles)| {
                removal_record(org_id.clone(), *user_id, roles, saga.updated_at)
            })
            .collect();
        for record in guests {
            self.append(tables, record);
        }
        for user_id in ids {
            tables.delete_account(user_id);
        }
        tables.memberships.retain(|(org_id, _), _| org_id != home);
    }
}

impl Tables {
    fn account_by_email(&self, email: &EmailAddress) -> Option<&Account> {
        self.accounts.values().find(|account| account.email == *email)
    }

    fn saga_by_email(&self, email: &EmailAddress) -> Option<&Saga> {
        self.sagas.values().find(|saga| claim(saga).is_some_and(|claim| claim.email == *email))
    }

    fn roles(&self, org_id: &OrgId, user_id: UserId) -> Roles {
        self.memberships.get(&(org_id.clone(), user_id)).cloned().unwrap_or_default()
    }

    fn delete_account(&mut self, user_id: UserId) {
        self.accounts.remove(&user_id);
        self.memberships.retain(|(_, member), _| *member != user_id);
    }

    fn owners(&self, org_id: &OrgId) -> Vec<UserId> {
        let here = self.memberships.iter().filter(|((org, _), _)| org == org_id);
        here.filter(|(_, roles)| roles.contains(TenantRole::Owner))
            .map(|((_, user_id), _)| *user_id)
            .collect()
    }
}

const fn claim(saga: &Saga) -> Option<&Claim> {
    match &saga.subject {
        Subject::Provision { claim, .. } => claim.as_ref(),
        Subject::Purge => None,
    }
}

const fn matches_filter(state: State, filter: StateFilter) -> bool {
    matches!(
        (state, filter),
        (State::Running(_), StateFilter::Running)
            | (State::Compensating(_), StateFilter::Compensating)
            | (State::Done, StateFilter::Done)
            | (State::Undone, StateFilter::Undone)
            | (State::Stuck { .. }, StateFilter::Stuck)
    )
}

#[async_trait]
impl Store for MemoryStore {
    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}

    async fn find_by_email(&self, email: &EmailAddress) -> Result<Option<EmailHolder>, StoreError> {
        Ok(self.read(|tables| {
            if let Some(saga) = tables.saga_by_email(email) {
                return Some(EmailHolder::Saga(Box::new(saga.clone())));
            }
            let account = tables.account_by_email(email)?.clone();
            let purging = tables.sagas.contains_key(&SagaId::purge(account.home_org_id.clone()));
            Some(EmailHolder::Account { account: Box::new(account), purging })
        }))
    }

    async fn begin(&self, saga: Saga) -> Result<Begun, StoreError> {
        self.write(|tables| {
            let email = claim(&saga).map(|claim| &claim.email);
            let held = email.is_some_and(|email| {
                tables.account_by_email(email).is_some() || tables.saga_by_email(email).is_some()
            });
            if held || tables.sagas.contains_key(&saga.id()) {
                return Ok(Begun::Taken);
            }
            tables.sagas.insert(saga.id(), saga);
            Ok(Begun::Started)
        })
    }

    async fn advance(&self, advance: Advance) -> Result<(), AdvanceError> {
        self.write(|tables| {
            let Advance { mut saga, effect, audit } = advance;
            let id = saga.id();
            if tables.sagas.get(&id).is_none_or(|row| row.version != saga.version) {
                return Err(AdvanceError::Fenced);
            }
            let forget = matches!(effect, Effect::Forget);
            self.apply(tables, &saga, effect)?;
            if let Some(draft) = audit {
                self.append(tables, draft);
            }
            if forget {
                tables.sagas.remove(&id);
            } else {
                saga.version += 1;
                tables.sagas.insert(id, saga);
            }
            Ok(())
        })
    }

    async fn find_saga(&self, id: &SagaId) -> Result<Option<Saga>, StoreError> {
        Ok(self.read(|tables| tables.sagas.get(id).cloned()))
    }

    async fn due_sagas(&self, now: Timestamp, limit: u32) -> Result<Vec<Saga>, StoreError> {
        Ok(self.read(|tables| {
            let free = |saga: &&Saga| saga.lease.as_ref().is_none_or(|lease| lease.until <= now);
            let due = |saga: &&Saga| saga.progress.next_attempt_at.is_some_and(|at| at <= now);
            let mut sagas: Vec<_> = tables.sagas.values().filter(free).filter(due).cloned().collect();
            sagas.sort_by_key(|saga| saga.progress.next_attempt_at);
            sagas.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            sagas
        }))
    }

    async fn list_sagas(&self, query: SagaQuery) -> Result<Vec<Saga>, StoreError> {
        let key =
            |cursor: &SagaCursor| std::cmp::Reverse((cursor.created_at, cursor.org_id.clone(), cursor.purge));
        Ok(self.read(|tables| {
            let wanted = |saga: &&Saga| {
                query.state.is_none_or(|filter| matches_filter(saga.state(), filter))
                    && query.kind.is_none_or(|kind| saga.subject.kind() == kind)
                    && query.after.as_ref().is_none_or(|after| key(&SagaCursor::after(saga)) > key(after))
            };
            let mut sagas: Vec<_> = tables.sagas.values().filter(wanted).cloned().collect();
            sagas.sort_by_key(|saga| key(&SagaCursor::after(saga)));
            sagas.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
            sagas
        }))
    }

    async fn count_stuck(&self) -> Result<u64, StoreError> {
        Ok(self.read(|tables| tables.sagas.values().filter(|saga| saga.state().is_stuck()).map(|_| 1).sum()))
    }

    async fn find_member(&self, org_id: &OrgId, user_id: UserId) -> Result<Option<Member>, StoreError> {
        Ok(self.read(|tables| {
            let roles = tables.roles(org_id, user_id);
            let account = tables.accounts.get(&user_id).filter(|_| !roles.is_empty())?;
            Some(Member { account: account.clone(), org_id: org_id.clone(), roles })
        }))
    }

    async fn find_login(&self, email: &EmailAddress) -> Result<Option<Member>, StoreError> {
        Ok(self.read(|tables| {
            let account = tables.account_by_email(email)?.clone();
            let org_id = account.home_org_id.clone();
            let roles = tables.roles(&org_id, account.user_id);
            Some(Member { account, org_id, roles })
        }))
    }

    async fn set_roles(&self, change: RoleChange) -> Result<(), SetRolesError> {
        self.write(|tables| {
            if !tables.accounts.contains_key(&change.user_id) {
                return Err(SetRolesError::UnknownAccount);
            }
            let owners = tables.owners(&change.org_id);
            let home = tables.accounts.values().any(|account| account.home_org_id == change.org_id);
            if owners.is_empty() && !home && !change.org_id.is_default() {
                return Err(SetRolesError::UnknownTenant);
            }
            let before = tables.roles(&change.org_id, change.user_id);
            let others = owners.iter().filter(|owner| **owner != change.user_id).count();
            may_replace(&before, &change.roles, others)?;
            if before == change.roles {
                return Ok(());
            }
            let place = (change.org_id.clone(), change.user_id);
            if change.roles.is_empty() {
                tables.memberships.remove(&place);
            } else {
                tables.memberships.insert(place, change.roles.clone());
            }
            self.append(tables, roles_record(&change, &before));
            Ok(())
        })
    }

    async fn list_audit(
        &self,
        org_id: &OrgId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(self.read(|tables| tables.audit.list(org_id, before, limit)))
    }
}
