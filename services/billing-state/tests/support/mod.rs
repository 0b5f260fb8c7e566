//! A running billing-state service: a real server on a real port, over real files or a real database, by a clock that the test
//! moves.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use pulse_billing_state::{
    Config, serve_at,
    store::{Store, file::FileStore, postgres::PostgresStore},
};
use pulse_kernel::{ApiError, OsEntropy};
use pulse_proto::{
    audit::v1::AuditEvent,
    billing::v1::{
        BillingState, BillingStateServiceGetBillingStateRequest, GetBillingStateRequest,
        GetEntitlementsRequest, GetEntitlementsResponse, ListAuditEventsRequest, PurgeBillingStateRequest,
        SetBillingStateRequest, StartTrialRequest, StartTrialResponse, SubscriptionState,
        billing_admin_service_client::BillingAdminServiceClient,
        billing_state_service_client::BillingStateServiceClient,
        entitlement_service_client::EntitlementServiceClient,
    },
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
pub(crate) struct Billing {
    pub(crate) clock: ManualClock,
    pub(crate) shutdown: Shutdown,
    pub(crate) served: JoinHandle<anyhow::Result<()>>,
    pub(crate) data: TempDir,
    addr: SocketAddr,
}

impl Billing {
    /// In hosted mode.
    pub(crate) async fn hosted() -> Self {
        Self::start(&["--hosted-mode", "true"]).await
    }

    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), ManualClock::default(), flags).await
    }

    pub(crate) async fn start_in(data: TempDir, clock: ManualClock, flags: &[&str]) -> Self {
        let config = configure(&data, flags);
        let store = FileStore::open(data.path(), Arc::new(clock.clone()), Arc::new(OsEntropy)).unwrap();
        Self::serve(data, clock, config, Arc::new(store)).await
    }

    /// One of several in hosted mode that share the database at `url`.
    pub(crate) async fn replica(url: &str, clock: ManualClock) -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = configure(&data, &["--hosted-mode", "true", "--database-url", url]);
        let (clocks, entropy) = (Arc::new(clock.clone()), Arc::new(OsEntropy));
        let store = PostgresStore::open(&config.common.database, clocks, entropy).await.unwrap();
        Self::serve(data, clock, config, Arc::new(store)).await
    }

    async fn serve(data: TempDir, clock: ManualClock, config: Config, store: Arc<dyn Store>) -> Self {
        let (listener, addr) = pulse_testkit::listener().await;
        let shutdown = Shutdown::new();
        let serve = serve_at(config, store, Arc::new(clock.clone()), listener, shutdown.clone());
        Self { clock, served: tokio::spawn(serve), shutdown, data, addr }
    }

    /// Stops it in good order.
    pub(crate) async fn stop(self) {
        self.shutdown.trigger();
        self.served.await.unwrap().unwrap();
        self.shutdown.wait().await.unwrap();
    }

    /// Stops it, and starts another one on what it leaves, in hosted mode.
    pub(crate) async fn restart(self) -> Self {
        self.shutdown.trigger();
        self.served.await.unwrap().unwrap();
        self.shutdown.wait().await.unwrap();
        Self::start_in(self.data, self.clock, &["--hosted-mode", "true"]).await
    }

    pub(crate) fn channel(&self) -> Channel {
        pulse_rpc::channel(&format!("http://{}", self.addr)).unwrap()
    }

    pub(crate) fn admin(&self) -> BillingAdminServiceClient<Channel> {
        BillingAdminServiceClient::new(self.channel())
    }

    pub(crate) fn internal(&self) -> BillingStateServiceClient<Channel> {
        BillingStateServiceClient::new(self.channel())
    }

    /// A file of the tenant.
    pub(crate) fn file(&self, org_id: &str, name: &str) -> PathBuf {
        self.data.path().join("orgs").join(org_id).join(name)
    }

    /// Replaces a text in the tenant's `billing.json`, as an editor does.
    pub(crate) fn edit(&self, org_id: &str, from: &str, to: &str) {
        let path = self.file(org_id, "billing.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    pub(crate) async fn start_trial(&self, org_id: &str, key: &str) -> Answer<StartTrialResponse> {
        let request = StartTrialRequest { org_id: org_id.into(), idempotency_key: key.into() };
        answer(self.internal().start_trial(request).await)
    }

    pub(crate) async fn stored(&self, org_id: &str) -> Answer<BillingState> {
        let request = BillingStateServiceGetBillingStateRequest { org_id: org_id.into() };
        answer(self.internal().get_billing_state(request).await).map(|found| found.billing_state.unwrap())
    }

    pub(crate) async fn purge(&self, org_id: &str, created_by_key: &str) -> Answer<bool> {
        let request =
            PurgeBillingStateRequest { org_id: org_id.into(), created_by_key: created_by_key.into() };
        answer(self.internal().purge_billing_state(request).await).map(|done| done.purged)
    }

    pub(crate) async fn entitlements(&self, org_id: &str) -> Answer<GetEntitlementsResponse> {
        let mut client = EntitlementServiceClient::new(self.channel());
        answer(client.get_entitlements(GetEntitlementsRequest { org_id: org_id.into() }).await)
    }

    pub(crate) async fn get(&self, operator: &str, org_id: &str) -> Answer<BillingState> {
        let request = signed(operator, GetBillingStateRequest { org_id: org_id.into() });
        answer(self.admin().get_billing_state(request).await).map(|found| found.billing_state.unwrap())
    }

    pub(crate) async fn set(&self, operator: &str, request: SetBillingStateRequest) -> Answer<BillingState> {
        let set = self.admin().set_billing_state(signed(operator, request)).await;
        answer(set).map(|set| set.billing_state.unwrap())
    }

    /// All audit events, newest first.
    pub(crate) async fn audit(&self, org_id: &str) -> Answer<Vec<AuditEvent>> {
        let request = ListAuditEventsRequest { org_id: org_id.into(), page_size: 1000, ..Default::default() };
        let listed = self.admin().list_audit_events(signed("viewer", request)).await;
        answer(listed).map(|page| page.audit_events)
    }
}

fn configure(data: &TempDir, flags: &[&str]) -> Config {
    let tokens = write_tokens(data);
    let own = ["pulse-billing-state", "--data-dir", data.path().to_str().unwrap()];
    let own = own.into_iter().chain(["--admin-tokens-file", tokens.to_str().unwrap()]);
    let config: Config = try_parse_from(own.chain(flags.iter().copied())).unwrap();
    config.check_strict().unwrap();
    config
}

/// What the caller of another service makes of its answer.
pub(crate) fn answer<T>(response: Result<Response<T>, Status>) -> Answer<T> {
    response.map(Response::into_inner).map_err(|status| from_status(&status))
}

/// The request with an operator's token; each is named after its only role.
pub(crate) fn signed<T>(operator: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !operator.is_empty() {
        let bearer = format!("Bearer {}", token(operator));
        request.metadata_mut().insert("authorization", bearer.parse().unwrap());
    }
    request
}

/// A request that sets nothing but the state.
pub(crate) fn to(org_id: &str, state: SubscriptionState) -> SetBillingStateRequest {
    let billing_state = BillingState { subscription_state: state.into(), ..Default::default() };
    SetBillingStateRequest { org_id: org_id.into(), billing_state: Some(billing_state), ..Default::default() }
}

fn token(operator: &str) -> String {
    format!("a-long-and-random-token-of-{operator}")
}

fn write_tokens(data: &TempDir) -> PathBuf {
    let entry = |operator: &str| {
        let hash = hex::encode(Sha256::digest(token(operator)));
        format!("[[token]]\nname = \"{operator}\"\nsha256 = \"{hash}\"\nroles = [\"{operator}\"]\n")
    };
    let path = data.path().join("tokens.toml");
    fs::write(&path, ["viewer", "support", "billing", "admin"].map(entry).concat()).unwrap();
    path
}
