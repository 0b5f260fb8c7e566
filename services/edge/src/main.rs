//! `pulse-edge`: settings, then serve until told to stop.

use std::process::ExitCode;

use pulse_edge::{Config, Listeners, serve};
use pulse_rpc::OperatorTokens;
use pulse_runtime::{
    run,
    settings::{self, or_exit},
};

#[tokio::main]
async fn main() -> ExitCode {
    let config: Config = settings::parse();
    or_exit(config.check_strict());
    or_exit(OperatorTokens::check(&config.common));
    let common = config.common.clone();
    run("pulse-edge", &common, async |shutdown| {
        let listeners = Listeners::bind(&config).await?;
        tracing::info!(addr = %listeners.public.local_addr()?, surface = "public", "listening");
        if let Some(admin) = &listeners.admin {
            tracing::info!(addr = %admin.local_addr()?, surface = "admin", "listening");
        }
        tracing::info!(addr = %listeners.internal.local_addr()?, surface = "internal", "listening");
        shutdown.spawn_service("edge", serve(config, listeners, shutdown.clone()));
        Ok(())
    })
    .await
}
