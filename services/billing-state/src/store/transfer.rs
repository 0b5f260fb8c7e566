//! Moving what the embedded store holds into PostgreSQL.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use jiff::Timestamp;
use pulse_entitlements::{Lookup, Stored};
use pulse_kernel::{OrgId, OsEntropy, SystemClock};
use pulse_runtime::DatabaseSettings;
use pulse_store::{
    audit::{AuditRecord, canonical},
    time::to_micros,
    transfer::{Origin, Plan, Progress, Row, Table, TransferError, Transferred, transfer as move_rows},
};
use serde_json::{Value, json};

use super::{
    Store, StoreError,
    file::{FileStore, PURGED, org_of},
    postgres::SCHEMA,
};
use crate::domain::{Document, document};

/// Records before the states that they are of. The feed begins another life, so that replicas that follow it
/// already start over.
static PLAN: Plan = Plan {
    schema: &SCHEMA,
    fresh: None,
    tables: &[
        Table { name: "audit_events", tenant: "org_id", key: &["org_id", "sequence"] },
        Table { name: "audit_heads", tenant: "org_id", key: &["org_id"] },
        Table { name: "billing_states", tenant: "org_id", key: &["org_id"] },
        Table { name: "purged_tenants", tenant: "org_id", key: &["org_id"] },
    ],
    afterwards: &["DELETE FROM feed"],
};

/// How many tenants' files are read at once.
const AT_ONCE: usize = 16;

/// Moves the billing states under `data_dir`, which nobody else may have open. One that cannot be read, or whose history was
/// altered, has to be mended first: nothing is moved without it.
///
/// # Errors
/// Why nothing was moved.
pub async fn transfer(
    data_dir: &Path,
    settings: &DatabaseSettings,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Transferred, TransferError> {
    let origin = Files::open(data_dir)?;
    move_rows(settings, &PLAN, &origin, progress).await
}

/// The directories of the tenants, as rows.
struct Files {
    store: FileStore,
    /// In the order of their ids.
    tenants: Vec<OrgId>,
    /// Those that were purged, likewise.
    purged: Vec<(OrgId, Timestamp)>,
}

impl Files {
    fn open(data_dir: &Path) -> Result<Self, TransferError> {
        let orgs = data_dir.join("orgs");
        if !orgs.is_dir() {
            return Err(TransferError::Origin(format!("{} does not exist", orgs.display())));
        }
        let store = FileStore::open(data_dir, Arc::new(SystemClock), Arc::new(OsEntropy))
            .map_err(TransferError::origin)?;
        let tombstones = orgs.join(PURGED);
        let purged = ids_in(&tombstones)?.into_iter().map(|org| {
            let purged_at = purged_at(&tombstones.join(org.as_str()))?;
            Ok((org, purged_at))
        });
        let purged = purged.collect::<Result<_, TransferError>>()?;
        Ok(Self { store, tenants: ids_in(&orgs)?, purged })
    }

    /// The rows of one tenant in a table. Looking at any of them records an edit by hand first, so that all tell the same.
    async fn rows_of(&self, org: &OrgId, table: &str) -> Result<Vec<Row>, TransferError> {
        let records = self.store.audit(org, None, usize::MAX).await.map_err(unreadable)?;
        Ok(match table {
            "audit_events" => records.iter().rev().map(record_row).collect::<Result<_, _>>()?,
            "audit_heads" => records.first().map(head_row).into_iter().collect(),
            "billing_states" => match self.store.get(org).await.map_err(unreadable)? {
                Lookup::Stored(stored) => vec![state_row(&stored, &records)?],
                Lookup::NotStored | Lookup::Purged => Vec::new(),
            },
            _ => Vec::new(),
        })
    }
}

#[async_trait]
impl Origin for Files {
    async fn count(&self, table: &Table) -> Result<u64, TransferError> {
        // Of records there may be more; to count them would be to read everything once more.
        let rows = if table.name == "purged_tenants" { self.purged.len() } else { self.tenants.len() };
        Ok(u64::try_from(rows).unwrap_or(u64::MAX))
    }

    fn rows<'a>(&'a self, table: &'a Table) -> BoxStream<'a, Result<Row, TransferError>> {
        if table.name == "purged_tenants" {
            let row = |(org, at): &(OrgId, Timestamp)| {
                Ok(row(json!({ "org_id": org, "purged_at": to_micros(*at) })))
            };
            return stream::iter(self.purged.iter().map(row)).boxed();
        }
        stream::iter(&self.tenants)
            .map(move |org| self.rows_of(org, table.name))
            .buffered(AT_ONCE)
            .map_ok(|rows| stream::iter(rows.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }
}

/// The row of a state with its records, newest first.
fn state_row(stored: &Stored, records: &[AuditRecord]) -> Result<Row, TransferError> {
    let Stored { state, revision } = stored;
    let document = serde_json::to_value(Document::of(state)).map_err(TransferError::origin)?;
    let made = records.last().and_then(|first| first.details.as_ref()?.after.as_ref());
    Ok(row(json!({
        "org_id": state.org_id,
        "subscription_state": state.subscription_state.as_str(),
        "state": document,
        "etag": state.etag(),
        "revision": revision,
        "created_by_key": made.and_then(document::created_by_key),
        "updated_at": records.first().map(|newest| to_micros(newest.occurred_at)),
    })))
}

fn record_row(record: &AuditRecord) -> Result<Row, TransferError> {
    let details = record.details.as_ref().map(canonical::details).map(String::from_utf8).transpose();
    Ok(row(json!({
        "org_id": record.org_id,
        "sequence": record.sequence,
        "occurred_at": to_micros(record.occurred_at),
        "actor": record.actor,
        "action": record.action,
        "details": details.map_err(TransferError::origin)?,
        "salt": record.salt,
        "details_hash": record.details_hash,
        "previous_hash": record.previous_hash,
        "hash": record.hash,
    })))
}

fn head_row(record: &AuditRecord) -> Row {
    row(json!({ "org_id": record.org_id, "sequence": record.sequence, "hash": record.hash }))
}

fn row(value: Value) -> Row {
    match value {
        Value::Object(row) => row,
        _ => Row::new(),
    }
}

fn unreadable(error: StoreError) -> TransferError {
    match error {
        StoreError::Failed { action, source } => TransferError::Origin(format!("cannot {action}: {source}")),
        other => TransferError::origin(other),
    }
}

/// The ids that name something in a folder, in their order.
fn ids_in(folder: &Path) -> Result<Vec<OrgId>, TransferError> {
    let failed = |error: io::Error| TransferError::Origin(format!("{}: {error}", folder.display()));
    let mut ids = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        ids.extend(org_of(&entry.map_err(failed)?));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// When a tenant was purged, as its tombstone says.
fn purged_at(tombstone: &PathBuf) -> Result<Timestamp, TransferError> {
    let failed = |why: String| TransferError::Origin(format!("{}: {why}", tombstone.display()));
    let text = fs::read(tombstone).map_err(|error| failed(error.to_string()))?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    let at = value["purged_at"].as_str().and_then(|at| at.parse().ok());
    at.ok_or_else(|| failed("it does not say when".to_owned()))
}
