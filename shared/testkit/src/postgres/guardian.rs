//! What ends a server, and removes its folder, when the process that started it is gone.
//!
//! Statics are never dropped, and a killed process drops nothing at all. So a small shell waits at the other end of a
//! pipe that only the test's process holds open: however that process ends, the kernel closes the pipe.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Stdio},
};

use super::programs;

/// The data, below the server's folder.
pub(super) const DATA: &str = "data";

/// Waits for the end of its input, stops the server at once, and removes the folder; several times if need be, as a server
/// or an `initdb` may have been starting just then.
const SCRIPT: &str = r#"
folder=$1 data=$2 pg_ctl=$3
cat > /dev/null
tries=100
while [ "$tries" -gt 0 ]; do
  tries=$((tries - 1))
  "$pg_ctl" stop --pgdata="$data" --mode=immediate --wait --timeout=10
  rm -rf "$folder" && exit
  sleep 0.1
done
"#;

/// The shell that waits.
#[derive(Debug)]
pub(super) struct Guardian {
    folder: PathBuf,
    shell: Child,
    /// Our end of the pipe.
    pipe: Option<ChildStdin>,
}

impl Guardian {
    /// Watches over `folder` from now on.
    ///
    /// # Panics
    /// When it cannot be started.
    pub(super) fn over(folder: PathBuf) -> Self {
        let pg_ctl = programs::folder_of_programs().join("pg_ctl");
        let mut shell = programs::as_user(Path::new("sh"))
            .args(["-c", SCRIPT, "guardian"])
            .arg(&folder)
            .arg(folder.join(DATA))
            .arg(pg_ctl)
            .current_dir("/")
            // A signal from the terminal ends the tests, and must not end the one who cleans up after them.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell can be started");
        let pipe = shell.stdin.take();
        Self { folder, shell, pipe }
    }

    /// What it watches over.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Has it do its work now, and waits until that is done.
    pub(super) fn dismiss(&mut self) {
        self.pipe = None;
        let _ = self.shell.wait();
    }
}
