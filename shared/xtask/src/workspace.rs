//! Where things are.

use std::path::PathBuf;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    // This crate is at shared/xtask.
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or_else(|| here.clone(), PathBuf::from)
}

/// Where tools are installed; ignored by git, and safe to delete.
pub(crate) fn cache() -> PathBuf {
    root().join(".cache")
}
