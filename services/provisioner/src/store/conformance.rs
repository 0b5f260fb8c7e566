//! What every store must do: one suite, run against each of them.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;
use pulse_kernel::{EmailAddress, Ids, OrgId, OrgName, OsEntropy, Reason, UserId};
use pulse_store::audit::AuditDraft;
use pulse_tenant_guard::TenantRole;
use pulse_testkit::{ManualClock, SeededEntropy};

use super::*;
use crate::{
    domain::PasswordHash,
    saga::{Claim, Direction, Failure, Lease, Progress, State, Step, Subject},
};

pub(in crate::store) const NOW: Timestamp = Timestamp::constant(1_893_456_000, 0);
pub(in crate::store) const PHC: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g";

/// A store under test and what has to live as long as it.
pub(super) struct Subjected {
    store: Arc<dyn Store>,
    _directory: Option<tempfile::TempDir>,
}

fn memory() -> Subjected {
    Subjected { store: Arc::new(MemoryStore::new(Arc::new(OsEntropy))), _directory: None }
}

async fn sqlite() -> Subjected {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("provisioner.db");
    let store = SqliteStore::open(&path, Arc::new(OsEntropy)).await.unwrap();
    Subjected { store: Arc::new(store), _directory: Some(directory) }
}

async fn postgres() -> Subjected {
    let (store, _) = postgres::tests::open().await;
    Subjected { store: Arc::new(store), _directory: None }
}

macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod on_memory { $(#[tokio::test] async fn $name() { super::$name(&*super::memory().store).await; })* }
        mod on_sqlite { $(#[tokio::test] async fn $name() { super::$name(&*super::sqlite().await.store).await; })* }
        mod on_postgres { $(#[tokio::test] async fn $name() { super::$name(&*super::postgres().await.store).await; })* }
    };
}

conformance! {
    a_saga_reads_back_as_it_was_written,
    one_claim_an_address_however_many_try,
    an_account_keeps_its_address,
    only_the_expected_version_advances,
    a_refused_advance_changes_nothing_at_all,
    due_is_what_nobody_runs,
    an_ended_saga_leaves_nothing_personal_and_frees_the_address,
    sagas_are_listed_newest_first_page_by_page,
    an_account_is_seen_only_where_it_has_a_role,
    roles_are_replaced_and_recorded_once,
    a_tenant_keeps_an_owner_whoever_asks_at_once,
    nobody_gets_a_place_in_a_tenant_that_is_not_there,
    a_purge_leaves_nothing_of_its_tenant_and_all_of_the_others,
    what_is_undone_goes_with_a_record_wherever_it_was_a_guest,
}

pub(in crate::store) fn ids() -> Ids {
    Ids::new(Arc::new(ManualClock::at(NOW)), Arc::new(OsEntropy))
}

pub(in crate::store) fn email(text: &str) -> EmailAddress {
    EmailAddress::parse(text).unwrap()
}

pub(in crate::store) fn lease(owner: &str, until: Timestamp) -> Lease {
    Lease { owner: owner.into(), until }
}

pub(in crate::store) fn provision_at(address: &str, at: Timestamp) -> Saga {
    let claim = Claim {
        email: email(address),
        password_hash: PasswordHash::from_phc(PHC),
        org_name: OrgName::parse("Acme, Inc.").unwrap(),
    };
    let subject = Subject::Provision { owner: ids().user_id(), claim: Some(claim), trial_ends_at: None };
    let until = at.checked_add(Duration::from_secs(30)).unwrap();
    Saga::begin(ids().org_id(), subject, lease("one", until), at)
}

pub(in crate::store) fn provision(address: &str) -> Saga {
    provision_at(address, NOW)
}

pub(in crate::store) fn purge(org_id: &OrgId) -> Saga {
    Saga::begin(org_id.clone(), Subject::Purge, lease("one", NOW), NOW)
}

pub(in crate::store) fn owner_of(saga: &Saga) -> UserId {
    match saga.subject {
        Subject::Provision { owner, .. } => owner,
        Subject::Purge => panic!("a purge has no owner"),
    }
}

pub(in crate::store) fn account_of(saga: &Saga) -> Account {
    let Subject::Provision { owner, claim: Some(claim), .. } = &saga.subject else { panic!("no claim") };
    Account {
        user_id: *owner,
        home_org_id: saga.org_id.clone(),
        email: claim.email.clone(),
        password_hash: claim.password_hash.clone(),
        created_at: saga.created_at,
    }
}

pub(in crate::store) fn record(org_id: &OrgId, action: &str) -> AuditDraft {
    AuditDraft {
        org_id: org_id.clone(),
        at: NOW,
        actor: SERVICE_ACTOR.into(),
        action: action.into(),
        reason: None,
        before: None,
        after: None,
        request_id: None,
    }
}

pub(in crate::store) fn advance(saga: Saga, effect: Effect) -> Advance {
    Advance { saga, effect, audit: None }
}

pub(in crate::store) fn ended(saga: &Saga, state: State) -> Saga {
    let cause = (state == State::Undone).then(|| Failure::new(Reason::EmailTaken, "taken"));
    let owner = owner_of(saga);
    Saga {
        progress: Progress { state, attempts: 0, next_attempt_at: None, cause, last_failure: None },
        subject: Subject::Provision { owner, claim: None, trial_ends_at: Some(NOW) },
        lease: None,
        ..saga.clone()
    }
}

/// A tenant that is there: its saga is done and its owner has an account.
pub(in crate::store) async fn tenant(store: &dyn Store, address: &str) -> (OrgId, UserId) {
    let saga = provision(address);
    let account = account_of(&saga);
    assert_eq!(store.begin(saga.clone()).await.unwrap(), Begun::Started);
    let done = Advance {
        saga: ended(&saga, State::Done),
        effect: Effect::InsertAccount(account),
        audit: Some(record(&saga.org_id, "tenant_provisioned")),
    };
    store.advance(done).await.unwrap();
    (saga.org_id.clone(), owner_of(&saga))
}

pub(in crate::store) fn change(org_id: &OrgId, user_id: UserId, roles: &[TenantRole]) -> RoleChange {
    RoleChange {
        org_id: org_id.clone(),
        user_id,
        roles: roles.iter().copied().collect(),
        at: NOW,
        actor: "ann".into(),
        reason: Some("asked for".into()),
        request_id: Some("r-1".into()),
    }
}

pub(in crate::store) async fn records(store: &dyn Store, org_id: &OrgId) -> Vec<String> {
    let records = store.list_audit(org_id, None, 100).await.unwrap();
    records.into_iter().rev().map(|record| record.action).collect()
}

async fn a_saga_reads_back_as_it_was_written(store: &dyn Store) {
    let saga = provision("Ann@Example.com");
    store.begin(saga.clone()).await.unwrap();
    let read = store.find_saga(&saga.id()).await.unwrap().unwrap();
    assert_eq!(format!("{read:?}"), format!("{saga:?}"));
    let Subject::Provision { claim: Some(claim), .. } = &read.subject else { panic!("the claim is kept") };
    assert_eq!((claim.email.typed(), claim.password_hash.expose_phc()), ("Ann@Example.com", PHC));

    let states = [
        State::Running(Step::StartTrial),
        State::Compensating(Step::InsertAccount),
        State::Stuck { step: Step::CreateOrganization, direction: Direction::Backward },
    ];
    for (version, state) in (1..).zip(states) {
        let backward = state.task().is_some_and(|(_, direction)| direction == Direction::Backward);
        let failed = Failure::new(Reason::Unavailable, "away");
        let progress = Progress {
            state,
            attempts: 3,
            next_attempt_at: Some(NOW),
            cause: (backward || matches!(state, State::Compensating(_))).then(|| failed.clone()),
            last_failure: Some(failed),
        };
        let next = Saga { progress: progress.clone(), version, ..saga.clone() };
        store.advance(advance(next, Effect::None)).await.unwrap();
        let read = store.find_saga(&saga.id()).await.unwrap().unwrap();
        assert_eq!((read.progress, read.version), (progress, version + 1));
    }
}

async fn one_claim_an_address_however_many_try(store: &dyn Store) {
    let tries = ["ann@example.com", "Ann@Example.com", "ANN@EXAMPLE.COM"].repeat(10);
    let begun = join_all(tries.into_iter().map(|address| store.begin(provision(address)))).await;
    let started = begun.into_iter().filter(|begun| *begun.as_ref().unwrap() == Begun::Started).count();
    assert_eq!(started, 1);
    let holder = store.find_by_email(&email("ann@example.com")).await.unwrap();
    assert!(matches!(holder, Some(EmailHolder::Saga(_))));
    assert!(store.find_by_email(&email("bob@example.com")).await.unwrap().is_none());
}

async fn an_account_keeps_its_address(store: &dyn Store) {
    let (org_id, user_id) = tenant(store, "ann@example.com").await;
    assert_eq!(store.begin(provision("Ann@example.com")).await.unwrap(), Begun::Taken);
    match store.find_by_email(&email("ANN@example.com")).await.unwrap() {
        Some(EmailHolder::Account { account, purging: false }) => {
            assert_eq!((account.home_org_id, account.user_id), (org_id.clone(), user_id));
        }
        other => panic!("{other:?}"),
    }
    // A saga that claimed the address elsewhere finds out when it inserts.
    let other = provision("bob@example.com");
    store.begin(other.clone()).await.unwrap();
    let mut account = account_of(&other);
    account.email = email("ann@example.com");
    let refused = store.advance(advance(other.clone(), Effect::InsertAccount(account))).await;
    assert!(matches!(refused, Err(AdvanceError::EmailTaken)));
    assert_eq!(store.find_saga(&other.id()).await.unwrap().unwrap().version, 1, "nothing of it happened");

    store.begin(purge(&org_id)).await.unwrap();
    let holder = store.find_by_email(&email("ann@example.com")).await.unwrap();
    assert!(matches!(holder, Some(EmailHolder::Account { purging: true, .. })));
}

async fn only_the_expected_version_advances(store: &dyn Store) {
    let saga = provision("ann@example.com");
    store.begin(saga.clone()).await.unwrap();
    let tries = (0..20).map(|number| {
        let lease = Some(lease(&format!("runner-{number}"), NOW));
        store.advance(advance(Saga { lease, ..saga.clone() }, Effect::None))
    });
    let won = join_all(tries).await.into_iter().flatten().count();
    assert_eq!(won, 1);
    assert_eq!(store.find_saga(&saga.id()).await.unwrap().unwrap().version, 2);
    let stale = store.advance(advance(saga.clone(), Effect::Forget)).await;
    assert!(matches!(stale, Err(AdvanceError::Fenced)));
    let unknown = store.advance(advance(provision("bob@example.com"), Effect::None)).await;
    assert!(matches!(unknown, Err(AdvanceError::Fenced)));
}

async fn a_refused_advance_changes_nothing_at_all(store: &dyn Store) {
    let saga = provision("ann@example.com");
    store.begin(saga.clone()).await.unwrap();
    let stale = Advance {
        saga: Saga { version: 7, ..saga.clone() },
        effect: Effect::InsertAccount(account_of(&saga)),
        audit: Some(record(&saga.org_id, "tenant_provisioned")),
    };
    assert!(matches!(store.advance(stale).await, Err(AdvanceError::Fenced)));
    assert!(store.find_member(&saga.org_id, owner_of(&saga)).await.unwrap().is_none());
    assert!(records(store, &saga.org_id).await.is_empty());
}

async fn due_is_what_nobody_runs(store: &dyn Store) {
    let later = NOW.checked_add(Duration::from_secs(31)).unwrap();
    let first = provision_at("ann@example.com", NOW);
    let second = provision_at("bob@example.com", NOW.checked_sub(Duration::from_secs(5)).unwrap());
    let done = provision("eve@example.com");
    for saga in [&first, &second, &done] {
        store.begin((*saga).clone()).await.unwrap();
    }
    store.advance(advance(ended(&done, State::Done), Effect::None)).await.unwrap();
    assert!(store.due_sagas(NOW, 10).await.unwrap().is_empty(), "all are leased");
    let due: Vec<_> = store.due_sagas(later, 10).await.unwrap().into_iter().map(|saga| saga.org_id).collect();
    assert_eq!(due, [second.org_id.clone(), first.org_id.clone()], "longest due first");
    assert_eq!(store.due_sagas(later, 1).await.unwrap().len(), 1);

    let stuck = Progress {
        state: State::Stuck { step: Step::StartTrial, direction: Direction::Backward },
        next_attempt_at: None,
        cause: Some(Failure::new(Reason::Unavailable, "away")),
        ..second.progress.clone()
    };
    let waits = Saga { progress: stuck, lease: None, ..second.clone() };
    store.advance(advance(waits, Effect::None)).await.unwrap();
    assert_eq!(store.due_sagas(later, 10).await.unwrap().len(), 1, "what waits for an operator is not due");
    assert_eq!(store.count_stuck().await.unwrap(), 1);
}

async fn an_ended_saga_leaves_nothing_personal_and_frees_the_address(store: &dyn Store) {
    let saga = provision("ann@example.com");
    store.begin(saga.clone()).await.unwrap();
    store.advance(advance(saga.clone(), Effect::InsertAccount(account_of(&saga)))).await.unwrap();
    assert!(store.find_member(&saga.org_id, owner_of(&saga)).await.unwrap().is_some());
    let undone = Advance {
        saga: Saga { version: 2, ..ended(&saga, State::Undone) },
        effect: Effect::DeleteAccount(owner_of(&saga)),
        audit: Some(record(&saga.org_id, "provisioning_undone")),
    };
    store.advance(undone).await.unwrap();
    let read = store.find_saga(&saga.id()).await.unwrap().unwrap();
    assert!(matches!(read.subject, Subject::Provision { claim: None, .. }));
    assert_eq!(read.progress.cause.unwrap().reason, Reason::EmailTaken);
    assert!(store.find_by_email(&email("ann@example.com")).await.unwrap().is_none());
    assert!(store.find_member(&saga.org_id, owner_of(&saga)).await.unwrap().is_none());
    assert_eq!(records(store, &saga.org_id).await, ["provisioning_undone"]);
    assert_eq!(store.begin(provision("ann@example.com")).await.unwrap(), Begun::Started);
}

async fn sagas_are_listed_newest_first_page_by_page(store: &dyn Store) {
    let entropy = Arc::new(SeededEntropy::new(7));
    let clock = ManualClock::at(NOW);
    let ids = Ids::new(Arc::new(clock.clone()), entropy);
    let mut expected = Vec::new();
    for number in 0..7_u32 {
        // Two of each time, so that a page may end between equals.
        let at = clock.advance(Duration::from_secs(u64::from(number % 2)));
        let saga = Saga { org_id: ids.org_id(), ..provision_at(&format!("user{number}@example.com"), at) };
        store.begin(saga.clone()).await.unwrap();
        expected.push(saga.org_id);
    }
    store.begin(purge(&expected[0])).await.unwrap();
    let mut listed = Vec::new();
    let mut query = SagaQuery { kind: Some(SagaKind::Provision), limit: 3, ..SagaQuery::default() };
    loop {
        let page = store.list_sagas(query.clone()).await.unwrap();
        query.after = page.last().map(SagaCursor::after);
        listed.extend(page.iter().map(|saga| (saga.created_at, saga.org_id.clone())));
        if page.len() < 3 {
            break;
        }
    }
    let mut sorted = listed.clone();
    sorted.sort();
    sorted.reverse();
    assert_eq!(listed, sorted);
    let found: std::collections::BTreeSet<_> = listed.into_iter().map(|(_, id)| id).collect();
    assert_eq!(found, expected.into_iter().collect());

    let purges = SagaQuery { kind: Some(SagaKind::Purge), limit: 10, ..SagaQuery::default() };
    assert_eq!(store.list_sagas(purges).await.unwrap().len(), 1);
    let done = SagaQuery { state: Some(StateFilter::Done), limit: 10, ..SagaQuery::default() };
    assert!(store.list_sagas(done).await.unwrap().is_empty());
}

async fn an_account_is_seen_only_where_it_has_a_role(store: &dyn Store) {
    let (acme, ann) = tenant(store, "ann@example.com").await;
    let (globex, bob) = tenant(store, "bob@example.com").await;
    assert!(store.find_member(&globex, ann).await.unwrap().is_none());
    store.set_roles(change(&globex, ann, &[TenantRole::Member])).await.unwrap();
    let member = store.find_member(&globex, ann).await.unwrap().unwrap();
    assert_eq!(member.roles, Roles::from_iter([TenantRole::Member]));
    assert_eq!(member.account.home_org_id, acme);
    assert!(store.find_member(&acme, bob).await.unwrap().is_none());
    let login = store.find_login(&email("ann@example.com")).await.unwrap().unwrap();
    assert_eq!((login.org_id, login.roles), (acme, Roles::from_iter([TenantRole::Owner])));
    assert!(store.find_login(&email("eve@example.com")).await.unwrap().is_none());
}

async fn roles_are_replaced_and_recorded_once(store: &dyn Store) {
    let (acme, ann) = tenant(store, "ann@example.com").await;
    let (_, bob) = tenant(store, "bob@example.com").await;
    let roles = [TenantRole::Viewer, TenantRole::Admin];
    for _ in 0..3 {
        store.set_roles(change(&acme, bob, &roles)).await.unwrap();
    }
    assert_eq!(records(store, &acme).await, ["tenant_provisioned", "account_roles_changed"]);
    store.set_roles(change(&acme, bob, &[])).await.unwrap();
    assert!(store.find_member(&acme, bob).await.unwrap().is_none());
    assert_eq!(records(store, &acme).await.len(), 3);

    let record = &store.list_audit(&acme, None, 1).await.unwrap()[0];
    assert_eq!((record.actor.as_str(), record.sequence), ("ann", 3));
    let details = record.details.as_ref().unwrap();
    assert_eq!(details.before.as_ref().unwrap()["roles"], serde_json::json!(["admin", "viewer"]));
    assert_eq!(details.after.as_ref().unwrap()["roles"], serde_json::json!([]));
    assert_eq!(store.list_audit(&acme, Some(3), 10).await.unwrap().len(), 2);

    let unknown = store.set_roles(change(&acme, ids().user_id(), &roles)).await;
    assert!(matches!(unknown, Err(SetRolesError::UnknownAccount)));
    let last = store.set_roles(change(&acme, ann, &roles)).await;
    assert!(matches!(last, Err(SetRolesError::LastOwner(_))));
    assert_eq!(records(store, &acme).await.len(), 3, "what is refused is not recorded");
}

async fn a_tenant_keeps_an_owner_whoever_asks_at_once(store: &dyn Store) {
    let (acme, ann) = tenant(store, "ann@example.com").await;
    let (_, bob) = tenant(store, "bob@example.com").await;
    store.set_roles(change(&acme, bob, &[TenantRole::Owner])).await.unwrap();
    let both = join_all([ann, bob].map(|user| store.set_roles(change(&acme, user, &[])))).await;
    assert_eq!(both.into_iter().flatten().count(), 1);
}

async fn nobody_gets_a_place_in_a_tenant_that_is_not_there(store: &dyn Store) {
    let (_, ann) = tenant(store, "ann@example.com").await;
    let nowhere = store.set_roles(change(&ids().org_id(), ann, &[TenantRole::Owner])).await;
    assert!(matches!(nowhere, Err(SetRolesError::UnknownTenant)));
    let default = OrgId::default_org();
    store.set_roles(change(&default, ann, &[TenantRole::Owner])).await.unwrap();
    assert!(store.find_member(&default, ann).await.unwrap().is_some());
}

async fn a_purge_leaves_nothing_of_its_tenant_and_all_of_the_others(store: &dyn Store) {
    let (acme, ann) = tenant(store, "ann@example.com").await;
    let (globex, bob) = tenant(store, "bob@example.com").await;
    store.set_roles(change(&globex, ann, &[TenantRole::Admin])).await.unwrap();
    store.set_roles(change(&acme, bob, &[TenantRole::Viewer])).await.unwrap();

    let saga = purge(&acme);
    assert_eq!(store.begin(saga.clone()).await.unwrap(), Begun::Started);
    assert_eq!(store.begin(saga.clone()).await.unwrap(), Begun::Taken);
    let progress = Progress { state: State::Running(Step::FinishPurge), ..saga.progress.clone() };
    let next = Saga { progress, ..saga.clone() };
    store.advance(advance(next.clone(), Effect::DeleteTenant)).await.unwrap();

    assert!(store.find_by_email(&email("ann@example.com")).await.unwrap().is_none());
    assert!(store.find_saga(&SagaId::provision(acme.clone())).await.unwrap().is_none());
    assert!(records(store, &acme).await.is_empty());
    for user in [ann, bob] {
        assert!(store.find_member(&acme, user).await.unwrap().is_none());
    }
    assert!(store.find_member(&globex, ann).await.unwrap().is_none());
    assert!(store.find_member(&globex, bob).await.unwrap().is_some());
    assert_eq!(
        records(store, &globex).await,
        ["tenant_provisioned", "account_roles_changed", "account_roles_changed"],
        "that a guest went is recorded where it was one"
    );
    let back = store.set_roles(change(&acme, bob, &[TenantRole::Owner])).await;
    assert!(matches!(back, Err(SetRolesError::UnknownTenant)), "a late order brings nothing back");

    store.advance(advance(Saga { version: 2, ..next }, Effect::Forget)).await.unwrap();
    assert!(store.find_saga(&saga.id()).await.unwrap().is_none());
}

async fn what_is_undone_goes_with_a_record_wherever_it_was_a_guest(store: &dyn Store) {
    let (globex, _) = tenant(store, "bob@example.com").await;
    let saga = provision("ann@example.com");
    let ann = owner_of(&saga);
    store.begin(saga.clone()).await.unwrap();
    store.advance(advance(saga.clone(), Effect::InsertAccount(account_of(&saga)))).await.unwrap();
    store.set_roles(change(&globex, ann, &[TenantRole::Admin])).await.unwrap();
    let undone = Saga { version: 2, ..ended(&saga, State::Undone) };
    store.advance(advance(undone, Effect::DeleteAccount(ann))).await.unwrap();
    assert!(store.find_member(&globex, ann).await.unwrap().is_none());
    let record = &store.list_audit(&globex, None, 1).await.unwrap()[0];
    assert_eq!((record.sequence, record.action.as_str()), (3, "account_roles_changed"));
    let before = record.details.as_ref().unwrap().before.as_ref().unwrap();
    assert_eq!(before["roles"], serde_json::json!(["admin"]));
}

mod memory_only {
    use super::{super::memory::Fault, *};

    #[tokio::test]
    async fn a_write_fails_as_it_is_told_and_reads_tell_what_became_of_it() {
        let store = MemoryStore::new(Arc::new(OsEntropy));
        store.fail_next([
            Some(Fault::Unavailable),
            Some(Fault::AmbiguousLost),
            Some(Fault::AmbiguousCommitted),
        ]);
        let saga = provision("ann@example.com");
        for there in [false, false, true] {
            assert!(store.begin(saga.clone()).await.unwrap_err().is_transient());
            assert_eq!(store.find_saga(&saga.id()).await.unwrap().is_some(), there);
        }
        assert_eq!(store.begin(saga).await.unwrap(), Begun::Taken);
        assert!(store.audit_is_intact());
    }
}
