//! Caches that are told: the client against the server's own streams of changes, over a network that a test cuts and freezes.
//!
//! | module | proves |
//! |---|---|
//! | `cases` | what a consumer knows while it is told, while it is cut off, and when it is back (I6, I7) |
//! | `chaos` | changes, cuts, silences, restarts and losses at random: versions never go back, ages are honest (I6, I8) |
//! | `connection` | that a stream outlives the time that a call may take |
//! | `store` | what both services have stored: every state that there ever was |
//! | `service` | both services over that, as often as there are replicas |
//! | `network` | what is between them and the client |
//!
//! But for `connection` nothing here takes time: the clock is paused, and moves on when everybody waits.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod cases;
mod chaos;
mod connection;
mod network;
mod service;
mod store;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use pulse_entitlements::Catalog;
use pulse_kernel::{Clock, OrgId};
use pulse_rpc::watch::hub::Limits;
use pulse_runtime::Shutdown;
use pulse_tenant_client::{Following, TenantClient};
use tokio::time::Instant;

use crate::{
    network::Network,
    service::Replica,
    store::{Statuses, Store},
};

/// How long a change may take to be known, where nobody is cut off.
const AT_ONCE: Duration = Duration::from_millis(200);

fn org(id: &str) -> OrgId {
    OrgId::parse(id).unwrap()
}

/// The time that the paused clock shows.
#[derive(Debug, Clone, Copy)]
struct PausedClock(Instant);

impl PausedClock {
    fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_900_000_000).unwrap() + self.0.elapsed()
    }
}

/// Two services and a consumer.
struct World {
    clock: PausedClock,
    store: Store,
    replicas: Vec<Replica>,
    to_lifecycle: Network,
    to_billing: Network,
    client: TenantClient,
    shutdown: Shutdown,
}

impl World {
    /// With one replica of each service, and acme, which is active and pays.
    fn start() -> Self {
        Self::with(1, Limits::default())
    }

    fn with(replicas: u64, limits: Limits) -> Self {
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
    async fn follow(&self) -> Following {
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
