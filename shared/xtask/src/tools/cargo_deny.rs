//! cargo-deny, built from crates.io.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{run::Run, workspace};

/// Makes sure that `.cache/cargo` holds this version.
pub(super) fn ensure(version: &str) -> Result<()> {
    let shown = Run::new(program()).arg("--version").output();
    if shown.is_ok_and(|text| text.split_whitespace().last() == Some(version)) {
        return Ok(());
    }
    let dir = workspace::cache().join("cargo");
    let build = dir.join("build");
    // Unoptimised: it takes half the time to build and a second to run.
    Run::cargo()
        .words("install cargo-deny --quiet --locked --force --profile dev --config profile.dev.debug=false")
        .words("--version")
        .arg(version)
        .arg("--root")
        .arg(&dir)
        .env("CARGO_TARGET_DIR", &build)
        // Not from the repository: its settings are not for other people's programs.
        .dir("/")
        .ok()
        .with_context(|| format!("needed from crates.io: cargo-deny {version}"))?;
    Ok(fs::remove_dir_all(build)?)
}

/// Where it is.
pub(crate) fn program() -> PathBuf {
    workspace::cache().join("cargo/bin/cargo-deny")
}
