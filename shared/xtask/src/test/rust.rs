//! What cargo itself can check, and the tests that it runs.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{blackbox, tally::Tally};
use crate::run::Run;

pub(super) fn fmt(tally: &mut Tally) {
    tally.check("fmt", Run::cargo().words("fmt --all --check").ok());
}

pub(super) fn clippy(tally: &mut Tally) {
    let clippy = Run::cargo().words("clippy --locked --workspace --all-targets --keep-going -- -D warnings");
    tally.check("clippy", clippy.ok());
}

/// Every public item of a library can be rendered, and every link in its documentation leads somewhere.
pub(super) fn docs(tally: &mut Tally) {
    let docs = Run::cargo()
        .words("doc --locked --workspace --no-deps --keep-going")
        .env("RUSTDOCFLAGS", "-D warnings");
    tally.check("docs", docs.ok());
}

/// Every test but the black-box suite.
pub(super) fn unit(tally: &mut Tally) -> Result<()> {
    let targets = integration_tests()?;
    let tests = targets
        .iter()
        .fold(Run::cargo().words("test --locked --workspace --no-fail-fast --lib --bins"), |run, target| {
            run.arg("--test").arg(target)
        });
    tests_of("unit", tests, tally);
    let docs = Run::cargo().words("test --locked --workspace --no-fail-fast --doc");
    tests_of("unit", docs, tally);
    Ok(())
}

/// The names of all integration tests but the black-box suite.
fn integration_tests() -> Result<BTreeSet<String>> {
    let metadata = Run::cargo().words("metadata --locked --format-version 1 --no-deps").output()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let targets = packages.iter().filter_map(|package| package["targets"].as_array()).flatten();
    Ok(targets
        .filter(|target| {
            target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "test"))
        })
        .filter_map(|target| target["name"].as_str())
        .filter(|name| *name != blackbox::TARGET)
        .map(str::to_owned)
        .collect())
}

/// Runs a `cargo test` and counts its tests; when it fails without a failed test, that is a failure of `step`.
pub(super) fn tests_of(step: &str, run: Run, tally: &mut Tally) {
    let failures = tally.failures().len();
    let result = run.ok_with_lines(|line| match Line::read(line) {
        Line::Failed(name) => tally.test_failed(&format!("{step}: test {name}")),
        Line::Sum { passed, ignored } => {
            tally.tests_passed(passed);
            if ignored > 0 {
                tally.failed(step, &format!("{ignored} tests are ignored; a test runs or goes"));
            }
        }
        Line::Other => {}
    });
    match result {
        Err(error) if tally.failures().len() == failures => tally.failed(step, &format!("{error:#}")),
        _ => {}
    }
}

/// What a line of the test harness's output says.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Failed(&'a str),
    Sum { passed: usize, ignored: usize },
    Other,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Self {
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            return Self::Failed(name);
        }
        let Some(sums) = line.strip_prefix("test result: ") else { return Self::Other };
        // "ok. 5 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.16s"
        let count = |what: &str| -> Option<usize> {
            let before = sums.split(&[';', '.']).find_map(|part| part.strip_suffix(what))?;
            before.trim().parse().ok()
        };
        match (count(" passed"), count(" ignored")) {
            (Some(passed), Some(ignored)) => Self::Sum { passed, ignored },
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_harness_prints() {
        let sum = "test result: FAILED. 5 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.16s";
        assert_eq!(Line::read(sum), Line::Sum { passed: 5, ignored: 2 });
        assert_eq!(Line::read("test a::b ... FAILED"), Line::Failed("a::b"));
        assert_eq!(Line::read("test a::b ... ok"), Line::Other);
        assert_eq!(Line::read("test result: who knows"), Line::Other);
    }

    #[test]
    fn a_run_that_fails_without_a_failed_test_is_a_failure() {
        let mut tally = Tally::default();
        tests_of(
            "step",
            Run::new("sh").arg("-c").arg("echo 'error: could not compile'; exit 101"),
            &mut tally,
        );
        assert_eq!(tally.failures().len(), 1);

        let mut tally = Tally::default();
        let script = "echo 'test x ... FAILED'; echo 'test result: FAILED. 2 passed; 1 failed; 0 ignored; 0'; exit 101";
        tests_of("step", Run::new("sh").arg("-c").arg(script), &mut tally);
        assert_eq!((tally.tests(), tally.passes()), (3, 2));
        assert_eq!(tally.failures(), ["step: test x"]);
    }
}
