//! The PostgreSQL server, which the tests start by themselves.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use super::debian;
use crate::run::Run;

/// Debian keeps the programs of each major version in a folder of its own, none of which is on the path.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Makes sure that a server can be started.
pub(super) fn ensure() -> Result<()> {
    if works() {
        return Ok(());
    }
    debian::install(&["postgresql"]).context("a PostgreSQL server is needed, and cannot be installed")?;
    if !works() {
        bail!("no PostgreSQL server works although postgresql was installed");
    }
    Ok(())
}

/// Whether there is a server that runs, where Debian has it or on the path.
fn works() -> bool {
    let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let debian = versions.map(|version| version.path().join("bin/postgres"));
    debian.chain([PathBuf::from("postgres")]).any(|server| Run::new(server).arg("--version").works())
}
