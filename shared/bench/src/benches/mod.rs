//! What is measured.
//!
//! | module | measures |
//! |---|---|
//! | [`entitlements`] | `GetEntitlements` over gRPC, against a bare tonic server |
//! | [`hits`] | an answer from the caches of this process |
//! | [`guard`] | the decision, and the layer that asks for it |
//! | [`crowd`] | the same with many tenants, and the memory that each takes |
//! | [`propagation`] | from a suspension, or a change of billing, to its refusal by a thousand consumers |

mod crowd;
mod entitlements;
mod guard;
mod hits;
mod propagation;

use anyhow::Result;
use clap::ValueEnum;

use crate::{measure::Effort, report::Report};

/// The benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bench {
    /// `GetEntitlements` over gRPC, against a bare tonic server
    Entitlements,
    /// An answer from a cache: time and allocations
    Hits,
    /// The tenant guard: the decision, and the layer
    Guard,
    /// A thousand tenants against a million: time and memory
    Crowd,
    /// From a suspension, or a change of billing, to its refusal by a thousand consumers
    Propagation,
}

impl Bench {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(crate) async fn run(self, effort: Effort) -> Result<Report> {
        let (about, figures) = match self {
            Self::Entitlements => (entitlements::ABOUT, entitlements::run(effort).await?),
            Self::Hits => (hits::ABOUT, hits::run(effort)?),
            Self::Guard => (guard::ABOUT, guard::run(effort)?),
            Self::Crowd => (crowd::ABOUT, crowd::run(effort)?),
            Self::Propagation => (propagation::ABOUT, propagation::run(effort).await?),
        };
        Ok(Report { name: self.name(), about, figures })
    }
}
