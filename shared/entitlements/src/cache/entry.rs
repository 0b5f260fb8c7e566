//! One tenant in the cache, and for how long it counts: no locks, no I/O.

use std::time::Duration;

use jiff::Timestamp;

/// The `ask_after` of an entry that is only good for when the store fails.
pub(super) const MUST_ASK: i64 = i64::MIN;

/// One tenant in the cache. Times are microseconds since 1970, to be compared at once.
#[derive(Debug, Clone)]
pub(super) struct Entry<T> {
    /// What the store last said; none where it never said anything.
    pub(super) fact: Option<T>,
    /// When it said so.
    pub(super) read_at: i64,
    /// Until then the store is not asked again. See [`MUST_ASK`].
    pub(super) ask_after: i64,
    /// Order in which reads began and updates arrived: an older one never replaces a newer one.
    pub(super) sequence: u64,
    /// Since which beginning of the feed this is known, if only that the store does not tell.
    pub(super) epoch: u32,
    /// Since which one the fact is.
    pub(super) told_in: u32,
    /// Whether the feed has told all that changed since this was so.
    pub(super) covered: bool,
    /// The store failed when it was last asked.
    pub(super) failing: bool,
}

impl<T> Entry<T> {
    /// The entry of a tenant of which nothing is known.
    pub(super) fn unknown(sequence: u64, now: Timestamp) -> Self {
        let read_at = now.as_microsecond();
        let (ask_after, epoch, told_in) = (MUST_ASK, 0, 0);
        Self { fact: None, read_at, ask_after, sequence, epoch, told_in, covered: false, failing: true }
    }

    /// Whether the store need not be asked at `now`.
    pub(super) fn is_settled(&self, now: Timestamp, refresh: i64) -> bool {
        lies_ahead(self.ask_after, now, refresh)
    }

    /// Whether a feed that is whole makes it as good as read again.
    pub(super) fn is_covered(&self) -> bool {
        self.covered && !self.failing && self.ask_after != MUST_ASK
    }
}

/// Whether `until` is later than `now`, but no more than `at_most`: with a clock that was set back, time counts as
/// passed, so that nothing is ever kept for longer.
pub(super) fn lies_ahead(until: i64, now: Timestamp, at_most: i64) -> bool {
    let left = until.saturating_sub(now.as_microsecond());
    left > 0 && left <= at_most
}

/// How long before `now` that was.
pub(super) fn age(read_at: i64, now: Timestamp) -> Duration {
    let age = now.as_microsecond().saturating_sub(read_at);
    Duration::from_micros(u64::try_from(age).unwrap_or(0))
}

/// A duration in microseconds.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
