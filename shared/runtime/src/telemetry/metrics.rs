//! Metrics: OpenTelemetry for whoever counts, Prometheus for whoever reads.

use std::{
    net::SocketAddr,
    sync::{LazyLock, OnceLock},
};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use opentelemetry::{
    global,
    metrics::{Meter, MeterProvider as _},
};
use opentelemetry_sdk::metrics::{Aggregation, Instrument, SdkMeterProvider, Stream};
use prometheus::{Encoder as _, Registry, TEXT_FORMAT, TextEncoder};
use tokio::net::TcpListener;

/// The upper bounds of the buckets of every histogram in seconds: from a cached answer to a slow provisioning.
const SECONDS: [f64; 17] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The metrics cannot be told.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the metrics: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// Everything this process counts.
struct Metrics {
    registry: Registry,
    provider: SdkMeterProvider,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let registry = Registry::new();
    #[expect(clippy::expect_used, reason = "a fresh registry takes its first collector")]
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .without_target_info()
        .scope_info_enabled(false)
        .build()
        .expect("a fresh registry takes its first collector");
    let provider = SdkMeterProvider::builder().with_reader(exporter).with_view(buckets).build();
    Metrics { registry, provider }
});

fn buckets(instrument: &Instrument) -> Option<Stream> {
    let aggregation =
        Aggregation::ExplicitBucketHistogram { boundaries: SECONDS.to_vec(), record_min_max: false };
    let is_seconds = instrument.unit() == "s"
        && matches!(instrument.kind(), opentelemetry_sdk::metrics::InstrumentKind::Histogram);
    is_seconds.then(|| Stream::builder().with_aggregation(aggregation).build().ok()).flatten()
}

/// Makes this process's meter provider the global one.
pub(super) fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| global::set_meter_provider(METRICS.provider.clone()));
}

/// The meter of a service or crate, whether telemetry was started or not. A counter `pulse_hosted_signups` is told
/// as `pulse_hosted_signups_total`, a histogram `pulse_hosted_provision_duration` of the unit `s` as
/// `pulse_hosted_provision_duration_seconds`. Counters that are never counted are not told: add 0 at the start.
pub fn meter(name: &'static str) -> Meter {
    METRICS.provider.meter(name)
}

/// What this process has counted, in Prometheus' text format.
///
/// # Errors
/// When two instruments share a name.
pub fn metrics_text() -> Result<String, MetricsError> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&METRICS.registry.gather(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

static ADDR: OnceLock<SocketAddr> = OnceLock::new();

/// Where this process serves `/metrics`, once it does; not what was set when that left the port to the system.
pub fn metrics_addr() -> Option<SocketAddr> {
    ADDR.get().copied()
}

/// Keeps the address for [`metrics_addr`] and tells the log.
pub(super) fn tell_addr(listener: &TcpListener) {
    if let Ok(addr) = listener.local_addr() {
        tracing::info!(%addr, "serving metrics");
        ADDR.get_or_init(|| addr);
    }
}

/// Answers `GET /metrics`, for as long as it is polled.
pub(super) async fn serve(listener: TcpListener) {
    let routes = Router::new().route("/metrics", get(answer));
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "metrics are not served any more");
    }
}

async fn answer() -> Response {
    match metrics_text() {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be told");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::KeyValue;

    use super::*;

    #[test]
    fn names_and_labels_are_exactly_those_given() {
        let meter = meter("test");
        meter.u64_counter("pulse_test_signups").build().add(2, &[]);
        meter.u64_counter("pulse_test_provisions").build().add(1, &[KeyValue::new("status", "success")]);
        meter.i64_up_down_counter("pulse_test_active_tenants").build().add(3, &[]);
        let duration = meter.f64_histogram("rpc.test.duration").with_unit("s").build();
        duration.record(0.003, &[KeyValue::new("rpc.method", "GetOrganization")]);

        let text = metrics_text().unwrap();
        for line in [
            "pulse_test_signups_total 2",
            r#"pulse_test_provisions_total{status="success"} 1"#,
            "pulse_test_active_tenants 3",
            r#"rpc_test_duration_seconds_bucket{rpc_method="GetOrganization",le="0.0025"} 0"#,
            r#"rpc_test_duration_seconds_bucket{rpc_method="GetOrganization",le="0.005"} 1"#,
            r#"rpc_test_duration_seconds_count{rpc_method="GetOrganization"} 1"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("otel_scope") && !text.contains("target_info"), "{text}");
    }

    #[test]
    fn the_global_meter_counts_into_the_same_text() {
        install();
        global::meter("test").u64_counter("pulse_test_global").build().add(1, &[]);
        assert!(metrics_text().unwrap().contains("pulse_test_global_total 1"));
    }
}
