//! Moving what the embedded store holds into PostgreSQL.

use std::path::Path;

use pulse_runtime::DatabaseSettings;
use pulse_store::transfer::{
    Plan, Progress, Table, TransferError, Transferred, sqlite::SqliteOrigin, transfer as move_rows,
};

use super::{postgres::SCHEMA, sqlite};

/// Accounts before the places that they have.
static PLAN: Plan = Plan {
    schema: &SCHEMA,
    fresh: None,
    tables: &[
        Table { name: "accounts", tenant: "home_org_id", key: &["user_id"] },
        Table { name: "memberships", tenant: "org_id", key: &["org_id", "user_id", "role"] },
        Table { name: "sagas", tenant: "org_id", key: &["org_id", "kind"] },
        Table { name: "audit_events", tenant: "org_id", key: &["org_id", "sequence"] },
        Table { name: "audit_heads", tenant: "org_id", key: &["org_id"] },
    ],
    afterwards: &[],
};

/// Moves the database at `path`, which nobody else may have open. A saga that was running there goes on here, once the lease that
/// it was run under is over.
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
