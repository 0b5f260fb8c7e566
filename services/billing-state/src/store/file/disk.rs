//! What the file store does to the disk, one durable step at a time, so that a test can crash between any two.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Only the service's own user reads billing states.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// The steps. Each has happened for good when it returns, but for [`rename`](Disk::rename) and what adds or removes a
/// name: that needs [`sync_dir`](Disk::sync_dir).
pub(super) trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Makes a directory, if it is not there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Writes a file whole, and syncs it.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Writes a small file whole, and leaves it to the system when.
    fn note(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Appends to a file, and syncs it.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Cuts a file, and syncs it.
    fn cut(&self, path: &Path, length: u64) -> io::Result<()>;
    /// Gives a file another name, in place of what has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and everything in it.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Syncs the names in a directory.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// The real one.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(DIR_MODE).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn note(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        file.write_all(bytes)?;
        file.set_len(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)?;
        file.write_all(bytes)?;
        file.sync_data()
    }

    fn cut(&self, path: &Path, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}
