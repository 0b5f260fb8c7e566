//! The decision about a tenant that is known, and the layer that asks for it in front of a service.

use std::{
    convert::Infallible,
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use anyhow::{Result, ensure};
use http::{Request, Response};
use pulse_tenant_client::gateway::{Gatekeeper, Question};
use pulse_tenant_guard::{
    Guard, OnOutage, Requirement,
    layer::{GuardLayer, ORG_ID_HEADER},
};
use tonic::body::Body;
use tower::{Layer as _, Service, service_fn};

use super::hits::Caches;
use crate::{
    measure::{Effort, Side, cost, count, median, nanos, thread_time, turns},
    report::{Figure, Goal},
};

pub(super) const ABOUT: &str =
    "the decision about a tenant that both caches know, and the layer that asks for it";

/// How many tenants there are.
const TENANTS: usize = 1000;

/// What is asked of a tenant: that it is active, has a capability and may have so many of something.
const ASKED: Requirement<'static> = Requirement::limit("monitored_hosts", 1).and_capability("alerting");

const PATH: &str = "/acme.hosts.v1.HostService/AddHost";

pub(super) fn run(effort: Effort) -> Result<Vec<Figure>> {
    let caches = Caches::with(TENANTS)?;
    let guard = Guard::new(Arc::new(caches.statuses.clone()), Arc::new(caches.entitlements.clone()));
    let statuses = Arc::new(caches.statuses.clone());
    let gatekeeper = Gatekeeper::new(statuses, Arc::new(caches.entitlements.clone()));
    let questions = questions(&caches)?;
    let layer = GuardLayer::grpc(guard.clone()).require(PATH, ASKED);
    let (mut by_id, mut by_text, mut by_gateway) = (Vec::new(), Vec::new(), Vec::new());
    let (mut with, mut without, mut layered) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.runs {
        caches.confirm();
        let mut ids = caches.ids.iter().cycle();
        by_id.push(decisions(effort, || {
            ids.next()
                .and_then(|org| guard.check_cached(black_box(org), &ASKED))
                .is_some_and(|it| it.decision.is_allowed())
        })?);
        let mut ids = caches.ids.iter().cycle();
        by_text.push(decisions(effort, || {
            let text = ids.next().map(|org| black_box(org.as_str()));
            text.and_then(|org| guard.find_cached(org, &ASKED)).is_some_and(|it| it.decision.is_allowed())
        })?);
        let mut questions = questions.iter().cycle();
        by_gateway.push(decisions(effort, || {
            let mut context = Context::from_waker(Waker::noop());
            let mut ask = |question| match pin!(gatekeeper.ask(question)).poll(&mut context) {
                Poll::Ready(answer) => answer.is_ok(),
                Poll::Pending => false,
            };
            questions.next().is_some_and(|question| ask(black_box(question)))
        })?);
        let (guarded, bare) = calls(effort, &caches, &layer)?;
        let (light, light_bare) = calls(effort, &caches, &layer.clone().without_verdict())?;
        layered.push(guarded - bare);
        with.push(guarded);
        without.push(light - light_bare);
    }
    Ok(vec![
        Figure::new("the layer: a call through it, less the same without it", "ns", layered)
            .with_goal(Goal::AtMost(300.0)),
        Figure::new("the layer without a verdict for the handler", "ns", without)
            .with_goal(Goal::AtMost(300.0)),
        Figure::new("a call through it, with a service that does nothing", "ns", with),
        Figure::new("the decision: Guard::check_cached", "ns", by_id).with_goal(Goal::AtMost(300.0)),
        Figure::new("the decision by the text of an id: Guard::find_cached", "ns", by_text)
            .with_goal(Goal::AtMost(300.0)),
        Figure::new(
            "the same for a gateway, with the headers that it passes on: Gatekeeper::ask",
            "ns",
            by_gateway,
        )
        .with_goal(Goal::AtMost(300.0)),
    ])
}

/// What gateways ask about the same tenants.
fn questions(caches: &Caches) -> Result<Vec<Question>> {
    let question = |org: &pulse_kernel::OrgId| {
        Question::parse(Some(org.as_str()), Some("alerting"), Some("monitored_hosts:1"), OnOutage::Allow)
            .map_err(|refusal| anyhow::anyhow!("a question is refused: {refusal:?}"))
    };
    caches.ids.iter().map(question).collect()
}

/// Nanoseconds of a decision that lets in.
fn decisions(effort: Effort, mut is_allowed: impl FnMut() -> bool) -> Result<f64> {
    let mut allowed = 0;
    let mut call = || allowed += usize::from(is_allowed());
    let rounds: Vec<f64> = (0..effort.rounds).map(|_| cost(effort.calls, &mut call)).collect();
    ensure!(allowed == effort.calls * effort.rounds, "a tenant was not let in");
    Ok(median(&rounds))
}

/// Nanoseconds of a call through the layer, and of one without it.
fn calls(
    effort: Effort,
    caches: &Caches,
    layer: &GuardLayer<pulse_tenant_guard::layer::Grpc>,
) -> Result<(f64, f64)> {
    let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Body::empty())));
    let (mut guarded, mut bare) = (layer.layer(inner), inner);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for side in turns(effort.rounds) {
        match side {
            Side::Ours => with.push(call_all(&mut guarded, requests(effort, caches)?)?),
            Side::Bare => without.push(call_all(&mut bare, requests(effort, caches)?)?),
        }
    }
    Ok((median(&with), median(&without)))
}

/// Requests as a server hands them on: there are extensions before any layer comes.
fn requests(effort: Effort, caches: &Caches) -> Result<Vec<Request<()>>> {
    let request = |org: &pulse_kernel::OrgId| {
        let mut request = Request::post(PATH).header(ORG_ID_HEADER, org.as_str()).body(())?;
        request
            .extensions_mut()
            .insert(tonic::transport::server::TcpConnectInfo { local_addr: None, remote_addr: None });
        Ok(request)
    };
    caches.ids.iter().cycle().take(effort.calls / 10).map(request).collect()
}

/// Nanoseconds of a call, of those that answer at once.
fn call_all<S>(service: &mut S, requests: Vec<Request<()>>) -> Result<f64>
where
    S: Service<Request<()>, Response = Response<Body>, Error = Infallible>,
{
    let calls = requests.len();
    let mut context = Context::from_waker(Waker::noop());
    let begun = thread_time();
    for request in requests {
        let Poll::Ready(Ok(answer)) = pin!(service.call(request)).poll(&mut context) else {
            anyhow::bail!("a call has to wait")
        };
        ensure!(answer.headers().is_empty(), "a call was refused");
    }
    Ok(nanos(thread_time().saturating_sub(begun)) / count(calls))
}
