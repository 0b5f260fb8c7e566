//! lifecycle: owns organizations, decides which changes of their status are legal, and when one is due for purge.
//!
//! | module | holds |
//! |---|---|
//! | [`domain`] | organizations and their transitions, pure |
pub mod domain;
pub mod store;
