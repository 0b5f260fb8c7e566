//! A whole process: what it prints, what it exports and how it exits. Each test starts this very program again, as
//! [`child_process`], with an environment of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    process::{Command, ExitCode, Output},
    time::Duration,
};

use clap::Parser;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
};
use pulse_runtime::{CommonSettings, run, settings};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const SCENARIO: &str = "PULSE_TEST_SCENARIO";

#[derive(Debug, Parser)]
struct Config {
    #[command(flatten)]
    common: CommonSettings,
    /// What the process does.
    #[arg(long, env = SCENARIO, default_value = "none")]
    test_scenario: String,
}

/// Not a check: the process that the tests below look at.
#[test]
fn child_process() {
    if std::env::var_os(SCENARIO).is_none() {
        return;
    }
    let config: Config = settings::or_exit(settings::try_parse_from(["child"]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let exit_code = runtime.block_on(run("pulse-child", &config.common, async |shutdown| {
        match config.test_scenario.as_str() {
            "stops" => {
                tracing::info_span!("work", request_id = "r-1").in_scope(|| tracing::info!("working"));
                shutdown.trigger();
            }
            "panics" => shutdown.spawn_service::<anyhow::Error>("store", async { panic!("no such page") }),
            "ends early" => shutdown.spawn_service("store", async { Ok::<_, anyhow::Error>(()) }),
            "cannot start" => anyhow::bail!("the store is\nlocked"),
            other => anyhow::bail!("no scenario {other}"),
        }
        Ok(())
    }));
    let code = (0..=u8::MAX).find(|code| ExitCode::from(*code) == exit_code).unwrap();
    std::process::exit(i32::from(code));
}

fn child(scenario: &str, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_process", "--nocapture"])
        .env_clear()
        .env(SCENARIO, scenario)
        .env("PULSE_METRICS_ADDR", "127.0.0.1:0")
        .envs(env.iter().copied());
    command
}

fn ended(scenario: &str, env: &[(&str, &str)]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = child(scenario, env).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_setting_of_the_environment_that_is_not_accepted_exits_with_2_and_one_line() {
    assert_eq!(
        ended("stops", &[("PULSE_HOSTED_MODE", "yes")]),
        (
            Some(2),
            "PULSE_HOSTED_MODE (--hosted-mode): \"yes\" is not accepted; expected true or false\n".into()
        )
    );
    let https = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317")];
    let (code, said) = ended("stops", &https);
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: "), "{said}");
}

#[test]
fn an_address_in_use_exits_with_2_and_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, said) = ended("stops", &[("PULSE_METRICS_ADDR", &addr)]);
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.starts_with("PULSE_METRICS_ADDR (--metrics-addr): cannot listen on "), "{said}");
}

#[test]
fn what_cannot_start_or_go_on_exits_with_1_and_the_cause() {
    for (scenario, cause) in [
        ("panics", "store panicked: no such page"),
        ("ends early", "store ended before it was told to"),
        ("cannot start", "cannot start: the store is locked\n"),
    ] {
        let (code, said) = ended(scenario, &[]);
        assert_eq!(code, Some(1), "{scenario}: {said}");
        assert!(said.contains(cause), "{scenario}: {said}");
    }
}

/// A collector that hands on what it receives.
struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn traces_reach_the_collector_before_the_process_ends_and_the_log_names_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut received) = mpsc::unbounded_channel();
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(Collector(sender)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(server);

    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_RESOURCE_ATTRIBUTES", "zone=eu".to_owned())];
    let output = tokio::task::spawn_blocking(move || child("stops", &[]).envs(env).output().unwrap());
    let Output { status, stderr, .. } = output.await.unwrap();
    let log = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{log}");

    let export = timeout(Duration::from_secs(10), received.recv()).await.unwrap().unwrap();
    let [of_resource] = export.resource_spans.as_slice() else { panic!("{export:?}") };
    let attributes = &of_resource.resource.as_ref().unwrap().attributes;
    for (name, value) in [("service.name", "pulse-child"), ("zone", "eu")] {
        let told = attributes.iter().find(|attribute| attribute.key == name).unwrap();
        let expected = Value::StringValue(value.into());
        assert_eq!(told.value.as_ref().unwrap().value.as_ref(), Some(&expected), "{name}");
    }
    let spans = of_resource.scope_spans.iter().flat_map(|scope| &scope.spans);
    let work = spans.into_iter().find(|span| span.name == "work").unwrap();
    let trace_id = hex::encode(&work.trace_id);

    let line = log.lines().find(|line| line.contains("\"working\"")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["trace_id"], &line["request_id"]), (&trace_id.into(), &"r-1".into()));
    server.abort();
}
