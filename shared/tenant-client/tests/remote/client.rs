//! Decisions over both services: as they change, while one is away, and when what it says is only its own guess.

use std::{sync::Arc, time::Duration};

use pulse_entitlements::{Catalog, Source};
use pulse_kernel::{OrgId, Reason};
use pulse_proto::{
    billing::v1::{EntitlementSource, GetEntitlementsResponse, SubscriptionState},
    lifecycle::v1::{Organization, OrganizationServiceGetOrganizationResponse, OrganizationStatus},
};
use pulse_runtime::Shutdown;
use pulse_tenant_client::TenantClient;
use pulse_tenant_guard::{
    Decision, DenyReason, Guard, OnOutage, OutagePolicy, Requirement, StatusError, Verdict,
};
use pulse_testkit::{ManualClock, eventually};

use crate::fake::Fake;

const ENTITLEMENTS: &str = "/pulse.billing.v1.EntitlementService/GetEntitlements";
const BILLING_STATE: &str = "/pulse.billing.v1.BillingStateService/GetBillingState";
const ORGANIZATIONS: &str = "/pulse.lifecycle.v1.OrganizationService/WatchOrganizations";
const BILLING_STATES: &str = "/pulse.billing.v1.EntitlementService/WatchBillingStates";
const ORGANIZATION: &str = "/pulse.lifecycle.v1.OrganizationService/GetOrganization";

const ALERTING: Requirement<'_> = Requirement::capability("alerting");
const TELEPORTING: Requirement<'_> = Requirement::capability("teleporting");

/// A client of two services that a test scripts.
struct World {
    lifecycle: Fake,
    billing: Fake,
    clock: Arc<ManualClock>,
    client: TenantClient,
}

impl World {
    async fn start() -> Self {
        let ((lifecycle, to_lifecycle), (billing, to_billing)) = (Fake::start().await, Fake::start().await);
        let clock = Arc::new(ManualClock::default());
        let (catalog, config) = (Catalog::built_in(), TenantClient::config());
        let client = TenantClient::new(to_lifecycle, to_billing, &catalog, config, clock.clone());
        let world = Self { lifecycle, billing, clock, client };
        world.status(OrganizationStatus::Active, 1);
        world.granted(SubscriptionState::Active, EntitlementSource::Fresh);
        world
    }

    fn status(&self, status: OrganizationStatus, version: u64) {
        let (id, etag) = ("acme".to_owned(), version.to_string());
        let organization = Organization { id, etag, status: status.into(), ..Organization::default() };
        let answer = OrganizationServiceGetOrganizationResponse { organization: Some(organization) };
        self.lifecycle.answer(ORGANIZATION, &answer);
    }

    fn granted(&self, state: SubscriptionState, source: EntitlementSource) {
        let is_default = source == EntitlementSource::Default;
        let answer = GetEntitlementsResponse {
            org_id: "acme".into(),
            subscription_state: state.into(),
            plan_version: "pro".into(),
            capabilities: vec!["alerting".into(), "teleporting".into()],
            source: source.into(),
            revision: u64::from(!is_default),
            ..GetEntitlementsResponse::default()
        };
        self.billing.answer(ENTITLEMENTS, &answer);
    }

    async fn check(&self, requirement: &Requirement<'_>) -> Verdict {
        self.client.guard().check(&acme(), requirement).await
    }

    async fn decision(&self, requirement: &Requirement<'_>) -> Decision {
        self.check(requirement).await.decision
    }

    fn nobody_answers(&self) {
        self.lifecycle.fail(ORGANIZATION, Reason::Unavailable);
        self.billing.fail(ENTITLEMENTS, Reason::Unavailable);
        self.billing.fail(BILLING_STATE, Reason::Unavailable);
    }

    fn wait(&self, time: Duration) {
        self.clock.advance(time);
    }
}

fn acme() -> OrgId {
    OrgId::parse("acme").unwrap()
}

const A_WHILE: Duration = Duration::from_secs(5);
const TOO_LONG: Duration = Duration::from_hours(2);

#[tokio::test]
async fn what_is_known_is_not_asked_for_again_until_it_has_come_of_age() {
    let world = World::start().await;
    for _ in 0..10 {
        assert_eq!(world.decision(&TELEPORTING).await, Decision::Allow);
    }
    assert_eq!((world.lifecycle.calls(ORGANIZATION), world.billing.calls(ENTITLEMENTS)), (1, 1));
    world.status(OrganizationStatus::Suspended, 2);
    assert_eq!(world.decision(&TELEPORTING).await, Decision::Allow);
    world.wait(A_WHILE);
    assert_eq!(world.decision(&TELEPORTING).await, Decision::Deny(DenyReason::OrgSuspended));
    world.status(OrganizationStatus::Active, 3);
    world.granted(SubscriptionState::Expired, EntitlementSource::Cached);
    world.wait(A_WHILE);
    assert_eq!(world.decision(&TELEPORTING).await, Decision::Deny(DenyReason::SubscriptionInactive));
}

#[tokio::test]
async fn while_both_are_away_the_last_known_counts_for_a_while_and_then_a_trial() {
    let world = World::start().await;
    assert!(world.check(&TELEPORTING).await.is_certain());
    world.nobody_answers();
    world.wait(A_WHILE);
    let verdict = world.check(&TELEPORTING).await;
    assert_eq!((verdict.decision, verdict.is_certain()), (Decision::Allow, false));
    assert_eq!(verdict.status.as_ref().unwrap().source, Source::Stale);
    assert_eq!(verdict.entitlements().unwrap().source, Source::Stale);
    assert_eq!(verdict.age(), Some(A_WHILE));
    let strict = world.client.guard().with_policy(OutagePolicy::new(OnOutage::Deny));
    let by_strict = async |guard: &Guard| guard.check(&acme(), &TELEPORTING).await.decision;
    assert_eq!(by_strict(&strict).await, Decision::Deny(DenyReason::Unavailable));

    world.wait(TOO_LONG);
    let verdict = world.check(&ALERTING).await;
    assert_eq!(verdict.status, Err(StatusError::Unknown));
    assert_eq!(
        (verdict.decision, verdict.entitlements().unwrap().source),
        (Decision::Allow, Source::Default)
    );
    // It had it, so it is not told to pay for it.
    assert_eq!(world.decision(&TELEPORTING).await, Decision::Deny(DenyReason::Unavailable));
}

#[tokio::test]
async fn what_is_known_to_be_closed_stays_closed_however_long_nobody_answers() {
    for (status, state, reason) in [
        (OrganizationStatus::Suspended, SubscriptionState::Active, DenyReason::OrgSuspended),
        (OrganizationStatus::PendingDeletion, SubscriptionState::Active, DenyReason::OrgPendingDeletion),
        (OrganizationStatus::Active, SubscriptionState::Expired, DenyReason::SubscriptionInactive),
        (OrganizationStatus::Active, SubscriptionState::Suspended, DenyReason::SubscriptionInactive),
    ] {
        let world = World::start().await;
        world.status(status, 2);
        world.granted(state, EntitlementSource::Fresh);
        assert_eq!(world.decision(&ALERTING).await, Decision::Deny(reason));
        world.nobody_answers();
        for _ in 0..3 {
            world.wait(TOO_LONG);
            assert_eq!(world.decision(&ALERTING).await, Decision::Deny(reason));
        }
        // Billing-state is back before its store is, knows nothing, and grants what a trial has.
        world.granted(SubscriptionState::Trial, EntitlementSource::Default);
        world.wait(A_WHILE);
        assert_eq!(world.decision(&ALERTING).await, Decision::Deny(reason));
    }
}

#[tokio::test]
async fn a_tenant_without_a_billing_state_is_on_a_trial_for_certain() {
    let world = World::start().await;
    world.granted(SubscriptionState::Trial, EntitlementSource::Default);
    world.billing.fail(BILLING_STATE, Reason::OrgNotFound);
    let verdict = world.check(&ALERTING).await;
    assert_eq!((verdict.decision, verdict.is_certain()), (Decision::Allow, true));
    // What this service's own catalog says of a trial, whatever billing-state grants meanwhile.
    assert_eq!(world.decision(&TELEPORTING).await, Decision::Deny(DenyReason::CapabilityRequired));
}

#[tokio::test]
async fn a_tenant_that_is_gone_from_either_is_gone() {
    let world = World::start().await;
    world.lifecycle.fail(ORGANIZATION, Reason::OrgNotFound);
    assert_eq!(world.decision(&ALERTING).await, Decision::Deny(DenyReason::OrgNotFound));
    assert_eq!(world.billing.calls(ENTITLEMENTS), 0, "nobody is asked about nobody");
    let world = World::start().await;
    world.billing.fail(ENTITLEMENTS, Reason::OrgNotFound);
    assert_eq!(world.decision(&ALERTING).await, Decision::Deny(DenyReason::OrgNotFound));
}

#[tokio::test]
async fn a_stream_asks_for_more_time_than_a_call() {
    let (world, shutdown) = (World::start().await, Shutdown::new());
    let _following = world.client.follow(&shutdown);
    for (fake, path) in [(&world.lifecycle, ORGANIZATIONS), (&world.billing, BILLING_STATES)] {
        let a_day = Some("86400000m");
        eventually(Duration::from_secs(5), async || fake.timeout(path).as_deref() == a_day).await;
    }
    shutdown.abort();
}
