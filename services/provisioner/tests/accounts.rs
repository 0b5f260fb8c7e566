//! `AccountService`: who someone is, and what they may do in which tenant.

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use pulse_kernel::Reason;
use pulse_proto::provisioner::v1::{TenantRole, VerifyCredentialsRequest};

use self::support::{PASSWORD, Plane, Provisioner, answer};

#[tokio::test]
async fn who_knows_the_password_gets_in_and_nobody_learns_whether_the_address_is_known() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let ann = provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    let signed_in = provisioner.sign_in("Ann@Example.com", PASSWORD).await.unwrap();
    assert_eq!((&signed_in.org_id, &signed_in.user_id), (&ann.org_id, &ann.user_id));
    assert_eq!(signed_in.roles, [i32::from(TenantRole::Owner)]);

    let wrong = provisioner.sign_in("ann@example.com", "wrong").await.unwrap_err();
    let unknown = provisioner.sign_in("eve@example.com", PASSWORD).await.unwrap_err();
    assert_eq!((wrong.reason(), wrong.message()), (unknown.reason(), unknown.message()));
    assert_eq!(wrong.reason(), Reason::Unauthenticated);
    let malformed = provisioner.sign_in("ann", "").await.unwrap_err();
    assert_eq!(malformed.reason(), Reason::InvalidRequest);
    assert_eq!(malformed.violations().len(), 2);
}

#[tokio::test]
async fn a_closed_tenant_is_told_only_to_who_knows_the_password() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let ann = provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    plane.suspend(&ann.org_id).await;
    let closed = provisioner.sign_in("ann@example.com", PASSWORD).await.unwrap_err();
    assert_eq!(closed.reason(), Reason::OrgSuspended);
    let wrong = provisioner.sign_in("ann@example.com", "wrong").await.unwrap_err();
    assert_eq!(wrong.reason(), Reason::Unauthenticated);
    let may = provisioner.may(&ann.org_id, &ann.user_id, TenantRole::Viewer, "").await.unwrap();
    assert_eq!(may, "ORG_SUSPENDED");
}

#[tokio::test]
async fn sign_ins_are_limited_by_address_and_by_client() {
    let plane = Plane::start().await;
    let flags = ["--sign-in-limit-per-email-per-minute", "2", "--sign-in-limit-per-caller-per-minute", "4"];
    let provisioner = Provisioner::start(&plane, &flags).await;
    let attempt = async |email: &str, client_ip: &str| {
        let request = VerifyCredentialsRequest {
            email: email.into(),
            password: "guess".into(),
            client_ip: client_ip.into(),
        };
        answer(provisioner.accounts().verify_credentials(request).await).unwrap_err()
    };
    for client in ["192.0.2.1", "192.0.2.2"] {
        assert_eq!(attempt("ann@example.com", client).await.reason(), Reason::Unauthenticated);
    }
    let limited = attempt("ANN@example.com", "192.0.2.3").await;
    assert_eq!(limited.reason(), Reason::RateLimited);
    assert_eq!(limited.exhausted_quota().unwrap().policy, "sign-in-email");
    assert!(limited.retry_delay().is_some());

    for number in 0..4 {
        let email = format!("owner-{number}@example.com");
        assert_eq!(attempt(&email, "192.0.2.9").await.reason(), Reason::Unauthenticated);
    }
    let limited = attempt("owner-9@example.com", "192.0.2.9").await;
    assert_eq!(limited.exhausted_quota().unwrap().policy, "sign-in-client");
}

/// I10: a role in one tenant means nothing in another.
#[tokio::test]
async fn a_role_counts_only_in_its_tenant() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let ann = provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    let bob = provisioner.provision("bob@example.com", PASSWORD).await.unwrap();
    let may =
        async |org_id: &str, user_id: &str, role| provisioner.may(org_id, user_id, role, "").await.unwrap();

    assert_eq!(may(&ann.org_id, &ann.user_id, TenantRole::Owner).await, "");
    assert_eq!(may(&bob.org_id, &ann.user_id, TenantRole::Viewer).await, "ROLE_REQUIRED");
    let hidden = provisioner.account(&bob.org_id, &ann.user_id).await.unwrap_err();
    let nobody = provisioner.account(&bob.org_id, "0198c0de-0000-7000-8000-000000000001").await.unwrap_err();
    assert_eq!((hidden.reason(), hidden.message()), (nobody.reason(), nobody.message()));
    assert_eq!(hidden.reason(), Reason::AccountNotFound);

    provisioner.set_roles("admin", &bob.org_id, &ann.user_id, &[TenantRole::Member]).await.unwrap();
    assert_eq!(may(&bob.org_id, &ann.user_id, TenantRole::Member).await, "");
    assert_eq!(may(&bob.org_id, &ann.user_id, TenantRole::Admin).await, "ROLE_REQUIRED");
    let seen = provisioner.account(&bob.org_id, &ann.user_id).await.unwrap();
    assert_eq!((seen.org_id, seen.roles), (bob.org_id.clone(), vec![i32::from(TenantRole::Member)]));
    let home = provisioner.account(&ann.org_id, &ann.user_id).await.unwrap();
    assert_eq!(home.roles, [i32::from(TenantRole::Owner)]);

    provisioner.set_roles("admin", &bob.org_id, &ann.user_id, &[]).await.unwrap();
    assert_eq!(may(&bob.org_id, &ann.user_id, TenantRole::Viewer).await, "ROLE_REQUIRED");
    let unknown = may("no-such-tenant", &ann.user_id, TenantRole::Viewer).await;
    assert_eq!(unknown, "ROLE_REQUIRED", "a stranger learns no more");
}

#[tokio::test]
async fn a_capability_counts_as_long_as_the_subscription_does() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let ann = provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    let may = async |capability: &str| {
        provisioner.may(&ann.org_id, &ann.user_id, TenantRole::Owner, capability).await.unwrap()
    };
    assert_eq!(may("alerting").await, "");
    assert_eq!(may("flying").await, "CAPABILITY_REQUIRED");
    plane.clock.advance(std::time::Duration::from_hours(15 * 24));
    assert_eq!(may("alerting").await, "SUBSCRIPTION_INACTIVE");
    assert_eq!(may("").await, "", "what needs no capability does not depend on the subscription");
    let signed_in = provisioner.sign_in("ann@example.com", PASSWORD).await;
    assert!(signed_in.is_ok(), "to be able to pay");
}

#[tokio::test]
async fn what_cannot_be_determined_is_not_allowed() {
    let plane = Plane::start().await;
    let provisioner = Provisioner::hosted(&plane).await;
    let ann = provisioner.provision("ann@example.com", PASSWORD).await.unwrap();
    let store = provisioner.store.clone();
    // Nobody listens there.
    let (listener, away) = pulse_testkit::listener().await;
    drop(listener);
    let cut_off = Provisioner::start_on(store, plane.directory.path(), away, plane.billing_addr, &[]).await;
    let checked = cut_off.may(&ann.org_id, &ann.user_id, TenantRole::Viewer, "").await;
    assert_eq!(checked.unwrap_err().reason(), Reason::Unavailable);
    let signed_in = cut_off.sign_in("ann@example.com", PASSWORD).await;
    assert_eq!(signed_in.unwrap_err().reason(), Reason::Unavailable);
    let invalid = provisioner.may(&ann.org_id, &ann.user_id, TenantRole::Unspecified, "").await;
    assert_eq!(invalid.unwrap_err().reason(), Reason::InvalidRequest);
}
