//! The cache against a lifecycle that fails, lags and changes on command.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::{FutureExt as _, future::join_all};
use proptest::prelude::*;
use pulse_entitlements::{Answer, EntitlementSource, SourceError};
use pulse_testkit::ManualClock;
use tokio::sync::Semaphore;

use super::*;
use crate::{Decision, DenyReason, Guard, OnOutage, OutagePolicy, Requirement, StatusStoreError};
use OrganizationStatus::{Active, PendingDeletion, Provisioning, Purging, Suspended};
use StatusLookup::{NotFound, Purged, Status};

/// Lifecycle in memory. Every read takes a permit from `gate`.
#[derive(Debug)]
struct Lifecycle {
    organizations: Mutex<HashMap<OrgId, (StatusLookup, u64)>>,
    fails: AtomicBool,
    reads: AtomicUsize,
    gate: Semaphore,
}

#[async_trait]
impl StatusStore for Lifecycle {
    async fn status(&self, org: &OrgId) -> Result<(StatusLookup, u64), StatusStoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let found = self.organizations.lock().unwrap().get(org).copied().unwrap_or((NotFound, 0));
        let _permit = self.gate.acquire().await.unwrap();
        if self.fails.load(Ordering::SeqCst) { Err(StatusStoreError("down".to_owned())) } else { Ok(found) }
    }
}

struct Bench {
    clock: ManualClock,
    lifecycle: Arc<Lifecycle>,
    cache: StatusCache,
    org: OrgId,
}

impl Bench {
    fn new() -> Self {
        Self::with(CacheConfig::default())
    }

    /// With an open gate and no organizations.
    fn with(config: CacheConfig) -> Self {
        let clock = ManualClock::at(Timestamp::from_second(1_800_000_000).unwrap());
        let lifecycle = Arc::new(Lifecycle {
            organizations: Mutex::default(),
            fails: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        });
        let cache = StatusCache::new(lifecycle.clone(), config, Arc::new(clock.clone()));
        Self { clock, lifecycle, cache, org: OrgId::parse("acme").unwrap() }
    }

    fn put(&self, lookup: StatusLookup, version: u64) {
        self.lifecycle.organizations.lock().unwrap().insert(self.org.clone(), (lookup, version));
    }

    fn fails(&self, fails: bool) {
        self.lifecycle.fails.store(fails, Ordering::SeqCst);
    }

    fn reads(&self) -> usize {
        self.lifecycle.reads.load(Ordering::SeqCst)
    }

    fn seconds(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Status, source, version, and age in seconds.
    async fn look(&self) -> Result<(OrganizationStatus, Source, u64, u64), StatusError> {
        let answer = self.cache.status(&self.org).await?;
        Ok((answer.status, answer.source, answer.version, answer.age.as_secs()))
    }
}

#[tokio::test]
async fn the_first_answer_is_fresh_and_the_next_at_hand_until_the_refresh_age() {
    let bench = Bench::new();
    bench.put(Status(Active), 7);
    assert_eq!(bench.cache.cached(&bench.org), None);
    assert_eq!(bench.look().await, Ok((Active, Source::Fresh, 7, 0)));
    bench.seconds(59);
    assert_eq!(bench.look().await, Ok((Active, Source::Cached, 7, 59)));
    let at_hand = bench.cache.cached(&bench.org).unwrap();
    assert_eq!(at_hand.unwrap().age, Duration::from_secs(59));
    assert_eq!(bench.cache.find("acme"), Some((bench.org.clone(), at_hand)));
    assert_eq!((bench.cache.find("acne"), bench.cache.find("Acme")), (None, None));
    assert_eq!(bench.reads(), 1);
    bench.put(Status(Suspended), 8);
    bench.seconds(1);
    assert_eq!(bench.look().await, Ok((Suspended, Source::Fresh, 8, 0)));
}

#[tokio::test]
async fn a_change_that_is_told_counts_at_once_and_an_older_one_never() {
    let bench = Bench::new();
    bench.put(Status(Active), 2);
    bench.look().await.unwrap();
    bench.cache.update(&bench.org, Status(Suspended), 3);
    assert_eq!(bench.look().await, Ok((Suspended, Source::Cached, 3, 0)));
    for (late, version) in [(Status(Active), 2), (NotFound, 2), (Status(Provisioning), 0)] {
        bench.cache.update(&bench.org, late, version);
        assert_eq!(bench.look().await, Ok((Suspended, Source::Cached, 3, 0)), "{late:?}");
    }
    // Nor does a lifecycle that lags behind; it might as well be away.
    bench.cache.invalidate(&bench.org);
    assert_eq!(bench.look().await, Ok((Suspended, Source::Stale, 3, 0)));
    bench.put(Status(Active), 4);
    bench.seconds(1);
    assert_eq!(bench.look().await, Ok((Active, Source::Fresh, 4, 0)));
}

#[tokio::test]
async fn a_lifecycle_that_was_restored_from_a_backup_is_believed_once_the_feed_began_again() {
    for later in [Status(Suspended), Purged] {
        let bench = Bench::new();
        bench.cache.update(&bench.org, later, 9);
        bench.put(Status(Active), 4);
        bench.cache.invalidate(&bench.org);
        assert_ne!(
            bench.look().await.map(|answer| answer.0),
            Ok(Active),
            "it lags behind, for all that is known"
        );
        // Whoever asks while it cannot be reached does not take that from it.
        bench.cache.invalidate_all();
        bench.fails(true);
        assert_ne!(bench.look().await.map(|answer| answer.0), Ok(Active));
        bench.cache.update(&bench.org, Status(Active), 4);
        assert_ne!(bench.look().await.map(|answer| answer.0), Ok(Active), "only what is read tells");
        bench.fails(false);
        bench.seconds(1);
        assert_eq!(bench.look().await, Ok((Active, Source::Fresh, 4, 0)));
        bench.cache.update(&bench.org, Status(Suspended), 5);
        bench.put(Status(Active), 4);
        bench.cache.invalidate(&bench.org);
        assert_eq!(bench.look().await, Ok((Suspended, Source::Stale, 5, 0)), "and goes on from there");
    }
}

#[tokio::test]
async fn a_read_that_began_before_the_feed_did_brings_nothing_older_back() {
    let bench = Bench::new();
    bench.cache.update(&bench.org, Status(Suspended), 9);
    bench.cache.invalidate(&bench.org);
    bench.put(Status(Active), 4);
    bench.lifecycle.gate.forget_permits(Semaphore::MAX_PERMITS);
    let mut asking = Box::pin(bench.look());
    assert!(asking.as_mut().now_or_never().is_none());
    tokio::task::yield_now().await;
    bench.cache.invalidate_all();
    bench.lifecycle.gate.add_permits(Semaphore::MAX_PERMITS);
    assert_eq!(asking.await, Ok((Suspended, Source::Stale, 9, 0)));
}

#[tokio::test]
async fn a_purge_is_final() {
    let bench = Bench::new();
    bench.cache.update(&bench.org, Status(Purging), 5);
    bench.cache.update(&bench.org, Purged, 0);
    for (lookup, version) in [(Status(Active), 9), (NotFound, 10)] {
        bench.cache.update(&bench.org, lookup, version);
        assert_eq!(bench.look().await, Err(StatusError::NotFound));
    }
    assert_eq!(bench.cache.cached(&bench.org), Some(Err(StatusError::NotFound)));
    bench.fails(true);
    bench.seconds(365 * 86_400);
    assert_eq!(bench.look().await, Err(StatusError::NotFound));
}

#[tokio::test]
async fn an_organization_that_is_gone_when_it_is_read_is_not_brought_back_by_what_was_told_before() {
    let bench = Bench::new();
    bench.cache.update(&bench.org, Status(Suspended), 5);
    bench.cache.invalidate(&bench.org);
    assert_eq!(bench.look().await, Err(StatusError::NotFound));
    bench.cache.update(&bench.org, Status(Active), 4);
    assert_eq!(bench.look().await, Err(StatusError::NotFound));
    bench.cache.update(&bench.org, Status(Active), 6);
    assert_eq!(bench.look().await, Ok((Active, Source::Cached, 6, 0)));
}

#[tokio::test]
async fn without_lifecycle_an_active_one_counts_for_the_bound_and_every_other_for_ever() {
    for status in OrganizationStatus::ALL {
        let bench = Bench::new();
        bench.put(Status(status), 3);
        bench.look().await.unwrap();
        bench.fails(true);
        bench.seconds(3600);
        assert_eq!(bench.look().await, Ok((status, Source::Stale, 3, 3600)));
        bench.seconds(1);
        let later = bench.look().await;
        if status == Active {
            assert_eq!(later, Err(StatusError::Unknown));
        } else {
            assert_eq!(later, Ok((status, Source::Stale, 3, 3601)));
            bench.seconds(365 * 86_400);
            assert_eq!(bench.look().await.unwrap().0, status);
        }
        bench.fails(false);
        bench.seconds(1);
        assert_eq!(bench.look().await, Ok((status, Source::Fresh, 3, 0)));
    }
}

#[tokio::test]
async fn a_tenant_that_was_never_seen_is_unknown_and_lifecycle_is_asked_once_a_second() {
    let bench = Bench::new();
    bench.fails(true);
    for _ in 0..10 {
        assert_eq!(bench.look().await, Err(StatusError::Unknown));
        assert_eq!(bench.cache.cached(&bench.org), None);
    }
    assert_eq!(bench.reads(), 1);
    bench.seconds(1);
    bench.look().await.unwrap_err();
    assert_eq!(bench.reads(), 2);
}

#[tokio::test]
async fn who_is_not_there_yet_is_let_in_soon_after() {
    for early in [NotFound, Status(Provisioning)] {
        let bench = Bench::new();
        bench.put(early, 0);
        let _ = bench.look().await;
        bench.put(Status(Active), 2);
        bench.seconds(1);
        assert_eq!(bench.look().await, Ok((Active, Source::Fresh, 2, 0)), "{early:?}");
    }
}

#[tokio::test]
async fn many_who_miss_the_same_tenant_read_once() {
    let bench = Bench::new();
    bench.put(Status(Active), 1);
    bench.lifecycle.gate.forget_permits(Semaphore::MAX_PERMITS);
    let mut asking = Box::pin(join_all((0..100).map(|_| bench.cache.status(&bench.org))));
    assert!(asking.as_mut().now_or_never().is_none());
    bench.lifecycle.gate.add_permits(Semaphore::MAX_PERMITS);
    for answer in asking.await {
        assert_eq!(answer.unwrap().source, Source::Fresh);
    }
    assert_eq!(bench.reads(), 1);
}

#[tokio::test]
async fn closed_tenants_stay_closed_when_the_cache_makes_room_and_when_even_that_is_too_many() {
    let config = CacheConfig { max_entries: 50, max_remembered: 400, ..CacheConfig::default() };
    let bench = Bench::with(config);
    let orgs: Vec<OrgId> = (0..500).map(|n| OrgId::parse(&format!("org-{n}")).unwrap()).collect();
    let kinds = [Status(Suspended), Status(Active), Status(PendingDeletion), Status(Purging), Purged];
    for (org, lookup) in orgs.iter().zip(kinds.into_iter().cycle()) {
        bench.cache.update(org, lookup, 1);
    }
    bench.fails(true);
    bench.seconds(7200);
    for (org, lookup) in orgs.iter().zip(kinds.into_iter().cycle()) {
        let expected = match lookup {
            Status(Active) => Err(StatusError::Unknown),
            Status(status) => Ok(status),
            NotFound | Purged => Err(StatusError::NotFound),
        };
        assert_eq!(bench.cache.status(org).await.map(|answer| answer.status), expected, "{org}");
    }

    let never_seen = OrgId::parse("never-seen").unwrap();
    assert_eq!(bench.cache.status(&never_seen).await, Err(StatusError::Unknown));
    for n in 500..1000 {
        let org = OrgId::parse(&format!("org-{n}")).unwrap();
        bench.cache.update(&org, Status(Suspended), 1);
    }
    let other = OrgId::parse("also-never-seen").unwrap();
    assert_eq!(bench.cache.status(&other).await, Err(StatusError::Forgotten));
}

#[tokio::test]
async fn organizations_that_never_existed_make_no_room_scarce() {
    let config = CacheConfig { max_entries: 10, max_remembered: 5, ..CacheConfig::default() };
    let bench = Bench::with(config);
    for n in 0..1000 {
        let org = OrgId::parse(&format!("made-up-{n}")).unwrap();
        assert_eq!(bench.cache.status(&org).await, Err(StatusError::NotFound));
    }
    bench.fails(true);
    assert_eq!(bench.look().await, Err(StatusError::Unknown), "nothing was forgotten");
}

#[test]
fn a_hit_allocates_nothing() {
    let bench = Bench::new();
    bench.cache.update(&bench.org, Status(Active), 1);
    let mut hits = 0;
    let allocated = allocation_counter::measure(|| {
        hits += usize::from(bench.cache.cached(&bench.org).is_some());
        hits += usize::from(bench.cache.find("acme").is_some());
    });
    assert_eq!((hits, allocated.count_total), (2, 0));
}

/// Grants whatever is asked for, so that only the status decides.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl EntitlementSource for Nothing {
    async fn entitlements(&self, _: &OrgId) -> Result<Answer, SourceError> {
        Err(SourceError::Purged)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Ask(usize),
    /// Changes at lifecycle, unheard of.
    Change(usize, StatusLookup),
    /// Changes at lifecycle, and is told.
    Push(usize, StatusLookup),
    /// Is told late, when lifecycle has moved on.
    PushLate(usize, StatusLookup),
    /// Lifecycle answers with what it said that many versions ago.
    Lag(usize, u64),
    Invalidate(usize),
    InvalidateAll,
    Confirm,
    Fail(bool),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let tenant = || 0..4_usize;
    let lookup = || {
        let mut all: Vec<StatusLookup> = OrganizationStatus::ALL.into_iter().map(Status).collect();
        all.extend([Status(Active), Status(Suspended), NotFound, Purged]);
        prop::sample::select(all)
    };
    prop_oneof![
        8 => tenant().prop_map(Step::Ask),
        2 => (tenant(), lookup()).prop_map(|(org, lookup)| Step::Change(org, lookup)),
        3 => (tenant(), lookup()).prop_map(|(org, lookup)| Step::Push(org, lookup)),
        1 => (tenant(), lookup()).prop_map(|(org, lookup)| Step::PushLate(org, lookup)),
        1 => (tenant(), 0..3_u64).prop_map(|(org, by)| Step::Lag(org, by)),
        1 => tenant().prop_map(Step::Invalidate),
        1 => Just(Step::InvalidateAll),
        2 => Just(Step::Confirm),
        3 => any::<bool>().prop_map(Step::Fail),
        4 => prop::sample::select(vec![1, 30, 60, 1800, 4000]).prop_map(Step::Wait),
    ]
}

/// Lifecycle of one tenant as it was told to the cache, and as it is.
#[derive(Debug, Clone)]
struct Truth {
    history: Vec<StatusLookup>,
    /// The newest that the cache was told, and its version.
    told: Option<(StatusLookup, u64)>,
    /// Whether that was before everything was invalidated, so that what is read then is right, whatever it is.
    is_past: bool,
}

impl Truth {
    fn is_purged(&self) -> bool {
        self.history.last() == Some(&Purged)
    }

    /// What lifecycle says, so many versions ago.
    fn ago(&self, by: u64) -> (StatusLookup, u64) {
        let version = u64::try_from(self.history.len()).unwrap().saturating_sub(by);
        match usize::try_from(version).unwrap().checked_sub(1) {
            Some(at) => (self.history[at], version),
            None => (NotFound, 0),
        }
    }

    fn tell(&mut self, (lookup, version): (StatusLookup, u64)) {
        if self.told.is_none_or(|(known, greatest)| known != Purged && version >= greatest) {
            self.told = Some((lookup, version));
            self.is_past = false;
        }
    }

    fn read(&mut self, now: (StatusLookup, u64)) {
        if std::mem::take(&mut self.is_past) && now.0 != NotFound {
            self.told = None;
        }
        self.tell(now);
    }
}

proptest! {
    /// I6, I8: whatever fails, lags and is evicted, a tenant that the cache was told is closed stays closed until it is
    /// told otherwise, and no version goes backwards.
    #[test]
    fn no_outage_lets_a_known_suspension_through(
        steps in prop::collection::vec(any_step(), 1..60),
        max_entries in 1..4_usize, max_remembered in 0..6_usize,
    ) {
        let bench = Bench::with(CacheConfig { max_entries, max_remembered, ..CacheConfig::default() });
        let orgs: Vec<OrgId> = (0..4).map(|n| OrgId::parse(&format!("org-{n}")).unwrap()).collect();
        let mut truths = vec![Truth { history: Vec::new(), told: None, is_past: false }; orgs.len()];
        let guard = Guard::new(Arc::new(bench.cache.clone()), Arc::new(Nothing))
            .with_policy(OutagePolicy::new(OnOutage::Allow));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // What is forgotten cannot be newer than anything; closed tenants are not, where there is room.
        let is_remembered = |truth: &Truth| {
            truth.told.is_some_and(|(told, _)| told != Status(Active)) && max_remembered >= orgs.len()
        };
        let mut fails = false;
        for step in steps {
            match step {
                // Ids are never used twice.
                Step::Change(n, _) | Step::Push(n, _) if truths[n].is_purged() => {}
                Step::Change(n, lookup) => {
                    truths[n].history.push(lookup);
                    bench.lifecycle.organizations.lock().unwrap().insert(orgs[n].clone(), truths[n].ago(0));
                }
                Step::Push(n, lookup) => {
                    truths[n].history.push(lookup);
                    let now = truths[n].ago(0);
                    bench.lifecycle.organizations.lock().unwrap().insert(orgs[n].clone(), now);
                    truths[n].tell(now);
                    bench.cache.update(&orgs[n], now.0, now.1);
                }
                Step::PushLate(n, lookup) => {
                    // As if it had been the one before the last one told.
                    let is_known = bench.cache.cached(&orgs[n]).is_some() || is_remembered(&truths[n]);
                    if let Some((_, version)) = truths[n].told
                        && version > 1 && is_known && lookup != Purged
                    {
                        bench.cache.update(&orgs[n], lookup, version - 1);
                    }
                }
                // One that lags so far behind that it knows of no such organization cannot be told from one that knows
                // of none any more.
                Step::Lag(n, by) if truths[n].ago(by).1 == 0 || !is_remembered(&truths[n]) => {}
                Step::Lag(n, by) => {
                    bench.lifecycle.organizations.lock().unwrap().insert(orgs[n].clone(), truths[n].ago(by));
                }
                Step::Invalidate(n) => bench.cache.invalidate(&orgs[n]),
                Step::InvalidateAll => {
                    bench.cache.invalidate_all();
                    for truth in &mut truths {
                        truth.is_past = true;
                    }
                }
                Step::Confirm => bench.cache.confirm(Duration::ZERO),
                Step::Fail(now) => {
                    fails = now;
                    bench.fails(now);
                }
                Step::Wait(seconds) => bench.seconds(seconds),
                Step::Ask(n) => {
                    let reads = bench.reads();
                    let verdict = runtime.block_on(guard.check(&orgs[n], &Requirement::active()));
                    let (answer, decision) = (verdict.status, verdict.decision);
                    if bench.reads() > reads && !fails {
                        let found = bench.lifecycle.organizations.lock().unwrap().get(&orgs[n]).copied();
                        truths[n].read(found.unwrap_or((NotFound, 0)));
                    }
                    match truths[n].told {
                        Some((Status(Active), version)) => {
                            prop_assert!(
                                answer.is_ok_and(|answer| answer.status == Active && answer.version == version)
                                || matches!(answer, Err(StatusError::Unknown | StatusError::Forgotten)),
                                "{answer:?}"
                            );
                        }
                        Some((Status(status), version)) => {
                            prop_assert!(!decision.is_allowed(), "{status} {answer:?}");
                            if let Ok(answer) = answer {
                                prop_assert_eq!((answer.status, answer.version), (status, version));
                            }
                        }
                        Some((NotFound, 0)) => prop_assert!(answer.is_err(), "{answer:?}"),
                        Some((NotFound | Purged, _)) => prop_assert!(!decision.is_allowed(), "{answer:?}"),
                        None => prop_assert!(answer.is_err(), "{answer:?}"),
                    }
                    if answer == Err(StatusError::Forgotten) {
                        prop_assert_eq!(decision, Decision::Deny(DenyReason::Unavailable));
                    }
                }
            }
        }
    }
}
