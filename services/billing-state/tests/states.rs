//! Billing states through their life: trial, operators' changes, edits by hand, damage, purge.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::{collections::HashSet, fs, time::Duration};

use futures::future::join_all;
use pulse_kernel::{OrgId, Reason};
use pulse_proto::billing::v1::{
    BillingState, EntitlementSource, ListAuditEventsRequest, SetBillingStateRequest,
    SubscriptionState::{self, Active, Expired, Grace, Suspended, Trial},
};

use pulse_testkit::eventually;

use self::support::{Answer, Billing, WAIT, answer, signed, to};

const DAY: Duration = Duration::from_hours(24);

fn reason<T: std::fmt::Debug>(answer: Answer<T>) -> Reason {
    answer.unwrap_err().reason()
}

/// The fields that a refused request is refused for.
fn fields<T: std::fmt::Debug>(answer: Answer<T>) -> Vec<(String, Reason)> {
    let error = answer.unwrap_err();
    error.violations().iter().map(|violation| (violation.field.clone(), violation.reason)).collect()
}

async fn state_and_source(billing: &Billing) -> (SubscriptionState, EntitlementSource) {
    let found = billing.entitlements("acme").await.unwrap();
    (found.subscription_state(), found.source())
}

#[tokio::test]
async fn a_trial_starts_once_and_ends_on_its_day() {
    let billing = Billing::hosted().await;
    let first = billing.start_trial("acme", "first").await.unwrap();
    let state = first.billing_state.clone().unwrap();
    assert!(first.created && !state.etag.is_empty());
    assert_eq!((state.subscription_state(), state.plan_version.as_str()), (Trial, "trial"));
    let length = state.trial_ends_at.unwrap().seconds - state.trial_started_at.unwrap().seconds;
    assert_eq!(length, 14 * 86_400);

    billing.clock.advance(DAY);
    assert_eq!(billing.start_trial("acme", "first").await.unwrap(), first, "a repetition");
    let other = billing.start_trial("acme", "second").await.unwrap();
    assert_eq!((other.created, other.billing_state.as_ref()), (false, Some(&state)), "another attempt");
    assert_eq!(billing.stored("acme").await.unwrap(), state);
    assert_eq!(billing.audit("acme").await.unwrap().len(), 1);

    let entitlements = billing.entitlements("acme").await.unwrap();
    assert_eq!((entitlements.subscription_state(), entitlements.revision), (Trial, 1));
    assert_eq!(
        (entitlements.valid_until, entitlements.trial_ends_at),
        (state.trial_ends_at, state.trial_ends_at)
    );
    assert!(entitlements.capabilities.contains(&"alerting".to_owned()) && !entitlements.limits.is_empty());

    billing.clock.advance(13 * DAY);
    let entitlements = billing.entitlements("acme").await.unwrap();
    assert_eq!((entitlements.subscription_state(), entitlements.valid_until), (Expired, None));
    assert!(entitlements.capabilities.is_empty() && entitlements.limits.is_empty());
    assert!(entitlements.meters_enabled.is_empty());
    assert_eq!(billing.stored("acme").await.unwrap().subscription_state(), Trial, "what is stored stays");
}

#[tokio::test]
async fn of_many_attempts_at_once_one_makes_the_trial() {
    let billing = Billing::hosted().await;
    let keys: Vec<String> = (0..16).map(|n| format!("attempt-{n}")).collect();
    let started = join_all(keys.iter().map(|key| billing.start_trial("acme", key))).await;
    let started: Vec<_> = started.into_iter().map(Result::unwrap).collect();
    assert_eq!(started.iter().filter(|trial| trial.created).count(), 1);
    let etags: HashSet<_> = started.iter().map(|trial| &trial.billing_state.as_ref().unwrap().etag).collect();
    assert_eq!(etags.len(), 1);
    assert_eq!(billing.audit("acme").await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_settings_say_how_long_and_what_a_trial_is() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = folder.path().join("plans.toml");
    fs::write(&catalog, "[trial]\ncapabilities = ['peeking']\n[gold]\ncapabilities = ['digging']").unwrap();
    let flags = ["--hosted-mode", "true", "--trial-days", "3", "--grace-days", "0.5", "--plan-catalog"];
    let flags: Vec<&str> = flags.into_iter().chain([catalog.to_str().unwrap()]).collect();
    let billing = Billing::start(&flags).await;
    let trial = billing.start_trial("acme", "k").await.unwrap().billing_state.unwrap();
    assert_eq!(trial.trial_ends_at.unwrap().seconds - trial.trial_started_at.unwrap().seconds, 3 * 86_400);
    assert_eq!(trial.capabilities, ["peeking"]);
    let mut gold = to("acme", Grace);
    gold.billing_state.as_mut().unwrap().plan_version = "gold".into();
    let grace = billing.set("billing", gold).await.unwrap();
    assert_eq!(grace.capabilities, ["digging"]);
    assert_eq!(grace.grace_ends_at.unwrap().seconds - grace.updated_at.unwrap().seconds, 43_200);
    assert_eq!(state_and_source(&billing).await.0, Grace);
    billing.clock.advance(DAY / 2);
    assert_eq!(state_and_source(&billing).await.0, Expired);
}

#[tokio::test]
async fn a_tenant_without_a_state_is_on_the_trial_default() {
    let billing = Billing::hosted().await;
    let shown = billing.get("viewer", "acme").await.unwrap();
    assert_eq!((shown.subscription_state(), shown.etag.as_str()), (Trial, ""));
    assert_eq!((shown.org_id.as_str(), shown.updated_at, shown.trial_ends_at), ("acme", None, None));
    assert!(!shown.capabilities.is_empty());
    assert_eq!(reason(billing.stored("acme").await), Reason::OrgNotFound);
    assert_eq!(state_and_source(&billing).await, (Trial, EntitlementSource::Default));
    assert!(!billing.file("acme", "").exists(), "looking makes nothing");

    assert_eq!(reason(billing.set("billing", to("acme", Active)).await), Reason::OrgNotFound);
    let made = SetBillingStateRequest { allow_missing: true, ..to("acme", Active) };
    assert_eq!(billing.set("billing", made).await.unwrap().plan_version, "trial");
    assert_eq!(state_and_source(&billing).await, (Active, EntitlementSource::Cached));
    let event = billing.audit("acme").await.unwrap().remove(0);
    assert_eq!((event.action.as_str(), event.before), ("billing_state_overridden", None));
}

#[tokio::test]
async fn a_change_is_enforced_at_once_and_audited() {
    let billing = Billing::hosted().await;
    let trial = billing.start_trial("acme", "k").await.unwrap().billing_state.unwrap();
    assert_eq!(state_and_source(&billing).await, (Trial, EntitlementSource::Cached));
    let mut request = signed("billing", to("acme", Suspended));
    request.get_mut().reason = " chargeback ".into();
    request.metadata_mut().insert("x-request-id", "req-42".parse().unwrap());
    let set = answer(billing.admin().set_billing_state(request).await).unwrap().billing_state.unwrap();
    assert_ne!(set.etag, trial.etag);
    assert_eq!(billing.stored("acme").await.unwrap(), set);
    let entitlements = billing.entitlements("acme").await.unwrap();
    assert_eq!((entitlements.subscription_state(), entitlements.revision), (Suspended, 2));
    assert!(entitlements.capabilities.is_empty());

    let event = billing.audit("acme").await.unwrap().remove(0);
    assert_eq!((event.actor.as_str(), event.action.as_str()), ("billing", "billing_state_changed"));
    assert_eq!((event.reason.as_str(), event.request_id.as_str()), ("chargeback", "req-42"));
    assert_eq!((event.service.as_str(), event.sequence), ("billing-state", 2));
    let text = |fields: &Option<prost_types::Struct>, key: &str| {
        let value = fields.as_ref().unwrap().fields[key].kind.clone();
        match value {
            Some(prost_types::value::Kind::StringValue(text)) => text,
            other => format!("{other:?}"),
        }
    };
    assert_eq!(text(&event.before, "subscription_state"), "trial");
    assert_eq!(text(&event.after, "subscription_state"), "suspended");
    assert_eq!(text(&event.after, "change"), "suspended");
}

#[tokio::test]
async fn an_etag_protects_what_the_caller_has_not_seen() {
    let billing = Billing::hosted().await;
    let trial = billing.start_trial("acme", "k").await.unwrap().billing_state.unwrap();
    let seen = SetBillingStateRequest { etag: trial.etag.clone(), ..to("acme", Active) };
    let active = billing.set("billing", seen.clone()).await.unwrap();
    assert_eq!(reason(billing.set("billing", seen.clone()).await), Reason::EtagMismatch);
    assert_eq!(billing.stored("acme").await.unwrap(), active);

    let seen = SetBillingStateRequest { etag: active.etag, ..seen };
    let differently = |n| {
        let mut request = seen.clone();
        request.billing_state.as_mut().unwrap().limits.insert("users".into(), n);
        request
    };
    let sets = join_all((0..8).map(|n| billing.set("billing", differently(n)))).await;
    let (done, refused): (Vec<_>, Vec<_>) = sets.into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (1, 7));
    assert!(refused.into_iter().all(|set| reason(set) == Reason::EtagMismatch));

    let any = join_all((0..8).map(|_| billing.set("billing", to("acme", Expired)))).await;
    assert!(any.iter().all(Result::is_ok), "without an etag each replaces what is there: {any:?}");
    assert_eq!(billing.audit("acme").await.unwrap().len(), 1 + 1 + 1 + 8);
}

#[tokio::test]
async fn what_was_read_can_be_edited_and_sent_back() {
    let billing = Billing::hosted().await;
    let trial = billing.start_trial("acme", "k").await.unwrap().billing_state.unwrap();
    let mut edited = trial.clone();
    edited.capabilities.push("crystal_ball".into());
    edited.limits.insert("monitored_hosts".into(), -1);
    let request = SetBillingStateRequest {
        org_id: "acme".into(),
        billing_state: Some(edited),
        etag: trial.etag.clone(),
        ..Default::default()
    };
    let set = billing.set("billing", request).await.unwrap();
    assert_eq!((set.trial_started_at, set.trial_ends_at), (trial.trial_started_at, trial.trial_ends_at));
    assert_eq!(set.limits["monitored_hosts"], -1);
    let entitlements = billing.entitlements("acme").await.unwrap();
    assert!(entitlements.capabilities.contains(&"crystal_ball".to_owned()));
}

#[tokio::test]
async fn every_mistake_is_refused_and_named() {
    let billing = Billing::hosted().await;
    billing.start_trial("acme", "k").await.unwrap();
    let with = |edit: &dyn Fn(&mut BillingState)| {
        let mut request = to("acme", Active);
        edit(request.billing_state.as_mut().unwrap());
        request
    };
    let bad_time = prost_types::Timestamp { seconds: 0, nanos: -1 };
    let many: Vec<String> = (0..300).map(|n| format!("c{n}")).collect();
    let invalid = Reason::InvalidRequest;
    for (request, field, reason) in [
        (to("acme", SubscriptionState::Unspecified), "subscription_state", Reason::InvalidSubscriptionState),
        (with(&|s| s.subscription_state = 17), "subscription_state", Reason::InvalidSubscriptionState),
        (to("Acme/..", Active), "org_id", Reason::InvalidOrgId),
        (with(&|s| s.plan_version = "a plan".into()), "plan_version", invalid),
        (with(&|s| s.capabilities = vec![String::new()]), "capabilities", invalid),
        (with(&|s| s.capabilities = many.clone()), "capabilities", invalid),
        (with(&|s| s.meters_enabled = vec!["x".repeat(65)]), "meters_enabled", invalid),
        (with(&|s| s.limits = [("hosts".into(), -2)].into()), "limits", invalid),
        (with(&|s| s.limits = [("é".into(), 2)].into()), "limits", invalid),
        (with(&|s| s.trial_ends_at = Some(bad_time)), "trial_ends_at", invalid),
        (with(&|s| s.grace_ends_at = Some(bad_time)), "grace_ends_at", invalid),
        (SetBillingStateRequest { billing_state: None, ..to("acme", Active) }, "billing_state", invalid),
        (SetBillingStateRequest { reason: "x".repeat(501), ..to("acme", Active) }, "reason", invalid),
    ] {
        let refused = billing.set("billing", request).await;
        assert_eq!(fields(refused), [(field.to_owned(), reason)]);
    }
    let both = SetBillingStateRequest { reason: "\0".into(), ..to("", SubscriptionState::Unspecified) };
    assert_eq!(reason(billing.set("billing", both).await), Reason::InvalidRequest);

    assert_eq!(fields(billing.start_trial("acme", "").await), [("idempotency_key".to_owned(), invalid)]);
    for org_id in ["", "..", "a/b", "A", ".purged", ".lock"] {
        assert_eq!(reason(billing.start_trial(org_id, "k").await), Reason::InvalidOrgId, "{org_id:?}");
        assert_eq!(reason(billing.purge(org_id, "").await), Reason::InvalidOrgId);
        assert_eq!(reason(billing.stored(org_id).await), Reason::InvalidOrgId);
        assert_eq!(reason(billing.entitlements(org_id).await), Reason::InvalidOrgId);
        assert_eq!(reason(billing.get("viewer", org_id).await), Reason::InvalidOrgId);
    }
    assert_eq!(billing.audit("acme").await.unwrap().len(), 1, "nothing was changed");
}

#[tokio::test]
async fn the_audit_comes_in_pages() {
    let billing = Billing::hosted().await;
    billing.start_trial("acme", "k").await.unwrap();
    for _ in 0..6 {
        billing.set("billing", to("acme", Active)).await.unwrap();
    }
    let mut page_token = String::new();
    let mut sequences = Vec::new();
    loop {
        let request = ListAuditEventsRequest { org_id: "acme".into(), page_size: 3, page_token };
        let listed = billing.admin().list_audit_events(signed("viewer", request)).await;
        let page = answer(listed).unwrap();
        sequences.push(page.audit_events.iter().map(|event| event.sequence).collect::<Vec<_>>());
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(sequences, [vec![7, 6, 5], vec![4, 3, 2], vec![1]]);
    let bad = ListAuditEventsRequest { org_id: "acme".into(), page_token: "x".into(), ..Default::default() };
    let refused = answer(billing.admin().list_audit_events(signed("viewer", bad)).await);
    assert_eq!(fields(refused), [("page_token".to_owned(), Reason::InvalidRequest)]);
    assert_eq!(billing.audit("nobody").await.unwrap(), []);
}

#[tokio::test]
async fn an_edit_by_hand_takes_effect_by_itself_and_at_once_when_anyone_reads_it() {
    let billing = Billing::hosted().await;
    let trial = billing.start_trial("acme", "k").await.unwrap().billing_state.unwrap();
    assert_eq!(state_and_source(&billing).await, (Trial, EntitlementSource::Cached));
    billing.edit("acme", "\"trial\"", "\"suspended\"");
    eventually(WAIT, async || state_and_source(&billing).await.0 == Suspended).await;
    let shown = billing.get("viewer", "acme").await.unwrap();
    assert_ne!(shown.etag, trial.etag);
    let event = billing.audit("acme").await.unwrap().remove(0);
    assert_eq!(
        (event.action.as_str(), event.actor.as_str()),
        ("billing_state_edited_by_hand", "service:billing-state")
    );

    billing.edit("acme", "\"suspended\"", "\"active\"");
    assert_eq!(billing.get("viewer", "acme").await.unwrap().subscription_state(), Active);
    assert_eq!(state_and_source(&billing).await.0, Active);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named_kept_and_stood_in_for() {
    let billing = Billing::hosted().await;
    billing.start_trial("acme", "k").await.unwrap();
    billing.set("billing", to("acme", Active)).await.unwrap();
    let path = billing.file("acme", "billing.json");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, "{ \"org_id\": ").unwrap();
    billing.clock.advance(Duration::from_mins(1));
    assert_eq!(state_and_source(&billing).await, (Active, EntitlementSource::Stale));

    for error in [
        billing.get("viewer", "acme").await.unwrap_err(),
        billing.stored("acme").await.unwrap_err(),
        billing.set("billing", to("acme", Expired)).await.unwrap_err(),
        billing.start_trial("acme", "k").await.map(|_| BillingState::default()).unwrap_err(),
    ] {
        assert_eq!(error.reason(), Reason::StoredStateUnreadable);
        assert!(error.message().starts_with("orgs/acme/billing.json: EOF"), "{error}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "{ \"org_id\": ", "it is never overwritten");

    let billing = billing.restart().await;
    assert_eq!(state_and_source(&billing).await, (Active, EntitlementSource::Stale), "from the history");
    fs::write(&path, good).unwrap();
    billing.clock.advance(Duration::from_secs(1));
    assert_eq!(state_and_source(&billing).await, (Active, EntitlementSource::Fresh));
    billing.set("billing", to("acme", Expired)).await.unwrap();
    assert_eq!(state_and_source(&billing).await, (Expired, EntitlementSource::Cached));
}

#[tokio::test]
async fn a_locked_tenant_stays_locked_while_its_file_cannot_be_read() {
    let billing = Billing::hosted().await;
    billing.start_trial("acme", "k").await.unwrap();
    billing.set("billing", to("acme", Suspended)).await.unwrap();
    fs::write(billing.file("acme", "billing.json"), "").unwrap();
    let billing = billing.restart().await;
    for _ in 0..4 {
        assert_eq!(state_and_source(&billing).await, (Suspended, EntitlementSource::Stale));
        billing.clock.advance(10 * DAY);
    }
}

#[tokio::test]
async fn a_purge_is_final() {
    let billing = Billing::hosted().await;
    billing.start_trial("acme", "k").await.unwrap();
    billing.start_trial("acme-2", "k").await.unwrap();
    assert!(billing.purge("acme", "").await.unwrap());
    assert!(!billing.purge("acme", "").await.unwrap(), "there is nothing left to remove");
    assert!(!billing.file("acme", "").exists());

    for _ in 0..2 {
        assert_eq!(reason(billing.start_trial("acme", "k").await), Reason::OrgNotFound, "a late one");
        assert_eq!(reason(billing.entitlements("acme").await), Reason::OrgNotFound);
        assert_eq!(reason(billing.stored("acme").await), Reason::OrgNotFound);
        assert_eq!(reason(billing.get("viewer", "acme").await), Reason::OrgNotFound);
        let missing_ok = SetBillingStateRequest { allow_missing: true, ..to("acme", Active) };
        assert_eq!(reason(billing.set("billing", missing_ok).await), Reason::OrgNotFound);
        billing.clock.advance(DAY);
    }
    assert_eq!(billing.audit("acme").await.unwrap(), []);
    let billing = billing.restart().await;
    assert_eq!(reason(billing.entitlements("acme").await), Reason::OrgNotFound);
    billing.stored("acme-2").await.unwrap();
}

#[tokio::test]
async fn a_compensation_removes_only_what_its_own_attempt_made() {
    let billing = Billing::hosted().await;
    billing.start_trial("acme", "mine").await.unwrap();
    assert!(!billing.purge("acme", "theirs").await.unwrap());
    billing.stored("acme").await.unwrap();
    assert!(billing.purge("acme", "mine").await.unwrap());
    assert_eq!(reason(billing.stored("acme").await), Reason::OrgNotFound);

    assert!(!billing.purge("never-started", "k").await.unwrap());
    assert_eq!(reason(billing.start_trial("never-started", "k").await), Reason::OrgNotFound, "too late");
}

#[tokio::test]
async fn the_default_organization_is_never_purged() {
    let billing = Billing::hosted().await;
    billing.start_trial(OrgId::DEFAULT, "k").await.unwrap();
    for key in ["", "k"] {
        assert_eq!(reason(billing.purge(OrgId::DEFAULT, key).await), Reason::DefaultOrgImmutable);
    }
    billing.stored(OrgId::DEFAULT).await.unwrap();
}
