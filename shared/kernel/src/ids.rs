//! Identifiers: [`OrgId`] names a tenant, [`UserId`] an account.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{ApiError, Clock, Entropy, Reason};

/// The longest an organization id may be, in bytes.
const ORG_ID_MAX: usize = 64;

/// The id of an organization, and so of a tenant: `^[a-z0-9][a-z0-9-]{0,63}$`.
///
/// Safe as a file name, a label and a path segment: it holds no dot, slash or upper-case letter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrgId(Arc<str>);

impl OrgId {
    /// The id of the organization that exists from the first start and can be neither suspended nor deleted.
    pub const DEFAULT: &'static str = "default";

    /// Reads an id.
    ///
    /// # Errors
    /// `INVALID_ORG_ID` when `text` does not have the form above.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let rest_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        match text.as_bytes() {
            [first, rest @ ..]
                if text.len() <= ORG_ID_MAX
                    && *first != b'-'
                    && rest_ok(*first)
                    && rest.iter().all(|b| rest_ok(*b)) =>
            {
                Ok(Self(text.into()))
            }
            _ => Err(ApiError::field(
                Reason::InvalidOrgId,
                "org_id",
                "must be 1 to 64 lower-case letters, digits or '-', and not begin with '-'",
            )),
        }
    }

    /// The organization that exists from the first start.
    pub fn default_org() -> Self {
        Self(Self::DEFAULT.into())
    }

    /// Whether this is the default organization, which no operator may suspend or delete.
    pub fn is_default(&self) -> bool {
        &*self.0 == Self::DEFAULT
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An id hashes and compares as its text does, so that a map of ids can be asked by a text.
impl Borrow<str> for OrgId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for OrgId {
    type Err = ApiError;
    fn from_str(text: &str) -> Result<Self, ApiError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for OrgId {
    type Error = ApiError;
    fn try_from(text: String) -> Result<Self, ApiError> {
        Self::parse(&text)
    }
}

impl From<OrgId> for String {
    fn from(id: OrgId) -> Self {
        id.as_str().to_owned()
    }
}

/// The id of an account, a `UUIDv7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(Uuid);

impl UserId {
    /// Reads an id.
    ///
    /// # Errors
    /// `INVALID_REQUEST` naming `user_id` when `text` is not a UUID.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| ApiError::field(Reason::InvalidRequest, "user_id", "must be a UUID"))
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for UserId {
    type Err = ApiError;
    fn from_str(text: &str) -> Result<Self, ApiError> {
        Self::parse(text)
    }
}

/// Makes new ids: `UUIDv7` (RFC 9562 section 5.7), so that they sort by when they were made.
#[derive(Debug, Clone)]
pub struct Ids {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Ids {
    /// Ids whose time comes from `clock` and whose random part from `entropy`.
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { clock, entropy }
    }

    /// A new organization id.
    pub fn org_id(&self) -> OrgId {
        OrgId(self.uuid().to_string().into())
    }

    /// A new account id.
    pub fn user_id(&self) -> UserId {
        UserId(self.uuid())
    }

    /// A new `UUIDv7` for anything else that needs one.
    pub fn uuid(&self) -> Uuid {
        let mut random = [0; 10];
        self.entropy.fill(&mut random);
        let millis = u64::try_from(self.clock.now().as_millisecond()).unwrap_or_default();
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{OsEntropy, SystemClock};

    #[test]
    fn accepts_what_the_contract_allows() {
        for id in ["default", "a", "0", "a-b-c", &"x".repeat(64)] {
            assert_eq!(OrgId::parse(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn refuses_anything_that_could_leave_the_tenants_directory() {
        for id in ["", "-a", "A", "a.b", "..", "a/b", "a\\b", "é", "a b", "a\0", &"x".repeat(65)] {
            assert_eq!(OrgId::parse(id).unwrap_err().reason(), Reason::InvalidOrgId, "{id:?}");
        }
    }

    #[test]
    fn new_ids_are_version_7_and_sort_by_time() {
        let ids = Ids::new(Arc::new(SystemClock), Arc::new(OsEntropy));
        let first = ids.uuid();
        assert_eq!(first.get_version_num(), 7);
        assert!(OrgId::parse(ids.org_id().as_str()).is_ok());
        assert_ne!(ids.user_id(), ids.user_id());
    }

    proptest! {
        #[test]
        fn parse_agrees_with_the_pattern(text in "\\PC{0,70}") {
            let mut chars = text.chars();
            let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            let matches = chars.next().is_some_and(word)
                && chars.all(|c| word(c) || c == '-') && text.len() <= 64;
            prop_assert_eq!(OrgId::parse(&text).is_ok(), matches);
        }
    }
}
