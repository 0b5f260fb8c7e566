//! What a person is in one tenant. Roles of operators are another thing, and live with their tokens.

use std::{fmt, str::FromStr};

use pulse_kernel::{ApiError, Reason};
use serde::{Deserialize, Serialize};

/// A role in one tenant, and nothing in any other. A higher one includes the lower ones: owner, admin, member, viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantRole {
    /// Sees.
    Viewer,
    /// Works.
    Member,
    /// Manages people and settings.
    Admin,
    /// Answers for the tenant; there always is one.
    Owner,
}

impl TenantRole {
    /// All of them, the lowest first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Member, Self::Admin, Self::Owner];

    /// The name as it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// Reads a name, exactly as [`as_str`](Self::as_str) writes it.
    ///
    /// # Errors
    /// `INVALID_REQUEST` naming `role` and what is accepted.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            ApiError::field(Reason::InvalidRequest, "role", "must be one of owner, admin, member, viewer")
        })
    }
}

impl fmt::Display for TenantRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TenantRole {
    type Err = ApiError;
    fn from_str(text: &str) -> Result<Self, ApiError> {
        Self::parse(text)
    }
}
