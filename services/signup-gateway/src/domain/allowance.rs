//! How many signups a client may have: the generic cell rate algorithm, without its memory and its clock.

use std::{num::NonZeroU32, time::Duration};

use pulse_rpc::limit::share;

/// So many signups at once, and then one more each time an equal share of the window has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    limit: NonZeroU32,
    window: Duration,
    share: Duration,
}

/// Whether a client may sign up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may, and that counts.
    Admitted {
        /// When its allowance is whole again.
        whole_in: Duration,
    },
    /// It may not, and that does not count.
    Refused {
        /// When it may, exactly, unless it is admitted elsewhere before.
        retry_after: Duration,
        /// When its allowance is whole again.
        whole_in: Duration,
    },
}

impl Allowance {
    /// `limit` signups in a window.
    pub fn new(limit: NonZeroU32, window: Duration) -> Self {
        Self { limit, window, share: share(limit, window) }
    }

    /// How many signups at once.
    pub fn limit(&self) -> NonZeroU32 {
        self.limit
    }

    /// The window.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The share of the window that one signup uses up, in whole microseconds.
    pub fn share(&self) -> Duration {
        self.share
    }

    /// Decides about a signup after which, if it is counted, the allowance is whole again in `counted`.
    pub fn judge(&self, counted: Duration) -> Decision {
        let whole = self.share.saturating_mul(self.limit.get());
        match counted.checked_sub(whole) {
            None | Some(Duration::ZERO) => Decision::Admitted { whole_in: counted },
            Some(retry_after) => {
                Decision::Refused { retry_after, whole_in: counted.saturating_sub(self.share) }
            }
        }
    }
}

impl Decision {
    /// When the client's allowance is whole again.
    pub fn whole_in(self) -> Duration {
        match self {
            Self::Admitted { whole_in } | Self::Refused { whole_in, .. } => whole_in,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use proptest::prelude::*;
    use pulse_kernel::Clock as _;
    use pulse_rpc::KeyedLimiter;
    use pulse_testkit::ManualClock;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn between(earlier: Timestamp, later: Timestamp) -> Duration {
        later.duration_since(earlier).try_into().unwrap_or_default()
    }

    #[test]
    fn the_whole_allowance_may_be_used_at_once_and_not_a_microsecond_more() {
        let allowance = Allowance::new(5.try_into().unwrap(), HOUR);
        assert_eq!(allowance.judge(HOUR), Decision::Admitted { whole_in: HOUR });
        let over = HOUR + Duration::from_micros(1);
        let refused = Decision::Refused {
            retry_after: Duration::from_micros(1),
            whole_in: over.saturating_sub(Duration::from_mins(12)),
        };
        assert_eq!(allowance.judge(over), refused);
    }

    proptest! {
        /// What a database does, one row and one statement, decides as governor does in memory.
        #[test]
        fn decides_as_the_limiter_in_memory(
            limit in 1..20_u32,
            window_secs in 1..5000_u64,
            steps in prop::collection::vec(0..2_000_u32, 1..80),
        ) {
            let window = Duration::from_secs(window_secs);
            let allowance = Allowance::new(limit.try_into().unwrap(), window);
            let clock = ManualClock::default();
            let limiter = KeyedLimiter::new(allowance.limit(), window, 10, Arc::new(clock.clone()));
            let mut whole_at = Timestamp::MIN;
            for step in steps {
                let now = clock.advance(Duration::from_micros(
                    u64::try_from(allowance.share().as_micros()).unwrap() * u64::from(step) / 1000,
                ));
                let counted = whole_at.max(now) + allowance.share();
                let decision = allowance.judge(between(now, counted));
                let checked = limiter.check(&1);
                match decision {
                    Decision::Admitted { .. } => {
                        prop_assert_eq!(checked, Ok(()));
                        whole_at = counted;
                    }
                    Decision::Refused { retry_after, .. } => {
                        prop_assert_eq!(checked.unwrap_err().retry_after, retry_after);
                    }
                }
                prop_assert_eq!(decision.whole_in(), limiter.whole_in(&1));
                prop_assert_eq!(decision.whole_in(), between(clock.now(), whole_at));
            }
        }
    }
}
