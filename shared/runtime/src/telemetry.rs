//! Logs, traces and metrics of the process; started once, also when several services share it.
//!
//! Logs go to standard error. Traces are exported over OTLP/gRPC where `OTEL_EXPORTER_OTLP_ENDPOINT` is set; the
//! other `OTEL_*` variables (sampler, resource attributes, batch sizes) are read by the OpenTelemetry SDK. Metrics
//! are made with the global OpenTelemetry meter and scraped by Prometheus from `/metrics`.

use std::{future::Future, time::Duration};

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use opentelemetry::{global, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider,
};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{CommonSettings, SettingError, Shutdown, settings::LogFormat};

/// The boundaries of every histogram in seconds: from a cache hit to the longest request.
pub const SECONDS_BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0];

/// How long the last spans may take to leave the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Why telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A setting is not accepted.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The span exporter cannot be made.
    #[error("traces cannot be exported: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The metrics exporter cannot be made.
    #[error("metrics cannot be collected: {0}")]
    Metrics(#[from] opentelemetry_sdk::error::OTelSdkError),
    /// Something in this process has taken the log already.
    #[error("logging is set up already: {0}")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
}

/// The process's telemetry; keep it until the end and call [`Telemetry::flush`] then.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    meters: SdkMeterProvider,
    tracer: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Starts logging, the global meter and, where an endpoint is set, the export of traces. `service` is the
    /// `service.name` unless `OTEL_SERVICE_NAME` says otherwise. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When a setting is not accepted, or telemetry was started before.
    pub fn start(service: &'static str, settings: &CommonSettings) -> Result<Self, TelemetryError> {
        let filter = EnvFilter::builder().parse(&settings.log).map_err(|error| {
            SettingError::new(
                "PULSE_LOG (--log)",
                format_args!(
                    "{:?} is not accepted ({error}); expected a level such as info, or directives such as \
                     info,pulse_provisioner=debug",
                    settings.log
                ),
            )
        })?;
        // The SDK's own detectors (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) win over the name given first.
        let resource = Resource::builder_empty()
            .with_service_name(service)
            .with_detector(Box::new(opentelemetry_sdk::resource::EnvResourceDetector::new()))
            .with_detector(Box::new(opentelemetry_sdk::resource::TelemetryResourceDetector))
            .build();

        let registry = Registry::new();
        let meters = meter_provider(&registry, resource.clone())?;
        global::set_meter_provider(meters.clone());
        global::set_text_map_propagator(TraceContextPropagator::new());

        let tracer = match &settings.otlp_endpoint {
            None => None,
            Some(endpoint) => {
                let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
                Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
            }
        };
        let spans = tracer.as_ref().map(|provider| {
            // What the exporter itself logs about its own requests must not become spans again.
            let quiet = tracing_subscriber::filter::filter_fn(|meta| !meta.target().starts_with("opentelemetry"));
            tracing_opentelemetry::layer().with_tracer(provider.tracer(service)).with_filter(quiet)
        });
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = match settings.log_format() {
            LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
            LogFormat::Pretty => lines.boxed(),
        };
        tracing_subscriber::registry().with(filter).with(lines).with(spans).try_init()?;
        Ok(Self { registry, meters, tracer })
    }

    /// Answers `GET /metrics` on `listener` until the process is told to stop.
    pub fn serve_metrics(
        &self,
        listener: TcpListener,
        shutdown: &Shutdown,
    ) -> impl Future<Output = std::io::Result<()>> + Send + 'static {
        let router = Router::new().route("/metrics", get(scrape)).with_state(self.registry.clone());
        let draining = shutdown.draining();
        async move { axum::serve(listener, router).with_graceful_shutdown(draining).await }
    }

    /// Sends the last spans. Blocks for at most five seconds.
    pub fn flush(self) {
        if let Some(tracer) = self.tracer
            && let Err(error) = tracer.shutdown_with_timeout(FLUSH_TIMEOUT)
        {
            tracing::warn!(%error, "the last spans could not be sent");
        }
        if let Err(error) = self.meters.shutdown() {
            tracing::debug!(%error, "metrics did not shut down");
        }
    }
}

/// A meter provider whose metrics appear in `registry` under exactly the names they are made with, plus the unit and
/// `_total` as Prometheus wants them, and without labels that only name this library.
///
/// # Errors
/// When the registry already has a collector of the kind.
pub fn meter_provider(
    registry: &Registry,
    resource: Resource,
) -> Result<SdkMeterProvider, opentelemetry_sdk::error::OTelSdkError> {
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .without_target_info()
        .scope_info_enabled(false)
        .build()?;
    Ok(SdkMeterProvider::builder().with_reader(exporter).with_resource(resource).build())
}

async fn scrape(State(registry): State<Registry>) -> impl IntoResponse {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    if let Err(error) = encoder.encode(&registry.gather(), &mut text) {
        tracing::error!(%error, "metrics could not be encoded");
        return axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response()
}

#[cfg(test)]
mod tests {
    use opentelemetry::{KeyValue, metrics::MeterProvider};

    use super::*;

    #[test]
    fn metrics_have_exactly_the_names_of_the_contract() {
        let registry = Registry::new();
        let meters = meter_provider(&registry, Resource::builder_empty().build()).unwrap();
        let meter = meters.meter("test");
        let labels = [KeyValue::new("status", "success")];
        meter.u64_counter("pulse_hosted_provisions").build().add(1, &labels);
        let seconds = meter.f64_histogram("pulse_hosted_provision_duration").with_unit("s");
        seconds.with_boundaries(SECONDS_BUCKETS.to_vec()).build().record(0.2, &[]);
        meter.u64_gauge("pulse_hosted_active_tenants").build().record(3, &[]);

        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            r#"pulse_hosted_provisions_total{status="success"} 1"#,
            r#"pulse_hosted_provision_duration_seconds_bucket{le="0.25"} 1"#,
            "pulse_hosted_active_tenants 3",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("otel_scope") && !text.contains("target_info"), "{text}");
    }
}
