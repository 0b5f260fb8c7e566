//! What every store has to do. `store_conformance!` makes each case a test against one backend, every time with a
//! fresh store that holds nothing but the default organization.

use std::time::Duration;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use pulse_kernel::{EmailAddress, OrgId, OrgName, UserId};
use pulse_store::audit::{AuditRecord, verify};
use pulse_testkit::eventually;

use super::{Creation, Found, Lease, QueueEntry, Store, Written};
use crate::domain::{
    Author, Note, Organization, Owner, Removal, Retention, Status, StatusKind, TombstoneKind, Transition,
};

/// Runs every case against the store that `$open` makes; what it makes besides lives as long as the case.
macro_rules! store_conformance {
    ($open:expr) => {
        $crate::store::conformance::store_conformance! { $open;
            the_default_organization_is_there_from_the_start
            what_is_written_reads_back
            an_id_is_used_once
            an_email_belongs_to_one_organization_in_every_status
            one_of_many_with_the_same_email_is_created
            a_change_needs_the_version_it_was_decided_on
            one_of_many_changes_of_the_same_version_is_made
            a_change_and_its_audit_record_are_one
            a_removal_leaves_a_tombstone_and_frees_the_email
            an_unknown_id_can_be_barred
            a_removal_needs_what_it_was_decided_on
            every_change_is_recorded_in_order
            organizations_are_listed_in_pages
            queues_are_in_order_and_in_pages
            tenants_are_counted
            a_lease_has_one_holder_at_a_time
            one_of_many_takes_a_lease
            a_change_under_a_lease_needs_the_lease
            a_closed_store_says_so
        }
    };
    ($open:expr; $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let (store, _kept) = $open.await;
                $crate::store::conformance::$case(&store).await;
            }
        )*
    };
}
pub(crate) use store_conformance;

pub(crate) const START: Timestamp = Timestamp::constant(1_800_000_000, 123_456_000);

pub(crate) fn id(text: &str) -> OrgId {
    OrgId::parse(text).unwrap()
}

pub(crate) fn by(actor: &str) -> Author {
    Author { actor: actor.to_owned(), request_id: Some("r-1".to_owned()) }
}

pub(crate) fn new(org_id: &str, email: &str) -> Transition {
    let owner = Owner {
        user_id: UserId::parse("0198c0de-0000-7000-8000-000000000001").unwrap(),
        email: EmailAddress::parse(email).unwrap(),
    };
    Organization::create(id(org_id), owner, OrgName::parse("Acme, Inc.").unwrap(), START)
}

/// How long a test waits for a condition.
const WAIT: Duration = Duration::from_secs(20);

fn days(days: f64) -> Retention {
    Retention::from_days(days).unwrap()
}

pub(crate) async fn organization(store: &dyn Store, org_id: &str) -> Organization {
    match store.find(&id(org_id)).await.unwrap() {
        Found::Organization(organization) => organization,
        other => panic!("{org_id} is {other:?}"),
    }
}

async fn change(store: &dyn Store, transition: Transition) -> Organization {
    let organization = transition.organization.clone();
    assert!(store.change(transition, by("ann")).await.unwrap().is_done());
    organization
}

/// Brings an organization of its own email to this status, by the way that leads there.
pub(crate) async fn make(store: &dyn Store, org_id: &str, status: StatusKind) -> Organization {
    let email = format!("{org_id}@example.com");
    assert_eq!(store.create(new(org_id, &email), by("service:test")).await.unwrap(), Creation::Created);
    let mut current = organization(store, org_id).await;
    if status == StatusKind::Provisioning {
        return current;
    }
    current = change(store, current.activate(START).unwrap()).await;
    if status == StatusKind::Suspended {
        let note = Note::parse("unpaid").unwrap();
        current = change(store, current.suspend(note, START).unwrap()).await;
    }
    if matches!(status, StatusKind::PendingDeletion | StatusKind::Purging) {
        current = change(store, current.soft_delete(days(1.0), None, START).unwrap()).await;
    }
    if status == StatusKind::Purging {
        let due = START + SignedDuration::from_hours(24);
        current = change(store, current.begin_purge(due).unwrap()).await;
    }
    current
}

async fn audit(store: &dyn Store, org_id: &str) -> Vec<AuditRecord> {
    let mut records = store.audit_events(&id(org_id), None, 1000).await.unwrap();
    records.reverse();
    verify(&records, None).unwrap();
    records
}

pub(crate) async fn the_default_organization_is_there_from_the_start(store: &dyn Store) {
    let default = organization(store, "default").await;
    assert_eq!((default.owner, default.status), (None, Status::Active));
    assert_eq!(audit(store, "default").await.len(), 1);
    assert_eq!(store.counts().await.unwrap().of(StatusKind::Active), 0, "it is not a tenant");
}

pub(crate) async fn what_is_written_reads_back(store: &dyn Store) {
    for kind in StatusKind::ALL {
        let org_id = format!("org-{}", kind.as_str().replace('_', "-"));
        let written = make(store, &org_id, kind).await;
        assert_eq!(organization(store, &org_id).await, written);
        assert_eq!(written.status.kind(), kind);
    }
    let suspended = organization(store, "org-suspended").await;
    let deleted = change(store, suspended.clone().soft_delete(days(0.1), None, START).unwrap()).await;
    assert_eq!(organization(store, "org-suspended").await, deleted);
    let restored = change(store, deleted.restore(None, START).unwrap()).await;
    assert_eq!(organization(store, "org-suspended").await.status, suspended.status);
    assert_eq!(restored.version, suspended.version + 2);
    let typed = store.create(new("typed", " A.Nn@Example.COM "), by("service:test")).await.unwrap();
    assert_eq!(typed, Creation::Created);
    let owner = organization(store, "typed").await.owner.unwrap();
    assert_eq!((owner.email.typed(), owner.email.canonical()), ("A.Nn@Example.COM", "a.nn@example.com"));
}

pub(crate) async fn an_id_is_used_once(store: &dyn Store) {
    make(store, "acme", StatusKind::Active).await;
    for again in [new("acme", "acme@example.com"), new("acme", "other@example.com")] {
        assert_eq!(store.create(again, by("service:test")).await.unwrap(), Creation::IdUsed);
    }
    assert_eq!(
        store.create(new("default", "d@example.com"), by("service:test")).await.unwrap(),
        Creation::IdUsed
    );
    assert_eq!(audit(store, "acme").await.len(), 2, "what is refused leaves no record");
}

pub(crate) async fn an_email_belongs_to_one_organization_in_every_status(store: &dyn Store) {
    for kind in StatusKind::ALL {
        let org_id = format!("org-{}", kind.as_str().replace('_', "-"));
        make(store, &org_id, kind).await;
        // The canonical form counts, not what was typed.
        let again = new("other", &format!("{}@Example.COM", org_id.to_uppercase()));
        let refused = store.create(again, by("service:test")).await.unwrap();
        assert_eq!(refused, Creation::EmailUsed { by: kind });
        assert_eq!(store.find(&id("other")).await.unwrap(), Found::Nothing);
    }
}

pub(crate) async fn one_of_many_with_the_same_email_is_created(store: &dyn Store) {
    let attempts = (0..20)
        .map(|number| store.create(new(&format!("org-{number}"), "ann@example.com"), by("service:test")));
    let outcomes: Vec<_> = join_all(attempts).await.into_iter().map(Result::unwrap).collect();
    let created = outcomes.iter().filter(|outcome| **outcome == Creation::Created).count();
    assert_eq!(created, 1, "{outcomes:?}");
    assert_eq!(store.counts().await.unwrap().of(StatusKind::Provisioning), 1);
}

pub(crate) async fn a_change_needs_the_version_it_was_decided_on(store: &dyn Store) {
    let active = make(store, "acme", StatusKind::Active).await;
    let suspend = active.clone().suspend(None, START).unwrap();
    let delete = active.soft_delete(days(1.0), None, START).unwrap();
    assert!(store.change(suspend.clone(), by("ann")).await.unwrap().is_done());
    assert_eq!(store.change(delete, by("ben")).await.unwrap(), Written::Stale);
    assert_eq!(store.change(suspend.clone(), by("ben")).await.unwrap(), Written::Stale);
    assert_eq!(organization(store, "acme").await, suspend.organization);
    assert_eq!(audit(store, "acme").await.len(), 3);

    let mut elsewhere = suspend;
    elsewhere.organization.id = id("nowhere");
    assert_eq!(store.change(elsewhere, by("ann")).await.unwrap(), Written::Stale);
    assert_eq!(audit(store, "nowhere").await, []);
}

pub(crate) async fn one_of_many_changes_of_the_same_version_is_made(store: &dyn Store) {
    let active = make(store, "acme", StatusKind::Active).await;
    let attempts = (0..20).map(|number| {
        let suspend = active.clone().suspend(Note::parse(&format!("{number}")).unwrap(), START).unwrap();
        store.change(suspend, by("ann"))
    });
    let outcomes: Vec<_> = join_all(attempts).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_done()).count(), 1);
    assert_eq!(audit(store, "acme").await.len(), 3);
}

/// A record without an actor cannot be stored. Here it stands for anything that keeps the record from being written.
pub(crate) async fn a_change_and_its_audit_record_are_one(store: &dyn Store) {
    let active = make(store, "acme", StatusKind::Active).await;
    let suspend = active.clone().suspend(None, START).unwrap();
    store.change(suspend, by("")).await.unwrap_err();
    assert_eq!(organization(store, "acme").await, active);
    assert_eq!(store.history(&active.id).await.unwrap().len(), 2);

    store.create(new("other", "other@example.com"), by("")).await.unwrap_err();
    assert_eq!(store.find(&id("other")).await.unwrap(), Found::Nothing);

    let purging = make(store, "gone", StatusKind::Purging).await;
    store.remove(purging.clone().finish_purge(START).unwrap(), by("")).await.unwrap_err();
    assert_eq!(organization(store, "gone").await, purging);
    let kept = audit(store, "gone").await;
    assert!(kept.iter().all(|record| record.details.is_some()), "nothing was erased either");
    assert_eq!(store.counts().await.unwrap().of(StatusKind::Active), 1);
}

pub(crate) async fn a_removal_leaves_a_tombstone_and_frees_the_email(store: &dyn Store) {
    for (org_id, kind, left) in [
        ("abandoned", StatusKind::Provisioning, TombstoneKind::Abandoned),
        ("purged", StatusKind::Purging, TombstoneKind::Purged),
    ] {
        let made = make(store, org_id, kind).await;
        let changes = audit(store, org_id).await.len();
        let end = START + SignedDuration::from_hours(99);
        let removal = match left {
            TombstoneKind::Abandoned => made.abandon(end).unwrap(),
            TombstoneKind::Purged => made.finish_purge(end).unwrap(),
        };
        assert!(store.remove(removal.clone(), by("service:provisioner")).await.unwrap().is_done());
        assert_eq!(store.find(&id(org_id)).await.unwrap(), Found::Tombstone(removal.tombstone));
        assert_eq!(store.history(&id(org_id)).await.unwrap(), []);

        let records = audit(store, org_id).await;
        assert_eq!(records.len(), changes + 1);
        let (last, before) = records.split_last().unwrap();
        assert_eq!(last.action, format!("organization_{}", left.as_str()));
        assert!(before.iter().all(|record| record.details.is_none() && record.salt.is_none()));
        let text = format!("{records:?}");
        assert!(!text.contains('@') && !text.contains("Acme"), "{text}");

        let email = format!("{org_id}@example.com");
        assert_eq!(store.create(new(org_id, &email), by("service:test")).await.unwrap(), Creation::IdUsed);
        let successor = new(&format!("{org_id}-2"), &email);
        assert_eq!(store.create(successor, by("service:test")).await.unwrap(), Creation::Created);
    }
}

pub(crate) async fn an_unknown_id_can_be_barred(store: &dyn Store) {
    let removal = Removal::of_unknown(id("late"), START);
    assert!(store.remove(removal.clone(), by("service:provisioner")).await.unwrap().is_done());
    assert_eq!(store.remove(removal, by("service:provisioner")).await.unwrap(), Written::Stale);
    let late = new("late", "late@example.com");
    assert_eq!(store.create(late, by("service:provisioner")).await.unwrap(), Creation::IdUsed);
    let records = audit(store, "late").await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].action, "organization_abandoned");
}

pub(crate) async fn a_removal_needs_what_it_was_decided_on(store: &dyn Store) {
    let unfinished = make(store, "acme", StatusKind::Provisioning).await;
    let removal = unfinished.clone().abandon(START).unwrap();
    change(store, unfinished.activate(START).unwrap()).await;
    assert_eq!(store.remove(removal, by("service:provisioner")).await.unwrap(), Written::Stale);
    let unknown = Removal::of_unknown(id("acme"), START);
    assert_eq!(store.remove(unknown, by("service:provisioner")).await.unwrap(), Written::Stale);
    assert_eq!(organization(store, "acme").await.status, Status::Active);
    assert_eq!(audit(store, "acme").await.len(), 2);
}

pub(crate) async fn every_change_is_recorded_in_order(store: &dyn Store) {
    use StatusKind::{Active, PendingDeletion, Provisioning, Purging};
    make(store, "acme", Purging).await;
    let history = store.history(&id("acme")).await.unwrap();
    let steps: Vec<_> = history.iter().map(|step| (step.version, step.from, step.to)).collect();
    let expected = [
        (1, None, Provisioning),
        (2, Some(Provisioning), Active),
        (3, Some(Active), PendingDeletion),
        (4, Some(PendingDeletion), Purging),
    ];
    assert_eq!(steps, expected);
    assert_eq!(history[3].at, START + SignedDuration::from_hours(24));

    let records = audit(store, "acme").await;
    let actions: Vec<_> = records.iter().map(|record| record.action.as_str()).collect();
    let expected = [
        "organization_created",
        "organization_activated",
        "organization_deleted",
        "organization_purge_begun",
    ];
    assert_eq!(actions, expected);
    assert_eq!(records[2].actor, "ann");
    assert_eq!(records[2].details.as_ref().unwrap().request_id.as_deref(), Some("r-1"));
    let page = store.audit_events(&id("acme"), Some(3), 1).await.unwrap();
    assert_eq!(page, records[1..2]);
}

pub(crate) async fn organizations_are_listed_in_pages(store: &dyn Store) {
    for number in 0..5 {
        make(store, &format!("a-{number}"), StatusKind::Active).await;
        make(store, &format!("b-{number}"), StatusKind::Suspended).await;
    }
    for (status, expected) in [
        (None, 11),
        (Some(StatusKind::Active), 6),
        (Some(StatusKind::Suspended), 5),
        (Some(StatusKind::Purging), 0),
    ] {
        let mut seen: Vec<Organization> = Vec::new();
        loop {
            let after = seen.last().map(|last| last.id.clone());
            let page = store.list(status, after.as_ref(), 4).await.unwrap();
            assert!(page.len() <= 4);
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        assert_eq!(seen.len(), expected, "{status:?}");
        assert!(seen.is_sorted_by(|one, next| one.id < next.id));
        assert!(seen.iter().all(|one| status.is_none_or(|status| one.status.kind() == status)));
    }
}

pub(crate) async fn queues_are_in_order_and_in_pages(store: &dyn Store) {
    let mut expected = Vec::new();
    for (number, retention) in [3.0, 1.0, 2.0, 2.0, 9.0].into_iter().enumerate() {
        let active = make(store, &format!("org-{number}"), StatusKind::Active).await;
        let deleted = change(store, active.soft_delete(days(retention), None, START).unwrap()).await;
        let at = deleted.status.deletion().unwrap().purge_after;
        expected.push(QueueEntry { at, id: deleted.id });
    }
    expected.sort();
    let not_yet = expected.pop().unwrap();
    let now = START + SignedDuration::from_hours(3 * 24);
    assert_eq!(store.due(now, None, 100).await.unwrap(), expected);
    let first = store.due(now, None, 2).await.unwrap();
    let second = store.due(now, first.last(), 2).await.unwrap();
    assert_eq!([first, second.clone()].concat(), expected);
    assert_eq!(store.due(now, second.last(), 2).await.unwrap(), []);
    let early = now - SignedDuration::from_micros(1);
    assert_eq!(store.due(early, None, 100).await.unwrap(), expected[..3]);

    // What is restored leaves the queue, what is being purged goes into the other one.
    let restored = organization(store, expected[0].id.as_str()).await;
    change(store, restored.restore(None, now).unwrap()).await;
    let mut begun = Vec::new();
    for entry in &expected[1..] {
        let at = now + SignedDuration::from_secs(i64::try_from(begun.len()).unwrap());
        let deleted = organization(store, entry.id.as_str()).await;
        change(store, deleted.begin_purge(at).unwrap()).await;
        begun.push(QueueEntry { at, id: entry.id.clone() });
    }
    assert_eq!(store.due(Timestamp::MAX, None, 100).await.unwrap(), [not_yet]);
    assert_eq!(store.purging(None, 2).await.unwrap(), begun[..2]);
    assert_eq!(store.purging(Some(&begun[1]), 2).await.unwrap(), begun[2..]);
}

pub(crate) async fn tenants_are_counted(store: &dyn Store) {
    for kind in StatusKind::ALL {
        make(store, &format!("org-{}", kind.as_str().replace('_', "-")), kind).await;
    }
    let counts = store.counts().await.unwrap();
    assert!(StatusKind::ALL.into_iter().all(|kind| counts.of(kind) == 1), "{counts:?}");
    let unfinished = organization(store, "org-provisioning").await;
    store.remove(unfinished.abandon(START).unwrap(), by("service:provisioner")).await.unwrap();
    let suspended = organization(store, "org-suspended").await;
    change(store, suspended.unsuspend(None, START).unwrap()).await;
    let counts = store.counts().await.unwrap();
    let expected = [0, 2, 0, 1, 1];
    assert_eq!(StatusKind::ALL.map(|kind| counts.of(kind)), expected, "{counts:?}");
}

/// Long enough to last through a test.
const LONG: Duration = Duration::from_hours(1);

pub(crate) async fn a_lease_has_one_holder_at_a_time(store: &dyn Store) {
    let take = |name, owner, lasting| async move { store.take_lease(name, owner, lasting).await.unwrap() };
    let first = take("reaper", "one", LONG).await.unwrap();
    assert_eq!((first.name, first.owner.as_str()), ("reaper", "one"));
    assert_eq!(take("reaper", "two", LONG).await, None);
    assert_eq!(take("reaper", "one", LONG).await, Some(first.clone()), "renewing it changes no token");
    let elsewhere = take("sweeper", "two", LONG).await.unwrap();
    assert_eq!(elsewhere.owner, "two", "another lease is another's");

    // Given back, it can be taken at once, by a greater token.
    store.return_lease(&first).await.unwrap();
    let second = take("reaper", "two", LONG).await.unwrap();
    assert!(second.token > first.token);
    // Whoever had it before gives nothing back any more.
    store.return_lease(&first).await.unwrap();
    assert_eq!(take("reaper", "one", LONG).await, None);

    // It runs out by itself; also the same owner then has a greater token.
    let brief = take("reaper", "two", Duration::from_millis(1)).await.unwrap();
    assert_eq!(brief, second);
    let third = eventually(WAIT, async || take("reaper", "one", Duration::from_millis(1)).await).await;
    assert!(third.token > second.token);
    let fourth = eventually(WAIT, async || {
        take("reaper", "one", Duration::from_millis(1)).await.filter(|lease| lease.token > third.token)
    });
    fourth.await;
}

pub(crate) async fn one_of_many_takes_a_lease(store: &dyn Store) {
    for round in 0..5 {
        let owners: Vec<_> = (0..10).map(|number| format!("{round}-{number}")).collect();
        let attempts = owners.iter().map(|owner| store.take_lease("reaper", owner, LONG));
        let taken: Vec<_> = join_all(attempts).await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(taken.len(), 1, "{taken:?}");
        assert_eq!(taken[0].token, round + 1);
        store.return_lease(&taken[0]).await.unwrap();
    }
}

pub(crate) async fn a_change_under_a_lease_needs_the_lease(store: &dyn Store) {
    let active = make(store, "acme", StatusKind::Active).await;
    let suspend = active.clone().suspend(None, START).unwrap();
    let lease = store.take_lease("reaper", "one", LONG).await.unwrap().unwrap();
    let forged = [
        Lease { token: lease.token + 1, ..lease.clone() },
        Lease { owner: "two".to_owned(), ..lease.clone() },
        Lease { name: "sweeper", ..lease.clone() },
    ];
    for forged in forged {
        assert_eq!(store.change_under(&forged, suspend.clone(), by("ann")).await.unwrap(), None);
    }
    assert_eq!(organization(store, "acme").await, active);
    let done = store.change_under(&lease, suspend.clone(), by("ann")).await.unwrap();
    assert!(done.is_some_and(Written::is_done));
    let stale = store.change_under(&lease, suspend.clone(), by("ann")).await.unwrap();
    assert_eq!(stale, Some(Written::Stale));
    assert_eq!(audit(store, "acme").await.len(), 3);

    // One that has run out is as good as none, also while nobody else has taken it.
    let restore = suspend.organization.clone().unsuspend(None, START).unwrap();
    store.take_lease("reaper", "one", Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(store.change_under(&lease, restore.clone(), by("ann")).await.unwrap(), None);
    let taken = eventually(WAIT, async || store.take_lease("reaper", "two", LONG).await.unwrap()).await;
    assert_eq!(store.change_under(&lease, restore.clone(), by("ann")).await.unwrap(), None);
    assert_eq!(organization(store, "acme").await, suspend.organization);
    assert_eq!(audit(store, "acme").await.len(), 3, "what is refused leaves no record");
    let done = store.change_under(&taken, restore, by("ann")).await.unwrap();
    assert!(done.is_some_and(Written::is_done));
}

pub(crate) async fn a_closed_store_says_so(store: &dyn Store) {
    store.ping().await.unwrap();
    store.close().await;
    assert!(store.ping().await.unwrap_err().is_transient());
    assert!(store.find(&id("default")).await.unwrap_err().is_transient());
    let refused = store.create(new("acme", "acme@example.com"), by("service:test")).await.unwrap_err();
    assert!(refused.is_transient());
    assert!(store.take_lease("reaper", "one", LONG).await.unwrap_err().is_transient());
    let lease = Lease { name: "reaper", owner: "one".to_owned(), token: 1 };
    let suspend = new("acme", "acme@example.com");
    assert!(store.change_under(&lease, suspend, by("ann")).await.unwrap_err().is_transient());
}
