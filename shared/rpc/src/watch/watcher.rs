//! One stream: a snapshot or a replay, then what is published, with a heartbeat now and then.
//!
//! Nothing is done ahead of the transport: a watcher reads the next page, or looks at the ring again, when the last thing it
//! said was taken. One whose transport takes too long, or that the ring has left behind, ends and is told why.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    ops::Bound,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use pulse_kernel::{ApiError, OrgId, Reason};
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    Change, Event, Heartbeat, Message, Messages, Pages, ResetReason, Source, WatchRequest,
    hub::Shared,
    metrics::Seat,
    request::ResumeToken,
    ring::{Entry, Forgotten, Head},
};
use crate::{RequestContext, reject};

/// How many entries of the ring are looked at at a time.
const BATCH: usize = 64;

/// How many tenants of those that were named are read as a page.
const PAGE: usize = 64;

/// How long a stream may wait for a hub that does not hear of changes yet.
const BEGINNING: Duration = Duration::from_secs(5);

/// When the client should connect again.
const AGAIN: Duration = Duration::from_secs(1);

/// A stream.
pub(super) struct Watcher<S: Source> {
    hub: Arc<Shared<S>>,
    head: watch::Receiver<Head>,
    named: Option<Arc<BTreeSet<OrgId>>>,
    snapshot: bool,
    fingerprint: u64,
    phase: Phase<S>,
    /// The place in the ring of what it looks at next.
    place: u64,
    /// What it says next, and from what place on a later stream may go on after that.
    out: VecDeque<(Event<S::State>, Option<u64>)>,
    /// Until the next heartbeat is due.
    timer: Pin<Box<Sleep>>,
    /// A heartbeat that is on its way.
    beat: Option<Beat>,
    /// The request that it answers, for errors and the log.
    context: Option<RequestContext>,
    _seat: Seat,
}

/// What a stream is doing.
enum Phase<S: Source> {
    /// Waits for the hub, until then.
    Beginning { resume: Option<ResumeToken>, until: Instant },
    /// Says what there is.
    Snapshot(Snapshot<S>),
    /// Says what is published; that it is synced, once it is at that place.
    Following { synced: Option<u64> },
}

/// A snapshot, and how far it is.
struct Snapshot<S: Source> {
    pages: Pages<S>,
    /// The versions on the page that was said last.
    page: HashMap<OrgId, u64>,
    step: Step,
}

/// The steps for each page.
#[derive(Clone, Copy)]
enum Step {
    /// Read it and say it.
    Read,
    /// Wait until all is published that may be older.
    Settle,
    /// Look at the ring up to that place, where there may be such.
    CatchUp(u64),
}

/// A heartbeat to be said when everything up to that place has been.
struct Beat {
    place: u64,
    asked: Instant,
    age: Duration,
}

/// Why nothing more is said.
enum End<E> {
    /// The watcher does not keep up.
    Slow,
    /// The server stops.
    Stopping,
    /// The hub does not hear of changes.
    Deaf,
    /// The store cannot be read.
    Failed(E),
}

impl<S: Source> Watcher<S> {
    pub(super) fn new(hub: Arc<Shared<S>>, request: WatchRequest, seat: Seat) -> Self {
        let now = Instant::now();
        let fingerprint = request.fingerprint();
        // What is no token is one of no hub.
        let unknown = ResumeToken { hub: !hub.id, fingerprint, place: 0 };
        let resume = Some(request.resume_token).filter(|token| !token.is_empty());
        let resume = resume.map(|token| ResumeToken::decode(&token).unwrap_or(unknown));
        Self {
            head: hub.ring.subscribe(),
            named: request.named.map(Arc::new),
            snapshot: request.snapshot,
            fingerprint,
            phase: Phase::Beginning { resume, until: now + BEGINNING },
            place: 0,
            out: VecDeque::new(),
            timer: Box::pin(sleep_until(now + hub.limits.heartbeat)),
            beat: None,
            context: RequestContext::current(),
            hub,
            _seat: seat,
        }
    }

    pub(super) fn into_stream(self) -> Messages<S::State> {
        let next = |watcher: Option<Self>| async move {
            let mut watcher = watcher?;
            Some(match watcher.next().await {
                Ok(message) => (Ok(message), Some(watcher)),
                Err(end) => (Err(watcher.status(end)), None),
            })
        };
        stream::unfold(Some(self), next).boxed()
    }

    /// What is said next.
    async fn next(&mut self) -> Result<Message<S::State>, End<S::Error>> {
        loop {
            self.keep_time()?;
            if let Some((event, place)) = self.out.pop_front() {
                match &event {
                    Event::Changed(_) => self.hub.metrics.told(1),
                    Event::Reset(reason) => self.hub.metrics.reset(*reason),
                    Event::Synced | Event::Heartbeat(_) => {}
                }
                return Ok(Message { event, resume_token: self.resume_token(place) });
            }
            match &self.phase {
                Phase::Beginning { .. } => self.begin().await?,
                Phase::Snapshot(_) => self.go_on_with_snapshot().await?,
                Phase::Following { .. } => self.follow().await?,
            }
        }
    }

    /// Puts an event behind those that are still to be said.
    fn say(&mut self, event: Event<S::State>) {
        let is_resumable = matches!(self.phase, Phase::Following { .. });
        self.out.push_back((event, is_resumable.then_some(self.place)));
    }

    /// Notices when a heartbeat is due, and when nobody has asked for anything for long after that.
    fn keep_time(&mut self) -> Result<(), End<S::Error>> {
        let (now, due) = (Instant::now(), self.timer.deadline());
        if now < due {
            return Ok(());
        }
        if now > due + self.hub.limits.patience {
            return Err(End::Slow);
        }
        self.timer.as_mut().reset(now + self.hub.limits.heartbeat);
        // The age first: what is settled at that age is published before the place.
        let age = self.hub.age();
        let is_synced = matches!(self.phase, Phase::Following { synced: None });
        let place = if is_synced { self.hub.ring.head() } else { self.place };
        self.beat.get_or_insert(Beat { place, asked: now, age });
        self.say_heartbeat();
        Ok(())
    }

    /// Says the heartbeat that is on its way, if it may come now.
    fn say_heartbeat(&mut self) {
        if let Some(Beat { asked, age, .. }) = self.beat.take_if(|beat| beat.place <= self.place) {
            let heartbeat = Heartbeat { server_time: self.hub.clock.now(), age: age + asked.elapsed() };
            self.say(Event::Heartbeat(heartbeat));
        }
    }

    /// Decides what comes first.
    async fn begin(&mut self) -> Result<(), End<S::Error>> {
        let Phase::Beginning { resume, until } = self.phase else { return Ok(()) };
        tokio::select! {
            biased;
            () = self.hub.hearing() => {}
            _ = self.head.wait_for(|head| head.closed) => return Err(End::Stopping),
            () = sleep_until(until) => return Err(End::Deaf),
            () = self.timer.as_mut() => return Ok(()),
        }
        let head = self.hub.ring.head();
        match resume {
            None => self.start_over(head),
            Some(token) => match self.standing(token, head) {
                None => (self.place, self.phase) = (token.place, Phase::Following { synced: Some(head) }),
                Some(reason) => self.reset(reason, head),
            },
        }
        Ok(())
    }

    /// Why a stream cannot go on from a token, if it cannot.
    fn standing(&self, token: ResumeToken, head: u64) -> Option<ResetReason> {
        let is_ours = token.hub == self.hub.id && token.fingerprint == self.fingerprint;
        if !is_ours || token.place > head {
            return Some(ResetReason::TokenUnknown);
        }
        (!self.hub.ring.has_all_from(token.place)).then_some(ResetReason::TokenExpired)
    }

    /// What was said before may be out of date.
    fn reset(&mut self, reason: ResetReason, place: u64) {
        self.out.push_back((Event::Reset(reason), None));
        self.start_over(place);
    }

    /// Says what there is, if that is wanted, and goes on from that place in the ring.
    fn start_over(&mut self, place: u64) {
        self.place = place;
        self.phase = if self.snapshot {
            let pages = match &self.named {
                None => self.hub.source.everything(),
                Some(named) => read_named(Arc::clone(&self.hub), Arc::clone(named)),
            };
            Phase::Snapshot(Snapshot { pages, page: HashMap::new(), step: Step::Read })
        } else {
            Phase::Following { synced: Some(place) }
        };
    }

    async fn go_on_with_snapshot(&mut self) -> Result<(), End<S::Error>> {
        let Phase::Snapshot(Snapshot { pages, step, .. }) = &mut self.phase else { return Ok(()) };
        match *step {
            Step::Read => {
                let turn = tokio::select! {
                    turn = self.hub.reads.acquire() => turn,
                    _ = self.head.wait_for(|head| head.closed) => return Err(End::Stopping),
                    () = self.timer.as_mut() => return Ok(()),
                };
                // To its end, so that nothing of the store is held while a heartbeat is on its way.
                let page = tokio::select! {
                    page = pages.next() => page.transpose().map_err(End::Failed)?,
                    _ = self.head.wait_for(|head| head.closed) => return Err(End::Stopping),
                };
                drop(turn);
                // That nobody asked for anything meanwhile is not the transport's fault.
                if Instant::now() > self.timer.deadline() {
                    self.timer.as_mut().reset(Instant::now());
                }
                match page {
                    Some(page) => self.say_page(page),
                    None => self.phase = Phase::Following { synced: Some(self.place) },
                }
            }
            Step::Settle => {
                *step = tokio::select! {
                    place = self.hub.barrier() => Step::CatchUp(place),
                    _ = self.head.wait_for(|head| head.closed) => return Err(End::Stopping),
                    () = self.timer.as_mut() => return Ok(()),
                };
            }
            Step::CatchUp(place) if self.place < place => {
                let entries = self.hub.ring.between(self.place, place, BATCH);
                self.say_entries(entries.map_err(|Forgotten| End::Slow)?);
            }
            Step::CatchUp(_) => *step = Step::Read,
        }
        Ok(())
    }

    fn say_page(&mut self, changes: Vec<Change<S::State>>) {
        let versions = changes.iter().filter_map(|change| Some((change.org.clone(), change.now.version()?)));
        if let Phase::Snapshot(Snapshot { page, step, .. }) = &mut self.phase {
            *page = versions.collect();
            *step = Step::Settle;
        }
        for change in changes {
            self.say(Event::Changed(Arc::new(change)));
        }
    }

    async fn follow(&mut self) -> Result<(), End<S::Error>> {
        if let Phase::Following { synced } = &mut self.phase
            && synced.take_if(|place| *place <= self.place).is_some()
        {
            self.say(Event::Synced);
            return Ok(());
        }
        let head = *self.head.borrow_and_update();
        let entries = self.hub.ring.between(self.place, head.next, BATCH).map_err(|Forgotten| End::Slow)?;
        let is_idle = entries.is_empty();
        self.say_entries(entries);
        self.say_heartbeat();
        if is_idle && self.out.is_empty() {
            if head.closed {
                return Err(End::Stopping);
            }
            tokio::select! {
                // The sender is the hub's.
                _ = self.head.changed() => {}
                () = self.timer.as_mut() => {}
            }
        }
        Ok(())
    }

    /// Says what is published next, as far as it is news for this watcher.
    fn say_entries(&mut self, entries: Vec<Entry<S::State>>) {
        for entry in entries {
            self.place += 1;
            match entry {
                Entry::Changed(change) if self.is_news(&change) => self.say(Event::Changed(change)),
                Entry::Changed(_) => {}
                Entry::Reset => return self.reset(ResetReason::ChangesMissed, self.place),
            }
        }
    }

    /// Whether a change is about a tenant that is watched, and not older than what was just said on a page.
    fn is_news(&self, change: &Change<S::State>) -> bool {
        let on_page = match &self.phase {
            Phase::Snapshot(snapshot) => snapshot.page.get(&change.org).copied(),
            Phase::Beginning { .. } | Phase::Following { .. } => None,
        };
        let is_old =
            change.now.version().is_some_and(|version| on_page.is_some_and(|on_page| version < on_page));
        !is_old && self.named.as_ref().is_none_or(|named| named.contains(&change.org))
    }

    /// What to go on with from that place, if that is possible.
    fn resume_token(&self, place: Option<u64>) -> String {
        let token = place.map(|place| ResumeToken { hub: self.hub.id, fingerprint: self.fingerprint, place });
        token.map(ResumeToken::encode).unwrap_or_default()
    }

    fn status(&self, end: End<S::Error>) -> tonic::Status {
        let unavailable = |why| reject(ApiError::new(Reason::Unavailable, why).retry_after(AGAIN));
        let status = || match end {
            End::Slow => {
                self.hub.metrics.dropped();
                let why = "the watcher does not keep up; connect again with the last resume token";
                reject(ApiError::new(Reason::SlowConsumer, why).retry_after(AGAIN))
            }
            End::Stopping => unavailable("the server stops; connect again"),
            End::Deaf => unavailable("the server does not hear of changes yet; try again"),
            End::Failed(error) => reject(error),
        };
        match &self.context {
            Some(context) => context.clone().sync_scope(status),
            None => status(),
        }
    }
}

/// The tenants that were named, in pages.
fn read_named<S: Source>(hub: Arc<Shared<S>>, named: Arc<BTreeSet<OrgId>>) -> Pages<S> {
    let read = |(hub, named, after): (Arc<Shared<S>>, Arc<BTreeSet<OrgId>>, Option<OrgId>)| async move {
        let rest = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = named.range::<OrgId, _>((rest, Bound::Unbounded));
        let orgs: Vec<_> = rest.take(PAGE).cloned().collect();
        let Some(last) = orgs.last().cloned() else { return Ok(None) };
        let mut page = Vec::new();
        for org in orgs {
            if let Some(now) = hub.source.current(&org).await? {
                page.push(Change { org, now });
            }
        }
        Ok(Some((page, (hub, named, Some(last)))))
    };
    stream::try_unfold((hub, named, None), read).boxed()
}
