//! The edge is told what changes: what an operator or billing closes is refused at once and nobody is asked; who is cut off goes
//! on for a bounded time, says how old that is, and lets nobody in who is known to be closed; who is back has missed nothing.

use std::time::Duration;

use jiff::SignedDuration;
use pulse_kernel::{Clock as _, SystemClock};
use pulse_proto::{
    billing::v1::{
        BillingState, SetBillingStateRequest, SubscriptionState,
        billing_admin_service_client::BillingAdminServiceClient,
    },
    lifecycle::v1::{
        SuspendOrganizationRequest, lifecycle_admin_service_client::LifecycleAdminServiceClient,
    },
};
use pulse_testkit::{
    Proxy, eventually,
    system::{Answer, Metrics, Plan, Service, System},
};
use serde_json::json;
use tokio::time::Instant;

use crate::{PASSWORD, SOON};

/// How long a change may take from the answer that it is made until it is refused: less than the refresh age by far.
const AT_ONCE: Duration = Duration::from_secs(1);

/// After how much silence an answer is not taken for certain any more, with how long it then takes to find out.
const SILENCE: Duration = Duration::from_secs(15 + 2);

/// What a machine may take for itself that does all of this at once.
const MARGIN: Duration = Duration::from_secs(5);

/// How often a cache had to ask, and the two of the edge.
const MISSES: &str = "pulse_tenant_cache_misses_total";
const CACHES: [&str; 2] = ["remote_statuses", "remote_entitlements"];

mod told {
    use super::what_is_closed_is_refused_at_every_door_at_once_and_nobody_is_asked;

    in_every_shape!(what_is_closed_is_refused_at_every_door_at_once_and_nobody_is_asked);
}

mod alone {
    use super::without_the_services_what_is_closed_stays_so_and_nothing_is_missed;

    // In one process everybody is away together.
    in_shapes!(
        [five_processes, replicated],
        (without_the_services_what_is_closed_stays_so_and_nothing_is_missed)
    );
}

/// How the edge decides about a tenant.
#[derive(Debug, PartialEq, Eq)]
struct Decision {
    /// `allow`, or the reason.
    verdict: String,
    /// The capability as a flag.
    flag: bool,
}

fn allow() -> Decision {
    Decision { verdict: "allow".to_owned(), flag: true }
}

fn deny(reason: &str) -> Decision {
    Decision { verdict: reason.to_owned(), flag: false }
}

/// What billing-state remembers from before it was connected the edge does not rely on, and asks again; that is soon over.
fn prepared(plan: Plan) -> Plan {
    plan.without_limits().set("PULSE_ENTITLEMENT_REFRESH", "1s")
}

/// The numbers of the processes of the edge that are running.
fn edges(system: &System) -> std::ops::Range<usize> {
    0..system.replicas(Service::Edge)
}

/// Asks one process of the edge whether a tenant may have alerts.
async fn authorize(system: &System, edge: usize, tenant: &str) -> Answer {
    let internal = system.visitor().at(system.replica_internal_addr(edge));
    internal.get(&format!("/api/internal/authz?capability=alerting&org_id={tenant}")).await.unwrap()
}

/// Asks at both doors.
async fn decide(system: &System, edge: usize, tenant: &str) -> Decision {
    let answer = authorize(system, edge, tenant).await;
    let verdict = answer.header("x-pulse-deny-reason").unwrap_or("allow").to_owned();
    assert_eq!(answer.status == 200, verdict == "allow", "{answer}");
    let internal = system.visitor().at(system.replica_internal_addr(edge));
    let context = json!({ "context": { "targetingKey": tenant } });
    let flag = internal.post("/ofrep/v1/evaluate/flags/capability.alerting", &context).await.unwrap();
    Decision { verdict, flag: flag.expect(200).json()["value"] == json!(true) }
}

/// Asks every process of the edge until it decides so; all of them do within that time.
async fn until(system: &System, tenant: &str, decision: &Decision, within: Duration) {
    let begin = Instant::now();
    for edge in edges(system) {
        eventually(within.saturating_sub(begin.elapsed()), async || {
            let decided = decide(system, edge, tenant).await;
            if decided == *decision { Ok(()) } else { Err(decided) }
        })
        .await;
    }
}

/// Where an answer says that what it knows comes from, and how many seconds ago that was so; of the organization's status, and
/// of the entitlements.
fn known(answer: &Answer) -> [(String, u64); 2] {
    ["org-status", "entitlement"].map(|what| {
        let header = |part| answer.header(&format!("x-pulse-{what}-{part}")).unwrap().to_owned();
        (header("source"), header("age").parse().unwrap())
    })
}

/// Waits until every process of the edge is told of both: what it knows grows younger without anybody being asked.
async fn until_told(system: &System, tenant: &str) {
    for edge in edges(system) {
        for (what, cache) in CACHES.into_iter().enumerate() {
            let mut last = (0, 0.0);
            eventually(SOON, async || {
                let answer = authorize(system, edge, tenant).await.expect(200);
                let misses = metrics(system, edge).await.sum(MISSES, &[("cache", cache)]);
                let (source, age) = known(&answer)[what].clone();
                let (before, asked) = std::mem::replace(&mut last, (age, misses));
                let is_told = source == "cached" && age < before && misses.total_cmp(&asked).is_eq();
                if is_told { Ok(()) } else { Err(format!("{cache}: {source}, {age} after {before}")) }
            })
            .await;
        }
    }
}

async fn metrics(system: &System, edge: usize) -> Metrics {
    system.metrics_of_replica(Service::Edge, edge).await
}

/// How often each process of the edge had to ask about a tenant.
async fn asked(system: &System) -> Vec<f64> {
    let mut asked = Vec::new();
    for edge in edges(system) {
        let metrics = metrics(system, edge).await;
        asked.push(CACHES.iter().map(|cache| metrics.sum(MISSES, &[("cache", cache)])).sum());
    }
    asked
}

async fn what_is_closed_is_refused_at_every_door_at_once_and_nobody_is_asked(plan: Plan) {
    let system = prepared(plan).start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    until_told(&system, org_id).await;
    let before = asked(&system).await;
    let admin = system.admin();
    let state = |state: &str| json!({ "subscription_state": state, "plan_version": "pro" });
    for _ in 0..5 {
        let _ = admin.suspend(org_id, "chargeback").await.expect(200);
        until(&system, org_id, &deny("org_suspended"), AT_ONCE).await;
        let _ = admin.unsuspend(org_id).await.expect(200);
        until(&system, org_id, &allow(), AT_ONCE).await;
        let _ = admin.set_billing_state(org_id, state("expired"), None).await.expect(200);
        until(&system, org_id, &deny("subscription_inactive"), AT_ONCE).await;
        let _ = admin.set_billing_state(org_id, state("active"), None).await.expect(200);
        until(&system, org_id, &allow(), AT_ONCE).await;
    }
    assert_eq!(asked(&system).await, before, "nobody was asked");
    // Whoever made the change, every process of the edge was told.
    for edge in edges(&system) {
        let metrics = metrics(&system, edge).await;
        for stream in ["organizations", "billing_states"] {
            let told = metrics.sum("pulse_tenant_feed_propagation_seconds_count", &[("stream", stream)]);
            assert!(told >= 10.0, "{edge}: {stream}: {told}");
            assert!(metrics.sum("pulse_tenant_feed_connected", &[("stream", stream)]) > 0.5, "{stream}");
        }
    }
}

async fn without_the_services_what_is_closed_stays_so_and_nothing_is_missed(plan: Plan) {
    let mut system = prepared(plan).start().await;
    let open = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let suspended = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let trial = &system.new_tenant("cid@example.com", PASSWORD, "Crate").await;
    let _ = system.admin().suspend(suspended, "chargeback").await.expect(200);
    until_told(&system, open).await;
    until(&system, suspended, &deny("org_suspended"), AT_ONCE).await;
    let over = SystemClock.now() + SignedDuration::from_secs(6);
    let ending = json!({ "subscription_state": "trial", "trial_ends_at": over.to_string() });
    let _ = system.admin().set_billing_state(trial, ending, None).await.expect(200);
    until(&system, trial, &allow(), AT_ONCE).await;

    let cut_off = Instant::now();
    system.kill(Service::Lifecycle).await;
    system.kill(Service::BillingState).await;
    for edge in edges(&system) {
        says_how_old(&system, edge, open, cut_off).await;
        assert_eq!(decide(&system, edge, open).await, allow());
        assert_eq!(decide(&system, edge, suspended).await, deny("org_suspended"));
    }
    // Nobody is there to say so.
    eventually(SOON, async || SystemClock.now() > over).await;
    for edge in edges(&system) {
        assert_eq!(decide(&system, edge, trial).await, deny("subscription_inactive"));
        assert_eq!(decide(&system, edge, suspended).await, deny("org_suspended"));
    }

    system.start_again().await;
    // The edge may not be connected again when this happens.
    let _ = system.admin().suspend(open, "chargeback").await.expect(200);
    let _ = system.admin().unsuspend(suspended).await.expect(200);
    until(&system, open, &deny("org_suspended"), SOON).await;
    until(&system, suspended, &allow(), SOON).await;
    until(&system, trial, &deny("subscription_inactive"), SOON).await;
    until_told(&system, suspended).await;
    let before = asked(&system).await;
    let _ = system.admin().suspend(suspended, "chargeback").await.expect(200);
    until(&system, suspended, &deny("org_suspended"), AT_ONCE).await;
    assert_eq!(asked(&system).await, before, "it is told again");
}

/// Waits until a process of the edge says of both that it is not certain any more, and how old it is.
async fn says_how_old(system: &System, edge: usize, tenant: &str, cut_off: Instant) {
    eventually(SILENCE + MARGIN, async || {
        let answer = authorize(system, edge, tenant).await.expect(200);
        let known = known(&answer);
        for (source, age) in &known {
            // Which also bounds how long after the last heartbeat it counts as certain.
            assert!(source == "stale" || *age <= SILENCE.as_secs(), "{source} of {age} seconds");
            assert!(*age <= cut_off.elapsed().as_secs() + MARGIN.as_secs() + 2, "{answer}");
        }
        if known.iter().all(|(source, age)| source == "stale" && *age >= 3) { Ok(()) } else { Err(known) }
    })
    .await;
}

/// Has one replica do it that the edge may or may not listen to.
async fn close_at_the_source(system: &System, suspended: &str, expired: &str) {
    let lifecycle = system.operator_channel_to_replica(Service::Lifecycle, 0);
    let suspend = SuspendOrganizationRequest { org_id: suspended.to_owned(), ..Default::default() };
    LifecycleAdminServiceClient::new(lifecycle).suspend_organization(suspend).await.unwrap();
    let billing = system.operator_channel_to_replica(Service::BillingState, 1);
    let subscription_state = SubscriptionState::Expired.into();
    let expire = SetBillingStateRequest {
        org_id: expired.to_owned(),
        billing_state: Some(BillingState { subscription_state, ..Default::default() }),
        ..Default::default()
    };
    BillingAdminServiceClient::new(billing).set_billing_state(expire).await.unwrap();
}

/// Two tenants are closed while every edge is kept from both services, and known to be when that is over.
async fn what_changes_meanwhile_is_known_afterwards(keep_away: impl AsyncFn(&Proxy)) {
    let system = prepared(System::replicated()).start().await;
    let suspended = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let expired = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    until_told(&system, suspended).await;
    until_told(&system, expired).await;
    let networks = [Service::Lifecycle, Service::BillingState].map(|service| system.network_to(service));
    let cut_off = Instant::now();
    for network in networks {
        keep_away(network).await;
    }
    close_at_the_source(&system, suspended, expired).await;
    for edge in edges(&system) {
        for tenant in [suspended, expired] {
            says_how_old(&system, edge, tenant, cut_off).await;
            assert_eq!(decide(&system, edge, tenant).await, allow(), "it cannot know");
        }
    }
    for network in networks {
        network.heal().await;
    }
    until(&system, suspended, &deny("org_suspended"), SOON).await;
    until(&system, expired, &deny("subscription_inactive"), SOON).await;
}

#[tokio::test]
async fn what_changes_while_the_edge_is_cut_off_is_known_when_it_is_back() {
    what_changes_meanwhile_is_known_afterwards(Proxy::cut).await;
}

#[tokio::test]
async fn silence_is_taken_for_peace_for_a_few_seconds_only() {
    what_changes_meanwhile_is_known_afterwards(Proxy::freeze).await;
}
