//! The black-box suite: the real programs on real ports, driven from outside.

use super::{rust, tally::Tally};
use crate::run::Run;

/// The name of the test target.
pub(super) const TARGET: &str = "blackbox";

pub(super) fn check(tally: &mut Tally) {
    // The suite runs the programs, which cargo does not build for a test of another package.
    let build = Run::cargo().words("build --locked --workspace --all-targets").ok();
    match build {
        Ok(()) => {
            let suite = Run::cargo().words("test --locked --workspace --no-fail-fast --test").arg(TARGET);
            rust::tests_of("blackbox", suite, tally);
        }
        Err(error) => tally.failed("blackbox", &format!("{error:#}")),
    }
}
