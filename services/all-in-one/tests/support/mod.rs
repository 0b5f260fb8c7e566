//! `pulse-hosted` as a process, with a working folder of its own; and a PostgreSQL server as operators have it.

pub(crate) mod cluster;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use tempfile::TempDir;

/// How long anything here may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The listen addresses; the system chooses the ports.
pub(crate) const ADDRS: [&str; 8] = [
    "PULSE_EDGE_PUBLIC_ADDR",
    "PULSE_EDGE_ADMIN_ADDR",
    "PULSE_EDGE_INTERNAL_ADDR",
    "PULSE_SIGNUP_GATEWAY_ADDR",
    "PULSE_PROVISIONER_ADDR",
    "PULSE_BILLING_STATE_ADDR",
    "PULSE_LIFECYCLE_ADDR",
    "PULSE_METRICS_ADDR",
];

/// `pulse-hosted` with a working folder of its own, and nothing else in its environment.
pub(crate) fn pulse_hosted(mode: &str, folder: &Path, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pulse-hosted"));
    command
        .args(mode.split_whitespace())
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(ADDRS.map(|addr| (addr, "127.0.0.1:0")))
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A running `pulse-hosted dev`, which is stopped in the end.
pub(crate) struct Dev {
    child: Child,
    pub(crate) folder: TempDir,
    pub(crate) banner: String,
}

impl Dev {
    pub(crate) fn start(env: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), env)
    }

    pub(crate) fn start_in(folder: TempDir, env: &[(&str, &str)]) -> Self {
        let mut child = pulse_hosted("dev", folder.path(), env).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        // The command to grpcurl is the last line.
        let mut banner = String::new();
        while !banner.contains("grpcurl") {
            let Ok(line) = lines.recv_timeout(LIMIT) else {
                let _ = child.kill();
                let mut log = String::new();
                child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
                panic!("not ready; printed {banner:?}, logged {log}");
            };
            banner += &line;
            banner.push('\n');
        }
        Self { child, folder, banner }
    }

    /// The printed line that begins with `word`.
    pub(crate) fn line(&self, word: &str) -> &str {
        let mut lines = self.banner.lines().map(str::trim);
        lines.find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("no {word} in {}", self.banner))
    }

    /// Runs a printed command as it was printed, from the folder that `dev` was started in.
    pub(crate) fn run_printed(&self, word: &str) -> Output {
        self.run_with(word, ToOwned::to_owned)
    }

    /// As [`Self::run_printed`], after a change.
    pub(crate) fn run_with(&self, word: &str, change: impl FnOnce(&str) -> String) -> Output {
        let command = change(self.line(word));
        Command::new("sh").args(["-c", &command]).current_dir(self.folder.path()).output().unwrap()
    }

    /// Stops it as a terminal does; the exit code, and the folder for another start.
    pub(crate) fn stop(mut self) -> (Option<i32>, TempDir) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let code = self.child.wait().unwrap().code();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        (code, folder)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
