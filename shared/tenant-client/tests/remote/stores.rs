//! What lifecycle and billing-state say, as the sources understand it.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use pulse_entitlements::{
    BillingStore, BillingStoreError, Lookup, Stored, SubscriptionState as State, effective,
};
use pulse_kernel::{OrgId, Reason};
use pulse_proto::{
    billing::v1::{
        BillingStateServiceGetBillingStateResponse, EntitlementSource, GetEntitlementsResponse,
        SubscriptionState,
    },
    lifecycle::v1::{
        Organization, OrganizationServiceGetOrganizationResponse, OrganizationStatus as WireStatus,
    },
};
use pulse_tenant_client::{RemoteBilling, RemoteStatus};
use pulse_tenant_guard::{OrganizationStatus, StatusLookup, StatusStore};
use tonic::Status;

use crate::fake::Fake;

const ENTITLEMENTS: &str = "/pulse.billing.v1.EntitlementService/GetEntitlements";
const BILLING_STATE: &str = "/pulse.billing.v1.BillingStateService/GetBillingState";
const ORGANIZATION: &str = "/pulse.lifecycle.v1.OrganizationService/GetOrganization";

fn acme() -> OrgId {
    OrgId::parse("acme").unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn wire(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: 1_800_000_000 + seconds, nanos: 0 }
}

/// What billing-state answers about acme.
fn entitlements(state: SubscriptionState, source: EntitlementSource) -> GetEntitlementsResponse {
    GetEntitlementsResponse {
        org_id: "acme".into(),
        subscription_state: state.into(),
        plan_version: "pro".into(),
        capabilities: vec!["alerting".into()],
        limits: HashMap::from([("users".into(), 5)]),
        meters_enabled: vec!["bytes".into()],
        source: source.into(),
        revision: 7,
        ..GetEntitlementsResponse::default()
    }
}

#[track_caller]
fn stored(lookup: Result<Lookup, BillingStoreError>) -> Stored {
    match lookup {
        Ok(Lookup::Stored(stored)) => *stored,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_billing_state_entitles_to_what_billing_state_said_now_and_later() {
    let (fake, channel) = Fake::start().await;
    let billing = RemoteBilling::new(channel);
    for source in [EntitlementSource::Fresh, EntitlementSource::Cached] {
        let trial = GetEntitlementsResponse {
            trial_started_at: Some(wire(0)),
            trial_ends_at: Some(wire(1000)),
            valid_until: Some(wire(1000)),
            ..entitlements(SubscriptionState::Trial, source)
        };
        fake.answer(ENTITLEMENTS, &trial);
        let Stored { state, revision } = stored(billing.billing_state(&acme()).await);
        assert_eq!(revision, 7);
        let during = effective(&state, at(999));
        assert_eq!((during.subscription_state, during.plan_version.as_str()), (State::Trial, "pro"));
        assert!(during.has_capability("alerting") && during.limit("users") == Some(5));
        assert_eq!((during.trial_started_at, during.trial_ends_at), (Some(at(0)), Some(at(1000))));
        assert_eq!(effective(&state, at(1000)).subscription_state, State::Expired);
    }

    let grace = GetEntitlementsResponse {
        trial_ends_at: Some(wire(10)),
        valid_until: Some(wire(2000)),
        ..entitlements(SubscriptionState::Grace, EntitlementSource::Fresh)
    };
    fake.answer(ENTITLEMENTS, &grace);
    let state = stored(billing.billing_state(&acme()).await).state;
    assert_eq!(effective(&state, at(1999)).subscription_state, State::Grace);
    assert_eq!(effective(&state, at(2000)).subscription_state, State::Expired);

    for (wire, state) in [
        (SubscriptionState::Active, State::Active),
        (SubscriptionState::Expired, State::Expired),
        (SubscriptionState::Suspended, State::Suspended),
    ] {
        fake.answer(ENTITLEMENTS, &entitlements(wire, EntitlementSource::Fresh));
        let stored = stored(billing.billing_state(&acme()).await).state;
        assert_eq!(effective(&stored, at(100_000)).subscription_state, state);
    }
}

#[tokio::test]
async fn an_answer_is_as_old_as_billing_state_says_also_when_it_is_fresh() {
    let (fake, channel) = Fake::start().await;
    let billing = RemoteBilling::new(channel);
    for (source, is_recalled) in [(EntitlementSource::Fresh, false), (EntitlementSource::Cached, true)] {
        let age = Some(prost_types::Duration { seconds: 3, nanos: 0 });
        let answer = GetEntitlementsResponse { age, ..entitlements(SubscriptionState::Active, source) };
        fake.answer(ENTITLEMENTS, &answer);
        let reading = billing.recalled(&acme()).await.unwrap();
        assert_eq!((reading.age, reading.is_recalled), (Duration::from_secs(3), is_recalled));
    }
}

#[tokio::test]
async fn what_billing_state_says_without_its_store_is_no_answer_of_the_store() {
    let (fake, channel) = Fake::start().await;
    let billing = RemoteBilling::new(channel);
    for source in [EntitlementSource::Stale, EntitlementSource::Default] {
        fake.answer(ENTITLEMENTS, &entitlements(SubscriptionState::Active, source));
        let error = billing.billing_state(&acme()).await.unwrap_err();
        let known = error.last_known.expect("what billing-state knows is known here too");
        assert_eq!((known.revision, known.state.subscription_state), (7, State::Active), "{source:?}");
    }
    assert_eq!(fake.calls(BILLING_STATE), 0);

    // A trial by default may mean either, so the store itself is asked.
    let default = GetEntitlementsResponse {
        revision: 0,
        ..entitlements(SubscriptionState::Trial, EntitlementSource::Default)
    };
    fake.answer(ENTITLEMENTS, &default);
    fake.fail(BILLING_STATE, Reason::Unavailable);
    let error = billing.billing_state(&acme()).await.unwrap_err();
    assert_eq!(error.last_known, None);
    fake.fail(BILLING_STATE, Reason::OrgNotFound);
    assert_eq!(billing.billing_state(&acme()).await.unwrap(), Lookup::NotStored);
    fake.answer(BILLING_STATE, &BillingStateServiceGetBillingStateResponse::default());
    assert!(billing.billing_state(&acme()).await.is_err(), "it was stored in between");
}

#[tokio::test]
async fn only_billing_state_itself_can_say_that_a_tenant_is_gone() {
    let (fake, channel) = Fake::start().await;
    let billing = RemoteBilling::new(channel);
    fake.fail(ENTITLEMENTS, Reason::OrgNotFound);
    assert_eq!(billing.billing_state(&acme()).await.unwrap(), Lookup::Purged);
    for status in [Status::not_found("no such route"), Status::unavailable("gone"), Status::internal("bug")] {
        fake.fail_with(ENTITLEMENTS, status);
        let error = billing.billing_state(&acme()).await.unwrap_err();
        assert!(error.message.starts_with("billing-state does not answer: "), "{error}");
    }
}

#[tokio::test]
async fn an_answer_about_another_tenant_or_without_sense_is_none() {
    let (fake, channel) = Fake::start().await;
    let (billing, statuses) = (RemoteBilling::new(channel.clone()), RemoteStatus::new(channel));
    let good = entitlements(SubscriptionState::Active, EntitlementSource::Fresh);
    for bad in [
        GetEntitlementsResponse { org_id: "other".into(), ..good.clone() },
        GetEntitlementsResponse { subscription_state: 99, ..good.clone() },
        GetEntitlementsResponse { plan_version: String::new(), ..good.clone() },
        GetEntitlementsResponse { capabilities: vec!["no spaces".into()], ..good.clone() },
        GetEntitlementsResponse { source: 99, ..good.clone() },
        GetEntitlementsResponse {
            trial_ends_at: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
            ..good
        },
    ] {
        fake.answer(ENTITLEMENTS, &bad);
        let error = billing.billing_state(&acme()).await.unwrap_err();
        assert_eq!(error.last_known, None, "{bad:?}");
    }

    let good = organization(WireStatus::Active);
    for bad in [
        None,
        Some(Organization { id: "other".into(), ..good.clone() }),
        Some(Organization { status: 99, ..good.clone() }),
        Some(Organization { etag: "x".into(), ..good }),
    ] {
        fake.answer(ORGANIZATION, &OrganizationServiceGetOrganizationResponse { organization: bad.clone() });
        assert!(statuses.status(&acme()).await.is_err(), "{bad:?}");
    }
}

fn organization(status: WireStatus) -> Organization {
    Organization { id: "acme".into(), status: status.into(), etag: "3".into(), ..Organization::default() }
}

#[tokio::test]
async fn a_status_comes_with_its_version() {
    let (fake, channel) = Fake::start().await;
    let statuses = RemoteStatus::new(channel);
    for (wire, status) in [
        (WireStatus::Provisioning, OrganizationStatus::Provisioning),
        (WireStatus::Active, OrganizationStatus::Active),
        (WireStatus::Suspended, OrganizationStatus::Suspended),
        (WireStatus::PendingDeletion, OrganizationStatus::PendingDeletion),
        (WireStatus::Purging, OrganizationStatus::Purging),
    ] {
        let organization = Some(organization(wire));
        fake.answer(ORGANIZATION, &OrganizationServiceGetOrganizationResponse { organization });
        assert_eq!(statuses.status(&acme()).await.unwrap(), (StatusLookup::Status(status), 3));
    }
    fake.fail(ORGANIZATION, Reason::OrgNotFound);
    assert_eq!(statuses.status(&acme()).await.unwrap(), (StatusLookup::NotFound, 0));
    for status in [Status::not_found("no such route"), Status::unavailable("gone")] {
        fake.fail_with(ORGANIZATION, status);
        let error = statuses.status(&acme()).await.unwrap_err().to_string();
        assert!(error.starts_with("lifecycle does not answer: "), "{error}");
    }
}
