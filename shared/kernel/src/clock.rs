//! Time and chance are dependencies like any other: passed in, so that a test can move the one and fix the other.

use std::fmt;

use jiff::Timestamp;

/// Where a component learns what time it is.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The current time, UTC.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Where a component gets its random bytes.
pub trait Entropy: fmt::Debug + Send + Sync + 'static {
    /// Fills `buffer` with random bytes fit for secrets.
    fn fill(&self, buffer: &mut [u8]);
}

/// The operating system's random generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    #[expect(
        clippy::expect_used,
        reason = "without the system's random generator nothing here is safe to go on"
    )]
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the operating system provides random bytes");
    }
}
