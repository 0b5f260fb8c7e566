//! What a request that is let in allocates.

use std::convert::Infallible;

use pulse_entitlements::{
    BillingStore, BillingStoreError, Catalog, DatabaseSource, Lookup, cache::CacheConfig,
};
use pulse_testkit::ManualClock;
use tonic::body::Body;
use tower::service_fn;

use super::*;
use crate::{StatusCache, StatusLookup, StatusStore, StatusStoreError};

/// Stores in which every organization is active and on a trial.
#[derive(Debug)]
struct Stores;

#[async_trait]
impl StatusStore for Stores {
    async fn status(&self, _: &OrgId) -> Result<(StatusLookup, u64), StatusStoreError> {
        Ok((StatusLookup::Status(OrganizationStatus::Active), 1))
    }
}

#[async_trait]
impl BillingStore for Stores {
    async fn billing_state(&self, _: &OrgId) -> Result<Lookup, BillingStoreError> {
        Ok(Lookup::NotStored)
    }
}

/// Calls a guarded service that does nothing, with a request that is at hand, and counts what that allocates.
fn allocations(layer: &GuardLayer<Grpc>) -> u64 {
    let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Body::empty())));
    let mut service = layer.layer(inner);
    let mut request = Request::post("/acme.Hosts/Add").header(ORG_ID_HEADER, "acme").body(()).unwrap();
    // As servers do: there are extensions before the guard comes.
    request.extensions_mut().insert(7_u8);
    request.extensions_mut().insert(7_u16);
    let mut request = Some(request);
    let mut context = Context::from_waker(std::task::Waker::noop());
    allocation_counter::measure(|| {
        let mut answer = std::pin::pin!(service.call(request.take().unwrap()));
        let Poll::Ready(Ok(answer)) = answer.as_mut().poll(&mut context) else { panic!("it has to wait") };
        assert!(answer.headers().is_empty(), "it is refused");
    })
    .count_total
}

#[tokio::test]
async fn letting_in_a_tenant_that_is_remembered_allocates_the_box_of_the_verdict_and_nothing_else() {
    let clock = Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH));
    let config = CacheConfig::default();
    let statuses = StatusCache::new(Arc::new(Stores), config, Arc::clone(&clock) as _);
    let entitlements = DatabaseSource::new(Arc::new(Stores), &Catalog::built_in(), config, clock);
    let guard = Guard::new(Arc::new(statuses), Arc::new(entitlements));
    let layer = GuardLayer::grpc(guard.clone())
        .require("/acme.Hosts/Add", Requirement::limit("monitored_hosts", 10).and_capability("alerting"));
    let bare = allocations(&layer.clone().open("/acme.Hosts/Add"));

    let acme = OrgId::parse("acme").unwrap();
    let asked = Requirement::capability("alerting");
    assert!(guard.check(&acme, &asked).await.decision.is_allowed(), "and it is remembered");
    assert_eq!(allocations(&layer.clone().without_verdict()) - bare, 0);
    assert_eq!(allocations(&layer) - bare, 1);
    let by_caller = layer.clone().tenant_from(move |_| Ok(acme.clone()));
    assert_eq!(allocations(&by_caller) - bare, 1);
}

#[test]
fn a_source_that_cannot_look_up_a_text_makes_an_id() {
    let (_, guard) = Tenant::guard();
    let layer = GuardLayer::grpc(guard).require("/acme.Hosts/Add", Requirement::limit("hosts", 10));
    let bare = allocations(&layer.clone().open("/acme.Hosts/Add"));
    assert_eq!(allocations(&layer.clone().without_verdict()) - bare, 1);
    assert_eq!(allocations(&layer) - bare, 2);
}
