//! What a door asks of a tenant, beside being open at all.

/// What a tenant must have to pass a door. Names are those of the plan catalog; one that no plan has is never met.
///
/// ```
/// use pulse_tenant_guard::Requirement;
///
/// const LIST_HOSTS: Requirement = Requirement::active();
/// const ADD_HOST: Requirement = Requirement::limit("monitored_hosts", 1);
/// const PAGE_SOMEBODY: Requirement = Requirement::capability("alerting").and_limit("users", 1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requirement<'a> {
    /// The capability that is needed, if any.
    pub capability: Option<&'a str>,
    /// The limit that must allow something, if any.
    pub limit: Option<Limit<'a>>,
}

/// A limit and what it must allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<'a> {
    /// Its name, such as `monitored_hosts`. One that is not granted allows 0.
    pub name: &'a str,
    /// How many it must allow, at least.
    pub at_least: u64,
}

impl<'a> Requirement<'a> {
    /// Only that the organization is active. The subscription does not matter: a customer whose subscription is over
    /// must get in, to pay.
    pub const fn active() -> Self {
        Self { capability: None, limit: None }
    }

    /// An active subscription with that capability.
    pub const fn capability(name: &'a str) -> Self {
        Self::active().and_capability(name)
    }

    /// An active subscription whose limit of that name is `at_least` or more.
    pub const fn limit(name: &'a str, at_least: u64) -> Self {
        Self::active().and_limit(name, at_least)
    }

    /// The same and that capability, in place of any other.
    #[must_use]
    pub const fn and_capability(self, name: &'a str) -> Self {
        Self { capability: Some(name), ..self }
    }

    /// The same and that limit, in place of any other.
    #[must_use]
    pub const fn and_limit(self, name: &'a str, at_least: u64) -> Self {
        Self { limit: Some(Limit { name, at_least }), ..self }
    }

    /// Whether the subscription matters at all.
    pub const fn needs_entitlements(&self) -> bool {
        self.capability.is_some() || self.limit.is_some()
    }

    /// The names that are asked for.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.capability.into_iter().chain(self.limit.map(|limit| limit.name))
    }
}
