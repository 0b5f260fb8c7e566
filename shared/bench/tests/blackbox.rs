//! That every benchmark can be run: a tiny run of each, with the programs as they were built for the tests. Its figures mean
//! nothing, and nothing is asked of them.
#![expect(clippy::unwrap_used, reason = "tests and their helpers fail by panicking")]

use std::{fs, path::Path, process::Command};

use serde_json::Value;

fn quick(bench: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pulse-bench"))
        .args([bench, "--quick", "--out", out])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let report = fs::read_to_string(Path::new(out).join(format!("{bench}.json"))).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(said.contains(report["about"].as_str().unwrap()), "{said}");
    report
}

/// Each figure is there and is a number that something can have.
#[track_caller]
fn has_figures(report: &Value) {
    let figures = report["figures"].as_array().unwrap();
    assert!(!figures.is_empty());
    for figure in figures {
        let runs = figure["runs"].as_array().unwrap();
        assert!(!runs.is_empty() && runs.iter().all(Value::is_number), "{figure}");
        assert_eq!(figure["goal"].is_null(), figure["met"].is_null(), "{figure}");
    }
}

/// What does not depend on how fast the machine is.
fn is_met(report: &Value, what: &str) -> bool {
    let figures = report["figures"].as_array().unwrap();
    let mut found =
        figures.iter().filter(|figure| figure["what"].as_str().unwrap().contains(what)).peekable();
    assert!(found.peek().is_some(), "there is no figure of {what}");
    found.all(|figure| figure["met"].as_bool().unwrap())
}

#[test]
fn entitlements_are_measured_against_a_bare_server() {
    has_figures(&quick("entitlements"));
}

#[test]
fn hits_are_measured_and_allocate_nothing() {
    let report = quick("hits");
    has_figures(&report);
    assert!(is_met(&report, "allocations"), "{report}");
}

#[test]
fn the_guard_is_measured() {
    has_figures(&quick("guard"));
}

#[test]
fn a_crowd_is_measured() {
    has_figures(&quick("crowd"));
}

#[test]
fn changes_are_followed_to_every_consumer() {
    has_figures(&quick("propagation"));
}
