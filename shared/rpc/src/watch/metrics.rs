//! How many watch, and what they are told. `stream` is what is watched, such as `organizations`; no label carries a tenant.

use std::sync::Arc;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, UpDownCounter},
};
use tokio::sync::OwnedSemaphorePermit;

use super::ResetReason;

/// The instruments of one hub.
#[derive(Debug)]
pub(super) struct Metrics {
    watchers: UpDownCounter<i64>,
    events: Counter<u64>,
    resets: Counter<u64>,
    dropped: Counter<u64>,
    stream: KeyValue,
}

impl Metrics {
    pub(super) fn new(stream: &'static str) -> Self {
        let meter = pulse_runtime::telemetry::meter("pulse-rpc");
        let metrics = Self {
            watchers: meter
                .i64_up_down_counter("pulse_hosted_watchers")
                .with_description("Streams of changes that are open.")
                .build(),
            events: meter
                .u64_counter("pulse_hosted_watch_events")
                .with_description("Changes of tenants that watchers were told, in snapshots too.")
                .build(),
            resets: meter
                .u64_counter("pulse_hosted_watch_resets")
                .with_description(
                    "How often a watcher was told that what it knows may be out of date, by why.",
                )
                .build(),
            dropped: meter
                .u64_counter("pulse_hosted_watchers_dropped")
                .with_description("Streams of changes that were ended because the watcher did not keep up.")
                .build(),
            stream: KeyValue::new("stream", stream),
        };
        // Told as 0 until there is one, so that rates are right from the first.
        metrics.watchers.add(0, &metrics.labels());
        metrics.events.add(0, &metrics.labels());
        metrics.dropped.add(0, &metrics.labels());
        for reason in ResetReason::ALL {
            metrics.resets.add(0, &metrics.labels_of(reason));
        }
        metrics
    }

    fn labels(&self) -> [KeyValue; 1] {
        [self.stream.clone()]
    }

    fn labels_of(&self, reason: ResetReason) -> [KeyValue; 2] {
        [self.stream.clone(), KeyValue::new("reason", reason.as_str())]
    }

    /// Somebody was told of so many changes.
    pub(super) fn told(&self, changes: u64) {
        self.events.add(changes, &self.labels());
    }

    /// Somebody was told to start over.
    pub(super) fn reset(&self, reason: ResetReason) {
        self.resets.add(1, &self.labels_of(reason));
    }

    /// Somebody did not keep up.
    pub(super) fn dropped(&self) {
        self.dropped.add(1, &self.labels());
    }
}

/// One of the places for watchers, taken until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
}

impl Seat {
    pub(super) fn new(metrics: Arc<Metrics>, place: OwnedSemaphorePermit) -> Self {
        metrics.watchers.add(1, &metrics.labels());
        Self { metrics, _place: place }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.metrics.watchers.add(-1, &self.metrics.labels());
    }
}
