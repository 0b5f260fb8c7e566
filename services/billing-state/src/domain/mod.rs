//! What a billing state may become, decided purely.
//!
//! | module | holds |
//! |---|---|
//! | [`document`] | a billing state as JSON: in `billing.json` and in the audit |
//! | [`plan`] | [`Plans`]: the catalog and the lengths of trial and grace |
//! | [`trial`] | starting a trial |
//! | [`set`] | an operator's change |
//! | [`text`] | [`Key`] and [`Note`]: what callers write, parsed once |
//!
//! A decision is a [`Write`]: the new state, what it expects to replace, and its audit record. The store carries
//! it out, all of it or nothing.

pub mod document;
pub mod plan;
pub mod set;
pub mod text;
pub mod trial;

use pulse_entitlements::BillingState;
use pulse_store::audit::AuditDraft;

pub use document::Document;
pub use plan::Plans;
pub use set::{Refused, SetRequest};
pub use text::{Key, Note};

/// A change that was decided on.
#[derive(Debug, Clone)]
pub struct Write {
    /// What must be stored for the change to be the one that was decided on.
    pub expected: Expected,
    /// What is stored then.
    pub state: BillingState,
    /// What the audit says about it.
    pub draft: AuditDraft,
}

/// What a write replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Nothing is stored.
    Nothing,
    /// The state with this etag.
    Etag(String),
}

/// Who causes a change.
#[derive(Debug, Clone)]
pub struct Author {
    /// The authenticated principal: an operator's name, or `service:<name>`.
    pub actor: String,
    /// The request, as the logs know it.
    pub request_id: Option<String>,
}

#[cfg(test)]
pub(crate) mod tests;
