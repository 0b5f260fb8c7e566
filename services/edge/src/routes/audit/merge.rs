//! Several lists, newest first, as one that is paged with one token.
//!
//! The token remembers for every source the page that was being read and the last event taken from it. Sequences only
//! grow and a source's pages go down them without gaps, so reading that page again and leaving out what was taken
//! goes on at exactly the next event: nothing is told twice and nothing left out. What is recorded after the first
//! page was read belongs to the next list.
//!
//! Each source's own order is kept, even where its clock went back; between the sources the newest head goes first.

use std::{cmp::Ordering, collections::VecDeque};

use futures::future::try_join_all;
use pulse_kernel::{ApiError, Reason};
use serde::{Deserialize, Serialize};

use crate::{
    clients::{AuditSource, Page},
    model::AuditEvent,
};

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    org_id: String,
    /// One per source, in the order of [`AuditSource::ALL`].
    positions: [Position; AuditSource::ALL.len()],
}

/// Where one source goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Position {
    /// On the page that `token` leads to, with events below `below`.
    #[serde(rename = "p")]
    Page { token: String, below: Option<i64> },
    /// Nowhere: everything was told.
    #[serde(rename = "e")]
    End,
}

impl Cursor {
    pub(super) fn start(org_id: &str) -> Self {
        let first = Position::Page { token: String::new(), below: None };
        Self { org_id: org_id.to_owned(), positions: AuditSource::ALL.map(|_| first.clone()) }
    }

    /// A cursor read from a token, which must be one of this tenant's.
    pub(super) fn resume(cursor: Option<Self>, org_id: &str) -> Result<Self, ApiError> {
        match cursor {
            None => Ok(Self::start(org_id)),
            Some(cursor) if cursor.org_id == org_id => Ok(cursor),
            Some(_) => {
                let why = "must be a next_page_token of this same list";
                Err(ApiError::field(Reason::InvalidRequest, "page_token", why))
            }
        }
    }

    pub(super) fn is_start(&self) -> bool {
        *self == Self::start(&self.org_id)
    }
}

/// Lists, each newest first.
pub(super) trait Sources: Sync {
    /// The page of a source that `token` leads to; the first for an empty one.
    fn page(
        &self,
        source: AuditSource,
        token: &str,
    ) -> impl Future<Output = Result<Page<AuditEvent>, ApiError>> + Send;
}

/// A page, and where the next one begins; none after the last.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) events: Vec<AuditEvent>,
    pub(super) next: Option<Cursor>,
}

/// The next `size` events after `cursor`.
pub(super) async fn page(cursor: Cursor, size: usize, sources: &impl Sources) -> Result<Merged, ApiError> {
    let mut heads: Vec<Head> = AuditSource::ALL.into_iter().zip(cursor.positions).map(Head::new).collect();
    let mut events = Vec::with_capacity(size);
    while events.len() < size {
        try_join_all(heads.iter_mut().map(|head| head.fill(sources))).await?;
        let newest = heads.iter_mut().filter(|head| !head.events.is_empty()).reduce(|best, head| {
            // The earlier source goes first where two are equally new.
            if head.newness(best) == Ordering::Greater { head } else { best }
        });
        let Some(event) = newest.and_then(Head::take) else { break };
        events.push(event);
    }
    let ended = heads.iter().all(Head::is_at_end);
    let positions: Vec<_> = heads.into_iter().map(Head::position).collect();
    let next = <[Position; AuditSource::ALL.len()]>::try_from(positions).ok().filter(|_| !ended);
    Ok(Merged { events, next: next.map(|positions| Cursor { org_id: cursor.org_id, positions }) })
}

/// One source, and what was read from it ahead.
#[derive(Debug)]
struct Head {
    source: AuditSource,
    events: VecDeque<AuditEvent>,
    /// The token that led to the events read ahead.
    token: String,
    /// What follows is below: the last event taken, or at first whatever is newer than the list.
    below: Option<i64>,
    ahead: Ahead,
}

/// What a source has beyond the events read ahead.
#[derive(Debug)]
enum Ahead {
    /// The page of this token; empty for the first one.
    Page(String),
    Nothing,
}

impl Head {
    fn new((source, position): (AuditSource, Position)) -> Self {
        let (token, below, ahead) = match position {
            Position::Page { token, below } => (token.clone(), below, Ahead::Page(token)),
            Position::End => (String::new(), None, Ahead::Nothing),
        };
        Self { source, events: VecDeque::new(), token, below, ahead }
    }

    /// Reads on until there is an event, or none are left.
    async fn fill(&mut self, sources: &impl Sources) -> Result<(), ApiError> {
        while self.events.is_empty()
            && let Ahead::Page(token) = &self.ahead
        {
            let page = sources.page(self.source, token).await?;
            self.token.clone_from(token);
            let below = self.below;
            self.events = page.items.into();
            self.events.retain(|event| below.is_none_or(|below| event.sequence < below));
            // The list is that of its first page: what is recorded from now on is above this, taken from here or not.
            self.below = below.or(self.events.front().map(|event| event.sequence.saturating_add(1)));
            // A page that leads to itself would be read for ever.
            let more = !page.next_token.is_empty() && page.next_token != self.token;
            self.ahead = if more { Ahead::Page(page.next_token) } else { Ahead::Nothing };
        }
        Ok(())
    }

    fn newness(&self, other: &Self) -> Ordering {
        let time = |head: &Self| head.events.front().map(|event| event.occurred_at);
        time(self).cmp(&time(other))
    }

    fn take(&mut self) -> Option<AuditEvent> {
        let event = self.events.pop_front()?;
        self.below = Some(event.sequence);
        Some(event)
    }

    fn is_at_end(&self) -> bool {
        self.events.is_empty() && matches!(self.ahead, Ahead::Nothing)
    }

    fn position(self) -> Position {
        match self.ahead {
            Ahead::Nothing if self.events.is_empty() => Position::End,
            Ahead::Page(token) if self.events.is_empty() => Position::Page { token, below: self.below },
            _ => Position::Page { token: self.token, below: self.below },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use jiff::{Timestamp, ToSpan as _};
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 3] = ["lifecycle", "provisioner", "billing-state"];

    /// Of the event at `index`.
    fn sequence(index: usize) -> i64 {
        i64::try_from(index).unwrap() + 1
    }

    fn event(source: usize, sequence: i64, second: i64) -> AuditEvent {
        AuditEvent {
            service: NAMES[source].into(),
            sequence,
            occurred_at: Timestamp::UNIX_EPOCH + second.seconds(),
            actor: "ann".into(),
            action: "changed".into(),
            reason: None,
            before: None,
            after: None,
            request_id: None,
            hash: String::new(),
        }
    }

    /// Three sources as the services are: a token is the sequence that the page's events are below.
    #[derive(Debug, Default)]
    struct Model(Mutex<[Vec<i64>; 3]>, AtomicUsize);

    impl Model {
        fn new(times: [Vec<i64>; 3]) -> Self {
            Self(Mutex::new(times), AtomicUsize::new(0))
        }

        fn record(&self, source: usize, second: i64) {
            self.0.lock().unwrap()[source].push(second);
        }

        fn read(&self, source: AuditSource, token: &str, size: usize) -> Page<AuditEvent> {
            let index = AuditSource::ALL.iter().position(|s| *s == source).unwrap();
            let times = &self.0.lock().unwrap()[index];
            let end = if token.is_empty() { times.len() } else { token.parse::<usize>().unwrap() - 1 };
            let start = end.saturating_sub(size);
            let items = (start..end).rev().map(|i| event(index, sequence(i), times[i])).collect();
            let next_token = if start > 0 { (start + 1).to_string() } else { String::new() };
            Page { items, next_token }
        }

        async fn merged(&self, cursor: Cursor, size: usize) -> Merged {
            self.1.store(size, Relaxed);
            page(cursor, size, self).await.unwrap()
        }
    }

    impl Sources for Model {
        async fn page(&self, source: AuditSource, token: &str) -> Result<Page<AuditEvent>, ApiError> {
            Ok(self.read(source, token, self.1.load(Relaxed)))
        }
    }

    struct Broken;

    impl Sources for Broken {
        async fn page(&self, source: AuditSource, _: &str) -> Result<Page<AuditEvent>, ApiError> {
            match source {
                AuditSource::Provisioner => Err(ApiError::internal()),
                _ => Ok(Page { items: Vec::new(), next_token: String::new() }),
            }
        }
    }

    fn key(event: &AuditEvent) -> (String, i64) {
        (event.service.clone(), event.sequence)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[tokio::test]
    async fn sources_are_merged_newest_first() {
        let sources = Model::new([vec![1, 5], vec![2], vec![3, 5, 9]]);
        let Merged { events, next } = sources.merged(Cursor::start("acme"), 10).await;
        let told: Vec<_> = events.iter().map(|e| (e.service.as_str(), e.occurred_at.as_second())).collect();
        assert_eq!(
            told,
            [
                ("billing-state", 9),
                ("lifecycle", 5),
                ("billing-state", 5),
                ("billing-state", 3),
                ("provisioner", 2),
                ("lifecycle", 1)
            ]
        );
        assert_eq!(next, None);
    }

    #[tokio::test]
    async fn an_empty_list_ends_at_once_and_a_full_page_with_nothing_behind_it_is_the_last() {
        let Merged { events, next } = Model::default().merged(Cursor::start("acme"), 2).await;
        assert!(events.is_empty() && next.is_none());
        let Merged { events, next } =
            Model::new([vec![1], vec![2], vec![]]).merged(Cursor::start("acme"), 2).await;
        assert_eq!((events.len(), next), (2, None));
    }

    #[test]
    fn a_token_of_another_tenant_is_refused() {
        let cursor = Some(Cursor::start("acme"));
        assert!(Cursor::resume(cursor.clone(), "acme").unwrap().is_start());
        let error = Cursor::resume(cursor, "globex").unwrap_err();
        assert_eq!(error.violations()[0].field, "page_token");
    }

    #[tokio::test]
    async fn a_failing_source_fails_the_page() {
        assert!(page(Cursor::start("acme"), 5, &Broken).await.is_err());
    }

    proptest! {
        #[test]
        fn every_event_is_told_once_in_each_source_s_order_whatever_is_recorded_meanwhile(
            times in prop::array::uniform3(prop::collection::vec(0..50_i64, 0..12)),
            size in 1..6_usize,
            later in prop::collection::vec((0..3_usize, 0..60_i64), 0..8),
        ) {
            let expected: usize = times.iter().map(Vec::len).sum();
            let before: Vec<usize> = times.iter().map(Vec::len).collect();
            let sources = Model::new(times);
            let (mut told, mut cursor, mut later) = (Vec::new(), Some(Cursor::start("acme")), later.into_iter());
            while let Some(at) = cursor {
                // Through the token, as between two requests.
                let at = pulse_rpc::page::cursor(&pulse_rpc::page::token(&at)).unwrap().unwrap();
                let merged = run(sources.merged(at, size));
                prop_assert!(merged.events.len() <= size);
                told.extend(merged.events.iter().map(key));
                cursor = merged.next;
                if let Some((source, second)) = later.next() {
                    sources.record(source, second);
                }
            }
            // What was there at the start is told exactly once, in order, and nothing else.
            for (index, name) in NAMES.iter().enumerate() {
                let sequences: Vec<i64> =
                    told.iter().filter(|(service, _)| service == name).map(|(_, sequence)| *sequence).collect();
                prop_assert!(sequences.windows(2).all(|pair| pair[0] == pair[1] + 1), "{sequences:?}");
                prop_assert_eq!(sequences.len(), before[index]);
            }
            prop_assert_eq!(told.len(), expected);
        }
    }
}
