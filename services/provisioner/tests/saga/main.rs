//! Both sagas, over the real lifecycle and billing-state, with every call and every commit of theirs failed in every way,
//! and then recovered. Enumerated, not sampled.
//!
//! | file | holds |
//! |---|---|
//! | `faults` | the faults, and the decorators that let them happen |
//! | `harness` | an attempt under a script of faults, recovery, and what is looked at afterwards |
//! | `provision` | the table of the saga that makes a tenant |
//! | `purge` | the table of the saga that unmakes one |

#[cfg(test)]
mod faults;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod provision;
#[cfg(test)]
mod purge;
#[cfg(test)]
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "these tests need a part of it")]
mod support;
