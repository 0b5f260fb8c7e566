//! Readiness: whether this process may be sent work now. Liveness is another question: a process whose store
//! is away is alive, and restarting it would not help.

use std::{fmt::Display, future::Future, time::Duration};

use tokio::{sync::watch, time::timeout};

use crate::Shutdown;

/// How long a probe may take before it counts as failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the process is ready; clones share it.
#[derive(Debug, Clone)]
pub struct Readiness(watch::Receiver<bool>);

impl Readiness {
    /// Ready from now until the process is told to stop; for a process without a store.
    pub fn until_draining(shutdown: &Shutdown) -> Self {
        let (state, ready) = watch::channel(!shutdown.is_draining());
        let draining = shutdown.draining();
        shutdown.spawn("readiness", async move {
            draining.await;
            state.send_replace(false);
        });
        Self(ready)
    }

    /// Follows `probe`, such as a store's ping: asked at once and then every `interval`. Ready after a success, not
    /// ready after a failure and once the process is told to stop. Each change is logged once, with its cause.
    pub fn follow<F, E>(
        shutdown: &Shutdown,
        interval: Duration,
        mut probe: impl FnMut() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let (state, ready) = watch::channel(false);
        let draining = shutdown.draining();
        shutdown.spawn("readiness", async move {
            let probing = async {
                let mut first = true;
                loop {
                    let outcome = ask(probe()).await;
                    let changed = state.send_replace(outcome.is_ok()) != outcome.is_ok();
                    match outcome {
                        Ok(()) if changed => tracing::info!("ready"),
                        Err(cause) if changed || first => tracing::error!(cause, "not ready"),
                        Ok(()) | Err(_) => {}
                    }
                    first = false;
                    tokio::time::sleep(interval).await;
                }
            };
            // Draining comes first, so that a probe that ends at the same moment does not turn it green again.
            tokio::select! { biased; () = draining => {}, () = probing => {} }
            state.send_replace(false);
        });
        Self(ready)
    }

    /// Whether it is ready now.
    pub fn is_ready(&self) -> bool {
        *self.0.borrow()
    }

    /// To be told of changes.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }
}

/// The probe's outcome, or why there is none.
async fn ask<E: Display>(probe: impl Future<Output = Result<(), E>>) -> Result<(), String> {
    match timeout(PROBE_TIMEOUT, probe).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn follows_the_probe_and_ends_with_the_shutdown() {
        let shutdown = Shutdown::new();
        let up = Arc::new(AtomicBool::new(true));
        let probed = Arc::clone(&up);
        let readiness = Readiness::follow(&shutdown, INTERVAL, move || {
            let up = probed.load(Ordering::SeqCst);
            async move { if up { Ok(()) } else { Err("the store is away") } }
        });
        assert!(!readiness.is_ready(), "not before the first answer");
        let mut changes = readiness.subscribe();
        changes.wait_for(|ready| *ready).await.unwrap();
        up.store(false, Ordering::SeqCst);
        changes.wait_for(|ready| !*ready).await.unwrap();
        up.store(true, Ordering::SeqCst);
        changes.wait_for(|ready| *ready).await.unwrap();
        shutdown.trigger();
        changes.wait_for(|ready| !*ready).await.unwrap();
        shutdown.wait().await.unwrap();
        assert!(!readiness.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_counts_as_failed() {
        let shutdown = Shutdown::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let readiness = Readiness::follow(&shutdown, INTERVAL, move || {
            let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if !first {
                    std::future::pending::<()>().await;
                }
                Ok::<_, String>(())
            }
        });
        let mut changes = readiness.subscribe();
        changes.wait_for(|ready| *ready).await.unwrap();
        changes.wait_for(|ready| !*ready).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_store_it_is_ready_until_told_to_stop() {
        let shutdown = Shutdown::new();
        let readiness = Readiness::until_draining(&shutdown);
        assert!(readiness.is_ready());
        shutdown.trigger();
        readiness.subscribe().wait_for(|ready| !*ready).await.unwrap();
        assert!(!Readiness::until_draining(&shutdown).is_ready());
    }
}
