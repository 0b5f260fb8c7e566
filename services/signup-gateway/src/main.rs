//! `pulse-signup-gateway`: settings, the store, then serve until told to stop.

use std::process::ExitCode;

use pulse_runtime::{
    Service, Task, run, run_task,
    settings::{self, or_exit},
};
use pulse_signup_gateway::{Config, migrate, open_store, serve};

#[tokio::main]
async fn main() -> ExitCode {
    let config: Config = settings::parse();
    if config.task == Some(Task::Migrate) {
        return run_task(migrate(&config)).await;
    }
    or_exit(config.check_strict());
    let common = config.common.clone();
    run("pulse-signup-gateway", &common, async |shutdown| {
        let (setting, addr) = config.endpoints.listener(Service::SignupGateway);
        let listener = settings::bind(setting, addr).await?;
        let store = open_store(&config).await?;
        tracing::info!(addr = %listener.local_addr()?, "listening");
        shutdown.spawn_service("signup-gateway", serve(config, store, listener, shutdown.clone()));
        Ok(())
    })
    .await
}
