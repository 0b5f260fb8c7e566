//! What is stored about a tenant's subscription.

use jiff::Timestamp;
use pulse_kernel::OrgId;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{Grants, Name, SubscriptionState};

/// A tenant's billing state, as its owner stores it. What it entitles to right now is [`effective()`](crate::effective()).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BillingState {
    /// Whose it is.
    pub org_id: OrgId,
    /// As set; time may have passed it, see [`effective()`](crate::effective()).
    pub subscription_state: SubscriptionState,
    /// The plan that the tenant is on.
    pub plan_version: Name,
    /// What the tenant may use while its subscription is not locked.
    #[serde(flatten)]
    pub grants: Grants,
    /// When the trial began.
    pub trial_started_at: Option<Timestamp>,
    /// From this instant on a trial is expired. None: the trial does not end by itself.
    pub trial_ends_at: Option<Timestamp>,
    /// From this instant on a grace is expired. None: the grace does not end by itself.
    pub grace_ends_at: Option<Timestamp>,
    /// When it was last written; none for a default that was never stored.
    pub updated_at: Option<Timestamp>,
}

impl BillingState {
    /// A tag of the content: 32 hexadecimal digits that differ when any field does, whoever wrote it.
    ///
    /// It is made from the content and not stored beside it, so that an edit by hand changes it too.
    pub fn etag(&self) -> String {
        let mut hasher = HashWriter(Sha256::new());
        // Fields in the order of the struct, maps and sets in the order of their keys: one content, one text.
        // Writing numbers, strings and maps with string keys into a hasher cannot fail.
        let _ = serde_json::to_writer(&mut hasher, self);
        hex::encode(&hasher.0.finalize()[..16])
    }
}

/// Feeds what is written to a hash.
struct HashWriter(Sha256);

impl std::io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use jiff::ToSpan;

    use super::*;
    use crate::grants::tests::grants;

    pub(crate) fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// A state that ends, where its kind does, at `at(1000)`.
    pub(crate) fn billing(subscription_state: SubscriptionState) -> BillingState {
        BillingState {
            org_id: OrgId::parse("acme").unwrap(),
            subscription_state,
            plan_version: Name::parse("pro").unwrap(),
            grants: grants(&["alerting", "dashboards"], &[("hosts", 50)], &["bytes"]),
            trial_started_at: Some(at(0)),
            trial_ends_at: Some(at(1000)),
            grace_ends_at: Some(at(1000)),
            updated_at: Some(at(0)),
        }
    }

    #[test]
    fn the_etag_follows_every_field() {
        let state = billing(SubscriptionState::Trial);
        assert_eq!(state.etag(), billing(SubscriptionState::Trial).etag());
        assert_eq!(state.etag().len(), 32);
        let edits: [fn(&mut BillingState); 10] = [
            |s| s.org_id = OrgId::default_org(),
            |s| s.subscription_state = SubscriptionState::Active,
            |s| s.plan_version = Name::trial_plan(),
            |s| s.grants.capabilities.clear(),
            |s| s.grants.limits.clear(),
            |s| s.grants.meters_enabled.clear(),
            |s| s.trial_started_at = None,
            |s| s.trial_ends_at = Some(at(1000) + 1.nanosecond()),
            |s| s.grace_ends_at = None,
            |s| s.updated_at = None,
        ];
        let mut seen = vec![state.etag()];
        for edit in edits {
            let mut changed = state.clone();
            edit(&mut changed);
            let etag = changed.etag();
            assert!(!seen.contains(&etag), "{changed:?}");
            seen.push(etag);
        }
    }
}
