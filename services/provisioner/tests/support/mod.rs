//! The real lifecycle and billing-state services on real ports, by a clock that the test moves.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use pulse_kernel::{ApiError, OsEntropy};
use pulse_proto::lifecycle::v1::{
    SoftDeleteOrganizationRequest, SuspendOrganizationRequest,
    lifecycle_admin_service_client::LifecycleAdminServiceClient,
};
use pulse_provisioner::clients::{
    Organizations as _,
    grpc::{BillingClient, LifecycleClient},
};
use pulse_rpc::{Channel, from_status};
use pulse_runtime::{Shutdown, settings::try_parse_from};
use pulse_tenant_guard::OrganizationStatus;
use pulse_testkit::{ManualClock, eventually};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tonic::{Request, Response, Status};

/// How long a test waits for a condition.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// What the tests expect of an answer.
pub(crate) type Answer<T> = Result<T, ApiError>;

/// lifecycle and billing-state, running in hosted mode. They stop with the runtime.
pub(crate) struct Plane {
    pub(crate) clock: ManualClock,
    pub(crate) organizations: LifecycleClient,
    pub(crate) billing: BillingClient,
    pub(crate) directory: TempDir,
    pub(crate) lifecycle_addr: SocketAddr,
    pub(crate) billing_addr: SocketAddr,
    admin: LifecycleAdminServiceClient<Channel>,
}

impl Plane {
    /// On stores in memory, with a reaper that looks all the time.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::default();
        let tokens = write_tokens(&directory);
        let flags = ["--hosted-mode", "true", "--admin-tokens-file", tokens.to_str().unwrap()];
        let entropy = Arc::new(OsEntropy);

        let own = ["pulse-lifecycle", "--reaper-interval", "5ms"];
        let config = try_parse_from(own.iter().chain(&flags)).unwrap();
        let store = Arc::new(pulse_lifecycle::store::MemoryStore::new(&clock, entropy.clone()));
        let (listener, lifecycle_addr) = pulse_testkit::listener().await;
        let at = Arc::new(clock.clone());
        tokio::spawn(pulse_lifecycle::serve_at(config, store, at.clone(), listener, Shutdown::new()));

        let config = try_parse_from(["pulse-billing-state"].iter().chain(&flags)).unwrap();
        let store = Arc::new(pulse_billing_state::store::memory::MemoryStore::new(entropy));
        let (listener, billing_addr) = pulse_testkit::listener().await;
        tokio::spawn(pulse_billing_state::serve_at(config, store, at, listener, Shutdown::new()));

        let channel = |addr: SocketAddr| pulse_rpc::channel(&format!("http://{addr}")).unwrap();
        Self {
            clock,
            organizations: LifecycleClient::new(channel(lifecycle_addr)),
            billing: BillingClient::new(channel(billing_addr)),
            admin: LifecycleAdminServiceClient::new(channel(lifecycle_addr)),
            directory,
            lifecycle_addr,
            billing_addr,
        }
    }

    /// Deletes the organization for good: lifecycle says that it is purging when this returns.
    pub(crate) async fn delete(&self, org_id: &str) {
        let request = SoftDeleteOrganizationRequest {
            org_id: org_id.into(),
            retention_days: Some(0.001),
            ..Default::default()
        };
        answer(self.admin.clone().soft_delete_organization(signed("admin", request)).await).unwrap();
        self.clock.advance(Duration::from_mins(10));
        let id = org_id.parse().unwrap();
        eventually(WAIT, async || {
            let status = self.organizations.status(&id).await;
            // Another runner may have finished the purge meanwhile.
            status.map_or(true, |status| status == OrganizationStatus::Purging)
        })
        .await;
    }

    /// Suspends the organization.
    pub(crate) async fn suspend(&self, org_id: &str) {
        let request = SuspendOrganizationRequest { org_id: org_id.into(), ..Default::default() };
        answer(self.admin.clone().suspend_organization(signed("support", request)).await).unwrap();
    }
}

/// An answer, or the error that it carries.
pub(crate) fn answer<T>(answer: Result<Response<T>, Status>) -> Answer<T> {
    answer.map(Response::into_inner).map_err(|status| from_status(&status))
}

/// The token of the operator of that name.
fn token(operator: &str) -> String {
    format!("{operator}-token-for-tests")
}

/// A request with the operator's token; no operator, no token.
pub(crate) fn signed<T>(operator: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !operator.is_empty() {
        let value = format!("Bearer {}", token(operator)).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// One operator for each role, named after it.
fn write_tokens(directory: &TempDir) -> PathBuf {
    let entries = ["viewer", "support", "billing", "admin"].map(|role| {
        let hash = hex::encode(Sha256::digest(token(role)));
        format!("[[token]]\nname = \"{role}\"\nsha256 = \"{hash}\"\nroles = [\"{role}\"]\n")
    });
    let path = directory.path().join("tokens.toml");
    std::fs::write(&path, entries.concat()).unwrap();
    path
}
