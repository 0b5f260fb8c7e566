//! Time that stands still until the test moves it.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use pulse_kernel::Clock;

/// A clock that a test sets and advances. Clones show the same time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Timestamp>>);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    /// Shows `now` from here on; going back is possible, as it is for real clocks.
    pub fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Moves the clock by `step` (a [`SignedDuration`] or a [`std::time::Duration`]) and returns the new time.
    ///
    /// # Panics
    /// When the time leaves the range of [`Timestamp`].
    pub fn advance<D: TryInto<SignedDuration>>(&self, step: D) -> Timestamp {
        let step = step.try_into().ok().expect("the step fits a SignedDuration");
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.checked_add(step).expect("the clock stays within the range of Timestamp");
        *now
    }
}

impl Default for ManualClock {
    /// 2030-01-01T00:00:00Z: clearly not the machine's time, so code that reads that one instead is noticed.
    fn default() -> Self {
        Self::at(Timestamp::constant(1_893_456_000, 0))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn clones_share_the_time() {
        let clock = ManualClock::default();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        assert_eq!(shared.now().to_string(), "2030-01-01T00:00:00Z");
        clock.advance(Duration::from_secs(90));
        assert_eq!(shared.now().to_string(), "2030-01-01T00:01:30Z");
        clock.advance(SignedDuration::from_secs(-30));
        assert_eq!(shared.now().to_string(), "2030-01-01T00:01:00Z");
        clock.set(Timestamp::UNIX_EPOCH);
        assert_eq!(shared.now(), Timestamp::UNIX_EPOCH);
    }
}
