//! An account's roles in one tenant.

use std::collections::BTreeSet;

use pulse_tenant_guard::TenantRole;

/// A set of roles. Empty for an account that has no place in the tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles(BTreeSet<TenantRole>);

impl Roles {
    /// Whether the role itself is among them.
    pub fn contains(&self, role: TenantRole) -> bool {
        self.0.contains(&role)
    }

    /// The roles, highest first.
    pub fn iter(&self) -> impl Iterator<Item = TenantRole> + '_ {
        self.0.iter().rev().copied()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<TenantRole> for Roles {
    fn from_iter<I: IntoIterator<Item = TenantRole>>(roles: I) -> Self {
        Self(roles.into_iter().collect())
    }
}
