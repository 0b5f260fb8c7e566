//! Changes, cuts, silences, restarts and losses at random. Whatever happens, a consumer's versions never go back, a state is
//! always the one of its version, ages are honest, and what is known to be closed is never let in; in the end it knows what is
//! stored (I6, I7, I8).

use std::{cell::Cell, collections::HashMap, time::Duration};

use pulse_entitlements::{EntitlementSource as _, Source, SourceError, SubscriptionState};
use pulse_proto::billing::v1 as billing;
use pulse_rpc::watch::{Now, hub::Limits};
use pulse_tenant_client::Following;
use pulse_tenant_guard::{Decision, OrganizationStatus, Requirement, StatusError, StatusSource as _};
use pulse_testkit::eventually;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::time::{Instant, sleep, timeout};

use crate::{World, org, service::Replica, store::Statuses};

const TENANTS: u64 = 6;

/// How late a replica may hear of a change, which it does not know itself.
const LAG: Duration = Duration::from_millis(300);

/// The most that a confirmed answer may be old by its own account: the silence that is taken for peace.
const OLDEST: Duration = Duration::from_secs(15);

/// The version of a tenant that is gone.
const GONE: u64 = u64::MAX;

/// Few, so that they are too few now and then.
fn limits() -> Limits {
    Limits { kept: 8, unread: 4, heartbeat: Duration::from_secs(2), ..Limits::default() }
}

fn id(number: u64) -> String {
    format!("org-{number}")
}

fn millis(chance: &mut SmallRng, most: u64) -> Duration {
    Duration::from_millis(chance.random_range(0..most))
}

/// Changes tenants, and has the replicas hear of it sooner or later, or that they missed something.
async fn write(world: &World, mut chance: SmallRng) {
    for _ in 0..150 {
        sleep(millis(&mut chance, 1500)).await;
        let id = id(chance.random_range(0..TENANTS));
        let is_gone = world.store.organizations.version_at(&org(&id), Instant::now()) == GONE;
        match chance.random_range(0..100) {
            _ if is_gone => continue,
            0 => {
                world.store.remove_organization(&id, Now::Gone);
                world.store.remove_billing(&id, Now::Gone);
            }
            1..25 => drop(world.store.set_status(&id, Statuses::Active)),
            25..45 => drop(world.store.set_status(&id, Statuses::Suspended)),
            45..50 => drop(world.store.set_status(&id, Statuses::PendingDeletion)),
            50..80 => drop(world.store.set_plan(&id, "pro", None)),
            _ => drop(world.store.suspend_billing(&id)),
        }
        for replica in &world.replicas {
            let (hubs, id, late) = (replica.hubs(), id.clone(), millis(&mut chance, 300));
            match chance.random_range(0..20) {
                // Whoever loses a hint knows that something was lost.
                0 => hubs.missed(),
                1..14 => hubs.changed(&id),
                _ => drop(tokio::spawn(async move {
                    sleep(late).await;
                    hubs.changed(&id);
                })),
            }
        }
    }
}

/// What is done to the network, and when it was last healed.
struct Trouble {
    over: Cell<bool>,
    healed: Cell<Instant>,
}

impl Trouble {
    /// Cuts and freezes and restarts until it is over, and then leaves everything whole.
    async fn make(&self, world: &World, mut chance: SmallRng) {
        while !self.over.get() {
            sleep(millis(&mut chance, 12_000)).await;
            let network = [&world.to_lifecycle, &world.to_billing][chance.random_range(0..2)];
            match chance.random_range(0..10) {
                0..5 => network.cut(),
                5..8 => network.freeze(),
                _ => {
                    world.to_lifecycle.cut();
                    world.to_billing.cut();
                    world.replicas[chance.random_range(0..2)].restart(chance.next_u64());
                }
            }
            world.to_lifecycle.turn_to(chance.random_range(0..2));
            world.to_billing.turn_to(chance.random_range(0..2));
            let most = if chance.random_ratio(1, 3) { 30_000 } else { 3_000 };
            sleep(millis(&mut chance, most)).await;
            world.to_lifecycle.heal();
            world.to_billing.heal();
            self.healed.set(Instant::now());
        }
    }

    /// Whether what was held back may still be on its way.
    fn is_settling(&self) -> bool {
        self.healed.get().elapsed() < Duration::from_secs(1)
    }
}

/// A consumer, and the versions that it has answered with.
struct Consumer<'a> {
    world: &'a World,
    trouble: &'a Trouble,
    statuses: HashMap<String, u64>,
    billing: HashMap<String, u64>,
    answers: Answers,
}

/// How its answers were known.
#[derive(Debug, Default)]
struct Answers {
    cached: usize,
    fresh: usize,
    stale: usize,
}

impl Answers {
    fn add(&mut self, source: Source) {
        match source {
            Source::Cached => self.cached += 1,
            Source::Fresh => self.fresh += 1,
            Source::Stale | Source::Default => self.stale += 1,
        }
    }
}

impl Consumer<'_> {
    /// Until what an answer of that age must be up to date, whenever it was asked.
    fn is_honest(&self, source: Source, age: Duration, asked: Instant) -> Option<Instant> {
        assert!(source != Source::Cached || age <= OLDEST, "a {source:?} answer of {age:?}");
        if self.trouble.is_settling() {
            None
        } else {
            asked.checked_sub(age + LAG + Duration::from_millis(10))
        }
    }

    async fn ask_status(&mut self, id: &str) {
        let (asked, table) = (Instant::now(), &self.world.store.organizations);
        let known = self.statuses.get(id).copied();
        let version = match self.world.client.statuses().status(&org(id)).await {
            Ok(answer) => {
                let Some(Now::State { state, .. }) = table.at_version(&org(id), answer.version) else {
                    panic!("{id} never had a version {}", answer.version);
                };
                let status = match state.status {
                    Statuses::Active => OrganizationStatus::Active,
                    Statuses::Suspended => OrganizationStatus::Suspended,
                    Statuses::PendingDeletion => OrganizationStatus::PendingDeletion,
                    other => panic!("{other:?}"),
                };
                assert_eq!(answer.status, status, "{id}@{}", answer.version);
                self.answers.add(answer.source);
                if let Some(then) = self.is_honest(answer.source, answer.age, asked) {
                    let least = table.version_at(&org(id), then);
                    assert!(answer.version >= least, "{id}: {answer:?}, but it was {least} before");
                }
                answer.version
            }
            Err(StatusError::NotFound) => GONE,
            Err(StatusError::Unknown) if known.is_none() => return,
            Err(error) => panic!("{id}, known at {known:?}: {error}"),
        };
        assert!(known <= Some(version), "{id}: {version} after {known:?}");
        assert!(version != GONE || table.version_at(&org(id), Instant::now()) == GONE, "{id} is not gone");
        self.statuses.insert(id.to_owned(), version);
    }

    async fn ask_entitlements(&mut self, id: &str) {
        let (asked, table) = (Instant::now(), &self.world.store.billing_states);
        let known = self.billing.get(id).copied();
        let revision = match self.world.client.entitlements().entitlements(&org(id)).await {
            Ok(answer) if answer.revision == 0 => {
                assert!(known.is_none(), "{id}: {answer:?} after {known:?}");
                return;
            }
            Ok(answer) => {
                let Some(Now::State { state, .. }) = table.at_version(&org(id), answer.revision) else {
                    panic!("{id} never had a revision {}", answer.revision);
                };
                let state = match state.subscription_state() {
                    billing::SubscriptionState::Active => SubscriptionState::Active,
                    billing::SubscriptionState::Suspended => SubscriptionState::Suspended,
                    other => panic!("{other:?}"),
                };
                assert_eq!(answer.entitlements.subscription_state, state, "{id}@{}", answer.revision);
                self.answers.add(answer.source);
                if let Some(then) = self.is_honest(answer.source, answer.age, asked) {
                    let least = table.version_at(&org(id), then);
                    assert!(answer.revision >= least, "{id}: {answer:?}, but it was {least} before");
                }
                answer.revision
            }
            Err(SourceError::Purged) => GONE,
        };
        assert!(known <= Some(revision), "{id}: {revision} after {known:?}");
        assert!(revision != GONE || table.version_at(&org(id), Instant::now()) == GONE, "{id} is not gone");
        self.billing.insert(id.to_owned(), revision);
    }

    /// While lifecycle cannot be reached, whom it was known to have closed is not let in.
    async fn ask_guard(&self, id: &str) {
        let known = self
            .statuses
            .get(id)
            .map(|version| self.world.store.organizations.at_version(&org(id), *version));
        let is_closed = match known {
            Some(Some(Now::State { state, .. })) => state.status != Statuses::Active,
            Some(Some(Now::Gone)) => true,
            _ => false,
        };
        if is_closed && !self.world.to_lifecycle.is_open() {
            let verdict = self.world.client.guard().check(&org(id), &Requirement::active()).await;
            let is_open = self.world.to_lifecycle.is_open();
            assert!(is_open || verdict.decision != Decision::Allow, "{id}: {verdict:?}");
        }
    }

    /// Asks about anybody, until it is over.
    async fn ask(&mut self, mut chance: SmallRng) {
        while !self.trouble.over.get() {
            sleep(millis(&mut chance, 400)).await;
            let id = id(chance.random_range(0..TENANTS));
            self.ask_status(&id).await;
            self.ask_entitlements(&id).await;
            self.ask_guard(&id).await;
        }
    }

    /// Whether it knows what is stored, and has been told so.
    async fn is_right(&mut self) -> Result<(), String> {
        for number in 0..TENANTS {
            let id = id(number);
            self.ask_status(&id).await;
            self.ask_entitlements(&id).await;
            let now = Instant::now();
            let stored = [
                self.world.store.organizations.version_at(&org(&id), now),
                self.world.store.billing_states.version_at(&org(&id), now),
            ];
            let known = [self.statuses.get(&id).copied(), self.billing.get(&id).copied()];
            if known != stored.map(Some) {
                return Err(format!("{id}: {known:?}, and stored is {stored:?}"));
            }
        }
        Ok(())
    }
}

/// Returns how answers were known.
async fn run(seed: u64) -> Answers {
    let world = World::with(2, limits());
    world.replicas[1].remembers_for(Duration::from_secs(4));
    let mut chance = SmallRng::seed_from_u64(seed);
    for number in 0..TENANTS {
        world.store.set_status(&id(number), Statuses::Active);
        world.store.set_plan(&id(number), "pro", None);
    }
    let following: Following = world.client.follow(&world.shutdown);
    let trouble = Trouble { over: Cell::new(false), healed: Cell::new(Instant::now()) };
    let mut fork = || SmallRng::seed_from_u64(chance.next_u64());
    let (writer, troubler, asker) = (fork(), fork(), fork());
    let mut consumer = Consumer {
        world: &world,
        trouble: &trouble,
        statuses: HashMap::new(),
        billing: HashMap::new(),
        answers: Answers::default(),
    };
    let writing = async {
        write(&world, writer).await;
        trouble.over.set(true);
    };
    tokio::join!(writing, trouble.make(&world, troubler), consumer.ask(asker));

    following.synced().await;
    eventually(Duration::from_secs(30), async || consumer.is_right().await).await;
    // And from then on it is told: nobody has to be asked, once nothing counts that a replica remembered from before.
    for _ in 0..4 {
        sleep(Duration::from_secs(4)).await;
        consumer.is_right().await.unwrap();
    }
    let reads: usize = world.replicas.iter().map(Replica::reads).sum();
    sleep(Duration::from_secs(10)).await;
    consumer.is_right().await.unwrap();
    assert_eq!(world.replicas.iter().map(Replica::reads).sum::<usize>(), reads);
    consumer.answers
}

#[tokio::test(start_paused = true)]
async fn versions_never_go_back_ages_are_honest_and_nothing_is_missed() {
    let mut all = Answers::default();
    for seed in 0..30 {
        let ran = timeout(Duration::from_hours(1), run(seed)).await;
        let answers = ran.unwrap_or_else(|_| panic!("seed {seed}: it is never right"));
        all.cached += answers.cached;
        all.fresh += answers.fresh;
        all.stale += answers.stale;
    }
    assert!(all.cached > all.fresh && all.fresh > 100 && all.stale > 100, "that was too easy: {all:?}");
}
