//! Where the gRPC services listen and how the others reach them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Uri;

use super::values::http_url;

/// The gRPC services that others call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Public signup.
    SignupGateway,
    /// Accounts and the sagas that make and purge a tenant.
    Provisioner,
    /// Billing states and entitlements.
    BillingState,
    /// Organizations and their status.
    Lifecycle,
}

impl Service {
    /// Every service, in the order in which calls go from one to the next.
    pub const ALL: [Self; 4] = [Self::SignupGateway, Self::Provisioner, Self::BillingState, Self::Lifecycle];

    /// The service's name, as in its folder.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SignupGateway => "signup-gateway",
            Self::Provisioner => "provisioner",
            Self::BillingState => "billing-state",
            Self::Lifecycle => "lifecycle",
        }
    }

    /// The setting that holds its listen address.
    pub const fn addr_env(self) -> &'static str {
        match self {
            Self::SignupGateway => "PULSE_SIGNUP_GATEWAY_ADDR",
            Self::Provisioner => "PULSE_PROVISIONER_ADDR",
            Self::BillingState => "PULSE_BILLING_STATE_ADDR",
            Self::Lifecycle => "PULSE_LIFECYCLE_ADDR",
        }
    }
}

/// The listen addresses of the gRPC services, and the URLs by which others reach them.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Services")]
pub struct Endpoints {
    /// Where signup-gateway listens.
    #[arg(long, env = "PULSE_SIGNUP_GATEWAY_ADDR", value_name = "ADDR", default_value = "127.0.0.1:50051")]
    signup_gateway_addr: SocketAddr,
    /// How others reach signup-gateway [default: http:// and its address].
    #[arg(long, env = "PULSE_SIGNUP_GATEWAY_URL", value_name = "URL", value_parser = http_url)]
    signup_gateway_url: Option<Uri>,
    /// Where provisioner listens.
    #[arg(long, env = "PULSE_PROVISIONER_ADDR", value_name = "ADDR", default_value = "127.0.0.1:50052")]
    provisioner_addr: SocketAddr,
    /// How others reach provisioner [default: http:// and its address].
    #[arg(long, env = "PULSE_PROVISIONER_URL", value_name = "URL", value_parser = http_url)]
    provisioner_url: Option<Uri>,
    /// Where billing-state listens.
    #[arg(long, env = "PULSE_BILLING_STATE_ADDR", value_name = "ADDR", default_value = "127.0.0.1:50053")]
    billing_state_addr: SocketAddr,
    /// How others reach billing-state [default: http:// and its address].
    #[arg(long, env = "PULSE_BILLING_STATE_URL", value_name = "URL", value_parser = http_url)]
    billing_state_url: Option<Uri>,
    /// Where lifecycle listens.
    #[arg(long, env = "PULSE_LIFECYCLE_ADDR", value_name = "ADDR", default_value = "127.0.0.1:50054")]
    lifecycle_addr: SocketAddr,
    /// How others reach lifecycle [default: http:// and its address].
    #[arg(long, env = "PULSE_LIFECYCLE_URL", value_name = "URL", value_parser = http_url)]
    lifecycle_url: Option<Uri>,
}

impl Endpoints {
    /// Where the service listens.
    pub fn addr(&self, service: Service) -> SocketAddr {
        match service {
            Service::SignupGateway => self.signup_gateway_addr,
            Service::Provisioner => self.provisioner_addr,
            Service::BillingState => self.billing_state_addr,
            Service::Lifecycle => self.lifecycle_addr,
        }
    }

    /// How others reach the service: the URL that was set, else its listen address on this machine.
    pub fn url(&self, service: Service) -> Uri {
        let set = match service {
            Service::SignupGateway => &self.signup_gateway_url,
            Service::Provisioner => &self.provisioner_url,
            Service::BillingState => &self.billing_state_url,
            Service::Lifecycle => &self.lifecycle_url,
        };
        set.clone().unwrap_or_else(|| local_url(self.addr(service)))
    }

    /// Puts the address at which the service really listens in place of the one that was set; they differ when
    /// port 0 let the system choose.
    pub fn set_addr(&mut self, service: Service, addr: SocketAddr) {
        match service {
            Service::SignupGateway => self.signup_gateway_addr = addr,
            Service::Provisioner => self.provisioner_addr = addr,
            Service::BillingState => self.billing_state_addr = addr,
            Service::Lifecycle => self.lifecycle_addr = addr,
        }
    }

    /// The listener of the service, for [`super::CommonSettings::check_strict`].
    pub fn listener(&self, service: Service) -> (&'static str, SocketAddr) {
        (service.addr_env(), self.addr(service))
    }
}

/// The URL of a listener on this machine; one that listens on every address is reached over loopback.
#[expect(clippy::expect_used, reason = "a socket address is a valid authority")]
fn local_url(mut addr: SocketAddr) -> Uri {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{addr}").parse().expect("http:// and a socket address make a URL")
}
