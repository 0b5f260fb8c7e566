//! What is counted. The metrics are the process's own, so this is the only test in its process.

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use pulse_kernel::Reason;
use pulse_runtime::telemetry::metrics_text;

use self::support::{PASSWORD, Plane, Provisioner};

/// The value of a series, by the beginning of its line.
fn value(series: &str) -> Option<f64> {
    let text = metrics_text().unwrap();
    let line = text.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn provisionings_are_counted_once_when_they_end() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let success = r#"pulse_hosted_provisions_total{status="success"}"#;
    let failure = r#"pulse_hosted_provisions_total{status="failure"}"#;
    let ann = provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    assert_eq!((value(success), value(failure)), (Some(1.0), Some(0.0)));
    assert_eq!(value("pulse_hosted_provision_duration_seconds_count"), Some(1.0));
    assert_eq!(value("pulse_hosted_provisionings_stuck"), Some(0.0));
    assert_eq!(value("pulse_hosted_hash_queue_depth"), Some(0.0));

    // Known already: found, not made.
    provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    assert_eq!(value(success), Some(1.0));

    // lifecycle knows the address from elsewhere.
    let other = pulse_provisioner::clients::NewOrganization {
        org_id: "elsewhere".parse().unwrap(),
        owner: ann.user_id.parse().unwrap(),
        email: "bob@example.com".parse().unwrap(),
        name: pulse_kernel::OrgName::parse("Other").unwrap(),
    };
    pulse_provisioner::clients::Organizations::create(&plane.organizations, &other).await.unwrap();
    let taken = provisioner.provision("bob@example.com", PASSWORD).await.unwrap_err();
    assert_eq!(taken.reason(), Reason::EmailTaken);
    assert_eq!((value(success), value(failure)), (Some(1.0), Some(1.0)));
    assert_eq!(value("pulse_hosted_provision_duration_seconds_count"), Some(1.0));

    let text = metrics_text().unwrap();
    assert!(!text.contains(&ann.org_id) && !text.contains("example.com"), "no label names a tenant");
}
