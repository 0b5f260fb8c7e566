//! What watchers of organizations are told: the status of each, and nothing about its owner.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use pulse_kernel::{ApiError, OrgId};
use pulse_rpc::watch::{Change, Hub, Messages, Now, Pages, Source, WatchRequest};

use super::Organizations;
use crate::{
    domain::{Organization, StatusKind},
    error::LifecycleError,
    store::{Found, Store},
};

/// How many organizations are read at a time.
const PAGE: usize = 64;

/// What is told of an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) status: StatusKind,
    /// When it last changed.
    pub(crate) changed_at: Timestamp,
}

/// Tells watchers.
pub(crate) type Watch = Hub<Stored>;

/// The store as what is watched.
#[derive(Debug, Clone)]
pub(crate) struct Stored(pub(crate) Arc<dyn Store>);

impl Source for Stored {
    type State = Standing;
    type Error = LifecycleError;

    async fn current(&self, org: &OrgId) -> Result<Option<Now<Standing>>, LifecycleError> {
        Ok(match self.0.find(org).await? {
            Found::Organization(organization) => Some(now(&organization)),
            Found::Tombstone(_) => Some(Now::Gone),
            Found::Nothing => None,
        })
    }

    fn everything(&self) -> Pages<Self> {
        let next = |(store, after): (Arc<dyn Store>, Option<OrgId>)| async move {
            let organizations = store.list(None, after.as_ref(), PAGE).await?;
            let last = organizations.last().map(|organization| organization.id.clone());
            Ok(last.map(|last| (organizations, (store, Some(last)))))
        };
        let change = |organization: Organization| Change { now: now(&organization), org: organization.id };
        stream::try_unfold((Arc::clone(&self.0), None), next)
            .map_ok(move |page| page.into_iter().map(change).collect())
            .boxed()
    }
}

fn now(organization: &Organization) -> Now<Standing> {
    let state = Standing { status: organization.status.kind(), changed_at: organization.updated_at };
    Now::State { version: u64::try_from(organization.version).unwrap_or_default(), state }
}

impl Organizations {
    /// Begins a stream of what organizations are and become.
    pub(crate) fn watch(&self, request: WatchRequest) -> Result<Messages<Standing>, ApiError> {
        self.watch.watch(request)
    }
}
