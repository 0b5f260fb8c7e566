//! `envoy.service.auth.v3.Authorization`, over a real connection: whose requests go on, and what is known of them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::SignedDuration;
use pulse_envoy_api::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, attribute_context as context, authorization_client::AuthorizationClient,
    check_response::HttpResponse,
};
use pulse_proto::{
    billing::v1::{
        BillingState, BillingStateChange, EntitlementSource, GetEntitlementsRequest, GetEntitlementsResponse,
        SubscriptionState, WatchBillingStatesRequest, WatchBillingStatesResponse,
        billing_state_change::Now,
        entitlement_service_server::{EntitlementService, EntitlementServiceServer},
        watch_billing_states_response::Event,
    },
    watch::v1::Synced,
};
use pulse_runtime::telemetry::metrics_text;
use pulse_testkit::eventually;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, transport::Server};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use self::support::{Lifecycle, WAIT};

/// A billing-state by which every tenant pays for alerting and five users.
#[derive(Debug, Clone, Default)]
struct Billing {
    is_away: Arc<AtomicBool>,
    /// Who is to be told of changes.
    watcher: Arc<Mutex<Option<mpsc::Sender<Told>>>>,
}

type Told = Result<WatchBillingStatesResponse, Status>;

impl Billing {
    async fn serve(&self) -> SocketAddr {
        let (listener, addr) = pulse_testkit::listener().await;
        let service = EntitlementServiceServer::new(self.clone());
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        addr
    }

    /// Tells whoever watches, once somebody does.
    async fn tell(&self, event: Event) {
        let watcher = eventually(WAIT, async || self.watcher.lock().unwrap().clone()).await;
        watcher.send(Ok(told(event))).await.unwrap();
    }
}

fn told(event: Event) -> WatchBillingStatesResponse {
    WatchBillingStatesResponse { event: Some(event), resume_token: "after".into() }
}

#[tonic::async_trait]
impl EntitlementService for Billing {
    async fn get_entitlements(
        &self,
        request: Request<GetEntitlementsRequest>,
    ) -> Result<Response<GetEntitlementsResponse>, Status> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(Status::unavailable("away"));
        }
        Ok(Response::new(GetEntitlementsResponse {
            org_id: request.into_inner().org_id,
            subscription_state: SubscriptionState::Active.into(),
            plan_version: "pro".into(),
            capabilities: vec!["alerting".into()],
            limits: HashMap::from([("users".into(), 5)]).into_iter().collect(),
            source: EntitlementSource::Fresh.into(),
            revision: 1,
            ..GetEntitlementsResponse::default()
        }))
    }

    type WatchBillingStatesStream = ReceiverStream<Told>;

    async fn watch_billing_states(
        &self,
        _: Request<WatchBillingStatesRequest>,
    ) -> Result<Response<Self::WatchBillingStatesStream>, Status> {
        let (watcher, stream) = mpsc::channel(8);
        watcher.send(Ok(told(Event::Synced(Synced {})))).await.unwrap();
        self.watcher.lock().unwrap().replace(watcher);
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A lifecycle that asks that billing-state.
async fn start(billing: &Billing, flags: &[&str]) -> Lifecycle {
    let url = format!("http://{}", billing.serve().await);
    Lifecycle::start(&[&["--billing-state-url", &url], flags].concat()).await
}

async fn hosted(billing: &Billing) -> Lifecycle {
    start(billing, &["--hosted-mode", "true"]).await
}

/// The trusted headers of a request that goes on, or the status and the code of the problem.
type Decided = Result<HashMap<String, String>, (u16, String)>;

async fn ask(lifecycle: &Lifecycle, org_id: &str, route: &[(&str, &str)]) -> Decided {
    let headers = HashMap::from([("x-pulse-org-id".to_owned(), org_id.to_owned())]);
    let http = context::HttpRequest { headers, ..context::HttpRequest::default() };
    let extensions = route.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let attributes = AttributeContext {
        request: Some(context::Request { http: Some(http), time: None }),
        context_extensions: extensions.collect(),
        ..AttributeContext::default()
    };
    let request = CheckRequest { attributes: Some(attributes) };
    let answer = AuthorizationClient::new(lifecycle.channel()).check(request).await.unwrap().into_inner();
    match answer.http_response.unwrap() {
        HttpResponse::OkResponse(allowed) => {
            assert_eq!(answer.status.unwrap().code, 0);
            let headers = allowed.headers.into_iter().filter_map(|option| option.header);
            Ok(headers.map(|header| (header.key, header.value)).collect())
        }
        HttpResponse::DeniedResponse(denied) => {
            assert_ne!(answer.status.unwrap().code, 0);
            let problem: Value = serde_json::from_str(&denied.body).unwrap();
            let status = u16::try_from(denied.status.unwrap().code).unwrap();
            Err((status, problem["code"].as_str().unwrap().to_owned()))
        }
        HttpResponse::ErrorResponse(error) => panic!("a decision is never an error: {error:?}"),
    }
}

fn refused(decided: &Decided, status: u16, code: &str) {
    assert_eq!(decided, &Err((status, code.to_owned())));
}

#[tokio::test]
async fn a_request_that_goes_on_comes_with_what_is_known_of_its_tenant() {
    // Gateways ask outside hosted mode too.
    let lifecycle = start(&Billing::default(), &[]).await;
    lifecycle.active("acme").await;
    for route in [&[][..], &[("capability", "alerting"), ("limit", "users:5"), ("on_outage", "deny")]] {
        let headers = ask(&lifecycle, "acme", route).await.unwrap();
        assert_eq!(headers.len(), 8, "{headers:?}");
        for (name, value) in [
            ("x-pulse-org-id", "acme"),
            ("x-pulse-org-status", "active"),
            ("x-pulse-org-status-age", "0"),
            ("x-pulse-subscription-state", "active"),
            ("x-pulse-plan", "pro"),
        ] {
            assert_eq!(headers[name], value, "{headers:?}");
        }
    }
    refused(&ask(&lifecycle, "acme", &[("capability", "flying")]).await, 403, "capability_required");
    refused(&ask(&lifecycle, "acme", &[("limit", "users:6")]).await, 403, "limit_exceeded");
    refused(&ask(&lifecycle, "nobody", &[]).await, 403, "org_not_found");
    refused(&ask(&lifecycle, "No One", &[]).await, 403, "invalid_org_id");
    refused(&ask(&lifecycle, "acme", &[("capabilty", "alerting")]).await, 400, "invalid_request");

    // The layers around every service are around this one too.
    let text = metrics_text().unwrap();
    let is_counted = |line: &str| {
        line.starts_with("rpc_server_duration_seconds_count")
            && [r#"rpc_service="envoy.service.auth.v3.Authorization""#, r#"rpc_method="Check""#]
                .iter()
                .all(|label| line.contains(label))
    };
    assert!(text.lines().any(is_counted), "{text}");
}

#[tokio::test]
async fn who_is_suspended_is_refused_from_the_moment_that_the_operator_is_answered() {
    let lifecycle = hosted(&Billing::default()).await;
    lifecycle.active("acme").await;
    for _ in 0..20 {
        assert!(ask(&lifecycle, "acme", &[]).await.is_ok());
        lifecycle.suspend("support", "acme", "chargeback").await.unwrap();
        refused(&ask(&lifecycle, "acme", &[]).await, 403, "org_suspended");
        lifecycle.unsuspend("support", "acme").await.unwrap();
    }
    lifecycle.delete("admin", "acme", None).await.unwrap();
    refused(&ask(&lifecycle, "acme", &[]).await, 403, "org_pending_deletion");
    lifecycle.restore("admin", "acme").await.unwrap();
    assert!(ask(&lifecycle, "acme", &[]).await.is_ok());
}

#[tokio::test]
async fn what_billing_state_tells_of_counts_without_asking() {
    let billing = Billing::default();
    let lifecycle = hosted(&billing).await;
    lifecycle.active("acme").await;
    let alerting = [("capability", "alerting")];
    assert!(ask(&lifecycle, "acme", &alerting).await.is_ok());
    // Nobody who asks would learn of it.
    billing.is_away.store(true, Ordering::SeqCst);
    let expired = BillingState {
        org_id: "acme".into(),
        subscription_state: SubscriptionState::Expired.into(),
        plan_version: "pro".into(),
        ..BillingState::default()
    };
    let change =
        BillingStateChange { org_id: "acme".into(), revision: 2, now: Some(Now::BillingState(expired)) };
    billing.tell(Event::Changed(change)).await;
    let inactive = Err((403, "subscription_inactive".to_owned()));
    eventually(WAIT, async || ask(&lifecycle, "acme", &alerting).await == inactive).await;
    let headers = ask(&lifecycle, "acme", &[]).await.unwrap();
    assert_eq!(headers["x-pulse-subscription-state"], "expired", "who has to pay gets in");
}

#[tokio::test]
async fn while_billing_state_is_away_what_is_known_goes_on_unless_that_is_not_wanted() {
    let billing = Billing::default();
    let lifecycle = hosted(&billing).await;
    lifecycle.active("acme").await;
    lifecycle.active("closed").await;
    lifecycle.suspend("support", "closed", "").await.unwrap();
    let alerting = [("capability", "alerting")];
    assert!(ask(&lifecycle, "acme", &alerting).await.is_ok());

    billing.is_away.store(true, Ordering::SeqCst);
    lifecycle.clock.advance(SignedDuration::from_secs(10));
    let headers = ask(&lifecycle, "acme", &alerting).await.unwrap();
    assert_eq!(
        (&*headers["x-pulse-entitlement-source"], &*headers["x-pulse-entitlement-age"]),
        ("stale", "10")
    );
    assert!(["fresh", "cached"].contains(&&*headers["x-pulse-org-status-source"]), "its own store is there");
    let certain = [("capability", "alerting"), ("on_outage", "deny")];
    refused(&ask(&lifecycle, "acme", &certain).await, 503, "unavailable");
    refused(&ask(&lifecycle, "closed", &certain).await, 403, "org_suspended");

    // Beyond the bound a trial's entitlements count, and no more is refused for good than a trial has not.
    lifecycle.clock.advance(SignedDuration::from_hours(2));
    let headers = ask(&lifecycle, "acme", &alerting).await.unwrap();
    assert_eq!(headers["x-pulse-entitlement-source"], "default");
    refused(&ask(&lifecycle, "acme", &[("limit", "users:6")]).await, 503, "unavailable");

    // That is nothing that lifecycle would be less ready for.
    let request = HealthCheckRequest { service: "envoy.service.auth.v3.Authorization".into() };
    eventually(WAIT, async || {
        let answer = HealthClient::new(lifecycle.channel()).check(request.clone()).await.unwrap();
        answer.into_inner().status() == ServingStatus::Serving
    })
    .await;

    billing.is_away.store(false, Ordering::SeqCst);
    lifecycle.clock.advance(SignedDuration::from_secs(10));
    assert_eq!(ask(&lifecycle, "acme", &certain).await.unwrap()["x-pulse-entitlement-source"], "fresh");
}
