//! Password hashing: argon2id on threads of its own, with a bounded queue in front.
//!
//! | file | holds |
//! |---|---|
//! | `pool` | [`HashingPool`]: the queue, what is shed, what is skipped |
//! | `hasher` | one thread's hasher: the parameters, PHC strings, memory that is reused |
//!
//! One hash keeps a core busy for some 15 milliseconds and 19 MiB of memory, so it never runs on the threads that serve
//! requests, there are as many at once as cores, and a request that would wait too long is refused at once.
//! The plaintext comes in as a [`pulse_kernel::Password`] and is wiped when the last holder drops it; it appears in no
//! log, error or panic message.

mod hasher;
mod pool;

pub use hasher::{M_COST_KIB, P_COST, T_COST};
pub use pool::{HashingError, HashingPool, HashingSettings};
