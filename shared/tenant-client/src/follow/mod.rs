//! Caches that are told: a task for each stream of changes, which keeps it open and tells a cache what it says.
//!
//! | module | holds |
//! |---|---|
//! | here | [`follow_organizations`], [`follow_billing_states`], and what they say of themselves: [`Following`] |
//! | `feed` | what tells one stream from another |
//! | `organizations`, `billing_states` | the two streams |
//! | `task` | opens a stream, listens, and opens it again; the same for every stream |
//! | `lateness` | how late a heartbeat is heard; pure |
//! | `backoff` | how long to wait in between; pure |
//! | `metrics` | what is counted |
//!
//! Only changes are asked for, never what there is: a tenant is asked about when it is needed, so that a consumer's memory does
//! not grow with the number of tenants that are open. From then on the cache hears of the tenant what changes, and with every heartbeat that
//! nothing else did, as of the heartbeat's age before it came. What is known then need not be asked for again.
//!
//! How certain a consumer may be of what it knows:
//!
//! | it is | what it does |
//! |---|---|
//! | connected | answers from memory. A change is known here some milliseconds after its commit |
//! | cut off, and knows it | asks again what it heard longer ago than the refresh age, two seconds with [`TenantClient::config`](crate::TenantClient::config) |
//! | cut off in silence | the same after [`CacheConfig::silence`](pulse_entitlements::cache::CacheConfig::silence), 15 seconds: three heartbeats |
//! | without an answer | goes by what it last heard, says so and how old it is, and opens nothing that is known to be closed |
//! | back | goes on where it was, or has everything asked for again if the server cannot tell what happened meanwhile |
//!
//! Ages are measured by this process's clock from when a heartbeat came, less by how much it came later than the quickest one
//! of its connection: a process that was frozen does not take what it then hears for news, and connects again when that is too
//! old. So two clocks are only compared in how they drift apart, but for the metric that says how long changes take.

mod backoff;
mod billing_states;
mod feed;
mod lateness;
mod metrics;
mod organizations;
mod task;

use std::{future::pending, sync::Arc};

use pulse_entitlements::DatabaseSource;
use pulse_kernel::Clock;
use pulse_rpc::Channel;
use pulse_runtime::Shutdown;
use pulse_tenant_guard::StatusCache;
use tokio::sync::watch;

use self::{billing_states::BillingStates, feed::Feed, organizations::Organizations, task::Task};

/// Tells `statuses` how organizations change, from lifecycle, until the process is told to stop. Must be called within a tokio
/// runtime.
pub fn follow_organizations(
    lifecycle: Channel,
    statuses: StatusCache,
    clock: Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> Following {
    follow(Organizations::new(lifecycle, statuses), clock, shutdown)
}

/// Tells `entitlements` how billing states change, from billing-state, until the process is told to stop. Must be called within
/// a tokio runtime.
pub fn follow_billing_states(
    billing_state: Channel,
    entitlements: DatabaseSource,
    clock: Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> Following {
    follow(BillingStates::new(billing_state, entitlements), clock, shutdown)
}

fn follow<F: Feed>(feed: F, clock: Arc<dyn Clock>, shutdown: &Shutdown) -> Following {
    let (synced, following) = watch::channel(false);
    let (task, draining) = (Task::new(feed, clock, synced), shutdown.draining());
    shutdown.spawn(F::TASK, async move {
        tokio::select! { () = task.run() => {}, () = draining => {} }
    });
    Following(vec![following])
}

/// Whether changes are heard of. Clones say the same.
#[derive(Debug, Clone)]
pub struct Following(Vec<watch::Receiver<bool>>);

impl Following {
    /// Whether every stream is open, and all that had changed before has been told. What is not heard of is asked for, so a
    /// service can do its work without.
    pub fn is_following(&self) -> bool {
        self.0.iter().all(|stream| *stream.borrow())
    }

    /// Completes when [`is_following`](Self::is_following); never once the process stops.
    pub async fn synced(&self) {
        let mut streams = self.0.clone();
        while !self.is_following() {
            for stream in &mut streams {
                if stream.wait_for(|is_synced| *is_synced).await.is_err() {
                    return pending().await;
                }
            }
        }
    }

    /// Both as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}
