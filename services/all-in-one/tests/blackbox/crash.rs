//! SIGKILL in the middle of two hundred signups, and what is there afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::future::join_all;
use pulse_proto::provisioner::v1::{ListProvisioningsRequest, ProvisioningState};
use pulse_testkit::{
    eventually,
    system::{Plan, Service, System, Visitor},
};
use serde_json::Value;

use crate::PASSWORD;

in_every_shape!(no_acknowledged_signup_is_lost_and_nothing_is_orphaned);

/// How many tenants a round makes, how often each is asked for at once, and after how many answers the crash comes.
const TENANTS: usize = 50;
const REPETITIONS: usize = 4;
const ANSWERS_BEFORE_THE_CRASH: usize = 40;

/// How long a round may take: hundreds of passwords are hashed, on whatever machine this is.
const ROUND: Duration = Duration::from_mins(3);

/// What crashes in each round; all of it where the five are one process.
const CRASHES: [&[Service]; 3] =
    [&[Service::Provisioner], &[Service::Lifecycle, Service::BillingState], &Service::ALL];

async fn no_acknowledged_signup_is_lost_and_nothing_is_orphaned(plan: Plan) {
    let mut system = plan.without_limits().start().await;
    let mut tenants = BTreeMap::new();
    for (round, crash) in (1..).zip(CRASHES) {
        tenants.extend(sign_up_through_a_crash(&mut system, round, crash).await);
        assert_eq!(tenants.len(), TENANTS * round);
        no_saga_is_left_open(&system).await;
        every_store_agrees(&system, &tenants).await;
    }
}

/// Signs everybody up, each several times at once, while processes are killed; returns the organization id of each email.
async fn sign_up_through_a_crash(
    system: &mut System,
    round: usize,
    crash: &[Service],
) -> BTreeMap<String, String> {
    let answers = AtomicUsize::new(0);
    let visitors = join_all((0..TENANTS * REPETITIONS).map(|number| {
        let email = format!("round{round}-{}@example.com", number % TENANTS);
        let (visitor, answers) = (system.visitor(), &answers);
        async move {
            let ids = insist(&visitor, &email).await;
            answers.fetch_add(1, Ordering::SeqCst);
            (email, ids)
        }
    }));
    let crash = async {
        eventually(ROUND, async || answers.load(Ordering::SeqCst) >= ANSWERS_BEFORE_THE_CRASH).await;
        for service in crash {
            system.kill(*service).await;
        }
        let answered = answers.load(Ordering::SeqCst);
        assert!(answered < TENANTS * REPETITIONS, "the crash came too late to mean anything");
        system.start_again().await;
    };
    let (acknowledged, ()) = tokio::join!(visitors, crash);

    let mut known: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (email, ids) in acknowledged {
        let first = known.entry(email.clone()).or_insert_with(|| ids.clone());
        assert_eq!(*first, ids, "{email} was acknowledged twice, with different ids");
    }
    // Whoever asks again is told the same.
    for (email, (org_id, user_id)) in &known {
        let again = system.signup(email, PASSWORD, "Asked Again").await.expect(200).json();
        assert_eq!(
            (&again["org_id"], &again["user_id"]),
            (&Value::from(&**org_id), &Value::from(&**user_id))
        );
    }
    known.into_iter().map(|(email, (org_id, _))| (email, org_id)).collect()
}

/// Repeats the request until it is acknowledged, as a person with a form would; returns the ids.
pub(crate) async fn insist(visitor: &Visitor, email: &str) -> (String, String) {
    eventually(ROUND, async || {
        let answer =
            visitor.signup(email, PASSWORD, "Crash Test").await.map_err(|error| format!("{error:?}"))?;
        match answer.status {
            200 | 201 => {
                let body = answer.json();
                let id =
                    |name: &str| body[name].as_str().map(str::to_owned).ok_or_else(|| answer.to_string());
                Ok((id("org_id")?, id("user_id")?))
            }
            // At capacity, or something behind the edge is down: nothing is promised.
            429 | 503 | 504 => Err(answer.to_string()),
            _ => panic!("{email}: {answer}"),
        }
    })
    .await
}

pub(crate) async fn no_saga_is_left_open(system: &System) {
    for state in [ProvisioningState::Running, ProvisioningState::Compensating, ProvisioningState::Stuck] {
        eventually(ROUND, async || {
            let request = ListProvisioningsRequest { state: state.into(), ..Default::default() };
            let open =
                system.provisioner_admin().list_provisionings(request).await.map_err(|e| e.to_string())?;
            let open = open.into_inner().provisionings;
            if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
        })
        .await;
    }
}

/// Organizations, accounts and billing states are those of the tenants, and no others.
pub(crate) async fn every_store_agrees(system: &System, tenants: &BTreeMap<String, String>) {
    let listed = system.admin().get("?page_size=1000").await.expect(200).json();
    let organizations: BTreeMap<String, String> = listed["organizations"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|organization| organization["id"] != "default")
        .map(|organization| {
            assert_eq!(organization["status"], "active", "{organization}");
            let text = |name: &str| organization[name].as_str().unwrap().to_owned();
            (text("owner_email"), text("id"))
        })
        .collect();
    assert_eq!(organizations, *tenants, "organizations");

    let ids: BTreeSet<_> = tenants.values().cloned().collect();
    assert_eq!(ids.len(), tenants.len(), "one tenant an email");
    let billing = system.tenants_with_billing().await;
    let billing: BTreeSet<_> = billing.into_iter().filter(|id| id != "default").collect();
    assert_eq!(billing, ids, "billing states");
    for id in &ids {
        assert!(system.stored_billing_state(id).await.is_some(), "{id}");
    }

    let mut store = system.store(Service::Provisioner).await;
    let accounts = store.column("SELECT email FROM accounts").await;
    let unique: BTreeSet<_> = accounts.iter().cloned().collect();
    assert_eq!(unique.len(), accounts.len(), "one account an email");
    assert_eq!(unique, tenants.keys().cloned().collect(), "accounts");

    // One record says that the tenant was made, however often the saga was taken up again.
    for id in ids.iter().take(5) {
        let events = system.admin().audit_events(id).await;
        let made = |service: &str| events.iter().filter(|event| event["service"] == service).count();
        assert_eq!(made("billing-state"), 1, "{events:?}");
        assert_eq!(made("provisioner"), 1, "{events:?}");
    }
}
