//! Caches that are told: the client against the server's own streams of changes, over a network that a test cuts and freezes.
//!
//! | module | proves |
//! |---|---|
//! | `cases` | what a consumer knows while it is told, while it is cut off, and when it is back (I6, I7) |
//! | `chaos` | changes, cuts, silences, restarts and losses at random: versions never go back, ages are honest (I6, I8) |
//! | `connection` | that a stream outlives the time that a call may take |
//! | `store` | what both services have stored: every state that there ever was |
//! | `service` | both services over that, as often as there are replicas |
//! | `network` | what is between them and the client |
//! | `world` | all of that together, and a client |
//!
//! But for `connection` nothing here takes time: the clock is paused, and moves on when everybody waits.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod cases;
mod chaos;
mod connection;
mod network;
mod service;
mod store;
mod world;

use std::time::Duration;

use pulse_kernel::OrgId;

use crate::world::{PausedClock, World};

/// How long a change may take to be known, where nobody is cut off.
const AT_ONCE: Duration = Duration::from_millis(200);

fn org(id: &str) -> OrgId {
    OrgId::parse(id).unwrap()
}
