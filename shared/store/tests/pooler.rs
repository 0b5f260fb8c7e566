//! What drops the startup options of a connection, as some poolers do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pulse_kernel::OsEntropy;
use pulse_runtime::DatabaseSettings;
use pulse_store::{
    PgDb, PgOpenError,
    postgres::{Schema, migrate},
};
use pulse_testkit::Postgres;
use sqlx::{AssertSqlSafe, migrate::Migrator};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

static MIGRATIONS: Migrator = sqlx::migrate!("tests/migrations/postgres/v1");
static SCHEMA: Schema =
    Schema { name: "pulse_lifecycle", program: "pulse-lifecycle", migrator: &MIGRATIONS, has_feed: false };

/// Stands in front of a server and passes on everything but `options`.
async fn without_options(server: SocketAddr) -> SocketAddr {
    let (listener, addr): (TcpListener, SocketAddr) = pulse_testkit::listener().await;
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(pass_on(client, server));
        }
    });
    addr
}

async fn pass_on(mut client: TcpStream, server: SocketAddr) -> std::io::Result<()> {
    // Length and version, then names and values that each end with a zero.
    let length = usize::try_from(client.read_u32().await?).unwrap();
    let mut message = vec![0; length - 4];
    client.read_exact(&mut message).await?;
    let (version, rest) = message.split_at(4);
    let words: Vec<&[u8]> = rest.split(|byte| *byte == 0).collect();
    let mut kept = version.to_vec();
    for pair in words.chunks(2).take_while(|pair| !pair[0].is_empty()).filter(|pair| pair[0] != b"options") {
        for word in pair {
            kept.extend(word.iter().copied().chain([0]));
        }
    }
    kept.push(0);
    let mut server = TcpStream::connect(server).await?;
    server.write_u32(u32::try_from(kept.len() + 4).unwrap()).await?;
    server.write_all(&kept).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

#[tokio::test]
async fn a_role_that_was_not_taken_is_noticed_unless_the_login_takes_it() {
    let server = Postgres::shared().await;
    let database = server.database().await;
    let mut settings = DatabaseSettings {
        database_url: Some(database.url().into()),
        database_max_connections: 4.try_into().unwrap(),
        database_acquire_timeout: Duration::from_secs(2),
        database_migrate: false,
    };
    migrate(&settings, &SCHEMA).await.unwrap();
    let mut superuser = database.connect().await;
    let login = "CREATE ROLE pooled LOGIN SUPERUSER IN ROLE pulse_lifecycle;
        ALTER ROLE pooled SET search_path = pulse_lifecycle";
    sqlx::raw_sql(login).execute(&mut superuser).await.unwrap();

    // Without TLS, whose handshake would come first.
    let url = database.url_through(without_options(server.addr()).await).replace("postgres@", "pooled@");
    settings.database_url = Some(format!("{url}?sslmode=disable").into());
    let open = async || PgDb::open(&settings, &SCHEMA, Arc::new(OsEntropy)).await;
    let error = open().await.unwrap_err();
    assert!(matches!(error, PgOpenError::RoleNotTaken { .. }), "{error}");

    let taking = "ALTER ROLE pooled SET role = pulse_lifecycle".to_owned();
    sqlx::raw_sql(AssertSqlSafe(taking)).execute(&mut superuser).await.unwrap();
    open().await.unwrap().ping().await.unwrap();
}
