//! A throw-away PostgreSQL server.
//!
//! | module | holds |
//! |---|---|
//! | `programs` | PostgreSQL's own programs: where they are, and as whom they run |
//! | `guardian` | what ends a server with the process that started it |
//! | `plans` | how the server carries out what it is asked |
//!
//! ```no_run
//! # async fn test() {
//! use pulse_testkit::Postgres;
//!
//! let database = Postgres::shared().await.database().await;
//! let mut connection = database.connect().await;
//! sqlx::query("CREATE TABLE things (id bigint)").execute(&mut connection).await.unwrap();
//! # }
//! ```

mod guardian;
mod plans;
mod programs;

use std::{
    fmt, fs,
    fs::{File, OpenOptions},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::OnceCell;

use self::guardian::Guardian;
use crate::{eventually, ports::Port};

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_mins(1);

/// The superuser, whom the server believes without a password.
const SUPERUSER: &str = "postgres";

/// What differs from the defaults.
///
/// Nothing has to outlast the machine, so nothing is synced. Waits that end in a deadlock are noticed early. `auto_explain` is
/// loaded but says nothing until a database or a session turns it on.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 300
fsync = off
full_page_writes = off
deadlock_timeout = 200ms
shared_preload_libraries = 'auto_explain'
auto_explain.log_format = json
log_line_prefix = '%d|%p|'
# Within the data, so that nothing is left in the machine's shared memory after a crash.
dynamic_shared_memory_type = mmap
";

/// A PostgreSQL server with a folder and a port of its own, reachable from this machine only.
///
/// It ends with this value, and with the test's process however that ends; its folder goes too.
pub struct Postgres {
    port: Port,
    guardian: Guardian,
    /// `None` while it is stopped.
    server: Mutex<Option<Child>>,
    databases: AtomicU32,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("addr", &self.addr()).finish_non_exhaustive()
    }
}

impl Postgres {
    /// The server that the tests of this process share; the first who asks starts it.
    ///
    /// # Panics
    /// When PostgreSQL is not installed, or the server cannot be started.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// A server of one's own, to be stopped and killed.
    ///
    /// # Panics
    /// When PostgreSQL is not installed, or the server cannot be started.
    pub async fn start() -> Self {
        let folder = programs::folder();
        // From here on the folder goes, whatever happens.
        let guardian = Guardian::over(folder);
        let server =
            Self { port: Port::reserve(), guardian, server: Mutex::new(None), databases: AtomicU32::new(0) };
        server.initialize().await;
        server.run().await;
        server
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// A new, empty database.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn database(&self) -> Database {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect("postgres").await.expect("the server can be reached");
        let create = format!("CREATE DATABASE {name}");
        sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await.expect("a database can be made");
        Database { addr: self.addr(), name, log: self.log_file() }
    }

    /// Ends it as a crash would: every process of it is gone at once (SIGKILL), whatever it was doing.
    ///
    /// # Panics
    /// When it is not running.
    pub async fn kill(&mut self) {
        let postmaster = self.lock().as_ref().map(Child::id).expect("the server is running");
        // Held still, it starts nobody while those whom it has started are looked for.
        signal(postmaster, Signal::STOP);
        for process in children_of(postmaster).into_iter().chain([postmaster]) {
            signal(process, Signal::KILL);
        }
        self.wait_until_ended().await;
    }

    /// Ends it in good order; whoever is connected is sent away.
    ///
    /// # Panics
    /// When it is not running, or does not end.
    pub async fn stop(&mut self) {
        let postmaster = self.lock().as_ref().map(Child::id).expect("the server is running");
        // A "fast" shutdown, as pg_ctl has it.
        signal(postmaster, Signal::INT);
        self.wait_until_ended().await;
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`], on the same port and data.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start_again(&mut self) {
        self.run().await;
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn data(&self) -> PathBuf {
        self.guardian.folder().join(guardian::DATA)
    }

    fn log_file(&self) -> PathBuf {
        self.guardian.folder().join("log")
    }

    async fn initialize(&self) {
        let mut initdb = programs::command("initdb");
        initdb
            .arg("--pgdata")
            .arg(self.data())
            .args(["--username", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"])
            .args(["--no-sync", "--no-instructions"])
            .stdin(Stdio::null());
        let output =
            tokio::task::spawn_blocking(move || initdb.output()).await.expect("initdb is waited for");
        let output = output.expect("initdb can be run");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));

        let settings = format!(
            "{SETTINGS}port = {}\nunix_socket_directories = '{}'\n",
            self.addr().port(),
            self.guardian.folder().display()
        );
        // Last, as what is said last holds.
        let file = self.data().join("postgresql.conf");
        let defaults = fs::read_to_string(&file).expect("initdb writes the settings");
        fs::write(file, defaults + &settings).expect("the settings can be written");
    }

    /// Starts the server process and waits until it takes connections.
    async fn run(&self) {
        let log = OpenOptions::new().create(true).append(true).open(self.log_file());
        let log: File = log.expect("a log can be written");
        let mut command = programs::command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        *self.lock() = Some(command.spawn().expect("the server can be started"));
        eventually(PATIENCE, async || {
            if let Some(status) = self.ended() {
                panic!("PostgreSQL ended instead of serving: {status}\n{}", self.log());
            }
            self.connect("postgres").await
        })
        .await;
    }

    async fn connect(&self, database: &str) -> sqlx::Result<PgConnection> {
        PgConnection::connect(&url(self.addr(), database)).await
    }

    async fn wait_until_ended(&self) {
        eventually(PATIENCE, async || self.ended()).await;
        *self.lock() = None;
    }

    fn ended(&self) -> Option<ExitStatus> {
        self.lock().as_mut().and_then(|child| child.try_wait().expect("a child can be waited for"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.guardian.dismiss();
        if let Some(mut server) = self.lock().take() {
            // The guardian has ended it; this only takes note.
            let _ = server.wait();
        }
    }
}

/// One database of a server, which everyone may use as the superuser.
#[derive(Debug, Clone)]
pub struct Database {
    addr: SocketAddr,
    name: String,
    /// The server's.
    log: PathBuf,
}

impl Database {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL, for the superuser.
    pub fn url(&self) -> String {
        url(self.addr, &self.name)
    }

    /// Its URL by way of a proxy that listens at `addr`.
    pub fn url_through(&self, addr: SocketAddr) -> String {
        url(addr, &self.name)
    }

    /// A connection of the superuser, straight to the server.
    ///
    /// # Panics
    /// When there is none to be had.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.expect("the database can be reached")
    }
}

fn url(addr: SocketAddr, database: &str) -> String {
    format!("postgres://{SUPERUSER}@{addr}/{database}")
}

fn signal(process: u32, signal: Signal) {
    let process = Pid::from_raw(process.cast_signed()).expect("the id of a process is not 0");
    // It may have ended since it was looked up.
    let _ = kill_process(process, signal);
}

/// The processes that `parent` has started and that have not ended.
fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("Linux lists its processes").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |id: &u32| {
        // "id (name) state parent …"; the name may hold anything.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        rest.split(' ').nth(1)?.parse().ok().map(|its_parent: u32| its_parent == parent)
    };
    ids.filter(|id| is_child(id).unwrap_or(false)).collect()
}

#[cfg(test)]
mod tests;
