//! What the service is about, without I/O: accounts, their roles, and hashes of passwords.
//!
//! | file | holds |
//! |---|---|
//! | `account` | [`Account`], [`Member`], and who may be left without a role |
//! | `roles` | [`Roles`]: an account's roles in one tenant |
//! | `password_hash` | [`PasswordHash`] |
//!
//! Sagas have their own pure part in [`crate::saga`].

mod account;
mod password_hash;
mod roles;

pub use account::{Account, LastOwner, Member, may_replace};
pub use password_hash::PasswordHash;
pub use roles::Roles;
