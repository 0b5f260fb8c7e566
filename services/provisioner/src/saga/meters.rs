//! What is counted about sagas.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, ObservableGauge},
};

use super::{Saga, State, Subject};

/// The service's metrics; clones share them.
#[derive(Debug, Clone)]
pub struct Meters {
    provisions: Counter<u64>,
    duration: Histogram<f64>,
    stuck: Arc<AtomicU64>,
    _observed: Arc<[ObservableGauge<u64>; 2]>,
}

impl Meters {
    /// Makes them with `meter`; `hashing` is how many jobs wait to be hashed.
    pub fn new(meter: &Meter, hashing: Arc<AtomicUsize>) -> Self {
        let stuck = Arc::new(AtomicU64::new(0));
        let observed_stuck = Arc::clone(&stuck);
        let observed = [
            meter
                .u64_observable_gauge("pulse_hosted_provisionings_stuck")
                .with_description(
                    "Sagas, of all replicas, that need an operator or wait for another service to come back",
                )
                .with_callback(move |gauge| gauge.observe(observed_stuck.load(Ordering::Relaxed), &[]))
                .build(),
            meter
                .u64_observable_gauge("pulse_hosted_hash_queue_depth")
                .with_description("Passwords that wait to be hashed or verified")
                .with_callback(move |gauge| {
                    gauge.observe(u64::try_from(hashing.load(Ordering::Relaxed)).unwrap_or(u64::MAX), &[]);
                })
                .build(),
        ];
        let provisions = meter
            .u64_counter("pulse_hosted_provisions")
            .with_description("Provisionings that have ended, by whether there is a tenant now")
            .build();
        // Both series are there from the start, so that the first event is a step and not a beginning.
        provisions.add(0, &[SUCCESS.label()]);
        provisions.add(0, &[FAILURE.label()]);
        let duration = meter
            .f64_histogram("pulse_hosted_provision_duration")
            .with_unit("s")
            .with_description("From the claim of the address to the active tenant")
            .build();
        Self { provisions, duration, stuck, _observed: Arc::new(observed) }
    }

    /// Counts a saga that has just ended; to be called once for each.
    pub fn ended(&self, saga: &Saga) {
        if matches!(saga.subject, Subject::Purge) {
            return;
        }
        match saga.state() {
            State::Done => {
                self.provisions.add(1, &[SUCCESS.label()]);
                let took = saga.updated_at.duration_since(saga.created_at);
                self.duration.record(took.as_secs_f64().max(0.0), &[]);
            }
            State::Undone => self.provisions.add(1, &[FAILURE.label()]),
            State::Running(_) | State::Compensating(_) | State::Stuck { .. } => {}
        }
    }

    /// How many sagas are stuck, when they were last counted.
    pub fn stuck(&self) -> u64 {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Sets how many sagas are stuck.
    pub fn set_stuck(&self, count: u64) {
        self.stuck.store(count, Ordering::Relaxed);
    }
}

struct Status(&'static str);

const SUCCESS: Status = Status("success");
const FAILURE: Status = Status("failure");

impl Status {
    fn label(&self) -> KeyValue {
        KeyValue::new("status", self.0)
    }
}
