//! In the memory of this process: nobody else knows of it, and it is gone with the process. Bounded: see [`KeyedLimiter`].

use std::sync::Arc;

use async_trait::async_trait;
use pulse_kernel::Clock;
use pulse_rpc::{ClientKey, KeyedLimiter, limit::DEFAULT_MAX_KEYS};
use pulse_store::StoreError;

use super::{Allowance, Decision, Store};

/// What one process keeps by itself. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryStore(Arc<KeyedLimiter<ClientKey>>);

impl MemoryStore {
    /// An empty one, that goes by `clock`.
    pub fn new(allowance: Allowance, clock: Arc<dyn Clock>) -> Self {
        let limiter = KeyedLimiter::new(allowance.limit(), allowance.window(), DEFAULT_MAX_KEYS, clock);
        Self(Arc::new(limiter))
    }

    /// How many clients are remembered now.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn admit(&self, client: ClientKey) -> Result<Decision, StoreError> {
        let checked = self.0.check(&client);
        let whole_in = self.0.whole_in(&client);
        Ok(match checked {
            Ok(()) => Decision::Admitted { whole_in },
            Err(exceeded) => Decision::Refused { retry_after: exceeded.retry_after, whole_in },
        })
    }

    async fn sweep(&self) -> Result<bool, StoreError> {
        self.0.sweep();
        Ok(false)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use std::{future::ready, time::Duration};

    use pulse_testkit::ManualClock;

    use super::*;
    use crate::store::conformance::{Bench, allowance, store_conformance};

    struct Memory(MemoryStore, ManualClock);

    impl Memory {
        fn new() -> Self {
            let clock = ManualClock::default();
            Self(MemoryStore::new(allowance(), Arc::new(clock.clone())), clock)
        }
    }

    #[async_trait]
    impl Bench for Memory {
        fn replicas(&self) -> [&dyn Store; 2] {
            [&self.0, &self.0]
        }

        async fn pass(&self, time: Duration) {
            self.1.advance(time);
        }

        fn passed_by_itself(&self) -> Duration {
            Duration::ZERO
        }

        async fn kept(&self) -> usize {
            self.0.len()
        }
    }

    store_conformance!(ready(Memory::new()));
}
