//! Accounts, and their places in tenants.

use jiff::Timestamp;
use pulse_kernel::{EmailAddress, OrgId, UserId};
use pulse_tenant_guard::TenantRole;

use super::{PasswordHash, Roles};

/// Someone who can sign in. Belongs to one tenant, the one that it was made for, and may have roles in others.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its id.
    pub user_id: UserId,
    /// The tenant that it belongs to, and with which it is purged.
    pub home_org_id: OrgId,
    /// Its address; no two accounts share one.
    pub email: EmailAddress,
    /// Of its password.
    pub password_hash: PasswordHash,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An account as seen from one tenant.
#[derive(Debug, Clone)]
pub struct Member {
    /// The account.
    pub account: Account,
    /// The tenant from which it is seen.
    pub org_id: OrgId,
    /// Its roles there.
    pub roles: Roles,
}

/// A tenant would be left without an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tenant would be left without an owner")]
pub struct LastOwner;

/// Whether an account's roles `before` may be replaced by `after` in a tenant with that many other owners.
///
/// # Errors
/// When it is the last owner and would be one no more.
pub fn may_replace(before: &Roles, after: &Roles, other_owners: usize) -> Result<(), LastOwner> {
    let gives_up = before.contains(TenantRole::Owner) && !after.contains(TenantRole::Owner);
    if gives_up && other_owners == 0 { Err(LastOwner) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_owner_has_to_stay_one() {
        let owner = Roles::from_iter([TenantRole::Owner]);
        let admin = Roles::from_iter([TenantRole::Admin]);
        let none = Roles::default();
        for (before, after, others, allowed) in [
            (&owner, &none, 0, false),
            (&owner, &admin, 0, false),
            (&owner, &admin, 1, true),
            (&owner, &owner, 0, true),
            (&admin, &none, 0, true),
            (&none, &owner, 0, true),
        ] {
            assert_eq!(
                may_replace(before, after, others).is_ok(),
                allowed,
                "{before:?} -> {after:?}, {others}"
            );
        }
    }
}
