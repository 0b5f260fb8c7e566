//! A billing state as JSON. One form for `billing.json`, which people edit, and for the audit, which outlives it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pulse_entitlements::{BillingState, Grants, Name, SubscriptionState};
use pulse_kernel::OrgId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The audit's name for what the transition table says about a change.
const CHANGE: &str = "change";

/// The audit's name for the key of the request that made the first state.
const CREATED_BY_KEY: &str = "created_by_key";

/// The fields of `billing.json`, in their order there.
///
/// A field that is not one of these is an error: a misspelt one would silently do nothing. Times may be left out, and
/// so may the etag, which is never read: the etag of a state is that of its content.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    org_id: OrgId,
    subscription_state: SubscriptionState,
    plan_version: Name,
    capabilities: BTreeSet<Name>,
    limits: BTreeMap<Name, i64>,
    meters_enabled: BTreeSet<Name>,
    trial_started_at: Option<Timestamp>,
    trial_ends_at: Option<Timestamp>,
    grace_ends_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
    etag: Option<String>,
}

impl Document {
    /// The document of a state.
    pub fn of(state: &BillingState) -> Self {
        let etag = Some(state.etag());
        let BillingState { org_id, subscription_state, plan_version, grants, .. } = state.clone();
        Self {
            org_id,
            subscription_state,
            plan_version,
            capabilities: grants.capabilities,
            limits: grants.limits,
            meters_enabled: grants.meters_enabled,
            trial_started_at: state.trial_started_at,
            trial_ends_at: state.trial_ends_at,
            grace_ends_at: state.grace_ends_at,
            updated_at: state.updated_at,
            etag,
        }
    }

    /// The text of the file.
    ///
    /// # Errors
    /// Never, as every key is text; the type knows it only by trying.
    pub fn to_text(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// Reads the text of the file of `org`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &[u8], org: &OrgId) -> Result<BillingState, String> {
        let document: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if document.org_id != *org {
            return Err(format!("org_id is {}, but this is the folder of {org}", document.org_id));
        }
        document.into_state()
    }

    fn into_state(self) -> Result<BillingState, String> {
        let grants = Grants {
            capabilities: self.capabilities,
            limits: self.limits,
            meters_enabled: self.meters_enabled,
        };
        grants.check().map_err(|(field, error)| format!("{field} {error}"))?;
        Ok(BillingState {
            org_id: self.org_id,
            subscription_state: self.subscription_state,
            plan_version: self.plan_version,
            grants,
            trial_started_at: self.trial_started_at,
            trial_ends_at: self.trial_ends_at,
            grace_ends_at: self.grace_ends_at,
            updated_at: self.updated_at,
        })
    }
}

/// A state as the audit's `before`.
pub fn before(state: &BillingState) -> Option<Value> {
    serde_json::to_value(Document::of(state)).ok()
}

/// A state as the audit's `after`, with what the audit says besides.
pub fn after(state: &BillingState, change: &str, created_by_key: Option<&str>) -> Option<Value> {
    let mut after = before(state)?;
    let notes = after.as_object_mut()?;
    notes.insert(CHANGE.to_owned(), change.into());
    if let Some(key) = created_by_key {
        notes.insert(CREATED_BY_KEY.to_owned(), key.into());
    }
    Some(after)
}

/// The key in an `after`.
pub fn created_by_key(after: &Value) -> Option<&str> {
    after.get(CREATED_BY_KEY)?.as_str()
}

/// The etag in an `after`.
pub fn etag(after: &Value) -> Option<&str> {
    after.get("etag")?.as_str()
}

/// The state in an `after`.
pub fn state(after: &Value) -> Option<BillingState> {
    let mut document = after.clone();
    let notes = document.as_object_mut()?;
    notes.remove(CHANGE);
    notes.remove(CREATED_BY_KEY);
    serde_json::from_value::<Document>(document).ok()?.into_state().ok()
}
