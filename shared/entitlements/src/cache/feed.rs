//! Until when a change feed vouches for what is cached.
//!
//! A feed that is whole makes everything that it covers as good as just read. When it broke and could not go on where
//! it stopped, it begins again: an epoch is over, and what was known in it counts from the last time that it was whole.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU32, Ordering},
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
    /// When the feed was last whole, in microseconds since 1970.
    confirmed_at: AtomicI64,
    /// The same of past epochs, the last one at the back.
    past: Mutex<VecDeque<i64>>,
}

impl Feed {
    /// The epoch that it is.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The feed is whole at `now`.
    pub(super) fn confirm(&self, now: Timestamp) {
        self.confirmed_at.store(now.as_microsecond(), Ordering::Release);
    }

    /// Something may have been missed: nothing that is known counts any more, until it is read or told again.
    pub(super) fn begin_again(&self) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == EPOCHS {
            past.pop_front();
        }
        past.push_back(self.confirmed_at.load(Ordering::Acquire));
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Whether the entry was read, or told, since the feed began.
    pub(super) fn knows<T>(&self, entry: &Entry<T>) -> bool {
        entry.epoch == self.epoch()
    }

    /// Whether the feed would have told of a change until shortly before `now`.
    pub(super) fn vouches_for<T>(&self, entry: &Entry<T>, now: Timestamp, refresh: i64) -> bool {
        let confirmed_at = self.confirmed_at.load(Ordering::Acquire);
        entry.is_good() && self.knows(entry) && lies_ahead(confirmed_at.saturating_add(refresh), now, refresh)
    }

    /// When what the entry says was last known to be so: when it was read, or when the feed was whole after that.
    pub(super) fn read_at<T>(&self, entry: &Entry<T>) -> i64 {
        if !entry.is_good() {
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
