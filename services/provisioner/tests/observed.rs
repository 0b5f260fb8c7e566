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

use pulse_kernel::{OrgName, Reason};
use pulse_provisioner::clients::{NewOrganization, Organizations as _};
use pulse_runtime::telemetry::metrics_text;
use tracing_subscriber::filter::LevelFilter;

use self::support::{PASSWORD, Plane, Provisioner, stuck};

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

#[tokio::test]
async fn provisionings_are_counted_once_and_nothing_personal_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    // Everything, also of the libraries below.
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .try_init()
        .unwrap();

    let plane = Plane::start().await;
    // Left by an earlier process; known before anything happens.
    let store = Provisioner::open(plane.directory.path()).await;
    stuck(&*store, "eve@example.com").await;
    let (directory, flags) = (plane.directory.path(), ["--hosted-mode", "true"]);
    let provisioner =
        Provisioner::start_on(store, directory, plane.lifecycle_addr, plane.billing_addr, &flags).await;
    let success = r#"pulse_hosted_provisions_total{status="success"}"#;
    let failure = r#"pulse_hosted_provisions_total{status="failure"}"#;
    let ann = provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    assert_eq!((value(success), value(failure)), (Some(1.0), Some(0.0)));
    assert_eq!(value("pulse_hosted_provision_duration_seconds_count"), Some(1.0));
    assert_eq!(value("pulse_hosted_provisionings_stuck"), Some(1.0));
    assert_eq!(value("pulse_hosted_hash_queue_depth"), Some(0.0));

    // Known already: found, not made.
    provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    assert_eq!(value(success), Some(1.0));

    // lifecycle knows the address from elsewhere.
    let other = NewOrganization {
        org_id: "elsewhere".parse().unwrap(),
        owner: ann.user_id.parse().unwrap(),
        email: "bob@example.com".parse().unwrap(),
        name: OrgName::parse("Other").unwrap(),
    };
    plane.organizations.create(&other).await.unwrap();
    let taken = provisioner.provision("bob@example.com", PASSWORD).await.unwrap_err();
    assert_eq!(taken.reason(), Reason::EmailTaken);
    assert_eq!((value(success), value(failure)), (Some(1.0), Some(1.0)));
    assert_eq!(value("pulse_hosted_provision_duration_seconds_count"), Some(1.0));

    let text = metrics_text().unwrap();
    assert!(!text.contains(&ann.org_id) && !text.contains("example.com"), "no label names a tenant");

    provisioner.sign_in("ann@example.com", "a wrong guess").await.unwrap_err();
    provisioner.sign_in("ann@example.com", PASSWORD).await.unwrap();
    plane.delete(&ann.org_id).await;
    provisioner.shutdown.trigger();
    provisioner.shutdown.wait().await.unwrap();

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("a step failed") && log.contains("ended"), "something is logged");
    for line in log.lines() {
        // Libraries of the transport log bytes on TRACE, which no deployment turns on.
        if [" h2::", " hyper", " tonic", "tower"].iter().any(|library| line.contains(library)) {
            continue;
        }
        for secret in ["ann@", "bob@", "eve@", "argon2id$v=", PASSWORD, "a wrong guess"] {
            assert!(!line.contains(secret), "{secret} in {line}");
        }
    }
}
