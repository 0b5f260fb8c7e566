//! How often a client may call, and how often sign up. Both limits let a client that has been quiet use its whole
//! allowance at once, and then one more each time an equal share of the window has passed.
//!
//! Calls are counted by each replica for itself; signups by the store, which the replicas may have in common.

use std::{sync::Arc, time::Duration};

use pulse_kernel::{Clock, Quota};
use pulse_rpc::{ClientKey, KeyedLimiter, limit::DEFAULT_MAX_KEYS};
use pulse_runtime::Shutdown;
use pulse_store::StoreError;

use crate::{
    Config,
    error::SignUpError,
    store::{Allowance, Decision, Store},
};

const MINUTE: Duration = Duration::from_mins(1);

/// How often clients that no longer matter are forgotten.
const SWEEP_INTERVAL: Duration = MINUTE;

/// The limits by client.
#[derive(Debug)]
pub(crate) struct Limits {
    requests: Arc<KeyedLimiter<ClientKey>>,
    sign_ups: Arc<dyn Store>,
    allowance: Allowance,
}

impl Limits {
    pub(crate) fn new(config: &Config, sign_ups: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let requests = KeyedLimiter::new(config.request_limit_per_minute, MINUTE, DEFAULT_MAX_KEYS, clock);
        Self { requests: Arc::new(requests), sign_ups, allowance: config.signup.allowance() }
    }

    /// Counts a request of any kind.
    pub(crate) fn check_request(&self, client: &ClientKey) -> Result<(), SignUpError> {
        let limit = self.requests.limit();
        self.requests.check(client).map_err(|exceeded| met("requests", limit, MINUTE, exceeded.retry_after))
    }

    /// Counts a signup.
    pub(crate) async fn check_sign_up(&self, client: ClientKey) -> Result<(), SignUpError> {
        let (limit, window) = (self.allowance.limit(), self.allowance.window());
        match self.sign_ups.admit(client).await? {
            Decision::Admitted { .. } => Ok(()),
            Decision::Refused { retry_after, .. } => Err(met("signup", limit, window, retry_after)),
        }
    }

    /// Forgets clients that no longer matter, every minute.
    pub(crate) fn sweep_in_background(&self, shutdown: &Shutdown) {
        self.requests.sweep_in_background(shutdown);
        let (store, draining) = (Arc::clone(&self.sign_ups), shutdown.draining());
        shutdown.spawn("signup limit sweep", async move {
            let sweeping = async {
                loop {
                    tokio::time::sleep(SWEEP_INTERVAL).await;
                    if let Err(error) = sweep_all(&*store).await {
                        tracing::warn!(%error, "clients whose allowance is whole could not be forgotten");
                    }
                }
            };
            tokio::select! { () = draining => {}, () = sweeping => {} }
        });
    }
}

async fn sweep_all(store: &dyn Store) -> Result<(), StoreError> {
    while store.sweep().await? {}
    Ok(())
}

fn met(policy: &str, limit: impl Into<u32>, window: Duration, retry_after: Duration) -> SignUpError {
    let quota = Quota { policy: policy.to_owned(), limit: limit.into(), window_seconds: window.as_secs() };
    SignUpError::RateLimited { quota, retry_after }
}

#[cfg(test)]
mod tests {
    use pulse_runtime::settings::try_parse_from;
    use pulse_testkit::{ManualClock, eventually};

    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test(start_paused = true)]
    async fn clients_are_forgotten_once_their_allowance_is_whole() {
        let config: Config = try_parse_from(["pulse-signup-gateway"]).unwrap();
        let manual = ManualClock::default();
        let clock: Arc<dyn Clock> = Arc::new(manual.clone());
        let store = Arc::new(MemoryStore::new(config.signup.allowance(), Arc::clone(&clock)));
        let limits = Limits::new(&config, Arc::clone(&store) as Arc<dyn Store>, clock);
        let shutdown = Shutdown::new();
        limits.sweep_in_background(&shutdown);
        for host in 0..200 {
            let client = ClientKey::V4([192, 0, 2, host].into());
            limits.check_request(&client).unwrap();
            limits.check_sign_up(client).await.unwrap();
        }
        let kept = || (limits.requests.len(), store.len());
        assert_eq!(kept(), (200, 200));
        manual.advance(MINUTE);
        eventually(MINUTE * 2, async || kept() == (0, 200)).await;
        manual.advance(Duration::from_hours(1));
        eventually(MINUTE * 2, async || kept() == (0, 0)).await;
        shutdown.trigger();
        shutdown.wait().await.unwrap();
    }
}
