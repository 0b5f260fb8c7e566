//! Moving what the embedded store holds into PostgreSQL.

use std::path::Path;

use pulse_kernel::OrgId;
use pulse_runtime::DatabaseSettings;
use pulse_store::transfer::{
    Plan, Progress, Table, TransferError, Transferred, sqlite::SqliteOrigin, transfer as move_rows,
};

use super::{postgres::SCHEMA, sqlite};

/// Organizations before what came of them. The counts are made anew, a lease means nothing elsewhere; the feed begins
/// another life, so that replicas that follow it already start over.
static PLAN: Plan = Plan {
    schema: &SCHEMA,
    fresh: Some(OrgId::DEFAULT),
    tables: &[
        Table { name: "organizations", tenant: "id", key: &["id"] },
        Table { name: "status_history", tenant: "org_id", key: &["org_id", "version"] },
        Table { name: "tombstones", tenant: "org_id", key: &["org_id"] },
        Table { name: "audit_events", tenant: "org_id", key: &["org_id", "sequence"] },
        Table { name: "audit_heads", tenant: "org_id", key: &["org_id"] },
    ],
    afterwards: &["SELECT count_tenants_anew()", "DELETE FROM feed"],
};

/// Moves the database at `path`, which nobody else may have open.
///
/// # Errors
/// Why nothing was moved.
pub async fn transfer(
    path: &Path,
    settings: &DatabaseSettings,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Transferred, TransferError> {
    let origin = SqliteOrigin::open(path, &sqlite::MIGRATIONS).await?;
    let moved = move_rows(settings, &PLAN, &origin, progress).await;
    origin.close().await;
    moved
}
