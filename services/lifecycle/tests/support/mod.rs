//! A running lifecycle service: a real server on a real port, over a real database, by a clock that the test moves.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use pulse_kernel::{ApiError, OsEntropy};
use pulse_lifecycle::{
    Config, serve_at,
    store::{SqliteStore, Store},
};
use pulse_proto::lifecycle::v1::{
    AbandonOrganizationRequest, ActivateOrganizationRequest, CreateOrganizationRequest, FinishPurgeRequest,
    GetOrganizationRequest, ListAuditEventsRequest, ListOrganizationsRequest, ListPurgingRequest,
    Organization, OrganizationServiceGetOrganizationRequest, OrganizationStatus, RestoreOrganizationRequest,
    SoftDeleteOrganizationRequest, SuspendOrganizationRequest, UnsuspendOrganizationRequest,
    lifecycle_admin_service_client::LifecycleAdminServiceClient,
    organization_service_client::OrganizationServiceClient,
};
use pulse_rpc::{Channel, from_status};
use pulse_runtime::{Shutdown, settings::try_parse_from};
use pulse_testkit::ManualClock;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

/// How long a test waits for a condition.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// What the tests expect of an answer.
pub(crate) type Answer<T> = Result<T, ApiError>;

/// A running service. It stops when it is dropped with its runtime.
pub(crate) struct Lifecycle {
    pub(crate) clock: ManualClock,
    pub(crate) shutdown: Shutdown,
    pub(crate) served: JoinHandle<anyhow::Result<()>>,
    pub(crate) directory: TempDir,
    addr: SocketAddr,
}

impl Lifecycle {
    /// In hosted mode.
    pub(crate) async fn hosted() -> Self {
        Self::start(&["--hosted-mode", "true"]).await
    }

    pub(crate) async fn start(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_in(directory, ManualClock::default(), flags).await
    }

    pub(crate) async fn start_in(directory: TempDir, clock: ManualClock, flags: &[&str]) -> Self {
        let file = directory.path().join("lifecycle.db");
        let store = SqliteStore::open(&file, &clock, Arc::new(OsEntropy)).await.unwrap();
        Self::start_on(Arc::new(store), directory, clock, flags).await
    }

    /// Over that store; the directory is for what it needs besides.
    pub(crate) async fn start_on(
        store: Arc<dyn Store>,
        directory: TempDir,
        clock: ManualClock,
        flags: &[&str],
    ) -> Self {
        let tokens = write_tokens(&directory);
        let own = ["pulse-lifecycle", "--data-dir", directory.path().to_str().unwrap()];
        let own = own.into_iter().chain(["--admin-tokens-file", tokens.to_str().unwrap()]);
        let config: Config = try_parse_from(own.chain(flags.iter().copied())).unwrap();
        let (listener, addr) = pulse_testkit::listener().await;
        let shutdown = Shutdown::new();
        let serve = serve_at(config, store, Arc::new(clock.clone()), listener, shutdown.clone());
        Self { clock, served: tokio::spawn(serve), shutdown, directory, addr }
    }

    /// Stops it; what is left is what the next one finds.
    pub(crate) async fn stop(self) -> (TempDir, ManualClock) {
        self.shutdown.trigger();
        self.served.await.unwrap().unwrap();
        self.shutdown.wait().await.unwrap();
        (self.directory, self.clock)
    }

    pub(crate) fn channel(&self) -> Channel {
        pulse_rpc::channel(&format!("http://{}", self.addr)).unwrap()
    }

    pub(crate) fn internal(&self) -> OrganizationServiceClient<Channel> {
        OrganizationServiceClient::new(self.channel())
    }

    pub(crate) fn admin(&self) -> LifecycleAdminServiceClient<Channel> {
        LifecycleAdminServiceClient::new(self.channel())
    }

    pub(crate) async fn create(&self, request: CreateOrganizationRequest) -> Answer<Organization> {
        answer(self.internal().create_organization(request).await).map(|made| made.organization.unwrap())
    }

    pub(crate) async fn activate(&self, org_id: &str) -> Answer<Organization> {
        let request = ActivateOrganizationRequest { org_id: org_id.into() };
        answer(self.internal().activate_organization(request).await).map(|made| made.organization.unwrap())
    }

    pub(crate) async fn abandon(&self, org_id: &str) -> Answer<()> {
        let request = AbandonOrganizationRequest { org_id: org_id.into() };
        answer(self.internal().abandon_organization(request).await).map(|_| ())
    }

    pub(crate) async fn get(&self, org_id: &str) -> Answer<Organization> {
        let request = OrganizationServiceGetOrganizationRequest { org_id: org_id.into() };
        answer(self.internal().get_organization(request).await).map(|found| found.organization.unwrap())
    }

    pub(crate) async fn purging(&self) -> Vec<String> {
        let listed = self.internal().list_purging(ListPurgingRequest::default()).await;
        answer(listed).unwrap().org_ids
    }

    pub(crate) async fn finish_purge(&self, org_id: &str) -> Answer<()> {
        let request = FinishPurgeRequest { org_id: org_id.into() };
        answer(self.internal().finish_purge(request).await).map(|_| ())
    }

    /// Makes an active organization of its own email.
    pub(crate) async fn active(&self, org_id: &str) -> Organization {
        self.create(request(org_id)).await.unwrap();
        self.activate(org_id).await.unwrap()
    }

    pub(crate) async fn suspend(&self, operator: &str, org_id: &str, reason: &str) -> Answer<Organization> {
        let request =
            SuspendOrganizationRequest { org_id: org_id.into(), reason: reason.into(), etag: String::new() };
        let suspended = self.admin().suspend_organization(signed(operator, request)).await;
        answer(suspended).map(|suspended| suspended.organization.unwrap())
    }

    pub(crate) async fn unsuspend(&self, operator: &str, org_id: &str) -> Answer<Organization> {
        let request = UnsuspendOrganizationRequest { org_id: org_id.into(), ..Default::default() };
        let unsuspended = self.admin().unsuspend_organization(signed(operator, request)).await;
        answer(unsuspended).map(|unsuspended| unsuspended.organization.unwrap())
    }

    pub(crate) async fn delete(
        &self,
        operator: &str,
        org_id: &str,
        retention_days: Option<f64>,
    ) -> Answer<Organization> {
        let request =
            SoftDeleteOrganizationRequest { org_id: org_id.into(), retention_days, ..Default::default() };
        let deleted = self.admin().soft_delete_organization(signed(operator, request)).await;
        answer(deleted).map(|deleted| deleted.organization.unwrap())
    }

    pub(crate) async fn restore(&self, operator: &str, org_id: &str) -> Answer<Organization> {
        let request = RestoreOrganizationRequest { org_id: org_id.into(), ..Default::default() };
        let restored = self.admin().restore_organization(signed(operator, request)).await;
        answer(restored).map(|restored| restored.organization.unwrap())
    }

    pub(crate) async fn look(&self, operator: &str, org_id: &str) -> Answer<Organization> {
        let request = GetOrganizationRequest { org_id: org_id.into() };
        let found = self.admin().get_organization(signed(operator, request)).await;
        answer(found).map(|found| found.organization.unwrap())
    }

    pub(crate) async fn list(
        &self,
        operator: &str,
        request: ListOrganizationsRequest,
    ) -> Answer<(Vec<Organization>, String)> {
        let listed = self.admin().list_organizations(signed(operator, request)).await;
        answer(listed).map(|listed| (listed.organizations, listed.next_page_token))
    }

    pub(crate) async fn audit(
        &self,
        operator: &str,
        request: ListAuditEventsRequest,
    ) -> Answer<(Vec<pulse_proto::audit::v1::AuditEvent>, String)> {
        let listed = self.admin().list_audit_events(signed(operator, request)).await;
        answer(listed).map(|listed| (listed.audit_events, listed.next_page_token))
    }
}

/// An answer, or the error that it carries.
pub(crate) fn answer<T>(answer: Result<Response<T>, Status>) -> Answer<T> {
    answer.map(Response::into_inner).map_err(|status| from_status(&status))
}

/// A request for an organization of its own email.
pub(crate) fn request(org_id: &str) -> CreateOrganizationRequest {
    CreateOrganizationRequest {
        org_id: org_id.into(),
        owner_user_id: "0198c0de-0000-7000-8000-000000000001".into(),
        owner_email: format!("{org_id}@Example.com"),
        display_name: "Acme, Inc.".into(),
    }
}

/// The token of the operator of that name.
pub(crate) fn token(operator: &str) -> String {
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

/// The status of an organization, as the wire names it.
pub(crate) fn status(organization: &Organization) -> OrganizationStatus {
    organization.status()
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
