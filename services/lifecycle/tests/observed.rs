//! What operators see of it: metrics that are right from the start and after each change, and logs without anything
//! personal. The only test of its process, as both are the process's own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::SignedDuration;
use pulse_runtime::telemetry::metrics_text;
use pulse_testkit::eventually;
use tracing_subscriber::filter::LevelFilter;

use self::support::{Lifecycle, WAIT, request, token};

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

/// The value of a metric, by its name and labels as Prometheus reads them.
fn value(series: &str) -> Option<f64> {
    let text = metrics_text().unwrap();
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn transitions(from: &str, to: &str) -> f64 {
    let series =
        format!("pulse_hosted_lifecycle_transitions_total{{from_status=\"{from}\",to_status=\"{to}\"}}");
    value(&series).unwrap()
}

/// Waits until so many tenants are said to be active: a change does not wait long for them to be counted.
async fn active_tenants_are(expected: f64) {
    let shown = || value("pulse_hosted_active_tenants").ok_or_else(|| "nothing is shown".to_owned());
    let close = |shown: f64| if (shown - expected).abs() < 0.1 { Ok(()) } else { Err(format!("{shown}")) };
    eventually(WAIT, async || close(shown()?)).await;
}

#[tokio::test]
async fn changes_are_counted_and_nothing_personal_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    // Everything, also of the libraries below.
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .try_init()
        .unwrap();

    let hosted = ["--hosted-mode", "true", "--reaper-interval", "5ms"];
    let lifecycle = Lifecycle::start(&hosted).await;
    // The default organization does not count.
    active_tenants_are(0.0).await;
    let counted = |from, to, times: f64| assert!((transitions(from, to) - times).abs() < 0.1, "{from} {to}");
    counted("provisioning", "active", 0.0);

    lifecycle.create(request("canary")).await.unwrap();
    active_tenants_are(0.0).await;
    for _ in 0..2 {
        lifecycle.activate("canary").await.unwrap();
    }
    active_tenants_are(1.0).await;
    counted("provisioning", "active", 1.0);
    lifecycle.active("canary-2").await;
    active_tenants_are(2.0).await;

    lifecycle.suspend("support", "canary", "canary-reason").await.unwrap();
    active_tenants_are(1.0).await;
    lifecycle.suspend("support", "canary", "").await.unwrap_err();
    counted("active", "suspended", 1.0);
    lifecycle.delete("admin", "canary", Some(1.0)).await.unwrap();
    lifecycle.restore("admin", "canary").await.unwrap();
    lifecycle.unsuspend("support", "canary").await.unwrap();
    active_tenants_are(2.0).await;
    lifecycle.delete("admin", "canary", Some(1.0)).await.unwrap();
    lifecycle.restore("admin", "canary").await.unwrap();
    lifecycle.delete("admin", "canary", Some(1.0)).await.unwrap();
    lifecycle.clock.advance(SignedDuration::from_hours(24));
    eventually(WAIT, async || lifecycle.purging().await == ["canary"]).await;
    for _ in 0..2 {
        lifecycle.finish_purge("canary").await.unwrap();
    }
    lifecycle.create(request("unfinished")).await.unwrap();
    for _ in 0..2 {
        lifecycle.abandon("unfinished").await.unwrap();
    }
    for (from, to, times) in [
        ("provisioning", "active", 2.0),
        ("provisioning", "abandoned", 1.0),
        ("active", "suspended", 1.0),
        ("suspended", "active", 1.0),
        ("suspended", "pending_deletion", 1.0),
        ("pending_deletion", "suspended", 1.0),
        ("active", "pending_deletion", 2.0),
        ("pending_deletion", "active", 1.0),
        ("pending_deletion", "purging", 1.0),
        ("purging", "purged", 1.0),
    ] {
        counted(from, to, times);
    }
    active_tenants_are(1.0).await;
    let text = metrics_text().unwrap();
    assert!(!text.contains("canary"), "no label carries a tenant");

    // A new process tells the right number before anything changes.
    let (directory, clock) = lifecycle.stop().await;
    pulse_runtime::telemetry::meter("pulse-lifecycle")
        .u64_gauge("pulse_hosted_active_tenants")
        .build()
        .record(9, &[]);
    let lifecycle = Lifecycle::start_in(directory, clock, &hosted).await;
    active_tenants_are(1.0).await;
    lifecycle.stop().await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("the purge begins"), "something is logged");
    for line in log.lines() {
        // Libraries of the transport log bytes on TRACE, which no deployment turns on.
        if line.contains(" h2::")
            || line.contains(" hyper")
            || line.contains(" tonic")
            || line.contains("tower")
        {
            continue;
        }
        for secret in ["canary@", "canary-2@", "canary-reason", &token("admin"), &token("support")] {
            assert!(!line.contains(secret), "{secret} in {line}");
        }
    }
}
