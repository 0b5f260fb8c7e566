//! `cargo xtask test`: every check there is.
//!
//! | module | checks |
//! |---|---|
//! | [`layout`] | how the repository is laid out, and what no file may hold |
//! | [`rust`] | formatting, clippy, documentation, unit and integration tests |
//! | [`proto`] | the protobuf files |
//! | [`deny`] | the dependencies |
//! | [`blackbox`] | the real programs, from outside; the README's commands; the OpenAPI document |
//! | [`tally`] | what passed and what failed |
//!
//! All checks run, also after one has failed. The last line says how many passed and how many failed.

mod blackbox;
mod deny;
mod layout;
mod proto;
mod rust;
mod tally;

use std::{
    collections::BTreeSet,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};

use self::tally::Tally;
use crate::tools::Tool;

/// Options of `cargo xtask test`.
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// Run this step only; may be given several times
    #[arg(long, value_enum)]
    only: Vec<Step>,
}

/// The steps, in the order in which they run: what fails quickly comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// cargo fmt
    Fmt,
    /// Sizes, names and what no file may hold
    Layout,
    /// buf lint and buf format
    Proto,
    /// clippy, warnings denied
    Clippy,
    /// rustdoc, warnings denied
    Docs,
    /// Unit, integration and documentation tests
    Unit,
    /// The real programs from outside, the README's commands and the OpenAPI document
    Blackbox,
    /// Licences, sources and versions of dependencies
    Deny,
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn needs(self) -> &'static [Tool] {
        match self {
            Self::Fmt | Self::Layout | Self::Clippy | Self::Docs => &[],
            Self::Unit => &[Tool::Postgres],
            Self::Proto => &[Tool::Node],
            Self::Blackbox => &[Tool::Curl, Tool::Postgres, Tool::Nginx, Tool::Caddy, Tool::Python],
            Self::Deny => &[Tool::CargoDeny],
        }
    }

    fn run(self, tally: &mut Tally) -> Result<()> {
        match self {
            Self::Fmt => rust::fmt(tally),
            Self::Layout => layout::check(tally)?,
            Self::Proto => proto::check(tally),
            Self::Clippy => rust::clippy(tally),
            Self::Docs => rust::docs(tally),
            Self::Unit => rust::unit(tally)?,
            Self::Blackbox => blackbox::check(tally),
            Self::Deny => deny::check(tally),
        }
        Ok(())
    }
}

/// Runs the steps and says what came of them.
pub(crate) fn run(args: &Args) -> ExitCode {
    let steps = if args.only.is_empty() { Step::value_variants() } else { &args.only };
    let (mut tally, mut times) = (Tally::default(), Vec::new());

    println!("=== set-up");
    let (ready, took) = timed(|| set_up(steps, &mut tally));
    times.push(("set-up".to_owned(), took));

    for step in steps {
        println!("\n=== {}", step.name());
        if !step.needs().iter().all(|tool| ready.contains(tool)) {
            tally.failed(&step.name(), "did not run, as a tool that it needs is missing");
            continue;
        }
        let (result, took) = timed(|| step.run(&mut tally));
        if let Err(error) = result {
            tally.failed(&step.name(), &format!("{error:#}"));
        }
        times.push((step.name(), took));
    }
    summarize(&tally, &times)
}

/// Gets every tool that the steps need; returns those that are there.
fn set_up(steps: &[Step], tally: &mut Tally) -> BTreeSet<Tool> {
    let needed: BTreeSet<Tool> = steps.iter().flat_map(|step| step.needs()).copied().collect();
    let mut ready = BTreeSet::new();
    for tool in needed {
        match tool.ensure() {
            Ok(()) => _ = ready.insert(tool),
            Err(error) => tally.failed("set-up", &format!("{error:#}")),
        }
    }
    ready
}

#[expect(clippy::disallowed_methods, reason = "shows a person how long a step took; nothing depends on it")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

fn summarize(tally: &Tally, times: &[(String, Duration)]) -> ExitCode {
    println!("\n=== result");
    for (step, took) in times {
        println!("{step:<10} {:>5} s", took.as_secs());
    }
    for failure in tally.failures() {
        println!("FAILED {failure}");
    }
    println!("{} tests and {} other checks ran", tally.tests(), tally.checks());
    println!("{} passed, {} failed", tally.passes(), tally.failures().len());
    if tally.failures().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
