//! Makes and unmakes tenants; knows who someone is.

pub mod clients;
pub mod domain;
pub mod hashing;
pub mod saga;
pub mod store;
