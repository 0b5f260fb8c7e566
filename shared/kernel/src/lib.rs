//! What every service agrees on, and nothing that does I/O.
//!
//! | module | holds |
//! |---|---|
//! | [`ids`] | [`OrgId`], [`UserId`], and how new ones are made |
//! | [`email`], [`org_name`], [`password`] | what a stranger types, parsed once into types that cannot be wrong |
//! | [`clock`] | time and chance, passed in |
//! | [`error`] | the small vocabulary of errors, and what each looks like in gRPC and HTTP |
//!
//! Validation rules are those of the public contract, section 7. A value of one of these types has
//! passed its rules, so code that holds one never checks again.

#![warn(missing_docs)]

pub mod clock;
pub mod email;
pub mod error;
pub mod ids;
pub mod org_name;
pub mod password;

pub use clock::{Clock, Entropy, OsEntropy, SystemClock};
pub use email::EmailAddress;
pub use error::{ApiError, ErrorKind, FieldViolation, Quota, Reason, Violations};
pub use ids::{Ids, OrgId, UserId};
pub use org_name::OrgName;
pub use password::{Password, PasswordPolicy};
