//! Rate limits by key: the generic cell rate algorithm (governor) on the injected clock, with bounded memory.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    ops::Add,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as GovernorClock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};
use jiff::Timestamp;
use pulse_kernel::Clock;
use pulse_runtime::Shutdown;
use tokio::time::Instant;

/// How many keys a limiter keeps unless told otherwise: about 10 MB of client addresses.
pub const DEFAULT_MAX_KEYS: usize = 100_000;

/// How often keys that no longer matter are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// The limit is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// When the next request of this key is admitted, exactly.
    pub retry_after: Duration,
}

/// So many requests per window and key: at once, and then one every `window / limit`.
///
/// A share of the window is rounded up to a whole microsecond, in which databases count, so that they count alike.
///
/// A key is forgotten as soon as its allowance is whole again. When there are more keys than the maximum even so, those
/// nearest to it are forgotten first: memory is bounded, and whoever used up most stays limited.
pub struct KeyedLimiter<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, Keys<K>, KernelClock, NoOpMiddleware<Timeline>>,
    keys: Keys<K>,
    limit: NonZeroU32,
    window: Duration,
    every: Duration,
}

impl<K: Hash + Eq + Clone> KeyedLimiter<K> {
    /// Admits `limit` requests per `window` and key; remembers at most `max_keys`.
    pub fn new(limit: NonZeroU32, window: Duration, max_keys: usize, clock: Arc<dyn Clock>) -> Self {
        let every = share(limit, window);
        let quota =
            Quota::with_period(every).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(limit);
        let keys = Keys {
            tats: Arc::default(),
            max: max_keys.max(1),
            clock: Arc::clone(&clock),
            start: clock.now(),
        };
        let limiter = RateLimiter::new(quota, keys.clone(), KernelClock(clock));
        Self { limiter, keys, limit, window, every }
    }

    /// Counts a request of `key`.
    ///
    /// # Errors
    /// When it is one too many; it then does not count.
    pub fn check(&self, key: &K) -> Result<(), Exceeded> {
        self.limiter
            .check_key(key)
            .map_err(|until| Exceeded { retry_after: until.wait_time_from(self.limiter.clock().now()) })
    }

    /// Whether a request of `key` would be admitted now; counts none.
    ///
    /// # Errors
    /// When it would be one too many.
    pub fn look(&self, key: &K) -> Result<(), Exceeded> {
        let at_once = self.every.saturating_mul(self.limit.get() - 1);
        let retry_after = self.whole_in(key).saturating_sub(at_once);
        if retry_after.is_zero() { Ok(()) } else { Err(Exceeded { retry_after }) }
    }

    /// How long until the allowance of `key` is whole again.
    pub fn whole_in(&self, key: &K) -> Duration {
        let tat = self.keys.lock().get(key).copied().unwrap_or_default();
        Duration::from_nanos(tat.saturating_sub(self.keys.now()))
    }

    /// Replaces what is known of `key` by what somebody knows better: when its allowance is whole again.
    pub fn learn(&self, key: K, whole_in: Duration) {
        let mut tats = self.keys.lock();
        if whole_in.is_zero() {
            tats.remove(&key);
            return;
        }
        if tats.len() >= self.keys.max && !tats.contains_key(&key) {
            self.keys.make_room(&mut tats);
        }
        let whole_in = u64::try_from(whole_in.as_nanos()).unwrap_or(u64::MAX);
        tats.insert(key, self.keys.now().saturating_add(whole_in));
    }

    /// How many requests the window admits.
    pub fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// The window.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The share of the window after which one more is admitted.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// How many keys are remembered now.
    pub fn len(&self) -> usize {
        self.limiter.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the keys whose allowance is whole, and gives their memory back.
    pub fn sweep(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> KeyedLimiter<K> {
    /// Sweeps every minute, in the background, until the process is told to stop or the limiter is gone.
    pub fn sweep_in_background(self: &Arc<Self>, shutdown: &Shutdown) {
        let limiter = Arc::downgrade(self);
        let draining = shutdown.draining();
        shutdown.spawn("rate limit sweep", async move {
            let sweeping = async {
                loop {
                    tokio::time::sleep(SWEEP_INTERVAL).await;
                    match limiter.upgrade() {
                        Some(limiter) => limiter.sweep(),
                        None => break,
                    }
                }
            };
            tokio::select! { () = draining => {}, () = sweeping => {} }
        });
    }
}

impl<K: Hash + Eq + Clone> fmt::Debug for KeyedLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedLimiter")
            .field("limit", &self.limit)
            .field("window", &self.window)
            .field("keys", &self.len())
            .finish_non_exhaustive()
    }
}

/// The share of the window that one request takes, in whole microseconds, rounded up.
pub fn share(limit: NonZeroU32, window: Duration) -> Duration {
    let micros = window.as_nanos().div_ceil(u128::from(limit.get()) * 1000).max(1);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// When each key's allowance is whole again: its theoretical arrival time, in governor's nanoseconds. Clones share it.
#[derive(Clone)]
struct Keys<K> {
    tats: Arc<Mutex<HashMap<K, u64>>>,
    max: usize,
    clock: Arc<dyn Clock>,
    start: Timestamp,
}

impl<K: Hash + Eq + Clone> Keys<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, u64>> {
        // No code under this lock can leave the map half changed.
        self.tats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time, in governor's nanoseconds.
    fn now(&self) -> u64 {
        Timeline(self.clock.now()).duration_since(Timeline(self.start)).as_u64()
    }

    /// Makes room: first what is whole again, then a quarter of the keys, those that are whole soonest.
    fn make_room(&self, tats: &mut HashMap<K, u64>) {
        let now = self.now();
        tats.retain(|_, tat| *tat > now);
        let excess = (tats.len() + 1).saturating_sub(self.max);
        if excess > 0 {
            let mut order: Vec<u64> = tats.values().copied().collect();
            let mut surplus = excess.max(self.max / 4).min(order.len());
            let (_, bound, _) = order.select_nth_unstable(surplus - 1);
            let bound = *bound;
            tats.retain(|_, tat| {
                let drop = *tat <= bound && surplus > 0;
                surplus -= usize::from(drop);
                !drop
            });
        }
    }
}

impl<K: Hash + Eq + Clone> StateStore for Keys<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut tats = self.lock();
        if let Some(tat) = tats.get_mut(key) {
            let (admitted, next) = decide(Some(Nanos::new(*tat)))?;
            *tat = next.as_u64();
            return Ok(admitted);
        }
        let (admitted, next) = decide(None)?;
        if tats.len() >= self.max {
            self.make_room(&mut tats);
        }
        tats.insert(key.clone(), next.as_u64());
        Ok(admitted)
    }
}

impl<K: Hash + Eq + Clone> ShrinkableKeyedStateStore<K> for Keys<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        self.lock().retain(|_, tat| *tat > drop_below.as_u64());
    }

    fn shrink_to_fit(&self) {
        self.lock().shrink_to_fit();
    }

    fn len(&self) -> usize {
        self.lock().len()
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

/// A clock that goes on evenly, whatever becomes of the machine's: right for whoever asks only how much time has passed.
#[derive(Debug, Clone, Copy)]
pub struct SteadyClock {
    set_to: Timestamp,
    at: Instant,
}

impl SteadyClock {
    /// Sets a clock by another, once.
    pub fn set_by(clock: &dyn Clock) -> Self {
        Self { set_to: clock.now(), at: Instant::now() }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        self.set_to.saturating_add(self.at.elapsed()).unwrap_or(Timestamp::MAX)
    }
}

/// The injected clock, as governor wants it.
#[derive(Debug, Clone)]
struct KernelClock(Arc<dyn Clock>);

impl GovernorClock for KernelClock {
    type Instant = Timeline;

    fn now(&self) -> Timeline {
        Timeline(self.0.now())
    }
}

/// A point in time, as governor wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Timeline(Timestamp);

impl Add<Nanos> for Timeline {
    type Output = Self;

    fn add(self, later: Nanos) -> Self {
        Self(self.0.saturating_add(Duration::from(later)).unwrap_or(Timestamp::MAX))
    }
}

impl Reference for Timeline {
    fn duration_since(&self, earlier: Self) -> Nanos {
        let nanos = self.0.as_nanosecond() - earlier.0.as_nanosecond();
        // Clocks may go back; nobody gains or loses allowance by it.
        Nanos::new(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }

    fn saturating_sub(&self, earlier: Nanos) -> Self {
        Self(self.0.saturating_sub(Duration::from(earlier)).unwrap_or(Timestamp::MIN))
    }
}

/// What a client on the network counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// One IPv4 address.
    V4(std::net::Ipv4Addr),
    /// The first 64 bits of an IPv6 address: the smallest network that is handed to one customer, who may use any
    /// address in it (RFC 6177).
    V6Net(u64),
}

/// The key of a client: an IPv4 address as it is, also when written as an IPv6 one; an IPv6 address by its /64.
pub fn client_key(address: IpAddr) -> ClientKey {
    match address {
        IpAddr::V4(address) => ClientKey::V4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => ClientKey::V4(address),
            None => ClientKey::V6Net(network(address)),
        },
    }
}

/// As a network: `192.0.2.7/32`, `2001:db8:0:1::/64`.
impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => write!(f, "{address}/32"),
            Self::V6Net(network) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*network) << 64)),
        }
    }
}

fn network(address: Ipv6Addr) -> u64 {
    let [a, b, c, d, ..] = address.segments().map(u64::from);
    a << 48 | b << 32 | c << 16 | d
}

#[cfg(test)]
#[path = "limit_tests.rs"]
mod tests;
