//! Python packages, in a virtual environment of their own.

use std::fs;

use anyhow::{Context, Result};

use super::{debian, is_installed, mark_installed};
use crate::{run::Run, workspace};

/// Makes sure that `.cache/python` is a virtual environment with `packages`.
pub(super) fn ensure(packages: &[&str]) -> Result<()> {
    let dir = workspace::cache().join("python");
    if is_installed(&dir, packages) && Run::new(dir.join("bin/python")).arg("--version").works() {
        return Ok(());
    }
    debian::ensure("python3", &["-c", "import ensurepip, venv"], &["python3-venv"])?;
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    Run::new("python3").words("-m venv").arg(&dir).ok()?;
    let pip = Run::new(dir.join("bin/pip")).words("install --quiet --disable-pip-version-check --no-input");
    pip.args(packages).ok().with_context(|| format!("needed from PyPI: {}", packages.join(", ")))?;
    mark_installed(&dir, packages)
}
