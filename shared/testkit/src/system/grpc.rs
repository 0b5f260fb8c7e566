//! gRPC clients of a system's services.

use std::{net::SocketAddr, time::Duration};

use pulse_proto::{
    billing::v1::{
        billing_admin_service_client::BillingAdminServiceClient,
        billing_state_service_client::BillingStateServiceClient,
        entitlement_service_client::EntitlementServiceClient,
    },
    lifecycle::v1::{
        lifecycle_admin_service_client::LifecycleAdminServiceClient,
        organization_service_client::OrganizationServiceClient,
    },
    provisioner::v1::{
        account_service_client::AccountServiceClient,
        provisioner_admin_service_client::ProvisionerAdminServiceClient,
        provisioner_service_client::ProvisionerServiceClient,
    },
    signup::v1::signup_service_client::SignupServiceClient,
};
use tonic::{
    Code, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;

use super::{Service, System};

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Adds `authorization: Bearer <token>` to every call.
#[derive(Debug, Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A channel whose calls carry an operator's token.
pub type AsOperator = InterceptedService<Channel, Bearer>;

/// What an error says, details included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The gRPC code.
    pub code: Code,
    /// `google.rpc.ErrorInfo`: the reason. Empty when there is none.
    pub reason: String,
    /// `google.rpc.ErrorInfo`: the domain. Empty when there is none.
    pub domain: String,
    /// `google.rpc.BadRequest`: the fields.
    pub fields: Vec<String>,
    /// `google.rpc.RetryInfo`: when a retry may help.
    pub retry_after: Option<Duration>,
}

impl From<Status> for Rejection {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        Self {
            code: status.code(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            domain: info.map(|info| info.domain.clone()).unwrap_or_default(),
            fields: details.bad_request().map_or_else(Vec::new, |bad| {
                bad.field_violations.iter().map(|violation| violation.field.clone()).collect()
            }),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}

/// The error of a call that must fail.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn rejection<T: std::fmt::Debug>(result: Result<tonic::Response<T>, Status>) -> Rejection {
    result.expect_err("the call is refused").into()
}

/// A channel to whatever serves gRPC at `addr`; it connects when it is first used.
///
/// # Panics
/// Never: every address makes a URL.
pub fn channel(addr: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("an address makes a URL");
    endpoint.timeout(TIMEOUT).connect_lazy()
}

/// `grpc.health.v1` at `addr`: whether `name` is being served; the empty name asks for the process.
///
/// # Errors
/// Says what the answer was, when it is not.
pub async fn health(addr: SocketAddr, name: &str) -> Result<(), String> {
    let request = HealthCheckRequest { service: name.to_owned() };
    let answer = HealthClient::new(channel(addr)).check(request).await;
    match answer.map(|answer| answer.into_inner().status()) {
        Ok(ServingStatus::Serving) => Ok(()),
        Ok(other) => Err(format!("{name:?} is {other:?}")),
        Err(status) => Err(format!("{name:?}: {status}")),
    }
}

impl System {
    /// A channel to a service; it connects when it is first used.
    ///
    /// # Panics
    /// For the edge, which serves no gRPC.
    pub fn channel(&self, service: Service) -> Channel {
        assert!(service != Service::Edge, "the edge serves no gRPC");
        channel(self.addr(service))
    }

    /// A channel to a service whose calls carry the token of an operator who may do everything.
    pub fn operator_channel(&self, service: Service) -> AsOperator {
        self.channel_with_token(service, &self.admin_token())
    }

    /// A channel to a service whose calls carry this token.
    ///
    /// # Panics
    /// When the token cannot be sent.
    pub fn channel_with_token(&self, service: Service, token: &str) -> AsOperator {
        with_token(self.channel(service), token)
    }

    /// A channel to one process of a service, whose calls carry the token of an operator who may do everything.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn operator_channel_to_replica(&self, service: Service, replica: usize) -> AsOperator {
        with_token(channel(self.replica_addr(service, replica)), &self.admin_token())
    }

    /// `pulse.signup.v1.SignupService`.
    pub fn signups(&self) -> SignupServiceClient<Channel> {
        SignupServiceClient::new(self.channel(Service::SignupGateway))
    }

    /// `pulse.provisioner.v1.ProvisionerService`.
    pub fn provisioner(&self) -> ProvisionerServiceClient<Channel> {
        ProvisionerServiceClient::new(self.channel(Service::Provisioner))
    }

    /// `pulse.provisioner.v1.AccountService`.
    pub fn accounts(&self) -> AccountServiceClient<Channel> {
        AccountServiceClient::new(self.channel(Service::Provisioner))
    }

    /// `pulse.provisioner.v1.ProvisionerAdminService`, for an operator who may do everything.
    pub fn provisioner_admin(&self) -> ProvisionerAdminServiceClient<AsOperator> {
        ProvisionerAdminServiceClient::new(self.operator_channel(Service::Provisioner))
    }

    /// `pulse.billing.v1.EntitlementService`.
    pub fn entitlements(&self) -> EntitlementServiceClient<Channel> {
        EntitlementServiceClient::new(self.channel(Service::BillingState))
    }

    /// `pulse.billing.v1.BillingStateService`.
    pub fn billing_states(&self) -> BillingStateServiceClient<Channel> {
        BillingStateServiceClient::new(self.channel(Service::BillingState))
    }

    /// `pulse.billing.v1.BillingAdminService`, for an operator who may do everything.
    pub fn billing_admin(&self) -> BillingAdminServiceClient<AsOperator> {
        BillingAdminServiceClient::new(self.operator_channel(Service::BillingState))
    }

    /// `pulse.lifecycle.v1.OrganizationService`.
    pub fn organizations(&self) -> OrganizationServiceClient<Channel> {
        OrganizationServiceClient::new(self.channel(Service::Lifecycle))
    }

    /// `pulse.lifecycle.v1.LifecycleAdminService`, for an operator who may do everything.
    pub fn lifecycle_admin(&self) -> LifecycleAdminServiceClient<AsOperator> {
        LifecycleAdminServiceClient::new(self.operator_channel(Service::Lifecycle))
    }

    /// [`health`] of a service.
    ///
    /// # Errors
    /// Says what the answer was, when it is not being served.
    pub async fn health(&self, service: Service, name: &str) -> Result<(), String> {
        health(self.addr(service), name).await
    }
}

fn with_token(channel: Channel, token: &str) -> AsOperator {
    let value = format!("Bearer {token}").parse().expect("a token is ASCII");
    InterceptedService::new(channel, Bearer(value))
}
