//! `pulse-hosted`: the five services in one process.
//!
//! | module | holds |
//! |---|---|
//! | `cli` | the command line: two modes and a task, one set of settings |
//! | `dev` | what `dev` adds: other defaults, and an operator token made on the first start |
//! | `migrate` | bringing every service's schema in PostgreSQL up to date |
//! | `transfer` | moving an embedded installation into PostgreSQL |
//! | `services` | every listener, every store, then the services |
//! | `ready` | waiting until everything is ready |
//! | `banner` | what `dev` prints then |

mod banner;
mod cli;
mod dev;
mod migrate;
mod ready;
mod services;
mod transfer;

use std::{io::Write as _, process::ExitCode};

use pulse_kernel::OsEntropy;
use pulse_runtime::{run, run_task, settings::or_exit, telemetry::metrics_addr};

use crate::{
    banner::{Banner, Tokens},
    cli::{Cli, Mode},
    dev::OperatorToken,
};

#[tokio::main]
async fn main() -> ExitCode {
    let (mut config, is_dev) = match or_exit(Cli::try_parse_from(std::env::args_os())).mode {
        Mode::Dev(config) => (*config, true),
        Mode::Serve(config) => (*config, false),
        Mode::MigrateToPostgres(task) => return run_task(task.run()).await,
        Mode::Migrate(config) => return run_task(migrate::every_schema(&config)).await,
    };
    let token = if is_dev { OperatorToken::choose(&mut config.common) } else { None };
    or_exit(config.check_strict());
    if let Some(token) = &token {
        or_exit(token.ensure(&OsEntropy));
    }
    let common = config.common.clone();
    run("pulse-hosted", &common, async |shutdown| {
        let edge = services::start(&mut config, shutdown).await?;
        let draining = shutdown.draining();
        shutdown.spawn("start", async move {
            let ready = ready::everything(&config.endpoints, edge.public, config.common.hosted_mode);
            tokio::select! { () = ready => {}, () = draining => return }
            tracing::info!("every service is ready");
            if is_dev {
                let tokens = Tokens::new(token.as_ref(), &config.common);
                let in_postgres = config.common.database.database_url.is_some();
                let (endpoints, metrics) = (config.endpoints, metrics_addr());
                let banner = Banner { edge, endpoints, metrics, tokens, in_postgres };
                // Nobody is there to read it when stdout is closed.
                let _ = write!(std::io::stdout(), "{banner}");
            }
        });
        Ok(())
    })
    .await
}
