//! PostgreSQL's own programs: where they are, and as whom they run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::getuid;

/// Debian keeps the programs of each major version in a folder of its own, none of which is on the path.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Whom the programs run as when the tests run as root, whom they refuse to serve. Debian's package makes this user.
const USER: &str = "postgres";

/// One of the programs of the newest version that is installed, with nothing of this process's environment but the path.
///
/// # Panics
/// When PostgreSQL is not installed.
pub(super) fn command(name: &str) -> Command {
    let program = folder_of_programs().join(name);
    let mut command = as_user(&program);
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C.UTF-8");
    // A folder that whoever it runs as may enter.
    command.current_dir("/");
    command
}

/// A command that runs `program`, as a user whom PostgreSQL accepts.
pub(super) fn as_user(program: &Path) -> Command {
    if !getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--init-groups", "--"]).arg(program);
    command
}

/// Where the programs are.
///
/// # Panics
/// When PostgreSQL is not installed.
pub(super) fn folder_of_programs() -> PathBuf {
    let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let versions = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let debian = versions.map(|version| (version, Path::new(DEBIAN).join(version.to_string()).join("bin")));
    let newest = debian.filter(|(_, folder)| has_server(folder)).max().map(|(_, folder)| folder);
    let path = env::var_os("PATH").unwrap_or_default();
    newest.or_else(|| env::split_paths(&path).find(|folder| has_server(folder))).unwrap_or_else(|| {
        panic!("PostgreSQL is missing; `cargo xtask test` installs it, `apt-get install postgresql` too")
    })
}

/// Whether a server can be started from there; clients alone are a package of their own.
fn has_server(folder: &Path) -> bool {
    ["postgres", "initdb", "pg_ctl"].iter().all(|program| folder.join(program).exists())
}

/// A new folder that belongs to whom the programs run as.
///
/// # Panics
/// When it cannot be made.
pub(super) fn folder() -> PathBuf {
    let folder = tempfile::Builder::new().prefix("pulse-postgres-").tempdir();
    let folder = folder.expect("a temporary folder can be made");
    if getuid().is_root() {
        let given = Command::new("chown").arg(format!("{USER}:")).arg(folder.path()).status();
        assert!(given.is_ok_and(|status| status.success()), "the folder cannot be given to {USER}");
    }
    // Whoever watches over the server removes it.
    folder.keep()
}
