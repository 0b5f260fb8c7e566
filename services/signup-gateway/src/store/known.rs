//! What this process knows already, in front of a store that others use too: a client that has met its limit is refused without
//! asking again, so that whoever insists costs the database nothing.
//!
//! What is known is never more than what the store said last, so nothing is refused here that the store would admit:
//!
//! - looking counts nothing; after each answer of the store, that answer takes the place of what was known;
//! - a store that does not answer changes nothing;
//! - the answer was right at some moment between question and answer, and is taken to be of the latest, so that whoever waits as
//!   long as told does not come too early; the last `MARGIN` before that moment is left to the store. That is also room
//!   for the clocks, which may not run equally fast.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use pulse_kernel::Clock;
use pulse_rpc::{ClientKey, KeyedLimiter, limit::DEFAULT_MAX_KEYS};
use pulse_store::StoreError;

use super::{Allowance, Decision, Store};

/// For how long before a client is admitted again the store is asked.
const MARGIN: Duration = Duration::from_millis(250);

/// A store, and what it said.
#[derive(Debug)]
pub struct Known<S> {
    store: S,
    said: KeyedLimiter<ClientKey>,
    clock: Arc<dyn Clock>,
}

impl<S: Store> Known<S> {
    /// In front of `store`, which goes by the same allowance. `clock` must go on evenly.
    pub fn in_front_of(store: S, allowance: Allowance, clock: Arc<dyn Clock>) -> Self {
        let (limit, window) = (allowance.limit(), allowance.window());
        let said = KeyedLimiter::new(limit, window, DEFAULT_MAX_KEYS, Arc::clone(&clock));
        Self { store, said, clock }
    }
}

#[async_trait]
impl<S: Store> Store for Known<S> {
    async fn admit(&self, client: ClientKey) -> Result<Decision, StoreError> {
        if let Err(exceeded) = self.said.look(&client)
            && exceeded.retry_after > MARGIN
        {
            let whole_in = self.said.whole_in(&client);
            return Ok(Decision::Refused { retry_after: exceeded.retry_after, whole_in });
        }
        let asked = self.clock.now();
        let decision = self.store.admit(client).await?;
        let took = Duration::try_from(self.clock.now().duration_since(asked)).unwrap_or_default();
        // Of an answer that took longer than the margin is deep, the excess is taken off.
        let too_long = took.saturating_sub(MARGIN);
        self.said.learn(client, decision.whole_in().saturating_sub(too_long));
        Ok(decision)
    }

    async fn sweep(&self) -> Result<bool, StoreError> {
        self.said.sweep();
        self.store.sweep().await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.store.ping().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, sync::Mutex};

    use pulse_testkit::ManualClock;

    use super::*;
    use crate::store::{
        MemoryStore,
        conformance::{Bench, allowance, client, store_conformance},
    };

    const SHARE: Duration = Duration::from_mins(12);

    struct OverMemory {
        replicas: [Known<MemoryStore>; 2],
        behind: MemoryStore,
        clock: ManualClock,
    }

    impl OverMemory {
        fn new() -> Self {
            let manual = ManualClock::default();
            let clock: Arc<dyn Clock> = Arc::new(manual.clone());
            let behind = MemoryStore::new(allowance(), Arc::clone(&clock));
            let replica = || Known::in_front_of(behind.clone(), allowance(), Arc::clone(&clock));
            Self { replicas: [replica(), replica()], behind, clock: manual }
        }
    }

    #[async_trait]
    impl Bench for OverMemory {
        fn replicas(&self) -> [&dyn Store; 2] {
            self.replicas.each_ref().map(|replica| replica as &dyn Store)
        }

        async fn pass(&self, time: Duration) {
            self.clock.advance(time);
        }

        fn passed_by_itself(&self) -> Duration {
            Duration::ZERO
        }

        async fn kept(&self) -> usize {
            self.behind.len()
        }
    }

    store_conformance!(ready(OverMemory::new()));

    /// Answers as it is told, after the clock has moved on by as much as it is told; the last answer again and again.
    #[derive(Debug)]
    struct Scripted {
        answer: Mutex<Result<Decision, &'static str>>,
        takes: Duration,
        asked: Mutex<u32>,
        clock: ManualClock,
    }

    #[async_trait]
    impl Store for Arc<Scripted> {
        async fn admit(&self, _: ClientKey) -> Result<Decision, StoreError> {
            self.clock.advance(self.takes);
            *self.asked.lock().unwrap() += 1;
            self.answer.lock().unwrap().map_err(StoreError::Unavailable)
        }

        async fn sweep(&self) -> Result<bool, StoreError> {
            Ok(false)
        }

        async fn ping(&self) -> Result<(), StoreError> {
            Ok(())
        }

        async fn close(&self) {}
    }

    fn known(
        answer: Result<Decision, &'static str>,
        takes: Duration,
    ) -> (Known<Arc<Scripted>>, Arc<Scripted>) {
        let clock = ManualClock::default();
        let (answer, asked) = (Mutex::new(answer), Mutex::default());
        let scripted = Arc::new(Scripted { answer, takes, asked, clock: clock.clone() });
        (Known::in_front_of(Arc::clone(&scripted), allowance(), Arc::new(clock)), scripted)
    }

    const REFUSED: Decision = Decision::Refused { retry_after: SHARE, whole_in: Duration::from_hours(1) };

    #[tokio::test]
    async fn a_client_that_has_met_its_limit_costs_the_store_one_question() {
        let (known, store) = known(Ok(REFUSED), Duration::ZERO);
        for _ in 0..100 {
            assert_eq!(known.admit(client(1)).await.unwrap(), REFUSED);
        }
        assert_eq!(*store.asked.lock().unwrap(), 1);
        known.admit(client(2)).await.unwrap();
        assert_eq!(*store.asked.lock().unwrap(), 2, "nothing is known of another");
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_leaves_what_is_known_as_it_was() {
        let (known, store) = known(Err("away"), Duration::ZERO);
        for _ in 0..20 {
            known.admit(client(1)).await.unwrap_err();
        }
        assert_eq!(known.said.whole_in(&client(1)), Duration::ZERO);
        let admitted = Decision::Admitted { whole_in: SHARE };
        *store.answer.lock().unwrap() = Ok(admitted);
        assert_eq!(known.admit(client(1)).await.unwrap(), admitted);
        *store.answer.lock().unwrap() = Err("away");
        known.admit(client(1)).await.unwrap_err();
        assert_eq!(known.said.whole_in(&client(1)), SHARE);
    }

    #[tokio::test]
    async fn what_the_store_says_takes_the_place_of_what_was_known() {
        let (known, store) = known(Ok(REFUSED), Duration::ZERO);
        known.admit(client(1)).await.unwrap();
        store.clock.advance(SHARE);
        // Somebody has emptied the table meanwhile, or the limit is another now.
        let admitted = Decision::Admitted { whole_in: SHARE };
        *store.answer.lock().unwrap() = Ok(admitted);
        known.admit(client(1)).await.unwrap();
        assert_eq!(known.said.whole_in(&client(1)), SHARE);
    }

    /// The store decided at some moment while it was asked. What is known has to hold for the earliest when it comes to refusing,
    /// and for the latest when it comes to waiting.
    #[tokio::test]
    async fn nothing_is_refused_that_the_store_would_admit_and_who_waits_as_told_does_not_come_too_early() {
        for takes in [0, 1, 100, 250, 400, 1000, 30_000].map(Duration::from_millis) {
            let (known, store) = known(Ok(REFUSED), takes);
            let asked = store.clock.now();
            known.admit(client(1)).await.unwrap();
            let answered = store.clock.now();
            loop {
                let now = store.clock.now();
                let decision = known.admit(client(1)).await.unwrap();
                if *store.asked.lock().unwrap() > 1 {
                    break;
                }
                let Decision::Refused { retry_after, .. } = decision else { panic!("{decision:?}") };
                assert!(now < asked + SHARE, "{takes:?}");
                let latest = answered.min(asked + MARGIN);
                assert_eq!(now + retry_after, latest + SHARE, "{takes:?}");
                store.clock.advance(Duration::from_millis(10));
            }
            assert!(store.clock.now() >= asked + SHARE - MARGIN, "{takes:?}");
        }
    }
}
