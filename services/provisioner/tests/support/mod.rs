//! The real lifecycle and billing-state services on real ports, by a clock that the test moves; and a real provisioner in
//! front of them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use pulse_kernel::{ApiError, Clock, EmailAddress, Ids, OrgName, OsEntropy, Reason, SystemClock};
use pulse_proto::{
    audit::v1::AuditEvent,
    lifecycle::v1::{
        SoftDeleteOrganizationRequest, SuspendOrganizationRequest,
        lifecycle_admin_service_client::LifecycleAdminServiceClient,
    },
    provisioner::v1::{
        Account, CheckAccessRequest, GetAccountRequest, GetProvisioningRequest, ListAuditEventsRequest,
        ProvisionTenantRequest, ProvisionTenantResponse, Provisioning, SetAccountRolesRequest,
        SetAccountRolesResponse, TenantRole, VerifyCredentialsRequest, VerifyCredentialsResponse,
        account_service_client::AccountServiceClient,
        provisioner_admin_service_client::ProvisionerAdminServiceClient,
        provisioner_service_client::ProvisionerServiceClient,
    },
};
use pulse_provisioner::{
    Config,
    clients::{
        Organizations as _,
        grpc::{BillingClient, LifecycleClient},
    },
    domain::{Account as OwnerAccount, PasswordHash},
    saga::{Claim, Direction, Failure, Lease, Progress, Saga, State, Step, Subject},
    store::{Advance, Effect, SqliteStore, Store},
};
use pulse_rpc::{Channel, from_status};
use pulse_runtime::{Shutdown, settings::try_parse_from};
use pulse_tenant_guard::OrganizationStatus;
use pulse_testkit::{ManualClock, eventually};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

/// A password that the policy accepts.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

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

/// A running provisioner on a real database, in front of a [`Plane`]. It stops with the runtime.
pub(crate) struct Provisioner {
    pub(crate) shutdown: Shutdown,
    pub(crate) store: Arc<dyn Store>,
    served: JoinHandle<anyhow::Result<()>>,
    addr: SocketAddr,
}

impl Provisioner {
    /// In hosted mode.
    pub(crate) async fn hosted(plane: &Plane) -> Self {
        Self::start(plane, &["--hosted-mode", "true"]).await
    }

    pub(crate) async fn start(plane: &Plane, flags: &[&str]) -> Self {
        let store = Self::open(plane.directory.path()).await;
        Self::start_on(store, plane.directory.path(), plane.lifecycle_addr, plane.billing_addr, flags).await
    }

    pub(crate) async fn open(directory: &Path) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&directory.join("provisioner.db"), Arc::new(OsEntropy)).await.unwrap())
    }

    pub(crate) async fn start_on(
        store: Arc<dyn Store>,
        directory: &Path,
        lifecycle: SocketAddr,
        billing: SocketAddr,
        flags: &[&str],
    ) -> Self {
        Self::start_at(Arc::new(SystemClock), store, directory, lifecycle, billing, flags).await
    }

    /// As [`Self::start_on`], by that clock.
    pub(crate) async fn start_at(
        clock: Arc<dyn Clock>,
        store: Arc<dyn Store>,
        directory: &Path,
        lifecycle: SocketAddr,
        billing: SocketAddr,
        flags: &[&str],
    ) -> Self {
        let tokens = directory.join("tokens.toml");
        let [lifecycle, billing] = [lifecycle, billing].map(|addr| format!("http://{addr}"));
        let own = [
            ["pulse-provisioner", "--purge-interval=20ms"],
            ["--lifecycle-url", &lifecycle],
            ["--billing-state-url", &billing],
            ["--admin-tokens-file", tokens.to_str().unwrap()],
        ];
        let own = own.as_flattened().iter();
        let config: Config = try_parse_from(own.chain(flags)).unwrap();
        let (listener, addr) = pulse_testkit::listener().await;
        let shutdown = Shutdown::new();
        let serve =
            pulse_provisioner::serve_at(config, Arc::clone(&store), clock, listener, shutdown.clone());
        Self { shutdown, store, served: tokio::spawn(serve), addr }
    }

    /// Cuts it off in the middle of whatever it does.
    pub(crate) async fn kill(self) {
        self.shutdown.abort();
        self.served.await.unwrap().unwrap();
    }

    fn channel(&self) -> Channel {
        pulse_rpc::channel(&format!("http://{}", self.addr)).unwrap()
    }

    pub(crate) fn provisioner(&self) -> ProvisionerServiceClient<Channel> {
        ProvisionerServiceClient::new(self.channel())
    }

    pub(crate) fn accounts(&self) -> AccountServiceClient<Channel> {
        AccountServiceClient::new(self.channel())
    }

    pub(crate) fn admin(&self) -> ProvisionerAdminServiceClient<Channel> {
        ProvisionerAdminServiceClient::new(self.channel())
    }

    pub(crate) async fn provision(&self, email: &str, password: &str) -> Answer<ProvisionTenantResponse> {
        answer(self.provisioner().provision_tenant(wanted(email, password)).await)
    }

    pub(crate) async fn sign_in(&self, email: &str, password: &str) -> Answer<VerifyCredentialsResponse> {
        let request = VerifyCredentialsRequest {
            email: email.into(),
            password: password.into(),
            client_ip: String::new(),
        };
        answer(self.accounts().verify_credentials(request).await)
    }

    pub(crate) async fn account(&self, org_id: &str, user_id: &str) -> Answer<Account> {
        let request = GetAccountRequest { org_id: org_id.into(), user_id: user_id.into() };
        answer(self.accounts().get_account(request).await).map(|found| found.account.unwrap())
    }

    /// Whether the account may do what needs the role and the capability; why not, when it may not.
    pub(crate) async fn may(
        &self,
        org_id: &str,
        user_id: &str,
        role: TenantRole,
        capability: &str,
    ) -> Answer<String> {
        let request = CheckAccessRequest {
            org_id: org_id.into(),
            user_id: user_id.into(),
            required_role: role.into(),
            capability: capability.into(),
        };
        let checked = answer(self.accounts().check_access(request).await)?;
        assert_eq!(checked.allowed, checked.reason.is_empty());
        Ok(checked.reason)
    }

    pub(crate) async fn set_roles(
        &self,
        operator: &str,
        org_id: &str,
        user_id: &str,
        roles: &[TenantRole],
    ) -> Answer<SetAccountRolesResponse> {
        let request = SetAccountRolesRequest {
            org_id: org_id.into(),
            user_id: user_id.into(),
            roles: roles.iter().map(|role| (*role).into()).collect(),
            reason: "asked for".into(),
        };
        answer(self.admin().set_account_roles(signed(operator, request)).await)
    }

    pub(crate) async fn provisioning(&self, org_id: &str) -> Answer<Provisioning> {
        let request = GetProvisioningRequest { org_id: org_id.into(), ..Default::default() };
        let found = answer(self.admin().get_provisioning(signed("viewer", request)).await)?;
        Ok(found.provisioning.unwrap())
    }

    pub(crate) async fn audit(&self, org_id: &str) -> Vec<AuditEvent> {
        let request = ListAuditEventsRequest { org_id: org_id.into(), ..Default::default() };
        answer(self.admin().list_audit_events(signed("viewer", request)).await).unwrap().audit_events
    }
}

/// A saga that is stuck while its trial is being undone, and waits for an operator.
pub(crate) async fn stuck(store: &dyn Store, address: &str) -> String {
    let ids = Ids::new(Arc::new(SystemClock), Arc::new(OsEntropy));
    let now = SystemClock.now();
    let claim = Claim {
        email: EmailAddress::parse(address).unwrap(),
        password_hash: PasswordHash::from_phc("$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g"),
        org_name: OrgName::parse("Acme, Inc.").unwrap(),
    };
    let (org_id, owner) = (ids.org_id(), ids.user_id());
    let account = OwnerAccount {
        user_id: owner,
        home_org_id: org_id.clone(),
        email: claim.email.clone(),
        password_hash: claim.password_hash.clone(),
        created_at: now,
    };
    let subject = Subject::Provision { owner, claim: Some(claim), trial_ends_at: None };
    let lease = Lease { owner: "gone".into(), until: now };
    let saga = Saga::begin(org_id.clone(), subject, lease, now);
    store.begin(saga.clone()).await.unwrap();
    let progress = Progress {
        state: State::Stuck { step: Step::StartTrial, direction: Direction::Backward },
        attempts: 1,
        next_attempt_at: None,
        cause: Some(Failure::new(Reason::InvalidRequest, "refused")),
        last_failure: Some(Failure::new(Reason::StoredStateUnreadable, "unreadable")),
    };
    let saga = Saga { progress, lease: None, ..saga };
    let advance = Advance { saga, effect: Effect::InsertAccount(account), audit: None };
    store.advance(advance).await.unwrap();
    org_id.to_string()
}

/// A wish for a tenant.
pub(crate) fn wanted(email: &str, password: &str) -> ProvisionTenantRequest {
    ProvisionTenantRequest {
        owner_email: email.into(),
        password: password.into(),
        org_name: "Acme, Inc.".into(),
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
