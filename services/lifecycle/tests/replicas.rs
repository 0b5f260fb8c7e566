//! A replica among others: what it tells of the tenants is right whoever changes them, and it leaves the reaping to others when
//! it stops. The only test of its process, as the metrics are the process's own: the other replica is a store that counts
//! nothing here.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use pulse_kernel::{EmailAddress, OrgId, OrgName, OsEntropy, Reason, UserId};
use pulse_lifecycle::{
    domain::{Author, Organization, Owner},
    store::{Creation, PostgresStore, Store},
};
use pulse_proto::lifecycle::v1::OrganizationStatus;
use pulse_runtime::{DatabaseSettings, telemetry::metrics_text};
use pulse_testkit::{ManualClock, Postgres, Proxy, eventually};

use self::support::{Lifecycle, WAIT};

const START: Timestamp = Timestamp::constant(1_800_000_000, 0);

async fn open(url: String) -> Arc<PostgresStore> {
    let settings = DatabaseSettings {
        database_url: Some(url.into()),
        database_max_connections: 10.try_into().unwrap(),
        database_acquire_timeout: Duration::from_secs(2),
        database_migrate: true,
    };
    Arc::new(PostgresStore::open(&settings, &ManualClock::default(), Arc::new(OsEntropy)).await.unwrap())
}

fn author() -> Author {
    Author { actor: "service:test".to_owned(), request_id: None }
}

/// Makes a tenant as another replica does.
async fn active(store: &PostgresStore, id: &str) -> Organization {
    let owner = Owner {
        user_id: UserId::parse("0198c0de-0000-7000-8000-000000000001").unwrap(),
        email: EmailAddress::parse(&format!("{id}@example.com")).unwrap(),
    };
    let name = OrgName::parse("Acme, Inc.").unwrap();
    let new = Organization::create(OrgId::parse(id).unwrap(), owner, name, START);
    assert_eq!(store.create(new.clone(), author()).await.unwrap(), Creation::Created);
    let active = new.organization.activate(START).unwrap();
    assert!(store.change(active.clone(), author()).await.unwrap().is_done());
    active.organization
}

fn active_tenants() -> Option<u64> {
    let text = metrics_text().unwrap();
    text.lines().find_map(|line| line.strip_prefix("pulse_hosted_active_tenants ")?.parse().ok())
}

#[tokio::test]
async fn a_replica_knows_what_others_do_and_hands_over_when_it_stops() {
    let database = Postgres::shared().await.database().await;
    let other = open(database.url()).await;
    let network = Proxy::to(&[Postgres::shared().await.addr()]);
    let store = open(database.url_through(network.addr())).await;
    let directory = tempfile::tempdir().unwrap();
    let replica =
        Lifecycle::start_on(store, directory, ManualClock::default(), &["--hosted-mode", "true"]).await;
    eventually(WAIT, async || active_tenants() == Some(0)).await;

    active(&other, "acme").await;
    eventually(WAIT, async || active_tenants() == Some(1)).await;
    for number in 0..20 {
        active(&other, &format!("org-{number}")).await;
    }
    eventually(WAIT, async || active_tenants() == Some(21)).await;
    replica.suspend("support", "acme", "").await.unwrap();
    eventually(WAIT, async || active_tenants() == Some(20)).await;

    // What happens while the database is out of reach is known once it is back.
    network.cut().await;
    active(&other, "late").await;
    let suspended = active(&other, "brief").await.suspend(None, START).unwrap();
    assert!(other.change(suspended, author()).await.unwrap().is_done());
    let refused = replica.get("acme").await.unwrap_err();
    assert_eq!((refused.reason(), refused.retry_delay().is_some()), (Reason::Unavailable, true));
    network.heal().await;
    eventually(WAIT, async || active_tenants() == Some(21)).await;
    assert_eq!(replica.get("acme").await.unwrap().status(), OrganizationStatus::Suspended);

    // Whoever takes it for no time takes it from nobody.
    let take = || other.take_lease("reaper", "other", Duration::ZERO);
    eventually(WAIT, async || take().await.unwrap().is_none()).await;
    replica.stop().await;
    assert!(take().await.unwrap().is_some(), "the lease was given back");
}
