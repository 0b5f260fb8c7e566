//! What a subscription grants: capabilities, limits and meters.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

/// The longest a [`Name`] may be, in bytes.
const NAME_MAX: usize = 64;

/// The most capabilities, limits or meters that one tenant may have of each.
const ENTRIES_MAX: usize = 256;

/// A limit of this value is no limit.
pub const UNLIMITED: i64 = -1;

/// The name of a capability, limit, meter or plan version: `^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$`.
///
/// Such a name needs no quoting in a log line, a JSON document, a header or a metrics query.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

/// Why a value is refused; completes a sentence that begins with the field's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrant {
    /// Not the form of a [`Name`].
    #[error("must be 1 to 64 letters, digits or any of '._:/-', and begin with a letter or digit")]
    Name,
    /// Below [`UNLIMITED`].
    #[error("must be 0 or more, or -1 for no limit")]
    Limit,
    /// More than 256 of one kind.
    #[error("must have at most 256 entries")]
    TooMany,
}

impl Name {
    /// Reads a name.
    ///
    /// # Errors
    /// When `text` does not have the form above.
    pub fn parse(text: &str) -> Result<Self, InvalidGrant> {
        let rest_ok = |b: &u8| b.is_ascii_alphanumeric() || b"._:/-".contains(b);
        match text.as_bytes() {
            [first, rest @ ..]
                if text.len() <= NAME_MAX && first.is_ascii_alphanumeric() && rest.iter().all(rest_ok) =>
            {
                Ok(Self(text.into()))
            }
            _ => Err(InvalidGrant::Name),
        }
    }

    /// The plan that every tenant begins with.
    pub fn trial_plan() -> Self {
        Self("trial".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidGrant;
    fn try_from(text: String) -> Result<Self, InvalidGrant> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}

/// What a tenant may use. What is not named is not granted: a limit that is missing counts as 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Grants {
    /// What it may do, such as `alerting`.
    pub capabilities: BTreeSet<Name>,
    /// How much of something it may have, such as `monitored_hosts`; [`UNLIMITED`] is no limit.
    pub limits: BTreeMap<Name, i64>,
    /// Which usage is measured, such as `metrics_ingested_bytes`.
    pub meters_enabled: BTreeSet<Name>,
}

impl Grants {
    /// Whether nothing is granted.
    pub fn is_empty(&self) -> bool {
        self.capabilities.is_empty() && self.limits.is_empty() && self.meters_enabled.is_empty()
    }

    /// Whether everything in `other` is in here, and no limit here is lower.
    pub fn covers(&self, other: &Self) -> bool {
        self.capabilities.is_superset(&other.capabilities)
            && self.meters_enabled.is_superset(&other.meters_enabled)
            && other.limits.iter().all(|(name, theirs)| self.limit(name) >= amount(*theirs))
    }

    /// The most that both grant.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let lower = |(name, ours): (&Name, &i64)| {
            let theirs = other.limits.get(name)?;
            let lower = if amount(*ours) <= amount(*theirs) { *ours } else { *theirs };
            Some((name.clone(), lower))
        };
        Self {
            capabilities: &self.capabilities & &other.capabilities,
            limits: self.limits.iter().filter_map(lower).collect(),
            meters_enabled: &self.meters_enabled & &other.meters_enabled,
        }
    }

    /// Checks the bounds that names cannot express.
    ///
    /// # Errors
    /// The first field that breaks one, and how.
    pub fn check(&self) -> Result<(), (&'static str, InvalidGrant)> {
        for (field, entries) in [
            ("capabilities", self.capabilities.len()),
            ("limits", self.limits.len()),
            ("meters_enabled", self.meters_enabled.len()),
        ] {
            if entries > ENTRIES_MAX {
                return Err((field, InvalidGrant::TooMany));
            }
        }
        if self.limits.values().any(|value| *value < UNLIMITED) {
            return Err(("limits", InvalidGrant::Limit));
        }
        Ok(())
    }

    /// How much the limit of that name admits.
    fn limit(&self, name: &Name) -> u64 {
        self.limits.get(name).map_or(0, |value| amount(*value))
    }
}

/// A limit's value as something that can be compared: no limit is the most there is.
pub(crate) fn amount(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn names(list: &[&str]) -> BTreeSet<Name> {
        list.iter().map(|name| Name::parse(name).unwrap()).collect()
    }

    pub(crate) fn grants(capabilities: &[&str], limits: &[(&str, i64)], meters: &[&str]) -> Grants {
        Grants {
            capabilities: names(capabilities),
            limits: limits.iter().map(|(name, value)| (Name::parse(name).unwrap(), *value)).collect(),
            meters_enabled: names(meters),
        }
    }

    /// Any small set of grants, out of few names, so that two of them often overlap.
    pub(crate) fn any_grants() -> impl Strategy<Value = Grants> {
        let name = || prop::sample::select(vec!["a", "b", "c"]).prop_map(|n| Name::parse(n).unwrap());
        (
            prop::collection::btree_set(name(), 0..3),
            prop::collection::btree_map(name(), -1_i64..3, 0..3),
            prop::collection::btree_set(name(), 0..3),
        )
            .prop_map(|(capabilities, limits, meters_enabled)| Grants {
                capabilities,
                limits,
                meters_enabled,
            })
    }

    #[test]
    fn names_have_the_documented_form() {
        for name in ["a", "Pro", "trial-v2", "metrics.ingest:bytes", "9", "alerts/email", &"x".repeat(64)] {
            assert_eq!(Name::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "-a", ".a", "a b", "a\n", "é", "a\"", "a,b", &"x".repeat(65)] {
            assert_eq!(Name::parse(name), Err(InvalidGrant::Name), "{name:?}");
        }
    }

    #[test]
    fn bounds_name_the_field() {
        assert_eq!(grants(&[], &[("a", -2)], &[]).check(), Err(("limits", InvalidGrant::Limit)));
        assert_eq!(grants(&[], &[("a", UNLIMITED), ("b", 0), ("c", i64::MAX)], &[]).check(), Ok(()));
        let many: Vec<String> = (0..257).map(|n| format!("m{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(grants(&many, &[], &[]).check(), Err(("capabilities", InvalidGrant::TooMany)));
        assert_eq!(grants(&[], &[], &many).check(), Err(("meters_enabled", InvalidGrant::TooMany)));
        assert_eq!(grants(&many[1..], &[], &[]).check(), Ok(()));
    }

    #[test]
    fn no_limit_covers_every_limit_and_a_missing_one_covers_none() {
        let unlimited = grants(&[], &[("hosts", UNLIMITED)], &[]);
        let ten = grants(&[], &[("hosts", 10)], &[]);
        assert!(unlimited.covers(&ten) && !ten.covers(&unlimited));
        assert!(!Grants::default().covers(&ten) && ten.covers(&Grants::default()));
        assert_eq!(unlimited.meet(&ten), ten);
    }

    proptest! {
        #[test]
        fn what_both_grant_is_covered_by_each(a in any_grants(), b in any_grants()) {
            let both = a.meet(&b);
            prop_assert!(a.covers(&both) && b.covers(&both));
            prop_assert_eq!(&both, &b.meet(&a));
            prop_assert!(a.covers(&a));
            if a.covers(&b) {
                prop_assert!(both.covers(&b));
            }
        }
    }
}
