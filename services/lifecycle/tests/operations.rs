//! `LifecycleAdminService`: what operators can do, and what not.

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::time::Duration;

use futures::future::join_all;
use jiff::SignedDuration;
use pulse_kernel::{ErrorKind, Reason};
use pulse_proto::lifecycle::v1::{
    ListAuditEventsRequest, ListOrganizationsRequest, OrganizationStatus, RestoreOrganizationRequest,
    SoftDeleteOrganizationRequest, SuspendOrganizationRequest, UnsuspendOrganizationRequest,
};
use pulse_testkit::eventually;

use self::support::{Lifecycle, WAIT, answer, request, signed, status};

#[tokio::test]
async fn every_call_needs_an_operator_of_the_right_role() {
    let lifecycle = Lifecycle::hosted().await;
    for org_id in ["suspend", "unsuspend", "delete", "restore"] {
        lifecycle.active(org_id).await;
    }
    lifecycle.suspend("admin", "unsuspend", "").await.unwrap();
    lifecycle.delete("admin", "restore", None).await.unwrap();
    // Everyone tries; those who may come last, as a change can be made only once.
    for (operator, reads, supports, administers) in [
        ("", false, false, false),
        ("nobody", false, false, false),
        ("viewer", true, false, false),
        ("billing", true, false, false),
        ("support", true, true, false),
        ("admin", true, false, true),
    ] {
        let refusal = if ["", "nobody"].contains(&operator) {
            (Reason::Unauthenticated, ErrorKind::Unauthenticated)
        } else {
            (Reason::RoleRequired, ErrorKind::PermissionDenied)
        };
        let audit = ListAuditEventsRequest { org_id: "suspend".into(), ..Default::default() };
        let outcomes = [
            ("get", reads, lifecycle.look(operator, "suspend").await.map(|_| ())),
            ("list", reads, lifecycle.list(operator, ListOrganizationsRequest::default()).await.map(|_| ())),
            ("audit", reads, lifecycle.audit(operator, audit).await.map(|_| ())),
            ("suspend", supports, lifecycle.suspend(operator, "suspend", "").await.map(|_| ())),
            ("unsuspend", supports, lifecycle.unsuspend(operator, "unsuspend").await.map(|_| ())),
            ("delete", administers, lifecycle.delete(operator, "delete", None).await.map(|_| ())),
            ("restore", administers, lifecycle.restore(operator, "restore").await.map(|_| ())),
        ];
        for (what, may, outcome) in outcomes {
            match outcome {
                Ok(()) => assert!(may, "{operator:?} may not {what}"),
                // An admin may suspend too, but finds it done.
                Err(error) if operator == "admin" && !may => {
                    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{what}");
                }
                Err(error) => {
                    assert!(!may, "{operator:?} may {what}: {error}");
                    assert_eq!((error.reason(), error.kind()), refusal, "{operator:?} {what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_tenant_is_suspended_and_let_back_in() {
    let lifecycle = Lifecycle::hosted().await;
    lifecycle.active("acme").await;
    lifecycle.clock.advance(Duration::from_mins(1));
    let suspended = lifecycle.suspend("support", "acme", " unpaid invoice ").await.unwrap();
    assert_eq!(status(&suspended), OrganizationStatus::Suspended);
    assert_eq!(suspended.suspend_reason, "unpaid invoice");
    assert_eq!(suspended.suspended_at.unwrap().seconds, 1_893_456_060);
    assert_eq!(lifecycle.get("acme").await.unwrap(), suspended, "internal services see the same");
    let again = lifecycle.suspend("support", "acme", "").await.unwrap_err();
    assert_eq!(again.reason(), Reason::AlreadySuspended);

    let active = lifecycle.unsuspend("support", "acme").await.unwrap();
    assert_eq!(status(&active), OrganizationStatus::Active);
    assert_eq!((active.suspended_at, active.suspend_reason.as_str()), (None, ""));
    assert_eq!(lifecycle.unsuspend("support", "acme").await.unwrap_err().reason(), Reason::NotSuspended);
}

#[tokio::test]
async fn a_deleted_tenant_is_restored_to_the_status_it_had() {
    let lifecycle = Lifecycle::hosted().await;
    lifecycle.active("active").await;
    lifecycle.active("suspended").await;
    let suspended = lifecycle.suspend("support", "suspended", "unpaid").await.unwrap();

    let deleted = lifecycle.delete("admin", "active", None).await.unwrap();
    assert_eq!(status(&deleted), OrganizationStatus::PendingDeletion);
    assert_eq!(deleted.retention_days, Some(30.0));
    let days = |organization: &pulse_proto::lifecycle::v1::Organization| {
        organization.purge_after.unwrap().seconds - organization.deletion_requested_at.unwrap().seconds
    };
    assert_eq!(days(&deleted), 30 * 86_400);
    let deleted = lifecycle.delete("admin", "suspended", Some(0.25)).await.unwrap();
    assert_eq!(days(&deleted), 86_400 / 4);
    assert_eq!(deleted.suspend_reason, "unpaid", "why it was suspended is not forgotten");

    for org_id in ["active", "suspended"] {
        let again = lifecycle.delete("admin", org_id, None).await.unwrap_err();
        assert_eq!(again.reason(), Reason::AlreadyPendingDeletion);
        let suspend = lifecycle.suspend("support", org_id, "").await.unwrap_err();
        assert_eq!(suspend.reason(), Reason::PendingDeletion);
        assert_eq!(lifecycle.unsuspend("support", org_id).await.unwrap_err().reason(), Reason::NotSuspended);
    }
    let restored = lifecycle.restore("admin", "active").await.unwrap();
    assert_eq!(status(&restored), OrganizationStatus::Active);
    assert_eq!((restored.purge_after, restored.retention_days), (None, None));
    let restored = lifecycle.restore("admin", "suspended").await.unwrap();
    assert_eq!(status(&restored), OrganizationStatus::Suspended);
    assert_eq!(restored.suspended_at, suspended.suspended_at);
    for org_id in ["active", "suspended"] {
        let again = lifecycle.restore("admin", org_id).await.unwrap_err();
        assert_eq!(again.reason(), Reason::NotPendingDeletion);
    }
}

#[tokio::test]
async fn the_default_organization_is_out_of_reach() {
    let lifecycle = Lifecycle::hosted().await;
    let before = lifecycle.look("viewer", "default").await.unwrap();
    assert_eq!((before.owner_email.as_str(), before.owner_user_id.as_str()), ("", ""));
    let suspend = lifecycle.suspend("support", "default", "").await.unwrap_err();
    assert_eq!(suspend.reason(), Reason::DefaultOrgImmutable);
    let delete = lifecycle.delete("admin", "default", None).await.unwrap_err();
    assert_eq!(delete.reason(), Reason::DefaultOrgImmutable);
    assert_eq!(lifecycle.look("viewer", "default").await.unwrap(), before);
}

#[tokio::test]
async fn what_is_being_made_is_not_touched() {
    let lifecycle = Lifecycle::hosted().await;
    lifecycle.create(request("new")).await.unwrap();
    let suspend = lifecycle.suspend("support", "new", "").await.unwrap_err();
    let delete = lifecycle.delete("admin", "new", None).await.unwrap_err();
    assert_eq!((suspend.reason(), delete.reason()), (Reason::OrgProvisioning, Reason::OrgProvisioning));
}

#[tokio::test]
async fn what_is_asked_for_must_make_sense() {
    let lifecycle = Lifecycle::hosted().await;
    let active = lifecycle.active("acme").await;
    for days in [0.0, -1.0, 3650.5, f64::NAN, f64::INFINITY] {
        let error = lifecycle.delete("admin", "acme", Some(days)).await.unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidRetentionDays, "{days}");
        assert_eq!(error.violations()[0].field, "retention_days");
    }
    let error = lifecycle.suspend("support", "acme", &"x".repeat(501)).await.unwrap_err();
    assert_eq!((error.reason(), error.violations()[0].field.as_str()), (Reason::InvalidRequest, "reason"));
    let error = lifecycle.suspend("support", "No Id", "").await.unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidOrgId);
    for org_id in ["nowhere", "0198c0de-0000-7000-8000-000000000001"] {
        let error = lifecycle.suspend("support", org_id, "").await.unwrap_err();
        assert_eq!((error.reason(), error.kind()), (Reason::OrgNotFound, ErrorKind::NotFound));
    }
    assert_eq!(lifecycle.look("viewer", "acme").await.unwrap(), active);
}

#[tokio::test]
async fn a_stale_etag_changes_nothing() {
    let lifecycle = Lifecycle::hosted().await;
    let seen = lifecycle.active("acme").await;
    let suspended = lifecycle.suspend("support", "acme", "").await.unwrap();
    let org_id = || "acme".to_owned();
    let mut admin = lifecycle.admin();
    for stale in [seen.etag, "nonsense".to_owned()] {
        let suspend =
            SuspendOrganizationRequest { org_id: org_id(), etag: stale.clone(), ..Default::default() };
        let unsuspend =
            UnsuspendOrganizationRequest { org_id: org_id(), etag: stale.clone(), ..Default::default() };
        let delete =
            SoftDeleteOrganizationRequest { org_id: org_id(), etag: stale.clone(), ..Default::default() };
        let restore = RestoreOrganizationRequest { org_id: org_id(), etag: stale, ..Default::default() };
        for error in [
            answer(admin.suspend_organization(signed("admin", suspend)).await).unwrap_err(),
            answer(admin.unsuspend_organization(signed("admin", unsuspend)).await).unwrap_err(),
            answer(admin.soft_delete_organization(signed("admin", delete)).await).unwrap_err(),
            answer(admin.restore_organization(signed("admin", restore)).await).unwrap_err(),
        ] {
            assert_eq!((error.reason(), error.kind()), (Reason::EtagMismatch, ErrorKind::Aborted));
        }
    }
    assert_eq!(lifecycle.get("acme").await.unwrap(), suspended);
    let current =
        UnsuspendOrganizationRequest { org_id: org_id(), etag: suspended.etag, reason: "paid".into() };
    answer(admin.unsuspend_organization(signed("admin", current)).await).unwrap();
}

#[tokio::test]
async fn of_many_who_decide_on_the_same_etag_one_succeeds() {
    let lifecycle = Lifecycle::hosted().await;
    let seen = lifecycle.active("acme").await;
    let outcomes = join_all((0..10).map(|_| {
        let request = SuspendOrganizationRequest {
            org_id: "acme".into(),
            etag: seen.etag.clone(),
            ..Default::default()
        };
        let mut admin = lifecycle.admin();
        async move { answer(admin.suspend_organization(signed("support", request)).await) }
    }))
    .await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for refused in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(refused.reason(), Reason::EtagMismatch);
    }
}

#[tokio::test]
async fn organizations_are_listed_by_id_in_pages_and_by_status() {
    let lifecycle = Lifecycle::hosted().await;
    for org_id in ["e", "a", "c", "b", "d"] {
        lifecycle.active(org_id).await;
    }
    lifecycle.suspend("support", "b", "").await.unwrap();
    let page = |status: OrganizationStatus, page_token: String| ListOrganizationsRequest {
        status: status.into(),
        page_size: 2,
        page_token,
    };
    for (wanted, expected) in [
        (OrganizationStatus::Unspecified, vec!["a", "b", "c", "d", "default", "e"]),
        (OrganizationStatus::Active, vec!["a", "c", "d", "default", "e"]),
        (OrganizationStatus::Suspended, vec!["b"]),
        (OrganizationStatus::Purging, vec![]),
    ] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let (organizations, next) = lifecycle.list("viewer", page(wanted, token)).await.unwrap();
            assert!(organizations.len() <= 2);
            seen.extend(organizations.into_iter().map(|organization| organization.id));
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen, expected, "{wanted:?}");
    }
    let (_, token) =
        lifecycle.list("viewer", page(OrganizationStatus::Unspecified, String::new())).await.unwrap();
    let mut unknown = page(OrganizationStatus::Unspecified, String::new());
    unknown.status = 99;
    let negative = ListOrganizationsRequest { page_size: -1, ..Default::default() };
    for (bad, field) in [
        (page(OrganizationStatus::Active, token), "page_token"),
        (page(OrganizationStatus::Active, "garbage".into()), "page_token"),
        (unknown, "status"),
        (negative, "page_size"),
    ] {
        let error = lifecycle.list("viewer", bad).await.unwrap_err();
        assert_eq!((error.reason(), error.violations()[0].field.as_str()), (Reason::InvalidRequest, field));
    }
}

#[tokio::test]
async fn every_change_has_one_record_of_who_did_what_and_why() {
    let lifecycle = Lifecycle::hosted().await;
    lifecycle.active("acme").await;
    let mut suspend = signed(
        "support",
        SuspendOrganizationRequest { org_id: "acme".into(), reason: "unpaid".into(), etag: String::new() },
    );
    suspend.metadata_mut().insert("x-request-id", "req-42".parse().unwrap());
    // What a caller says about itself is not who it is.
    suspend.metadata_mut().insert("x-actor", "mallory".parse().unwrap());
    answer(lifecycle.admin().suspend_organization(suspend).await).unwrap();
    lifecycle.suspend("support", "acme", "again").await.unwrap_err();
    lifecycle.delete("admin", "acme", Some(7.0)).await.unwrap();

    let all = ListAuditEventsRequest { org_id: "acme".into(), ..Default::default() };
    let (events, next) = lifecycle.audit("viewer", all).await.unwrap();
    assert_eq!(next, "");
    let seen: Vec<_> =
        events.iter().map(|event| (event.sequence, event.actor.as_str(), event.action.as_str())).collect();
    let expected = [
        (4, "admin", "organization_deleted"),
        (3, "support", "organization_suspended"),
        (2, "service:provisioner", "organization_activated"),
        (1, "service:provisioner", "organization_created"),
    ];
    assert_eq!(seen, expected);
    let suspended = &events[1];
    assert_eq!((suspended.reason.as_str(), suspended.request_id.as_str()), ("unpaid", "req-42"));
    assert_eq!((suspended.service.as_str(), suspended.org_id.as_str()), ("lifecycle", "acme"));
    let text = format!("{:?} -> {:?}", suspended.before, suspended.after);
    assert!(text.contains("active") && text.contains("suspend_reason"), "{text}");
    assert_eq!(events[3].previous_hash, "");
    assert!(events.windows(2).all(|pair| pair[0].previous_hash == pair[1].hash), "a chain");

    let page = ListAuditEventsRequest { org_id: "acme".into(), page_size: 3, ..Default::default() };
    let (first, token) = lifecycle.audit("viewer", page.clone()).await.unwrap();
    let (second, end) =
        lifecycle.audit("viewer", ListAuditEventsRequest { page_token: token, ..page }).await.unwrap();
    assert_eq!([first, second].concat(), events);
    assert_eq!(end, "");
    let nowhere = ListAuditEventsRequest { org_id: "nowhere".into(), ..Default::default() };
    assert_eq!(lifecycle.audit("viewer", nowhere).await.unwrap().0, []);
}

#[tokio::test]
async fn the_records_of_a_purged_tenant_stay_without_personal_data() {
    let lifecycle = Lifecycle::start(&["--hosted-mode", "true", "--reaper-interval", "5ms"]).await;
    lifecycle.active("acme").await;
    lifecycle.suspend("support", "acme", "Ann Example did not pay").await.unwrap();
    lifecycle.delete("admin", "acme", Some(1.0)).await.unwrap();
    lifecycle.clock.advance(SignedDuration::from_hours(24));
    eventually(WAIT, async || lifecycle.purging().await == ["acme"]).await;
    lifecycle.finish_purge("acme").await.unwrap();

    let all = ListAuditEventsRequest { org_id: "acme".into(), ..Default::default() };
    let (events, _) = lifecycle.audit("viewer", all).await.unwrap();
    let actions: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
    let expected = [
        "organization_purged",
        "organization_purge_begun",
        "organization_deleted",
        "organization_suspended",
        "organization_activated",
        "organization_created",
    ];
    assert_eq!(actions, expected);
    assert_eq!(events[1].actor, "service:lifecycle");
    let text = format!("{events:?}");
    for personal in ["@", "Ann", "Acme", "0198c0de"] {
        assert!(!text.contains(personal), "{personal} in {text}");
    }

    // Nor is it in any file, once the database is closed.
    let (directory, _) = lifecycle.stop().await;
    let bytes = std::fs::read(directory.path().join("lifecycle.db")).unwrap();
    let holds = |needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
    assert!(holds("organization_purged"), "the records themselves are there");
    for personal in ["acme@", "Ann Example"] {
        assert!(!holds(personal), "{personal} in the database file");
    }
}
