//! What operators ask for. The actor is the name of the operator's token.

use pulse_kernel::OrgId;
use pulse_store::audit::AuditRecord;
use serde::{Deserialize, Serialize};

use super::{Organizations, Page, on_behalf_of};
use crate::{
    domain::{Note, Organization, Retention, StatusKind},
    error::LifecycleError,
};

/// A change that an operator asks for.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) id: OrgId,
    /// What the operator saw, if that is what the change depends on.
    pub(crate) etag: Option<String>,
    pub(crate) note: Option<Note>,
}

/// Where a list of organizations goes on. It belongs to the filter that it was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListCursor {
    pub(crate) status: Option<StatusKind>,
    pub(crate) after: OrgId,
}

impl Organizations {
    /// Refuses the tenant everywhere from now on.
    pub(crate) async fn suspend(&self, order: Order, actor: &str) -> Result<Organization, LifecycleError> {
        let Order { id, etag, note } = order;
        self.change_everywhere(&id, etag.as_deref(), on_behalf_of(actor), |current, now| {
            current.suspend(note.clone(), now)
        })
        .await
    }

    /// Lets the tenant back in.
    pub(crate) async fn unsuspend(&self, order: Order, actor: &str) -> Result<Organization, LifecycleError> {
        let Order { id, etag, note } = order;
        self.change_everywhere(&id, etag.as_deref(), on_behalf_of(actor), |current, now| {
            current.unsuspend(note.clone(), now)
        })
        .await
    }

    /// Refuses the tenant everywhere, and has it removed once the retention is over.
    pub(crate) async fn soft_delete(
        &self,
        order: Order,
        retention: Retention,
        actor: &str,
    ) -> Result<Organization, LifecycleError> {
        let Order { id, etag, note } = order;
        self.change_everywhere(&id, etag.as_deref(), on_behalf_of(actor), |current, now| {
            current.soft_delete(retention, note.clone(), now)
        })
        .await
    }

    /// Takes a deletion back.
    pub(crate) async fn restore(&self, order: Order, actor: &str) -> Result<Organization, LifecycleError> {
        let Order { id, etag, note } = order;
        self.change_everywhere(&id, etag.as_deref(), on_behalf_of(actor), |current, now| {
            current.restore(note.clone(), now)
        })
        .await
    }

    /// Organizations by id, of one status or of all.
    pub(crate) async fn list(
        &self,
        status: Option<StatusKind>,
        after: Option<&OrgId>,
        size: usize,
    ) -> Result<Page<Organization, ListCursor>, LifecycleError> {
        let found = self.store.list(status, after, size + 1).await?;
        Ok(Page::of(found, size, |last| ListCursor { status, after: last.id.clone() }))
    }

    /// The audit records of an organization, newest first; also of one that is gone.
    pub(crate) async fn audit_events(
        &self,
        id: &OrgId,
        before: Option<i64>,
        size: usize,
    ) -> Result<Page<AuditRecord, i64>, LifecycleError> {
        let found = self.store.audit_events(id, before, size + 1).await?;
        Ok(Page::of(found, size, |last| last.sequence))
    }
}
