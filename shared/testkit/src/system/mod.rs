//! The real programs, on real ports, as one system under test.
//!
//! | module | holds |
//! |---|---|
//! | [`plan`] | [`Plan`]: which programs, with which settings |
//! | [`program`] | one running program: its log, signals, starting it again |
//! | [`operators`] | operator tokens and their file |
//! | [`rest`] | the REST surface: [`Visitor`], [`Admin`], [`Answer`] |
//! | [`grpc`] | gRPC clients, and what an error says |
//! | [`metrics`] | `/metrics`, read |
//! | [`store`] | the files under the data folder, read from outside |
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

pub mod grpc;
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

pub use self::{
    grpc::{Bearer, Rejection},
    metrics::Metrics,
    operators::{Operator, Operators},
    plan::{Plan, Shape},
    rest::{Admin, Answer, Visitor},
    store::Store,
};
use self::{plan::Ports, program::Program};
use crate::eventually;

/// How long a program may take to become ready. Debug builds on a busy machine are slow.
pub(crate) const START: Duration = Duration::from_mins(1);

/// The services, each in a program of its own in [`Shape::FiveProcesses`].
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
    programs: Vec<(Vec<Service>, Program)>,
    ports: Ports,
    operators: Operators,
    http: reqwest::Client,
    dir: TempDir,
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
        self.ports.public.addr()
    }

    /// The address of the admin REST listener.
    pub fn admin_addr(&self) -> SocketAddr {
        self.ports.admin.addr()
    }

    /// The gRPC address of a service, or the public REST address of the edge.
    pub fn addr(&self, service: Service) -> SocketAddr {
        match service {
            Service::Edge => self.public_addr(),
            other => self.ports.grpc(other).addr(),
        }
    }

    /// The operators and their tokens file.
    pub fn operators(&self) -> &Operators {
        &self.operators
    }

    /// `text` with the default addresses of the contract replaced by this system's.
    pub fn with_my_addresses(&self, text: &str) -> String {
        self.ports.settings(0).iter().fold(text.to_owned(), |text, (default, _, addr)| {
            text.replace(default, &addr.to_string())
                .replace(&default.replace("127.0.0.1", "localhost"), &addr.to_string())
        })
    }

    /// What the programs have printed so far, standard output and error together.
    pub fn log(&self) -> String {
        self.programs.iter().map(|(_, program)| program.log()).collect()
    }

    /// Ends the process that serves `service` at once, as a crash would.
    pub async fn kill(&mut self, service: Service) {
        self.program_of(service).kill().await;
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

    fn program_of(&mut self, service: Service) -> &mut Program {
        let found = self.programs.iter_mut().find(|(services, _)| services.contains(&service));
        &mut found.expect("every service has a program").1
    }

    async fn wait_until_ready(&mut self) {
        for index in 0..self.programs.len() {
            let (services, program) = &self.programs[index];
            for service in services {
                eventually(START, async || {
                    if let Some(code) = program.exit_code() {
                        panic!(
                            "{} ended with {code:?} instead of serving:\n{}",
                            program.name(),
                            program.log()
                        );
                    }
                    self.is_ready(*service).await
                })
                .await;
            }
        }
    }

    async fn is_ready(&self, service: Service) -> Result<(), String> {
        match service {
            Service::Edge => {
                let answer = self.visitor().get("/readyz").await.map_err(|error| format!("{error:#}"))?;
                if answer.status == 200 { Ok(()) } else { Err(format!("/readyz: {answer}")) }
            }
            // Outside hosted mode the gateway serves nothing but its health.
            Service::SignupGateway if !self.hosted => self.health(service, "").await,
            Service::SignupGateway => self.health(service, "pulse.signup.v1.SignupService").await,
            Service::Provisioner => self.health(service, "pulse.provisioner.v1.AccountService").await,
            Service::BillingState => self.health(service, "pulse.billing.v1.EntitlementService").await,
            Service::Lifecycle => self.health(service, "pulse.lifecycle.v1.OrganizationService").await,
        }
    }

    /// The token of an operator who may do everything: of the tokens file, or the one that `dev` made.
    pub(crate) fn admin_token(&self) -> String {
        match self.shape {
            Shape::Dev => {
                let path = self.data().join("admin-token");
                let token = fs::read_to_string(&path).expect("dev writes data/admin-token");
                token.trim().to_owned()
            }
            Shape::AllInOne | Shape::FiveProcesses => self.operators.token("olga").to_owned(),
        }
    }
}
