//! Finding the first record of a chain that is not what was sealed.

use std::fmt;

use pulse_kernel::OrgId;

use super::{AuditRecord, Head, details_hash};

/// A chain that does not verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {sequence}: {what}")]
pub struct Broken {
    /// The first record that is wrong or missing.
    pub sequence: i64,
    /// What is wrong with it.
    pub what: Damage,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// It belongs to another tenant than the first record.
    ForeignTenant,
    /// Another record stands in its place: it was dropped or moved.
    OutOfOrder {
        /// The sequence of the record that was found there.
        found: i64,
    },
    /// It does not follow the record before it, one of the two having been replaced.
    Unlinked,
    /// Its details, or the salt, are not those that were sealed, or only one of the two was erased.
    DetailsAltered,
    /// Something else in it was altered.
    Altered,
    /// The stored head says that there is such a record, and there is none: the chain was cut short.
    Missing,
    /// The stored head says that there is no such record.
    BeyondHead,
    /// It is the last record, but not the one that the stored head names.
    NotTheHead,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignTenant => f.write_str("belongs to another tenant"),
            Self::OutOfOrder { found } => write!(f, "record {found} stands in its place"),
            Self::Unlinked => f.write_str("does not follow the record before it"),
            Self::DetailsAltered => f.write_str("its details were altered"),
            Self::Altered => f.write_str("was altered"),
            Self::Missing => f.write_str("is missing: the chain was cut short"),
            Self::BeyondHead => f.write_str("lies beyond the head of the chain"),
            Self::NotTheHead => f.write_str("is not the head of the chain"),
        }
    }
}

/// Verifies a chain record by record, oldest first, so that it need not fit in memory.
#[derive(Debug, Default)]
pub struct Verifier {
    org_id: Option<OrgId>,
    head: Option<Head>,
}

impl Verifier {
    /// Verifies the part of a chain that follows the record with this head, which is taken for what it is.
    pub fn after(head: Head) -> Self {
        Self { org_id: None, head: Some(head) }
    }

    /// Checks the next record.
    ///
    /// # Errors
    /// What is wrong with it, or which one is missing before it.
    pub fn push(&mut self, record: &AuditRecord) -> Result<(), Broken> {
        let head = self.head.unwrap_or(Head::EMPTY);
        let sequence = head.sequence + 1;
        let broken = |what| Err(Broken { sequence, what });
        if self.org_id.get_or_insert_with(|| record.org_id.clone()) != &record.org_id {
            return broken(Damage::ForeignTenant);
        }
        if record.sequence != sequence {
            return broken(Damage::OutOfOrder { found: record.sequence });
        }
        let details_match = match (&record.salt, &record.details) {
            (None, None) => true,
            (Some(salt), Some(details)) => details_hash(salt, details) == record.details_hash,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !details_match {
            return broken(Damage::DetailsAltered);
        }
        if record.computed_hash() != record.hash {
            return broken(Damage::Altered);
        }
        if record.previous_hash != head.hash {
            return broken(Damage::Unlinked);
        }
        self.head = Some(record.head());
        Ok(())
    }

    /// Compares where the chain ends with the head that is stored apart; without one, nothing is said about
    /// records missing at the end.
    ///
    /// # Errors
    /// When the two disagree.
    pub fn finish(self, expected: Option<&Head>) -> Result<Head, Broken> {
        let head = self.head.unwrap_or(Head::EMPTY);
        let Some(expected) = expected else { return Ok(head) };
        let broken = |sequence, what| Err(Broken { sequence, what });
        if head.sequence < expected.sequence {
            return broken(head.sequence + 1, Damage::Missing);
        }
        if head.sequence > expected.sequence {
            return broken(expected.sequence + 1, Damage::BeyondHead);
        }
        if head.hash != expected.hash {
            return broken(head.sequence, Damage::NotTheHead);
        }
        Ok(head)
    }
}

/// Verifies the chain of one tenant, oldest record first, against the head that is stored apart.
///
/// # Errors
/// The first record that is altered, out of place, missing or too many.
pub fn verify<'a>(
    records: impl IntoIterator<Item = &'a AuditRecord>,
    expected_head: Option<&Head>,
) -> Result<Head, Broken> {
    let mut verifier = Verifier::default();
    for record in records {
        verifier.push(record)?;
    }
    verifier.finish(expected_head)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proptest::prelude::*;

    use super::*;
    use crate::audit::{Salt, seal, tests::draft};

    fn chain(length: i64) -> Vec<AuditRecord> {
        let mut records: Vec<AuditRecord> = Vec::new();
        for number in 1..=length {
            let head = records.last().map(AuditRecord::head);
            records.push(seal(head.as_ref(), draft(number), Salt([u8::try_from(number).unwrap(); 16])));
        }
        records
    }

    /// Every field that an intruder could change, each on its own.
    fn alter(record: &mut AuditRecord, how: usize) {
        match how {
            0 => record.actor.push('x'),
            1 => record.action.push('x'),
            2 => record.occurred_at += SignedDuration::from_micros(1),
            3 => record.details_hash.0[31] ^= 1,
            4 => record.previous_hash.0[0] ^= 0x80,
            5 => record.hash.0[16] ^= 1,
            6 => record.details.as_mut().unwrap().reason = None,
            7 => record.details.as_mut().unwrap().after = None,
            8 => record.salt.as_mut().unwrap().0[0] ^= 1,
            9 => record.salt = None,
            10 => record.details = None,
            11 => record.org_id = OrgId::parse("other").unwrap(),
            12 => record.sequence += 1,
            // Text moved from one field to its neighbour: the encoding must tell them apart.
            13 => {
                let moved = record.actor.pop().unwrap();
                record.action.insert(0, moved);
            }
            _ => unreachable!(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn an_intact_chain_verifies_with_any_details_erased(length in 0_i64..12, erased in any::<[bool; 12]>()) {
            let records = chain(length);
            let head = records.last().map_or(Head::EMPTY, AuditRecord::head);
            let records: Vec<_> = records
                .into_iter()
                .zip(erased)
                .map(|(record, erase)| if erase { record.erased() } else { record })
                .collect();
            prop_assert_eq!(verify(&records, Some(&head)), Ok(head));
        }

        #[test]
        fn an_altered_record_is_named(length in 2_i64..12, at in any::<prop::sample::Index>(), how in 0_usize..14) {
            let mut records = chain(length);
            let head = records.last().unwrap().head();
            let index = at.index(records.len());
            alter(&mut records[index], how);
            let broken = verify(&records, Some(&head)).unwrap_err();
            // A foreign first record is noticed by its hash, as it is the one that names the tenant.
            prop_assert_eq!(broken.sequence, i64::try_from(index).unwrap() + 1, "{}", broken);
        }

        #[test]
        fn a_dropped_record_is_named(length in 1_i64..12, at in any::<prop::sample::Index>()) {
            let mut records = chain(length);
            let head = records.last().unwrap().head();
            let index = at.index(records.len());
            records.remove(index);
            let broken = verify(&records, Some(&head)).unwrap_err();
            prop_assert_eq!(broken.sequence, i64::try_from(index).unwrap() + 1);
        }

        #[test]
        fn swapped_records_are_named(
            length in 2_i64..12,
            one in any::<prop::sample::Index>(),
            other in any::<prop::sample::Index>(),
        ) {
            let mut records = chain(length);
            let (one, other) = (one.index(records.len()), other.index(records.len()));
            prop_assume!(one != other);
            records.swap(one, other);
            let broken = verify(&records, None).unwrap_err();
            prop_assert_eq!(broken.sequence, i64::try_from(one.min(other)).unwrap() + 1);
        }

        #[test]
        fn a_chain_cut_short_or_grown_behind_its_head_is_named(length in 1_i64..12, keep in any::<prop::sample::Index>()) {
            let records = chain(length);
            let keep = keep.index(records.len());
            let (short, full) = (&records[..keep], records.last().unwrap().head());
            let cut = verify(short, Some(&full)).unwrap_err();
            prop_assert_eq!(cut, Broken { sequence: i64::try_from(keep).unwrap() + 1, what: Damage::Missing });
            let head = short.last().map_or(Head::EMPTY, AuditRecord::head);
            let grown = verify(&records, Some(&head)).unwrap_err();
            prop_assert_eq!(grown, Broken { sequence: i64::try_from(keep).unwrap() + 1, what: Damage::BeyondHead });
        }
    }

    #[test]
    fn a_record_resealed_with_other_content_does_not_link() {
        let mut records = chain(3);
        let head = records[2].head();
        let mut forged = draft(2);
        forged.actor = "mallory".to_owned();
        records[1] = seal(Some(&records[0].head()), forged, Salt([2; 16]));
        let broken = verify(&records, Some(&head)).unwrap_err();
        assert_eq!(broken, Broken { sequence: 3, what: Damage::Unlinked });
        let last = verify(&records[..2], Some(&Head { sequence: 2, hash: head.hash })).unwrap_err();
        assert_eq!(last, Broken { sequence: 2, what: Damage::NotTheHead });
    }
}
