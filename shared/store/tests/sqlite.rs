//! The embedded database: what is shared by writes, what is not, and what is refused at the door.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use futures::future::join_all;
use pulse_store::{OpenError, SqlErrorClass, SqliteDb, StoreError};
use sqlx::{SqliteConnection, migrate::Migrator};

static V1: Migrator = sqlx::migrate!("tests/migrations/v1");
static V2: Migrator = sqlx::migrate!("tests/migrations/v2");

async fn open(directory: &tempfile::TempDir) -> SqliteDb {
    SqliteDb::open(&directory.path().join("things.db"), &V1).await.unwrap()
}

async fn insert(conn: &mut SqliteConnection, name: &str, size: i64) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO things (name, size) VALUES (?, ?)").bind(name).bind(size).execute(conn).await?;
    Ok(())
}

async fn write(db: &SqliteDb, name: String, size: i64) -> Result<(), StoreError> {
    db.write(move |conn| Box::pin(async move { insert(conn, &name, size).await })).await
}

async fn names(db: &SqliteDb) -> Vec<String> {
    let names: Result<_, StoreError> = db
        .read(|conn| {
            Box::pin(async move {
                Ok(sqlx::query_scalar("SELECT name FROM things ORDER BY name").fetch_all(conn).await?)
            })
        })
        .await;
    names.unwrap()
}

#[tokio::test]
async fn writes_that_arrive_together_share_commits() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    let before = db.write_stats();
    let writes = (0..200).map(|number| write(&db, format!("thing-{number:03}"), number + 1));
    assert!(join_all(writes).await.iter().all(Result::is_ok));
    let stats = db.write_stats();
    assert_eq!(stats.jobs - before.jobs, 200);
    let commits = stats.commits - before.commits;
    // One batch holds at most 64 writes, and all were queued before the writer first ran.
    assert!((4..=20).contains(&commits), "{commits} commits");
    assert_eq!(names(&db).await.len(), 200);
}

#[tokio::test]
async fn a_write_that_fails_or_panics_leaves_the_rest_of_its_batch_alone() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    let before = db.write_stats();
    let fails = db.write(|conn| {
        Box::pin(async move {
            insert(conn, "undone-1", 1).await?;
            insert(conn, "undone-2", -1).await
        })
    });
    let panics = db.write(|conn| {
        Box::pin(async move {
            insert(conn, "undone-3", 3).await?;
            panic!("on purpose");
        })
    });
    let panics: std::pin::Pin<Box<dyn Future<Output = Result<(), StoreError>>>> = Box::pin(panics);
    let (first, failed, panicked, last) =
        tokio::join!(write(&db, "a".to_owned(), 1), fails, panics, write(&db, "b".to_owned(), 2));
    assert!(first.is_ok() && last.is_ok());
    assert!(
        matches!(failed.unwrap_err().class(), Some(SqlErrorClass::CheckViolation { constraint }) if constraint == "size_is_positive")
    );
    assert!(matches!(panicked.unwrap_err(), StoreError::Panicked));
    assert_eq!(db.write_stats().commits - before.commits, 1, "all four were one batch");
    assert_eq!(names(&db).await, ["a", "b"]);
    assert!(write(&db, "c".to_owned(), 3).await.is_ok(), "the writer goes on");
}

#[tokio::test]
async fn a_later_write_of_a_batch_sees_the_earlier_one() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    let (first, second) = tokio::join!(write(&db, "a".to_owned(), 1), write(&db, "a".to_owned(), 2));
    assert!(first.is_ok());
    assert_eq!(
        second.unwrap_err().class(),
        Some(SqlErrorClass::UniqueViolation { constraint: "things.name".to_owned() })
    );
}

#[tokio::test]
async fn every_kind_of_constraint_has_its_class() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    db.write(|conn| {
        Box::pin(async move {
            sqlx::query("INSERT INTO owners VALUES (1)").execute(&mut *conn).await?;
            sqlx::query("INSERT INTO things VALUES ('a', 1, 1)").execute(conn).await?;
            Ok::<_, StoreError>(())
        })
    })
    .await
    .unwrap();
    let unique = |constraint: &str| SqlErrorClass::UniqueViolation { constraint: constraint.to_owned() };
    let check = |constraint: &str| SqlErrorClass::CheckViolation { constraint: constraint.to_owned() };
    for (statement, class) in [
        ("INSERT INTO things VALUES ('a', 2, 1)", unique("things.name")),
        ("INSERT INTO things VALUES ('b', 1, 1)", unique("things.size, things.owner")),
        ("INSERT INTO things VALUES ('b', 2, 7)", SqlErrorClass::ForeignKeyViolation),
        ("DELETE FROM owners", SqlErrorClass::ForeignKeyViolation),
        ("INSERT INTO things VALUES ('b', 0, 1)", check("size_is_positive")),
        ("INSERT INTO things VALUES ('b', NULL, 1)", check("things.size")),
        (
            "INSERT INTO things VALUES ('b', 'x', 1)",
            check("cannot store TEXT value in INTEGER column things.size"),
        ),
        ("SELECT * FROM nowhere", SqlErrorClass::Other),
    ] {
        let refused: Result<_, StoreError> = db
            .write(move |conn| Box::pin(async move { Ok(sqlx::query(statement).execute(conn).await?) }))
            .await;
        assert_eq!(refused.unwrap_err().class(), Some(class), "{statement}");
    }
}

#[tokio::test]
async fn reads_cannot_write_and_see_one_moment() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    let written: Result<(), StoreError> =
        db.read(|conn| Box::pin(async move { insert(conn, "a", 1).await })).await;
    assert_eq!(written.unwrap_err().class(), Some(SqlErrorClass::Unavailable));

    let other = db.clone();
    let counts: Result<(i64, i64), StoreError> = db
        .read(move |conn| {
            Box::pin(async move {
                let count = "SELECT count(*) FROM things";
                let first = sqlx::query_scalar(count).fetch_one(&mut *conn).await?;
                write(&other, "a".to_owned(), 1).await?;
                Ok((first, sqlx::query_scalar(count).fetch_one(conn).await?))
            })
        })
        .await;
    assert_eq!(counts.unwrap(), (0, 0));
    assert_eq!(names(&db).await, ["a"]);
}

#[tokio::test]
async fn a_second_opening_is_refused_until_the_first_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/deeper/things.db");
    let db = SqliteDb::open(&path, &V1).await.unwrap();
    write(&db, "a".to_owned(), 1).await.unwrap();
    let refused = SqliteDb::open(&path, &V1).await.unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    assert!(refused.to_string().ends_with("things.db is in use by another process"), "{refused}");

    db.close().await;
    assert!(matches!(write(&db, "b".to_owned(), 1).await.unwrap_err(), StoreError::Unavailable(_)));
    assert!(db.ping().await.is_err());
    let db = SqliteDb::open(&path, &V1).await.unwrap();
    assert_eq!(names(&db).await, ["a"]);
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_drop_without_closing() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    write(&db, "a".to_owned(), 1).await.unwrap();
    drop(db);
    let path = directory.path().join("things.db");
    let db = reopen(&path).await;
    assert_eq!(names(&db).await, ["a"]);
}

/// Opens the database as soon as its last owner, who has been dropped, lets go of it.
async fn reopen(path: &Path) -> SqliteDb {
    tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            match SqliteDb::open(path, &V1).await {
                Ok(db) => return db,
                Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn writes_queued_before_a_close_are_done() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    let (written, ()) = tokio::join!(write(&db, "a".to_owned(), 1), db.close());
    assert!(written.is_ok());
    let wal = directory.path().join("things.db-wal");
    assert!(!wal.exists() || wal.metadata().unwrap().len() == 0, "the log was copied into the database");
}

#[tokio::test]
async fn what_is_deleted_is_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("things.db");
    let db = SqliteDb::open(&path, &V1).await.unwrap();
    for number in 1..200 {
        write(&db, format!("canary-{number}"), number).await.unwrap();
    }
    let deleted: Result<_, StoreError> = db
        .write(|conn| {
            Box::pin(async move { Ok(sqlx::query("DELETE FROM things WHERE size > 1").execute(conn).await?) })
        })
        .await;
    assert_eq!(deleted.unwrap().rows_affected(), 198);
    db.close().await;
    let bytes = std::fs::read(&path).unwrap();
    let left = bytes.windows(7).filter(|window| window == b"canary-").count();
    // One row was kept; and SQLite may leave a copy in the gap of a page that it rebuilt.
    assert!((1..=5).contains(&left), "{left} of 199");
}

#[tokio::test]
async fn what_is_deleted_leaves_the_log_when_it_is_emptied() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("things.db");
    let db = SqliteDb::open(&path, &V1).await.unwrap();
    let in_any_file = || {
        let files = directory.path().read_dir().unwrap().map(|entry| std::fs::read(entry.unwrap().path()));
        files.map(Result::unwrap).any(|bytes| bytes.windows(6).any(|window| window == b"canary"))
    };
    write(&db, "canary".to_owned(), 1).await.unwrap();
    let deleted: Result<_, StoreError> = db
        .write(|conn| {
            Box::pin(
                async move { Ok(sqlx::query("DELETE FROM things").execute(conn).await?.rows_affected()) },
            )
        })
        .await;
    assert_eq!(deleted.unwrap(), 1);
    assert!(in_any_file(), "the log still has it: otherwise this shows nothing");
    db.empty_log().await.unwrap();
    assert!(!in_any_file());
    write(&db, "after".to_owned(), 2).await.unwrap();
}

#[tokio::test]
async fn the_files_belong_to_their_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("data");
    let db = SqliteDb::open(&folder.join("things.db"), &V1).await.unwrap();
    write(&db, "a".to_owned(), 1).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "database, log and lock: {files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn a_schema_from_the_future_is_refused_and_one_from_the_past_is_migrated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("things.db");
    for migrator in [&V1, &V2] {
        SqliteDb::open(&path, migrator).await.unwrap().close().await;
    }
    let refused = SqliteDb::open(&path, &V1).await.unwrap_err();
    assert!(matches!(refused, OpenError::NewerSchema { version: 2, .. }), "{refused}");
    assert!(refused.to_string().contains("newer version"), "{refused}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("things.db");
    std::fs::write(
        &path,
        "precious notes, certainly not a database; long enough to be read as one".repeat(99),
    )
    .unwrap();
    let content = std::fs::read(&path).unwrap();
    let refused = SqliteDb::open(&path, &V1).await.unwrap_err();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), content);
}

#[tokio::test]
async fn ping_notices_a_file_that_was_removed_or_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    db.ping().await.unwrap();
    let path = directory.path().join("things.db");
    let aside = directory.path().join("aside.db");
    std::fs::rename(&path, &aside).unwrap();
    assert!(matches!(db.ping().await.unwrap_err(), StoreError::Unavailable(_)));
    std::fs::copy(&aside, &path).unwrap();
    assert!(matches!(db.ping().await.unwrap_err(), StoreError::Unavailable(_)));
    std::fs::rename(&aside, &path).unwrap();
    db.ping().await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_ended_behind_the_writers_back_aborts_its_batch_only() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    // What SQLite does by itself when it runs out of space or memory.
    let ends = db.write(|conn| {
        Box::pin(async move {
            sqlx::query("ROLLBACK").execute(conn).await?;
            Ok::<_, StoreError>(())
        })
    });
    let (first, ended) = tokio::join!(write(&db, "a".to_owned(), 1), ends);
    assert!(matches!(first.unwrap_err(), StoreError::Aborted(_)));
    assert!(matches!(ended.unwrap_err(), StoreError::Aborted(_)));
    assert_eq!(names(&db).await, Vec::<String>::new());
    write(&db, "b".to_owned(), 1).await.unwrap();
    assert_eq!(names(&db).await, ["b"]);
}

#[tokio::test]
async fn writes_beyond_the_queue_are_refused_and_nothing_waits_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory).await;
    let answers = join_all((0..3000).map(|number| write(&db, format!("{number}"), 1))).await;
    let refused = answers.iter().filter(|answer| matches!(answer, Err(StoreError::Unavailable(_)))).count();
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(refused > 0 && done >= 1024, "{refused} refused, {done} done");
    assert_eq!(refused + done, 3000);
    assert_eq!(names(&db).await.len(), done);
}
