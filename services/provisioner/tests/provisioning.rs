//! `ProvisionerService`: a tenant for an address, made, joined or found, over real servers and a real database.

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use pulse_kernel::{Clock as _, Reason, SystemClock};
use pulse_proto::provisioner::v1::{
    ListProvisioningsRequest, ProvisionStatus, ProvisionTenantRequest, ProvisioningState,
};
use pulse_provisioner::{
    clients::{Billing as _, Organizations as _},
    saga::{Lease, Saga, Subject},
};
use pulse_runtime::{Shutdown, settings::try_parse_from};
use pulse_tenant_guard::OrganizationStatus;
use pulse_testkit::eventually;
use tonic::{Code, Request};

use self::support::{PASSWORD, Plane, Provisioner, WAIT, answer, signed, wanted};

const OTHER_PASSWORD: &str = "wrong donkey battery staple";

#[tokio::test]
async fn a_tenant_is_made_and_then_found_by_who_knows_the_password() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let made = provisioner.provision("Ann@Example.com", PASSWORD).await.unwrap();
    assert_eq!(made.status(), ProvisionStatus::Created);

    let org_id = made.org_id.parse().unwrap();
    assert_eq!(plane.organizations.status(&org_id).await, Ok(OrganizationStatus::Active));
    let trial = plane.billing.trial_ends_at(&org_id).await.unwrap().unwrap();
    assert_eq!(made.trial_ends_at.unwrap().seconds, trial.as_second());
    assert_eq!(made.trial_ends_at.unwrap().seconds, 1_893_456_000 + 14 * 86_400);

    let account = provisioner.account(&made.org_id, &made.user_id).await.unwrap();
    assert_eq!(account.email, "Ann@Example.com", "as typed");

    let again = provisioner.provision("ann@example.COM", PASSWORD).await.unwrap();
    assert_eq!(again.status(), ProvisionStatus::Existing);
    assert_eq!((&again.org_id, &again.user_id), (&made.org_id, &made.user_id));
    assert_eq!(again.trial_ends_at, made.trial_ends_at);

    let stranger = provisioner.provision("ann@example.com", OTHER_PASSWORD).await.unwrap_err();
    assert_eq!(stranger.reason(), Reason::EmailTaken);
    assert_eq!(plane.billing.trial_ends_at(&org_id).await.unwrap().unwrap(), trial, "nothing changed");
}

#[tokio::test]
async fn every_violation_is_named() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let request = ProvisionTenantRequest {
        owner_email: "ann".into(),
        password: "password".into(),
        org_name: "..".into(),
    };
    let error = answer(provisioner.provisioner().provision_tenant(request).await).unwrap_err();
    let fields: Vec<_> = error.violations().iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["email", "password", "org_name"]);
}

/// I1, I3: fifty requests for five addresses, all at once.
#[tokio::test]
async fn requests_for_one_address_join_one_saga() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let requests = (0..50).map(|number| {
        let email = format!("owner-{}@example.com", number % 5);
        // Every tenth does not know the password.
        let password = if number >= 45 { OTHER_PASSWORD } else { PASSWORD };
        let provisioner = &provisioner;
        async move { (email.clone(), provisioner.provision(&email, password).await) }
    });
    let answers = join_all(requests).await;
    for owner in 0..5 {
        let email = format!("owner-{owner}@example.com");
        let of_owner: Vec<_> = answers.iter().filter(|(of, _)| *of == email).collect();
        let made: Vec<_> = of_owner.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
        let created = made.iter().filter(|made| made.status() == ProvisionStatus::Created).count();
        let ids: BTreeSet<_> = made.iter().map(|made| (&made.org_id, &made.user_id)).collect();
        assert_eq!((created, ids.len()), (1, 1), "{email}: {of_owner:?}");
        for (_, refused) in &of_owner {
            assert!(refused.as_ref().err().is_none_or(|error| error.reason() == Reason::EmailTaken));
        }
        assert!((9..=10).contains(&made.len()), "{email}: {of_owner:?}");
    }
    let listed = ListProvisioningsRequest::default();
    let listed = answer(provisioner.admin().list_provisionings(signed("viewer", listed)).await).unwrap();
    assert_eq!(listed.provisionings.len(), 5);
    assert!(listed.provisionings.iter().all(|saga| saga.state() == ProvisioningState::Done));
}

#[tokio::test]
async fn outside_hosted_mode_nobody_makes_tenants_and_accounts_are_served() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::start(&plane, &[]).await;
    let made = provisioner.provisioner().provision_tenant(wanted("ann@example.com", PASSWORD)).await;
    assert_eq!(made.unwrap_err().code(), Code::Unimplemented);
    let request = signed("viewer", ListProvisioningsRequest::default());
    let listed = provisioner.admin().list_provisionings(request).await;
    assert_eq!(listed.unwrap_err().code(), Code::Unimplemented);
    let unknown = provisioner.sign_in("ann@example.com", PASSWORD).await.unwrap_err();
    assert_eq!(unknown.reason(), Reason::Unauthenticated);
}

/// A deadline that passes does not stop the saga; nor does the end of the process, I4.
#[tokio::test]
async fn a_saga_survives_its_caller_and_its_process() {
    let plane = Plane::start().await;
    // It accepts connections, and nobody answers on them yet.
    let (listener, silent) = pulse_testkit::listener().await;
    let directory = plane.directory.path();
    let flags = ["--hosted-mode", "true"];
    let start =
        async |store| Provisioner::start_on(store, directory, silent, plane.billing_addr, &flags).await;

    let provisioner = start(Provisioner::open(directory).await).await;
    let mut request = Request::new(wanted("ann@example.com", PASSWORD));
    request.set_timeout(Duration::from_secs(2));
    let late = answer(provisioner.provisioner().provision_tenant(request).await).unwrap_err();
    assert_eq!(late.reason(), Reason::Unavailable);
    assert!(late.retry_delay().is_some());
    let mut wrong = Request::new(wanted("ann@example.com", OTHER_PASSWORD));
    wrong.set_timeout(Duration::from_secs(20));
    let wrong = answer(provisioner.provisioner().provision_tenant(wrong).await).unwrap_err();
    assert_eq!(wrong.reason(), Reason::EmailTaken, "a saga that goes on is joined only with its password");

    provisioner.kill().await;
    let config = try_parse_from(["pulse-lifecycle"]).unwrap();
    let store =
        pulse_lifecycle::store::MemoryStore::new(&plane.clock, std::sync::Arc::new(pulse_kernel::OsEntropy));
    let serve = pulse_lifecycle::serve(config, std::sync::Arc::new(store), listener, Shutdown::new());
    tokio::spawn(serve);
    let provisioner = start(Provisioner::open(directory).await).await;

    let joined = eventually(WAIT, async || provisioner.provision("ann@example.com", PASSWORD).await).await;
    assert_eq!(joined.status(), ProvisionStatus::Existing, "the saga that was claimed first");
    let saga = provisioner.provisioning(&joined.org_id).await.unwrap();
    assert_eq!(saga.state(), ProvisioningState::Done);
    let actions: Vec<_> =
        provisioner.audit(&joined.org_id).await.into_iter().map(|event| event.action).collect();
    assert_eq!(actions, ["tenant_provisioned"]);
}

/// What is over capacity is refused at once and can be repeated; nothing of it was done. I15.
#[tokio::test]
async fn an_overload_is_shed() {
    let plane = Plane::start().await;
    let flags = ["--hosted-mode", "true", "--hash-threads", "1", "--hash-queue", "2"];
    let provisioner = Provisioner::start(&plane, &flags).await;
    let requests = (0..40).map(|number| {
        let provisioner = &provisioner;
        async move { provisioner.provision(&format!("owner-{number}@example.com"), PASSWORD).await }
    });
    let (made, shed): (Vec<_>, Vec<_>) = join_all(requests).await.into_iter().partition(Result::is_ok);
    assert!(made.len() >= 3 && !shed.is_empty(), "{} made, {} shed", made.len(), shed.len());
    for refused in shed {
        let refused = refused.unwrap_err();
        assert_eq!(refused.reason(), Reason::Overloaded);
        assert!(refused.retry_delay().is_some());
    }
    let listed = ListProvisioningsRequest { page_size: 100, ..Default::default() };
    let listed = answer(provisioner.admin().list_provisionings(signed("viewer", listed)).await).unwrap();
    assert_eq!(listed.provisionings.len(), made.len());
}

/// The end of the trial is told when billing-state says it, and is not worth failing for.
#[tokio::test]
async fn a_tenant_is_found_while_billing_is_away_but_not_while_it_is_purged() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let made = provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    // Nobody listens there.
    let (listener, away) = pulse_testkit::listener().await;
    drop(listener);
    let store = provisioner.store.clone();
    let directory = plane.directory.path();
    let flags = ["--hosted-mode", "true"];
    let cut_off = Provisioner::start_on(store.clone(), directory, plane.lifecycle_addr, away, &flags).await;
    let found = cut_off.provision("ann@example.com", PASSWORD).await.unwrap();
    assert_eq!((found.status(), found.org_id.as_str()), (ProvisionStatus::Existing, made.org_id.as_str()));
    assert_eq!(found.trial_ends_at, None);

    let now = SystemClock.now();
    let lease = Lease { owner: "another process".into(), until: now.checked_add(WAIT).unwrap() };
    let purge = Saga::begin(made.org_id.parse().unwrap(), Subject::Purge, lease, now);
    store.begin(purge).await.unwrap();
    let purged = provisioner.provision("ann@example.com", PASSWORD).await.unwrap_err();
    assert_eq!(purged.reason(), Reason::Unavailable);
    assert!(purged.retry_delay().is_some());
}

/// I11: a purge leaves nothing anywhere, and the address is free.
#[tokio::test]
async fn a_purged_tenant_is_gone_and_its_owner_may_come_back() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let ann = provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    let bob = provisioner.provision("bob@example.com", PASSWORD).await.unwrap();

    plane.delete(&ann.org_id).await;
    let org_id = ann.org_id.parse().unwrap();
    eventually(WAIT, async || {
        let gone = plane.organizations.status(&org_id).await;
        gone.is_err_and(|error| error.reason() == Reason::OrgNotFound)
    })
    .await;
    let trial = plane.billing.trial_ends_at(&org_id).await.unwrap_err();
    assert_eq!(trial.reason(), Reason::OrgNotFound);
    let login = provisioner.sign_in("ann@example.com", PASSWORD).await.unwrap_err();
    assert_eq!(login.reason(), Reason::Unauthenticated);
    let account = provisioner.account(&ann.org_id, &ann.user_id).await.unwrap_err();
    assert_eq!(account.reason(), Reason::AccountNotFound);
    assert!(provisioner.audit(&ann.org_id).await.is_empty());
    // The purge's own journal goes last.
    eventually(WAIT, async || {
        let listed = ListProvisioningsRequest::default();
        let listed = answer(provisioner.admin().list_provisionings(signed("viewer", listed)).await).unwrap();
        listed.provisionings.iter().all(|saga| saga.org_id == bob.org_id)
    })
    .await;

    let back = provisioner.provision("ann@example.com", OTHER_PASSWORD).await.unwrap();
    assert_eq!(back.status(), ProvisionStatus::Created);
    assert_ne!((&back.org_id, &back.user_id), (&ann.org_id, &ann.user_id));
    assert!(provisioner.sign_in("bob@example.com", PASSWORD).await.is_ok(), "nobody else is touched");
}
