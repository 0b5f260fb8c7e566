//! `migrate-to-postgres`: moves an embedded installation into a PostgreSQL database. It may be repeated: what is there already is
//! compared, and left as it is.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use pulse_runtime::{DatabaseSettings, SettingError};
use pulse_store::transfer::{Progress, Transferred};

/// How often a table says how far it is.
const PARTS: u64 = 10;

/// What is moved, and where to.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Move {
    /// The data folder of the embedded installation, which must not be running.
    #[arg(long, value_name = "PATH")]
    from: PathBuf,

    /// The database.
    #[command(flatten)]
    database: DatabaseSettings,
}

impl Move {
    /// Moves service by service, each as a whole or not at all; says what was moved.
    ///
    /// # Errors
    /// Why it stopped. Services that were moved before that stay moved, and a repetition goes on with the others.
    pub(crate) async fn run(&self) -> anyhow::Result<String> {
        // Before anything else is looked at, as a setting that is missing.
        if self.database.database_url.is_none() {
            return Err(
                SettingError::missing("PULSE_DATABASE_URL", "it names the database to move to").into()
            );
        }
        if !self.from.is_dir() {
            bail!("--from: {} is not a folder", self.from.display());
        }
        let file = |name: &str| self.from.join(name);
        let mut steps = Steps::default();
        let mut show = |progress: Progress| steps.show(progress);
        let moved = [
            pulse_billing_state::store::transfer::transfer(&self.from, &self.database, &mut show)
                .await
                .context("billing-state")?,
            pulse_provisioner::store::transfer::transfer(&file("provisioner.db"), &self.database, &mut show)
                .await
                .context("provisioner")?,
            pulse_lifecycle::store::transfer::transfer(&file("lifecycle.db"), &self.database, &mut show)
                .await
                .context("lifecycle")?,
        ];
        Ok(report(&self.from, &moved))
    }
}

/// What has been said about how far a table is.
#[derive(Debug, Default)]
struct Steps {
    last: Option<(&'static str, bool, u64)>,
}

impl Steps {
    /// Says so when another part of the table is done.
    fn show(&mut self, Progress { schema, table, done, of, comparing }: Progress) {
        let step = (table, comparing, done * PARTS / of.max(done).max(1));
        if self.last.replace(step) == Some(step) {
            return;
        }
        let what = if comparing { "compared" } else { "copied" };
        // Nobody is there to read it when stderr is closed.
        let _ = writeln!(std::io::stderr(), "{schema}.{table}: {done} of {} rows {what}", of.max(done));
    }
}

fn report(from: &Path, moved: &[Transferred]) -> String {
    let mut lines = Vec::new();
    for Transferred { schema, tables, already_there, broken_chains } in moved {
        let what = if *already_there { "was there already, the same" } else { "moved and compared" };
        let rows: Vec<_> = tables.iter().map(|(table, rows)| format!("{rows} {table}")).collect();
        lines.push(format!("{schema} {what}: {}", rows.join(", ")));
        for (org, broken) in broken_chains {
            lines
                .push(format!("{schema}: the audit chain of {org} was broken before it was moved: {broken}"));
        }
    }
    lines.push(format!(
        "Everything is in PostgreSQL. Start with PULSE_DATABASE_URL set; {} was left as it is.",
        from.display()
    ));
    lines.join("\n")
}
