//! Whether the database is prepared for this program, and preparing it.

use std::time::Duration;

use pulse_runtime::{DatabaseSettings, SettingError};
use sqlx::{Connection as _, PgConnection, migrate::MigrateError};
use tokio::time::{Instant, sleep};

use super::{
    Schema,
    connect::{Target, connect},
    feed,
};
use crate::{SqlErrorClass, classify};

/// What makes the roles and the schemas; an administrator may run the same file.
const ROLES: &str = include_str!("../../../../deploy/postgres/roles.sql");

/// The oldest server that has what the statements use, as the server says its version.
const OLDEST_SERVER: i32 = 140_000;

/// How long a start waits for a database that does not answer, and how long it waits between two tries.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

/// The name of an object that is not there, or that this role may not see.
const NOT_THERE: [&str; 5] = ["42501", "42P01", "3F000", "22023", "42704"];

/// Why a schema cannot be used. No message holds the URL, which holds a password.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages name what each holds")]
pub enum PgOpenError {
    /// There is no database to use, or its URL is not one.
    #[error("{0}")]
    Setting(#[source] SettingError),
    /// The pool cannot be made.
    #[error("the pool of database connections cannot be made: {0}")]
    Pool(String),
    /// The database does not answer, or refuses the user.
    #[error("the database cannot be reached: {0}")]
    Connect(#[source] sqlx::Error),
    /// The server lacks what is needed.
    #[error("the database server is too old (version {0}); it must be PostgreSQL 14 or newer")]
    OldServer(i32),
    /// The roles and schemas are missing, and this user may not make them.
    #[error(
        "the role and schema {schema} cannot be used and this database user may not make them ({source}); have a superuser \
         run deploy/postgres/roles.sql, and make this user a member of {schema}"
    )]
    NotPrepared { schema: &'static str, source: sqlx::Error },
    /// The service's role was asked for when connecting and is not the current one.
    #[error(
        "the role {schema} was not taken: what is between this program and the database drops its startup options; set role, \
         search_path and timeouts on the database user then, as docs/postgresql.md says"
    )]
    RoleNotTaken { schema: &'static str },
    /// The schema is older than the program.
    #[error(
        "the schema {schema} is at version {found} and this program needs {needed}; run `{program} migrate` as a database \
         user who is a member of pulse_migrator"
    )]
    OldSchema { schema: &'static str, program: &'static str, found: i64, needed: i64 },
    /// The schema is that of a newer program.
    #[error(
        "the schema {schema} was written by a newer version of this program (version {found}); run that version or a newer one"
    )]
    NewerSchema { schema: &'static str, found: i64 },
    /// The schema cannot be brought up to date.
    #[error("the schema {schema} cannot be brought up to date: {source}")]
    Migrate { schema: &'static str, source: MigrateError },
    /// The schema cannot be looked at.
    #[error("the schema {schema} cannot be read: {source}")]
    Read { schema: &'static str, source: sqlx::Error },
}

/// Brings the schema up to date, making the roles and schemas first where they are missing. Safe when several do it at once.
///
/// # Errors
/// When the database's user may not, or the schema belongs to a newer program.
pub async fn migrate(settings: &DatabaseSettings, schema: &'static Schema) -> Result<(), PgOpenError> {
    let target = Target::of(settings)?;
    reach(&target, schema).await?;
    // Whoever may do that need not be one who may use it.
    bring_up_to_date(&target, schema).await
}

/// Checks that the schema is the one that this program needs, after bringing it up to date where that is wanted and allowed.
pub(super) async fn prepare(
    target: &Target,
    schema: &'static Schema,
    may_migrate: bool,
) -> Result<(), PgOpenError> {
    reach(target, schema).await?;
    let checked = check(target, schema).await;
    let behind = matches!(checked, Err(PgOpenError::NotPrepared { .. } | PgOpenError::OldSchema { .. }));
    if !(behind && may_migrate) {
        return checked;
    }
    match bring_up_to_date(target, schema).await {
        Ok(()) => check(target, schema).await,
        // What is wrong is that the schema is behind; that this user may not mend it is no news.
        Err(PgOpenError::Migrate { source: MigrateError::Execute(source), .. }) if is_denied(&source) => {
            checked
        }
        Err(error) => Err(error),
    }
}

/// Waits until the database answers, and checks that it is one that can be used.
async fn reach(target: &Target, schema: &Schema) -> Result<(), PgOpenError> {
    let begun = Instant::now();
    let mut conn = loop {
        match connect(&target.as_given(schema)).await {
            Ok(conn) => break conn,
            Err(error) if may_come_up(&error) && begun.elapsed() < PATIENCE => {
                tracing::warn!(%error, "the database cannot be reached yet");
                sleep(PAUSE).await;
            }
            Err(error) => return Err(PgOpenError::Connect(error)),
        }
    };
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::integer")
        .fetch_one(&mut conn)
        .await
        .map_err(PgOpenError::Connect)?;
    if version < OLDEST_SERVER {
        return Err(PgOpenError::OldServer(version));
    }
    conn.close().await.map_err(PgOpenError::Connect)
}

/// Compares the migrations that the schema has seen with those that this program knows, as the role that will use it.
async fn check(target: &Target, schema: &'static Schema) -> Result<(), PgOpenError> {
    let name = schema.name;
    let failed = |source: sqlx::Error| match &source {
        sqlx::Error::Database(error) if error.code().is_some_and(|code| NOT_THERE.contains(&&*code)) => {
            PgOpenError::NotPrepared { schema: name, source }
        }
        _ => PgOpenError::Read { schema: name, source },
    };
    let mut conn = connect(&target.as_service(schema)).await.map_err(failed)?;
    // Another role might see what this one must not.
    let taken: bool = sqlx::query_scalar("SELECT current_user = $1")
        .bind(name)
        .fetch_one(&mut conn)
        .await
        .map_err(failed)?;
    if !taken {
        return Err(PgOpenError::RoleNotTaken { schema: name });
    }
    let found: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(&mut conn)
        .await
        .map_err(failed)?;
    let found = found.unwrap_or_default();
    let needed = schema.migrator.iter().map(|migration| migration.version).max().unwrap_or_default();
    if found > needed {
        return Err(PgOpenError::NewerSchema { schema: name, found });
    }
    if found < needed {
        return Err(PgOpenError::OldSchema { schema: name, program: schema.program, found, needed });
    }
    if schema.has_feed {
        feed::begin_life_where_over(&mut conn).await.map_err(failed)?;
    }
    conn.close().await.map_err(failed)
}

async fn bring_up_to_date(target: &Target, schema: &'static Schema) -> Result<(), PgOpenError> {
    let name = schema.name;
    let mut given = connect(&target.as_given(schema)).await.map_err(PgOpenError::Connect)?;
    make_roles(&mut given, schema).await?;
    let migrating = async {
        let mut conn = connect(&target.as_migrator(schema)).await?;
        schema.migrator.run_direct(None, &mut conn, false).await?;
        // The service compares versions at each start. Two who grant at once would fail for each other's sake.
        let grant = format!(
            "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('{name}/grants', 0));
             GRANT SELECT ON _sqlx_migrations TO {name}; COMMIT"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(grant)).execute(&mut conn).await?;
        conn.close().await?;
        Ok(())
    };
    migrating.await.map_err(|error| match error {
        MigrateError::VersionMissing(found) => PgOpenError::NewerSchema { schema: name, found },
        source => PgOpenError::Migrate { schema: name, source },
    })
}

/// Makes the roles and schemas, unless they are there.
async fn make_roles(conn: &mut PgConnection, schema: &Schema) -> Result<(), PgOpenError> {
    let there: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) AND EXISTS (SELECT FROM pg_roles WHERE rolname = $1)",
    )
    .bind(schema.name)
    .fetch_one(&mut *conn)
    .await
    .map_err(PgOpenError::Connect)?;
    if there {
        return Ok(());
    }
    let made = sqlx::raw_sql(ROLES).execute(conn).await;
    made.map(|_| ()).map_err(|source| PgOpenError::NotPrepared { schema: schema.name, source })
}

/// Whether a database that cannot be reached so may be reachable soon. One with a certificate that is not accepted will not be.
fn may_come_up(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => false,
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::InvalidData,
        error => classify(error) == SqlErrorClass::Unavailable,
    }
}

/// Whether the database refused for want of a privilege.
fn is_denied(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("42501"))
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn a_certificate_that_is_not_accepted_is_not_waited_for() {
        let refused = Error::new(ErrorKind::InvalidData, "invalid peer certificate: UnknownIssuer");
        assert!(!may_come_up(&sqlx::Error::Io(refused)));
        assert!(!may_come_up(&sqlx::Error::Tls("no TLS here".into())));
        assert!(may_come_up(&sqlx::Error::Io(ErrorKind::ConnectionRefused.into())));
        assert!(may_come_up(&sqlx::Error::PoolTimedOut));
        assert!(!may_come_up(&sqlx::Error::RowNotFound));
    }
}
