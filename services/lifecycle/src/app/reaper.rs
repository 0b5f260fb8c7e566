//! The reaper begins the purge of organizations whose retention is over. It never decides on a list: every
//! organization is looked at again, and changed only at the version that was looked at. Removing the tenant
//! everywhere is the provisioner's work, which follows this decision.

use std::time::Duration;

use pulse_kernel::OrgId;
use pulse_runtime::Shutdown;
use tokio::time::MissedTickBehavior;

use super::Organizations;
use crate::{
    domain::Author,
    error::LifecycleError,
    store::{Found, QueueEntry, SELF, Written},
};

/// How many due organizations are read at a time.
const BATCH: usize = 100;

/// Looks again and again for organizations that are due.
#[derive(Debug)]
pub(crate) struct Reaper {
    organizations: Organizations,
    interval: Duration,
    dry_run: bool,
}

/// What one look came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reaped {
    /// How many organizations were due.
    pub(crate) due: usize,
    /// How many purges were begun.
    pub(crate) begun: usize,
}

impl Reaper {
    pub(crate) fn new(organizations: Organizations, interval: Duration, dry_run: bool) -> Self {
        Self { organizations, interval, dry_run }
    }

    /// Looks at once and then every interval, until the process is told to stop.
    pub(crate) fn run_in_background(self, shutdown: &Shutdown) {
        let draining = shutdown.draining();
        shutdown.spawn("reaper", async move {
            let reaping = async {
                let mut ticks = tokio::time::interval(self.interval);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    if let Err(error) = self.reap().await {
                        tracing::warn!(
                            cause = &error as &dyn std::error::Error,
                            "the reaper stopped halfway"
                        );
                    }
                }
            };
            tokio::select! { () = draining => {}, () = reaping => {} }
        });
    }

    /// Looks once.
    ///
    /// # Errors
    /// When what is due cannot be read; what was begun before stays begun.
    pub(crate) async fn reap(&self) -> Result<Reaped, LifecycleError> {
        let organizations = &self.organizations;
        let now = organizations.now();
        let mut reaped = Reaped::default();
        let mut last: Option<QueueEntry> = None;
        loop {
            let batch = organizations.store.due(now, last.as_ref(), BATCH).await?;
            for entry in &batch {
                reaped.due += 1;
                if self.dry_run {
                    tracing::info!(org_id = %entry.id, purge_after = %entry.at, "would be purged, but for the dry run");
                } else {
                    match organizations.begin_purge(&entry.id).await {
                        Ok(false) => {}
                        Ok(true) => {
                            reaped.begun += 1;
                            tracing::info!(org_id = %entry.id, purge_after = %entry.at, "the purge begins");
                        }
                        // One that cannot be read must not keep those behind it; the next look tries it again.
                        Err(error) => {
                            tracing::error!(org_id = %entry.id, %error, "the purge could not begin");
                        }
                    }
                }
            }
            let full = batch.len() == BATCH;
            last = batch.into_iter().next_back();
            if !full {
                break;
            }
        }
        organizations.metrics.show_due(reaped.due);
        organizations.metrics.show_active_tenants(&*organizations.store).await?;
        Ok(reaped)
    }
}

impl Organizations {
    /// Begins the purge of an organization, if it is due at this moment. When it changes at this moment it is not
    /// touched; the next look sees what it has become.
    async fn begin_purge(&self, id: &OrgId) -> Result<bool, LifecycleError> {
        let Found::Organization(current) = self.store.find(id).await? else { return Ok(false) };
        let Some(transition) = current.begin_purge(self.now()) else { return Ok(false) };
        let author = Author { actor: SELF.to_owned(), request_id: None };
        Ok(self.store_change(transition, author).await? == Written::Done)
    }
}
