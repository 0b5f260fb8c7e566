//! Operators: people and programs that hold a token, and the roles that it gives them.
//!
//! | module | holds |
//! |---|---|
//! | [`mod@file`] | the tokens file: strict reading, and watching it for changes |
//!
//! Tokens are long random strings, so one round of SHA-256 is enough to store them by
//! (OWASP ASVS 5 section 11.4: high-entropy secrets need no slow hash); the file holds no token itself.

pub mod file;

use std::{
    fmt,
    path::Path,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
};

use http::HeaderValue;
use pulse_kernel::{ApiError, Reason};
use pulse_runtime::{CommonSettings, SettingError, Shutdown};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tonic::metadata::MetadataMap;

pub use self::file::TokensFileError;

/// What an operator may do. Admin implies the others; support and billing imply viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Read everything that operators can read.
    Viewer,
    /// Suspend and unsuspend tenants.
    Support,
    /// Change billing states.
    Billing,
    /// Everything, including deletion.
    Admin,
}

impl Role {
    /// Every role there is.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Support, Self::Billing, Self::Admin];

    /// The name in the tokens file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Support => "support",
            Self::Billing => "billing",
            Self::Admin => "admin",
        }
    }

    /// Whether who has this role may do what needs `needed`.
    pub const fn implies(self, needed: Self) -> bool {
        match (self, needed) {
            (Self::Admin, _)
            | (Self::Support | Self::Billing | Self::Viewer, Self::Viewer)
            | (Self::Support, Self::Support)
            | (Self::Billing, Self::Billing) => true,
            (Self::Viewer | Self::Support | Self::Billing, Self::Support | Self::Billing | Self::Admin) => {
                false
            }
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;
    fn from_str(name: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == name).ok_or(UnknownRole)
    }
}

/// There is no role of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected viewer, support, billing or admin")]
pub struct UnknownRole;

/// Who a token belongs to. Its name is the actor in audit records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The name in the tokens file.
    pub name: Arc<str>,
    /// The roles given there.
    pub roles: Vec<Role>,
}

impl Operator {
    /// Whether this operator may do what needs `needed`.
    pub fn has(&self, needed: Role) -> bool {
        self.roles.iter().any(|role| role.implies(needed))
    }

    /// # Errors
    /// `ROLE_REQUIRED`, naming the role, when this operator has none that implies `needed`.
    pub fn require(&self, needed: Role) -> Result<(), ApiError> {
        if self.has(needed) {
            return Ok(());
        }
        Err(ApiError::new(Reason::RoleRequired, format!("the role {needed} is required")))
    }
}

/// One entry of the tokens file.
#[derive(Debug, Clone)]
struct Token {
    hash: [u8; 32],
    operator: Operator,
}

/// The operators' tokens; clones share the list, which may be replaced while it is in use.
#[derive(Clone)]
pub struct OperatorTokens(Arc<RwLock<Arc<[Token]>>>);

impl OperatorTokens {
    /// Whether a start in hosted mode has operators: its tokens file is set and can be read.
    ///
    /// # Errors
    /// One line about the setting when it is not set, or the file is none that is accepted.
    pub fn check(common: &CommonSettings) -> Result<(), SettingError> {
        if let Some(path) = common.admin_tokens_file()? {
            Self::load(path).map_err(|error| SettingError::new("PULSE_ADMIN_TOKENS_FILE", error))?;
        }
        Ok(())
    }

    /// Reads the tokens file.
    ///
    /// # Errors
    /// When it cannot be read, or any entry is not as it should be; the message says which and what is accepted.
    pub fn load(path: &Path) -> Result<Self, TokensFileError> {
        Ok(Self(Arc::new(RwLock::new(file::read(path)?.tokens))))
    }

    /// Reads the tokens file and follows its changes within about a second, until the process is told to stop. A
    /// changed file that is not accepted is logged, and the list before it stays in force.
    ///
    /// # Errors
    /// As [`OperatorTokens::load`].
    pub fn watch(path: &Path, shutdown: &Shutdown) -> Result<Self, TokensFileError> {
        let first = file::read(path)?;
        let tokens = Self(Arc::new(RwLock::new(Arc::clone(&first.tokens))));
        let (watched, draining, path) = (tokens.clone(), shutdown.draining(), path.to_owned());
        shutdown.spawn("operator tokens", async move {
            let follow = file::follow(path, first, move |tokens| watched.replace(tokens));
            tokio::select! { () = draining => {}, () = follow => {} }
        });
        Ok(tokens)
    }

    /// Tells who sent an `authorization` header of this value.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when there is none, or it is not `Bearer` with a token of the list. It does not tell which.
    pub fn authenticate(&self, authorization: Option<&HeaderValue>) -> Result<Operator, ApiError> {
        let token = authorization.and_then(bearer).ok_or_else(unauthenticated)?;
        self.operator_of(token).ok_or_else(unauthenticated)
    }

    /// Tells who makes this call, and that they may.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` as [`OperatorTokens::authenticate`]; `ROLE_REQUIRED` as [`Operator::require`].
    pub fn require(&self, metadata: &MetadataMap, needed: Role) -> Result<Operator, ApiError> {
        let operator = self.authenticate(metadata.as_ref().get(http::header::AUTHORIZATION))?;
        operator.require(needed)?;
        Ok(operator)
    }

    /// Compares with every entry, in the same time whichever matches (OWASP ASVS 5 section 11.2.4).
    fn operator_of(&self, token: &[u8]) -> Option<Operator> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let tokens = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        let mut found = Choice::from(0);
        let mut at = 0_u64;
        for (index, entry) in (0_u64..).zip(tokens.iter()) {
            let equal = entry.hash.ct_eq(&hash);
            at.conditional_assign(&index, equal);
            found |= equal;
        }
        let entry = tokens.get(usize::try_from(at).ok()?)?;
        bool::from(found).then(|| entry.operator.clone())
    }

    fn replace(&self, tokens: Arc<[Token]>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }
}

impl fmt::Debug for OperatorTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        f.debug_list().entries(tokens.iter().map(|token| &token.operator)).finish()
    }
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110 section 11.1).
fn bearer(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = authorization.as_bytes().split_at_checked("Bearer ".len())?;
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
}

fn unauthenticated() -> ApiError {
    ApiError::new(
        Reason::Unauthenticated,
        "a valid operator token is required: authorization: Bearer <token>",
    )
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
