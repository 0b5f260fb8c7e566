//! What operators see of signups: counters, and logs without a secret in them. The only test of its process, as both are
//! the process's own.

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use pulse_proto::signup::v1::SignUpRequest;
use pulse_runtime::telemetry::metrics_text;
use pulse_testkit::eventually;
use tracing_subscriber::filter::LevelFilter;

use self::support::{Gateway, WAIT, good};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The counters of signups, without zeros.
fn counted() -> Vec<String> {
    let text = metrics_text().unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with("pulse_hosted_") && !line.ends_with(" 0"));
    lines.map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn attempts_are_counted_and_nothing_secret_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    // Everything, also of the libraries below.
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .try_init()
        .unwrap();

    let gateway = Gateway::start_with(&["--hosted-mode", "true", "--request-timeout", "2s"]).await;
    eventually(WAIT, async || metrics_text().unwrap().contains("pulse_hosted_signups_total 0")).await;
    assert_eq!(counted(), [""; 0]);

    let secret = |email: &str, client_ip: &str| SignUpRequest {
        password: "canary-Lantern-72-quartz".into(),
        ..good(email, client_ip)
    };
    gateway.sign_up(secret("canary-ann@example.com", "192.0.2.1")).await.unwrap();
    gateway.sign_up(secret("canary-ann@example.com", "192.0.2.1")).await.unwrap();
    gateway.sign_up(good("canary-ann@example.com", "192.0.2.1")).await.unwrap_err();
    gateway.sign_up(secret("canary-bob@example.com", "192.0.2.1")).await.unwrap();
    for email in ["busy@example.com", "down@example.com"] {
        gateway.sign_up(secret(email, "192.0.2.2")).await.unwrap_err();
    }
    for email in ["broken@example.com", "nonsense@example.com"] {
        gateway.sign_up(secret(email, "192.0.2.2")).await.unwrap_err();
    }
    let weak = SignUpRequest { password: "canary".into(), ..good("canary@nowhere", "192.0.2.3") };
    gateway.sign_up(weak).await.unwrap_err();
    gateway.sign_up(secret("canary-eve@example.com", "not an address")).await.unwrap_err();
    for _ in 0..2 {
        gateway.sign_up(secret("canary-ann@example.com", "192.0.2.1")).await.ok();
    }

    let mut client = gateway.client();
    let call = tokio::spawn(async move { client.sign_up(good("slow@example.com", "192.0.2.4")).await });
    eventually(WAIT, async || {
        gateway.provisioner.calls().iter().any(|(_, call)| call.owner_email.starts_with("slow"))
    })
    .await;
    call.abort();

    let expected = [
        "pulse_hosted_signup_attempts_total{outcome=\"abandoned\"} 1",
        "pulse_hosted_signup_attempts_total{outcome=\"created\"} 2",
        "pulse_hosted_signup_attempts_total{outcome=\"email_taken\"} 1",
        "pulse_hosted_signup_attempts_total{outcome=\"existing\"} 2",
        "pulse_hosted_signup_attempts_total{outcome=\"failed\"} 2",
        "pulse_hosted_signup_attempts_total{outcome=\"invalid\"} 2",
        "pulse_hosted_signup_attempts_total{outcome=\"overloaded\"} 1",
        "pulse_hosted_signup_attempts_total{outcome=\"rate_limited\"} 1",
        "pulse_hosted_signup_attempts_total{outcome=\"unavailable\"} 1",
        "pulse_hosted_signups_total 2",
    ];
    eventually(WAIT, async || if counted() == expected { Ok(()) } else { Err(counted()) }).await;

    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(log.contains("request failed") && log.contains("request refused"), "the log is on");
    let told: Vec<_> = log.lines().filter(|line| line.contains("canary")).collect();
    assert!(told.iter().all(|line| line.contains("canary-detail")), "{told:#?}");
}
