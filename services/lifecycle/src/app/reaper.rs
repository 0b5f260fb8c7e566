//! The reaper begins the purge of organizations whose retention is over. It never decides on a list: every
//! organization is looked at again, and changed only at the version that was looked at. Removing the tenant
//! everywhere is the provisioner's work, which follows this decision.
//!
//! Where there are several replicas, one of them reaps: the one that has the lease. It renews the lease as it works and
//! while it waits, and gives it back when it stops; when it dies, another has the lease as soon as it is over. The store checks
//! the lease together with every change, so that a reaper that was held up for longer than its lease changes nothing more.

use std::time::Duration;

use pulse_kernel::OrgId;
use pulse_runtime::Shutdown;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use super::Organizations;
use crate::{
    domain::Author,
    error::LifecycleError,
    store::{Found, Lease, QueueEntry, SELF, Written},
};

/// The name of the lease.
const REAPER: &str = "reaper";

/// How many due organizations are read at a time.
const BATCH: usize = 100;

/// How long a lease may last. A shorter one would be over before it is used where a commit takes long; a longer one would keep
/// the others waiting when its holder is gone.
const SHORTEST_LEASE: Duration = Duration::from_secs(3);
const LONGEST_LEASE: Duration = Duration::from_secs(30);

/// Looks again and again for organizations that are due.
#[derive(Debug)]
pub(crate) struct Reaper {
    organizations: Organizations,
    /// Who this is among the replicas.
    owner: String,
    interval: Duration,
    dry_run: bool,
    tenure: Option<Tenure>,
}

/// A lease in hand.
#[derive(Debug)]
struct Tenure {
    lease: Lease,
    renewed: Instant,
    /// When to look again.
    next_look: Instant,
}

/// What one look came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reaped {
    /// How many organizations were due.
    pub(crate) due: usize,
    /// How many purges were begun.
    pub(crate) begun: usize,
}

/// What became of one organization that was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    Yes,
    /// It is not due any more, or somebody changes it at this moment.
    No,
    /// Another reaper is at work.
    LeaseLost,
}

impl Reaper {
    pub(crate) fn new(
        organizations: Organizations,
        owner: String,
        interval: Duration,
        dry_run: bool,
    ) -> Self {
        Self { organizations, owner, interval, dry_run, tenure: None }
    }

    /// Looks at once and then every interval, whenever this replica has the lease, until the process is told to stop.
    /// What it returns completes when all is done and the lease given back.
    pub(crate) fn run_in_background(mut self, shutdown: &Shutdown) -> oneshot::Receiver<()> {
        let (ending, ended) = oneshot::channel();
        let stopping = shutdown.clone();
        shutdown.spawn("reaper", async move {
            while !stopping.is_draining() {
                let next = match self.look_if_it_is_time(|| stopping.is_draining()).await {
                    Ok(next) => next,
                    Err(error) => {
                        tracing::warn!(
                            cause = &error as &dyn std::error::Error,
                            "the reaper stopped halfway"
                        );
                        Instant::now() + self.pause()
                    }
                };
                tokio::select! { () = stopping.draining() => {}, () = sleep_until(next) => {} }
            }
            self.give_back().await;
            // Whoever waited may have gone.
            ending.send(()).ok();
        });
        ended
    }

    /// How long a lease lasts.
    fn lasting(&self) -> Duration {
        self.interval.saturating_mul(3).clamp(SHORTEST_LEASE, LONGEST_LEASE)
    }

    /// How long to leave the lease alone, whether this replica has it or not.
    fn pause(&self) -> Duration {
        self.interval.min(self.lasting() / 3)
    }

    /// Keeps the lease, or tries to get it, and looks where it is time. Returns when to do so again.
    async fn look_if_it_is_time(&mut self, stopping: impl Fn() -> bool) -> Result<Instant, LifecycleError> {
        self.hold().await?;
        if let Some(tenure) = self.tenure.as_mut().filter(|tenure| tenure.next_look <= Instant::now()) {
            // Before the look, which may fail halfway: what failed is tried again at the next one.
            tenure.next_look = Instant::now() + self.interval;
            self.reap(stopping).await?;
        }
        let renewal = Instant::now() + self.pause();
        Ok(self.tenure.as_ref().map_or(renewal, |tenure| tenure.next_look.min(renewal)))
    }

    /// Whether this replica has the lease; takes or renews it where that is due.
    async fn hold(&mut self) -> Result<bool, LifecycleError> {
        let lasting = self.lasting();
        let now = Instant::now();
        if self.tenure.as_ref().is_some_and(|tenure| now - tenure.renewed < lasting / 3) {
            return Ok(true);
        }
        let lease = self.organizations.store.take_lease(REAPER, &self.owner, lasting).await?;
        match (lease, self.tenure.take()) {
            (Some(lease), Some(tenure)) => self.tenure = Some(Tenure { lease, renewed: now, ..tenure }),
            (Some(lease), None) => {
                tracing::info!(owner = self.owner, token = lease.token, "this replica reaps from now on");
                self.tenure = Some(Tenure { lease, renewed: now, next_look: now });
            }
            (None, Some(_)) => self.step_back(),
            (None, None) => {}
        }
        Ok(self.tenure.is_some())
    }

    /// Leaves the work to another replica.
    fn step_back(&mut self) {
        tracing::info!(owner = self.owner, "another replica reaps from now on");
        self.tenure = None;
        // It tells how many are due; here nobody knows any more.
        self.organizations.metrics.show_due(0);
    }

    async fn give_back(&mut self) {
        let Some(Tenure { lease, .. }) = self.tenure.take() else { return };
        if let Err(error) = self.organizations.store.return_lease(&lease).await {
            tracing::debug!(%error, "the reaper's lease was not given back; it is over soon");
        }
    }

    /// Looks once, if no other reaper has the lease, until all is done or `stopping` says so.
    ///
    /// # Errors
    /// When what is due cannot be read; what was begun before stays begun.
    pub(crate) async fn reap(
        &mut self,
        mut stopping: impl FnMut() -> bool,
    ) -> Result<Option<Reaped>, LifecycleError> {
        if !self.hold().await? {
            return Ok(None);
        }
        let now = self.organizations.now();
        let mut reaped = Reaped::default();
        let mut last: Option<QueueEntry> = None;
        'looking: loop {
            let batch = self.organizations.store.due(now, last.as_ref(), BATCH).await?;
            for entry in &batch {
                if stopping() || !self.hold().await? {
                    break 'looking;
                }
                reaped.due += 1;
                match self.begin_purge(entry).await {
                    Begun::Yes => reaped.begun += 1,
                    Begun::No => {}
                    Begun::LeaseLost => {
                        self.step_back();
                        break 'looking;
                    }
                }
            }
            let full = batch.len() == BATCH;
            last = batch.into_iter().next_back();
            if !full {
                self.organizations.metrics.show_due(reaped.due);
                break;
            }
        }
        self.organizations.metrics.show_active_tenants(&*self.organizations.store).await?;
        Ok(Some(reaped))
    }

    async fn begin_purge(&self, entry: &QueueEntry) -> Begun {
        if self.dry_run {
            tracing::info!(org_id = %entry.id, purge_after = %entry.at, "would be purged, but for the dry run");
            return Begun::No;
        }
        let Some(tenure) = &self.tenure else { return Begun::LeaseLost };
        match self.organizations.begin_purge(&entry.id, &tenure.lease).await {
            Ok(Begun::Yes) => {
                tracing::info!(org_id = %entry.id, purge_after = %entry.at, "the purge begins");
                Begun::Yes
            }
            Ok(begun) => begun,
            // One that cannot be read must not keep those behind it; the next look tries it again.
            Err(error) => {
                tracing::error!(org_id = %entry.id, %error, "the purge could not begin");
                Begun::No
            }
        }
    }
}

impl Organizations {
    /// Begins the purge of an organization, if it is due at this moment. When it changes at this moment it is not
    /// touched; the next look sees what it has become.
    async fn begin_purge(&self, id: &OrgId, lease: &Lease) -> Result<Begun, LifecycleError> {
        let Found::Organization(current) = self.store.find(id).await? else { return Ok(Begun::No) };
        let Some(transition) = current.begin_purge(self.now()) else { return Ok(Begun::No) };
        let author = Author { actor: SELF.to_owned(), request_id: None };
        Ok(match self.store_change_under(lease.clone(), transition, author).await? {
            Some(Written::Done(_)) => Begun::Yes,
            Some(Written::Stale) => Begun::No,
            None => Begun::LeaseLost,
        })
    }
}
