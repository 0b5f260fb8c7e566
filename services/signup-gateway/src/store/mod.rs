//! Where it is kept how far each client has used up its allowance of signups.
//!
//! | module | holds |
//! |---|---|
//! | [`memory`] | what one process keeps by itself; gone with it |
//! | [`postgres`] | what all replicas keep together |
//! | [`known`] | in front of another: refuses what that would refuse, without asking it |
//! | `conformance` | what every store has to do, as tests that run against each |

#[cfg(test)]
mod conformance;
pub mod known;
pub mod memory;
pub mod postgres;

use std::fmt;

use async_trait::async_trait;
use pulse_rpc::ClientKey;
use pulse_store::StoreError;

pub use self::{
    known::Known,
    memory::MemoryStore,
    postgres::{PostgresStore, SCHEMA},
};
pub use crate::domain::{Allowance, Decision};

/// The store of this service.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Decides whether the client may sign up now, and counts it if so. However many ask at once, and wherever, never more are
    /// admitted than its allowance has.
    async fn admit(&self, client: ClientKey) -> Result<Decision, StoreError>;

    /// Forgets clients whose allowance is whole. Says whether there may be more of them.
    async fn sweep(&self) -> Result<bool, StoreError>;

    /// Whether it can be read and written.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Lets go of what it holds.
    async fn close(&self);
}
