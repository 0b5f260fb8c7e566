//! The client against services that a test scripts, over real connections.
//!
//! | module | proves |
//! |---|---|
//! | `stores` | what lifecycle and billing-state say, as the sources understand it |
//! | `client` | decisions over both, as they change and while they are away |
//! | `fake` | a service that answers what a test says |
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod client;
mod fake;
mod stores;
