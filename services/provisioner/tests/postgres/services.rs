//! Whole services, asked over gRPC, whichever replica the balancer happens to pick.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use futures::future::join_all;
use pulse_kernel::{EmailAddress, Reason};
use pulse_proto::provisioner::v1::{ProvisionStatus, TenantRole};
use pulse_provisioner::{saga::retry::Tuning, store::EmailHolder};
use pulse_testkit::{Proxy, eventually};

use crate::{
    replicas::Deployment,
    support::{PASSWORD, Provisioner, WAIT},
};

/// A replica by the plane's clock, which reaches lifecycle at that address.
async fn replica(deployment: &Deployment, lifecycle: SocketAddr) -> Provisioner {
    let plane = &deployment.plane;
    let (clock, store) = (Arc::new(plane.clock.clone()), deployment.store().await);
    let flags = ["--hosted-mode", "true"];
    Provisioner::start_at(clock, store, plane.directory.path(), lifecycle, plane.billing_addr, &flags).await
}

/// Waits until a saga has claimed the address.
async fn claimed(replica: &Provisioner, address: &str) {
    let email = EmailAddress::parse(address).unwrap();
    eventually(WAIT, async || {
        matches!(replica.store.find_by_email(&email).await.unwrap(), Some(EmailHolder::Saga(_)))
    })
    .await;
}

/// I1, I3: sixty requests for six addresses, all at once, on two replicas.
#[tokio::test]
async fn requests_for_one_address_join_one_saga_on_all_replicas_together() {
    let deployment = Deployment::start().await;
    let lifecycle = deployment.plane.lifecycle_addr;
    let replicas = [replica(&deployment, lifecycle).await, replica(&deployment, lifecycle).await];
    let requests = (0..60).map(|number| {
        let email = format!("owner-{}@example.com", number % 6);
        let replica = &replicas[number / 6 % 2];
        async move { (email.clone(), replica.provision(&email, PASSWORD).await.unwrap()) }
    });
    let answers = join_all(requests).await;
    for owner in 0..6 {
        let email = format!("owner-{owner}@example.com");
        let of_owner: Vec<_> = answers.iter().filter(|(of, _)| *of == email).map(|(_, made)| made).collect();
        let created = of_owner.iter().filter(|made| made.status() == ProvisionStatus::Created).count();
        let ids: BTreeSet<_> = of_owner.iter().map(|made| (&made.org_id, &made.user_id)).collect();
        assert_eq!((created, ids.len()), (1, 1), "{email}: {of_owner:?}");
        deployment.is_whole(&*replicas[1].store, &of_owner[0].org_id.parse().unwrap()).await;
    }
}

#[tokio::test]
async fn a_request_joins_the_saga_that_another_replica_runs() {
    let deployment = Deployment::start().await;
    let lifecycle = Proxy::to(&[deployment.plane.lifecycle_addr]);
    let one = replica(&deployment, lifecycle.addr()).await;
    let two = replica(&deployment, deployment.plane.lifecycle_addr).await;
    lifecycle.freeze().await;
    let (made, joined, ()) = tokio::join!(
        one.provision("ann@example.com", PASSWORD),
        async {
            claimed(&two, "ann@example.com").await;
            two.provision("Ann@example.com", PASSWORD).await
        },
        async {
            claimed(&two, "ann@example.com").await;
            let wrong = two.provision("ann@example.com", "wrong donkey battery staple").await;
            assert_eq!(wrong.unwrap_err().reason(), Reason::EmailTaken);
            lifecycle.heal().await;
        },
    );
    let (made, joined) = (made.unwrap(), joined.unwrap());
    assert_eq!((made.status(), joined.status()), (ProvisionStatus::Created, ProvisionStatus::Existing));
    assert_eq!((&made.org_id, &made.user_id), (&joined.org_id, &joined.user_id));
    assert_eq!(made.trial_ends_at, joined.trial_ends_at);
    deployment.is_whole(&*two.store, &made.org_id.parse().unwrap()).await;

    // And from then on it is the same tenant for both.
    one.set_roles("admin", &made.org_id, &made.user_id, &[TenantRole::Owner, TenantRole::Viewer])
        .await
        .unwrap();
    assert_eq!(two.account(&made.org_id, &made.user_id).await.unwrap().roles.len(), 2);
    assert_eq!(two.audit(&made.org_id).await.len(), 2);
}

/// I4: the replica that began a saga dies; who waits for it on another gets the answer once that has taken it over.
#[tokio::test]
async fn who_waits_on_another_replica_is_answered_after_the_first_has_died() {
    let deployment = Deployment::start().await;
    let lifecycle = Proxy::to(&[deployment.plane.lifecycle_addr]);
    let one = replica(&deployment, lifecycle.addr()).await;
    let two = replica(&deployment, deployment.plane.lifecycle_addr).await;
    lifecycle.freeze().await;
    let mut first = one.provisioner();
    let first = tokio::spawn(async move {
        first.provision_tenant(crate::support::wanted("ann@example.com", PASSWORD)).await
    });
    claimed(&two, "ann@example.com").await;
    let (joined, ()) = tokio::join!(two.provision("ann@example.com", PASSWORD), async {
        one.kill().await;
        deployment.plane.clock.advance(Tuning::default().lease);
    });
    first.await.unwrap().unwrap_err();
    let joined = joined.unwrap();
    assert_eq!(joined.status(), ProvisionStatus::Existing);
    deployment.is_whole(&*two.store, &joined.org_id.parse().unwrap()).await;
}
