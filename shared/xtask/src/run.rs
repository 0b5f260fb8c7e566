//! Runs a program: says what it runs, shows its output as it comes, and gives it no input.

use std::{
    env,
    ffi::OsStr,
    fmt,
    io::{BufRead, BufReader, Write, stdout},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// A program to run at the root of the repository.
pub(crate) struct Run(Command);

impl Run {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(workspace::root()).stdin(Stdio::null());
        Self(command)
    }

    /// Cargo, the same one that runs this.
    pub(crate) fn cargo() -> Self {
        Self::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// Adds arguments, separated by spaces.
    pub(crate) fn words(mut self, words: &str) -> Self {
        self.0.args(words.split_whitespace());
        self
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.0.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    pub(crate) fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.0.current_dir(dir);
        self
    }

    /// Runs it to its end.
    pub(crate) fn ok(mut self) -> Result<()> {
        println!("$ {self}");
        let status = self.0.status().with_context(|| format!("{self} cannot be started"))?;
        if !status.success() {
            bail!("`{self}` failed: {status}");
        }
        Ok(())
    }

    /// Runs it to its end and shows each line of its standard output to `line` as it comes.
    pub(crate) fn ok_with_lines(mut self, mut line: impl FnMut(&str)) -> Result<()> {
        println!("$ {self}");
        let mut child =
            self.0.stdout(Stdio::piped()).spawn().with_context(|| format!("{self} cannot be started"))?;
        let output = child.stdout.take().context("its output is piped")?;
        for text in BufReader::new(output).split(b'\n') {
            let text = text?;
            stdout().write_all(&text)?;
            println!();
            line(&String::from_utf8_lossy(&text));
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("`{self}` failed: {status}");
        }
        Ok(())
    }

    /// Runs it quietly and returns its standard output.
    pub(crate) fn output(mut self) -> Result<String> {
        let output = self.0.output().with_context(|| format!("{self} cannot be started"))?;
        if !output.status.success() {
            bail!("`{self}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout).with_context(|| format!("{self} printed what is not text"))
    }

    /// Whether it can be started and succeeds; shows nothing.
    pub(crate) fn works(mut self) -> bool {
        self.0.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = Path::new(self.0.get_program());
        write!(f, "{}", program.file_name().unwrap_or(program.as_os_str()).display())?;
        self.0.get_args().try_for_each(|arg| write!(f, " {}", arg.display()))
    }
}
