//! The limits, on a clock that the test moves.

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::time::Duration;

use pulse_kernel::{Quota, Reason};
use pulse_proto::signup::v1::SignUpRequest;

use self::support::{Gateway, good};

const IP: &str = "192.0.2.7";
const SHARE: Duration = Duration::from_mins(12);

fn bad() -> SignUpRequest {
    SignUpRequest { email: "nobody".into(), ..good("", IP) }
}

/// Signs up until the limit is met and returns how many were admitted.
async fn exhaust(gateway: &Gateway, client_ip: &str) -> u32 {
    let mut admitted = 0;
    while gateway.sign_up(good("ann@example.com", client_ip)).await.is_ok() {
        admitted += 1;
    }
    admitted
}

#[tokio::test]
async fn five_signups_an_hour_and_the_answer_says_when_the_next_is_allowed() {
    let gateway = Gateway::start().await;
    assert_eq!(exhaust(&gateway, IP).await, 5);
    let error = gateway.sign_up(good("ann@example.com", IP)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::RateLimited);
    let quota = Quota { policy: "signup".into(), limit: 5, window_seconds: 3600 };
    assert_eq!((error.exhausted_quota(), error.retry_delay()), (Some(&quota), Some(SHARE)));

    gateway.clock.advance(Duration::from_mins(11) + Duration::from_secs(59));
    let error = gateway.sign_up(good("ann@example.com", IP)).await.unwrap_err();
    assert_eq!(error.retry_delay(), Some(Duration::from_secs(1)));
    gateway.clock.advance(Duration::from_secs(1));
    assert_eq!(exhaust(&gateway, IP).await, 1);
    gateway.clock.advance(Duration::from_hours(1));
    assert_eq!(exhaust(&gateway, IP).await, 5);
}

#[tokio::test]
async fn each_client_has_its_own_allowance_and_an_ipv6_client_is_its_network() {
    let gateway = Gateway::start().await;
    assert_eq!(exhaust(&gateway, IP).await, 5);
    assert_eq!(exhaust(&gateway, "::ffff:192.0.2.7").await, 0, "the same client, written otherwise");
    assert_eq!(exhaust(&gateway, "192.0.2.8").await, 5);
    assert_eq!(exhaust(&gateway, "2001:db8:0:1::1").await, 5);
    assert_eq!(exhaust(&gateway, "2001:db8:0:1:ffff::2").await, 0, "the same /64");
    assert_eq!(exhaust(&gateway, "2001:db8:0:2::1").await, 5);
}

#[tokio::test]
async fn a_refused_signup_does_not_use_up_the_hour() {
    let gateway = Gateway::start().await;
    for _ in 0..20 {
        assert_eq!(gateway.sign_up(bad()).await.unwrap_err().reason(), Reason::InvalidEmail);
    }
    assert_eq!(exhaust(&gateway, IP).await, 5);
}

#[tokio::test]
async fn every_request_counts_against_the_general_limit() {
    let gateway = Gateway::start().await;
    for _ in 0..60 {
        assert_eq!(gateway.sign_up(bad()).await.unwrap_err().reason(), Reason::InvalidEmail);
    }
    let error = gateway.sign_up(bad()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::RateLimited);
    let quota = Quota { policy: "requests".into(), limit: 60, window_seconds: 60 };
    assert_eq!((error.exhausted_quota(), error.retry_delay()), (Some(&quota), Some(Duration::from_secs(1))));
    gateway.sign_up(good("ann@example.com", "192.0.2.8")).await.expect("another client");
    gateway.clock.advance(Duration::from_secs(1));
    assert_eq!(gateway.sign_up(bad()).await.unwrap_err().reason(), Reason::InvalidEmail);
}

#[tokio::test]
async fn the_limits_are_settings() {
    let flags = ["--hosted-mode", "true", "--signup-limit-per-hour", "2", "--request-limit-per-minute", "4"];
    let gateway = Gateway::start_with(&flags).await;
    assert_eq!(exhaust(&gateway, IP).await, 2);
    gateway.sign_up(bad()).await.unwrap_err();
    let error = gateway.sign_up(bad()).await.unwrap_err();
    assert_eq!(error.exhausted_quota().unwrap().policy, "requests");
}

#[tokio::test]
async fn concurrent_signups_never_exceed_the_limit() {
    let gateway = Gateway::start().await;
    let calls = (0..30).map(|n| {
        let mut client = gateway.client();
        tokio::spawn(async move { client.sign_up(good(&format!("ann{n}@example.com"), IP)).await.is_ok() })
    });
    let mut admitted = 0;
    for call in calls.collect::<Vec<_>>() {
        admitted += u32::from(call.await.unwrap());
    }
    assert_eq!(admitted, 5);
    assert_eq!(gateway.provisioner.calls().len(), 5);
}
