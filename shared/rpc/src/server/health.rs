//! `grpc.health.v1`: the empty name is liveness and always serving, a service's full name is its readiness.

use tokio::sync::watch;
use tonic_health::{ServingStatus, server::HealthReporter};

/// Keeps the readiness of `services` up to date until `draining`, then ends the streams of those who watch, so that
/// they do not hold up the shutdown.
pub(super) async fn report(
    mut reporter: HealthReporter,
    services: Vec<&'static str>,
    mut readiness: watch::Receiver<bool>,
    draining: impl Future<Output = ()>,
) {
    let follow = async {
        loop {
            let ready = *readiness.borrow_and_update();
            set_all(&reporter, &services, ready).await;
            if readiness.changed().await.is_err() {
                break;
            }
        }
    };
    tokio::pin!(draining);
    tokio::select! {
        biased;
        () = &mut draining => {}
        () = follow => draining.await,
    }
    set_all(&reporter, &services, false).await;
    for service in services.into_iter().chain([""]) {
        reporter.clear_service_status(service).await;
    }
}

async fn set_all(reporter: &HealthReporter, services: &[&'static str], ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in services {
        reporter.set_service_status(service, status).await;
    }
}
