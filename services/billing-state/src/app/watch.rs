//! What watchers of billing states are told: each state, as it is stored. It is put into words once, however many watch.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use pulse_entitlements::{Lookup, Stored};
use pulse_kernel::{ApiError, OrgId};
use pulse_proto::billing::v1::BillingState;
use pulse_rpc::watch::{Change, Hub, Messages, Now, Pages, Source, WatchRequest};

use super::BillingStates;
use crate::{
    convert,
    error::BillingError,
    store::{Listed, Store, StoreError},
};

/// Tells watchers.
pub(crate) type Watch = Hub<States>;

/// The store as what is watched.
#[derive(Debug, Clone)]
pub(crate) struct States(pub(crate) Arc<dyn Store>);

impl Source for States {
    type State = BillingState;
    type Error = BillingError;

    async fn current(&self, org: &OrgId) -> Result<Option<Now<BillingState>>, BillingError> {
        match self.0.get(org).await {
            Ok(Lookup::Stored(stored)) => Ok(Some(now(*stored))),
            Ok(Lookup::NotStored) => Ok(None),
            Ok(Lookup::Purged) => Ok(Some(Now::Gone)),
            Err(StoreError::Unreadable { .. }) => Ok(Some(Now::Unreadable)),
            Err(error) => Err(error.into()),
        }
    }

    fn everything(&self) -> Pages<Self> {
        let change =
            |Listed { org, stored }: Listed| Change { org, now: stored.map_or(Now::Unreadable, now) };
        self.0
            .list()
            .map_ok(move |page| page.into_iter().map(change).collect())
            .map_err(BillingError::from)
            .boxed()
    }
}

fn now(Stored { state, revision }: Stored) -> Now<BillingState> {
    Now::State { version: revision, state: convert::stored(&state) }
}

impl BillingStates {
    /// Begins a stream of what billing states are and become.
    pub(crate) fn watch(&self, request: WatchRequest) -> Result<Messages<BillingState>, ApiError> {
        self.0.watch.watch(request)
    }
}
