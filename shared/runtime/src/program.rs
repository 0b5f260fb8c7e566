//! [`run`]: what surrounds the services of a process, from its first log line to its exit code; [`run_task`]: what surrounds a
//! program that does one thing and ends.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;

use crate::{CommonSettings, SettingError, Shutdown, Telemetry, settings::bind, telemetry::TelemetryError};

/// The process could not start, or did not go on.
const FAILED: u8 = 1;

/// Runs a process: starts telemetry, lets `start` open stores and listeners and spawn services with
/// [`Shutdown::spawn_service`], then waits for a signal or a failure, and stops in order. `name` is the program's.
///
/// Exits with 0 after a signal, with 2 and one line on stderr when a setting stops the start, and with 1 and the
/// cause when it cannot start otherwise, or when a service fails, panics or ends early.
///
/// ```no_run
/// # use pulse_runtime::{CommonSettings, Shutdown, run, settings};
/// # #[derive(clap::Parser)] struct Config { #[command(flatten)] common: CommonSettings }
/// # async fn serve(listener: tokio::net::TcpListener, shutdown: Shutdown) -> anyhow::Result<()> { Ok(()) }
/// #[tokio::main]
/// async fn main() -> std::process::ExitCode {
///     let config: Config = settings::parse();
///     run("pulse-lifecycle", &config.common, async |shutdown| {
///         let addr = "127.0.0.1:50054".parse()?;
///         let listener = settings::bind("PULSE_LIFECYCLE_ADDR", addr).await?;
///         shutdown.spawn_service("lifecycle", serve(listener, shutdown.clone()));
///         Ok(())
///     })
///     .await
/// }
/// ```
pub async fn run(
    name: &'static str,
    common: &CommonSettings,
    start: impl AsyncFnOnce(&Shutdown) -> anyhow::Result<()>,
) -> ExitCode {
    let mut telemetry = match Telemetry::start(name, common) {
        Ok(telemetry) => telemetry,
        Err(TelemetryError::Setting(error)) => return refuse(&error.into()),
        Err(error) => return refuse(&error.into()),
    };
    let exit_code = match begin(common, &mut telemetry, start).await {
        Ok(shutdown) => finish(&shutdown).await,
        Err(error) => refuse(&error),
    };
    telemetry.shutdown().await;
    exit_code
}

/// Runs a program that does one thing and ends, such as `pulse-lifecycle migrate`: prints what `work` returns. Exits as [`run`]
/// does when it cannot start.
pub async fn run_task(work: impl Future<Output = anyhow::Result<String>>) -> ExitCode {
    match work.await {
        Ok(said) => {
            // Nobody is there to read it when stdout is closed.
            let _ = writeln!(std::io::stdout(), "{said}");
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error),
    }
}

async fn begin(
    common: &CommonSettings,
    telemetry: &mut Telemetry,
    start: impl AsyncFnOnce(&Shutdown) -> anyhow::Result<()>,
) -> anyhow::Result<Shutdown> {
    let shutdown = Shutdown::on_signals(common.shutdown_grace).context("cannot listen to signals")?;
    let metrics = bind("PULSE_METRICS_ADDR", common.metrics_addr).await?;
    tokio::select! {
        started = start(&shutdown) => started?,
        () = shutdown.aborted() => {}
    }
    // Not before: a start that is refused says so in one line and logs none.
    telemetry.serve_metrics(metrics);
    Ok(shutdown)
}

async fn finish(shutdown: &Shutdown) -> ExitCode {
    match shutdown.wait().await {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            tracing::error!(cause = %failure, "stopped by a failure");
            ExitCode::from(FAILED)
        }
    }
}

/// Says in one line why there is no start.
fn refuse(error: &anyhow::Error) -> ExitCode {
    let setting = error.chain().find_map(|cause| cause.downcast_ref::<SettingError>());
    let line = setting.map_or_else(|| format!("cannot start: {}", causes(error)), ToString::to_string);
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{}", line.replace('\n', " "));
    ExitCode::from(setting.map_or(FAILED, SettingError::exit_code))
}

/// The error and what caused it; a cause whose words have been said already is not said again.
fn causes(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said = said + ": " + &cause;
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn no_cause_is_said_twice() {
        let error = anyhow!("denied").context("the schema cannot be read: denied").context("lifecycle");
        assert_eq!(causes(&error), "lifecycle: the schema cannot be read: denied");
    }
}
