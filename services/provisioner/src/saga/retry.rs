//! How often and how fast a failed step is tried again.

use std::time::Duration;

use jiff::Timestamp;
use pulse_kernel::Entropy;

/// The numbers of the engine. Production uses the defaults; tests move them.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// How often a step may fail before a provisioning is undone, or a purge is stuck.
    pub forward_attempts: u32,
    /// How often undoing a step may fail before the saga is stuck.
    pub backward_attempts: u32,
    /// The pause after the first failure; it doubles with each.
    pub first_backoff: Duration,
    /// The longest pause between tries.
    pub longest_backoff: Duration,
    /// The pause between tries of a saga that is stuck for a cause that may pass.
    pub stuck_pause: Duration,
    /// How long a call to another service may take.
    pub rpc_deadline: Duration,
    /// How long a runner may be silent before another may take its saga over. What two of them do at once is fenced and harms
    /// nothing, but it is done twice: so this is as long as one that is alive may need for a step, with some room for clocks
    /// that differ. That is `rpc_deadline` for the call, and for its commit as long as the store lets one transaction
    /// take, which is two seconds for a connection and five for the rest.
    pub lease: Duration,
    /// How often sagas are looked for that nobody runs.
    pub recovery_interval: Duration,
    /// How many recovered sagas, and how many purges, run at once.
    pub concurrency: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            forward_attempts: 12,
            backward_attempts: 12,
            first_backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_secs(30),
            stuck_pause: Duration::from_mins(1),
            rpc_deadline: Duration::from_secs(5),
            lease: Duration::from_secs(15),
            recovery_interval: Duration::from_secs(1),
            concurrency: 32,
        }
    }
}

/// Chance as a value, so that what follows from it is a function: 0 to `u32::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jitter(pub u32);

impl Jitter {
    /// A fresh one.
    pub fn draw(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0; 4];
        entropy.fill(&mut bytes);
        Self(u32::from_le_bytes(bytes))
    }

    /// Half of `pause`, and a random part of the other half: those who failed together do not come back together.
    fn spread(self, pause: Duration) -> Duration {
        let half = pause / 2;
        half + half.mul_f64(f64::from(self.0) / f64::from(u32::MAX))
    }
}

impl Tuning {
    /// The pause after failure number `attempt` (from 1) of a step.
    pub fn backoff(&self, attempt: u32, jitter: Jitter) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let pause = self.first_backoff.saturating_mul(1 << doublings).min(self.longest_backoff);
        jitter.spread(pause)
    }

    /// How long a commit is tried whose failure may pass: until about when the lease has run out. So long nobody else can go on
    /// with the saga, and the store may come back at any moment.
    pub const fn commit_patience(&self) -> Duration {
        self.lease.saturating_sub(self.rpc_deadline)
    }

    /// The pause of a saga that is stuck for a cause that may pass.
    pub fn slow(&self, jitter: Jitter) -> Duration {
        jitter.spread(self.stuck_pause.saturating_mul(2))
    }
}

/// `pause` after `now`; the end of time where that is beyond it.
pub fn after(now: Timestamp, pause: Duration) -> Timestamp {
    now.checked_add(pause).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_grow_and_stay_within_their_bounds(attempt in 1_u32..200, random: u32) {
            let tuning = Tuning::default();
            let pause = tuning.backoff(attempt, Jitter(random));
            prop_assert!(pause >= tuning.first_backoff / 2 && pause <= tuning.longest_backoff);
            prop_assert!(tuning.backoff(attempt + 1, Jitter(random)) >= pause);
            let slow = tuning.slow(Jitter(random));
            prop_assert!(slow >= tuning.stuck_pause && slow <= tuning.stuck_pause * 2);
        }
    }

    #[test]
    fn a_runner_that_is_alive_keeps_its_lease_through_a_slow_step() {
        let (tuning, transaction) = (Tuning::default(), Duration::from_secs(2 + 5));
        assert!(tuning.rpc_deadline + transaction < tuning.lease);
        assert!(tuning.commit_patience() > transaction);
        assert_eq!(tuning.rpc_deadline + tuning.commit_patience(), tuning.lease);
    }

    #[test]
    fn all_tries_together_take_minutes_not_hours() {
        let tuning = Tuning::default();
        let total: Duration = (1..tuning.forward_attempts).map(|n| tuning.backoff(n, Jitter(u32::MAX))).sum();
        assert!(total > Duration::from_mins(1) && total < Duration::from_mins(3), "{total:?}");
    }
}
