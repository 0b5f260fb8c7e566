//! What is counted of a stream that is followed. `stream` is what is followed, such as `organizations`; no label carries a
//! tenant.

use std::time::Duration;

use jiff::Timestamp;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, UpDownCounter},
};

/// The instruments of one stream.
#[derive(Debug)]
pub(super) struct Metrics {
    connected: UpDownCounter<i64>,
    reconnects: Counter<u64>,
    resets: Counter<u64>,
    propagation: Histogram<f64>,
    labels: [KeyValue; 1],
}

impl Metrics {
    pub(super) fn new(stream: &'static str) -> Self {
        let meter = pulse_runtime::telemetry::meter("pulse-tenant-client");
        let metrics = Self {
            connected: meter
                .i64_up_down_counter("pulse_tenant_feed_connected")
                .with_description(
                    "1 while changes are told, 0 while tenants are asked about instead; by process and client.",
                )
                .build(),
            reconnects: meter
                .u64_counter("pulse_tenant_feed_reconnects")
                .with_description("How often a stream of changes ended, or could not be opened.")
                .build(),
            resets: meter
                .u64_counter("pulse_tenant_feed_resets")
                .with_description("How often changes may have been missed, so that everything is asked for again.")
                .build(),
            propagation: meter
                .f64_histogram("pulse_tenant_feed_propagation")
                .with_unit("s")
                .with_description(
                    "From when a change was made, by the clock of who made it, to when it counts here, by this one's.",
                )
                .build(),
            labels: [KeyValue::new("stream", stream)],
        };
        // Told as 0 until there is one, so that rates are right from the first.
        metrics.connected.add(0, &metrics.labels);
        metrics.reconnects.add(0, &metrics.labels);
        metrics.resets.add(0, &metrics.labels);
        metrics
    }

    /// Changes are told from now on.
    pub(super) fn connected(&self) {
        self.connected.add(1, &self.labels);
    }

    /// They are not any more.
    pub(super) fn disconnected(&self) {
        self.connected.add(-1, &self.labels);
    }

    /// The stream has to be opened again.
    pub(super) fn reconnect(&self) {
        self.reconnects.add(1, &self.labels);
    }

    /// Changes may have been missed.
    pub(super) fn reset(&self) {
        self.resets.add(1, &self.labels);
    }

    /// A change of that time counts here since `now`. Clocks may disagree, and then by so little that it counts as none.
    pub(super) fn propagated(&self, at: Timestamp, now: Timestamp) {
        let took = Duration::try_from(now.duration_since(at)).unwrap_or_default();
        self.propagation.record(took.as_secs_f64(), &self.labels);
    }
}
