//! The store as what entitlements are read from.

use std::sync::Arc;

use async_trait::async_trait;
use pulse_entitlements::{BillingStore, BillingStoreError, Lookup};
use pulse_kernel::OrgId;

use crate::store::Store;

/// Any store of this service.
#[derive(Debug)]
pub(crate) struct Stored(pub(crate) Arc<dyn Store>);

#[async_trait]
impl BillingStore for Stored {
    async fn billing_state(&self, org: &OrgId) -> Result<Lookup, BillingStoreError> {
        Ok(self.0.get(org).await?)
    }
}
