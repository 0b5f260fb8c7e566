//! What only PostgreSQL can show: replicas that meet in it, its rights, its constraints and its plans.

use futures::future::join_all;
use pulse_kernel::Clock;
use pulse_testkit::{Database, ManualClock, Postgres};
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, error::DatabaseError, postgres::types::PgInterval};
use tokio::time::{Instant, timeout};

use super::*;
use crate::store::{
    Known,
    conformance::{Bench, allowance, client, store_conformance},
};

fn settings(database: &Database) -> DatabaseSettings {
    DatabaseSettings {
        database_url: Some(database.url().into()),
        database_max_connections: 10.try_into().unwrap(),
        database_acquire_timeout: Duration::from_secs(10),
        database_migrate: true,
    }
}

async fn open(database: &Database) -> PostgresStore {
    PostgresStore::open(&settings(database), allowance()).await.unwrap()
}

/// A database, and two replicas that use it.
struct Shared<S> {
    database: Database,
    replicas: [S; 2],
    clock: ManualClock,
    began: Instant,
}

impl Shared<PostgresStore> {
    async fn new() -> Self {
        let database = Postgres::shared().await.database().await;
        let replicas = [open(&database).await, open(&database).await];
        Self { database, replicas, clock: ManualClock::default(), began: Instant::now() }
    }
}

impl Shared<Known<PostgresStore>> {
    async fn known() -> Self {
        let Shared { database, replicas, clock, began } = Shared::new().await;
        let replicas = replicas.map(|replica| {
            let clock: Arc<dyn Clock> = Arc::new(clock.clone());
            Known::in_front_of(replica, allowance(), clock)
        });
        Self { database, replicas, clock, began }
    }
}

#[async_trait]
impl<S: Store> Bench for Shared<S> {
    fn replicas(&self) -> [&dyn Store; 2] {
        self.replicas.each_ref().map(|replica| replica as &dyn Store)
    }

    /// The server's clock cannot be moved, but everything that is compared with it can.
    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        sqlx::query("UPDATE pulse_signup_gateway.signup_limits SET whole_at = whole_at - $1")
            .bind(PgInterval::try_from(time).unwrap())
            .execute(&mut self.database.connect().await)
            .await
            .unwrap();
    }

    fn passed_by_itself(&self) -> Duration {
        self.began.elapsed()
    }

    async fn kept(&self) -> usize {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM pulse_signup_gateway.signup_limits")
            .fetch_one(&mut self.database.connect().await)
            .await
            .unwrap();
        usize::try_from(count).unwrap()
    }
}

mod alone {
    use super::*;
    store_conformance!(Shared::new());
}

mod with_what_is_known_in_front {
    use super::*;
    store_conformance!(Shared::known());
}

async fn execute(conn: &mut PgConnection, sql: &str) -> Result<u64, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map(|done| done.rows_affected())
}

#[tokio::test]
async fn many_that_start_at_once_prepare_an_empty_database_together() {
    let database = Postgres::shared().await.database().await;
    for store in join_all((0..4).map(|_| open(&database))).await {
        store.admit(client(1)).await.unwrap();
    }
    let whole: i64 = sqlx::query_scalar("SELECT count(*) FROM pulse_signup_gateway.signup_limits")
        .fetch_one(&mut database.connect().await)
        .await
        .unwrap();
    assert_eq!(whole, 1);
}

#[tokio::test]
async fn clients_do_not_wait_for_each_other() {
    let bench = Shared::new().await;
    let [store, _] = &bench.replicas;
    store.admit(client(1)).await.unwrap();
    bench.pass(allowance().window()).await;
    let mut other = bench.database.connect().await;
    execute(&mut other, "BEGIN; UPDATE pulse_signup_gateway.signup_limits SET whole_at = whole_at")
        .await
        .unwrap();

    let behind = tokio::spawn({
        let store = store.clone();
        async move { store.admit(client(1)).await }
    });
    for number in 2..50 {
        timeout(Duration::from_secs(2), store.admit(client(number))).await.unwrap().unwrap();
    }
    // Neither does the sweep wait for whom somebody is at.
    execute(
        &mut bench.database.connect().await,
        "UPDATE pulse_signup_gateway.signup_limits
        SET whole_at = whole_at - interval '1 hour' WHERE client <> '192.0.2.1'",
    )
    .await
    .unwrap();
    assert!(!timeout(Duration::from_secs(2), store.sweep()).await.unwrap().unwrap());
    assert!(!behind.is_finished(), "the same client has to wait");
    execute(&mut other, "COMMIT").await.unwrap();
    let decision = behind.await.unwrap().unwrap();
    assert!(matches!(decision, Decision::Admitted { whole_in } if whole_in <= allowance().share()));
    assert_eq!(bench.kept().await, 1);
}

#[tokio::test]
async fn what_a_sweep_is_too_large_for_is_left_to_the_next() {
    let bench = Shared::new().await;
    let insert = "INSERT INTO pulse_signup_gateway.signup_limits
        SELECT '10.0.0.0'::inet + n, now() + n * interval '1 second' FROM generate_series(-2499, 100) AS n";
    execute(&mut bench.database.connect().await, insert).await.unwrap();
    let [store, other] = &bench.replicas;
    // At the same time they do not take the same.
    let (one, two) = tokio::join!(store.sweep(), other.sweep());
    assert!(one.unwrap() && two.unwrap());
    assert_eq!(bench.kept().await, 600);
    assert!(!store.sweep().await.unwrap());
    assert_eq!(bench.kept().await, 100);
}

#[tokio::test]
async fn an_address_is_kept_as_that_of_its_network_and_nothing_else_is() {
    let bench = Shared::new().await;
    for address in ["192.0.2.7", "2001:db8:0:1:2:3:4:5"] {
        bench.replicas[0].admit(pulse_rpc::client_key(address.parse().unwrap())).await.unwrap();
    }
    let kept: Vec<String> = sqlx::query_scalar(
        "SELECT row(known.client)::text FROM pulse_signup_gateway.signup_limits known ORDER BY 1",
    )
    .fetch_all(&mut bench.database.connect().await)
    .await
    .unwrap();
    assert_eq!(kept, ["(192.0.2.7/32)", "(2001:db8:0:1::/64)"]);
}

#[tokio::test]
async fn the_services_role_can_do_what_the_statements_need_and_nothing_else() {
    let bench = Shared::new().await;
    let login = format!("gateway_login_{}", bench.database.name());
    let create = format!("CREATE ROLE {login} LOGIN IN ROLE pulse_signup_gateway");
    execute(&mut bench.database.connect().await, &create).await.unwrap();
    let mut settings = settings(&bench.database);
    settings.database_url = Some(bench.database.url().replace("postgres@", &format!("{login}@")).into());
    let store = PostgresStore::open(&settings, allowance()).await.unwrap();
    store.admit(client(1)).await.unwrap();
    store.sweep().await.unwrap();

    let mut conn = PgConnection::connect(settings.database_url.unwrap().expose_secret()).await.unwrap();
    execute(&mut conn, "SET ROLE pulse_signup_gateway; SET search_path = pulse_signup_gateway")
        .await
        .unwrap();
    for denied in [
        "UPDATE signup_limits SET client = '192.0.2.2'",
        "TRUNCATE signup_limits",
        "DROP TABLE signup_limits",
        "ALTER TABLE signup_limits ADD COLUMN who text",
        "CREATE TABLE mine (id bigint)",
        "CREATE INDEX mine ON signup_limits (whole_at)",
        "DELETE FROM _sqlx_migrations",
        "SELECT FROM pulse_lifecycle.organizations",
        "SET ROLE pulse_migrator",
        "SET ROLE pulse_lifecycle",
    ] {
        let error = execute(&mut conn, denied).await.unwrap_err();
        let code = error.as_database_error().and_then(DatabaseError::code);
        assert_eq!(code.as_deref(), Some("42501"), "{denied}: {error}");
    }
}

#[tokio::test]
async fn an_illegal_row_is_impossible() {
    let bench = Shared::new().await;
    let mut conn = bench.database.connect().await;
    for client in ["192.0.2.0/24", "2001:db8::1", "2001:db8::/48", "0.0.0.0/0"] {
        let insert = format!("INSERT INTO pulse_signup_gateway.signup_limits VALUES ('{client}', now())");
        let error = execute(&mut conn, &insert).await.unwrap_err();
        assert!(error.to_string().contains("client_is_an_address_or_a_64"), "{client}: {error}");
    }
}

/// Every method, at a hundred thousand clients.
#[tokio::test]
async fn nothing_reads_the_table_from_end_to_end() {
    let bench = Shared::new().await;
    let mut conn = bench.database.connect().await;
    let seed = "INSERT INTO pulse_signup_gateway.signup_limits
        SELECT '10.0.0.0'::inet + n, now() + (n - 2000) * interval '1 second' FROM generate_series(1, 100000) AS n;
        ANALYZE pulse_signup_gateway.signup_limits";
    execute(&mut conn, seed).await.unwrap();
    bench.database.log_plans().await;
    let store = open(&bench.database).await;
    let known = |n: u32| ClientKey::V4((u32::from_be_bytes([10, 0, 0, 0]) + n).into());
    for (client, is_admitted) in [(client(1), true), (known(10), true), (known(99_999), false)] {
        let decision = store.admit(client).await.unwrap();
        assert_eq!(matches!(decision, Decision::Admitted { .. }), is_admitted, "{client}");
    }
    assert!(store.sweep().await.unwrap());
    while store.sweep().await.unwrap() {}
    store.ping().await.unwrap();
    assert_eq!(bench.database.sequential_scans(), [""; 0]);
    let left = bench.kept().await;
    assert!((97_500..=98_002).contains(&left), "{left}");
}
