use proptest::prelude::*;
use pulse_testkit::ManualClock;

use super::*;

const HOUR: Duration = Duration::from_hours(1);

fn limiter(limit: u32, window: Duration, max_keys: usize) -> (KeyedLimiter<u32>, ManualClock) {
    let clock = ManualClock::default();
    let limit = NonZeroU32::new(limit).unwrap();
    (KeyedLimiter::new(limit, window, max_keys, Arc::new(clock.clone())), clock)
}

#[test]
fn admits_the_limit_then_says_exactly_when_the_next_is_allowed() {
    let (limiter, clock) = limiter(5, HOUR, 10);
    for _ in 0..5 {
        limiter.check(&1).unwrap();
    }
    assert_eq!(limiter.check(&1).unwrap_err().retry_after, Duration::from_mins(12));
    limiter.check(&2).expect("another key has its own allowance");
    clock.advance(Duration::from_nanos(720_000_000_000 - 1));
    assert_eq!(limiter.check(&1).unwrap_err().retry_after, Duration::from_nanos(1));
    clock.advance(Duration::from_nanos(1));
    limiter.check(&1).unwrap();
    assert_eq!(limiter.check(&1).unwrap_err().retry_after, Duration::from_mins(12));
}

#[test]
fn forgets_keys_whose_allowance_is_whole() {
    let (limiter, clock) = limiter(5, HOUR, 1000);
    for key in 0..100 {
        limiter.check(&key).unwrap();
    }
    for _ in 0..4 {
        limiter.check(&7).unwrap();
    }
    clock.advance(Duration::from_mins(24));
    limiter.sweep();
    assert_eq!(limiter.len(), 1, "key 7 needs an hour");
    clock.advance(HOUR);
    limiter.sweep();
    assert!(limiter.is_empty());
}

#[test]
fn a_flood_of_keys_neither_grows_memory_nor_frees_who_used_up_most() {
    let (limiter, _clock) = limiter(5, HOUR, 100);
    while limiter.check(&0).is_ok() {}
    for key in 1..10_000 {
        limiter.check(&key).unwrap();
        assert!(limiter.len() <= 100);
    }
    assert!(limiter.check(&0).is_err());
}

#[tokio::test(start_paused = true)]
async fn sweeps_in_the_background_until_told_to_stop() {
    let (limiter, clock) = limiter(1, Duration::from_secs(1), 1000);
    let limiter = Arc::new(limiter);
    let shutdown = Shutdown::new();
    limiter.sweep_in_background(&shutdown);
    limiter.check(&1).unwrap();
    clock.advance(HOUR);
    pulse_testkit::eventually(Duration::from_mins(2), async || limiter.is_empty()).await;
    shutdown.trigger();
    shutdown.wait().await.unwrap();
}

#[test]
fn a_clock_that_goes_back_neither_panics_nor_admits_more() {
    let (limiter, clock) = limiter(2, HOUR, 10);
    limiter.check(&1).unwrap();
    limiter.check(&1).unwrap();
    clock.set(Timestamp::UNIX_EPOCH);
    assert!(limiter.check(&1).is_err());
}

#[test]
fn client_keys() {
    let key = |text: &str| client_key(text.parse().unwrap());
    assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
    assert_eq!(key("192.0.2.1").to_string(), "192.0.2.1/32");
    assert_eq!(key("2001:db8:1:2:ffff::9").to_string(), "2001:db8:1:2::/64");
    assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
    assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    assert_ne!(key("::1"), key("0.0.0.1"));
}

#[test]
fn looking_counts_nothing_and_says_what_a_check_would() {
    let (limiter, clock) = limiter(2, HOUR, 10);
    for _ in 0..3 {
        limiter.look(&1).unwrap();
    }
    assert!(limiter.is_empty());
    limiter.check(&1).unwrap();
    assert_eq!(limiter.whole_in(&1), HOUR / 2);
    limiter.check(&1).unwrap();
    assert_eq!(limiter.whole_in(&1), HOUR);
    clock.advance(HOUR / 3);
    assert_eq!(limiter.look(&1), limiter.check(&1));
    assert_eq!(limiter.look(&1).unwrap_err().retry_after, HOUR / 6);
    assert_eq!(limiter.whole_in(&1), HOUR * 2 / 3);
    clock.advance(HOUR);
    assert_eq!(limiter.whole_in(&1), Duration::ZERO);
}

#[test]
fn what_is_learnt_takes_the_place_of_what_was_known() {
    let (limiter, clock) = limiter(5, HOUR, 10);
    limiter.learn(1, HOUR);
    assert_eq!(limiter.check(&1).unwrap_err().retry_after, HOUR / 5);
    limiter.learn(1, HOUR * 3 / 5);
    limiter.check(&1).unwrap();
    limiter.check(&1).unwrap();
    assert_eq!(limiter.check(&1).unwrap_err().retry_after, HOUR / 5);
    limiter.learn(1, Duration::ZERO);
    assert!(limiter.is_empty());
    for key in 0..1000 {
        limiter.learn(key, HOUR);
        assert!(limiter.len() <= 10);
    }
    clock.advance(HOUR * 2);
    limiter.sweep();
    assert!(limiter.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_steady_clock_goes_on_when_the_one_that_set_it_is_turned_back() {
    let machine = ManualClock::default();
    let (steady, began) = (SteadyClock::set_by(&machine), machine.now());
    machine.set(Timestamp::UNIX_EPOCH);
    assert_eq!(steady.now(), began);
    tokio::time::advance(HOUR).await;
    assert_eq!(steady.now(), began + HOUR);
}

proptest! {
    /// The generic cell rate algorithm as a sentence: in any window at most limit + what flows back, and a
    /// refused caller who waits as long as told is admitted, but not a nanosecond sooner.
    #[test]
    fn never_admits_more_and_is_exact(
        limit in 1..20_u32,
        window_secs in 1..5000_u64,
        steps in prop::collection::vec(0..2_000_u32, 1..80),
    ) {
        let window = Duration::from_secs(window_secs);
        let (limiter, clock) = limiter(limit, window, 10);
        let every = limiter.every();
        prop_assert!(every * limit >= window && every < window / limit + Duration::from_micros(1));
        let mut elapsed = Duration::ZERO;
        let mut admitted = 0_u32;
        for step in steps {
            let step = every * step / 1000;
            clock.advance(step);
            elapsed += step;
            let looked = limiter.look(&1);
            let whole_in = limiter.whole_in(&1);
            let checked = limiter.check(&1);
            prop_assert_eq!(looked, checked);
            prop_assert_eq!(limiter.whole_in(&1), whole_in + if checked.is_ok() { every } else { Duration::ZERO });
            match checked {
                Ok(()) => admitted += 1,
                Err(Exceeded { retry_after }) => {
                    prop_assert!(retry_after > Duration::ZERO && retry_after <= every);
                    clock.advance(retry_after.checked_sub(Duration::from_nanos(1)).unwrap());
                    prop_assert!(limiter.check(&1).is_err());
                    clock.advance(Duration::from_nanos(1));
                    prop_assert!(limiter.check(&1).is_ok());
                    elapsed += retry_after;
                    admitted += 1;
                }
            }
            let flowed_back = elapsed.as_nanos() / every.as_nanos();
            prop_assert!(u128::from(admitted) <= u128::from(limit) + flowed_back);
        }
    }

    #[test]
    fn every_address_of_a_network_is_one_client(prefix: u64, a: u64, b: u64) {
        let address = |host: u64| IpAddr::from((u128::from(prefix) << 64 | u128::from(host)).to_be_bytes());
        prop_assume!(prefix != 0, "that network holds the IPv4-mapped addresses");
        prop_assert_eq!(client_key(address(a)), client_key(address(b)));
    }

    #[test]
    fn an_ipv4_client_is_itself_in_either_form(bits: u32) {
        let v4 = std::net::Ipv4Addr::from(bits);
        prop_assert_eq!(client_key(v4.into()), ClientKey::V4(v4));
        prop_assert_eq!(client_key(v4.to_ipv6_mapped().into()), ClientKey::V4(v4));
    }
}
