//! Several gateways over one PostgreSQL: one limit, and what happens while the database is away.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use pulse_kernel::{Quota, Reason};
use pulse_runtime::settings::try_parse_from;
use pulse_signup_gateway::{Config, migrate, open_store, store::Store};
use pulse_testkit::{Database, Postgres, Proxy, eventually};
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use self::support::{Gateway, WAIT, good};

const HOSTED: [&str; 2] = ["--hosted-mode", "true"];
const SHARE: Duration = Duration::from_mins(12);

async fn database() -> Database {
    Postgres::shared().await.database().await
}

fn config(url: &str) -> Config {
    let flags = ["pulse-signup-gateway", "--database-url", url, "--database-acquire-timeout", "500ms"];
    try_parse_from(flags).unwrap()
}

async fn open(url: &str) -> Arc<dyn Store> {
    open_store(&config(url)).await.unwrap()
}

async fn gateway(url: &str) -> Gateway {
    Gateway::start_over(Some(open(url).await), &HOSTED).await
}

async fn counted(database: &Database) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM pulse_signup_gateway.signup_limits")
        .fetch_one(&mut database.connect().await)
        .await
        .unwrap()
}

async fn is_ready(gateway: &Gateway) -> bool {
    let Ok(transport) = Endpoint::from_shared(gateway.url()).unwrap().connect().await else { return false };
    let request = HealthCheckRequest { service: "pulse.signup.v1.SignupService".into() };
    let answer = HealthClient::new(transport).check(request).await;
    answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn signups_spread_over_two_replicas_are_five_an_hour() {
    let database = database().await;
    let replicas = [gateway(&database.url()).await, gateway(&database.url()).await];
    let calls = (0..30).map(|n| {
        let mut client = replicas[n % 2].client();
        async move { client.sign_up(good(&format!("ann{n}@example.com"), "192.0.2.7")).await.is_ok() }
    });
    let admitted = join_all(calls).await.into_iter().filter(|admitted| *admitted).count();
    assert_eq!(admitted, 5);
    assert_eq!(replicas.iter().map(|replica| replica.provisioner.calls().len()).sum::<usize>(), 5);
    for replica in &replicas {
        let error = replica.sign_up(good("ann@example.com", "192.0.2.7")).await.unwrap_err();
        let quota = Quota { policy: "signup".into(), limit: 5, window_seconds: 3600 };
        assert_eq!((error.reason(), error.exhausted_quota()), (Reason::RateLimited, Some(&quota)));
        let told = error.retry_delay().unwrap();
        assert!(told <= SHARE && told > SHARE.saturating_sub(WAIT), "{told:?}");
    }
    replicas[0].sign_up(good("ann@example.com", "192.0.2.8")).await.expect("another client");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_signups_are_unavailable_and_nothing_is_counted() {
    let database = database().await;
    let proxy = Proxy::to(&[Postgres::shared().await.addr()]);
    let gateway = gateway(&database.url_through(proxy.addr())).await;
    eventually(WAIT, async || is_ready(&gateway).await).await;
    gateway.sign_up(good("ann@example.com", "192.0.2.7")).await.unwrap();

    proxy.cut().await;
    for _ in 0..7 {
        let error = gateway.sign_up(good("ann@example.com", "192.0.2.7")).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Unavailable, "{error:?}");
        assert!(error.retry_delay().is_some());
    }
    assert_eq!(gateway.provisioner.calls().len(), 1, "who is not counted is not let through");
    eventually(WAIT, async || !is_ready(&gateway).await).await;

    proxy.heal().await;
    eventually(WAIT, async || is_ready(&gateway).await).await;
    for _ in 0..4 {
        gateway.sign_up(good("ann@example.com", "192.0.2.7")).await.unwrap();
    }
    let error = gateway.sign_up(good("ann@example.com", "192.0.2.7")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::RateLimited);

    // What is known needs no database.
    proxy.cut().await;
    let error = gateway.sign_up(good("ann@example.com", "192.0.2.7")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::RateLimited);
}

#[tokio::test]
async fn migrating_says_what_it_came_to_and_may_be_repeated() {
    let database = database().await;
    for _ in 0..2 {
        let said = migrate(&config(&database.url())).await.unwrap();
        assert_eq!(said, "pulse_signup_gateway is at version 1");
    }
    assert_eq!(counted(&database).await, 0);
    let nowhere: Config = try_parse_from(["pulse-signup-gateway"]).unwrap();
    let error = migrate(&nowhere).await.unwrap_err().to_string();
    assert!(error.starts_with("PULSE_DATABASE_URL (--database-url): must be set"), "{error}");
}

#[tokio::test]
async fn the_store_is_the_one_that_the_settings_name() {
    let database = database().await;
    let client = pulse_rpc::client_key("192.0.2.7".parse().unwrap());
    open(&database.url()).await.admit(client).await.unwrap();
    assert_eq!(counted(&database).await, 1);
    let own = open_store(&try_parse_from(["pulse-signup-gateway"]).unwrap()).await.unwrap();
    own.admit(client).await.unwrap();
    assert_eq!(counted(&database).await, 1);
}
