//! The audit chain: one per tenant and service, in which every record carries the hash of the one before.
//!
//! | item | is |
//! |---|---|
//! | [`seal`] | makes a draft the next record of a chain |
//! | [`verify()`], [`Verifier`] | find the first record that was altered, dropped, moved or cut off |
//! | [`memory`], [`sqlite`], [`postgres`] | where chains are kept |
//!
//! What may hold personal data, the [`Details`], enters the chain only as a salted hash. Erasing details and
//! salt when a tenant is purged leaves a chain that still verifies and from which nothing can be guessed.
//!
//! The head is stored apart from the records, because a chain that was cut short is in itself intact.

pub mod canonical;
pub mod hash;
pub mod memory;
pub mod postgres;
pub mod sqlite;
mod verify;

use jiff::Timestamp;
use pulse_kernel::OrgId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use hash::{Hash, Salt};
pub use verify::{Broken, Damage, Verifier, verify};

use crate::time;

/// What happened, before it has its place in a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditDraft {
    /// The tenant that it happened to.
    pub org_id: OrgId,
    /// When; kept to the microsecond.
    pub at: Timestamp,
    /// The authenticated principal: an operator token's name, or `service:<name>`.
    pub actor: String,
    /// What was done, as a verb in the past: `organization_suspended`.
    pub action: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// What was changed, as it was.
    pub before: Option<Value>,
    /// What was changed, as it is now.
    pub after: Option<Value>,
    /// The request that did it, as the logs and traces know it.
    pub request_id: Option<String>,
}

/// The part of a record that may hold personal data, and so can be erased.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Details {
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was changed, as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What was changed, as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// The request that did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// A record in its place. It never changes, except that its details and salt may be erased together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRecord {
    /// The tenant that it happened to.
    pub org_id: OrgId,
    /// Counts the tenant's records of this service, from 1, without gaps.
    pub sequence: i64,
    /// When, to the microsecond.
    pub occurred_at: Timestamp,
    /// The authenticated principal.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// `None` once erased.
    pub details: Option<Details>,
    /// Keeps erased details from being guessed by their hash. `None` once erased.
    pub salt: Option<Salt>,
    /// The hash of salt and details, which stays when they are erased.
    pub details_hash: Hash,
    /// The hash of the record before; [`Hash::ZERO`] for the first.
    pub previous_hash: Hash,
    /// The hash of everything above but the details and the salt themselves.
    pub hash: Hash,
}

impl AuditRecord {
    /// The head of the chain that ends with this record.
    pub fn head(&self) -> Head {
        Head { sequence: self.sequence, hash: self.hash }
    }

    /// The same record without what may hold personal data; the chain verifies as before.
    #[must_use]
    pub fn erased(self) -> Self {
        Self { details: None, salt: None, ..self }
    }

    fn computed_hash(&self) -> Hash {
        Hash::of_fields(&[
            b"pulse-audit-record-v1",
            &self.previous_hash.0,
            self.org_id.as_str().as_bytes(),
            &self.sequence.to_be_bytes(),
            &time::to_micros(self.occurred_at).to_be_bytes(),
            self.actor.as_bytes(),
            self.action.as_bytes(),
            &self.details_hash.0,
        ])
    }
}

/// Where a chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The last record's sequence; 0 for a chain without records.
    pub sequence: i64,
    /// The last record's hash.
    pub hash: Hash,
}

impl Head {
    /// The head of a chain without records.
    pub const EMPTY: Self = Self { sequence: 0, hash: Hash::ZERO };
}

/// Makes `draft` the record that follows `head`, or the first one. The salt must be fresh and random.
pub fn seal(head: Option<&Head>, draft: AuditDraft, salt: Salt) -> AuditRecord {
    let head = head.copied().unwrap_or(Head::EMPTY);
    let AuditDraft { org_id, at, actor, action, reason, before, after, request_id } = draft;
    // A `null` value and no value are the same in JSON, so they must be the same here.
    let present = |value: Option<Value>| value.filter(|value| !value.is_null());
    let details = Details { reason, before: present(before), after: present(after), request_id };
    let mut record = AuditRecord {
        org_id,
        sequence: head.sequence + 1,
        occurred_at: time::truncate(at),
        actor,
        action,
        details_hash: details_hash(&salt, &details),
        details: Some(details),
        salt: Some(salt),
        previous_hash: head.hash,
        hash: Hash::ZERO,
    };
    record.hash = record.computed_hash();
    record
}

fn details_hash(salt: &Salt, details: &Details) -> Hash {
    Hash::of_fields(&[b"pulse-audit-details-v1", &salt.0, &canonical::details(details)])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn draft(number: i64) -> AuditDraft {
        AuditDraft {
            org_id: OrgId::parse("acme").unwrap(),
            at: Timestamp::new(1_700_000_000 + number, 123_456_789).unwrap(),
            actor: "ann".to_owned(),
            action: "organization_suspended".to_owned(),
            reason: Some(format!("reason {number}")),
            before: Some(json!({"status": "active", "days": 0.1})),
            after: Some(json!({"status": "suspended", "nested": {"b": [1, 2.5, null], "a": "é\"\n"}})),
            request_id: None,
        }
    }

    #[test]
    fn a_record_reads_back_from_json_and_verifies() {
        let first = seal(None, draft(1), Salt([7; 16]));
        let second = seal(Some(&first.head()), draft(2), Salt([8; 16]));
        let lines: Vec<AuditRecord> = [&first, &second]
            .map(|record| serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap())
            .into();
        assert_eq!(lines, [first, second.clone()]);
        assert_eq!(verify(&lines, Some(&second.head())).unwrap(), second.head());
    }

    #[test]
    fn the_format_of_the_hash_is_fixed() {
        // A change of this value makes every chain on disk look forged.
        let record = seal(None, draft(1), Salt([7; 16]));
        assert_eq!(
            record.hash.to_string(),
            "2ffd29958bc20adb52e3516ab8e9eee9e7dcc46026fcb335f65ae22bd6a336a2"
        );
    }

    #[test]
    fn null_and_absent_values_are_the_same() {
        let with = |before| seal(None, AuditDraft { before, ..draft(1) }, Salt([7; 16]));
        assert_eq!(with(None), with(Some(Value::Null)));
    }

    #[test]
    fn the_salt_hides_equal_details() {
        let hash = |salt| seal(None, draft(1), Salt([salt; 16])).details_hash;
        assert_ne!(hash(1), hash(2));
    }
}
