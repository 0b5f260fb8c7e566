//! How long to wait before a stream is opened again: longer from time to time, and not everybody at once.

use std::time::Duration;

use pulse_kernel::Entropy;

/// The most that is waited the first time, beyond what the server asks for.
const FIRST: Duration = Duration::from_millis(200);

/// The most that is ever waited, beyond what the server asks for.
const MOST: Duration = Duration::from_secs(5);

/// The waiting in between.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure: what the server asked for, and up to as much again as it takes to spread
    /// those who come back.
    pub(super) fn next(&mut self, asked: Duration, entropy: &dyn Entropy) -> Duration {
        let most = FIRST.saturating_mul(1 << self.failures.min(16)).min(MOST);
        self.failures = self.failures.saturating_add(1);
        let mut random = [0; 4];
        entropy.fill(&mut random);
        let share = f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX);
        asked.saturating_add(most.mul_f64(share))
    }

    /// It went well for once.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Always the same bytes.
    #[derive(Debug)]
    struct Fixed(u8);

    impl Entropy for Fixed {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(self.0);
        }
    }

    #[test]
    fn it_waits_longer_each_time_up_to_a_bound_and_never_less_than_asked() {
        let (mut least, mut most) = (Backoff::default(), Backoff::default());
        let second = Duration::from_secs(1);
        let mut before = Duration::ZERO;
        for failure in 0..100 {
            assert_eq!(least.next(second, &Fixed(0)), second);
            let pause = most.next(Duration::ZERO, &Fixed(255));
            assert!(pause >= before && pause <= MOST, "{failure}: {pause:?}");
            before = pause;
        }
        assert_eq!(before, MOST);
        most.reset();
        assert_eq!(most.next(second, &Fixed(255)), second + FIRST);
    }
}
