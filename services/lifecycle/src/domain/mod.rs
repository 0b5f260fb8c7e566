//! Organizations, and which changes of their status are legal. Pure: no clock, no store, no wire.
//!
//! | module | holds |
//! |---|---|
//! | [`organization`] | [`Organization`], and the transitions from one status to the next |
//! | [`status`] | [`Status`] with what belongs to each, and [`StatusKind`], its name |
//! | [`transition`] | [`Transition`] and [`Removal`]: a decided change with its audit record; [`InvalidTransition`] |
//! | [`retention`], [`note`] | how long a deleted organization is kept; an operator's words |

pub mod note;
pub mod organization;
pub mod retention;
pub mod status;
#[cfg(test)]
mod tests;
pub mod transition;

pub use note::Note;
pub use organization::{Organization, Owner};
pub use retention::Retention;
pub use status::{Deletion, Purge, Status, StatusKind, Suspension};
pub use transition::{Author, Event, InvalidTransition, Removal, Tombstone, TombstoneKind, Transition};
