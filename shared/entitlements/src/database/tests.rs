//! The source against a store that fails, hangs and changes on command.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use jiff::ToSpan;
use proptest::prelude::*;
use pulse_testkit::ManualClock;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    BillingState, BillingStoreError, Source, Stored, SubscriptionState,
    SubscriptionState::{Active, Expired, Suspended, Trial},
    billing::tests::{at, billing},
    cache::Reading,
    effective,
    grants::tests::{any_grants, grants},
};

/// A store in memory. Every read takes a permit from `gate`.
#[derive(Debug)]
struct Store {
    states: Mutex<HashMap<OrgId, Lookup>>,
    failure: Mutex<Option<BillingStoreError>>,
    /// What the last successful read or update of each tenant said.
    told: Mutex<HashMap<OrgId, Lookup>>,
    reads: AtomicUsize,
    /// How long ago the read began that whoever asks joins.
    joined: Mutex<Duration>,
    gate: Semaphore,
}

#[async_trait]
impl BillingStore for Store {
    async fn billing_state(&self, org: &OrgId) -> Result<Lookup, BillingStoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        // What is read is what was there when the read began, as with a snapshot.
        let found = self.states.lock().unwrap().get(org).cloned().unwrap_or(Lookup::NotStored);
        let _permit = self.gate.acquire().await.unwrap();
        if let Some(failure) = self.failure.lock().unwrap().clone() {
            return Err(failure);
        }
        self.told.lock().unwrap().insert(org.clone(), found.clone());
        Ok(found)
    }

    async fn recalled(&self, org: &OrgId) -> Result<Reading<Lookup>, BillingStoreError> {
        let age = *self.joined.lock().unwrap();
        Ok(Reading { age, ..Reading::fresh(self.billing_state(org).await?) })
    }
}

struct Bench {
    clock: ManualClock,
    store: Arc<Store>,
    source: DatabaseSource,
    org: OrgId,
}

impl Bench {
    fn new() -> Self {
        Self::with(DatabaseSourceConfig::default(), &catalog())
    }

    /// At `at(0)`, with an open gate and an empty store.
    fn with(config: DatabaseSourceConfig, catalog: &Catalog) -> Self {
        let clock = ManualClock::at(at(0));
        let store = Arc::new(Store {
            states: Mutex::default(),
            failure: Mutex::default(),
            told: Mutex::default(),
            reads: AtomicUsize::new(0),
            joined: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        });
        let source = DatabaseSource::new(store.clone(), catalog, config, Arc::new(clock.clone()));
        Self { clock, store, source, org: OrgId::parse("acme").unwrap() }
    }

    fn put(&self, state: BillingState, revision: u64) {
        let lookup = stored(state, revision);
        self.store.states.lock().unwrap().insert(self.org.clone(), lookup);
    }

    fn fail(&self) {
        *self.store.failure.lock().unwrap() = Some(BillingStoreError::new("down"));
    }

    fn repair(&self) {
        *self.store.failure.lock().unwrap() = None;
    }

    fn shut(&self) {
        self.store.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn open(&self) {
        self.store.gate.add_permits(Semaphore::MAX_PERMITS);
    }

    fn reads(&self) -> usize {
        self.store.reads.load(Ordering::SeqCst)
    }

    async fn ask(&self) -> Answer {
        let answer = self.source.answer(&self.org).await.unwrap();
        match answer.source {
            Source::Fresh | Source::Cached => assert!(answer.confirmed),
            Source::Stale => assert!(!answer.confirmed),
            // A trial, because the store says that there is no state, or because it says nothing.
            Source::Default => {}
        }
        answer
    }

    /// State, source and age in seconds: what most tests look at.
    async fn look(&self) -> (SubscriptionState, Source, u64) {
        let answer = self.ask().await;
        (answer.entitlements.subscription_state, answer.source, answer.age.as_secs())
    }

    fn seconds(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

fn catalog() -> Catalog {
    Catalog::parse("[trial]\ncapabilities = ['alerting', 'trying']\nlimits = { hosts = 10 }").unwrap()
}

fn stored(state: BillingState, revision: u64) -> Lookup {
    Lookup::Stored(Box::new(Stored { state, revision }))
}

/// Active, with less than a trial has.
fn frugal() -> BillingState {
    BillingState { grants: grants(&["alerting"], &[("hosts", 3)], &[]), ..billing(Active) }
}

#[tokio::test]
async fn the_first_answer_is_fresh_and_the_next_cached_until_the_refresh_age() {
    let bench = Bench::new();
    bench.put(billing(Active), 7);
    let first = bench.ask().await;
    assert_eq!((first.source, first.age, first.revision), (Source::Fresh, Duration::ZERO, 7));
    assert!(first.entitlements.has_capability("alerting"));
    assert_eq!(first.entitlements.limit("hosts"), Some(50));

    bench.seconds(59);
    assert_eq!(bench.look().await, (Active, Source::Cached, 59));
    assert!(Arc::ptr_eq(&first.entitlements, &bench.ask().await.entitlements));
    assert_eq!(bench.reads(), 1);

    bench.put(billing(Suspended), 8);
    bench.seconds(1);
    assert_eq!(bench.look().await, (Suspended, Source::Fresh, 0));
    assert_eq!(bench.reads(), 2);
}

#[tokio::test]
async fn a_clock_set_back_does_not_prolong_the_cache() {
    let bench = Bench::new();
    bench.put(billing(Active), 1);
    bench.ask().await;
    bench.put(billing(Suspended), 2);
    bench.clock.set(at(-86_400));
    assert_eq!(bench.look().await, (Suspended, Source::Fresh, 0));
}

#[tokio::test]
async fn without_a_stored_state_a_trial_is_the_default_and_never_refused_by_the_next_look() {
    let bench = Bench::new();
    for _ in 0..3 {
        let answer = bench.ask().await;
        let entitlements = &answer.entitlements;
        assert_eq!((answer.source, answer.revision, answer.confirmed), (Source::Default, 0, true));
        assert_eq!((entitlements.subscription_state, entitlements.trial_ends_at), (Trial, None));
        assert!(entitlements.has_capability("trying") && entitlements.plan_version.as_str() == "trial");
        assert_eq!(entitlements.valid_until, Some(bench.clock.now() + 60.seconds()));
        assert_eq!(bench.look().await.1, Source::Default);
        bench.seconds(86_400);
    }
    assert_eq!(bench.reads(), 3);
}

#[tokio::test]
async fn with_a_store_that_fails_and_nothing_known_a_trial_is_the_default() {
    let bench = Bench::new();
    bench.fail();
    for day in 0..3 {
        let answer = bench.ask().await;
        assert_eq!(
            (answer.source, answer.entitlements.subscription_state),
            (Source::Default, Trial),
            "{day}"
        );
        assert_eq!(answer.entitlements.valid_until, Some(bench.clock.now() + 60.seconds()));
        assert!(!answer.confirmed);
        bench.seconds(86_400);
    }
}

#[tokio::test]
async fn the_last_known_state_is_served_stale_up_to_the_bound_and_then_no_more_than_both() {
    let bench = Bench::new();
    bench.put(frugal(), 1);
    bench.ask().await;
    bench.fail();
    bench.seconds(60);
    assert_eq!(bench.look().await, (Active, Source::Stale, 60));
    bench.seconds(3540);
    assert_eq!(bench.look().await, (Active, Source::Stale, 3600));
    bench.seconds(1);
    let answer = bench.ask().await;
    assert_eq!((answer.source, answer.entitlements.subscription_state), (Source::Default, Trial));
    assert_eq!(*answer.entitlements.grants, grants(&["alerting"], &[("hosts", 3)], &[]));

    bench.repair();
    bench.seconds(1);
    assert_eq!(bench.look().await, (Active, Source::Fresh, 0));
}

#[tokio::test]
async fn a_failing_store_is_asked_once_a_second_and_not_by_every_request() {
    let bench = Bench::new();
    bench.fail();
    for _ in 0..10 {
        bench.ask().await;
    }
    assert_eq!(bench.reads(), 1);
    bench.seconds(1);
    bench.ask().await;
    assert_eq!(bench.reads(), 2);
}

#[tokio::test]
async fn an_outage_never_unlocks_however_long() {
    for locked in [Expired, Suspended] {
        let bench = Bench::new();
        bench.put(billing(locked), 3);
        bench.ask().await;
        bench.fail();
        for _ in 0..5 {
            bench.seconds(40 * 86_400);
            let answer = bench.ask().await;
            assert_eq!((answer.source, answer.entitlements.subscription_state), (Source::Stale, locked));
            assert!(answer.entitlements.grants.is_empty() && answer.revision == 3);
        }
        bench.put(billing(Active), 4);
        bench.repair();
        bench.seconds(1);
        assert_eq!(bench.look().await, (Active, Source::Fresh, 0));
    }
}

#[tokio::test]
async fn a_trial_that_ends_is_over_at_that_second_cached_or_not() {
    let bench = Bench::new();
    bench.put(BillingState { trial_ends_at: Some(at(30)), ..billing(Trial) }, 1);
    assert_eq!(bench.look().await, (Trial, Source::Fresh, 0));
    bench.seconds(29);
    assert_eq!(bench.look().await, (Trial, Source::Cached, 29));
    bench.seconds(1);
    assert_eq!(bench.look().await, (Expired, Source::Cached, 30));
    assert!(bench.source.cached(&bench.org).is_some(), "and is a hit again");
    assert_eq!(bench.reads(), 1, "time alone asks no store");
}

#[tokio::test]
async fn a_trial_that_would_have_ended_during_an_outage_has_ended() {
    let bench = Bench::new();
    bench.put(BillingState { trial_ends_at: Some(at(7200)), ..billing(Trial) }, 1);
    bench.ask().await;
    bench.fail();
    bench.seconds(4000);
    let answer = bench.ask().await;
    assert_eq!((answer.source, answer.entitlements.subscription_state), (Source::Default, Trial));
    bench.seconds(3190);
    assert_eq!(bench.ask().await.entitlements.valid_until, Some(at(7200)), "no longer than what was known");
    bench.seconds(10);
    assert_eq!(bench.look().await, (Expired, Source::Stale, 7200));
    bench.seconds(365 * 86_400);
    assert_eq!(bench.look().await.0, Expired);
}

#[tokio::test]
async fn a_purged_tenant_is_gone_also_when_the_store_fails() {
    let bench = Bench::new();
    bench.store.states.lock().unwrap().insert(bench.org.clone(), Lookup::Purged);
    assert_eq!(bench.source.answer(&bench.org).await, Err(SourceError::Purged));
    assert_eq!(bench.source.cached(&bench.org), Some(Err(SourceError::Purged)));
    bench.fail();
    bench.seconds(86_400);
    assert_eq!(bench.source.answer(&bench.org).await, Err(SourceError::Purged));
}

#[tokio::test]
async fn what_a_failing_store_recovers_is_served_stale() {
    let bench = Bench::new();
    let recovered = Box::new(Stored { state: billing(Active), revision: 5 });
    let failure = BillingStoreError { message: "unreadable".into(), last_known: Some(recovered) };
    *bench.store.failure.lock().unwrap() = Some(failure);
    let answer = bench.ask().await;
    assert_eq!((answer.source, answer.revision), (Source::Stale, 5));
    assert_eq!(answer.entitlements.subscription_state, Active);
    bench.seconds(3600);
    assert_eq!(
        bench.look().await,
        (Active, Source::Stale, 3600),
        "its age counts from when it was recovered"
    );

    // What a read or an update has said since is newer than what the store recovers.
    bench.source.update(&bench.org, stored(billing(Suspended), 6));
    bench.seconds(3600);
    assert_eq!(bench.look().await, (Suspended, Source::Stale, 3600));
}

#[tokio::test]
async fn many_who_miss_the_same_tenant_read_once() {
    let bench = Bench::new();
    bench.put(billing(Active), 1);
    bench.shut();
    let mut asking = Box::pin(join_all((0..100).map(|_| bench.source.answer(&bench.org))));
    assert!(asking.as_mut().now_or_never().is_none());
    bench.open();
    for answer in asking.await {
        assert_eq!(answer.unwrap().source, Source::Fresh);
    }
    assert_eq!(bench.reads(), 1);
}

#[tokio::test]
async fn a_read_runs_on_when_the_one_who_asked_goes_away() {
    let bench = Bench::new();
    bench.put(billing(Active), 1);
    bench.shut();
    assert!(bench.source.answer(&bench.org).now_or_never().is_none());
    tokio::task::yield_now().await;
    bench.open();
    assert_eq!(bench.look().await, (Active, Source::Fresh, 0));
    assert_eq!(bench.reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_is_given_up() {
    let bench = Bench::new();
    bench.put(billing(Active), 1);
    bench.shut();
    assert_eq!(bench.look().await.1, Source::Default);
    bench.open();
    bench.seconds(1);
    assert_eq!(bench.look().await, (Active, Source::Fresh, 0));
}

#[tokio::test]
async fn a_store_that_panics_is_a_store_that_fails() {
    #[derive(Debug)]
    struct Broken;
    #[async_trait]
    impl BillingStore for Broken {
        async fn billing_state(&self, _: &OrgId) -> Result<Lookup, BillingStoreError> {
            panic!("broken")
        }
    }
    let clock = Arc::new(ManualClock::at(at(0)));
    let source = DatabaseSource::new(Arc::new(Broken), &catalog(), DatabaseSourceConfig::default(), clock);
    let org = OrgId::parse("acme").unwrap();
    for _ in 0..2 {
        assert_eq!(source.answer(&org).await.unwrap().source, Source::Default);
    }
}

#[tokio::test]
async fn an_update_is_served_at_once_and_a_read_that_it_overtook_does_not_undo_it() {
    let bench = Bench::new();
    bench.put(billing(Active), 1);
    bench.shut();
    let mut slow = Box::pin(bench.source.answer(&bench.org));
    assert!(slow.as_mut().now_or_never().is_none());
    tokio::task::yield_now().await;
    assert_eq!(bench.reads(), 1, "it has read revision 1 and is on its way");

    bench.source.update(&bench.org, stored(billing(Suspended), 2));
    assert_eq!(bench.look().await, (Suspended, Source::Cached, 0));
    bench.open();
    assert_eq!(slow.await.unwrap().entitlements.subscription_state, Suspended);
    assert_eq!(bench.look().await, (Suspended, Source::Cached, 0));

    bench.source.update(&bench.org, stored(billing(Active), 1));
    assert_eq!(bench.look().await, (Suspended, Source::Cached, 0), "an older revision is ignored");
    bench.source.update(&bench.org, Lookup::Purged);
    bench.source.update(&bench.org, stored(billing(Active), 3));
    assert_eq!(
        bench.source.answer(&bench.org).await,
        Err(SourceError::Purged),
        "nothing comes after a purge"
    );
}

#[tokio::test]
async fn a_read_that_was_joined_and_began_before_what_is_known_does_not_undo_it() {
    let bench = Bench::new();
    bench.source.update(&bench.org, stored(billing(Suspended), 2));
    bench.put(billing(Active), 1);
    bench.seconds(60);
    *bench.store.joined.lock().unwrap() = Duration::from_secs(61);
    assert_eq!(bench.look().await, (Suspended, Source::Stale, 60));
    bench.seconds(1);
    assert_eq!(bench.look().await, (Active, Source::Fresh, 61), "and a later one is right");
}

#[tokio::test]
async fn an_update_that_overtakes_a_failing_read_is_cached_and_not_stale() {
    let bench = Bench::new();
    bench.fail();
    bench.shut();
    let mut slow = Box::pin(bench.source.answer(&bench.org));
    assert!(slow.as_mut().now_or_never().is_none());
    tokio::task::yield_now().await;
    bench.source.update(&bench.org, stored(billing(Active), 1));
    bench.open();
    assert_eq!(slow.await.unwrap().source, Source::Cached);
    assert_eq!(bench.look().await, (Active, Source::Cached, 0));
}

#[tokio::test]
async fn after_an_invalidation_the_store_is_asked_and_what_is_known_stays_known() {
    let bench = Bench::new();
    bench.put(billing(Suspended), 1);
    bench.ask().await;
    bench.source.invalidate(&bench.org);
    assert!(bench.source.cached(&bench.org).is_none());
    bench.fail();
    assert_eq!(bench.look().await, (Suspended, Source::Stale, 0));

    bench.repair();
    bench.source.invalidate(&bench.org);
    bench.shut();
    let mut slow = Box::pin(bench.source.answer(&bench.org));
    assert!(slow.as_mut().now_or_never().is_none());
    tokio::task::yield_now().await;
    bench.put(billing(Active), 2);
    bench.source.invalidate(&bench.org);
    bench.open();
    assert_eq!(slow.await.unwrap().entitlements.subscription_state, Suspended, "asked before it changed");
    assert_eq!(bench.look().await, (Active, Source::Fresh, 0), "and asked again after");
}

#[tokio::test]
async fn the_cache_is_bounded_and_what_it_forgets_stays_locked() {
    let config = DatabaseSourceConfig { max_entries: 50, ..DatabaseSourceConfig::default() };
    let bench = Bench::with(config, &catalog());
    let orgs: Vec<OrgId> = (0..500).map(|n| OrgId::parse(&format!("org-{n}")).unwrap()).collect();
    let kinds = [billing(Suspended), billing(Expired), frugal(), billing(Trial), billing(Active)];
    for (org, state) in orgs.iter().zip(kinds.iter().cycle()) {
        let state = BillingState { org_id: org.clone(), ..state.clone() };
        bench.source.update(org, stored(state, 1));
    }
    assert!(bench.source.0.len() <= 50);

    bench.fail();
    bench.seconds(7200);
    for (org, state) in orgs.iter().zip(kinds.iter().cycle()) {
        let answer = bench.source.answer(org).await.unwrap();
        let known = effective(state, bench.clock.now());
        assert_eq!(answer.entitlements.is_locked(), known.is_locked(), "{org}");
        assert!(
            known.grants.covers(&answer.entitlements.grants) || state.subscription_state == Active,
            "{org}"
        );
    }
}

#[tokio::test]
async fn when_too_much_is_forgotten_the_unknown_count_as_locked_while_the_store_fails() {
    let config =
        DatabaseSourceConfig { max_entries: 10, max_remembered: 5, ..DatabaseSourceConfig::default() };
    let bench = Bench::with(config, &catalog());
    for n in 0..100 {
        let org = OrgId::parse(&format!("org-{n}")).unwrap();
        bench.source.update(&org, stored(billing(Suspended), 1));
    }
    assert_eq!(bench.look().await, (Trial, Source::Default, 0), "the store says that there is none");
    bench.fail();
    for org in ["org-0", "org-50", "org-99", "never-seen"] {
        let answer = bench.source.answer(&OrgId::parse(org).unwrap()).await.unwrap();
        assert!(answer.entitlements.is_locked(), "{org}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Ask(usize),
    Store(usize, BillingState),
    Push(usize, BillingState),
    Purge(usize),
    Invalidate(usize),
    InvalidateAll,
    Confirm,
    Fail(bool),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let state = || {
        (prop::sample::select(SubscriptionState::ALL.to_vec()), any_grants(), prop::option::of(0_i64..9000))
            .prop_map(|(state, grants, end)| BillingState {
                grants,
                trial_ends_at: end.map(at),
                grace_ends_at: end.map(at),
                ..billing(state)
            })
    };
    prop_oneof![
        8 => (0..4_usize).prop_map(Step::Ask),
        2 => ((0..4_usize), state()).prop_map(|(org, state)| Step::Store(org, state)),
        2 => ((0..4_usize), state()).prop_map(|(org, state)| Step::Push(org, state)),
        1 => (0..4_usize).prop_map(Step::Purge),
        1 => (0..4_usize).prop_map(Step::Invalidate),
        1 => Just(Step::InvalidateAll),
        2 => Just(Step::Confirm),
        3 => any::<bool>().prop_map(Step::Fail),
        4 => prop::sample::select(vec![1, 30, 60, 1800, 4000]).prop_map(Step::Wait),
    ]
}

proptest! {
    /// I7: whatever fails and whatever is evicted, no answer grants more than the store last said, or than a trial
    /// where it said nothing; and nothing that it last said was locked or gone is open.
    #[test]
    fn fail_open_never_grants_more_than_last_known(
        steps in prop::collection::vec(any_step(), 1..60),
        max_entries in 1..4_usize, max_remembered in 0..4_usize,
    ) {
        let catalog = Catalog::parse("[trial]\ncapabilities = ['a', 'b']\nlimits = { a = 1, b = -1 }").unwrap();
        let config = DatabaseSourceConfig { max_entries, max_remembered, ..DatabaseSourceConfig::default() };
        let bench = Bench::with(config, &catalog);
        let orgs: Vec<OrgId> = (0..4).map(|n| OrgId::parse(&format!("org-{n}")).unwrap()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let is_purged = |n: usize| {
            matches!(bench.store.states.lock().unwrap().get(&orgs[n]), Some(Lookup::Purged))
        };
        for (revision, step) in (1..).zip(steps) {
            match step {
                // Ids are never used twice.
                Step::Store(n, _) | Step::Push(n, _) if is_purged(n) => {}
                Step::Store(n, state) => {
                    let state = BillingState { org_id: orgs[n].clone(), ..state };
                    bench.store.states.lock().unwrap().insert(orgs[n].clone(), stored(state, revision));
                }
                Step::Push(n, state) => {
                    let state = stored(BillingState { org_id: orgs[n].clone(), ..state }, revision);
                    bench.store.states.lock().unwrap().insert(orgs[n].clone(), state.clone());
                    bench.store.told.lock().unwrap().insert(orgs[n].clone(), state.clone());
                    bench.source.update(&orgs[n], state);
                }
                Step::Purge(n) => {
                    bench.store.states.lock().unwrap().insert(orgs[n].clone(), Lookup::Purged);
                }
                Step::Invalidate(n) => bench.source.invalidate(&orgs[n]),
                Step::InvalidateAll => bench.source.invalidate_all(),
                Step::Confirm => bench.source.confirm(Duration::ZERO),
                Step::Fail(true) => bench.fail(),
                Step::Fail(false) => bench.repair(),
                Step::Wait(seconds) => bench.seconds(seconds),
                Step::Ask(n) => {
                    let answer = runtime.block_on(bench.source.answer(&orgs[n]));
                    let told = bench.store.told.lock().unwrap().get(&orgs[n]).cloned();
                    let now = bench.clock.now();
                    match (told, answer) {
                        (Some(Lookup::Stored(told)), Ok(answer)) => {
                            let known = effective(&told.state, now);
                            prop_assert!(known.grants.covers(&answer.entitlements.grants));
                            prop_assert!(!known.is_locked() || answer.entitlements.is_locked());
                            prop_assert!(answer.entitlements.holds_at(now));
                        }
                        (Some(Lookup::NotStored) | None, Ok(answer)) => {
                            prop_assert!(catalog.trial().grants.covers(&answer.entitlements.grants));
                            prop_assert!(answer.entitlements.holds_at(now));
                        }
                        (Some(Lookup::Purged), answer) => {
                            prop_assert!(answer.is_err() || answer.unwrap().entitlements.is_locked());
                        }
                        (told, Err(_)) => prop_assert!(false, "gone, but the store said {:?}", told),
                    }
                }
            }
        }
    }
}
