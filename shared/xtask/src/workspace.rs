//! Where things are.

use std::{env, path::PathBuf};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    // This crate is at shared/xtask. Where that is, cargo says at run time: a build may have been moved, or shared.
    let here = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let here = PathBuf::from(here);
    here.ancestors().nth(2).map_or_else(|| here.clone(), PathBuf::from)
}

/// Where tools are installed; ignored by git, and safe to delete.
pub(crate) fn cache() -> PathBuf {
    root().join(".cache")
}
