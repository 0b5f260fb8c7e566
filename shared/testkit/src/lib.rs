//! What tests share, and benchmarks too. Nothing that is shipped depends on it.
//!
//! | module | holds |
//! |---|---|
//! | [`clock`] | [`ManualClock`]: time that moves when the test says so |
//! | [`entropy`] | [`SeededEntropy`]: chance that repeats itself |
//! | [`wait`] | [`eventually`]: wait for a condition, never for a while |
//! | [`net`] | listeners on free loopback ports |
//! | `ports` | ports that no other test on this machine gets (with the feature `postgres`) |
//! | `postgres` | a throw-away PostgreSQL server (with the feature of that name) |
//! | `proxy` | a forwarder that balances, cuts and freezes (with the feature `postgres`) |
//! | `system` | the real programs as a system under test (with the feature of that name) |
//!
//! A helper that cannot do its work panics: in a test that is a failure with a message, which is what is wanted.
#![warn(missing_docs)]
#![expect(clippy::panic, clippy::expect_used, reason = "a failed helper fails the test that called it")]

pub mod clock;
pub mod entropy;
pub mod net;
#[cfg(feature = "postgres")]
pub mod ports;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "postgres")]
pub mod proxy;
#[cfg(feature = "system")]
pub mod system;
pub mod wait;

pub use clock::ManualClock;
pub use entropy::SeededEntropy;
pub use net::listener;
#[cfg(feature = "postgres")]
pub use postgres::{Database, Postgres};
#[cfg(feature = "postgres")]
pub use proxy::Proxy;
pub use wait::eventually;
