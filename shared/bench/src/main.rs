//! `pulse-bench`: what the system costs, against what it could cost. `cargo xtask bench` runs it as it is meant to be run.
//!
//! A machine is never quiet, and no two are alike. So two things are measured in turn, in short rounds of one run, and what
//! counts is the ratio of the two, or their difference; time is that of the processor where that can be told.
//!
//! | module | holds |
//! |---|---|
//! | [`benches`] | what is measured, a file each |
//! | [`report`] | figures, goals, and how both are shown |
//! | [`measure`] | processor time, rounds, medians |
//! | [`load`] | a gRPC client that costs little and treats every server alike |
//! | [`echo`] | the bare server that others are measured against, as a process |
//! | [`tenants`] | tenants that are made up as they are asked for |
#![expect(clippy::print_stdout, reason = "a command talks to the terminal")]

mod benches;
mod echo;
mod load;
mod measure;
mod report;
mod tenants;

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Parser, ValueEnum as _};

use self::{benches::Bench, measure::Effort};

/// Measures, and shows each figure with its goal.
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Cli {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    benches: Vec<Bench>,
    /// How often each is measured; what is shown is the median, and what counts for the goal
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Only see whether everything can be measured: a single, tiny run whose figures mean nothing
    #[arg(long)]
    quick: bool,
    /// The folder in which each report is written too, as JSON
    #[arg(long, default_value = "target/bench", value_name = "PATH")]
    out: PathBuf,
}

// The clients are on one thread, to leave to the servers as much of the machine as there is.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let effort = if cli.quick { Effort::quick() } else { Effort::of(cli.runs) };
    let benches = if cli.benches.is_empty() { Bench::value_variants() } else { &cli.benches };
    fs::create_dir_all(&cli.out).with_context(|| format!("{} cannot be made", cli.out.display()))?;
    for bench in benches {
        let report = bench.run(effort).await.with_context(|| bench.name())?;
        println!("{report}");
        let path = cli.out.join(format!("{}.json", bench.name()));
        fs::write(&path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}
