//! Logs, traces and metrics of a process; started once, whatever number of services the process runs.
//!
//! | file | holds |
//! |---|---|
//! | `logs` | log lines on stderr: JSON with the trace and every span's fields, or a form for people |
//! | `traces` | export over OTLP where `OTEL_EXPORTER_OTLP_ENDPOINT` asks for it |
//! | `metrics` | [`meter`] for whoever counts, [`metrics_text`] and `/metrics` for whoever reads |
//!
//! Without an OTLP endpoint no trace is kept at all: a span then costs what its log fields cost, and one around a
//! request ([`REQUEST_SPANS`]) nothing. `OTEL_*`
//! variables are read by the OpenTelemetry SDK as its specification says (sampler, resource, headers, batches).

mod logs;
mod metrics;
mod traces;

use std::time::Duration;

use opentelemetry::global;
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tokio::{net::TcpListener, task::JoinHandle};
use tracing_subscriber::{Registry, layer::SubscriberExt as _, util::SubscriberInitExt as _};

pub use self::{
    logs::log_request_id,
    metrics::{MetricsError, meter, metrics_addr, metrics_text},
};
use crate::{CommonSettings, SettingError};

/// How long the last traces may take to leave the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The target of the spans that servers put around requests. They are of level debug, so that a request pays for one only
/// where the log asks for it or traces are exported; those hold it whatever the log shows.
pub const REQUEST_SPANS: &str = "pulse::request";

/// Why telemetry does not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A setting is not accepted.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// This process has a subscriber for its logs already.
    #[error("telemetry was started before")]
    AlreadyStarted,
}

/// The running telemetry of this process.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics_server: Option<JoinHandle<()>>,
}

impl Telemetry {
    /// Sends logs to stderr and, where `OTEL_*` asks for it, traces to a collector; makes the metrics of this
    /// process readable. `service` is the program's name, such as `pulse-lifecycle`; `OTEL_SERVICE_NAME` overrides
    /// it in traces. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When an `OTEL_*` setting asks for what this program cannot do, or on a second call.
    pub fn start(service: &'static str, common: &CommonSettings) -> Result<Self, TelemetryError> {
        metrics::install();
        global::set_text_map_propagator(TraceContextPropagator::new());
        let traces = traces::provider(service)?;
        let trace_layer = traces.as_ref().map(|provider| traces::layer(provider, service));
        let subscriber = Registry::default().with(logs::layer(service, common)?).with(trace_layer);
        subscriber.try_init().map_err(|_| TelemetryError::AlreadyStarted)?;
        if let Some(provider) = &traces {
            global::set_tracer_provider(provider.clone());
        }
        logs::log_panics();
        Ok(Self { traces, metrics_server: None })
    }

    /// Answers `GET /metrics` on `listener` until [`Telemetry::shutdown`]: longer than the services, so that what
    /// happens while they drain is seen too.
    pub fn serve_metrics(&mut self, listener: TcpListener) {
        metrics::tell_addr(&listener);
        self.metrics_server = Some(tokio::spawn(metrics::serve(listener)));
    }

    /// Hands over what has not been exported yet, and ends.
    pub async fn shutdown(self) {
        if let Some(server) = self.metrics_server {
            server.abort();
        }
        let Some(provider) = self.traces else { return };
        // The exporter blocks its thread on work that this runtime does.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT)).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last traces were not exported"),
            Err(error) => tracing::warn!(%error, "the last traces were not exported"),
        }
    }
}
