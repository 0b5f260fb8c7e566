//! What lifecycle says about a tenant, as far as a decision needs it.

use std::{fmt, str::FromStr};

use pulse_kernel::{ApiError, Reason};
use serde::{Deserialize, Serialize};

/// The status of an organization. Lifecycle owns it, and the rules by which it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrganizationStatus {
    /// Being made.
    Provisioning,
    /// In use.
    Active,
    /// Suspended by an operator.
    Suspended,
    /// Deleted, and within its retention.
    PendingDeletion,
    /// Being removed from every service.
    Purging,
}

impl OrganizationStatus {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Provisioning, Self::Active, Self::Suspended, Self::PendingDeletion, Self::Purging];

    /// The name as it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::PendingDeletion => "pending_deletion",
            Self::Purging => "purging",
        }
    }

    /// Reads a name, exactly as [`as_str`](Self::as_str) writes it.
    ///
    /// # Errors
    /// `INVALID_REQUEST` naming `status` and what is accepted.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| {
            ApiError::field(
                Reason::InvalidRequest,
                "status",
                "must be one of provisioning, active, suspended, pending_deletion, purging",
            )
        })
    }
}

impl fmt::Display for OrganizationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for OrganizationStatus {
    type Err = ApiError;
    fn from_str(text: &str) -> Result<Self, ApiError> {
        Self::parse(text)
    }
}
