//! Several replicas of the provisioner over one PostgreSQL, with the real lifecycle and billing-state behind them.
//!
//! | file | holds |
//! |---|---|
//! | `replicas` | replicas of the engine, which die, stall and recover, by a clock that the test moves |
//! | `engines` | what they make of each other's sagas |
//! | `services` | whole services, asked over gRPC |
//! | `outages` | one saga, and a database that is away, busy, or cut off in the middle of a commit |
//! | `cut` | many sagas, and connections to the database that are lost all the time |
//! | `plans` | how the database carries out each statement when there is a lot in it |
//! | `program` | `pulse-provisioner migrate`, and which store the program opens |

#[cfg(test)]
mod cut;
#[cfg(test)]
mod engines;
#[cfg(test)]
#[path = "../saga/faults.rs"]
#[expect(dead_code, reason = "these tests need a part of it")]
mod faults;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod program;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod services;
#[cfg(test)]
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "these tests need a part of it")]
mod support;
