//! What the use cases add to domain and store: doing it again, reading back, and not stopping halfway.

use std::{cell::Cell, future::ready, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::join_all};
use jiff::SignedDuration;
use pulse_entitlements::cache::CacheConfig;
use pulse_kernel::{EmailAddress, OrgId, OrgName, UserId};
use pulse_runtime::Shutdown;
use pulse_store::StoreError;
use pulse_tenant_guard::{OrganizationStatus, StatusError, StatusSource as _};
use pulse_testkit::{ManualClock, SeededEntropy, eventually};
use tokio::{sync::Notify, time::Instant};

use super::{
    Organizations, on_behalf_of,
    operations::Order,
    reaper::{Reaped, Reaper},
    refresh_whenever,
    status::Authority,
    tenancy::NewOrganization,
};
use crate::{
    domain::{Note, Organization, Owner, Retention, Status, StatusKind},
    error::LifecycleError,
    store::{Found, Lease, MemoryStore, Store, memory::Fault},
};

const WAIT: Duration = Duration::from_secs(20);

/// How long a reaper's lease lasts that looks every minute.
const LEASE: Duration = Duration::from_secs(30);

struct World {
    clock: ManualClock,
    store: MemoryStore,
    organizations: Organizations,
}

impl World {
    async fn new() -> Self {
        let clock = ManualClock::default();
        let store = MemoryStore::new(&clock, Arc::new(SeededEntropy::default()));
        let (kept, by) = (Arc::new(store.clone()), Arc::new(clock.clone()));
        let organizations =
            Organizations::new(kept, by, &SeededEntropy::default(), CacheConfig::default()).await.unwrap();
        Self { clock, store, organizations }
    }

    async fn active(&self, id: &str) -> Organization {
        self.organizations.create(request(id)).await.unwrap();
        self.organizations.activate(&org(id)).await.unwrap()
    }

    async fn deleted(&self, id: &str, days: f64) -> Organization {
        self.active(id).await;
        let retention = Retention::from_days(days).unwrap();
        self.organizations.soft_delete(order(id), retention, "ann").await.unwrap()
    }

    fn reaper(&self, dry_run: bool) -> Reaper {
        self.reaper_of("one", dry_run)
    }

    fn reaper_of(&self, owner: &str, dry_run: bool) -> Reaper {
        Reaper::new(self.organizations.clone(), owner.to_owned(), Duration::from_mins(1), dry_run)
    }

    async fn kind(&self, id: &str) -> StatusKind {
        self.organizations.get(&org(id)).await.unwrap().status.kind()
    }

    async fn records(&self, id: &str) -> usize {
        self.store.audit_events(&org(id), None, 1000).await.unwrap().len()
    }
}

fn org(id: &str) -> OrgId {
    OrgId::parse(id).unwrap()
}

fn request(id: &str) -> NewOrganization {
    let owner = Owner {
        user_id: UserId::parse("0198c0de-0000-7000-8000-000000000001").unwrap(),
        email: EmailAddress::parse(&format!("{id}@example.com")).unwrap(),
    };
    NewOrganization { id: org(id), owner, display_name: OrgName::parse("Acme, Inc.").unwrap() }
}

fn order(id: &str) -> Order {
    Order { id: org(id), etag: None, note: Note::parse("because").unwrap() }
}

#[tokio::test]
async fn the_outcome_of_an_ambiguous_commit_is_read_back() {
    let world = World::new().await;
    let ambiguous = || world.store.inject(Fault::Ambiguous);
    ambiguous();
    world.organizations.create(request("acme")).await.unwrap();
    ambiguous();
    world.organizations.activate(&org("acme")).await.unwrap();
    ambiguous();
    world.organizations.suspend(order("acme"), "ann").await.unwrap();
    assert_eq!(world.records("acme").await, 3);
    ambiguous();
    world.organizations.abandon(&org("late")).await.unwrap();
    assert_eq!(world.records("late").await, 1);
}

/// What a decision goes by, without looking.
fn known(world: &World, id: &str) -> Result<OrganizationStatus, StatusError> {
    let answer =
        world.organizations.statuses().cached(&org(id)).expect("what this process changed is at hand");
    answer.map(|answer| answer.status)
}

#[tokio::test]
async fn a_decision_goes_by_a_change_before_its_caller_is_answered() {
    use OrganizationStatus::{Active, PendingDeletion, Provisioning, Suspended};
    for fault in [None, Some(Fault::Ambiguous)] {
        let world = World::new().await;
        let inject = || fault.into_iter().for_each(|fault| world.store.inject(fault));
        inject();
        world.organizations.create(request("acme")).await.unwrap();
        assert_eq!(known(&world, "acme"), Ok(Provisioning));
        inject();
        world.organizations.activate(&org("acme")).await.unwrap();
        assert_eq!(known(&world, "acme"), Ok(Active));
        inject();
        world.organizations.suspend(order("acme"), "ann").await.unwrap();
        assert_eq!(known(&world, "acme"), Ok(Suspended));
        inject();
        world.organizations.unsuspend(order("acme"), "ann").await.unwrap();
        assert_eq!(known(&world, "acme"), Ok(Active));
        inject();
        let retention = Retention::from_days(1.0).unwrap();
        world.organizations.soft_delete(order("acme"), retention, "ann").await.unwrap();
        assert_eq!(known(&world, "acme"), Ok(PendingDeletion));
        inject();
        world.organizations.abandon(&org("late")).await.unwrap();
        assert_eq!(known(&world, "late"), Err(StatusError::NotFound));
    }
}

#[tokio::test]
async fn a_decision_goes_by_the_later_change_although_the_earlier_one_is_told_after_it() {
    let world = World::new().await;
    let shutdown = Shutdown::new();
    world.organizations.follow(&shutdown);
    let active = world.active("acme").await;
    let earlier = Found::Organization(active.clone());
    // Another replica suspends it.
    let suspended = active.suspend(None, world.organizations.now()).unwrap();
    world.store.change(suspended, on_behalf_of("ann")).await.unwrap();
    world.organizations.watch.changed(&org("acme"));
    let told = || world.organizations.statuses().cached(&org("acme")).map(|answer| answer.unwrap().status);
    eventually(WAIT, async || told() == Some(OrganizationStatus::Suspended)).await;
    world.organizations.tell_decisions(&org("acme"), &earlier, true);
    assert_eq!(known(&world, "acme"), Ok(OrganizationStatus::Suspended));
    shutdown.trigger();
    shutdown.wait().await.unwrap();
}

#[tokio::test]
async fn after_a_start_nobody_is_let_in_unseen_while_the_store_is_away() {
    let world = World::new().await;
    world.store.close().await;
    let statuses = world.organizations.statuses();
    assert_eq!(statuses.status(&org("acme")).await, Err(StatusError::Unknown));
    // Which counts as active elsewhere; this never does.
    assert_eq!(Authority(statuses.clone()).status(&org("acme")).await, Err(StatusError::Forgotten));
}

#[tokio::test]
async fn where_it_is_not_known_what_was_stored_the_store_is_asked_again() {
    let world = World::new().await;
    world.active("acme").await;
    for fault in [Fault::Unavailable, Fault::Aborted] {
        world.store.inject(fault);
        world.organizations.suspend(order("acme"), "ann").await.unwrap_err();
        assert_eq!(world.organizations.statuses().cached(&org("acme")), None);
        let answer = world.organizations.statuses().status(&org("acme")).await.unwrap();
        assert_eq!(answer.status, OrganizationStatus::Active);
    }
}

#[tokio::test]
async fn a_write_that_failed_changed_nothing_and_can_be_repeated() {
    let world = World::new().await;
    world.active("acme").await;
    for fault in [Fault::Unavailable, Fault::Aborted] {
        world.store.inject(fault);
        let refused = world.organizations.suspend(order("acme"), "ann").await.unwrap_err();
        assert!(matches!(refused, LifecycleError::Store(_)));
        assert_eq!(world.kind("acme").await, StatusKind::Active);
    }
    world.organizations.suspend(order("acme"), "ann").await.unwrap();
    assert_eq!(world.records("acme").await, 3);
}

#[tokio::test]
async fn one_of_many_operators_suspends_and_the_others_are_told() {
    let world = World::new().await;
    world.active("acme").await;
    let attempts = (0..10).map(|_| world.organizations.suspend(order("acme"), "ann"));
    let outcomes = join_all(attempts).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for refused in outcomes.into_iter().filter_map(Result::err) {
        assert!(matches!(refused, LifecycleError::Refused(_)), "{refused}");
    }
    assert_eq!(world.records("acme").await, 3);
}

#[tokio::test]
async fn many_copies_of_one_request_make_one_organization() {
    let world = World::new().await;
    let created = join_all((0..10).map(|_| world.organizations.create(request("acme")))).await;
    assert!(created.iter().all(Result::is_ok));
    let id = org("acme");
    let activated = join_all((0..10).map(|_| world.organizations.activate(&id))).await;
    assert!(activated.iter().all(Result::is_ok));
    assert_eq!(world.records("acme").await, 2);
}

#[tokio::test]
async fn a_change_is_stored_although_its_caller_left() {
    let world = World::new().await;
    world.active("acme").await;
    // Long enough to be decided and handed over, and no longer.
    assert!(world.organizations.suspend(order("acme"), "ann").now_or_never().is_none());
    eventually(WAIT, async || world.kind("acme").await == StatusKind::Suspended).await;
}

#[tokio::test]
async fn creating_and_abandoning_at_the_same_time_leaves_no_organization_behind() {
    for _ in 0..20 {
        let world = World::new().await;
        let id = org("acme");
        let (created, abandoned) =
            tokio::join!(world.organizations.create(request("acme")), world.organizations.abandon(&id));
        abandoned.unwrap();
        if let Err(refused) = created {
            assert!(matches!(refused, LifecycleError::IdTaken), "{refused}");
        }
        let gone = world.organizations.get(&org("acme")).await.unwrap_err();
        assert!(matches!(gone, LifecycleError::NotFound));
    }
}

#[tokio::test]
async fn the_reaper_takes_what_is_due_and_nothing_else() {
    let world = World::new().await;
    world.active("active").await;
    world.deleted("due", 1.0).await;
    world.deleted("not-yet", 2.0).await;
    world.deleted("restored", 1.0).await;
    world.organizations.restore(order("restored"), "ann").await.unwrap();
    let mut reaper = world.reaper(false);
    assert_eq!(reaper.reap(|| false).await.unwrap(), Some(Reaped::default()));

    world.clock.advance(SignedDuration::from_hours(24));
    assert_eq!(reaper.reap(|| false).await.unwrap(), Some(Reaped { due: 1, begun: 1 }));
    assert_eq!(world.kind("due").await, StatusKind::Purging);
    assert_eq!(world.kind("not-yet").await, StatusKind::PendingDeletion);
    for untouched in ["active", "restored", "default"] {
        assert_eq!(world.kind(untouched).await, StatusKind::Active);
    }
    assert_eq!(reaper.reap(|| false).await.unwrap(), Some(Reaped::default()), "once is enough");
    let last = &world.store.audit_events(&org("due"), None, 1).await.unwrap()[0];
    assert_eq!(
        (last.actor.as_str(), last.action.as_str()),
        ("service:lifecycle", "organization_purge_begun")
    );
}

#[tokio::test]
async fn the_reaper_takes_more_than_one_batch_and_no_other_reaper_does_meanwhile() {
    let world = World::new().await;
    for number in 0..120 {
        world.deleted(&format!("org-{number}"), 1.0).await;
    }
    world.clock.advance(SignedDuration::from_hours(24));
    assert_eq!(world.reaper(true).reap(|| false).await.unwrap(), Some(Reaped { due: 120, begun: 0 }));
    let (mut one, mut other) = (world.reaper_of("one", false), world.reaper_of("other", false));
    let (one, other) = tokio::join!(one.reap(|| false), other.reap(|| false));
    assert_eq!((one.unwrap(), other.unwrap()), (Some(Reaped { due: 120, begun: 120 }), None));
    let counts = world.store.counts().await.unwrap();
    assert_eq!((counts.of(StatusKind::Purging), counts.of(StatusKind::PendingDeletion)), (120, 0));
}

#[tokio::test]
async fn a_reaper_that_lost_its_lease_changes_nothing_and_is_followed_by_another() {
    let world = World::new().await;
    for number in 0..3 {
        world.deleted(&format!("org-{number}"), 1.0).await;
    }
    world.clock.advance(SignedDuration::from_hours(24));
    let (mut late, mut next) = (world.reaper_of("late", false), world.reaper_of("next", false));
    let store = world.store.clone();
    // Held up between its first purge and the second, until another has taken over.
    let mut looks = 0;
    let stuck = late.reap(|| {
        looks += 1;
        if looks == 2 {
            let lease = Lease { name: "reaper", owner: "late".to_owned(), token: 1 };
            store.return_lease(&lease).now_or_never().unwrap().unwrap();
            assert!(store.take_lease("reaper", "next", LEASE).now_or_never().unwrap().unwrap().is_some());
        }
        false
    });
    assert_eq!(stuck.await.unwrap(), Some(Reaped { due: 2, begun: 1 }), "it stops where it notices");
    assert_eq!(late.reap(|| false).await.unwrap(), None);
    assert_eq!(next.reap(|| false).await.unwrap(), Some(Reaped { due: 2, begun: 2 }));
    assert_eq!(world.records("org-1").await, 4, "each purge began once");
}

/// Time moves when nothing else can: nobody waits for real.
#[tokio::test(start_paused = true)]
async fn a_reaper_that_stops_gives_its_lease_back_and_one_that_dies_lets_it_run_out() {
    let world = World::new().await;
    // Takes it for no time, so that nobody is kept from it.
    let take = || world.store.take_lease("reaper", "other", Duration::ZERO);
    let shutdown = Shutdown::new();
    let ended = world.reaper(false).run_in_background(&shutdown);
    eventually(WAIT, async || take().await.unwrap().is_none()).await;
    // It is renewed although nothing else happens.
    for _ in 0..60 {
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(take().await.unwrap(), None);
    }
    shutdown.trigger();
    ended.await.unwrap();
    assert!(take().await.unwrap().is_some());

    let mut dead = world.reaper(false);
    assert!(dead.reap(|| false).await.unwrap().is_some());
    drop(dead);
    let begin = Instant::now();
    eventually(Duration::from_mins(2), async || take().await.unwrap().is_some()).await;
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(25) && took < Duration::from_secs(35), "{took:?}");
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let world = World::new().await;
    let deleted = world.deleted("due", 1.0).await;
    world.clock.advance(SignedDuration::from_hours(48));
    assert_eq!(world.reaper(true).reap(|| false).await.unwrap(), Some(Reaped { due: 1, begun: 0 }));
    assert_eq!(world.organizations.get(&deleted.id).await.unwrap(), deleted);
}

#[tokio::test]
async fn a_restoration_next_to_the_reaper_wins_or_is_refused_but_never_half() {
    for _ in 0..20 {
        let world = World::new().await;
        world.deleted("acme", 1.0).await;
        world.clock.advance(SignedDuration::from_hours(24));
        let mut reaper = world.reaper(false);
        let (outcome, look) =
            tokio::join!(world.organizations.restore(order("acme"), "ann"), reaper.reap(|| false));
        let status = world.organizations.get(&org("acme")).await.unwrap().status;
        match outcome {
            Ok(_) => assert_eq!((status, look.unwrap().unwrap().begun), (Status::Active, 0)),
            Err(_) => assert_eq!((status.kind(), look.unwrap().unwrap().begun), (StatusKind::Purging, 1)),
        }
    }
}

/// Time moves when nothing else can: nobody waits for real.
#[tokio::test(start_paused = true)]
async fn tenants_are_counted_soon_after_a_change_but_seldom_and_until_it_succeeds() {
    let (changed, counted) = (Notify::new(), Cell::new(0_u32));
    let begin = Instant::now();
    let refreshing = refresh_whenever(&changed, || {
        counted.set(counted.get() + 1);
        let away = begin.elapsed() < Duration::from_secs(2);
        ready(if away { Err(StoreError::Unavailable("away")) } else { Ok(()) })
    });
    let checking = async {
        changed.notify_one();
        // Once a pause, until it succeeds, and then no more.
        eventually(WAIT, async || begin.elapsed() > Duration::from_secs(10)).await;
        assert_eq!(counted.get(), 9);
        // A thousand changes in ten seconds.
        for _ in 0..1000 {
            changed.notify_one();
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!((40..=50).contains(&counted.get()), "{}", counted.get());
        changed.notify_one();
        let before = counted.get();
        eventually(Duration::from_secs(1), async || counted.get() > before).await;
    };
    tokio::select! { () = refreshing => {}, () = checking => {} }
}
