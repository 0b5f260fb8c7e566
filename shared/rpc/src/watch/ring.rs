//! The last changes, in the order in which they were published, shared by all watchers. Each watcher remembers where it is.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock},
};

use pulse_kernel::OrgId;
use tokio::sync::watch;

use super::Change;

/// What is published.
#[derive(Debug)]
pub(super) enum Entry<T> {
    /// A change of a tenant.
    Changed(Arc<Change<T>>),
    /// Changes may be missing here.
    Reset,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Changed(change) => Self::Changed(Arc::clone(change)),
            Self::Reset => Self::Reset,
        }
    }
}

/// What a watcher waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The place of what is published next.
    pub(super) next: u64,
    /// Whether nothing will be.
    pub(super) closed: bool,
}

/// What was asked for is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forgotten;

/// The ring.
#[derive(Debug)]
pub(super) struct Ring<T> {
    entries: RwLock<Entries<T>>,
    head: watch::Sender<Head>,
    capacity: usize,
}

#[derive(Debug)]
struct Entries<T> {
    kept: VecDeque<Entry<T>>,
    /// The place of the first that is kept.
    first: u64,
    /// The last of each tenant that is kept and came after the last reset.
    latest: HashMap<OrgId, (u64, Arc<Change<T>>)>,
}

impl<T> Ring<T> {
    pub(super) fn new(capacity: usize) -> Self {
        let entries = Entries { kept: VecDeque::new(), first: 0, latest: HashMap::new() };
        let head = watch::Sender::new(Head { next: 0, closed: false });
        Self { entries: RwLock::new(entries), head, capacity }
    }

    /// Publishes what comes next. Only one task does.
    pub(super) fn push(&self, entry: Entry<T>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.kept.len() == self.capacity {
            entries.forget_first();
        }
        let place = entries.next();
        match &entry {
            Entry::Changed(change) => {
                entries.latest.insert(change.org.clone(), (place, Arc::clone(change)));
            }
            Entry::Reset => entries.latest.clear(),
        }
        entries.kept.push_back(entry);
        let next = entries.next();
        drop(entries);
        self.head.send_modify(|head| head.next = next);
    }

    /// Nothing will be published any more.
    pub(super) fn close(&self) {
        self.head.send_modify(|head| head.closed = true);
    }

    /// The place of what is published next.
    pub(super) fn head(&self) -> u64 {
        self.head.borrow().next
    }

    /// To wait for what comes next.
    pub(super) fn subscribe(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// The last change of a tenant, while it is kept and nothing was missed since.
    pub(super) fn latest(&self, org: &OrgId) -> Option<Arc<Change<T>>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.latest.get(org).map(|(_, change)| Arc::clone(change))
    }

    /// Whether everything from that place on is kept.
    pub(super) fn has_all_from(&self, place: u64) -> bool {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).first <= place
    }

    /// What was published from one place up to, and without, another; at most `most`.
    pub(super) fn between(&self, from: u64, until: u64, most: usize) -> Result<Vec<Entry<T>>, Forgotten> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let index = |place: u64| usize::try_from(place.checked_sub(entries.first)?).ok();
        let begin = index(from).ok_or(Forgotten)?;
        let end = index(until).ok_or(Forgotten)?.min(entries.kept.len()).min(begin.saturating_add(most));
        Ok(entries.kept.range(begin.min(end)..end).cloned().collect())
    }
}

impl<T> Entries<T> {
    fn next(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    fn forget_first(&mut self) {
        if let Some(Entry::Changed(change)) = self.kept.pop_front()
            && self.latest.get(&change.org).is_some_and(|(place, _)| *place == self.first)
        {
            self.latest.remove(&change.org);
        }
        self.first += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Now;

    fn change(org: &str, version: u64) -> Arc<Change<()>> {
        Arc::new(Change { org: OrgId::parse(org).unwrap(), now: Now::State { version, state: () } })
    }

    fn places(ring: &Ring<()>, from: u64, until: u64, most: usize) -> Result<Vec<String>, Forgotten> {
        let show = |entry| match entry {
            Entry::Changed(change) => format!("{}@{:?}", change.org, change.now.version().unwrap()),
            Entry::Reset => "reset".to_owned(),
        };
        ring.between(from, until, most).map(|entries| entries.into_iter().map(show).collect())
    }

    #[test]
    fn it_keeps_the_last_and_forgets_the_rest() {
        let ring = Ring::new(3);
        assert_eq!((ring.head(), places(&ring, 0, 0, 9)), (0, Ok(vec![])));
        for version in 1..=3 {
            ring.push(Entry::Changed(change("a", version)));
        }
        assert_eq!(places(&ring, 0, ring.head(), 9).unwrap(), ["a@1", "a@2", "a@3"]);
        assert_eq!(places(&ring, 1, 2, 9).unwrap(), ["a@2"]);
        assert_eq!(places(&ring, 0, 3, 2).unwrap(), ["a@1", "a@2"]);
        ring.push(Entry::Changed(change("b", 1)));
        assert_eq!(places(&ring, 0, 4, 9), Err(Forgotten));
        assert_eq!(places(&ring, 1, 4, 9).unwrap(), ["a@2", "a@3", "b@1"]);
        assert_eq!(places(&ring, 4, 4, 9).unwrap(), Vec::<String>::new());
        assert_eq!((ring.has_all_from(0), ring.has_all_from(1), ring.head()), (false, true, 4));
    }

    #[test]
    fn it_knows_the_last_of_each_tenant_that_it_keeps() {
        let ring = Ring::new(3);
        ring.push(Entry::Changed(change("a", 1)));
        ring.push(Entry::Changed(change("b", 7)));
        ring.push(Entry::Changed(change("a", 2)));
        let latest = |org| ring.latest(&OrgId::parse(org).unwrap()).and_then(|change| change.now.version());
        assert_eq!((latest("a"), latest("b"), latest("c")), (Some(2), Some(7), None));
        ring.push(Entry::Changed(change("c", 1)));
        assert_eq!((latest("a"), latest("b")), (Some(2), Some(7)), "only an older one of a is forgotten");
        ring.push(Entry::Changed(change("c", 2)));
        assert_eq!((latest("a"), latest("b"), latest("c")), (Some(2), None, Some(2)));
        ring.push(Entry::Reset);
        assert_eq!((latest("a"), latest("c")), (None, None));
    }
}
