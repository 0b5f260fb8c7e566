//! [`RemoteBilling`]: billing states from billing-state, over gRPC.

use async_trait::async_trait;
use pulse_entitlements::{BillingStore, BillingStoreError, Lookup, cache::Reading};
use pulse_kernel::OrgId;
use pulse_proto::billing::v1::{
    BillingStateServiceGetBillingStateRequest, EntitlementSource, GetEntitlementsRequest,
    billing_state_service_client::BillingStateServiceClient,
    entitlement_service_client::EntitlementServiceClient,
};
use pulse_rpc::Channel;

use crate::{convert, failure, is_not_found};

/// A [`BillingStore`] over billing-state.
///
/// It asks for entitlements, which billing-state has at hand, and makes the state out of them that entitles to just that. An
/// answer that billing-state gives without its own store is not one that the store gave: then this store fails too, and what
/// is known here counts, which may be more.
#[derive(Debug, Clone)]
pub struct RemoteBilling {
    entitlements: EntitlementServiceClient<Channel>,
    states: BillingStateServiceClient<Channel>,
}

impl RemoteBilling {
    /// Over a channel to billing-state.
    pub fn new(channel: Channel) -> Self {
        Self {
            entitlements: EntitlementServiceClient::new(channel.clone()),
            states: BillingStateServiceClient::new(channel),
        }
    }

    /// Whether nothing is stored about the tenant. Entitlements by default do not tell: they are also what billing-state
    /// grants while it cannot read its store.
    async fn confirm_not_stored(&self, org: &OrgId) -> Result<Lookup, BillingStoreError> {
        let request = BillingStateServiceGetBillingStateRequest { org_id: org.to_string() };
        match self.states.clone().get_billing_state(request).await {
            Err(status) if is_not_found(&status) => Ok(Lookup::NotStored),
            Err(status) => Err(error(&status)),
            // One was stored just now; whoever asks again hears of it.
            Ok(_) => Err(BillingStoreError::new("a billing state appeared while it was looked up")),
        }
    }
}

#[async_trait]
impl BillingStore for RemoteBilling {
    async fn billing_state(&self, org: &OrgId) -> Result<Lookup, BillingStoreError> {
        Ok(self.recalled(org).await?.lookup)
    }

    async fn recalled(&self, org: &OrgId) -> Result<Reading<Lookup>, BillingStoreError> {
        let request = GetEntitlementsRequest { org_id: org.to_string() };
        let answer = match self.entitlements.clone().get_entitlements(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if is_not_found(&status) => return Ok(Reading::fresh(Lookup::Purged)),
            Err(status) => return Err(error(&status)),
        };
        let (source, revision) = (answer.source(), answer.revision);
        if source == EntitlementSource::Default && revision == 0 {
            return self.confirm_not_stored(org).await.map(Reading::fresh);
        }
        let stored = convert::stored(org, &answer).map_err(BillingStoreError::new)?;
        let age = convert::age(&answer).map_err(BillingStoreError::new)?;
        match source {
            // Whoever joins a read that is under way is told that it is fresh too, and how long ago it began.
            EntitlementSource::Fresh | EntitlementSource::Cached => {
                let is_recalled = source == EntitlementSource::Cached;
                Ok(Reading { lookup: Lookup::Stored(Box::new(stored)), age, is_recalled })
            }
            EntitlementSource::Stale | EntitlementSource::Default => Err(BillingStoreError {
                message: "billing-state answers without its store".to_owned(),
                last_known: Some(Box::new(stored)),
            }),
            EntitlementSource::Unspecified => {
                Err(BillingStoreError::new("billing-state does not say where its answer comes from"))
            }
        }
    }
}

fn error(status: &tonic::Status) -> BillingStoreError {
    BillingStoreError::new(failure("billing-state", status))
}
