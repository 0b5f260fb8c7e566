//! The real programs, on real ports, as one system under test.
//!
//! | module | holds |
//! |---|---|
//! | [`plan`] | [`Plan`]: which programs, with which settings, over which store |
//! | [`program`] | one running program: its log, signals, starting it again |
//! | [`listeners`] | where each process listens, and where others find it |
//! | [`backend`] | the PostgreSQL database of a system that has one |
//! | [`operators`] | operator tokens and their file |
//! | [`rest`] | the REST surface: [`Visitor`], [`Admin`], [`Answer`] |
//! | [`grpc`] | gRPC clients, and what an error says |
//! | [`metrics`] | `/metrics`, read |
//! | [`store`] | the stores, read from outside: the files under the data folder, or PostgreSQL |
//! | [`tools`] | grpcurl, Python and the shell, as a user has them |
//!
//! ```no_run
//! # async fn test() {
//! use pulse_testkit::system::{Service, System};
//!
//! let mut system = System::all_in_one().start().await;
//! let acme = system.signup("ann@example.com", "correct horse battery", "Acme").await.expect(201).json();
//! system.kill(Service::Lifecycle).await;
//! system.start_again().await;
//! let org_id = acme["org_id"].as_str().unwrap();
//! system.admin().organization(org_id).await.expect(200);
//! # }
//! ```
//!
//! Everything a system needs is its own: ports, data, settings, tokens. It ends with the value that stands for it, and
//! also when the test's process is killed. The logs are shown when the test fails.

pub mod backend;
pub mod grpc;
pub mod listeners;
pub mod metrics;
pub mod operators;
pub mod plan;
pub mod program;
pub mod rest;
pub mod store;
pub mod tools;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::OwnedSemaphorePermit;

use self::{backend::Backend, listeners::Listeners, program::Program};
pub use self::{
    grpc::{Bearer, Rejection},
    listeners::Listener,
    metrics::Metrics,
    operators::{Operator, Operators},
    plan::{Plan, REPLICAS, Shape},
    rest::{Admin, Answer, Visitor},
    store::Store,
};
use crate::{eventually, proxy::Proxy};

/// How long a program may take to become ready. Debug builds on a busy machine are slow.
pub(crate) const START: Duration = Duration::from_mins(1);

/// The services, each in a program of its own but in [`Shape::Dev`] and [`Shape::AllInOne`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// REST in front.
    Edge,
    /// Public signup.
    SignupGateway,
    /// Sagas and accounts.
    Provisioner,
    /// Billing states and entitlements.
    BillingState,
    /// Organizations.
    Lifecycle,
}

impl Service {
    /// Every service, in an order in which they can be started.
    pub const ALL: [Self; 5] =
        [Self::Lifecycle, Self::BillingState, Self::Provisioner, Self::SignupGateway, Self::Edge];

    /// The program that serves it alone.
    pub fn program(self) -> &'static str {
        match self {
            Self::Edge => "pulse-edge",
            Self::SignupGateway => "pulse-signup-gateway",
            Self::Provisioner => "pulse-provisioner",
            Self::BillingState => "pulse-billing-state",
            Self::Lifecycle => "pulse-lifecycle",
        }
    }
}

/// A running system.
#[derive(Debug)]
pub struct System {
    shape: Shape,
    hosted: bool,
    // Dropped in this order: the programs end before what they use.
    programs: Vec<(Vec<Service>, Program)>,
    listeners: Listeners,
    backend: Backend,
    operators: Operators,
    http: reqwest::Client,
    dir: TempDir,
    #[expect(dead_code, reason = "held, not used: others may start when it is dropped")]
    room: Option<OwnedSemaphorePermit>,
}

impl System {
    /// `pulse-hosted dev` as a newcomer starts it, but for its ports.
    pub fn dev() -> Plan {
        Plan::new(Shape::Dev)
    }

    /// `pulse-hosted serve`: the five services in one process.
    pub fn all_in_one() -> Plan {
        Plan::new(Shape::AllInOne)
    }

    /// The five services, each in its own process.
    pub fn five_processes() -> Plan {
        Plan::new(Shape::FiveProcesses)
    }

    /// Two processes of each service behind plain TCP balancers, over PostgreSQL.
    pub fn replicated() -> Plan {
        Plan::new(Shape::Replicated)
    }

    /// The folder in which the programs run; `data` is below it.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A file of the billing state's folder for this tenant, such as `billing.json`.
    pub fn billing_file(&self, org_id: &str, name: &str) -> PathBuf {
        self.data().join("orgs").join(org_id).join(name)
    }

    /// The address of the public REST listener.
    pub fn public_addr(&self) -> SocketAddr {
        self.listeners.addr(Listener::Public)
    }

    /// The address of the admin REST listener.
    pub fn admin_addr(&self) -> SocketAddr {
        self.listeners.addr(Listener::Admin)
    }

    /// The address of the internal REST listener.
    pub fn internal_addr(&self) -> SocketAddr {
        self.listeners.addr(Listener::Internal)
    }

    /// The gRPC address of a service, or the public REST address of the edge. Replicas are behind it in turn.
    pub fn addr(&self, service: Service) -> SocketAddr {
        self.listeners.addr(Listener::of(service))
    }

    /// Where one process of a service itself listens; those of a replicated system are numbered from 0.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn replica_addr(&self, service: Service, replica: usize) -> SocketAddr {
        self.listeners.own_addr(self.process_of(service, replica), Listener::of(service))
    }

    /// Where one process of the edge has its admin surface.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn replica_admin_addr(&self, replica: usize) -> SocketAddr {
        self.listeners.own_addr(self.process_of(Service::Edge, replica), Listener::Admin)
    }

    /// Where one process of the edge has its internal surface.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn replica_internal_addr(&self, replica: usize) -> SocketAddr {
        self.listeners.own_addr(self.process_of(Service::Edge, replica), Listener::Internal)
    }

    /// What is between the replicas of a service and those who call it.
    ///
    /// # Panics
    /// When there are no replicas: then there is nothing in between.
    pub fn network_to(&self, service: Service) -> &Proxy {
        self.listeners.balancer(Listener::of(service))
    }

    /// How many processes serve a service.
    pub fn replicas(&self, service: Service) -> usize {
        self.processes_of(service).count()
    }

    /// The id of the first process that serves `service`.
    ///
    /// # Panics
    /// When there is none, or it is not running.
    pub fn pid(&self, service: Service) -> u32 {
        let pid = self.programs[self.process_of(service, 0)].1.pid();
        pid.unwrap_or_else(|| panic!("{service:?} is not running"))
    }

    /// The operators and their tokens file.
    pub fn operators(&self) -> &Operators {
        &self.operators
    }

    /// `text` with the default addresses of the contract replaced by this system's.
    pub fn with_my_addresses(&self, text: &str) -> String {
        self.listeners.defaults().into_iter().fold(text.to_owned(), |text, (default, addr)| {
            text.replace(default, &addr.to_string())
                .replace(&default.replace("127.0.0.1", "localhost"), &addr.to_string())
        })
    }

    /// What the programs have printed so far, standard output and error together.
    pub fn log(&self) -> String {
        self.programs.iter().map(|(_, program)| program.log()).collect()
    }

    /// Ends every process that serves `service` at once, as a crash would.
    pub async fn kill(&mut self, service: Service) {
        for process in self.processes_of(service).collect::<Vec<_>>() {
            self.programs[process].1.kill().await;
        }
    }

    /// Ends one process of `service` at once; those of a replicated system are numbered from 0.
    ///
    /// # Panics
    /// When there is no such process.
    pub async fn kill_replica(&mut self, service: Service, replica: usize) {
        let process = self.process_of(service, replica);
        self.programs[process].1.kill().await;
    }

    /// Ends every process at once.
    pub async fn kill_all(&mut self) {
        for (_, program) in &mut self.programs {
            program.kill().await;
        }
    }

    /// Asks every process to end, and waits until all have; returns their exit codes.
    pub async fn stop(&mut self) -> Vec<Option<i32>> {
        let mut codes = Vec::new();
        // Callers before those whom they call.
        for (_, program) in self.programs.iter_mut().rev() {
            codes.push(program.stop().await);
        }
        codes
    }

    /// Starts every process that is not running, on the same ports and data, and waits until all are ready.
    pub async fn start_again(&mut self) {
        for (_, program) in &mut self.programs {
            program.start();
        }
        self.wait_until_ready().await;
    }

    /// The numbers of the processes that serve a service.
    fn processes_of(&self, service: Service) -> impl Iterator<Item = usize> {
        let programs = self.programs.iter().enumerate();
        programs.filter(move |(_, (services, _))| services.contains(&service)).map(|(number, _)| number)
    }

    fn process_of(&self, service: Service, replica: usize) -> usize {
        let found = self.processes_of(service).nth(replica);
        found.unwrap_or_else(|| panic!("{service:?} has no process {replica}"))
    }

    async fn wait_until_ready(&mut self) {
        for (process, (services, program)) in self.programs.iter().enumerate() {
            for service in services {
                eventually(START, async || {
                    if let Some(code) = program.exit_code() {
                        panic!(
                            "{} ended with {code:?} instead of serving:\n{}",
                            program.label(),
                            program.log()
                        );
                    }
                    self.is_ready(*service, self.listeners.own_addr(process, Listener::of(*service))).await
                })
                .await;
            }
        }
    }

    /// Whether the process that serves `service` at `addr` says that it is ready.
    ///
    /// # Errors
    /// Says what the answer was, when it does not.
    pub async fn is_ready(&self, service: Service, addr: SocketAddr) -> Result<(), String> {
        let name = match service {
            Service::Edge => {
                let answer = self.visitor().at(addr).get("/readyz").await;
                let answer = answer.map_err(|error| format!("{error:#}"))?;
                return if answer.status == 200 { Ok(()) } else { Err(format!("/readyz: {answer}")) };
            }
            // Outside hosted mode the gateway serves nothing but its health.
            Service::SignupGateway if !self.hosted => "",
            Service::SignupGateway => "pulse.signup.v1.SignupService",
            Service::Provisioner => "pulse.provisioner.v1.AccountService",
            Service::BillingState => "pulse.billing.v1.EntitlementService",
            Service::Lifecycle => "pulse.lifecycle.v1.OrganizationService",
        };
        grpc::health(addr, name).await
    }

    /// The token of an operator who may do everything: of the tokens file, or the one that `dev` made.
    pub(crate) fn admin_token(&self) -> String {
        match self.shape {
            Shape::Dev => {
                let path = self.data().join("admin-token");
                let token = fs::read_to_string(&path).expect("dev writes data/admin-token");
                token.trim().to_owned()
            }
            Shape::AllInOne | Shape::FiveProcesses | Shape::Replicated => {
                self.operators.token("olga").to_owned()
            }
        }
    }
}
