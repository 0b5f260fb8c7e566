//! An application's service with the guard in front of it: the example that teams copy, as it is, in front of the real system.

use acme_hosts::proto::{
    AddHostRequest, EnableAlertsRequest, ExportHostsRequest, ListHostsRequest,
    host_service_client::HostServiceClient,
};
use futures::future::join_all;
use pulse_kernel::Reason;
use pulse_testkit::{
    eventually,
    ports::Port,
    system::{Answer, Plan, Rejection, Service, System, grpc, program::Program},
};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tonic::Request;

use crate::{PASSWORD, SOON};

in_every_shape!(
    both_surfaces_refuse_a_suspended_tenant_and_let_it_back_in,
    both_surfaces_let_in_by_capability_and_limit_as_billing_changes,
);

/// What can be asked of the service, alike over REST and gRPC.
#[derive(Debug, Clone, Copy)]
enum What<'a> {
    /// Which an active tenant may.
    List,
    /// Which its limit must allow.
    Add(&'a str),
    /// Which needs a capability.
    Alert(&'a str),
    /// Which needs another one, and certainty.
    Export,
}

const EVERYTHING: [What<'_>; 4] = [What::List, What::Add("web-1"), What::Alert("web-1"), What::Export];

/// The service, running.
struct Hosts {
    program: Program,
    rest: Port,
    grpc: Port,
    metrics: Port,
}

impl Hosts {
    async fn start(system: &System) -> Self {
        let [rest, grpc, metrics] = [(); 3].map(|()| Port::reserve());
        let mut program = Program::new("acme-hosts", &[], system.folder());
        program.set("ACME_HOSTS_REST_ADDR", &rest.addr().to_string());
        program.set("ACME_HOSTS_GRPC_ADDR", &grpc.addr().to_string());
        program.set("PULSE_METRICS_ADDR", &metrics.addr().to_string());
        program.set("PULSE_LIFECYCLE_URL", &format!("http://{}", system.addr(Service::Lifecycle)));
        program.set("PULSE_BILLING_STATE_URL", &format!("http://{}", system.addr(Service::BillingState)));
        program.set("PULSE_ADMIN_TOKENS_FILE", &system.operators().file().to_string_lossy());
        program.start();
        let hosts = Self { program, rest, grpc, metrics };
        eventually(SOON, async || {
            assert!(hosts.program.is_running(), "{}", hosts.program.log());
            grpc::health(hosts.grpc.addr(), "acme.hosts.v1.HostService").await?;
            let live = system.visitor().at(hosts.rest.addr()).get("/livez").await;
            live.map(|answer| answer.expect(200)).map_err(|error| error.to_string())
        })
        .await;
        hosts.until_told(system).await;
        hosts
    }

    /// Waits until it is told of changes, and so need not ask again about a tenant that it knows.
    async fn until_told(&self, system: &System) {
        eventually(SOON, async || {
            let metrics = system.visitor().at(self.metrics.addr()).get("/metrics").await.unwrap().expect(200);
            let text = String::from_utf8(metrics.body).unwrap();
            let feeds = text.lines().filter(|line| line.starts_with("pulse_tenant_feed_connected{"));
            let feeds: Vec<&str> = feeds.collect();
            if feeds.len() == 2 && feeds.iter().all(|line| line.ends_with(" 1")) { Ok(()) } else { Err(text) }
        })
        .await;
    }

    /// What REST answers, for a tenant and with an operator's token or none.
    async fn rest(&self, system: &System, org_id: &str, what: What<'_>, token: Option<&str>) -> Answer {
        let (method, path, body) = match what {
            What::List => (Method::GET, "/v1/hosts".to_owned(), None),
            What::Add(name) => (Method::POST, "/v1/hosts".to_owned(), Some(json!({ "name": name }))),
            What::Alert(name) => (Method::PUT, format!("/v1/hosts/{name}/alerts"), None),
            What::Export => (Method::GET, "/v1/export".to_owned(), None),
        };
        let request = system.visitor().at(self.rest.addr()).request(method, &path);
        let request = request.header("x-pulse-org-id", org_id);
        let request = body.iter().fold(request, RequestBuilder::json);
        let request = token.into_iter().fold(request, RequestBuilder::bearer_auth);
        Answer::to(request).await.unwrap()
    }

    /// What gRPC answers, alike.
    async fn grpc(&self, org_id: &str, what: What<'_>, token: Option<&str>) -> Result<(), Rejection> {
        let mut client = HostServiceClient::new(grpc::channel(self.grpc.addr()));
        let answer = match what {
            What::List => client.list_hosts(of(org_id, token, ListHostsRequest {})).await.map(|_| ()),
            What::Add(name) => {
                client.add_host(of(org_id, token, AddHostRequest { name: name.to_owned() })).await.map(|_| ())
            }
            What::Alert(name) => {
                let request = EnableAlertsRequest { name: name.to_owned() };
                client.enable_alerts(of(org_id, token, request)).await.map(|_| ())
            }
            What::Export => client.export_hosts(of(org_id, token, ExportHostsRequest {})).await.map(|_| ()),
        };
        answer.map_err(Rejection::from)
    }

    /// Whether both surfaces let the tenant in.
    async fn lets_in(&self, system: &System, org_id: &str, what: What<'_>) -> Result<(), String> {
        let rest = self.rest(system, org_id, what, None).await;
        let grpc = self.grpc(org_id, what, None).await;
        if rest.status == 200 && grpc.is_ok() { Ok(()) } else { Err(format!("{what:?}: {rest}, {grpc:?}")) }
    }

    /// Whether both surfaces refuse the tenant for that reason, as they should.
    async fn refuses(
        &self,
        system: &System,
        org_id: &str,
        what: What<'_>,
        reason: Reason,
    ) -> Result<(), String> {
        let rest = self.rest(system, org_id, what, None).await;
        let grpc = self.grpc(org_id, what, None).await;
        let told = grpc.as_ref().err().map(|rejection| rejection.reason.as_str());
        if rest.status != reason.http_status() || told != Some(reason.as_str()) {
            return Err(format!("{what:?}: {rest}, {grpc:?}"));
        }
        let is_temporary = reason == Reason::Unavailable;
        let rest = rest.expect_problem(reason.http_status(), &reason.code());
        assert_eq!(rest.header("retry-after").is_some(), is_temporary, "{rest}");
        let rejection = grpc.unwrap_err();
        assert_eq!(rejection.code, pulse_rpc::status::code(reason.kind()));
        assert_eq!((&*rejection.domain, rejection.retry_after.is_some()), ("hosted.pulse", is_temporary));
        Ok(())
    }

    /// Asks until both surfaces let the tenant in. It may have been told nothing yet.
    async fn until_let_in(&self, system: &System, org_id: &str, what: What<'_>) {
        eventually(SOON, async || self.lets_in(system, org_id, what).await).await;
    }

    /// Asks until both surfaces refuse the tenant for that reason.
    async fn until_refused(&self, system: &System, org_id: &str, what: What<'_>, reason: Reason) {
        eventually(SOON, async || self.refuses(system, org_id, what, reason).await).await;
    }
}

/// A request of a tenant, with an operator's token or none.
fn of<T>(org_id: &str, token: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-pulse-org-id", org_id.parse().unwrap());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

async fn both_surfaces_refuse_a_suspended_tenant_and_let_it_back_in(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let other = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let hosts = Hosts::start(&system).await;
    for tenant in [org_id, other] {
        for what in EVERYTHING {
            hosts.lets_in(&system, tenant, what).await.unwrap();
        }
    }

    let _ = system.admin().suspend(org_id, "chargeback").await.expect(200);
    hosts.until_refused(&system, org_id, What::List, Reason::OrgSuspended).await;
    for what in EVERYTHING {
        hosts.until_refused(&system, org_id, what, Reason::OrgSuspended).await;
        hosts.lets_in(&system, other, what).await.unwrap();
    }
    // A client that is not ours understands it as well.
    let (addr, tenant) = (hosts.grpc.addr().to_string(), format!("x-pulse-org-id: {org_id}"));
    let list = "acme.hosts.v1.HostService/ListHosts";
    let printed = system.grpcurl(&["-plaintext", "-H", &tenant, &addr, list]).await;
    assert!(!printed.success && printed.stderr.contains("Code: PermissionDenied"), "{printed:?}");
    assert!(printed.stderr.contains("Message: the organization is suspended"), "{printed:?}");

    // Whoever helps customers sees what they would see, and not everybody who has a token.
    let support = Some(system.operators().token("support"));
    let seen = hosts.rest(&system, org_id, What::List, support).await.expect(200).json();
    assert_eq!(seen, json!([{ "name": "web-1", "alerts": true }]));
    hosts.grpc(org_id, What::List, support).await.unwrap();
    let viewer = Some(system.operators().token("viewer"));
    let _ = hosts.rest(&system, org_id, What::List, viewer).await.expect_problem(403, "org_suspended");
    assert_eq!(hosts.grpc(org_id, What::List, viewer).await.unwrap_err().reason, "ORG_SUSPENDED");

    let _ = system.admin().unsuspend(org_id).await.expect(200);
    for what in EVERYTHING {
        hosts.until_let_in(&system, org_id, what).await;
    }
    let nobody = "0198c5b1-0000-7000-8000-000000000000";
    hosts.refuses(&system, nobody, What::List, Reason::OrgNotFound).await.unwrap();
    hosts.refuses(&system, "-acme", What::List, Reason::InvalidOrgId).await.unwrap();
}

async fn both_surfaces_let_in_by_capability_and_limit_as_billing_changes(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let hosts = Hosts::start(&system).await;
    // However many are added at once, there are as many as the plan allows.
    let names: Vec<String> = (1..=15).map(|number| format!("web-{number}")).collect();
    let added = join_all(names.iter().map(|name| hosts.grpc(org_id, What::Add(name), None))).await;
    assert_eq!(added.iter().filter(|added| added.is_ok()).count(), 10, "{added:?}");
    let (one_too_many, one_that_is) = {
        let name = |is: bool| &names[added.iter().position(|added| added.is_ok() == is).unwrap()];
        (What::Add(name(false)), name(true))
    };
    hosts.refuses(&system, org_id, one_too_many, Reason::LimitExceeded).await.unwrap();
    hosts.lets_in(&system, org_id, What::Add(one_that_is)).await.unwrap();
    hosts.lets_in(&system, org_id, What::Alert(one_that_is)).await.unwrap();

    let bare = json!({
        "subscription_state": "active", "plan_version": "bare", "capabilities": [], "limits": { "monitored_hosts": 11 },
    });
    let _ = system.admin().set_billing_state(org_id, bare, None).await.expect(200);
    hosts.until_let_in(&system, org_id, one_too_many).await;
    hosts.until_refused(&system, org_id, What::Alert(one_that_is), Reason::CapabilityRequired).await;

    let expired = json!({ "subscription_state": "expired" });
    let _ = system.admin().set_billing_state(org_id, expired, None).await.expect(200);
    for what in [What::Add(one_that_is), What::Alert(one_that_is), What::Export] {
        hosts.until_refused(&system, org_id, what, Reason::SubscriptionInactive).await;
    }
    // Whoever has to pay gets in.
    let listed = hosts.rest(&system, org_id, What::List, None).await.expect(200).json();
    assert_eq!(listed.as_array().unwrap().len(), 11, "{listed}");
    hosts.lets_in(&system, org_id, What::List).await.unwrap();
}

#[tokio::test]
async fn without_the_services_behind_what_is_lenient_goes_on_and_what_is_closed_stays_closed() {
    let mut system = System::five_processes().start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let suspended = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let expired = &system.new_tenant("cid@example.com", PASSWORD, "Cord").await;
    let mut hosts = Hosts::start(&system).await;
    for what in EVERYTHING {
        hosts.lets_in(&system, org_id, what).await.unwrap();
    }
    let _ = system.admin().suspend(suspended, "chargeback").await.expect(200);
    let state = json!({ "subscription_state": "expired" });
    let _ = system.admin().set_billing_state(expired, state, None).await.expect(200);
    hosts.until_refused(&system, suspended, What::Export, Reason::OrgSuspended).await;
    hosts.until_refused(&system, expired, What::Export, Reason::SubscriptionInactive).await;

    system.kill(Service::Lifecycle).await;
    system.kill(Service::BillingState).await;
    hosts.until_refused(&system, org_id, What::Export, Reason::Unavailable).await;
    for what in [What::List, What::Add("web-2"), What::Alert("web-1")] {
        hosts.lets_in(&system, org_id, what).await.unwrap();
    }
    for what in EVERYTHING {
        hosts.refuses(&system, suspended, what, Reason::OrgSuspended).await.unwrap();
    }
    for what in [What::Add("web-1"), What::Alert("web-1"), What::Export] {
        hosts.refuses(&system, expired, what, Reason::SubscriptionInactive).await.unwrap();
    }

    system.start_again().await;
    hosts.until_let_in(&system, org_id, What::Export).await;
    hosts.until_told(&system).await;
    let _ = system.admin().unsuspend(suspended).await.expect(200);
    hosts.until_let_in(&system, suspended, What::Export).await;
    assert_eq!(hosts.program.stop().await, Some(0), "it stops in order");
}
