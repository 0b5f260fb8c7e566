//! `GET /api/admin/orgs/{id}/audit-events`: what every service recorded about a tenant, as one list, newest first.

mod merge;

use axum::{Json, extract::State};
use pulse_kernel::{ApiError, OrgId, Violations};
use pulse_rpc::page;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::merge::{Cursor, Merged, Sources};
use super::{Answer, organizations::PageParameters};
use crate::{
    auth::Credentials,
    clients::{AuditSource, Clients, Page},
    extract::{OrgPath, OrgPathParameter, Parameters},
    model::{AuditEvent, AuditEventPage},
};

pub(crate) fn router() -> OpenApiRouter<Clients> {
    OpenApiRouter::default().routes(routes!(list_audit_events))
}

/// List what happened to a tenant
///
/// The records of every service, newest first. Also answers for a tenant that was purged, whose records then hold no
/// personal data. Role: viewer.
#[utoipa::path(
    get,
    path = "/api/admin/orgs/{id}/audit-events",
    tag = "audit",
    params(OrgPathParameter, PageParameters),
    responses((status = OK, body = AuditEventPage, description = "A page of events"))
)]
async fn list_audit_events(
    State(clients): State<Clients>,
    who: Credentials,
    OrgPath(org_id): OrgPath,
    Parameters(parameters): Parameters<PageParameters>,
) -> Answer<Json<AuditEventPage>> {
    let (size, cursor) = read(parameters, org_id.as_str())?;
    let first = cursor.is_start();
    let records = Records { clients: &clients, who: &who, org_id: &org_id, page_size: size };
    let Merged { events, next } =
        merge::page(cursor, usize::try_from(size).unwrap_or_default(), &records).await?;
    if first && events.is_empty() {
        // Nobody recorded anything: the one case in which whether it exists makes the difference.
        clients.organization(&who, &org_id).await?;
    }
    let next_page_token = next.map_or_else(String::new, |cursor| page::token(&cursor));
    Ok(Json(AuditEventPage { audit_events: events, next_page_token }))
}

/// What the services recorded about one tenant.
#[derive(Debug)]
struct Records<'a> {
    clients: &'a Clients,
    who: &'a Credentials,
    org_id: &'a OrgId,
    page_size: i32,
}

impl Sources for Records<'_> {
    async fn page(&self, source: AuditSource, token: &str) -> Result<Page<AuditEvent>, ApiError> {
        self.clients.audit_events(source, self.who, self.org_id, self.page_size, token).await
    }
}

fn read(parameters: PageParameters, org_id: &str) -> Result<(i32, Cursor), ApiError> {
    let mut violations = Violations::default();
    let (size, token) = parameters.read(&mut violations);
    let size = violations.keep(page::size(size)).unwrap_or_default();
    let cursor = violations.keep(page::cursor(&token).and_then(|cursor| Cursor::resume(cursor, org_id)));
    violations.finish()?;
    Ok((i32::try_from(size).unwrap_or_default(), cursor.unwrap_or_else(|| Cursor::start(org_id))))
}
