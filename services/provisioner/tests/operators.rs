//! `ProvisionerAdminService`: what operators see and set going, and what each of them may.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::time::Duration;

use pulse_kernel::{Clock as _, Reason, SystemClock};
use pulse_proto::provisioner::v1::{
    AbandonProvisioningRequest, AbandonProvisioningResponse, GetProvisioningRequest, ListAuditEventsRequest,
    ListProvisioningsRequest, ProvisionStatus, Provisioning, ProvisioningKind, ProvisioningState,
    RetryProvisioningRequest, TenantRole,
};
use pulse_provisioner::{
    saga::{Lease, Progress, Saga, State, Step},
    store::{Advance, Effect},
};
use pulse_testkit::eventually;

use self::support::{Answer, PASSWORD, Plane, Provisioner, WAIT, answer, signed, stuck};

async fn retry(provisioner: &Provisioner, operator: &str, org_id: &str) -> Answer<Provisioning> {
    let request =
        RetryProvisioningRequest { org_id: org_id.into(), reason: "repaired".into(), ..Default::default() };
    let retried = answer(provisioner.admin().retry_provisioning(signed(operator, request)).await)?;
    Ok(retried.provisioning.unwrap())
}

async fn abandon(
    provisioner: &Provisioner,
    operator: &str,
    org_id: &str,
) -> Answer<AbandonProvisioningResponse> {
    let request = AbandonProvisioningRequest { org_id: org_id.into(), reason: "given up".into() };
    answer(provisioner.admin().abandon_provisioning(signed(operator, request)).await)
}

#[tokio::test]
async fn every_call_needs_a_token_and_its_role() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let ann = provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    let roles = [TenantRole::Owner];
    let list = async |operator| {
        let request = signed(operator, ListProvisioningsRequest::default());
        answer(provisioner.admin().list_provisionings(request).await).map(drop)
    };
    let get = async |operator| {
        let request = GetProvisioningRequest { org_id: ann.org_id.clone(), ..Default::default() };
        answer(provisioner.admin().get_provisioning(signed(operator, request)).await).map(drop)
    };
    let audit = async |operator| {
        let request = ListAuditEventsRequest { org_id: ann.org_id.clone(), ..Default::default() };
        answer(provisioner.admin().list_audit_events(signed(operator, request)).await).map(drop)
    };
    for operator in ["", "viewer", "support", "billing", "admin"] {
        let outcomes = [
            ("viewer", list(operator).await),
            ("viewer", get(operator).await),
            ("viewer", audit(operator).await),
            ("support", retry(&provisioner, operator, &ann.org_id).await.map(drop)),
            ("admin", abandon(&provisioner, operator, &ann.org_id).await.map(drop)),
            ("admin", provisioner.set_roles(operator, &ann.org_id, &ann.user_id, &roles).await.map(drop)),
        ];
        for (number, (needed, outcome)) in outcomes.into_iter().enumerate() {
            let reason = outcome.err().map(|error| error.reason());
            let refused = matches!(reason, Some(Reason::Unauthenticated | Reason::RoleRequired));
            let may = match operator {
                "" => false,
                "admin" => true,
                operator => needed == operator || needed == "viewer",
            };
            assert_eq!(!refused, may, "call {number} by {operator:?}: {reason:?}");
            assert_eq!(reason == Some(Reason::Unauthenticated), operator.is_empty());
        }
    }
}

#[tokio::test]
async fn a_stuck_saga_is_seen_with_step_and_reason_and_goes_on_when_told() {
    let plane = Plane::start().await;
    let store = Provisioner::open(plane.directory.path()).await;
    let org_id = stuck(&*store, "ann@example.com").await;
    let provisioner = Provisioner::start_on(
        store,
        plane.directory.path(),
        plane.lifecycle_addr,
        plane.billing_addr,
        &["--hosted-mode", "true"],
    )
    .await;
    let query = ListProvisioningsRequest { state: ProvisioningState::Stuck.into(), ..Default::default() };
    let listed = answer(provisioner.admin().list_provisionings(signed("viewer", query)).await).unwrap();
    let [saga] = listed.provisionings.as_slice() else { panic!("{listed:?}") };
    assert_eq!((saga.org_id.as_str(), saga.step.as_str()), (org_id.as_str(), "start_trial"));
    assert_eq!(saga.reason, "STORED_STATE_UNREADABLE: unreadable");
    assert_eq!((saga.kind(), saga.next_attempt_at), (ProvisioningKind::Provision, None));

    let retried = retry(&provisioner, "support", &org_id).await.unwrap();
    assert_eq!(retried.state(), ProvisioningState::Compensating);
    eventually(WAIT, async || {
        provisioner.provisioning(&org_id).await.unwrap().state() == ProvisioningState::Undone
    })
    .await;
    let events = provisioner.audit(&org_id).await;
    let seen: Vec<_> = events.iter().map(|event| (event.action.as_str(), event.actor.as_str())).collect();
    assert_eq!(
        seen,
        [("provisioning_undone", "service:provisioner"), ("provisioning_retried", "support")],
        "newest first"
    );
    assert_eq!(events[1].reason, "repaired");
    let again = retry(&provisioner, "support", &org_id).await.unwrap_err();
    assert_eq!(again.reason(), Reason::NotStuck);
    let unknown = retry(&provisioner, "support", "no-such-tenant").await.unwrap_err();
    assert_eq!(unknown.reason(), Reason::ProvisioningNotFound);
}

#[tokio::test]
async fn what_is_abandoned_frees_its_address_and_names_what_may_be_left() {
    let plane = Plane::start().await;
    let store = Provisioner::open(plane.directory.path()).await;
    let org_id = stuck(&*store, "ann@example.com").await;
    let provisioner = Provisioner::start_on(
        store,
        plane.directory.path(),
        plane.lifecycle_addr,
        plane.billing_addr,
        &["--hosted-mode", "true"],
    )
    .await;
    abandon(&provisioner, "admin", &org_id).await.unwrap();
    eventually(WAIT, async || {
        provisioner.provisioning(&org_id).await.unwrap().state() == ProvisioningState::Undone
    })
    .await;
    let events = provisioner.audit(&org_id).await;
    let [undone, abandoned] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(undone.action, "provisioning_undone");
    assert_eq!(
        (abandoned.action.as_str(), abandoned.reason.as_str()),
        ("provisioning_abandoned", "given up")
    );
    let left = format!("{:?}", abandoned.after);
    assert!(left.contains("start_trial") && !left.contains("create_organization"), "{left}");
    assert!(!format!("{events:?}").contains("ann@") && !format!("{events:?}").contains("argon2"));

    let made = provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    assert_eq!(made.status(), ProvisionStatus::Created);
    let again = abandon(&provisioner, "admin", &made.org_id).await.unwrap_err();
    assert_eq!(again.reason(), Reason::NotStuck);
}

#[tokio::test]
async fn roles_are_set_by_operators_and_a_tenant_keeps_an_owner() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let ann = provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    let bob = provisioner.provision("bob@example.com", PASSWORD).await.unwrap();
    let set = async |org_id: &str, user_id: &str, roles: &[TenantRole]| {
        provisioner.set_roles("admin", org_id, user_id, roles).await.map_err(|error| error.reason())
    };
    assert_eq!(set(&ann.org_id, &ann.user_id, &[TenantRole::Admin]).await.unwrap_err(), Reason::LastOwner);
    let nobody = "0198c0de-0000-7000-8000-000000000001";
    assert_eq!(set(&ann.org_id, nobody, &[TenantRole::Admin]).await.unwrap_err(), Reason::AccountNotFound);
    let invalid = set(&ann.org_id, &ann.user_id, &[TenantRole::Unspecified]).await;
    assert_eq!(invalid.unwrap_err(), Reason::InvalidRequest);

    let both = [TenantRole::Viewer, TenantRole::Owner];
    let answered = set(&ann.org_id, &bob.user_id, &both).await.unwrap();
    assert_eq!(answered.roles, [i32::from(TenantRole::Owner), i32::from(TenantRole::Viewer)]);
    set(&ann.org_id, &ann.user_id, &[]).await.unwrap();
    let events = provisioner.audit(&ann.org_id).await;
    let seen: Vec<_> = events.iter().map(|event| (event.action.as_str(), event.sequence)).collect();
    let changed = "account_roles_changed";
    assert_eq!(seen, [(changed, 3), (changed, 2), ("tenant_provisioned", 1)]);
    assert!(events.iter().all(|event| event.service == "provisioner" && !event.request_id.is_empty()));
    assert_eq!(events[0].previous_hash, events[1].hash);
}

#[tokio::test]
async fn sagas_and_records_are_paged() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    for number in 0..4 {
        provisioner.provision(&format!("owner-{number}@example.com"), PASSWORD).await.unwrap();
    }
    let mut seen = Vec::new();
    let (mut page_token, mut pages) = (String::new(), 0);
    loop {
        pages += 1;
        let query = ListProvisioningsRequest { page_size: 2, page_token, ..Default::default() };
        let page = answer(provisioner.admin().list_provisionings(signed("viewer", query)).await).unwrap();
        seen.extend(page.provisionings.into_iter().map(|saga| saga.org_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let sorted = {
        let mut ids = seen.clone();
        ids.sort();
        ids.reverse();
        ids
    };
    assert_eq!((seen.len(), &seen), (4, &sorted), "newest first");
    assert_eq!(pages, 2, "the last page is known to be the last");
    let garbage = ListProvisioningsRequest { page_token: "garbage".into(), ..Default::default() };
    let refused = answer(provisioner.admin().list_provisionings(signed("viewer", garbage)).await);
    assert_eq!(refused.unwrap_err().reason(), Reason::InvalidRequest);
}

#[tokio::test]
async fn a_restart_finds_what_was_leased() {
    let plane = Plane::start().await;
    let store = Provisioner::open(plane.directory.path()).await;
    let org_id = stuck(&*store, "ann@example.com").await;
    let id = pulse_provisioner::saga::SagaId::provision(org_id.parse().unwrap());
    let saga = store.find_saga(&id).await.unwrap().unwrap();
    let until = SystemClock.now().checked_add(Duration::from_hours(1)).unwrap();
    let progress = Progress {
        state: State::Compensating(Step::StartTrial),
        next_attempt_at: Some(SystemClock.now()),
        ..saga.progress.clone()
    };
    let lease = Some(Lease { owner: "a process that died".into(), until });
    let running = Saga { progress, lease, ..saga };
    store.advance(Advance { saga: running, effect: Effect::None, audit: None }).await.unwrap();
    store.close().await;

    let provisioner = Provisioner::hosted(&plane).await;
    eventually(WAIT, async || {
        provisioner.provisioning(&org_id).await.is_ok_and(|saga| saga.state() == ProvisioningState::Undone)
    })
    .await;
}
