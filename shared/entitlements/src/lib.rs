//! What a tenant may use: a pure function of its billing state and the time, and a source of that answer which
//! keeps answering when the store does not.
//!
//! | module | holds |
//! |---|---|
//! | [`subscription`] | [`SubscriptionState`] and the one table of its transitions |
//! | [`grants`] | [`Grants`]: capabilities, limits and meters, with their names and how two of them compare |
//! | [`billing`] | [`BillingState`]: what the owner of the truth stores about a tenant |
//! | [`mod@effective`] | [`effective()`]: billing state and time to [`Entitlements`] |
//! | [`catalog`] | [`Catalog`]: what each plan grants |
//! | [`source`] | the traits: [`BillingStore`] below, [`EntitlementSource`] above |
//! | [`cache`] | [`TenantCache`](cache::TenantCache): what a store says about tenants, remembered |
//! | [`database`] | [`DatabaseSource`]: such a cache between the two, and its fail-open rules |
//!
//! Two rules hold everywhere. Fail-open never grants more than the last known state, or than the trial where none
//! was known (invariant I7). And it never unlocks: a tenant last known as expired or suspended stays so until the
//! store says otherwise, however long that takes.

#![warn(missing_docs)]

pub mod billing;
pub mod cache;
pub mod catalog;
pub mod database;
pub mod effective;
pub mod grants;
pub mod source;
pub mod subscription;

pub use billing::BillingState;
pub use catalog::{Catalog, CatalogError, Plan};
pub use database::{DatabaseSource, DatabaseSourceConfig};
pub use effective::{Entitlements, effective};
pub use grants::{Grants, InvalidGrant, Name, UNLIMITED};
pub use source::{
    Answer, BillingStore, BillingStoreError, EntitlementSource, Lookup, Source, SourceError, Stored,
};
pub use subscription::{Change, Event, InvalidTransition, SubscriptionState};
