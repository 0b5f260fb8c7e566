//! What comes from Debian's own packages.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::run::Run;

/// Makes sure that `program` runs with `probe`, by installing `packages` when it does not.
pub(super) fn ensure(program: &str, probe: &[&str], packages: &[&str]) -> Result<()> {
    let works = || Run::new(program).args(probe).works();
    if works() {
        return Ok(());
    }
    let names = packages.join(" ");
    install(packages).with_context(|| format!("{program} is needed, and {names} cannot be installed"))?;
    if !works() {
        bail!("`{program} {}` does not work although {names} was installed", probe.join(" "));
    }
    Ok(())
}

/// Installs `packages`, whether or not they are there.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let apt = |words: &str| -> Result<()> {
        let run = if is_root()? { Run::new("apt-get") } else { Run::new("sudo").words("-n apt-get") };
        run.env("DEBIAN_FRONTEND", "noninteractive").words(words).ok()
    };
    if !is_root()? && !Run::new("sudo").words("-n true").works() {
        bail!("this needs root: run `apt-get install {}` as root, then try again", packages.join(" "));
    }
    apt("update -qq")?;
    apt(&format!("install -y -qq --no-install-recommends {}", packages.join(" ")))
}

/// Whether this process may install packages.
fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("this is not a Linux system")?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).context("a process has a user")?;
    Ok(uids.split_whitespace().nth(1) == Some("0"))
}
