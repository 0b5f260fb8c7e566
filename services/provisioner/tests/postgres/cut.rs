//! Many sagas, and connections to the database that are lost all the time.

use std::{collections::BTreeSet, time::Duration};

use futures::future::{join, join_all};
use pulse_kernel::{EmailAddress, OrgName};
use pulse_provisioner::{
    clients::{NewOrganization, Organizations as _},
    saga::{State, retry::Tuning},
    store::{EmailHolder, SagaQuery, Store as _},
};
use pulse_testkit::{Database, Postgres, Proxy, eventually};

use crate::{
    engines::request,
    faults::Chaos,
    replicas::{Deployment, Replica, store_at},
};

/// How many owners get a tenant, and how many have an address that lifecycle knows from elsewhere.
const OWNERS: usize = 60;
const REFUSED: usize = 10;

/// Everything has to have ended by then: leases run out meanwhile.
const LONG: Duration = Duration::from_mins(2);

/// What the journal has seen, whichever sagas it was; the connection is one that is never cut.
async fn progress(database: &Database) -> i64 {
    let versions = "SELECT coalesce(sum(version), 0)::bigint FROM pulse_provisioner.sagas";
    sqlx::query_scalar(versions).fetch_one(&mut database.connect().await).await.unwrap()
}

/// Asks until the address leads to an account, or, where it is refused, until a saga for it was undone.
async fn persist(deployment: &Deployment, replica: &Replica, address: &str, refused: bool) {
    let email = EmailAddress::parse(address).unwrap();
    let mut begun = BTreeSet::new();
    eventually(LONG, async || {
        if refused {
            for id in &begun {
                let saga = replica.store.find_saga(id).await.ok().flatten();
                if saga.is_some_and(|saga| saga.state() == State::Undone) {
                    return true;
                }
            }
        }
        match replica.store.find_by_email(&email).await {
            Ok(Some(EmailHolder::Account { .. })) => true,
            Ok(None) => {
                let saga = deployment.saga(replica, address);
                begun.insert(saga.id());
                let room = replica.engine.room().unwrap();
                replica.engine.begin(saga, request(), room).await.ok();
                false
            }
            Ok(Some(EmailHolder::Saga(_))) | Err(_) => false,
        }
    })
    .await;
}

/// I1 to I4, I9: whatever becomes of the connections, every saga ends, and nothing is done twice or half.
#[tokio::test]
async fn sagas_end_once_however_often_the_database_is_cut_off() {
    let deployment = Deployment::start().await;
    let server = Postgres::shared().await.addr();
    let proxies = [Proxy::to(&[server]), Proxy::to(&[server])];
    // Leases that run out while the test runs; time itself is the plane's, and is moved below.
    let tuning = Tuning { recovery_interval: Duration::from_millis(50), ..Tuning::default() };
    let chaos = Chaos::new(&[]);
    let mut replicas = Vec::new();
    for (proxy, owner) in proxies.iter().zip(["one", "two"]) {
        let store = store_at(deployment.database.url_through(proxy.addr())).await;
        let replica = deployment.replica_on(store, owner, &chaos, tuning);
        replica.keep_recovering();
        replicas.push(replica);
    }
    for number in 0..REFUSED {
        let other = NewOrganization {
            org_id: format!("other-{number}").parse().unwrap(),
            owner: "0198c0de-0000-7000-8000-000000000001".parse().unwrap(),
            email: EmailAddress::parse(&format!("refused-{number}@example.com")).unwrap(),
            name: OrgName::parse("Other").unwrap(),
        };
        deployment.plane.organizations.create(&other).await.unwrap();
    }

    let owners = (0..OWNERS).map(|number| (format!("owner-{number}@example.com"), false));
    let refused = (0..REFUSED).map(|number| (format!("refused-{number}@example.com"), true));
    let wishes: Vec<_> = owners.chain(refused).collect();
    let asking =
        join_all(wishes.iter().enumerate().map(|(number, (address, refused))| {
            persist(&deployment, &replicas[number % 2], address, *refused)
        }));
    let cutting = async {
        for cut in 1..=12 {
            // Each time something has gone on, so that something is in flight.
            let more = i64::from(cut) * 15;
            eventually(LONG, async || progress(&deployment.database).await >= more).await;
            let cut_off: &[_] = if cut % 3 == 0 { &proxies } else { &proxies[..1] };
            for proxy in cut_off {
                proxy.cut().await;
            }
            if cut % 4 == 0 {
                // While nobody can do anything, the leases of both run out.
                deployment.plane.clock.advance(tuning.lease);
            }
            for proxy in cut_off {
                proxy.heal().await;
            }
        }
        // What began without its runner knowing waits for its lease only.
        deployment.plane.clock.advance(tuning.lease);
    };
    join(asking, cutting).await;

    // Another lease may have run out since then, of a runner that was fenced.
    let store = deployment.store().await;
    let all = SagaQuery { limit: 10_000, ..SagaQuery::default() };
    let sagas = eventually(LONG, async || {
        deployment.plane.clock.advance(Duration::from_secs(1));
        let sagas = store.list_sagas(all.clone()).await.unwrap();
        sagas.iter().all(|saga| saga.state().has_ended()).then_some(sagas)
    })
    .await;
    let (done, undone): (Vec<_>, Vec<_>) = sagas.into_iter().partition(|saga| saga.state() == State::Done);
    assert_eq!(done.len(), OWNERS, "one tenant an address");
    assert!(undone.len() >= REFUSED);
    join_all(done.iter().map(|saga| deployment.is_whole(&*store, &saga.org_id))).await;
    join_all(undone.iter().map(|saga| deployment.left_nothing(&*store, &saga.org_id))).await;

    let mut conn = deployment.database.connect().await;
    let counts: (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM pulse_provisioner.accounts), (SELECT count(*) FROM pulse_provisioner.memberships)",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(counts, (OWNERS.try_into().unwrap(), OWNERS.try_into().unwrap()));
    eventually(LONG, async || {
        let lost: i64 = sqlx::query_scalar(
            "SELECT sessions_abandoned FROM pg_stat_database WHERE datname = current_database()",
        )
        .fetch_one(&mut conn)
        .await
        .unwrap();
        // Otherwise nothing was cut off, and this shows nothing.
        lost > 10
    })
    .await;
}
