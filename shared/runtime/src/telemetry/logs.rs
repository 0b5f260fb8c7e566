//! Log lines, on stderr: a program's stdout is for what it prints.

use std::{
    fmt,
    io::{IsTerminal as _, stderr},
    panic,
    sync::OnceLock,
};

use opentelemetry::{Context, trace::TraceContextExt as _};
use serde::ser::{SerializeMap as _, Serializer as _};
use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_serde::{AsSerde as _, fields::AsMap as _};
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{JsonFields, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::{LookupSpan, Scope},
};

use crate::{CommonSettings, SettingError, settings::LogFormat};

/// The names that a JSON line begins with; fields of the same name are left out.
const OWN: [&str; 7] = ["timestamp", "level", "service", "target", "trace_id", "span_id", "span"];

/// The layer that writes the log as the settings say.
///
/// # Errors
/// When the filter cannot be read.
pub(super) fn layer<S>(
    service: &'static str,
    common: &CommonSettings,
) -> Result<Box<dyn Layer<S> + Send + Sync>, SettingError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let filter = EnvFilter::try_new(&common.log).map_err(|error| SettingError::new("PULSE_LOG", error))?;
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr);
    Ok(match common.effective_log_format() {
        LogFormat::Json => {
            layer.fmt_fields(JsonFields::new()).event_format(JsonLine { service }).with_filter(filter).boxed()
        }
        LogFormat::Pretty => layer.with_ansi(stderr().is_terminal()).with_filter(filter).boxed(),
    })
}

static REQUEST_ID: OnceLock<fn() -> Option<String>> = OnceLock::new();

/// Puts a `request_id` on every JSON line of the log for which `find` knows one. It is asked for each line, on the thread
/// that logs. The first caller decides.
pub fn log_request_id(find: fn() -> Option<String>) {
    REQUEST_ID.get_or_init(|| find);
}

/// Makes a panic a line of the log like any other.
pub(super) fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("without a message");
        let location = panic.location().map(ToString::to_string);
        tracing::error!(location, "panic: {message}");
    }));
}

/// An event as one JSON object: when, how bad, who, in which trace, and the fields of the event and of every span
/// around it, inner ones over outer ones.
struct JsonLine {
    service: &'static str,
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Vec::with_capacity(256);
        self.write(&mut line, &fields(context, event), context, event).map_err(|_| fmt::Error)?;
        writeln!(writer, "{}", String::from_utf8_lossy(&line))
    }
}

impl JsonLine {
    fn write<S, N>(
        &self,
        line: &mut Vec<u8>,
        fields: &Map<String, Value>,
        context: &FmtContext<'_, S, N>,
        event: &Event<'_>,
    ) -> serde_json::Result<()>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
        N: for<'writer> FormatFields<'writer> + 'static,
    {
        let metadata = event.metadata();
        let mut serializer = serde_json::Serializer::new(line);
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("timestamp", &timestamp())?;
        object.serialize_entry("level", &metadata.level().as_serde())?;
        object.serialize_entry("service", self.service)?;
        object.serialize_entry("target", metadata.target())?;
        if let Some(message) = fields.get("message") {
            object.serialize_entry("message", message)?;
        }
        // The layer that exports traces makes its span the current one of the thread.
        let trace = Context::current();
        let trace = trace.span().span_context().clone();
        if trace.is_valid() {
            object.serialize_entry("trace_id", &trace.trace_id().to_string())?;
            object.serialize_entry("span_id", &trace.span_id().to_string())?;
        }
        if let Some(span) = context.lookup_current() {
            object.serialize_entry("span", span.name())?;
        }
        for (name, value) in
            fields.iter().filter(|(name, _)| *name != "message" && !OWN.contains(&name.as_str()))
        {
            object.serialize_entry(name, value)?;
        }
        object.end()
    }
}

/// The fields of the event and of the spans around it.
fn fields<S, N>(context: &FmtContext<'_, S, N>, event: &Event<'_>) -> Map<String, Value>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    let mut fields = Map::new();
    if let Some(id) = REQUEST_ID.get().and_then(|find| find()) {
        fields.insert("request_id".to_owned(), id.into());
    }
    for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
        let extensions = span.extensions();
        let formatted = extensions.get::<FormattedFields<N>>();
        if let Some(Ok(Value::Object(of_span))) = formatted.map(|text| serde_json::from_str(&text.fields)) {
            fields.extend(of_span);
        }
    }
    if let Ok(Value::Object(of_event)) = serde_json::to_value(event.field_map()) {
        fields.extend(of_event);
    }
    fields
}

/// Now, in UTC, as RFC 3339 writes it.
fn timestamp() -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::{Registry, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `work` logs.
    fn lines(work: impl FnOnce()) -> Vec<Value> {
        let written = Written::default();
        let writer = written.clone();
        let traces = SdkTracerProvider::builder().build();
        let subscriber = Registry::default()
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(move || writer.clone())
                    .fmt_fields(JsonFields::new())
                    .event_format(JsonLine { service: "pulse-test" }),
            )
            .with(tracing_opentelemetry::layer().with_tracer(traces.tracer("test")));
        tracing::subscriber::with_default(subscriber, work);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_holds_the_event_its_spans_and_its_trace() {
        let told = lines(|| {
            let outer = tracing::info_span!("request", request_id = "r-1", attempt = 1);
            let _outer = outer.enter();
            let inner = tracing::info_span!("commit", attempt = 2, rows = tracing::field::Empty);
            inner.record("rows", 7);
            let _inner = inner.enter();
            tracing::warn!(kind = "slow", level = "x", "a \"quoted\"\nmessage");
        });
        let [line] = told.as_slice() else { panic!("{told:?}") };
        for (name, value) in [
            ("level", Value::from("WARN")),
            ("service", "pulse-test".into()),
            ("message", "a \"quoted\"\nmessage".into()),
            ("span", "commit".into()),
            ("request_id", "r-1".into()),
            ("attempt", 2.into()),
            ("rows", 7.into()),
            ("kind", "slow".into()),
        ] {
            assert_eq!(line[name], value, "{name} in {line}");
        }
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
        assert_eq!(line["trace_id"].as_str().unwrap().len(), 32, "{line}");
        assert_eq!(line["span_id"].as_str().unwrap().len(), 16, "{line}");
    }

    #[test]
    fn a_line_names_the_request_in_hand() {
        thread_local! {
            static IN_HAND: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
        }
        log_request_id(|| IN_HAND.get().map(str::to_owned));
        let told = lines(|| {
            tracing::info!("before");
            IN_HAND.set(Some("r-9"));
            tracing::info!("within");
            tracing::info!(request_id = "r-10", "its own");
        });
        let ids: Vec<_> = told.iter().map(|line| line["request_id"].as_str()).collect();
        assert_eq!(ids, [None, Some("r-9"), Some("r-10")]);
    }

    #[test]
    fn outside_a_span_there_is_no_trace() {
        let told = lines(|| tracing::info!(count = 3, "started"));
        let [line] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((&line["message"], &line["count"]), (&"started".into(), &3.into()));
        assert!(line.get("trace_id").is_none() && line.get("span").is_none(), "{line}");
    }
}
