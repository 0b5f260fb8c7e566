//! `pulse-billing-state`: settings, store, then serve until told to stop.

use std::process::ExitCode;

use pulse_billing_state::{Config, migrate, open_store, serve};
use pulse_rpc::OperatorTokens;
use pulse_runtime::{
    Service, Task, run, run_task,
    settings::{self, or_exit},
};

#[tokio::main]
async fn main() -> ExitCode {
    let config: Config = settings::parse();
    if config.task == Some(Task::Migrate) {
        return run_task(migrate(&config)).await;
    }
    or_exit(config.check_strict());
    or_exit(OperatorTokens::check(&config.common));
    let common = config.common.clone();
    run("pulse-billing-state", &common, async |shutdown| {
        let (setting, addr) = config.endpoints.listener(Service::BillingState);
        let listener = settings::bind(setting, addr).await?;
        let store = open_store(&config).await?;
        tracing::info!(addr = %listener.local_addr()?, "listening");
        shutdown.spawn_service("billing-state", serve(config, store, listener, shutdown.clone()));
        Ok(())
    })
    .await
}
