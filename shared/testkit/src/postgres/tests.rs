use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::Command,
};

use sqlx::Row;

use super::*;

async fn number(connection: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query(query).fetch_one(connection).await.unwrap().get(0)
}

#[test]
fn tests_with_runtimes_of_their_own_share_a_server_and_no_database() {
    let one = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let database = Postgres::shared().await.database().await;
            let mut connection = database.connect().await;
            sqlx::query("CREATE TABLE things (id bigint)").execute(&mut connection).await.unwrap();
            assert_eq!(number(&mut connection, "SELECT count(*) FROM things").await, 0);
            (Postgres::shared().await.addr(), database.name().to_owned())
        })
    };
    let other = std::thread::spawn(one);
    let ((addr, name), (other_addr, other_name)) = (one(), other.join().unwrap());
    assert_eq!(addr, other_addr);
    assert_ne!(name, other_name);
}

#[tokio::test]
async fn what_was_committed_outlasts_a_stop_and_a_crash() {
    let mut server = Postgres::start().await;
    let database = server.database().await;
    let mut connection = database.connect().await;
    sqlx::query("CREATE TABLE things (id bigint)").execute(&mut connection).await.unwrap();

    server.stop().await;
    assert!(PgConnection::connect(&database.url()).await.is_err(), "nobody listens");
    assert!(sqlx::query("SELECT 1").execute(&mut connection).await.is_err(), "the connection is gone");
    server.start_again().await;
    let mut connection = database.connect().await;
    sqlx::query("INSERT INTO things VALUES (1)").execute(&mut connection).await.unwrap();

    server.kill().await;
    assert!(sqlx::query("SELECT 1").execute(&mut connection).await.is_err(), "the connection is gone");
    server.start_again().await;
    let mut connection = database.connect().await;
    assert_eq!(number(&mut connection, "SELECT count(*) FROM things").await, 1);
    assert!(server.log().contains("database system was interrupted"), "{}", server.log());
}

#[tokio::test]
async fn plans_are_logged_where_they_are_asked_for() {
    let server = Postgres::start().await;
    let database = server.database().await;
    let mut connection = database.connect().await;
    sqlx::query("SELECT 'silent'").execute(&mut connection).await.unwrap();
    sqlx::query("SET auto_explain.log_min_duration = 0").execute(&mut connection).await.unwrap();
    sqlx::query("SELECT 'explained'").execute(&mut connection).await.unwrap();
    let log = server.log();
    assert!(log.contains(&format!("{}|", database.name())), "{log}");
    assert!(log.contains(r#""Query Text": "SELECT 'explained'""#) && !log.contains("silent"), "{log}");
}

/// Run by itself it is the test; run by the test it is the process that gets killed.
#[tokio::test]
async fn a_server_and_its_folder_go_with_the_process_that_started_it() {
    const VICTIM: &str = "PULSE_TESTKIT_VICTIM";
    if env::var_os(VICTIM).is_some() {
        let server = Postgres::start().await;
        println!("{} {}", server.addr(), server.guardian.folder().display());
        std::future::pending::<()>().await;
    }

    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("postgres::tests::a_server_and_its_folder_go_with_the_process_that_started_it")
        .env(VICTIM, "")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said = lines.filter_map(|line| {
        let (addr, folder) = line.split_once(' ')?;
        Some((addr.rsplit(' ').next()?.parse::<SocketAddr>().ok()?, PathBuf::from(folder)))
    });
    let (addr, folder) = { said }.next().expect("the process says where its server is");
    assert!(folder.exists() && PgConnection::connect(&url(addr, "postgres")).await.is_ok());

    victim.kill().unwrap();
    victim.wait().unwrap();
    eventually(PATIENCE, async || !Path::new(&folder).exists()).await;
    assert!(PgConnection::connect(&url(addr, "postgres")).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn a_table_that_is_read_from_end_to_end_is_named_with_the_statement() {
    let database = Postgres::shared().await.database().await;
    database.log_plans().await;
    let mut connection = database.connect().await;
    for statement in [
        "CREATE TABLE things (id bigint PRIMARY KEY, name text)",
        "INSERT INTO things SELECT n, 'thing ' || n FROM generate_series(1, 10000) n",
        "ANALYZE things",
        "SELECT name FROM things WHERE id = 7",
        "SELECT id FROM things WHERE name = 'thing 7'",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    assert_eq!(database.sequential_scans(), ["things: SELECT id FROM things WHERE name = 'thing 7'"]);
}
