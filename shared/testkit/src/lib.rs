//! What tests share. Only ever a dev-dependency.
//!
//! | module | holds |
//! |---|---|
//! | [`clock`] | [`ManualClock`]: time that moves when the test says so |
//! | [`entropy`] | [`SeededEntropy`]: chance that repeats itself |
//! | [`wait`] | [`eventually`]: wait for a condition, never for a while |
//! | [`net`] | listeners on free loopback ports |
//! | `system` | the real programs as a system under test (with the feature of that name) |
//!
//! A helper that cannot do its work panics: in a test that is a failure with a message, which is what is wanted.
#![warn(missing_docs)]
#![expect(clippy::panic, clippy::expect_used, reason = "a failed helper fails the test that called it")]

pub mod clock;
pub mod entropy;
pub mod net;
#[cfg(feature = "system")]
pub mod system;
pub mod wait;

pub use clock::ManualClock;
pub use entropy::SeededEntropy;
pub use net::listener;
pub use wait::eventually;
