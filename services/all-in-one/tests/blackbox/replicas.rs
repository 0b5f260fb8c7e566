//! What must hold whichever replica is asked, and when one of them dies.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::future::join_all;
use pulse_proto::{
    billing::v1::{
        BillingState, GetEntitlementsRequest, SetBillingStateRequest, SubscriptionState,
        billing_admin_service_client::BillingAdminServiceClient,
        entitlement_service_client::EntitlementServiceClient,
    },
    lifecycle::v1::{
        RestoreOrganizationRequest, SoftDeleteOrganizationRequest, SuspendOrganizationRequest,
        lifecycle_admin_service_client::LifecycleAdminServiceClient,
    },
    signup::v1::{SignUpRequest, SignUpResponse, signup_service_client::SignupServiceClient},
};
use pulse_testkit::{
    eventually,
    system::{
        REPLICAS, Rejection, Service, System, Visitor,
        grpc::{self, AsOperator},
    },
};
use serde_json::json;
use tokio::time::Instant;
use tonic::Code;

use crate::{
    PASSWORD, SOON,
    crash::{every_store_agrees, insist, no_saga_is_left_open},
};

/// How many people there are, and how often each signs up at the same time.
const TENANTS: usize = 100;
const REPETITIONS: usize = 5;

/// How long hundreds of signups may take, on whatever machine this is.
const ROUND: Duration = Duration::from_mins(4);

#[tokio::test]
async fn five_hundred_signups_for_a_hundred_people_make_a_hundred_tenants() {
    let plan = System::replicated().over_own_postgres().without_limits();
    // Who waits for a password to be hashed waits for a while, as all of it is one machine here.
    let plan = plan.set("PULSE_HASH_QUEUE", "1000").set("PULSE_REQUEST_TIMEOUT", "60s");
    let mut system = plan.start().await;

    let answers = AtomicUsize::new(0);
    let visitors = join_all((0..TENANTS * REPETITIONS).map(|number| {
        let email = format!("person{}@example.com", number % TENANTS);
        // The repetitions of a person go to both replicas of the edge.
        let edge = system.visitor().at(system.replica_addr(Service::Edge, number / TENANTS % REPLICAS));
        let answers = &answers;
        async move {
            let ids = insist(&edge, &email).await;
            answers.fetch_add(1, Ordering::SeqCst);
            (email, ids)
        }
    }));
    let faults = async {
        let so_far = async |count: usize| {
            eventually(ROUND, async || answers.load(Ordering::SeqCst) >= count).await;
            let answered = answers.load(Ordering::SeqCst);
            assert!(answered < TENANTS * REPETITIONS, "the fault comes too late to mean anything");
        };
        so_far(50).await;
        system.kill_replica(Service::Provisioner, 0).await;
        system.kill_replica(Service::Lifecycle, 1).await;
        so_far(150).await;
        system.postgres().stop().await;
        system.postgres().start_again().await;
        so_far(250).await;
        system.start_again().await;
    };
    let (acknowledged, ()) = tokio::join!(visitors, faults);

    let mut tenants: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (email, ids) in acknowledged {
        let first = tenants.entry(email.clone()).or_insert_with(|| ids.clone());
        assert_eq!(*first, ids, "{email} was acknowledged twice, with different ids");
    }
    assert_eq!(tenants.len(), TENANTS);
    for (number, (email, ids)) in tenants.iter().enumerate() {
        let edge = system.visitor().at(system.replica_addr(Service::Edge, number % REPLICAS));
        assert_eq!(insist(&edge, email).await, *ids, "whoever asks again is told the same");
    }

    no_saga_is_left_open(&system).await;
    assert!(system.metrics().await.sum("pulse_hosted_provisionings_stuck", &[]) < 0.5);
    let org_ids: BTreeMap<String, String> =
        tenants.into_iter().map(|(email, (org_id, _))| (email, org_id)).collect();
    every_store_agrees(&system, &org_ids).await;
    every_audit_chain_is_whole(&system, &org_ids).await;
    active_tenants_are(&system, TENANTS).await;
}

/// Every tenant's history can be read from all services, and each record follows from the one before it.
async fn every_audit_chain_is_whole(system: &System, tenants: &BTreeMap<String, String>) {
    for org_id in tenants.values() {
        let events = system.admin().audit_events(org_id).await;
        let services: BTreeSet<_> = events.iter().map(|event| event["service"].as_str().unwrap()).collect();
        assert_eq!(services.into_iter().collect::<Vec<_>>(), ["billing-state", "lifecycle", "provisioner"]);
    }
    // No gap in the numbers, every record names the hash of the one before it, and the head is the last one.
    let broken = "SELECT head.org_id FROM audit_heads AS head JOIN (
                      SELECT org_id, sequence, hash, previous_hash,
                             lag(hash) OVER chain AS hash_before, lag(sequence, 1, 0::bigint) OVER chain AS sequence_before
                      FROM audit_events WINDOW chain AS (PARTITION BY org_id ORDER BY sequence)
                  ) AS event USING (org_id)
                  GROUP BY head.org_id, head.sequence, head.hash
                  HAVING bool_or(event.sequence <> sequence_before + 1)
                      OR bool_or(event.previous_hash <> hash_before)
                      OR max(event.sequence) <> head.sequence
                      OR bool_and(event.hash <> head.hash)";
    for service in [Service::Lifecycle, Service::Provisioner, Service::BillingState] {
        let mut store = system.store(service).await;
        assert_eq!(store.column(broken).await, Vec::<String>::new(), "{service:?}");
        let heads: BTreeSet<_> = store.column("SELECT org_id FROM audit_heads").await.into_iter().collect();
        let known: BTreeSet<_> = store.column("SELECT org_id FROM audit_events").await.into_iter().collect();
        assert!(heads == known && tenants.values().all(|org_id| heads.contains(org_id)), "{service:?}");
    }
}

#[tokio::test]
async fn one_address_is_admitted_five_times_whichever_replicas_it_asks() {
    let system = System::replicated().start().await;

    // Through both replicas of the edge.
    let client = system.visitor_from(Ipv4Addr::new(127, 0, 0, 5).into());
    let edges: Vec<Visitor> =
        (0..REPLICAS).map(|edge| client.clone().at(system.replica_addr(Service::Edge, edge))).collect();
    let began = Instant::now();
    for number in 0..5 {
        let answer = edges[number % REPLICAS].signup(&email("rest", number), PASSWORD, "Acme").await;
        let _ = answer.unwrap().expect(201);
    }
    let refused = edges[5 % REPLICAS].signup(&email("rest", 5), PASSWORD, "Acme").await.unwrap();
    let refused = refused.expect_problem(429, "rate_limited");
    let wait = refused.header("retry-after").unwrap();
    assert_eq!(refused.header("ratelimit"), Some(&*format!(r#""signup";r=0;t={wait}"#)), "{refused}");
    assert_is_the_rest_of_720_seconds(wait.parse().unwrap(), began);

    // Through both replicas of the gateway, one after the other.
    let began = Instant::now();
    for number in 0..5 {
        sign_up(&system, number, "203.0.113.7").await.unwrap();
    }
    let refused = sign_up(&system, 5, "203.0.113.7").await.unwrap_err();
    assert_eq!((refused.code, &*refused.reason), (Code::ResourceExhausted, "RATE_LIMITED"));
    assert_is_the_rest_of_720_seconds(refused.retry_after.unwrap().as_secs(), began);

    // And all at once.
    let answers = join_all((0..12).map(|number| sign_up(&system, number, "203.0.113.8"))).await;
    let (admitted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(admitted.len(), 5, "{refused:?}");
    for refused in refused {
        assert_eq!(refused.unwrap_err().reason, "RATE_LIMITED");
    }
}

fn email(kind: &str, number: usize) -> String {
    format!("{kind}{number}@example.com")
}

/// Signs up at one replica of the gateway, odd numbers at one and even ones at the other.
async fn sign_up(system: &System, number: usize, client_ip: &str) -> Result<SignUpResponse, Rejection> {
    let gateway = grpc::channel(system.replica_addr(Service::SignupGateway, number % REPLICAS));
    let request = SignUpRequest {
        email: email(&client_ip.replace('.', "-"), number),
        password: PASSWORD.to_owned(),
        org_name: "Acme".to_owned(),
        client_ip: client_ip.to_owned(),
    };
    Ok(SignupServiceClient::new(gateway).sign_up(request).await?.into_inner())
}

/// A fifth of an hour from the first of those signups, which came at `began` or a little later.
#[track_caller]
fn assert_is_the_rest_of_720_seconds(wait: u64, began: Instant) {
    let since = began.elapsed().as_secs() + 1;
    assert!((720 - since..=720).contains(&wait), "{wait} s, {since} s after the first");
}

#[tokio::test]
async fn every_replica_counts_the_active_tenants_alike() {
    let system = System::replicated().without_limits().start().await;
    let mut org_ids = Vec::new();
    for number in 0..3 {
        org_ids.push(system.new_tenant(&email("count", number), PASSWORD, "Acme").await);
    }
    active_tenants_are(&system, 3).await;

    let mut replicas: Vec<LifecycleAdminServiceClient<AsOperator>> = (0..REPLICAS)
        .map(|replica| system.operator_channel_to_replica(Service::Lifecycle, replica))
        .map(LifecycleAdminServiceClient::new)
        .collect();
    let suspend = SuspendOrganizationRequest { org_id: org_ids[0].clone(), ..Default::default() };
    replicas[0].suspend_organization(suspend).await.unwrap();
    active_tenants_are(&system, 2).await;
    let delete = SoftDeleteOrganizationRequest { org_id: org_ids[1].clone(), ..Default::default() };
    replicas[1].soft_delete_organization(delete).await.unwrap();
    active_tenants_are(&system, 1).await;
    let restore = RestoreOrganizationRequest { org_id: org_ids[1].clone(), ..Default::default() };
    replicas[0].restore_organization(restore).await.unwrap();
    active_tenants_are(&system, 2).await;
}

/// Whichever replica of lifecycle is scraped, the number is this one.
async fn active_tenants_are(system: &System, count: usize) {
    for replica in 0..REPLICAS {
        eventually(SOON, async || {
            let metrics = system.metrics_of_replica(Service::Lifecycle, replica).await;
            let shown = metrics.sum("pulse_hosted_active_tenants", &[]);
            let right = (shown - f64::from(u32::try_from(count).unwrap())).abs() < 0.5;
            if right { Ok(()) } else { Err(format!("replica {replica} shows {shown}, not {count}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn what_one_replica_is_told_of_billing_every_replica_grants_at_once() {
    let system = System::replicated().start().await;
    let org_id = system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let granted = async |replica: usize| {
        let channel = grpc::channel(system.replica_addr(Service::BillingState, replica));
        let request = GetEntitlementsRequest { org_id: org_id.clone() };
        let granted = EntitlementServiceClient::new(channel).get_entitlements(request).await.unwrap();
        granted.into_inner()
    };
    // Each has an answer of its own to go on serving.
    for replica in 0..REPLICAS {
        assert_eq!(granted(replica).await.subscription_state(), SubscriptionState::Trial);
    }
    for round in 0..5 {
        for (number, state) in
            [SubscriptionState::Suspended, SubscriptionState::Active, SubscriptionState::Expired]
                .into_iter()
                .enumerate()
        {
            let told = (round + number) % REPLICAS;
            let channel = system.operator_channel_to_replica(Service::BillingState, told);
            let request = SetBillingStateRequest {
                org_id: org_id.clone(),
                billing_state: Some(BillingState { subscription_state: state.into(), ..Default::default() }),
                ..Default::default()
            };
            BillingAdminServiceClient::new(channel).set_billing_state(request).await.unwrap();
            for replica in 0..REPLICAS {
                let now = granted(replica).await;
                assert_eq!(now.subscription_state(), state, "{told} was told, {replica} was asked");
                assert_eq!(now.capabilities.is_empty(), state != SubscriptionState::Active, "{now:?}");
            }
        }
    }
    let seen = system.admin_at_replica(0).billing_state(&org_id).await.expect(200).json();
    assert_eq!(seen["subscription_state"], json!("expired"));
}

#[tokio::test]
async fn one_replica_of_each_is_enough() {
    let mut system = System::replicated().without_limits().start().await;
    let org_id = system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    // Whoever was connected to these finds the others.
    for service in Service::ALL {
        system.kill_replica(service, 0).await;
    }
    let (bobs, _) = insist(&system.visitor(), "bob@example.com").await;
    let _ = system.admin().suspend(&org_id, "").await.expect(200);
    let _ = system.admin().organization(&bobs).await.expect(200);

    // And the others find those when they are back.
    system.start_again().await;
    for service in Service::ALL {
        system.kill_replica(service, 1).await;
    }
    let (same, _) = insist(&system.visitor(), "bob@example.com").await;
    assert_eq!(same, bobs);
    no_saga_is_left_open(&system).await;
}

#[tokio::test]
async fn replicas_end_in_peace_and_keep_nothing_to_themselves() {
    let mut system = System::replicated().start().await;
    let org_id = system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    assert_eq!(system.stop().await, [Some(0); 5 * REPLICAS], "{}", system.log());
    assert!(!system.data().exists(), "all of it is in PostgreSQL");
    system.start_again().await;
    let _ = system.admin().organization(&org_id).await.expect(200);
}
