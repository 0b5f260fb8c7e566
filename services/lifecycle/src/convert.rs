//! Protobuf to and from domain types: `TryFrom` checks what comes in, `From` cannot fail. [`envoy`] does so for what is not
//! this system's own protobuf.

pub(crate) mod envoy;

use pulse_kernel::{ApiError, EmailAddress, OrgId, OrgName, Reason, UserId, Violations};
use pulse_proto::{
    audit::v1::AuditEvent,
    lifecycle::v1::{
        self as proto, CreateOrganizationRequest, ListAuditEventsRequest, ListOrganizationsRequest,
        ListPurgingRequest, OrganizationChange, OrganizationStatus, RestoreOrganizationRequest,
        SoftDeleteOrganizationRequest, SuspendOrganizationRequest, UnsuspendOrganizationRequest,
        WatchOrganizationsResponse,
    },
    watch::v1::{Gone, Synced, Unreadable},
};
use pulse_rpc::{
    convert::{structure, timestamp},
    page,
    watch::{self, Change, Message},
};
use pulse_store::audit::AuditRecord;
use serde_json::Value;

use crate::{
    app::{
        Page,
        operations::{ListCursor, Order},
        tenancy::NewOrganization,
        watch::Standing,
    },
    domain::{Note, Organization, Owner, Retention, StatusKind},
    store::QueueEntry,
};

/// This service's name in audit events.
const SERVICE: &str = "lifecycle";

impl TryFrom<CreateOrganizationRequest> for NewOrganization {
    type Error = ApiError;

    fn try_from(request: CreateOrganizationRequest) -> Result<Self, ApiError> {
        let CreateOrganizationRequest { org_id, owner_user_id, owner_email, display_name } = request;
        let mut violations = Violations::default();
        let id = violations.keep(OrgId::parse(&org_id));
        let user_id = violations.keep(UserId::parse(&owner_user_id).map_err(about("owner_user_id")));
        let email = violations.keep(EmailAddress::parse(&owner_email).map_err(about("owner_email")));
        let display_name = violations.keep(OrgName::parse(&display_name).map_err(about("display_name")));
        violations.finish()?;
        match (id, user_id, email, display_name) {
            (Some(id), Some(user_id), Some(email), Some(display_name)) => {
                Ok(Self { id, owner: Owner { user_id, email }, display_name })
            }
            _ => Err(ApiError::internal()),
        }
    }
}

/// Names the field as this request does.
fn about(field: &'static str) -> impl Fn(ApiError) -> ApiError {
    move |error| {
        let why = error.violations().first().map_or_else(|| error.to_string(), |first| first.message.clone());
        ApiError::field(error.reason(), field, why)
    }
}

fn order(org_id: &str, etag: String, reason: &str) -> Result<Order, ApiError> {
    let mut violations = Violations::default();
    let id = violations.keep(OrgId::parse(org_id));
    let note = violations.keep(Note::parse(reason));
    violations.finish()?;
    let etag = Some(etag).filter(|etag| !etag.is_empty());
    match (id, note) {
        (Some(id), Some(note)) => Ok(Order { id, etag, note }),
        _ => Err(ApiError::internal()),
    }
}

impl TryFrom<SuspendOrganizationRequest> for Order {
    type Error = ApiError;
    fn try_from(request: SuspendOrganizationRequest) -> Result<Self, ApiError> {
        order(&request.org_id, request.etag, &request.reason)
    }
}

impl TryFrom<UnsuspendOrganizationRequest> for Order {
    type Error = ApiError;
    fn try_from(request: UnsuspendOrganizationRequest) -> Result<Self, ApiError> {
        order(&request.org_id, request.etag, &request.reason)
    }
}

impl TryFrom<RestoreOrganizationRequest> for Order {
    type Error = ApiError;
    fn try_from(request: RestoreOrganizationRequest) -> Result<Self, ApiError> {
        order(&request.org_id, request.etag, &request.reason)
    }
}

/// A deletion, with the retention that it asks for, if it does.
pub(crate) fn deletion(
    request: SoftDeleteOrganizationRequest,
) -> Result<(Order, Option<Retention>), ApiError> {
    let order = order(&request.org_id, request.etag, &request.reason)?;
    let retention = request.retention_days.map(Retention::from_days).transpose()?;
    Ok((order, retention))
}

/// Which organizations are listed.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) status: Option<StatusKind>,
    pub(crate) after: Option<OrgId>,
    pub(crate) size: usize,
}

impl TryFrom<ListOrganizationsRequest> for Listing {
    type Error = ApiError;

    fn try_from(request: ListOrganizationsRequest) -> Result<Self, ApiError> {
        let status = OrganizationStatus::try_from(request.status)
            .map_err(|_| ApiError::field(Reason::InvalidRequest, "status", "is not a known status"))?;
        let status = status_kind(status);
        let cursor: Option<ListCursor> = page::cursor(&request.page_token)?;
        if cursor.as_ref().is_some_and(|cursor| cursor.status != status) {
            let why = "belongs to a list of another status";
            return Err(ApiError::field(Reason::InvalidRequest, "page_token", why));
        }
        Ok(Self { status, after: cursor.map(|cursor| cursor.after), size: page::size(request.page_size)? })
    }
}

/// Which purges are listed.
#[derive(Debug)]
pub(crate) struct PurgingListing {
    pub(crate) after: Option<QueueEntry>,
    pub(crate) size: usize,
}

impl TryFrom<ListPurgingRequest> for PurgingListing {
    type Error = ApiError;
    fn try_from(request: ListPurgingRequest) -> Result<Self, ApiError> {
        Ok(Self { after: page::cursor(&request.page_token)?, size: page::size(request.page_size)? })
    }
}

/// Which audit records are listed.
#[derive(Debug)]
pub(crate) struct AuditListing {
    pub(crate) id: OrgId,
    pub(crate) before: Option<i64>,
    pub(crate) size: usize,
}

impl TryFrom<ListAuditEventsRequest> for AuditListing {
    type Error = ApiError;
    fn try_from(request: ListAuditEventsRequest) -> Result<Self, ApiError> {
        Ok(Self {
            id: OrgId::parse(&request.org_id)?,
            before: page::cursor(&request.page_token)?,
            size: page::size(request.page_size)?,
        })
    }
}

/// The items of a page as protobuf has them, and the token of the next one.
pub(crate) fn page_of<T, C: serde::Serialize, P: From<T>>(page: Page<T, C>) -> (Vec<P>, String) {
    let token = page.next.as_ref().map(page::token).unwrap_or_default();
    (page.items.into_iter().map(P::from).collect(), token)
}

fn status_kind(status: OrganizationStatus) -> Option<StatusKind> {
    match status {
        OrganizationStatus::Unspecified => None,
        OrganizationStatus::Provisioning => Some(StatusKind::Provisioning),
        OrganizationStatus::Active => Some(StatusKind::Active),
        OrganizationStatus::Suspended => Some(StatusKind::Suspended),
        OrganizationStatus::PendingDeletion => Some(StatusKind::PendingDeletion),
        OrganizationStatus::Purging => Some(StatusKind::Purging),
    }
}

impl From<StatusKind> for OrganizationStatus {
    fn from(kind: StatusKind) -> Self {
        match kind {
            StatusKind::Provisioning => Self::Provisioning,
            StatusKind::Active => Self::Active,
            StatusKind::Suspended => Self::Suspended,
            StatusKind::PendingDeletion => Self::PendingDeletion,
            StatusKind::Purging => Self::Purging,
        }
    }
}

impl From<Organization> for proto::Organization {
    fn from(organization: Organization) -> Self {
        let etag = organization.etag();
        let Organization { id, display_name, owner, status, created_at, updated_at, version: _ } =
            organization;
        let (owner_user_id, owner_email) = owner
            .map(|owner| (owner.user_id.to_string(), owner.email.typed().to_owned()))
            .unwrap_or_default();
        let (suspension, deletion) = (status.suspension(), status.deletion());
        let suspend_reason = suspension.and_then(|suspension| suspension.reason.clone());
        Self {
            id: id.to_string(),
            display_name: display_name.to_string(),
            owner_user_id,
            owner_email,
            status: OrganizationStatus::from(status.kind()).into(),
            suspended_at: suspension.map(|suspension| timestamp(suspension.at)),
            suspend_reason: suspend_reason.map(String::from).unwrap_or_default(),
            deletion_requested_at: deletion.map(|deletion| timestamp(deletion.requested_at)),
            retention_days: deletion.map(|deletion| deletion.retention.days()),
            purge_after: deletion.map(|deletion| timestamp(deletion.purge_after)),
            created_at: Some(timestamp(created_at)),
            updated_at: Some(timestamp(updated_at)),
            etag,
        }
    }
}

/// What a watcher is told. Both types are of other crates, so this is a function.
pub(crate) fn message(Message { event, resume_token }: Message<Standing>) -> WatchOrganizationsResponse {
    use proto::watch_organizations_response::Event;

    let event = match event {
        watch::Event::Changed(changed) => Event::Changed(change(&changed)),
        watch::Event::Synced => Event::Synced(Synced {}),
        watch::Event::Reset(reason) => Event::Reset(reason.into()),
        watch::Event::Heartbeat(heartbeat) => Event::Heartbeat(heartbeat.into()),
    };
    WatchOrganizationsResponse { event: Some(event), resume_token }
}

fn change(Change { org, now }: &Change<Standing>) -> OrganizationChange {
    use proto::organization_change::Now;

    let (version, now, changed_at) = match now {
        watch::Now::State { version, state } => {
            let status = OrganizationStatus::from(state.status);
            (*version, Now::Status(status.into()), Some(timestamp(state.changed_at)))
        }
        watch::Now::Gone => (0, Now::Gone(Gone {}), None),
        watch::Now::Unreadable => (0, Now::Unreadable(Unreadable {}), None),
    };
    OrganizationChange { org_id: org.to_string(), version, now: Some(now), changed_at }
}

/// [`AuditEvent`] and [`AuditRecord`] are both of other crates, so the conversion has a type of its own.
#[derive(Debug)]
pub(crate) struct Event(pub(crate) AuditEvent);

impl From<AuditRecord> for Event {
    fn from(record: AuditRecord) -> Self {
        let details = record.details.unwrap_or_default();
        let object = |value: Option<Value>| match value {
            Some(Value::Object(map)) => Some(structure(map)),
            _ => None,
        };
        let is_first = record.sequence == 1;
        Self(AuditEvent {
            org_id: record.org_id.to_string(),
            service: SERVICE.to_owned(),
            sequence: record.sequence,
            occurred_at: Some(timestamp(record.occurred_at)),
            actor: record.actor,
            action: record.action,
            reason: details.reason.unwrap_or_default(),
            before: object(details.before),
            after: object(details.after),
            request_id: details.request_id.unwrap_or_default(),
            previous_hash: if is_first { String::new() } else { record.previous_hash.to_string() },
            hash: record.hash.to_string(),
        })
    }
}
