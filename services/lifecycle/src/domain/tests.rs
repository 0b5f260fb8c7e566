//! The whole table of transitions, and what holds along any path through it.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use pulse_kernel::{EmailAddress, OrgId, OrgName, Reason, UserId};

use super::{
    Event, InvalidTransition, Note, Organization, Owner, Retention, Status, StatusKind, TombstoneKind,
};

const START: Timestamp = Timestamp::constant(1_800_000_000, 0);

fn owner() -> Owner {
    Owner {
        user_id: UserId::parse("0198c0de-0000-7000-8000-000000000001").unwrap(),
        email: EmailAddress::parse("ann@example.com").unwrap(),
    }
}

fn note(text: &str) -> Option<Note> {
    Note::parse(text).unwrap()
}

fn days(days: f64) -> Retention {
    Retention::from_days(days).unwrap()
}

/// An organization that came to its status by the way that leads there.
fn organization(kind: StatusKind) -> Organization {
    let id = OrgId::parse("acme").unwrap();
    let new = Organization::create(id, owner(), OrgName::parse("Acme, Inc.").unwrap(), START).organization;
    let active = || new.clone().activate(START).unwrap().organization;
    let deleted = || active().soft_delete(days(1.0), None, START).unwrap().organization;
    match kind {
        StatusKind::Provisioning => new,
        StatusKind::Active => active(),
        StatusKind::Suspended => active().suspend(note("unpaid"), START).unwrap().organization,
        StatusKind::PendingDeletion => deleted(),
        StatusKind::Purging => {
            deleted().begin_purge(START + SignedDuration::from_hours(24)).unwrap().organization
        }
    }
}

/// What an organization becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Status(StatusKind),
    Tombstone(TombstoneKind),
}

/// Applies any event. A purge that cannot begin is refused like the rest, so that one table holds them all.
fn apply(organization: Organization, event: Event, now: Timestamp) -> Result<End, InvalidTransition> {
    let from = organization.status.kind();
    let transition = match event {
        Event::Create => unreachable!("happens to no organization"),
        Event::Activate => organization.activate(now),
        Event::Suspend => organization.suspend(None, now),
        Event::Unsuspend => organization.unsuspend(None, now),
        Event::SoftDelete => organization.soft_delete(days(30.0), None, now),
        Event::Restore => organization.restore(None, now),
        Event::BeginPurge => {
            let refusal = InvalidTransition { from, event, reason: Reason::NotPendingDeletion };
            organization.begin_purge(now).ok_or(refusal)
        }
        Event::Abandon => {
            return organization.abandon(now).map(|removal| End::Tombstone(removal.tombstone.kind));
        }
        Event::FinishPurge => {
            return organization.finish_purge(now).map(|removal| End::Tombstone(removal.tombstone.kind));
        }
    };
    transition.map(|transition| End::Status(transition.organization.status.kind()))
}

const EVENTS: [Event; 8] = [
    Event::Activate,
    Event::Abandon,
    Event::Suspend,
    Event::Unsuspend,
    Event::SoftDelete,
    Event::Restore,
    Event::BeginPurge,
    Event::FinishPurge,
];

#[test]
fn every_event_in_every_status_has_its_outcome() {
    use StatusKind::{Active, PendingDeletion, Provisioning, Purging, Suspended};
    let to = |kind| Ok(End::Status(kind));
    let no = Err;
    // In the order of `StatusKind::ALL`: provisioning, active, suspended, pending deletion, purging.
    let table: [(Event, [Result<End, Reason>; 5]); 8] = [
        (
            Event::Activate,
            [
                to(Active),
                no(Reason::OrgNotProvisioning),
                no(Reason::OrgNotProvisioning),
                no(Reason::OrgNotProvisioning),
                no(Reason::OrgNotProvisioning),
            ],
        ),
        (
            Event::Abandon,
            [
                Ok(End::Tombstone(TombstoneKind::Abandoned)),
                no(Reason::OrgNotProvisioning),
                no(Reason::OrgNotProvisioning),
                no(Reason::OrgNotProvisioning),
                no(Reason::OrgNotProvisioning),
            ],
        ),
        (
            Event::Suspend,
            [
                no(Reason::OrgProvisioning),
                to(Suspended),
                no(Reason::AlreadySuspended),
                no(Reason::PendingDeletion),
                no(Reason::PendingDeletion),
            ],
        ),
        (
            Event::Unsuspend,
            [
                no(Reason::NotSuspended),
                no(Reason::NotSuspended),
                to(Active),
                no(Reason::NotSuspended),
                no(Reason::NotSuspended),
            ],
        ),
        (
            Event::SoftDelete,
            [
                no(Reason::OrgProvisioning),
                to(PendingDeletion),
                to(PendingDeletion),
                no(Reason::AlreadyPendingDeletion),
                no(Reason::AlreadyPendingDeletion),
            ],
        ),
        (
            Event::Restore,
            [
                no(Reason::NotPendingDeletion),
                no(Reason::NotPendingDeletion),
                no(Reason::NotPendingDeletion),
                to(Active),
                no(Reason::NotPendingDeletion),
            ],
        ),
        (
            Event::BeginPurge,
            [
                no(Reason::NotPendingDeletion),
                no(Reason::NotPendingDeletion),
                no(Reason::NotPendingDeletion),
                to(Purging),
                no(Reason::NotPendingDeletion),
            ],
        ),
        (
            Event::FinishPurge,
            [
                no(Reason::NotPendingDeletion),
                no(Reason::NotPendingDeletion),
                no(Reason::NotPendingDeletion),
                no(Reason::NotPendingDeletion),
                Ok(End::Tombstone(TombstoneKind::Purged)),
            ],
        ),
    ];
    assert_eq!(table.each_ref().map(|(event, _)| *event), EVENTS, "the table is complete");
    let _: [StatusKind; 5] = [Provisioning, Active, Suspended, PendingDeletion, Purging];
    let later = START + SignedDuration::from_hours(48);
    for (event, outcomes) in table {
        for (kind, expected) in StatusKind::ALL.into_iter().zip(outcomes) {
            let outcome = apply(organization(kind), event, later);
            assert_eq!(outcome.map_err(|refusal| refusal.reason), expected, "{event:?} of {kind}");
            if let Err(refusal) = outcome {
                assert_eq!((refusal.from, refusal.event), (kind, event));
            }
        }
    }
}

#[test]
fn the_default_organization_refuses_every_event() {
    let later = START + SignedDuration::from_hours(24 * 365);
    for (event, reason) in [
        (Event::Suspend, Reason::DefaultOrgImmutable),
        (Event::SoftDelete, Reason::DefaultOrgImmutable),
        (Event::Unsuspend, Reason::NotSuspended),
        (Event::Restore, Reason::NotPendingDeletion),
        (Event::Abandon, Reason::OrgNotProvisioning),
        (Event::FinishPurge, Reason::NotPendingDeletion),
        (Event::BeginPurge, Reason::NotPendingDeletion),
    ] {
        let default = Organization::create_default(START).organization;
        assert_eq!(apply(default, event, later).unwrap_err().reason, reason, "{event:?}");
    }
}

#[test]
fn the_default_organization_is_not_purged_even_if_it_were_due() {
    let mut default = organization(StatusKind::PendingDeletion);
    default.id = OrgId::default_org();
    assert_eq!(default.begin_purge(Timestamp::MAX), None);
}

#[test]
fn a_purge_begins_when_the_retention_is_over_and_not_a_microsecond_earlier() {
    let deleted = organization(StatusKind::PendingDeletion);
    let due = START + SignedDuration::from_hours(24);
    assert_eq!(deleted.clone().begin_purge(due - SignedDuration::from_micros(1)), None);
    assert!(deleted.begin_purge(due).is_some());
}

#[test]
fn a_restored_organization_is_as_suspended_as_before() {
    let suspended = organization(StatusKind::Suspended);
    let deleted = suspended.clone().soft_delete(days(3.0), note("asked for"), START).unwrap();
    assert_eq!(deleted.organization.status.suspension(), suspended.status.suspension());
    let restored = deleted.organization.restore(None, START + SignedDuration::from_hours(1)).unwrap();
    assert_eq!(restored.organization.status, suspended.status);
}

#[test]
fn a_transition_says_what_changed_and_why() {
    let author = super::Author { actor: "ann".to_owned(), request_id: Some("r-1".to_owned()) };
    let active = organization(StatusKind::Active);
    let suspended = active.clone().suspend(note("unpaid"), START + SignedDuration::from_secs(5)).unwrap();
    assert_eq!(suspended.expected_version(), active.version);
    assert_ne!(suspended.organization.etag(), active.etag());
    let audit = suspended.audit(author);
    assert_eq!((audit.actor.as_str(), audit.action.as_str()), ("ann", "organization_suspended"));
    assert_eq!(audit.reason.as_deref(), Some("unpaid"));
    assert_eq!(audit.before, Some(serde_json::json!({"status": "active"})));
    let after = audit.after.unwrap();
    assert_eq!((&after["status"], &after["suspend_reason"]), (&"suspended".into(), &"unpaid".into()));
    assert_eq!(after["suspended_at"], "2027-01-15T08:00:05Z");
}

#[test]
fn the_record_of_a_removal_holds_nothing_about_anyone() {
    let author = super::Author { actor: "service:provisioner".to_owned(), request_id: None };
    let removal = organization(StatusKind::Purging).finish_purge(START).unwrap();
    let text = format!("{:?}", removal.audit(author));
    assert!(text.contains("purged") && !text.contains("ann@") && !text.contains("Acme, Inc."), "{text}");
}

#[test]
fn refusals_read_as_sentences() {
    let refusal = organization(StatusKind::PendingDeletion).suspend(None, START).unwrap_err();
    assert_eq!(refusal.to_string(), "an organization in status pending deletion cannot be suspended");
    let refusal = Organization::create_default(START).organization.suspend(None, START).unwrap_err();
    assert_eq!(refusal.to_string(), "the default organization cannot be suspended");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any sequence of events at any times: what is refused changes nothing, versions count what is not, a purge
    /// never begins early, and a suspension ends only by being lifted.
    #[test]
    fn any_path_keeps_the_rules(
        steps in proptest::collection::vec((0_usize..EVENTS.len(), 0_i64..100, 1_u32..60), 0..60),
    ) {
        let mut now = START;
        let mut current = organization(StatusKind::Provisioning);
        let mut operator_suspended = false;
        for (index, hours, retention_days) in steps {
            now += SignedDuration::from_hours(hours);
            let before = current.clone();
            let applied = match EVENTS[index] {
                Event::Activate => current.clone().activate(now).ok(),
                Event::Suspend => current.clone().suspend(None, now).ok(),
                Event::Unsuspend => current.clone().unsuspend(None, now).ok(),
                Event::SoftDelete => current.clone().soft_delete(days(retention_days.into()), None, now).ok(),
                Event::Restore => current.clone().restore(None, now).ok(),
                Event::BeginPurge => current.clone().begin_purge(now),
                Event::Abandon => {
                    let gone = current.clone().abandon(now).is_ok();
                    prop_assert_eq!(gone, current.status == Status::Provisioning);
                    None
                }
                Event::FinishPurge => {
                    let gone = current.clone().finish_purge(now).is_ok();
                    prop_assert_eq!(gone, current.status.kind() == StatusKind::Purging);
                    None
                }
                Event::Create => None,
            };
            let Some(transition) = applied else { continue };
            current = transition.organization.clone();
            prop_assert_eq!(transition.from, Some(before.status.kind()));
            prop_assert_eq!(transition.expected_version(), before.version);
            prop_assert_eq!(current.updated_at, now);
            prop_assert_eq!((&current.id, &current.owner, current.created_at), (&before.id, &before.owner, before.created_at));
            prop_assert_ne!(before.status.kind(), current.status.kind());
            match EVENTS[index] {
                Event::Suspend => operator_suspended = true,
                Event::Unsuspend => operator_suspended = false,
                _ => {}
            }
            prop_assert_eq!(current.status.suspension().is_some(), operator_suspended);
            if let Status::Purging(purge) = &current.status {
                prop_assert!(purge.deletion.purge_after <= now);
                prop_assert_eq!(before.status.deletion(), Some(&purge.deletion));
            }
        }
    }
}
