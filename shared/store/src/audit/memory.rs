//! Audit chains in memory, for the model stores of simulation and tests.

use std::collections::BTreeMap;

use pulse_kernel::OrgId;

use super::{AuditDraft, AuditRecord, Broken, Head, Salt, seal, verify};

/// The chains of all tenants.
#[derive(Debug, Clone, Default)]
pub struct Chains(BTreeMap<OrgId, Chain>);

#[derive(Debug, Clone)]
struct Chain {
    head: Head,
    records: Vec<AuditRecord>,
}

impl Chains {
    /// Seals the draft as the next record of its tenant.
    pub fn append(&mut self, draft: AuditDraft, salt: Salt) -> AuditRecord {
        let chain = self
            .0
            .entry(draft.org_id.clone())
            .or_insert_with(|| Chain { head: Head::EMPTY, records: Vec::new() });
        let record = seal(Some(&chain.head), draft, salt);
        chain.head = record.head();
        chain.records.push(record.clone());
        record
    }

    /// The tenant's records with a sequence below `before_sequence`, newest first, at most `limit`.
    pub fn list(&self, org_id: &OrgId, before_sequence: Option<i64>, limit: usize) -> Vec<AuditRecord> {
        let records = self.0.get(org_id).into_iter().flat_map(|chain| chain.records.iter().rev());
        let below = |record: &&AuditRecord| before_sequence.is_none_or(|before| record.sequence < before);
        records.filter(below).take(limit).cloned().collect()
    }

    /// Erases the details of all records of the tenant.
    pub fn erase_details(&mut self, org_id: &OrgId) {
        for record in self.0.get_mut(org_id).into_iter().flat_map(|chain| &mut chain.records) {
            record.details = None;
            record.salt = None;
        }
    }

    /// Forgets the tenant's chain.
    pub fn delete(&mut self, org_id: &OrgId) {
        self.0.remove(org_id);
    }

    /// Verifies every chain; returns those that are broken.
    pub fn verify_all(&self) -> Vec<(OrgId, Broken)> {
        let broken = |(org_id, chain): (&OrgId, &Chain)| {
            verify(&chain.records, Some(&chain.head)).err().map(|broken| (org_id.clone(), broken))
        };
        self.0.iter().filter_map(broken).collect()
    }
}
