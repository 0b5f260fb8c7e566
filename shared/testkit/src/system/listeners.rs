//! The listeners of a system: where each process listens, and where tests and other services find them.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{Service, plan::Process};
use crate::{ports::Port, proxy::Proxy};

/// A listener that others connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// The edge's public REST surface.
    Public,
    /// The edge's admin REST surface.
    Admin,
    /// The edge's internal REST surface.
    Internal,
    /// gRPC of signup-gateway.
    SignupGateway,
    /// gRPC of provisioner.
    Provisioner,
    /// gRPC of billing-state.
    BillingState,
    /// gRPC of lifecycle.
    Lifecycle,
}

impl Listener {
    const ALL: [Self; 7] = [
        Self::Public,
        Self::Admin,
        Self::Internal,
        Self::SignupGateway,
        Self::Provisioner,
        Self::BillingState,
        Self::Lifecycle,
    ];

    /// The one that stands for a service: its gRPC, or the edge's public surface.
    pub(super) fn of(service: Service) -> Self {
        match service {
            Service::Edge => Self::Public,
            Service::SignupGateway => Self::SignupGateway,
            Service::Provisioner => Self::Provisioner,
            Service::BillingState => Self::BillingState,
            Service::Lifecycle => Self::Lifecycle,
        }
    }

    fn service(self) -> Service {
        match self {
            Self::Public | Self::Admin | Self::Internal => Service::Edge,
            Self::SignupGateway => Service::SignupGateway,
            Self::Provisioner => Service::Provisioner,
            Self::BillingState => Service::BillingState,
            Self::Lifecycle => Service::Lifecycle,
        }
    }

    /// Its address by default, and the setting of it.
    fn addr(self) -> (&'static str, &'static str) {
        match self {
            Self::Public => ("127.0.0.1:8080", "PULSE_EDGE_PUBLIC_ADDR"),
            Self::Admin => ("127.0.0.1:8081", "PULSE_EDGE_ADMIN_ADDR"),
            Self::Internal => ("127.0.0.1:8082", "PULSE_EDGE_INTERNAL_ADDR"),
            Self::SignupGateway => ("127.0.0.1:50051", "PULSE_SIGNUP_GATEWAY_ADDR"),
            Self::Provisioner => ("127.0.0.1:50052", "PULSE_PROVISIONER_ADDR"),
            Self::BillingState => ("127.0.0.1:50053", "PULSE_BILLING_STATE_ADDR"),
            Self::Lifecycle => ("127.0.0.1:50054", "PULSE_LIFECYCLE_ADDR"),
        }
    }

    /// The setting that tells other services where it is.
    fn url_setting(self) -> Option<&'static str> {
        match self {
            Self::Public | Self::Admin | Self::Internal => None,
            Self::SignupGateway => Some("PULSE_SIGNUP_GATEWAY_URL"),
            Self::Provisioner => Some("PULSE_PROVISIONER_URL"),
            Self::BillingState => Some("PULSE_BILLING_STATE_URL"),
            Self::Lifecycle => Some("PULSE_LIFECYCLE_URL"),
        }
    }
}

/// Every listener of a system, held until this is dropped.
#[derive(Debug)]
pub(super) struct Listeners {
    front: BTreeMap<Listener, Front>,
    /// In the order of the processes.
    processes: Vec<Own>,
}

/// Where a listener is found.
#[derive(Debug)]
enum Front {
    /// At the port that the one process of its service listens on.
    Direct(Port),
    /// Behind a balancer, as each replica listens on a port of its own.
    Balanced(Proxy),
}

impl Front {
    fn addr(&self) -> SocketAddr {
        match self {
            Self::Direct(port) => port.addr(),
            Self::Balanced(proxy) => proxy.addr(),
        }
    }
}

/// What is one process's own.
#[derive(Debug)]
struct Own {
    metrics: Port,
    /// Empty where there is one process of each service.
    listeners: BTreeMap<Listener, Port>,
}

impl Listeners {
    /// Finds ports for these processes; with `replicas`, there are several processes of each service.
    pub(super) fn reserve(processes: &[Process], replicas: bool) -> Self {
        let own = |process: &Process| {
            let is_its = |listener: &Listener| replicas && process.services.contains(&listener.service());
            let listeners = Listener::ALL.into_iter().filter(is_its);
            Own {
                metrics: Port::reserve(),
                listeners: listeners.map(|listener| (listener, Port::reserve())).collect(),
            }
        };
        let processes: Vec<Own> = processes.iter().map(own).collect();
        let front = |listener| {
            let replicas = processes.iter().filter_map(|own| own.listeners.get(&listener));
            let replicas: Vec<SocketAddr> = replicas.map(Port::addr).collect();
            if replicas.is_empty() {
                Front::Direct(Port::reserve())
            } else {
                Front::Balanced(Proxy::to(&replicas))
            }
        };
        let front = Listener::ALL.into_iter().map(|listener| (listener, front(listener))).collect();
        Self { front, processes }
    }

    /// Where others find the listener.
    pub(super) fn addr(&self, listener: Listener) -> SocketAddr {
        self.front[&listener].addr()
    }

    /// The balancer in front of the replicas.
    ///
    /// # Panics
    /// When there is none.
    pub(super) fn balancer(&self, listener: Listener) -> &Proxy {
        match &self.front[&listener] {
            Front::Balanced(balancer) => balancer,
            Front::Direct(port) => panic!("nothing is in front of {}", port.addr()),
        }
    }

    /// Where the process of that number listens.
    pub(super) fn own_addr(&self, process: usize, listener: Listener) -> SocketAddr {
        self.processes[process].listeners.get(&listener).map_or_else(|| self.addr(listener), Port::addr)
    }

    /// Where the process of that number serves its metrics.
    pub(super) fn metrics_addr(&self, process: usize) -> SocketAddr {
        self.processes[process].metrics.addr()
    }

    /// The settings that tell the process of that number where to listen, and where the others are.
    pub(super) fn settings(&self, process: usize) -> Vec<(&'static str, String)> {
        let mut settings = vec![("PULSE_METRICS_ADDR", self.metrics_addr(process).to_string())];
        for (listener, front) in &self.front {
            let (_, addr_setting) = listener.addr();
            settings.push((addr_setting, self.own_addr(process, *listener).to_string()));
            if let (Front::Balanced(balancer), Some(url_setting)) = (front, listener.url_setting()) {
                settings.push((url_setting, format!("http://{}", balancer.addr())));
            }
        }
        settings
    }

    /// Each address that a program listens on by default, with where it is here.
    pub(super) fn defaults(&self) -> Vec<(&'static str, SocketAddr)> {
        let listeners = Listener::ALL.into_iter().map(|listener| (listener.addr().0, self.addr(listener)));
        listeners.chain([("127.0.0.1:9091", self.metrics_addr(0))]).collect()
    }
}
