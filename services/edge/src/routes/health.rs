//! `/livez` and `/readyz`, for whoever decides whether this process is restarted or sent work.

use axum::{Json, extract::State};
use pulse_kernel::{ApiError, Reason};
use pulse_runtime::Shutdown;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Answer;
use crate::upstreams::Upstreams;

/// What health goes by.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    pub(crate) shutdown: Shutdown,
    /// The services that hosted mode needs.
    pub(crate) upstreams: Option<Upstreams>,
}

pub(crate) fn router() -> OpenApiRouter<Health> {
    OpenApiRouter::default().routes(routes!(live)).routes(routes!(ready))
}

/// That all is well.
#[derive(Debug, Serialize, ToSchema)]
struct Healthy {
    #[schema(pattern = "^ok$", example = "ok")]
    status: &'static str,
}

const HEALTHY: Json<Healthy> = Json(Healthy { status: "ok" });

/// Whether the process is alive
///
/// Whatever else is away: restarting it would not help.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "health",
    responses((status = OK, body = Healthy, description = "It is"))
)]
async fn live() -> Json<Healthy> {
    HEALTHY
}

/// Whether the process can be sent work
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses(
        (status = OK, body = Healthy, description = "It can, and in hosted mode every service it needs is ready too"),
        (status = SERVICE_UNAVAILABLE, description = "`unavailable`: it cannot; `detail` names what is not ready"),
    )
)]
async fn ready(State(health): State<Health>) -> Answer<Json<Healthy>> {
    if health.shutdown.is_draining() {
        return Err(not_ready("this process, which is stopping").into());
    }
    let missing = match &health.upstreams {
        Some(upstreams) => upstreams.missing().await,
        None => Vec::new(),
    };
    if missing.is_empty() { Ok(HEALTHY) } else { Err(not_ready(&missing.join(", ")).into()) }
}

fn not_ready(what: &str) -> ApiError {
    ApiError::new(Reason::Unavailable, format!("not ready: {what}"))
}
