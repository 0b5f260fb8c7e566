//! What is known of the status of organizations, for decisions that are made here.
//!
//! A change that was made here counts before its caller is answered. It may still be told after a later one that another
//! replica made; what watchers are told is read in order, and so decides.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use pulse_kernel::OrgId;
use pulse_rpc::watch::{Event, Messages, Now, WatchRequest};
use pulse_runtime::Shutdown;
use pulse_tenant_guard::{
    OrganizationStatus, StatusAnswer, StatusCache, StatusError, StatusLookup, StatusSource, StatusStore,
    StatusStoreError,
};

use super::{
    Organizations,
    watch::{Standing, Stored, Watch},
};
use crate::{domain::StatusKind, store::Found};

/// When a stream that ended is begun again.
const AGAIN: Duration = Duration::from_millis(100);

impl Organizations {
    /// Lets decisions go by what watchers are told, until the process is told to stop.
    pub(super) fn keep_statuses(&self, shutdown: &Shutdown) {
        let (watch, statuses, draining) = (self.watch.clone(), self.statuses.clone(), shutdown.draining());
        shutdown.spawn("statuses", async move {
            tokio::select! { () = keep(&watch, &statuses) => {}, () = draining => {} }
        });
    }

    /// What is known of their statuses: what this process has changed, and what others have as soon as that is heard of.
    pub(crate) fn statuses(&self) -> &StatusCache {
        &self.statuses
    }

    /// Lets decisions go by `now`, where that is what was stored; else the store is asked again.
    pub(super) fn tell_decisions(&self, id: &OrgId, now: &Found, is_stored: bool) {
        if is_stored {
            let (lookup, version) = lookup(now);
            self.statuses.update(id, lookup, version);
        } else {
            self.statuses.invalidate(id);
        }
    }
}

/// Never ends by itself.
async fn keep(watch: &Watch, statuses: &StatusCache) {
    loop {
        match watch.watch(WatchRequest::changes()) {
            Ok(messages) => hear(messages, statuses).await,
            Err(error) => tracing::debug!(%error, "decisions ask the store: there are too many watchers"),
        }
        statuses.lost();
        tokio::time::sleep(AGAIN).await;
    }
}

/// Tells `statuses` what is said, for as long as anything is.
async fn hear(mut messages: Messages<Standing>, statuses: &StatusCache) {
    while let Some(Ok(message)) = messages.next().await {
        match message.event {
            Event::Changed(change) => match &change.now {
                Now::State { version, state } => {
                    statuses.tell(&change.org, StatusLookup::Status(state.status.into()), *version);
                }
                Now::Gone => statuses.tell(&change.org, StatusLookup::Purged, 0),
                Now::Unreadable => statuses.invalidate(&change.org),
            },
            // What was known before the stream began may have changed before it did.
            Event::Synced | Event::Reset(_) => statuses.invalidate_all(),
            Event::Heartbeat(heartbeat) => statuses.confirm(heartbeat.age),
        }
    }
}

/// Statuses for whoever decides here. There is nobody else to ask: of whom nothing is known while the store is away, as after a
/// start, the store may well say that it is closed, and so nobody is let in unseen.
#[derive(Debug, Clone)]
pub(crate) struct Authority(pub(crate) StatusCache);

#[async_trait]
impl StatusSource for Authority {
    async fn status(&self, org: &OrgId) -> Result<StatusAnswer, StatusError> {
        self.0.status(org).await.map_err(|error| match error {
            StatusError::Unknown | StatusError::Forgotten => StatusError::Forgotten,
            StatusError::NotFound => StatusError::NotFound,
        })
    }

    fn cached(&self, org: &OrgId) -> Option<Result<StatusAnswer, StatusError>> {
        self.0.cached(org)
    }

    fn find(&self, org: &str) -> Option<(OrgId, Result<StatusAnswer, StatusError>)> {
        self.0.find(org)
    }
}

#[async_trait]
impl StatusStore for Stored {
    async fn status(&self, org: &OrgId) -> Result<(StatusLookup, u64), StatusStoreError> {
        let found = self.0.find(org).await.map_err(|error| StatusStoreError(error.to_string()))?;
        Ok(lookup(&found))
    }
}

/// What a decision needs to know of what there is under an id, and its version.
fn lookup(found: &Found) -> (StatusLookup, u64) {
    match found {
        Found::Organization(organization) => {
            let status = StatusLookup::Status(organization.status.kind().into());
            // Versions count changes, from 1.
            (status, organization.version.unsigned_abs())
        }
        // One that was never finished will not come back either.
        Found::Tombstone(_) => (StatusLookup::Purged, 0),
        Found::Nothing => (StatusLookup::NotFound, 0),
    }
}

impl From<StatusKind> for OrganizationStatus {
    fn from(kind: StatusKind) -> Self {
        match kind {
            StatusKind::Provisioning => Self::Provisioning,
            StatusKind::Active => Self::Active,
            StatusKind::Suspended => Self::Suspended,
            StatusKind::PendingDeletion => Self::PendingDeletion,
            StatusKind::Purging => Self::Purging,
        }
    }
}
