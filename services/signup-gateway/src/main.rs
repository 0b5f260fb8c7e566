//! `pulse-signup-gateway`: settings, then serve until told to stop.

use std::process::ExitCode;

use pulse_runtime::{
    Service, run,
    settings::{self, or_exit},
};
use pulse_signup_gateway::{Config, serve};

#[tokio::main]
async fn main() -> ExitCode {
    let config: Config = settings::parse();
    or_exit(config.check_strict());
    let common = config.common.clone();
    run("pulse-signup-gateway", &common, async |shutdown| {
        let (setting, addr) = config.endpoints.listener(Service::SignupGateway);
        let listener = settings::bind(setting, addr).await?;
        tracing::info!(addr = %listener.local_addr()?, "listening");
        shutdown.spawn_service("signup-gateway", serve(config, listener, shutdown.clone()));
        Ok(())
    })
    .await
}
