//! The cache by itself, of facts that are numbers: what every cache of tenants does, whatever it holds.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures::FutureExt as _;
use jiff::Timestamp;
use pulse_testkit::ManualClock;
use tokio::sync::Semaphore;

use super::*;

/// A store of one number for every tenant. Lower numbers are older; odd ones must be remembered.
#[derive(Debug)]
struct Numbers(Arc<NumberStore>);

#[derive(Debug)]
struct NumberStore {
    number: AtomicU64,
    fails: AtomicBool,
    reads: AtomicUsize,
    /// How many seconds ago what is read was so.
    age: AtomicU64,
    /// Whether that is out of somebody's memory.
    recalls: AtomicBool,
    gate: Semaphore,
}

#[async_trait]
impl Facts for Numbers {
    type Fact = u64;
    type Lookup = u64;

    async fn read(&self, _: &OrgId) -> Result<Reading<u64>, ReadError<u64>> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        let number = self.0.number.load(Ordering::SeqCst);
        let _permit = self.0.gate.acquire().await.unwrap();
        if self.0.fails.load(Ordering::SeqCst) {
            return Err(ReadError { message: "down".to_owned(), last_known: None });
        }
        let age = Duration::from_secs(self.0.age.load(Ordering::SeqCst));
        Ok(Reading { lookup: number, age, is_recalled: self.0.recalls.load(Ordering::SeqCst) })
    }

    fn learn(&self, _: &OrgId, number: u64, _: Timestamp) -> u64 {
        number
    }

    fn after(&self, known: &u64, new: u64, _: Told) -> Option<u64> {
        (new >= *known).then_some(new)
    }

    fn must_be_remembered(&self, number: &u64) -> bool {
        number % 2 == 1
    }

    fn closes(&self, number: &u64) -> bool {
        self.must_be_remembered(number)
    }

    /// Zero is expected to change soon.
    fn refresh(&self, number: &u64, usual: Duration) -> Duration {
        if *number == 0 { Duration::from_secs(5) } else { usual }
    }
}

struct Bench {
    clock: ManualClock,
    store: Arc<NumberStore>,
    cache: TenantCache<Numbers>,
}

fn org() -> OrgId {
    OrgId::parse("acme").unwrap()
}

impl Bench {
    fn new(number: u64) -> Self {
        Self::with(number, CacheConfig::default())
    }

    fn with(number: u64, config: CacheConfig) -> Self {
        let clock = ManualClock::at(Timestamp::from_second(1_800_000_000).unwrap());
        let store = Arc::new(NumberStore {
            number: AtomicU64::new(number),
            fails: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            age: AtomicU64::new(0),
            recalls: AtomicBool::new(false),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        });
        let facts = Numbers(store.clone());
        let cache = TenantCache::new(facts, "numbers", config, Arc::new(clock.clone()));
        Self { clock, store, cache }
    }

    fn seconds(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    fn fails(&self, fails: bool) {
        self.store.fails.store(fails, Ordering::SeqCst);
    }

    fn put(&self, number: u64) {
        self.store.number.store(number, Ordering::SeqCst);
    }

    fn reads(&self) -> usize {
        self.store.reads.load(Ordering::SeqCst)
    }

    /// The number, how old it is in seconds, and how it is known: `R`ead now, `C`ached, or `U`nconfirmed.
    async fn look(&self) -> (Option<u64>, u64, char) {
        match self.cache.ask(&org()).await {
            Found::Confirmed { fact, age, is_fresh } => {
                (Some(fact), age.as_secs(), if is_fresh { 'R' } else { 'C' })
            }
            Found::Unconfirmed { known: Some((fact, age)), .. } => (Some(fact), age.as_secs(), 'U'),
            Found::Unconfirmed { known: None, .. } => (None, 0, 'U'),
        }
    }
}

#[tokio::test]
async fn while_the_feed_is_whole_nothing_is_read_again_and_ages_count_from_when_it_was() {
    let bench = Bench::new(2);
    bench.cache.invalidate_all();
    assert_eq!(bench.look().await, (Some(2), 0, 'R'));
    for _ in 0..10 {
        bench.seconds(59);
        assert_eq!(bench.look().await, (Some(2), 59, 'C'));
        bench.cache.confirm(Duration::ZERO);
        assert_eq!(bench.look().await, (Some(2), 0, 'C'));
    }
    assert_eq!(bench.reads(), 1);
    // Silence makes it a cache as any other.
    bench.seconds(60);
    assert_eq!(bench.look().await, (Some(2), 0, 'R'));
}

#[tokio::test]
async fn what_a_broken_feed_vouched_for_counts_from_when_it_was_last_whole() {
    let bench = Bench::new(2);
    bench.look().await;
    bench.seconds(50);
    bench.cache.confirm(Duration::ZERO);
    bench.seconds(10);
    bench.fails(true);
    bench.cache.invalidate_all();
    assert_eq!(bench.look().await, (Some(2), 10, 'U'));
    // Whatever the feed says now, it does not know this tenant any more.
    bench.seconds(20);
    bench.cache.confirm(Duration::ZERO);
    assert_eq!(bench.look().await, (Some(2), 30, 'U'));
    bench.cache.invalidate_all();
    bench.seconds(5);
    assert_eq!(bench.look().await, (Some(2), 35, 'U'));
    bench.fails(false);
    bench.seconds(1);
    assert_eq!(bench.look().await, (Some(2), 0, 'R'));
}

#[tokio::test]
async fn when_something_may_have_been_missed_everything_is_read_again_and_stays_known() {
    let bench = Bench::new(2);
    bench.look().await;
    bench.put(4);
    bench.cache.invalidate_all();
    assert!(bench.cache.hit("acme").is_none());
    bench.cache.confirm(Duration::ZERO);
    assert!(bench.cache.hit("acme").is_none(), "not told since the feed began again");
    assert_eq!(bench.look().await, (Some(4), 0, 'R'));
    assert_eq!(bench.look().await, (Some(4), 0, 'C'));
    bench.cache.invalidate_all();
    bench.cache.update(&org(), 6);
    assert_eq!(bench.look().await, (Some(6), 0, 'C'), "told since");
}

#[tokio::test]
async fn a_read_that_began_before_the_feed_began_again_is_not_relied_on() {
    let bench = Bench::new(2);
    bench.store.gate.forget_permits(Semaphore::MAX_PERMITS);
    let org = org();
    let mut slow = Box::pin(bench.cache.ask(&org));
    assert!(slow.as_mut().now_or_never().is_none());
    tokio::task::yield_now().await;
    bench.cache.invalidate_all();
    bench.put(4);
    bench.store.gate.add_permits(Semaphore::MAX_PERMITS);
    assert!(matches!(slow.await, Found::Confirmed { fact: 2, .. }), "asked before");
    bench.cache.confirm(Duration::ZERO);
    assert_eq!(bench.look().await, (Some(4), 0, 'R'));
}

#[tokio::test]
async fn the_feed_does_not_vouch_for_what_is_to_be_asked_or_could_not_be() {
    let bench = Bench::new(2);
    bench.look().await;
    bench.cache.invalidate(&org());
    bench.cache.confirm(Duration::ZERO);
    assert!(bench.cache.hit("acme").is_none());
    bench.fails(true);
    assert_eq!(bench.look().await, (Some(2), 0, 'U'));
    bench.seconds(1);
    bench.cache.confirm(Duration::ZERO);
    assert_eq!(bench.look().await, (Some(2), 1, 'U'));
    assert_eq!(bench.reads(), 3);
}

#[tokio::test]
async fn a_feed_vouches_through_a_short_silence_and_not_once_it_is_lost() {
    let (refresh, silence) = (Duration::from_secs(2), Duration::from_secs(15));
    let bench = Bench::with(2, CacheConfig { refresh, silence, ..CacheConfig::default() });
    bench.cache.invalidate_all();
    assert_eq!(bench.look().await, (Some(2), 0, 'R'));
    bench.seconds(2);
    assert_eq!(bench.look().await, (Some(2), 0, 'R'), "it was never said to be whole");
    bench.cache.confirm(Duration::ZERO);
    bench.seconds(14);
    assert_eq!(bench.look().await, (Some(2), 14, 'C'));
    bench.seconds(1);
    assert_eq!(bench.look().await, (Some(2), 0, 'R'), "silent for too long");

    bench.cache.confirm(Duration::ZERO);
    bench.seconds(1);
    bench.cache.lost();
    assert_eq!(bench.look().await, (Some(2), 1, 'C'), "as good as any answer of that age");
    bench.seconds(1);
    assert_eq!(bench.look().await, (Some(2), 0, 'R'));
    // It is whole again, and has told all that changed meanwhile.
    bench.seconds(1);
    bench.cache.confirm(Duration::ZERO);
    bench.seconds(14);
    assert_eq!(bench.look().await, (Some(2), 14, 'C'));
}

#[tokio::test]
async fn a_feed_that_lags_vouches_for_no_more_than_it_has_told() {
    let silence = Duration::from_secs(15);
    let bench =
        Bench::with(2, CacheConfig { refresh: Duration::from_secs(2), silence, ..CacheConfig::default() });
    bench.cache.invalidate_all();
    bench.look().await;
    bench.seconds(10);
    bench.cache.confirm(Duration::from_secs(7));
    assert_eq!(bench.look().await, (Some(2), 7, 'C'));
    bench.seconds(7);
    assert_eq!(bench.look().await, (Some(2), 14, 'C'));
    bench.cache.confirm(Duration::from_secs(15));
    assert_eq!(bench.look().await, (Some(2), 0, 'R'));
    bench.cache.confirm(Duration::from_secs(1));
    assert_eq!(bench.look().await, (Some(2), 0, 'C'), "read since");
}

#[tokio::test]
async fn the_feed_does_not_vouch_for_what_was_so_before_it_began() {
    let bench = Bench::new(2);
    bench.store.age.store(30, Ordering::SeqCst);
    bench.store.recalls.store(true, Ordering::SeqCst);
    bench.cache.invalidate_all();
    bench.seconds(29);
    assert_eq!(bench.look().await, (Some(2), 30, 'R'), "somebody remembers it, from before");
    for age in [45, 60, 75] {
        bench.seconds(15);
        bench.cache.confirm(Duration::ZERO);
        assert_eq!(bench.look().await, (Some(2), age, 'C'), "it may have changed before the feed began");
    }
    bench.seconds(15);
    assert_eq!(bench.look().await, (Some(2), 15, 'R'), "and this is from after that");
    bench.seconds(30);
    bench.cache.confirm(Duration::ZERO);
    assert_eq!(bench.look().await, (Some(2), 0, 'C'));
}

#[tokio::test]
async fn the_feed_does_not_vouch_for_a_look_into_the_store_that_was_joined_and_began_before_it() {
    let bench = Bench::new(2);
    bench.store.age.store(3, Ordering::SeqCst);
    bench.cache.invalidate_all();
    bench.seconds(2);
    assert_eq!(bench.look().await, (Some(2), 3, 'R'), "it changed before the feed began, which is not told");
    bench.put(4);
    for _ in 0..3 {
        bench.seconds(20);
        bench.cache.confirm(Duration::ZERO);
    }
    assert_eq!(bench.look().await, (Some(4), 0, 'R'), "so it is asked for again");
    bench.seconds(59);
    bench.cache.confirm(Duration::ZERO);
    assert_eq!(bench.look().await, (Some(4), 0, 'C'), "and this began after the feed did");
}

#[tokio::test]
async fn a_feed_fills_the_cache_with_nobody_who_is_open_and_was_not_asked_for() {
    let bench = Bench::new(2);
    bench.cache.invalidate_all();
    bench.seconds(10);
    for number in 0..20_000_u64 {
        bench.cache.tell(&OrgId::parse(&format!("org-{number}")).unwrap(), 2);
    }
    bench.cache.tell(&org(), 4);
    assert!(bench.cache.is_empty());
    bench.cache.tell(&OrgId::parse("closed").unwrap(), 3);
    assert_eq!(bench.cache.len(), 1);

    // Whoever remembers what was so before that is not vouched for.
    bench.store.age.store(5, Ordering::SeqCst);
    bench.store.recalls.store(true, Ordering::SeqCst);
    assert_eq!(bench.look().await, (Some(2), 5, 'R'));
    bench.put(4);
    bench.seconds(60);
    bench.cache.confirm(Duration::ZERO);
    assert_eq!(bench.look().await, (Some(4), 0, 'R'));
    bench.cache.tell(&org(), 6);
    assert_eq!(bench.look().await, (Some(6), 0, 'C'), "it is known now");
}

#[tokio::test]
async fn what_is_told_while_the_tenant_is_read_is_not_undone_by_the_read() {
    let bench = Bench::new(2);
    bench.store.gate.forget_permits(Semaphore::MAX_PERMITS);
    let mut asking = Box::pin(bench.look());
    assert!(asking.as_mut().now_or_never().is_none());
    bench.cache.tell(&org(), 4);
    bench.store.gate.add_permits(Semaphore::MAX_PERMITS);
    assert_eq!(asking.await, (Some(4), 0, 'R'));
    assert_eq!(bench.look().await, (Some(4), 0, 'C'));
}

#[tokio::test]
async fn a_store_that_tells_what_is_older_than_known_has_failed() {
    let bench = Bench::new(2);
    bench.cache.update(&org(), 4);
    bench.seconds(60);
    assert_eq!(bench.look().await, (Some(4), 60, 'U'));
    assert_eq!(bench.look().await, (Some(4), 60, 'U'));
    assert_eq!(bench.reads(), 1, "and is asked again after a while only");
    bench.put(4);
    bench.seconds(1);
    assert_eq!(bench.look().await, (Some(4), 0, 'R'));
    bench.cache.update(&org(), 3);
    assert_eq!(bench.look().await, (Some(4), 0, 'C'));
}

#[tokio::test]
async fn what_is_replaced_is_neither_remembered_nor_brought_back() {
    let config = CacheConfig { max_entries: 40, max_remembered: 2, ..CacheConfig::default() };
    let bench = Bench::with(0, config);
    for _ in 0..3 {
        for number in 0..30_u64 {
            let org = OrgId::parse(&format!("org-{number}")).unwrap();
            bench.cache.update(&org, 1);
            bench.cache.invalidate(&org);
        }
    }
    assert_eq!((bench.cache.len(), bench.cache.0.remembered.len()), (30, 0));
    assert!(!bench.cache.0.remembered.is_forgetful());

    bench.cache.update(&org(), 3);
    bench.cache.update(&org(), 4);
    for number in 0..10_000_u64 {
        let other = OrgId::parse(&format!("other-{number}")).unwrap();
        bench.cache.update(&other, 2);
        // One that is asked for is worth more than one that never was.
        bench.cache.hit(&other);
    }
    bench.fails(true);
    assert_eq!(bench.look().await, (None, 0, 'U'), "3 is not what it was last");
    assert_eq!(bench.cache.0.remembered.len(), 2, "of the 30 that made room");
}

#[tokio::test]
async fn what_is_expected_to_change_is_asked_for_sooner() {
    let bench = Bench::new(0);
    bench.look().await;
    bench.put(2);
    bench.seconds(4);
    assert_eq!(bench.look().await, (Some(0), 4, 'C'));
    bench.seconds(1);
    assert_eq!(bench.look().await, (Some(2), 0, 'R'));
    bench.seconds(5);
    assert_eq!(bench.look().await, (Some(2), 5, 'C'));
}

#[tokio::test]
async fn everything_is_counted_and_told_by_cache() {
    let meter = pulse_runtime::telemetry::meter("cache-test");
    let (bench, other) = (Bench::new(2), Bench::new(2));
    bench.cache.report(&meter, "one");
    other.cache.report(&meter, "other");
    other.look().await;
    bench.look().await;
    bench.seconds(30);
    bench.look().await;
    bench.cache.hit(&org()).unwrap();
    bench.fails(true);
    bench.seconds(40);
    bench.look().await;
    bench.cache.ask(&OrgId::parse("never-seen").unwrap()).await;
    let told = || pulse_runtime::telemetry::metrics_text().unwrap();
    let text = told();
    for line in [
        r#"pulse_tenant_cache_hits_total{cache="one"} 2"#,
        r#"pulse_tenant_cache_hits_total{cache="other"} 0"#,
        r#"pulse_tenant_cache_misses_total{cache="one"} 3"#,
        r#"pulse_tenant_cache_misses_total{cache="other"} 1"#,
        r#"pulse_tenant_cache_stale_answers_total{cache="one"} 1"#,
        r#"pulse_tenant_cache_unknown_answers_total{cache="one"} 1"#,
        r#"pulse_tenant_cache_entries{cache="one"} 2"#,
        r#"pulse_tenant_cache_remembered{cache="one"} 0"#,
        r#"pulse_tenant_cache_age_seconds{cache="one"} 70"#,
    ] {
        assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
    }
    assert!(told().contains(r#"pulse_tenant_cache_age_seconds{cache="one"} 0"#), "since it was last read");
    drop(bench);
    let text = told();
    assert!(!text.contains(r#"cache="one""#) && text.contains(r#"cache="other""#), "{text}");
}

#[test]
fn a_hit_allocates_nothing() {
    let bench = Bench::new(2);
    let org = org();
    bench.cache.update(&org, 2);
    bench.cache.confirm(Duration::ZERO);
    bench.seconds(30);
    let hits = Mutex::new(0);
    let allocated = allocation_counter::measure(|| {
        *hits.lock().unwrap() += usize::from(bench.cache.hit(&org).is_some());
        *hits.lock().unwrap() += usize::from(bench.cache.hit("acme").is_some());
        *hits.lock().unwrap() += usize::from(bench.cache.hit("unheard-of").is_some());
    });
    assert_eq!((*hits.lock().unwrap(), allocated.count_total), (2, 0));
}
