//! Which programs make a system, and with which settings.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{Operators, Service, System, program::Program};
use crate::ports::Port;

/// How the five services are spread over processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `pulse-hosted dev`.
    Dev,
    /// `pulse-hosted serve`.
    AllInOne,
    /// A process for each service.
    FiveProcesses,
}

/// A system that is not running yet.
#[derive(Debug, Clone)]
pub struct Plan {
    shape: Shape,
    settings: BTreeMap<String, String>,
}

/// The ports of a system, held until it is dropped.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) public: Port,
    pub(super) admin: Port,
    gateway: Port,
    provisioner: Port,
    billing: Port,
    lifecycle: Port,
    /// One for each process.
    metrics: Vec<Port>,
}

impl Ports {
    fn reserve(processes: usize) -> Self {
        Self {
            public: Port::reserve(),
            admin: Port::reserve(),
            gateway: Port::reserve(),
            provisioner: Port::reserve(),
            billing: Port::reserve(),
            lifecycle: Port::reserve(),
            metrics: (0..processes).map(|_| Port::reserve()).collect(),
        }
    }

    pub(super) fn grpc(&self, service: Service) -> &Port {
        match service {
            Service::Edge => panic!("the edge serves no gRPC"),
            Service::SignupGateway => &self.gateway,
            Service::Provisioner => &self.provisioner,
            Service::BillingState => &self.billing,
            Service::Lifecycle => &self.lifecycle,
        }
    }

    pub(super) fn metrics(&self) -> impl Iterator<Item = SocketAddr> {
        self.metrics.iter().map(Port::addr)
    }

    /// For each listener of the process of that number: its default, its setting, and its address here.
    pub(super) fn settings(&self, process: usize) -> [(&'static str, &'static str, SocketAddr); 7] {
        [
            ("127.0.0.1:8080", "PULSE_EDGE_PUBLIC_ADDR", self.public.addr()),
            ("127.0.0.1:8081", "PULSE_EDGE_ADMIN_ADDR", self.admin.addr()),
            ("127.0.0.1:50051", "PULSE_SIGNUP_GATEWAY_ADDR", self.gateway.addr()),
            ("127.0.0.1:50052", "PULSE_PROVISIONER_ADDR", self.provisioner.addr()),
            ("127.0.0.1:50053", "PULSE_BILLING_STATE_ADDR", self.billing.addr()),
            ("127.0.0.1:50054", "PULSE_LIFECYCLE_ADDR", self.lifecycle.addr()),
            ("127.0.0.1:9091", "PULSE_METRICS_ADDR", self.metrics[process].addr()),
        ]
    }
}

impl Plan {
    /// A system of that shape in hosted mode: `dev` with its own defaults, the others with operator tokens and the
    /// decisions that a strict start asks for.
    pub fn new(shape: Shape) -> Self {
        let plan = Self { shape, settings: BTreeMap::new() };
        match shape {
            Shape::Dev => plan,
            Shape::AllInOne | Shape::FiveProcesses => {
                plan.set("PULSE_HOSTED_MODE", "true").set("PULSE_SIGNUP_VERIFICATION", "none")
            }
        }
    }

    /// Sets a setting, by its environment name.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_string());
        self
    }

    /// Leaves a setting unset.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.settings.remove(name);
        self
    }

    /// Turns hosted mode off.
    #[must_use]
    pub fn not_hosted(self) -> Self {
        self.set("PULSE_HOSTED_MODE", "false")
    }

    /// Lifts the limits per client address, as every request of a test comes from one.
    #[must_use]
    pub fn without_limits(self) -> Self {
        self.set("PULSE_SIGNUP_LIMIT_PER_HOUR", "1000000").set("PULSE_REQUEST_LIMIT_PER_MINUTE", "1000000")
    }

    /// Starts the programs and waits until all are ready.
    ///
    /// # Panics
    /// When one cannot be started or does not become ready; the message shows its log.
    pub async fn start(self) -> System {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let operators = Operators::standard(dir.path());
        let arrangement: Vec<(&str, &[&str], Vec<Service>)> = match self.shape {
            Shape::Dev => vec![("pulse-hosted", &["dev"], Service::ALL.to_vec())],
            Shape::AllInOne => vec![("pulse-hosted", &["serve"], Service::ALL.to_vec())],
            Shape::FiveProcesses => {
                Service::ALL.into_iter().map(|service| (service.program(), &[][..], vec![service])).collect()
            }
        };
        let ports = Ports::reserve(arrangement.len());
        let programs = (0..).zip(arrangement).map(|(process, (name, args, services))| {
            let mut program = Program::new(name, args, dir.path());
            for (_, setting, addr) in ports.settings(process) {
                program.set(setting, &addr.to_string());
            }
            if self.shape != Shape::Dev {
                program.set("PULSE_ADMIN_TOKENS_FILE", &operators.file().to_string_lossy());
            }
            for (name, value) in &self.settings {
                program.set(name, value);
            }
            program.start();
            (services, program)
        });
        let programs = programs.collect();
        let hosted = self.settings.get("PULSE_HOSTED_MODE").is_none_or(|value| value == "true");
        // Straight to this machine, whatever proxy the environment names.
        let http = reqwest::Client::builder().no_proxy().build().expect("a client without TLS can be made");
        let mut system = System { shape: self.shape, hosted, programs, ports, operators, http, dir };
        system.wait_until_ready().await;
        system
    }
}
