//! The project's own commands, run as `cargo xtask <command>`.
//!
//! | module | holds |
//! |---|---|
//! | [`mod@test`] | `cargo xtask test`: every check there is, a file each |
//! | [`mod@bench`] | `cargo xtask bench`: what the system costs, against what it could cost |
//! | [`tools`] | the programs that the checks need: their versions, and how a machine gets them |
//! | [`run`] | running a program with its output shown |
//! | [`workspace`] | where things are |
#![expect(clippy::print_stdout, reason = "a command talks to the terminal")]

mod bench;
mod run;
mod test;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "The project's own commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every check: sets up what it needs, runs all of them, and lists what failed
    Test(test::Args),
    /// Measure what the system costs: builds the programs as they are shipped, and shows each figure with its goal
    Bench(bench::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}
