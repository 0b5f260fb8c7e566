//! Two services, what is between them and a consumer, and the clock of all of them.

use std::sync::Arc;

use jiff::Timestamp;
use pulse_entitlements::Catalog;
use pulse_kernel::Clock;
use pulse_rpc::watch::hub::Limits;
use pulse_runtime::Shutdown;
use pulse_tenant_client::{Following, TenantClient};
use tokio::time::Instant;

use crate::{
    network::Network,
    service::Replica,
    store::{Statuses, Store},
};

/// The time that the paused clock shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PausedClock(Instant);

impl PausedClock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_900_000_000).unwrap() + self.0.elapsed()
    }
}

/// Two services and a consumer.
pub(crate) struct World {
    pub(crate) clock: PausedClock,
    pub(crate) store: Store,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) to_lifecycle: Network,
    pub(crate) to_billing: Network,
    pub(crate) client: TenantClient,
    pub(crate) shutdown: Shutdown,
}

impl World {
    /// With one replica of each service, and acme, which is active and pays.
    pub(crate) fn start() -> Self {
        Self::with(1, Limits::default())
    }

    pub(crate) fn with(replicas: u64, limits: Limits) -> Self {
        let (clock, shutdown) = (PausedClock::start(), Shutdown::new());
        let store = Store::new(clock);
        store.set_status("acme", Statuses::Active);
        store.set_plan("acme", "pro", None);
        let replicas: Vec<_> =
            (0..replicas).map(|seed| Replica::start(&store, seed, limits, &shutdown)).collect();
        let (to_lifecycle, to_billing) = (Network::to(&replicas), Network::to(&replicas));
        let config = TenantClient::config();
        let client = TenantClient::new(
            to_lifecycle.channel(),
            to_billing.channel(),
            &Catalog::built_in(),
            config,
            Arc::new(clock),
        );
        Self { clock, store, replicas, to_lifecycle, to_billing, client, shutdown }
    }

    /// Has the client told of changes.
    pub(crate) async fn follow(&self) -> Following {
        let following = self.client.follow(&self.shutdown);
        following.synced().await;
        following
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.abort();
    }
}
