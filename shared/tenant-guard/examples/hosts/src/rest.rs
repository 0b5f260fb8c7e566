//! REST.

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use pulse_kernel::ApiError;
use pulse_rpc::problem;
use pulse_tenant_guard::{
    Verdict,
    layer::{GuardLayer, Rest},
};
use serde::Deserialize;

use crate::hosts::{Host, Hosts};

/// The guard is added to the routes, not around the router: it has to know which route a request is for.
pub(crate) fn router(hosts: Hosts, guard: GuardLayer<Rest>) -> Router {
    Router::new()
        .route("/livez", get(StatusCode::OK))
        .route("/v1/hosts", get(list).post(add))
        .route("/v1/hosts/{name}/alerts", put(enable_alerts))
        .route("/v1/export", get(export))
        .route_layer(guard)
        .with_state(hosts)
}

/// An error as it is answered.
struct Problem(ApiError);

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        problem::reject(self.0).map(Body::from)
    }
}

#[derive(Deserialize)]
struct NewHost {
    name: String,
}

async fn list(State(hosts): State<Hosts>, tenant: Verdict) -> Json<Vec<Host>> {
    Json(hosts.list(&tenant.org))
}

async fn add(
    State(hosts): State<Hosts>,
    tenant: Verdict,
    Json(new): Json<NewHost>,
) -> Result<Json<Host>, Problem> {
    Ok(Json(hosts.add(&tenant.org, &new.name).await?))
}

async fn enable_alerts(
    State(hosts): State<Hosts>,
    tenant: Verdict,
    Path(name): Path<String>,
) -> Result<Json<Host>, Problem> {
    Ok(Json(hosts.enable_alerts(&tenant.org, &name)?))
}

async fn export(State(hosts): State<Hosts>, tenant: Verdict) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/csv; charset=utf-8")], hosts.export(&tenant.org))
}
