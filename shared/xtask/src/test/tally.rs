//! What passed and what failed.

use anyhow::Result;

/// Counts single tests and whole checks alike.
#[derive(Debug, Default)]
pub(super) struct Tally {
    tests: usize,
    checks: usize,
    passes: usize,
    failures: Vec<String>,
}

impl Tally {
    /// A check, such as the formatting, with what came of it.
    pub(super) fn check(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => {
                self.checks += 1;
                self.passes += 1;
            }
            Err(error) => self.failed(name, &format!("{error:#}")),
        }
    }

    /// A check that failed.
    pub(super) fn failed(&mut self, name: &str, why: &str) {
        self.checks += 1;
        self.failures.push(format!("{name}: {why}"));
    }

    /// Single tests that passed.
    pub(super) fn tests_passed(&mut self, count: usize) {
        self.tests += count;
        self.passes += count;
    }

    /// A single test that failed.
    pub(super) fn test_failed(&mut self, name: &str) {
        self.tests += 1;
        self.failures.push(name.to_owned());
    }

    pub(super) fn tests(&self) -> usize {
        self.tests
    }

    pub(super) fn checks(&self) -> usize {
        self.checks
    }

    pub(super) fn passes(&self) -> usize {
        self.passes
    }

    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }
}
