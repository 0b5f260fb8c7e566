//! What tenants may do, asked over gRPC and remembered: sources for [`pulse_tenant_guard`], for any service that is not
//! lifecycle or billing-state itself.
//!
//! | module | holds |
//! |---|---|
//! | here | [`TenantClient`]: both sources, each with its cache, and the guard over them |
//! | [`billing`] | [`RemoteBilling`]: billing states from billing-state |
//! | [`status`] | [`RemoteStatus`]: the status of organizations from lifecycle |
//! | [`mod@follow`] | what keeps the caches told of every change, and what holds while it cannot |
//! | [`settings`] | [`TenantSettings`]: what programs that have a client take |
//! | [`gateway`] | what gateways ask and are told, with the names of the headers |
//! | `convert` | protobuf to domain types |
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//!
//! use pulse_entitlements::Catalog;
//! use pulse_kernel::{OrgId, SystemClock};
//! use pulse_tenant_client::TenantClient;
//! use pulse_tenant_guard::Requirement;
//!
//! let lifecycle = pulse_rpc::channel("http://127.0.0.1:50054")?;
//! let billing_state = pulse_rpc::channel("http://127.0.0.1:50053")?;
//! let config = TenantClient::config();
//! let clock = Arc::new(SystemClock);
//! let client = TenantClient::new(lifecycle, billing_state, &Catalog::built_in(), config, clock);
//!
//! let guard = client.guard();
//! let verdict = guard.check(&OrgId::parse("acme").unwrap(), &Requirement::capability("alerting")).await;
//! assert!(!verdict.is_certain(), "nobody answers here");
//! # Ok::<(), pulse_rpc::client::InvalidUrl>(())
//! # }).unwrap();
//! ```

#![warn(missing_docs)]

pub mod billing;
mod convert;
pub mod follow;
pub mod gateway;
pub mod settings;
pub mod status;

use std::{sync::Arc, time::Duration};

use opentelemetry::metrics::Meter;
use pulse_entitlements::{Catalog, DatabaseSource, cache::CacheConfig};
use pulse_kernel::{Clock, Reason};
use pulse_rpc::{Channel, from_status};
use pulse_runtime::Shutdown;
use pulse_tenant_guard::{Guard, StatusCache};
use tonic::Status;

use crate::gateway::Gatekeeper;
pub use billing::RemoteBilling;
pub use follow::Following;
pub use settings::TenantSettings;
pub use status::RemoteStatus;

/// How long an answer is used without asking again while changes are not told, and so how long one may go unheard of then.
const REFRESH: Duration = Duration::from_secs(2);

/// How long one may go unheard of when a stream of changes goes silent: three heartbeats.
const SILENCE: Duration = Duration::from_secs(15);

/// What tenants may do, from lifecycle and billing-state. Cheap to clone; clones share what is remembered.
///
/// Each tenant is asked about when it is needed, and again when the answer has come of age. Who [follows](Self::follow) is told
/// of every change, and then need not ask again.
#[derive(Debug, Clone)]
pub struct TenantClient {
    statuses: StatusCache,
    entitlements: DatabaseSource,
    lifecycle: Channel,
    billing_state: Channel,
    clock: Arc<dyn Clock>,
}

impl TenantClient {
    /// The usual settings of both caches: what was said within the last two seconds counts; while changes are told, what was
    /// confirmed within the last 15; and while nobody answers what was said within the last hour.
    pub fn config() -> CacheConfig {
        CacheConfig { refresh: REFRESH, silence: SILENCE, ..CacheConfig::default() }
    }

    /// A client over channels to the two services, with nothing known yet. `catalog` says what a trial grants, and should
    /// be the one that billing-state has.
    pub fn new(
        lifecycle: Channel,
        billing_state: Channel,
        catalog: &Catalog,
        config: CacheConfig,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let statuses = RemoteStatus::new(lifecycle.clone());
        let billing = RemoteBilling::new(billing_state.clone());
        Self {
            statuses: StatusCache::new(Arc::new(statuses), config, Arc::clone(&clock)),
            entitlements: DatabaseSource::new(Arc::new(billing), catalog, config, Arc::clone(&clock)),
            lifecycle,
            billing_state,
            clock,
        }
    }

    /// Has both caches told of every change from now on, in the background, until the process is told to stop. Once a client;
    /// see [`mod@follow`] for what that is worth. Must be called within a tokio runtime.
    pub fn follow(&self, shutdown: &Shutdown) -> Following {
        let Self { statuses, entitlements, lifecycle, billing_state, clock } = self.clone();
        let organizations = follow::follow_organizations(lifecycle, statuses, Arc::clone(&clock), shutdown);
        organizations.and(follow::follow_billing_states(billing_state, entitlements, clock, shutdown))
    }

    /// Who decides from what is known here. It takes what is last known for good enough while a service does not answer; see
    /// [`Guard::with_policy`] for another choice.
    pub fn guard(&self) -> Guard {
        Guard::new(Arc::new(self.statuses.clone()), Arc::new(self.entitlements.clone()))
    }

    /// Who decides for gateways, from the same.
    pub fn gatekeeper(&self) -> Gatekeeper {
        Gatekeeper::new(Arc::new(self.statuses.clone()), Arc::new(self.entitlements.clone()))
    }

    /// The status of organizations.
    pub fn statuses(&self) -> &StatusCache {
        &self.statuses
    }

    /// What tenants may use.
    pub fn entitlements(&self) -> &DatabaseSource {
        &self.entitlements
    }

    /// Tells what both caches count through `meter`. Once a client.
    pub fn report(&self, meter: &Meter) {
        self.statuses.report(meter, "remote_statuses");
        self.entitlements.report(meter, "remote_entitlements");
    }
}

/// So that what the page shows of this crate is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/integration.md")]
struct IntegrationPage;

/// Whether the service itself says that there is no such organization; anything between here and there may say `NOT_FOUND` too.
fn is_not_found(status: &Status) -> bool {
    from_status(status).reason() == Reason::OrgNotFound
}

/// Why a call failed, for the log.
fn failure(service: &str, status: &Status) -> String {
    format!("{service} does not answer: {:?}: {}", status.code(), status.message())
}
