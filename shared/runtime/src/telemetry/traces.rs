//! Traces, exported over OTLP where the environment names a collector.

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, SpanExporter,
};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracerProvider, Tracer},
};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{
    Layer,
    filter::{Filtered, Targets},
    registry::LookupSpan,
};

use super::REQUEST_SPANS;
use crate::SettingError;

/// The provider that exports, or none where the environment names no collector or switches traces off.
///
/// # Errors
/// When the environment asks for a transport that is not built in.
pub(super) fn provider(service: &'static str) -> Result<Option<SdkTracerProvider>, SettingError> {
    let Some(endpoint) = wanted(&environment)? else { return Ok(None) };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .build()
        .map_err(|error| SettingError::new(endpoint, format_args!("cannot export traces: {error}")))?;
    Ok(Some(
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(service)).build(),
    ))
}

/// The setting that names the collector, where traces are to be exported.
fn wanted(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<&'static str>, SettingError> {
    let off = env("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || env("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    let endpoint = [OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT]
        .into_iter()
        .find_map(|name| Some((name, env(name)?)));
    let Some((endpoint, url)) = endpoint.filter(|_| !off) else { return Ok(None) };
    if !url.starts_with("http://") {
        return Err(SettingError::not_accepted(
            endpoint,
            url,
            "a collector's gRPC port such as http://127.0.0.1:4317",
        ));
    }
    let protocol = [OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL]
        .into_iter()
        .find_map(|name| Some((name, env(name)?)));
    match protocol {
        Some((name, value)) if value != "grpc" => Err(SettingError::not_accepted(name, value, "grpc")),
        _ => Ok(Some(endpoint)),
    }
}

/// A variable of the environment; an empty one counts as unset (OpenTelemetry specification, environment variables).
#[expect(
    clippy::disallowed_methods,
    reason = "OTEL_* belongs to the OpenTelemetry SDK, which reads it by itself"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What the environment says about this process, with its name where the environment does not give one.
fn resource(service: &'static str) -> Resource {
    let detected = Resource::builder().build();
    let named = detected
        .iter()
        .any(|(key, value)| key.as_str() == "service.name" && !value.as_str().starts_with("unknown_service"));
    let own = [KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    let builder = Resource::builder().with_attributes(own);
    if named { builder.build() } else { builder.with_service_name(service).build() }
}

/// Turns spans of level info and above, and those of requests, into traces, whatever the log shows.
pub(super) fn layer<S>(
    provider: &SdkTracerProvider,
    service: &'static str,
) -> Filtered<OpenTelemetryLayer<S, Tracer>, Targets, S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(service))
        .with_tracked_inactivity(false)
        .with_filter(
            Targets::new().with_default(LevelFilter::INFO).with_target(REQUEST_SPANS, LevelFilter::DEBUG),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted_with(set: &[(&str, &str)]) -> Result<Option<&'static str>, String> {
        let env = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        wanted(&env).map_err(|error| error.to_string())
    }

    #[test]
    fn traces_are_exported_where_a_collector_is_named() {
        const ENDPOINT: (&str, &str) = (OTEL_EXPORTER_OTLP_ENDPOINT, "http://collector:4317");
        assert_eq!(wanted_with(&[]), Ok(None));
        assert_eq!(wanted_with(&[ENDPOINT]), Ok(Some(OTEL_EXPORTER_OTLP_ENDPOINT)));
        assert_eq!(
            wanted_with(&[(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, "http://collector:4317")]),
            Ok(Some(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT))
        );
        let https = wanted_with(&[(OTEL_EXPORTER_OTLP_ENDPOINT, "https://collector:4317")]);
        assert!(https.unwrap_err().contains("http://127.0.0.1:4317"));
        assert_eq!(wanted_with(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]), Ok(None));
        assert_eq!(wanted_with(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
        assert_eq!(
            wanted_with(&[ENDPOINT, (OTEL_EXPORTER_OTLP_PROTOCOL, "grpc")]),
            Ok(Some(OTEL_EXPORTER_OTLP_ENDPOINT))
        );
        assert_eq!(
            wanted_with(&[ENDPOINT, (OTEL_EXPORTER_OTLP_PROTOCOL, "http/protobuf")]),
            Err(r#"OTEL_EXPORTER_OTLP_PROTOCOL: "http/protobuf" is not accepted; expected grpc"#.into())
        );
    }

    #[test]
    fn the_resource_names_the_program() {
        let resource = resource("pulse-lifecycle");
        let name = resource.get(&"service.name".into()).unwrap();
        assert_eq!(name.as_str(), "pulse-lifecycle");
    }
}
