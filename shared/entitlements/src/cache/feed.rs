//! Until when a change feed vouches for what is cached.
//!
//! A feed that is whole makes everything that it covers as good as just read. When it goes silent, that holds for a bounded
//! time; when it is known to have broken, for no longer than anything that was read. When it could not go on where it
//! stopped, it begins again: an epoch is over, and what was known in it counts from the last time that it was whole.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
    },
};

use jiff::Timestamp;

use super::entry::{Entry, lies_ahead};

/// How many epochs back it is known until when they were whole. Before that, what was read counts from when it was.
const EPOCHS: usize = 32;

/// The feed of a cache; without one, nothing is ever confirmed and there is one epoch. Changed under the cache's lock,
/// read without.
#[derive(Debug, Default)]
pub(super) struct Feed {
    epoch: AtomicU32,
    /// When that began, in microseconds since 1970.
    began_at: AtomicI64,
    /// When the feed was last whole.
    confirmed_at: AtomicI64,
    /// Whether it has not been heard to be broken since.
    is_open: AtomicBool,
    /// The same of past epochs, the last one at the back.
    past: Mutex<VecDeque<i64>>,
}

impl Feed {
    /// The epoch that it is.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The feed was whole at that time.
    pub(super) fn confirm(&self, as_of: i64) {
        self.confirmed_at.store(as_of, Ordering::Release);
        self.is_open.store(true, Ordering::Release);
    }

    /// The feed broke.
    pub(super) fn lost(&self) {
        self.is_open.store(false, Ordering::Release);
    }

    /// Something may have been missed: nothing that is known counts any more, until it is read or told again.
    pub(super) fn begin_again(&self, now: Timestamp) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == EPOCHS {
            past.pop_front();
        }
        past.push_back(self.confirmed_at.load(Ordering::Acquire));
        self.began_at.store(now.as_microsecond(), Ordering::Release);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Whether the entry was read, or told, since the feed began.
    pub(super) fn knows<T>(&self, entry: &Entry<T>) -> bool {
        entry.epoch == self.epoch()
    }

    /// Whether the feed tells of what changed after that time.
    pub(super) fn has_begun_at(&self, time: i64) -> bool {
        self.began_at.load(Ordering::Acquire) <= time
    }

    /// Whether the feed would have told of a change until shortly before `now`.
    pub(super) fn vouches_for<T>(
        &self,
        entry: &Entry<T>,
        now: Timestamp,
        refresh: i64,
        silence: i64,
    ) -> bool {
        let confirmed_at = self.confirmed_at.load(Ordering::Acquire);
        let at_most = if self.is_open.load(Ordering::Acquire) { silence } else { refresh };
        entry.is_covered()
            && self.knows(entry)
            && lies_ahead(confirmed_at.saturating_add(at_most), now, at_most)
    }

    /// When what the entry says was last known to be so: when it was read, or when the feed was whole after that.
    pub(super) fn read_at<T>(&self, entry: &Entry<T>) -> i64 {
        if !entry.is_covered() {
            return entry.read_at;
        }
        // In this order: an epoch that ends in between must not lend its successor's time to the entry.
        let confirmed_at = self.confirmed_at.load(Ordering::Acquire);
        match self.epoch().checked_sub(entry.epoch) {
            Some(0) => entry.read_at.max(confirmed_at),
            ago => ago.and_then(|ago| self.past(ago)).map_or(entry.read_at, |at| at.max(entry.read_at)),
        }
    }

    /// When the epoch that many ago was last whole.
    fn past(&self, ago: u32) -> Option<i64> {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.len().checked_sub(usize::try_from(ago).ok()?).and_then(|at| past.get(at)).copied()
    }
}
