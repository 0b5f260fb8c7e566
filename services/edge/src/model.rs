//! What the REST surface shows and takes, as the contract's section 3 has it. The schemas in the OpenAPI document are
//! those of these types.
//!
//! Answers have all their keys, with null where something is absent; times are RFC 3339, UTC.

use std::{collections::BTreeMap, str::FromStr};

use jiff::Timestamp;
use pulse_kernel::Reason;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};
use utoipa::ToSchema;

use crate::{
    etag::Tagged,
    extract::{FromMembers, Members},
};

/// A tenant, as operators see it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Organization {
    /// Never used twice.
    #[schema(pattern = "^[a-z0-9][a-z0-9-]{0,63}$")]
    pub(crate) id: String,
    /// As its owner typed it.
    pub(crate) display_name: String,
    /// The owner's account; the default organization has none.
    #[schema(required = true)]
    pub(crate) owner_user_id: Option<String>,
    /// The owner's email address, as typed.
    #[schema(required = true)]
    pub(crate) owner_email: Option<String>,
    /// Where it is in its life.
    pub(crate) status: OrganizationStatus,
    /// Since when it is suspended; also while a suspended one is pending deletion.
    #[schema(required = true)]
    pub(crate) suspended_at: Option<Timestamp>,
    /// Why it is suspended.
    #[schema(required = true)]
    pub(crate) suspend_reason: Option<String>,
    /// When its deletion was asked for.
    #[schema(required = true)]
    pub(crate) deletion_requested_at: Option<Timestamp>,
    /// For how many days it can be restored.
    #[schema(required = true, value_type = Option<f64>)]
    pub(crate) retention_days: Option<Number>,
    /// When it is due to be removed for good.
    #[schema(required = true)]
    pub(crate) purge_after: Option<Timestamp>,
    /// When it was made.
    #[schema(required = true)]
    pub(crate) created_at: Option<Timestamp>,
    /// When it last changed.
    #[schema(required = true)]
    pub(crate) updated_at: Option<Timestamp>,
    /// Changes whenever anything above does.
    pub(crate) etag: String,
}

impl Tagged for Organization {
    fn etag(&self) -> Option<&str> {
        Some(&self.etag).filter(|etag| !etag.is_empty()).map(String::as_str)
    }
}

/// Where an organization is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OrganizationStatus {
    /// Being made.
    Provisioning,
    /// In use.
    Active,
    /// Suspended by an operator.
    Suspended,
    /// Deleted, and can be restored.
    PendingDeletion,
    /// Being removed for good.
    Purging,
}

impl FromStr for OrganizationStatus {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::deserialize(Value::from(name))
            .map_err(|_| "must be provisioning, active, suspended, pending_deletion or purging".to_owned())
    }
}

/// A page of organizations, by id.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrganizationPage {
    /// The organizations.
    pub(crate) organizations: Vec<Organization>,
    /// Leads to the next page; empty on the last.
    pub(crate) next_page_token: String,
}

/// What a tenant pays for, and until when.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BillingState {
    /// The tenant.
    pub(crate) org_id: String,
    /// Where its subscription stands.
    pub(crate) subscription_state: SubscriptionState,
    /// Its plan.
    pub(crate) plan_version: String,
    /// What it may do.
    pub(crate) capabilities: Vec<String>,
    /// How much of it.
    pub(crate) limits: BTreeMap<String, i64>,
    /// What is metered.
    pub(crate) meters_enabled: Vec<String>,
    /// When its trial began.
    #[schema(required = true)]
    pub(crate) trial_started_at: Option<Timestamp>,
    /// When its trial ends.
    #[schema(required = true)]
    pub(crate) trial_ends_at: Option<Timestamp>,
    /// When its grace ends.
    #[schema(required = true)]
    pub(crate) grace_ends_at: Option<Timestamp>,
    /// When it last changed; null where this is the default and none is stored.
    #[schema(required = true)]
    pub(crate) updated_at: Option<Timestamp>,
    /// Changes whenever anything above does; null where none is stored.
    #[schema(required = true)]
    pub(crate) etag: Option<String>,
}

impl Tagged for BillingState {
    fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }
}

/// Where a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SubscriptionState {
    /// Trying the product.
    Trial,
    /// Paying.
    Active,
    /// A payment failed; everything works for a while.
    Grace,
    /// Over.
    Expired,
    /// Suspended by billing.
    Suspended,
}

/// A change of one tenant's state in one service.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditEvent {
    /// The service that made the change.
    #[schema(example = "lifecycle")]
    pub(crate) service: String,
    /// Its place in this tenant's chain in that service: 1, 2, 3 and so on.
    #[schema(minimum = 1)]
    pub(crate) sequence: i64,
    /// When it happened.
    pub(crate) occurred_at: Timestamp,
    /// Who did it: an operator's name, or `service:` and a service's.
    pub(crate) actor: String,
    /// What was done.
    #[schema(example = "organization_suspended")]
    pub(crate) action: String,
    /// Why, in the operator's words.
    #[schema(required = true)]
    pub(crate) reason: Option<String>,
    /// The state before, as far as it changed.
    #[schema(required = true, value_type = Option<Object>)]
    pub(crate) before: Option<Map<String, Value>>,
    /// The state after, as far as it changed.
    #[schema(required = true, value_type = Option<Object>)]
    pub(crate) after: Option<Map<String, Value>>,
    /// The request that caused it.
    #[schema(required = true)]
    pub(crate) request_id: Option<String>,
    /// Hash of the record before it and of this one: SHA-256 in hex.
    pub(crate) hash: String,
}

/// A page of audit events, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditEventPage {
    /// The events.
    pub(crate) audit_events: Vec<AuditEvent>,
    /// Leads to the next page; empty on the last.
    pub(crate) next_page_token: String,
}

/// What a stranger signs up with.
#[derive(Debug, ToSchema)]
pub(crate) struct SignUpBody {
    /// The owner's email address.
    #[schema(format = Email, max_length = 254, example = "ann@example.com")]
    pub(crate) email: String,
    /// The owner's password: at least 8 characters, not easy to guess.
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 1024, example = "orbit-lantern-72-quartz")]
    pub(crate) password: SecretString,
    /// The organization's name: no slashes, no invisible characters.
    #[schema(min_length = 3, max_length = 64, example = "Acme, Inc.")]
    pub(crate) org_name: String,
}

impl FromMembers for SignUpBody {
    /// A field that is missing is an empty one: the gateway then names it together with whatever else is wrong.
    fn from_members(members: &mut Members) -> Self {
        Self {
            email: members.take("email", "a string").unwrap_or_default(),
            password: members.take::<String>("password", "a string").unwrap_or_default().into(),
            org_name: members.take("org_name", "a string").unwrap_or_default(),
        }
    }
}

/// The tenant of a signup.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignUpAnswer {
    /// The tenant.
    pub(crate) org_id: String,
    /// Its owner's account.
    pub(crate) user_id: String,
    /// Whether this request made it.
    pub(crate) status: SignUpStatus,
    /// When its trial ends; null when it has none any more.
    #[schema(required = true)]
    pub(crate) trial_ends_at: Option<Timestamp>,
}

/// Whether a signup made the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SignUpStatus {
    /// It did.
    Created,
    /// The tenant was there before.
    Existing,
}

/// A billing state to store. It has every field of an answer, so that one may be read, edited and sent back.
#[derive(Debug, ToSchema)]
pub(crate) struct SetBillingStateBody {
    /// Where the subscription stands from now on.
    pub(crate) subscription_state: SubscriptionState,
    /// The plan; the one it has when absent.
    #[schema(nullable, required = false)]
    pub(crate) plan_version: String,
    /// What the tenant may do. Where this, the limits and the meters are all absent, the plan says.
    #[schema(nullable, required = false)]
    pub(crate) capabilities: Option<Vec<String>>,
    /// How much of it.
    #[schema(nullable, required = false)]
    pub(crate) limits: Option<BTreeMap<String, i64>>,
    /// What is metered.
    #[schema(nullable, required = false)]
    pub(crate) meters_enabled: Option<Vec<String>>,
    /// When the trial ends.
    pub(crate) trial_ends_at: Option<Timestamp>,
    /// When the grace ends.
    pub(crate) grace_ends_at: Option<Timestamp>,
    /// Why, for the audit record.
    #[schema(nullable, required = false)]
    pub(crate) reason: String,
    /// Only replace the state that has this etag, as with `If-Match`, which wins where both are sent.
    pub(crate) etag: Option<String>,
    /// Ignored: the path says whose state it is.
    #[expect(dead_code, reason = "so that an answer can be sent back")]
    pub(crate) org_id: Option<String>,
    /// Ignored: a trial that began is not moved.
    #[expect(dead_code, reason = "so that an answer can be sent back")]
    pub(crate) trial_started_at: Option<String>,
    /// Ignored: this is now.
    #[expect(dead_code, reason = "so that an answer can be sent back")]
    pub(crate) updated_at: Option<String>,
}

impl FromMembers for SetBillingStateBody {
    fn from_members(members: &mut Members) -> Self {
        const STATES: &str = "trial, active, grace, expired or suspended";
        const TIME: &str = "an RFC 3339 time such as 2026-01-31T00:00:00Z";
        const NAMES: &str = "a list of strings";
        const LIMITS: &str = "an object of whole numbers";
        const STATE: &str = "subscription_state";
        let reason = Reason::InvalidSubscriptionState;
        Self {
            subscription_state: members
                .require_or(STATE, reason, STATES)
                .unwrap_or(SubscriptionState::Expired),
            plan_version: members.take("plan_version", "a string").unwrap_or_default(),
            capabilities: members.take("capabilities", NAMES),
            limits: members.take("limits", LIMITS),
            meters_enabled: members.take("meters_enabled", NAMES),
            trial_ends_at: members.take("trial_ends_at", TIME),
            grace_ends_at: members.take("grace_ends_at", TIME),
            reason: members.take("reason", "a string").unwrap_or_default(),
            etag: members.take("etag", "a string"),
            org_id: members.take("org_id", "a string"),
            trial_started_at: members.take("trial_started_at", "a string"),
            updated_at: members.take("updated_at", "a string"),
        }
    }
}

impl SetBillingStateBody {
    /// Whether the body says itself what is granted, be it nothing.
    pub(crate) const fn has_grants(&self) -> bool {
        self.capabilities.is_some() || self.limits.is_some() || self.meters_enabled.is_some()
    }
}

/// Why an operator does something.
#[derive(Debug, ToSchema)]
pub(crate) struct ReasonBody {
    /// Kept in the audit record.
    #[schema(nullable, required = false, max_length = 500)]
    pub(crate) reason: String,
}

impl FromMembers for ReasonBody {
    fn from_members(members: &mut Members) -> Self {
        Self { reason: take_reason(members) }
    }
}

/// The longest reason, in characters, as lifecycle has it.
const MAX_REASON: usize = 500;

/// Refused here too, so that a reason that is too long is told as such whatever else stands in its way.
fn take_reason(members: &mut Members) -> String {
    let reason: String = members.take("reason", "a string").unwrap_or_default();
    if reason.chars().count() > MAX_REASON {
        members.refuse(
            "reason",
            Reason::InvalidRequest,
            format!("must be at most {MAX_REASON} characters long"),
        );
    }
    reason
}

/// How an organization is deleted.
#[derive(Debug, ToSchema)]
pub(crate) struct SoftDeleteBody {
    /// For how many days it can be restored, fractions included; the configured retention when absent.
    #[schema(exclusive_minimum = 0)]
    pub(crate) retention_days: Option<f64>,
    /// Kept in the audit record.
    #[schema(nullable, required = false, max_length = 500)]
    pub(crate) reason: String,
}

impl FromMembers for SoftDeleteBody {
    fn from_members(members: &mut Members) -> Self {
        const FIELD: &str = "retention_days";
        const EXPECTED: &str = "a number of days above 0";
        let invalid = Reason::InvalidRetentionDays;
        let retention_days = members.take_or::<f64>(FIELD, invalid, EXPECTED);
        if retention_days.is_some_and(|days| days <= 0.0) {
            members.refuse(FIELD, invalid, format!("must be {EXPECTED}"));
        }
        Self { retention_days, reason: take_reason(members) }
    }
}
