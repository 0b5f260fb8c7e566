//! Protobuf to and from domain types: `TryFrom` checks, `From` cannot fail. `answer` writes what is asked for most.

pub(crate) mod answer;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pulse_entitlements::{
    Answer, BillingState, Entitlements, Grants, InvalidGrant, Name, Source, SubscriptionState,
};
use pulse_kernel::{ApiError, OrgId, Reason, Violations};
use pulse_proto::{
    audit::v1 as audit,
    billing::v1 as wire,
    watch::v1::{Gone, Synced, Unreadable},
};
use pulse_rpc::{
    convert::{duration, structure, timestamp, try_timestamp},
    watch::{self, Change, Message},
};
use pulse_store::audit::AuditRecord;
use serde_json::Value;

use crate::domain::{Key, Note, SetRequest};

/// The name of this service in audit events.
const SERVICE: &str = "billing-state";

/// An attempt to start a trial.
pub(crate) struct StartTrial {
    pub(crate) org: OrgId,
    pub(crate) key: Key,
}

impl TryFrom<wire::StartTrialRequest> for StartTrial {
    type Error = ApiError;

    fn try_from(request: wire::StartTrialRequest) -> Result<Self, ApiError> {
        let key = Key::parse(&request.idempotency_key, "idempotency_key");
        Ok(Self { org: OrgId::parse(&request.org_id)?, key: key? })
    }
}

/// A purge, of anything or only of what one attempt made.
pub(crate) struct PurgeState {
    pub(crate) org: OrgId,
    pub(crate) created_by: Option<Key>,
}

impl TryFrom<wire::PurgeBillingStateRequest> for PurgeState {
    type Error = ApiError;

    fn try_from(request: wire::PurgeBillingStateRequest) -> Result<Self, ApiError> {
        let key = Some(request.created_by_key).filter(|key| !key.is_empty());
        let created_by = key.map(|key| Key::parse(&key, "created_by_key")).transpose();
        Ok(Self { org: OrgId::parse(&request.org_id)?, created_by: created_by? })
    }
}

/// An operator's change.
pub(crate) struct SetState {
    pub(crate) org: OrgId,
    pub(crate) asked: SetRequest,
}

impl TryFrom<wire::SetBillingStateRequest> for SetState {
    type Error = ApiError;

    fn try_from(request: wire::SetBillingStateRequest) -> Result<Self, ApiError> {
        let mut violations = Violations::default();
        let org = violations.keep(OrgId::parse(&request.org_id));
        let note = violations.keep(Note::parse(&request.reason));
        let Some(state) = request.billing_state else {
            violations.push("billing_state", Reason::InvalidRequest, "is required");
            violations.finish()?;
            return Err(ApiError::field(Reason::InvalidRequest, "billing_state", "is required"));
        };
        let subscription_state = violations.keep(subscription_state(state.subscription_state()));
        let plan = Some(state.plan_version.as_str()).filter(|plan| !plan.is_empty());
        let plan_version = violations.keep(plan.map(|plan| name(plan, "plan_version")).transpose());
        let grants = violations.keep(grants(state.capabilities, state.limits, state.meters_enabled));
        let grants = grants.map(|grants| (request.explicit_grants || !grants.is_empty()).then_some(grants));
        let mut time = |time: Option<prost_types::Timestamp>, field| {
            violations.keep(time.map(|time| try_timestamp(time, field)).transpose())
        };
        let trial_ends_at = time(state.trial_ends_at, "trial_ends_at");
        let grace_ends_at = time(state.grace_ends_at, "grace_ends_at");
        violations.finish()?;
        let asked = (|| {
            Some(SetRequest {
                subscription_state: subscription_state?,
                plan_version: plan_version?,
                grants: grants?,
                trial_ends_at: trial_ends_at?,
                grace_ends_at: grace_ends_at?,
                etag: Some(request.etag).filter(|etag| !etag.is_empty()),
                allow_missing: request.allow_missing,
                note: note?,
            })
        })();
        match (org, asked) {
            (Some(org), Some(asked)) => Ok(Self { org, asked }),
            (Some(_) | None, _) => Err(ApiError::internal()),
        }
    }
}

fn subscription_state(state: wire::SubscriptionState) -> Result<SubscriptionState, ApiError> {
    match state {
        // Also what an unknown number reads as; the error names what is accepted.
        wire::SubscriptionState::Unspecified => SubscriptionState::parse(""),
        wire::SubscriptionState::Trial => Ok(SubscriptionState::Trial),
        wire::SubscriptionState::Active => Ok(SubscriptionState::Active),
        wire::SubscriptionState::Grace => Ok(SubscriptionState::Grace),
        wire::SubscriptionState::Expired => Ok(SubscriptionState::Expired),
        wire::SubscriptionState::Suspended => Ok(SubscriptionState::Suspended),
    }
}

fn name(text: &str, field: &str) -> Result<Name, ApiError> {
    Name::parse(text).map_err(|error| invalid(field, &error))
}

fn grants(
    capabilities: Vec<String>,
    limits: impl IntoIterator<Item = (String, i64)>,
    meters: Vec<String>,
) -> Result<Grants, ApiError> {
    let names = |list: Vec<String>, field| {
        list.iter().map(|text| name(text, field)).collect::<Result<BTreeSet<_>, _>>()
    };
    let limits = limits.into_iter().map(|(key, value)| Ok::<_, ApiError>((name(&key, "limits")?, value)));
    let grants = Grants {
        capabilities: names(capabilities, "capabilities")?,
        limits: limits.collect::<Result<BTreeMap<_, _>, _>>()?,
        meters_enabled: names(meters, "meters_enabled")?,
    };
    grants.check().map_err(|(field, error)| invalid(field, &error))?;
    Ok(grants)
}

fn invalid(field: &str, error: &InvalidGrant) -> ApiError {
    ApiError::field(Reason::InvalidRequest, field, error.to_string())
}

/// What a watcher is told.
pub(crate) fn message(
    Message { event, resume_token }: Message<wire::BillingState>,
) -> wire::WatchBillingStatesResponse {
    use wire::watch_billing_states_response::Event;

    let event = match event {
        watch::Event::Changed(changed) => Event::Changed(change(&changed)),
        watch::Event::Synced => Event::Synced(Synced {}),
        watch::Event::Reset(reason) => Event::Reset(reason.into()),
        watch::Event::Heartbeat(heartbeat) => Event::Heartbeat(heartbeat.into()),
    };
    wire::WatchBillingStatesResponse { event: Some(event), resume_token }
}

fn change(Change { org, now }: &Change<wire::BillingState>) -> wire::BillingStateChange {
    use wire::billing_state_change::Now;

    let (revision, now) = match now {
        watch::Now::State { version, state } => (*version, Now::BillingState(state.clone())),
        watch::Now::Gone => (0, Now::Gone(Gone {})),
        watch::Now::Unreadable => (0, Now::Unreadable(Unreadable {})),
    };
    wire::BillingStateChange { org_id: org.to_string(), revision, now: Some(now) }
}

/// A stored state, with its etag.
pub(crate) fn stored(state: &BillingState) -> wire::BillingState {
    wire::BillingState { etag: state.etag(), ..unstored(state) }
}

/// A state that is not stored and so has no etag.
pub(crate) fn unstored(state: &BillingState) -> wire::BillingState {
    let (capabilities, limits, meters_enabled) = wire_grants(&state.grants);
    wire::BillingState {
        org_id: state.org_id.to_string(),
        subscription_state: wire::SubscriptionState::from(Wire(state.subscription_state)).into(),
        plan_version: state.plan_version.to_string(),
        capabilities,
        limits,
        meters_enabled,
        trial_started_at: state.trial_started_at.map(timestamp),
        trial_ends_at: state.trial_ends_at.map(timestamp),
        grace_ends_at: state.grace_ends_at.map(timestamp),
        updated_at: state.updated_at.map(timestamp),
        etag: String::new(),
    }
}

/// An answer on the wire.
pub(crate) fn entitlements(answer: &Answer) -> wire::GetEntitlementsResponse {
    let Entitlements { org_id, subscription_state, plan_version, grants, .. } = &*answer.entitlements;
    let (capabilities, limits, meters_enabled) = wire_grants(grants);
    let time = |time: Option<Timestamp>| time.map(timestamp);
    wire::GetEntitlementsResponse {
        org_id: org_id.to_string(),
        subscription_state: wire::SubscriptionState::from(Wire(*subscription_state)).into(),
        plan_version: plan_version.to_string(),
        capabilities,
        limits,
        meters_enabled,
        trial_started_at: time(answer.entitlements.trial_started_at),
        trial_ends_at: time(answer.entitlements.trial_ends_at),
        valid_until: time(answer.entitlements.valid_until),
        source: wire::EntitlementSource::from(Wire(answer.source)).into(),
        age: Some(duration(answer.age)),
        revision: answer.revision,
    }
}

/// Limits as the generated code wants them.
type WireLimits = std::collections::HashMap<String, i64>;

fn wire_grants(grants: &Grants) -> (Vec<String>, WireLimits, Vec<String>) {
    let names = |set: &BTreeSet<Name>| set.iter().map(Name::to_string).collect();
    let limits = grants.limits.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    (names(&grants.capabilities), limits, names(&grants.meters_enabled))
}

/// Lets a foreign type be converted into a foreign type.
struct Wire<T>(T);

impl From<Wire<SubscriptionState>> for wire::SubscriptionState {
    fn from(Wire(state): Wire<SubscriptionState>) -> Self {
        match state {
            SubscriptionState::Trial => Self::Trial,
            SubscriptionState::Active => Self::Active,
            SubscriptionState::Grace => Self::Grace,
            SubscriptionState::Expired => Self::Expired,
            SubscriptionState::Suspended => Self::Suspended,
        }
    }
}

impl From<Wire<Source>> for wire::EntitlementSource {
    fn from(Wire(source): Wire<Source>) -> Self {
        match source {
            Source::Fresh => Self::Fresh,
            Source::Cached => Self::Cached,
            Source::Stale => Self::Stale,
            Source::Default => Self::Default,
        }
    }
}

/// An audit record as an event.
pub(crate) fn audit_event(record: AuditRecord) -> audit::AuditEvent {
    let details = record.details.unwrap_or_default();
    let object = |value: Option<Value>| match value {
        Some(Value::Object(map)) => Some(structure(map)),
        Some(_) | None => None,
    };
    audit::AuditEvent {
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
        previous_hash: if record.sequence == 1 { String::new() } else { record.previous_hash.to_string() },
        hash: record.hash.to_string(),
    }
}

/// What a request for a list of audit events asks for.
pub(crate) struct ListAudit {
    pub(crate) org: OrgId,
    /// Only records before this one.
    pub(crate) before: Option<i64>,
    pub(crate) size: usize,
}

impl TryFrom<wire::ListAuditEventsRequest> for ListAudit {
    type Error = ApiError;

    fn try_from(request: wire::ListAuditEventsRequest) -> Result<Self, ApiError> {
        Ok(Self {
            org: OrgId::parse(&request.org_id)?,
            before: pulse_rpc::page::cursor(&request.page_token)?,
            size: pulse_rpc::page::size(request.page_size)?,
        })
    }
}

/// The page of records that were found; one more than fit says that there is another page.
pub(crate) fn audit_page(mut records: Vec<AuditRecord>, size: usize) -> wire::ListAuditEventsResponse {
    let is_more = records.len() > size;
    records.truncate(size);
    let last = records.last().filter(|_| is_more);
    let next_page_token = last.map(|record| pulse_rpc::page::token(&record.sequence)).unwrap_or_default();
    let audit_events = records.into_iter().map(audit_event).collect();
    wire::ListAuditEventsResponse { audit_events, next_page_token }
}
