//! `OrganizationService`: what the provisioner's sagas rely on.

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::time::Duration;

use futures::future::join_all;
use jiff::SignedDuration;
use pulse_kernel::Reason;
use pulse_proto::lifecycle::v1::{CreateOrganizationRequest, ListPurgingRequest, OrganizationStatus};
use pulse_testkit::eventually;

use self::support::{Lifecycle, WAIT, answer, request, status};

/// A reaper that looks all the time.
const EAGER: [&str; 4] = ["--hosted-mode", "true", "--reaper-interval", "5ms"];

#[tokio::test]
async fn an_organization_is_made_activated_and_found() {
    let lifecycle = Lifecycle::start(&[]).await;
    let made = lifecycle.create(request("acme")).await.unwrap();
    assert_eq!(status(&made), OrganizationStatus::Provisioning);
    assert_eq!((made.id.as_str(), made.display_name.as_str()), ("acme", "Acme, Inc."));
    assert_eq!(made.owner_email, "acme@Example.com", "as typed");
    assert_eq!(made.created_at.unwrap().seconds, 1_893_456_000);

    lifecycle.clock.advance(Duration::from_secs(1));
    let active = lifecycle.activate("acme").await.unwrap();
    assert_eq!(status(&active), OrganizationStatus::Active);
    assert_ne!(active.etag, made.etag);
    assert_eq!(active.updated_at.unwrap().seconds, 1_893_456_001);
    assert_eq!(lifecycle.get("acme").await.unwrap(), active);
    assert_eq!(lifecycle.activate("acme").await.unwrap(), active, "again changes nothing");
}

#[tokio::test]
async fn a_creation_may_be_repeated_but_not_with_another_content() {
    let lifecycle = Lifecycle::start(&[]).await;
    let made = lifecycle.create(request("acme")).await.unwrap();
    assert_eq!(lifecycle.create(request("acme")).await.unwrap(), made);
    let active = lifecycle.activate("acme").await.unwrap();
    assert_eq!(lifecycle.create(request("acme")).await.unwrap(), active, "also after the next step");

    let others = [
        CreateOrganizationRequest { owner_email: "eve@example.com".into(), ..request("acme") },
        CreateOrganizationRequest { display_name: "Other".into(), ..request("acme") },
        CreateOrganizationRequest {
            owner_user_id: "0198c0de-0000-7000-8000-000000000002".into(),
            ..request("acme")
        },
        CreateOrganizationRequest { owner_email: "eve@example.com".into(), ..request("default") },
    ];
    for other in others {
        assert_eq!(lifecycle.create(other).await.unwrap_err().reason(), Reason::OrgIdTaken);
    }
    assert_eq!(lifecycle.get("acme").await.unwrap(), active);
}

#[tokio::test]
async fn an_email_has_one_organization_however_it_is_typed_and_whoever_is_quicker() {
    let lifecycle = Lifecycle::start(&[]).await;
    let attempts = (0..20).map(|number| {
        let owner_email = if number % 2 == 0 { "ann@bücher.example" } else { "ANN@xn--bcher-kva.example" };
        lifecycle.create(CreateOrganizationRequest {
            owner_email: owner_email.into(),
            ..request(&format!("org-{number}"))
        })
    });
    let outcomes = join_all(attempts).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for refused in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(refused.reason(), Reason::EmailTaken);
    }
}

#[tokio::test]
async fn what_is_not_valid_is_named_field_by_field() {
    let lifecycle = Lifecycle::start(&[]).await;
    let bad = CreateOrganizationRequest {
        org_id: "../etc".into(),
        owner_user_id: "ann".into(),
        owner_email: "ann".into(),
        display_name: "a/b".into(),
    };
    let error = lifecycle.create(bad).await.unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidRequest);
    let fields: Vec<_> = error.violations().iter().map(|one| (one.field.as_str(), one.reason)).collect();
    let expected = [
        ("org_id", Reason::InvalidOrgId),
        ("owner_user_id", Reason::InvalidRequest),
        ("owner_email", Reason::InvalidEmail),
        ("display_name", Reason::InvalidOrgName),
    ];
    assert_eq!(fields, expected);
    for refused in [
        lifecycle.get("A").await.map(|_| ()),
        lifecycle.activate("").await.map(|_| ()),
        lifecycle.abandon("..").await,
        lifecycle.finish_purge("a b").await,
    ] {
        assert_eq!(refused.unwrap_err().reason(), Reason::InvalidOrgId);
    }
}

#[tokio::test]
async fn an_abandoned_creation_stays_abandoned_also_when_it_arrives_late() {
    let lifecycle = Lifecycle::start(&[]).await;
    lifecycle.create(request("early")).await.unwrap();
    for org_id in ["early", "late"] {
        lifecycle.abandon(org_id).await.unwrap();
        lifecycle.abandon(org_id).await.unwrap();
        assert_eq!(lifecycle.get(org_id).await.unwrap_err().reason(), Reason::OrgNotFound);
        assert_eq!(lifecycle.activate(org_id).await.unwrap_err().reason(), Reason::OrgNotFound);
        assert_eq!(lifecycle.create(request(org_id)).await.unwrap_err().reason(), Reason::OrgIdTaken);
        let again = CreateOrganizationRequest { org_id: format!("{org_id}-2"), ..request(org_id) };
        lifecycle.create(again).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_past_provisioning_is_not_abandoned() {
    let lifecycle = Lifecycle::hosted().await;
    let active = lifecycle.active("acme").await;
    for org_id in ["acme", "default"] {
        assert_eq!(lifecycle.abandon(org_id).await.unwrap_err().reason(), Reason::OrgNotProvisioning);
    }
    assert_eq!(lifecycle.get("acme").await.unwrap(), active);
    lifecycle.delete("admin", "acme", None).await.unwrap();
    assert_eq!(lifecycle.abandon("acme").await.unwrap_err().reason(), Reason::OrgNotProvisioning);
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let lifecycle = Lifecycle::start(&[]).await;
    for refused in [
        lifecycle.get("nowhere").await.map(|_| ()),
        lifecycle.activate("nowhere").await.map(|_| ()),
        lifecycle.finish_purge("nowhere").await,
    ] {
        assert_eq!(refused.unwrap_err().reason(), Reason::OrgNotFound);
    }
    assert_eq!(status(&lifecycle.get("default").await.unwrap()), OrganizationStatus::Active);
}

#[tokio::test]
async fn a_tenant_past_its_retention_is_purged_step_by_step() {
    let lifecycle = Lifecycle::start(&EAGER).await;
    lifecycle.active("acme").await;
    lifecycle.active("other").await;
    lifecycle.delete("admin", "acme", Some(0.5)).await.unwrap();
    lifecycle.delete("admin", "other", Some(1.0)).await.unwrap();
    let early = lifecycle.finish_purge("acme").await.unwrap_err();
    assert_eq!(early.reason(), Reason::NotPendingDeletion);

    lifecycle.clock.advance(SignedDuration::from_hours(12));
    eventually(WAIT, async || lifecycle.purging().await == ["acme"]).await;
    let purging = lifecycle.get("acme").await.unwrap();
    assert_eq!(status(&purging), OrganizationStatus::Purging);
    assert_eq!(status(&lifecycle.get("other").await.unwrap()), OrganizationStatus::PendingDeletion);
    let too_late = lifecycle.restore("admin", "acme").await.unwrap_err();
    assert_eq!(too_late.reason(), Reason::NotPendingDeletion);
    assert_eq!(lifecycle.activate("acme").await.unwrap(), purging, "a late repetition changes nothing");

    // The email is about to be free, but is not yet.
    let successor = CreateOrganizationRequest { org_id: "acme-2".into(), ..request("acme") };
    let busy = lifecycle.create(successor.clone()).await.unwrap_err();
    assert_eq!(busy.reason(), Reason::Unavailable);
    assert!(busy.retry_delay().is_some());

    for _ in 0..2 {
        lifecycle.finish_purge("acme").await.unwrap();
    }
    assert_eq!(lifecycle.purging().await, [""; 0]);
    assert_eq!(lifecycle.get("acme").await.unwrap_err().reason(), Reason::OrgNotFound);
    assert_eq!(lifecycle.create(request("acme")).await.unwrap_err().reason(), Reason::OrgIdTaken);
    assert_eq!(lifecycle.abandon("acme").await, Ok(()), "there is nothing to take back");
    lifecycle.create(successor).await.unwrap();
}

#[tokio::test]
async fn only_a_purge_that_began_is_finished() {
    let lifecycle = Lifecycle::hosted().await;
    lifecycle.active("acme").await;
    lifecycle.create(request("new")).await.unwrap();
    for org_id in ["acme", "new", "default"] {
        let refused = lifecycle.finish_purge(org_id).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::NotPendingDeletion, "{org_id}");
    }
    lifecycle.abandon("new").await.unwrap();
    assert_eq!(lifecycle.finish_purge("new").await.unwrap_err().reason(), Reason::OrgNotFound);
}

#[tokio::test]
async fn purges_are_listed_in_pages_oldest_first() {
    let lifecycle = Lifecycle::start(&EAGER).await;
    for (org_id, days) in [("c", 1.0), ("a", 2.0), ("b", 3.0)] {
        lifecycle.active(org_id).await;
        lifecycle.delete("admin", org_id, Some(days)).await.unwrap();
    }
    for begun in 1..=3 {
        lifecycle.clock.advance(SignedDuration::from_hours(24));
        eventually(WAIT, async || lifecycle.purging().await.len() == begun).await;
    }
    let page = |page_token: String| ListPurgingRequest { page_size: 2, page_token };
    let first = answer(lifecycle.internal().list_purging(page(String::new())).await).unwrap();
    assert_eq!(first.org_ids, ["c", "a"]);
    let second = answer(lifecycle.internal().list_purging(page(first.next_page_token)).await).unwrap();
    assert_eq!((second.org_ids, second.next_page_token), (vec!["b".to_owned()], String::new()));
    let garbage = answer(lifecycle.internal().list_purging(page("garbage".into())).await).unwrap_err();
    assert_eq!(garbage.violations()[0].field, "page_token");
}

#[tokio::test]
async fn a_dry_run_purges_nothing() {
    let lifecycle = Lifecycle::start(&[&EAGER[..], &["--reaper-dry-run", "true"]].concat()).await;
    lifecycle.active("acme").await;
    lifecycle.delete("admin", "acme", Some(1.0)).await.unwrap();
    lifecycle.clock.advance(SignedDuration::from_hours(48));
    eventually(WAIT, async || {
        pulse_runtime::telemetry::metrics_text().unwrap().contains("pulse_hosted_reaper_due 1")
    })
    .await;
    assert_eq!(lifecycle.purging().await, [""; 0]);
    assert_eq!(status(&lifecycle.restore("admin", "acme").await.unwrap()), OrganizationStatus::Active);
}

#[tokio::test]
async fn everything_is_there_again_after_a_restart() {
    let lifecycle = Lifecycle::hosted().await;
    let active = lifecycle.active("acme").await;
    let made = lifecycle.create(request("new")).await.unwrap();
    lifecycle.abandon("gone").await.unwrap();
    let (directory, clock) = lifecycle.stop().await;
    let lifecycle = Lifecycle::start_in(directory, clock, &["--hosted-mode", "true"]).await;
    assert_eq!(lifecycle.get("acme").await.unwrap(), active);
    assert_eq!(lifecycle.get("new").await.unwrap(), made);
    assert_eq!(lifecycle.create(request("gone")).await.unwrap_err().reason(), Reason::OrgIdTaken);
}
