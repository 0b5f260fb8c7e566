//! In PostgreSQL, for all replicas together. The table is in `migrations/postgres/`.
//!
//! A signup is counted by one statement, whatever it comes to; PostgreSQL lets statements about one client happen one after the other, and
//! those about different clients at the same time. What it returns decides, and a signup that is refused is rolled back, so that it
//! does not count. Only the database's clock is used: those of the replicas may differ.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use pulse_kernel::OsEntropy;
use pulse_rpc::ClientKey;
use pulse_runtime::DatabaseSettings;
use pulse_store::{
    PgDb, PgOpenError, StoreError,
    postgres::{Failure, Schema},
};
use sqlx::migrate::Migrator;

use super::{Allowance, Decision, Store};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// What this service has in the database.
pub static SCHEMA: Schema = Schema {
    name: "pulse_signup_gateway",
    program: "pulse-signup-gateway",
    migrator: &MIGRATIONS,
    has_feed: false,
};

/// Counts a signup of a client; when its allowance is whole again then, in microseconds. The clock is read anew once it is this
/// statement's turn, not when the transaction began.
const COUNT: &str = "\
INSERT INTO signup_limits AS known (client, whole_at)
VALUES ($1::text::cidr, clock_timestamp() + $2 * interval '1 microsecond')
ON CONFLICT (client) DO UPDATE
SET whole_at = greatest(known.whole_at, clock_timestamp()) + $2 * interval '1 microsecond'
RETURNING (extract(epoch FROM whole_at - clock_timestamp()) * 1000000)::bigint";

/// Forgets clients whose allowance is whole, unless somebody is at them just now. An array, so that the planner looks each up in
/// the index, and `now()`, as an index cannot be compared with a clock that goes on.
const SWEEP: &str = "\
DELETE FROM signup_limits WHERE client = ANY (ARRAY(
    SELECT client FROM signup_limits WHERE whole_at <= now() ORDER BY whole_at LIMIT $1 FOR UPDATE SKIP LOCKED
))";

/// How many clients are forgotten in one transaction.
const BATCH: u32 = 1000;

/// What all replicas keep together.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    db: PgDb,
    allowance: Allowance,
}

impl PostgresStore {
    /// Opens the schema in the database that the settings name.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn open(settings: &DatabaseSettings, allowance: Allowance) -> Result<Self, PgOpenError> {
        let db = PgDb::open(settings, &SCHEMA, Arc::new(OsEntropy)).await?;
        Ok(Self { db, allowance })
    }
}

/// Why a signup was not counted.
enum Uncounted {
    Refused(Decision),
    Store(StoreError),
}

impl From<StoreError> for Uncounted {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<sqlx::Error> for Uncounted {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Failure for Uncounted {
    fn as_store(&self) -> Option<&StoreError> {
        match self {
            Self::Refused(_) => None,
            Self::Store(error) => Some(error),
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn admit(&self, client: ClientKey) -> Result<Decision, StoreError> {
        let counted = self.db.write_apart((client, self.allowance), |(client, allowance), conn| {
            Box::pin(async move {
                let share = i64::try_from(allowance.share().as_micros()).unwrap_or(i64::MAX);
                let counted: i64 =
                    sqlx::query_scalar(COUNT).bind(client.to_string()).bind(share).fetch_one(conn).await?;
                let counted = Duration::from_micros(u64::try_from(counted).unwrap_or_default());
                match allowance.judge(counted) {
                    admitted @ Decision::Admitted { .. } => Ok(admitted),
                    refused @ Decision::Refused { .. } => Err(Uncounted::Refused(refused)),
                }
            })
        });
        match counted.await {
            Ok(decision) | Err(Uncounted::Refused(decision)) => Ok(decision),
            Err(Uncounted::Store(error)) => Err(error),
        }
    }

    async fn sweep(&self) -> Result<bool, StoreError> {
        let swept = self.db.write_apart((), |(), conn| {
            Box::pin(async move {
                let swept = sqlx::query(SWEEP).bind(i64::from(BATCH)).execute(conn).await?;
                Ok::<_, StoreError>(swept.rows_affected())
            })
        });
        Ok(swept.await? >= u64::from(BATCH))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.db.ping().await
    }

    async fn close(&self) {
        self.db.close();
    }
}
