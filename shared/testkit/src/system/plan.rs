//! Which programs make a system, with which settings, and where they keep their data.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    thread,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Operators, Service, System, backend::Backend, listeners::Listeners, program::Program};

/// How the five services are spread over processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `pulse-hosted dev`.
    Dev,
    /// `pulse-hosted serve`.
    AllInOne,
    /// A process for each service.
    FiveProcesses,
    /// [`REPLICAS`] processes for each service, behind balancers.
    Replicated,
}

/// How many processes of each service there are in [`Shape::Replicated`].
pub const REPLICAS: usize = 2;

/// Where the programs keep their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// In the folder of the system.
    Embedded,
    /// In a database of the PostgreSQL server that all tests of this process share.
    SharedPostgres,
    /// In a database of a PostgreSQL server of its own.
    OwnPostgres,
}

/// A system that is not running yet.
#[derive(Debug, Clone)]
pub struct Plan {
    shape: Shape,
    keep: Keep,
    settings: BTreeMap<String, String>,
    /// All of them where this is none.
    only: Option<&'static [Service]>,
}

/// One process of a system.
#[derive(Debug)]
pub(super) struct Process {
    program: &'static str,
    args: &'static [&'static str],
    /// What its log is called by.
    label: String,
    pub(super) services: Vec<Service>,
}

impl Shape {
    fn processes(self) -> Vec<Process> {
        let all = |args| Process {
            program: "pulse-hosted",
            args,
            label: "pulse-hosted".to_owned(),
            services: Service::ALL.to_vec(),
        };
        let one = |service: Service, label: String| Process {
            program: service.program(),
            args: &[],
            label,
            services: vec![service],
        };
        match self {
            Self::Dev => vec![all(&["dev"])],
            Self::AllInOne => vec![all(&["serve"])],
            Self::FiveProcesses => {
                Service::ALL.into_iter().map(|service| one(service, service.program().to_owned())).collect()
            }
            Self::Replicated => {
                let replicas = |service: Service| {
                    (0..REPLICAS).map(move |index| one(service, format!("{}-{index}", service.program())))
                };
                Service::ALL.into_iter().flat_map(replicas).collect()
            }
        }
    }
}

/// Ten processes start at once in [`Shape::Replicated`]; a machine takes only so many systems of that kind.
static ROOM: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new((cores / 4).max(1)))
});

impl Plan {
    /// A system of that shape in hosted mode: `dev` with its own defaults, the others with operator tokens and the
    /// decisions that a strict start asks for.
    pub fn new(shape: Shape) -> Self {
        // Only one process can have an embedded store.
        let keep = if shape == Shape::Replicated { Keep::SharedPostgres } else { Keep::Embedded };
        let plan = Self { shape, keep, settings: BTreeMap::new(), only: None };
        match shape {
            Shape::Dev => plan,
            Shape::AllInOne | Shape::FiveProcesses | Shape::Replicated => {
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

    /// Leaves out the processes that serve none of these.
    #[must_use]
    pub fn only(mut self, services: &'static [Service]) -> Self {
        self.only = Some(services);
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

    /// Keeps the data in a new database of the PostgreSQL server that all tests of this process share.
    #[must_use]
    pub fn over_postgres(mut self) -> Self {
        self.keep = Keep::SharedPostgres;
        self
    }

    /// Keeps the data in PostgreSQL, on a server that no other test uses and that the programs reach through a proxy: it can
    /// be stopped, killed and cut off.
    #[must_use]
    pub fn over_own_postgres(mut self) -> Self {
        self.keep = Keep::OwnPostgres;
        self
    }

    /// Starts the programs and waits until all are ready.
    ///
    /// A test has one replicated system at a time: a second may wait for the first to end.
    ///
    /// # Panics
    /// When one cannot be started or does not become ready; the message shows its log.
    pub async fn start(self) -> System {
        let replicated = self.shape == Shape::Replicated;
        let room: Option<OwnedSemaphorePermit> = if replicated {
            Some(Arc::clone(&ROOM).acquire_owned().await.expect("the semaphore is never closed"))
        } else {
            None
        };
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let operators = Operators::standard(dir.path());
        let backend = Backend::start(self.keep).await;
        let mut processes = self.shape.processes();
        if let Some(only) = self.only {
            processes.retain(|process| process.services.iter().any(|service| only.contains(service)));
        }
        let listeners = Listeners::reserve(&processes, replicated);
        let programs = processes.into_iter().enumerate().map(|(number, process)| {
            let mut program = Program::labelled(&process.label, process.program, process.args, dir.path());
            for (setting, value) in listeners.settings(number) {
                program.set(setting, &value);
            }
            if self.shape != Shape::Dev {
                program.set("PULSE_ADMIN_TOKENS_FILE", &operators.file().to_string_lossy());
            }
            if let Some(url) = backend.url() {
                program.set("PULSE_DATABASE_URL", &url);
            }
            for (name, value) in &self.settings {
                program.set(name, value);
            }
            program.start();
            (process.services, program)
        });
        let programs = programs.collect();
        let hosted = self.settings.get("PULSE_HOSTED_MODE").is_none_or(|value| value == "true");
        // Straight to this machine, whatever proxy the environment names.
        let http = reqwest::Client::builder().no_proxy().build().expect("a client without TLS can be made");
        let mut system =
            System { shape: self.shape, hosted, programs, listeners, backend, operators, http, dir, room };
        system.wait_until_ready().await;
        system
    }
}
