//! The audit, verified.
//!
//! A chain of at most [`WHOLE`] records is verified from its first record to its head each time that a part of it is listed, as the
//! store of files does. Of a longer one, what is listed is verified, and that it lies between the records before and after it, so
//! that a list takes no longer however long the chain grows; read to its end, page by page, the whole chain is. Either way a
//! chain never is in memory as a whole.

use pulse_entitlements::Stored;
use pulse_kernel::OrgId;
use pulse_store::audit::{AuditRecord, Broken, Damage, Head, Verifier, postgres as audit};
use sqlx::PgConnection;

use crate::{domain::document, store::StoreError};

/// The longest chain that is verified whole: a fraction of a second.
pub(super) const WHOLE: i64 = 10_000;

/// The records with a sequence below `before`, newest first, at most `limit`.
pub(super) async fn list(
    conn: &mut PgConnection,
    org: &OrgId,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<AuditRecord>, StoreError> {
    let head = audit::head(conn, org).await?.unwrap_or(Head::EMPTY);
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let listed = if head.sequence > WHOLE {
        let newest = before.map_or(head.sequence, |before| head.sequence.min(before.saturating_sub(1)));
        // One after and one before what is asked for.
        let around = audit::list(conn, org, Some(newest + 2), limit.saturating_add(2)).await?;
        let is_full = u32::try_from(around.len()).is_ok_and(|found| found == limit.saturating_add(2));
        verify_part(&around, is_full, newest, &head).map(|()| {
            let listed = around.into_iter().filter(|record| record.sequence <= newest);
            listed.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect()
        })
    } else {
        match audit::verify_chain(conn, org).await? {
            Ok(_) => Ok(audit::list(conn, org, before, limit).await?),
            Err(broken) => Err(broken),
        }
    };
    listed.map_err(|source| StoreError::BrokenChain { place: format!("audit_events of {org}"), source })
}

/// Verifies records, newest first, of which the oldest is only what the others follow, unless there is nothing before it; the
/// newest is the head of the chain, or the one after `newest`.
fn verify_part(records: &[AuditRecord], has_more: bool, newest: i64, head: &Head) -> Result<(), Broken> {
    let (mut verifier, records) = match records.split_last() {
        Some((oldest, records)) if has_more => (Verifier::after(oldest.head()), records),
        _ => (Verifier::default(), records),
    };
    for record in records.iter().rev() {
        verifier.push(record)?;
    }
    if newest == head.sequence {
        return verifier.finish(Some(head)).map(|_| ());
    }
    match verifier.finish(None)?.sequence {
        last if last <= newest => Err(Broken { sequence: last + 1, what: Damage::Missing }),
        _ => Ok(()),
    }
}

/// The last state that the audit knows of.
pub(super) async fn last_known(
    conn: &mut PgConnection,
    org: &OrgId,
    revision: u64,
) -> Result<Option<Stored>, StoreError> {
    let last = audit::list(conn, org, None, 1).await?.pop();
    let after = last.and_then(|record| record.details).and_then(|details| details.after);
    Ok(after.as_ref().and_then(document::state).map(|state| Stored { state, revision }))
}

#[cfg(test)]
mod tests {
    use pulse_store::audit::{Salt, seal};

    use super::*;
    use crate::domain::tests::trial_write;

    /// A chain of this many records, newest first.
    fn chain(length: u8) -> Vec<AuditRecord> {
        let mut records: Vec<AuditRecord> = Vec::new();
        for number in 0..length {
            let head = records.first().map(AuditRecord::head);
            records.insert(0, seal(head.as_ref(), trial_write("k", 0).draft, Salt([number; 16])));
        }
        records
    }

    #[test]
    fn a_part_is_verified_with_what_lies_around_it() {
        let all = chain(9);
        let head = all[0].head();
        // Records 5 and 4, between 6 and 3; the newest; the oldest.
        assert_eq!(verify_part(&all[3..7], true, 5, &head), Ok(()));
        assert_eq!(verify_part(&all[..4], true, 9, &head), Ok(()));
        assert_eq!(verify_part(&all[6..], false, 2, &head), Ok(()));

        let broken = |records: &[AuditRecord], has_more, newest| {
            let broken = verify_part(records, has_more, newest, &head).unwrap_err();
            (broken.sequence, broken.what)
        };
        let altered = |number: usize| {
            let mut all = all.clone();
            all[number].actor = "mallory".to_owned();
            all
        };
        assert_eq!(broken(&altered(4)[3..7], true, 5), (5, Damage::Altered));
        assert_eq!(broken(&altered(3)[3..7], true, 5), (6, Damage::Altered), "the one after it");
        assert_eq!(broken(&all[4..8], true, 5), (6, Damage::Missing), "there is none after it");
        assert_eq!(broken(&all[1..4], true, 9), (9, Damage::Missing), "the newest were removed");
        assert_eq!(broken(&all[6..8], false, 2), (1, Damage::OutOfOrder { found: 2 }), "the oldest were");
        assert_eq!(broken(&[], false, 9), (1, Damage::Missing), "all were");
        assert_eq!(broken(&[], false, 4), (1, Damage::Missing));
        let mut gap = all[2..7].to_vec();
        gap.remove(2);
        assert_eq!(broken(&gap, true, 6), (5, Damage::OutOfOrder { found: 6 }));
        let mut replaced = all.clone();
        replaced[6] = seal(Some(&all[7].head()), trial_write("other", 0).draft, Salt([7; 16]));
        assert_eq!(broken(&replaced[3..7], true, 5), (4, Damage::Unlinked), "the one before it");
        let short = all[3].head();
        assert_eq!(verify_part(&all[2..6], true, 6, &short).unwrap_err().what, Damage::BeyondHead);
    }
}
