//! The one decision behind every door: may this be done in this tenant, now?
//!
//! | module | holds |
//! |---|---|
//! | [`decision`] | [`decide`]: what it is [`Asked`] and how it answers; pure |
//! | [`requirement`] | [`Requirement`]: what a door asks of a tenant |
//! | [`guard`] | [`Guard`]: the decision with what is known of a tenant now, and what counts while that cannot be known |
//! | `layer` | `GuardLayer`: the guard in front of an axum or a tonic service (with the feature of that name) |
//! | [`source`] | the traits: [`StatusStore`] below, [`StatusSource`] above |
//! | [`cache`] | [`StatusCache`]: a cache between the two, and its rules for when lifecycle does not answer |
//! | [`status`] | [`OrganizationStatus`]: what lifecycle says about a tenant |
//! | [`role`] | [`TenantRole`]: what a person is in one tenant |
//!
//! Two authorities can close a tenant, and each clears only its own cause: an operator through the organization's
//! status, billing through the subscription. They are separate arguments here and have separate reasons, so that
//! neither can be mistaken for the other or undo it.

#![warn(missing_docs)]

pub mod cache;
pub mod decision;
pub mod guard;
#[cfg(any(feature = "axum", feature = "tonic"))]
pub mod layer;
pub mod requirement;
pub mod role;
pub mod source;
pub mod status;

pub use cache::StatusCache;
pub use decision::{Asked, Decision, DenyReason, decide};
pub use guard::{Guard, OnOutage, OutagePolicy, Verdict};
pub use requirement::{Limit, Requirement};
pub use role::TenantRole;
pub use source::{StatusAnswer, StatusError, StatusLookup, StatusSource, StatusStore, StatusStoreError};
pub use status::OrganizationStatus;
