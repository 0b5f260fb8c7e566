//! Programs that users have, as `cargo xtask test` sets them up.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tokio::process::Command;

use super::{System, program};

/// What a tool printed, and whether it was content.
#[derive(Debug, Clone)]
pub struct Printed {
    /// Whether it succeeded.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Printed {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { success: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Printed {
    /// Standard output, if the tool succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success, "failed:\n{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// The root of the repository.
///
/// # Panics
/// When the test that calls this was not started by cargo.
pub fn repository() -> PathBuf {
    // The package of the test that runs; each is two folders down. Not this crate's own path: a build may have been moved.
    let package = env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
    Path::new(&package).ancestors().nth(2).expect("packages are two folders down").to_owned()
}

/// The folder with the programs of the virtual environment that `cargo xtask test` makes.
///
/// # Panics
/// When it has not been made.
pub fn python_programs() -> PathBuf {
    let folder = repository().join(".cache/python/bin");
    assert!(
        folder.join("grpcurl").exists(),
        "the tools of this test are missing; `cargo xtask test --only blackbox` sets them up"
    );
    folder
}

impl System {
    /// Runs grpcurl with these arguments.
    ///
    /// # Panics
    /// When it cannot be run.
    pub async fn grpcurl(&self, args: &[&str]) -> Printed {
        self.tool("grpcurl", args).await
    }

    /// Runs a Python script of the test suite with these arguments.
    ///
    /// # Panics
    /// When it cannot be run.
    pub async fn python(&self, script: &Path, args: &[&str]) -> Printed {
        let script = script.to_str().expect("paths are text");
        self.tool("python", &[&[script], args].concat()).await
    }

    /// Runs a shell script as a user at the folder of this system would; it stops at the first command that fails.
    ///
    /// # Panics
    /// When it cannot be run.
    pub async fn shell(&self, script: &str) -> Printed {
        let file = self.folder().join("script.sh");
        fs::write(&file, format!("set -eu\n{script}\n")).expect("a script can be written");
        self.tool("bash", &[file.to_str().expect("paths are text")]).await
    }

    /// Runs one of this workspace's programs to its end, as for its `--help`.
    ///
    /// # Panics
    /// When it cannot be run.
    pub async fn own_program(&self, name: &str, args: &[&str]) -> Printed {
        let mut command = Command::new(program::binary(name));
        command.args(args);
        self.run(command).await
    }

    /// Runs a program of the virtual environment, or else of the path, with these arguments.
    ///
    /// # Panics
    /// When it cannot be run.
    pub async fn tool(&self, program: &str, args: &[&str]) -> Printed {
        let programs = python_programs();
        let path = env::join_paths(
            [programs.clone()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
        );
        let own = programs.join(program);
        let mut command = Command::new(if own.exists() { own } else { PathBuf::from(program) });
        command.args(args).env("PATH", path.expect("the path has no colon inside a name"));
        self.run(command).await
    }

    async fn run(&self, mut command: Command) -> Printed {
        let command = command.current_dir(self.folder()).stdin(Stdio::null()).kill_on_drop(true);
        command.output().await.unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}")).into()
    }
}
