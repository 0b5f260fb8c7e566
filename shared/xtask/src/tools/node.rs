//! npm packages, in a folder of their own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{debian, is_installed, mark_installed};
use crate::{run::Run, workspace};

/// Makes sure that `.cache/node` holds `packages`.
pub(super) fn ensure(packages: &[&str]) -> Result<()> {
    let dir = workspace::cache().join("node");
    if is_installed(&dir, packages) && Run::new("node").arg("--version").works() {
        return Ok(());
    }
    debian::ensure("npm", &["--version"], &["nodejs", "npm"])?;
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    // No install scripts: a package only ever runs when a check runs it.
    let npm = Run::new("npm")
        .words("install --no-audit --no-fund --no-save --no-package-lock --ignore-scripts --loglevel=error")
        .arg("--prefix")
        .arg(&dir);
    npm.args(packages).ok().with_context(|| format!("needed from npm: {}", packages.join(", ")))?;
    mark_installed(&dir, packages)
}

/// An installed program of that name.
pub(crate) fn program(name: impl AsRef<Path>) -> PathBuf {
    workspace::cache().join("node/node_modules/.bin").join(name)
}
