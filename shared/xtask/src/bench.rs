//! `cargo xtask bench`: builds the programs as they are shipped, and measures them. See `docs/performance.md`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::run::Run;

/// The programs that are measured, and the one that does it.
const PROGRAMS: &str = "-p pulse-billing-state -p pulse-lifecycle -p pulse-bench";

/// Options of `cargo xtask bench`.
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// What to measure, and how: `--help` after `--` says what there is [default: everything, five times]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NAME|OPTION")]
    options: Vec<String>,
}

/// Builds and measures.
pub(crate) fn run(args: &Args) -> ExitCode {
    match measure(&args.options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &[String]) -> Result<()> {
    Run::cargo().words("build --release --locked --bins").words(PROGRAMS).ok()?;
    Run::cargo().words("run --release --locked -p pulse-bench --bin pulse-bench --").args(options).ok()
}
