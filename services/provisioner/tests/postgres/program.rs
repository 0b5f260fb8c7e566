//! `pulse-provisioner migrate`, and which store the program opens.

use std::process::{Command, Output};

use pulse_provisioner::{Config, open_store};
use pulse_runtime::settings::try_parse_from;
use pulse_testkit::Postgres;

use crate::replicas::store_at;

/// Runs the program with nothing of this process's settings.
async fn run(args: Vec<String>) -> Output {
    let command = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pulse-provisioner"));
        command.env_clear().args(args).output().unwrap()
    };
    tokio::task::spawn_blocking(command).await.unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

#[tokio::test]
async fn the_schema_is_brought_up_to_date_on_its_own() {
    let database = Postgres::shared().await.database().await;
    for _ in 0..2 {
        let migrated = run(vec!["migrate".into(), format!("--database-url={}", database.url())]).await;
        assert!(migrated.status.success(), "{migrated:?}");
        assert_eq!(text(&migrated.stdout), "pulse_provisioner is at version 1");
    }
    store_at(database.url()).await;

    let newer = "UPDATE pulse_provisioner._sqlx_migrations SET version = 999";
    sqlx::query(newer).execute(&mut database.connect().await).await.unwrap();
    let refused = run(vec!["migrate".into(), format!("--database-url={}", database.url())]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(text(&refused.stderr).contains("newer version of this program (version 999)"), "{refused:?}");
}

#[tokio::test]
async fn without_a_database_there_is_nothing_to_migrate() {
    let refused = run(vec!["migrate".into()]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(text(&refused.stderr).contains("PULSE_DATABASE_URL"), "{refused:?}");
}

/// The one in PostgreSQL where the settings name a database, and only then.
#[tokio::test]
async fn the_settings_choose_the_store() {
    let database = Postgres::shared().await.database().await;
    let directory = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", directory.path().display());
    let in_files = || std::fs::read_dir(directory.path()).unwrap().count();
    let config: Config =
        try_parse_from(["pulse-provisioner", &data, "--database-url", &database.url()]).unwrap();
    let store = open_store(&config).await.unwrap();
    store.ping().await.unwrap();
    let schemas =
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'pulse_provisioner' AND tablename = 'accounts'";
    let tables: i64 = sqlx::query_scalar(schemas).fetch_one(&mut database.connect().await).await.unwrap();
    assert_eq!((tables, in_files()), (1, 0));

    let config: Config = try_parse_from(["pulse-provisioner", &data]).unwrap();
    open_store(&config).await.unwrap().ping().await.unwrap();
    assert!(in_files() > 0);
}
