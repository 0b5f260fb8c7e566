//! `acme-hosts`: settings, then serve until told to stop.

use std::process::ExitCode;

use acme_hosts::{Config, start};
use pulse_runtime::{
    run,
    settings::{self, or_exit},
};

#[tokio::main]
async fn main() -> ExitCode {
    let config: Config = settings::parse();
    or_exit(config.check_strict());
    run("acme-hosts", &config.common, async |shutdown| start(&config, shutdown).await).await
}
