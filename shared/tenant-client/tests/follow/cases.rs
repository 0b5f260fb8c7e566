//! What a consumer knows while it is told, while it is cut off, and when it is back.

use std::time::Duration;

use pulse_entitlements::{EntitlementSource as _, Source, SubscriptionState};
use pulse_kernel::Clock as _;
use pulse_rpc::watch::{Now, hub::Limits};
use pulse_tenant_guard::{
    Decision, DenyReason, Requirement, StatusAnswer, StatusError, StatusSource as _, Verdict,
};
use pulse_testkit::eventually;
use tokio::time::{Instant, advance, sleep};

use crate::{
    AT_ONCE, World, org,
    service::{NAMELESS, Replica},
    store::Statuses,
};

const ALERTING: Requirement<'_> = Requirement::capability("alerting");
const SUSPENDED: Decision = Decision::Deny(DenyReason::OrgSuspended);
const INACTIVE: Decision = Decision::Deny(DenyReason::SubscriptionInactive);

/// How long silence is taken for a stream that is whole.
const SILENCE: Duration = Duration::from_secs(15);

impl World {
    async fn check(&self, id: &str) -> Verdict {
        self.client.guard().check(&org(id), &ALERTING).await
    }

    async fn decision(&self, id: &str) -> Decision {
        self.check(id).await.decision
    }

    async fn status(&self, id: &str) -> Result<StatusAnswer, StatusError> {
        self.client.statuses().status(&org(id)).await
    }

    /// What a tenant's subscription is, and how that is known.
    async fn subscription(&self, id: &str) -> (SubscriptionState, Source) {
        let answer = self.client.entitlements().entitlements(&org(id)).await.unwrap();
        (answer.entitlements.subscription_state, answer.source)
    }

    /// Asks until the decision is that one, for no longer than a change takes.
    async fn becomes(&self, id: &str, decision: Decision) {
        eventually(AT_ONCE, async || {
            let verdict = self.check(id).await;
            if verdict.decision == decision { Ok(()) } else { Err(verdict) }
        })
        .await;
    }

    /// How often anything was asked about a tenant.
    fn reads(&self) -> usize {
        self.replicas.iter().map(Replica::reads).sum()
    }

    fn changed(&self, id: &str) {
        for replica in &self.replicas {
            replica.hubs().changed(id);
        }
    }

    /// An operator's and billing's changes, of which every replica hears.
    fn suspend(&self, id: &str) {
        self.store.set_status(id, Statuses::Suspended);
        self.changed(id);
    }

    fn unsuspend(&self, id: &str) {
        self.store.set_status(id, Statuses::Active);
        self.changed(id);
    }

    fn cut(&self) {
        self.to_lifecycle.cut();
        self.to_billing.cut();
    }

    fn heal(&self) {
        self.to_lifecycle.heal();
        self.to_billing.heal();
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_counts_at_once_and_nobody_is_asked() {
    let world = World::start();
    assert_eq!(world.decision("acme").await, Decision::Allow);
    let following = world.follow().await;
    assert_eq!(world.decision("acme").await, Decision::Allow);
    let reads = world.reads();
    for _ in 0..3 {
        world.suspend("acme");
        world.becomes("acme", SUSPENDED).await;
        world.unsuspend("acme");
        world.becomes("acme", Decision::Allow).await;
        world.store.suspend_billing("acme");
        world.changed("acme");
        world.becomes("acme", INACTIVE).await;
        world.store.set_plan("acme", "pro", None);
        world.changed("acme");
        world.becomes("acme", Decision::Allow).await;
    }
    // Also of a tenant that nobody has asked about.
    world.suspend("other");
    sleep(AT_ONCE).await;
    assert_eq!(world.decision("other").await, SUSPENDED);
    assert_eq!(world.status("other").await.unwrap().source, Source::Cached);
    assert_eq!((world.reads() - reads, following.is_following()), (0, true));
}

#[tokio::test(start_paused = true)]
async fn while_it_is_told_nothing_is_asked_again_and_answers_are_never_old() {
    let world = World::start();
    world.follow().await;
    world.decision("acme").await;
    // Until the first heartbeat it is a cache as any other.
    sleep(Duration::from_secs(5)).await;
    world.decision("acme").await;
    let reads = world.reads();
    for _ in 0..500 {
        sleep(Duration::from_secs(7)).await;
        let verdict = world.check("acme").await;
        assert!(verdict.is_certain() && verdict.decision == Decision::Allow, "{verdict:?}");
        let (status, entitled) = (verdict.status.unwrap(), verdict.entitlements.unwrap().unwrap());
        assert_eq!((status.source, entitled.source), (Source::Cached, Source::Cached));
        assert!(status.age.max(entitled.age) <= Duration::from_secs(6), "{status:?} {entitled:?}");
    }
    assert_eq!(world.reads(), reads);
}

#[tokio::test(start_paused = true)]
async fn a_trial_is_over_at_that_second_whether_anybody_says_so_or_not() {
    let world = World::start();
    world.follow().await;
    for id in ["acme", "other"] {
        world.store.set_status(id, Statuses::Active);
        world.changed(id);
        // What is not known of is not told either.
        world.subscription(id).await;
        let (state, now) = (SubscriptionState::Trial, world.clock.now());
        world.store.set_plan(id, "trial", Some(now + Duration::from_secs(100)));
        world.changed(id);
        sleep(AT_ONCE).await;
        assert_eq!(world.subscription(id).await, (state, Source::Cached));
        if id == "other" {
            world.cut();
        }
        // To the last moment before.
        let over =
            Duration::try_from((now + Duration::from_secs(100)).duration_since(world.clock.now())).unwrap();
        sleep(over.saturating_sub(Duration::from_millis(2))).await;
        assert_eq!(world.subscription(id).await.0, state, "{id}");
        advance(Duration::from_millis(2)).await;
        assert_eq!(world.subscription(id).await.0, SubscriptionState::Expired, "{id}");
        assert_eq!(world.decision(id).await, INACTIVE, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_off_asks_and_then_goes_by_what_it_knows_and_says_so() {
    let world = World::start();
    world.suspend("closed");
    let following = world.follow().await;
    assert_eq!((world.decision("acme").await, world.decision("closed").await), (Decision::Allow, SUSPENDED));
    sleep(Duration::from_mins(1)).await;
    world.cut();
    eventually(AT_ONCE, async || !following.is_following()).await;
    // What was confirmed within the refresh age counts as ever; what is older has to be asked for.
    eventually(Duration::from_secs(3), async || world.status("acme").await.unwrap().source == Source::Stale)
        .await;
    let mut last = Duration::ZERO;
    for _ in 0..20 {
        sleep(Duration::from_mins(1)).await;
        let verdict = world.check("acme").await;
        assert!(verdict.decision == Decision::Allow && !verdict.is_certain(), "{verdict:?}");
        let (status, entitled) = (verdict.status.unwrap(), verdict.entitlements.unwrap().unwrap());
        assert_eq!((status.source, entitled.source), (Source::Stale, Source::Stale));
        assert!(status.age > last && entitled.age > last, "{status:?} {entitled:?} after {last:?}");
        last = status.age.min(entitled.age);
        assert_eq!(world.decision("closed").await, SUSPENDED);
    }
    // Beyond the bound what was open is not known any more, and what was closed still is.
    sleep(Duration::from_hours(1)).await;
    assert!(world.status("acme").await.is_err());
    assert_eq!(world.decision("closed").await, SUSPENDED);
}

#[tokio::test(start_paused = true)]
async fn what_changes_while_it_is_cut_off_is_known_when_it_is_back() {
    for back_to in [0, 1] {
        let world = World::with(2, Limits::default());
        let following = world.follow().await;
        assert_eq!(world.decision("acme").await, Decision::Allow);
        for replica in [back_to, 1 - back_to] {
            world.cut();
            eventually(AT_ONCE, async || !following.is_following()).await;
            world.suspend("acme");
            world.to_lifecycle.turn_to(replica);
            world.to_billing.turn_to(replica);
            sleep(Duration::from_secs(1)).await;
            assert_eq!(world.decision("acme").await, Decision::Allow, "it cannot know");
            world.heal();
            following.synced().await;
            sleep(AT_ONCE).await;
            assert_eq!(world.decision("acme").await, SUSPENDED);
            world.unsuspend("acme");
            world.becomes("acme", Decision::Allow).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_to_the_same_server_need_not_ask_again() {
    let world = World::start();
    let following = world.follow().await;
    world.decision("acme").await;
    sleep(Duration::from_secs(20)).await;
    let reads = world.reads();
    world.cut();
    eventually(AT_ONCE, async || !following.is_following()).await;
    world.suspend("other");
    world.heal();
    following.synced().await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!((world.decision("acme").await, world.decision("other").await), (Decision::Allow, SUSPENDED));
    assert_eq!(world.reads(), reads);

    // A server that has restarted does not know what it told before.
    world.cut();
    eventually(AT_ONCE, async || !following.is_following()).await;
    world.store.set_status("acme", Statuses::Suspended);
    world.replicas[0].restart(7);
    world.heal();
    following.synced().await;
    assert_eq!(world.decision("acme").await, SUSPENDED);
    assert_eq!(world.reads() - reads, 1, "the status is asked for again, and refuses by itself");
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_was_held_back_is_as_old_as_it_is() {
    let world = World::start();
    let _following = world.follow().await;
    world.decision("acme").await;
    let age = async || world.status("acme").await.unwrap().age;
    sleep(Duration::from_secs(7)).await;
    eventually(Duration::from_secs(6), async || age().await < AT_ONCE).await;
    world.to_lifecycle.freeze();
    // One is sent, and then there is a while to the next.
    sleep(Duration::from_secs(9)).await;
    assert!(age().await >= Duration::from_secs(8));
    world.heal();
    eventually(AT_ONCE, async || age().await < Duration::from_secs(8)).await;
    assert!(age().await >= Duration::from_secs(3), "{:?}", age().await);
}

#[tokio::test(start_paused = true)]
async fn silence_is_taken_for_peace_for_a_bounded_time_only() {
    let world = World::start();
    let following = world.follow().await;
    world.decision("acme").await;
    sleep(Duration::from_mins(1)).await;
    world.to_lifecycle.freeze();
    world.to_billing.freeze();
    world.suspend("acme");
    // As long as it answers as if it were told, it says how old that is.
    loop {
        let answer = world.status("acme").await.unwrap();
        assert!(answer.age <= SILENCE + Duration::from_secs(2), "{answer:?}");
        if answer.source == Source::Stale {
            break;
        }
        sleep(Duration::from_millis(500)).await;
    }
    assert!(!following.is_following());
    world.heal();
    following.synced().await;
    eventually(Duration::from_secs(2), async || world.decision("acme").await == SUSPENDED).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_cut_off_from_its_store_is_believed_no_more_than_it_says() {
    let world = World::start();
    let following = world.follow().await;
    world.decision("acme").await;
    sleep(Duration::from_mins(1)).await;
    world.store.organizations.fail(true);
    world.suspend("acme");
    let failed = Instant::now();
    loop {
        let answer = world.status("acme").await.unwrap();
        // It was right until the store failed, and every heartbeat says for how long it may not have been.
        assert!(answer.age + AT_ONCE >= failed.elapsed(), "{answer:?} after {:?}", failed.elapsed());
        if answer.source == Source::Stale {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert!(failed.elapsed() < SILENCE + AT_ONCE && following.is_following());
    world.store.organizations.fail(false);
    eventually(Duration::from_secs(2), async || world.decision("acme").await == SUSPENDED).await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_is_gone_or_that_nobody_can_read() {
    let world = World::start();
    let following = world.follow().await;
    world.decision("acme").await;
    world.suspend("acme");
    world.becomes("acme", SUSPENDED).await;
    world.store.remove_organization("acme", Now::Unreadable);
    world.changed("acme");
    sleep(AT_ONCE).await;
    let answer = world.status("acme").await.unwrap();
    assert_eq!(
        (answer.source, world.decision("acme").await),
        (Source::Stale, SUSPENDED),
        "the best that is known"
    );

    world.store.remove_organization("acme", Now::Gone);
    world.changed("acme");
    world.becomes("acme", Decision::Deny(DenyReason::OrgNotFound)).await;
    // A server that does not know that it is purged, but only that it is not there, says the same.
    world.cut();
    world.replicas[0].restart(7);
    sleep(AT_ONCE).await;
    world.heal();
    following.synced().await;
    let reads = world.reads();
    for _ in 0..3 {
        assert_eq!(world.status("acme").await, Err(StatusError::NotFound));
        sleep(Duration::from_secs(6)).await;
    }
    assert_eq!(world.reads() - reads, 1, "and is asked once");
    // Nothing comes after that, even with everybody away.
    world.cut();
    sleep(Duration::from_hours(2)).await;
    assert_eq!(world.status("acme").await, Err(StatusError::NotFound));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_nobody_knows_whom_may_be_anybodys() {
    let world = World::start();
    let following = world.follow().await;
    world.decision("acme").await;
    sleep(Duration::from_secs(20)).await;
    let reads = world.reads();
    world.suspend(NAMELESS);
    sleep(AT_ONCE).await;
    assert_eq!(world.decision("acme").await, Decision::Allow);
    assert_eq!((world.reads() - reads, following.is_following()), (1, true), "the status was asked for");
    sleep(Duration::from_secs(20)).await;
    world.decision("acme").await;
    assert_eq!(world.reads() - reads, 1, "and counts as ever from then on");
}

#[tokio::test(start_paused = true)]
async fn what_a_replica_remembers_from_before_is_not_taken_for_what_is_told() {
    let world = World::with(2, Limits::default());
    // The second replica remembers what it has read, and does not hear of changes.
    world.replicas[1].remembers_for(Duration::from_mins(1));
    world.to_billing.turn_to(1);
    assert_eq!(world.subscription("acme").await, (SubscriptionState::Active, Source::Fresh));
    world.store.suspend_billing("acme");
    sleep(Duration::from_secs(10)).await;
    world.follow().await;
    assert_eq!(world.subscription("acme").await.0, SubscriptionState::Active, "what that replica remembers");
    sleep(Duration::from_mins(1)).await;
    assert_eq!(world.subscription("acme").await.0, SubscriptionState::Suspended);
}

#[tokio::test(start_paused = true)]
async fn a_state_that_was_told_does_not_give_way_to_one_that_a_replica_remembers() {
    let world = World::start();
    let following = world.follow().await;
    world.replicas[0].remembers_for(Duration::from_mins(1));
    assert_eq!(world.subscription("acme").await, (SubscriptionState::Active, Source::Fresh));
    world.store.suspend_billing("acme");
    world.changed("acme");
    world.becomes("acme", INACTIVE).await;
    // Everything has to be asked for, and the answer is the one from before.
    world.cut();
    eventually(AT_ONCE, async || !following.is_following()).await;
    world.replicas[0].restart(7);
    world.heal();
    following.synced().await;
    assert_eq!(world.subscription("acme").await, (SubscriptionState::Suspended, Source::Stale));
    sleep(Duration::from_mins(1)).await;
    assert_eq!(world.subscription("acme").await, (SubscriptionState::Suspended, Source::Fresh));
}
