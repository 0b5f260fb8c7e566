//! [`GuardLayer`]: the guard in front of every route of an axum or a tonic service.
//!
//! | module | holds |
//! |---|---|
//! | here | the layer, and what it makes of a request |
//! | `future` | the answer on its way |
//! | `rules` | whose request it is, who is let through, and which route requires what |
//! | `grpc` | how a gRPC service refuses and reads the verdict (with the feature `tonic`) |
//! | `rest` | how a REST service refuses and reads the verdict (with the feature `axum`) |
//!
//! A handler finds the [`Verdict`](crate::Verdict) that let its request in: it says which tenant it is for.
//!
//! What is remembered of a tenant is looked up by the header's text, so that a request that is let in costs one allocation,
//! the box of the verdict; none [without](GuardLayer::without_verdict). Where no layer before has put anything into
//! the request's extensions, their table is made too; and what is not remembered has to be asked for, which is boxed.
//!
//! A stream is looked at when it begins. What becomes of the tenant after that is for its handler to ask, with
//! [`Guard::check_cached`](crate::Guard::check_cached) for each message or every few seconds.

mod future;
#[cfg(feature = "tonic")]
mod grpc;
#[cfg(feature = "axum")]
mod rest;
mod rules;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    marker::PhantomData,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response};
use pulse_kernel::{ApiError, OrgId};
use tower::{Layer, Service};

use self::rules::{Judged, Rule, Rules, TenantFrom};
use crate::{Guard, Requirement};

pub use self::future::GuardFuture;
#[cfg(feature = "tonic")]
pub use self::grpc::Grpc;
#[cfg(feature = "axum")]
pub use self::rest::Rest;
pub use self::rules::{Head, ORG_ID_HEADER};

/// How a kind of service names its routes and refuses requests: [`Grpc`] or [`Rest`].
pub trait Door: sealed::Sealed + Send + Sync + 'static {
    /// The body of its answers.
    type Body;

    /// The route of a request, as rules name it; none where the request has not reached a router.
    fn route<'a>(head: &Head<'a>) -> Option<&'a str>;

    /// The answer to a request that is refused.
    fn refuse(error: ApiError) -> Response<Self::Body>;
}

mod sealed {
    pub trait Sealed {}
}

/// Puts a [`Guard`] in front of a service, or of each route of a router.
///
/// The tenant is the one that the header `x-pulse-org-id` names. Whoever serves strangers directly must not believe that
/// header: either something in front of the service sets it (and strips the client's), or
/// [`tenant_from`](Self::tenant_from) takes the tenant from what the service itself knows, such as a session.
///
/// A request is refused as every service here refuses: with a gRPC status that has a `google.rpc.ErrorInfo`, such as
/// `PERMISSION_DENIED` for `ORG_SUSPENDED`, or with problem+json, such as 403 with the code `org_suspended`.
///
/// ```
/// # use pulse_tenant_guard::{Guard, Requirement, layer::GuardLayer};
/// # use pulse_kernel::{ApiError, OrgId, Reason};
/// # #[derive(Clone)] struct Session { org: OrgId, is_operator: bool }
/// # fn layers(guard: Guard) {
/// let rest = GuardLayer::rest(guard.clone())
///     .require("/v1/alerts", Requirement::capability("alerting"))
///     .require_for(http::Method::POST, "/v1/hosts", Requirement::limit("monitored_hosts", 1))
///     .open("/livez");
/// let grpc = GuardLayer::grpc(guard)
///     .require("/acme.hosts.v1.HostService/AddHost", Requirement::limit("monitored_hosts", 1))
///     .tenant_from(|head| match head.extensions.get::<Session>() {
///         Some(session) => Ok(session.org.clone()),
///         None => Err(ApiError::new(Reason::Unauthenticated, "sign in")),
///     })
///     .let_through(|head| head.extensions.get::<Session>().is_some_and(|session| session.is_operator));
/// # }
/// ```
pub struct GuardLayer<D> {
    rules: Arc<Rules>,
    door: PhantomData<fn() -> D>,
}

impl<D: Door> GuardLayer<D> {
    fn new(guard: Guard) -> Self {
        Self { rules: Arc::new(Rules::new(guard)), door: PhantomData }
    }

    fn with(self, change: impl FnOnce(&mut Rules)) -> Self {
        let mut rules = Arc::unwrap_or_clone(self.rules);
        change(&mut rules);
        Self { rules: Arc::new(rules), door: PhantomData }
    }

    /// What every route requires that has no rule of its own; without this, that the tenant is active.
    #[must_use]
    pub fn require_of_all(self, requirement: Requirement<'static>) -> Self {
        self.with(|rules| rules.otherwise = Rule::Requires(requirement))
    }

    /// Refuses every route that has no rule of its own, so that none can be forgotten.
    #[must_use]
    pub fn refuse_unlisted(self) -> Self {
        self.with(|rules| rules.otherwise = Rule::Unlisted)
    }

    /// What a route requires, whatever the method: a gRPC method's path, such as `/acme.hosts.v1.HostService/AddHost`, or
    /// an axum route as a request has matched it, such as `/v1/hosts/{id}`, with what its router is nested in.
    #[must_use]
    pub fn require(self, route: &'static str, requirement: Requirement<'static>) -> Self {
        self.with(|rules| rules.set(route, None, Rule::Requires(requirement)))
    }

    /// What a route requires of requests with that method. It goes before what the route requires of all. What is required of
    /// `GET` is required of `HEAD` too, which a `GET` handler answers (RFC 9110 section 9.3.2), unless that has a rule of its own.
    #[must_use]
    pub fn require_for(self, method: Method, route: &'static str, requirement: Requirement<'static>) -> Self {
        self.with(|rules| rules.set(route, Some(method), Rule::Requires(requirement)))
    }

    /// Lets everybody use a route, whether they name a tenant or not: those of its methods that have no rule of their own.
    #[must_use]
    pub fn open(self, route: &'static str) -> Self {
        self.with(|rules| rules.set(route, None, Rule::Open))
    }

    /// Takes the tenant from where `tenant` finds it. What it fails with is the answer.
    #[must_use]
    pub fn tenant_from(
        self,
        tenant: impl Fn(&Head<'_>) -> Result<OrgId, ApiError> + Send + Sync + 'static,
    ) -> Self {
        self.with(|rules| rules.tenant = TenantFrom::Caller(Arc::new(tenant)))
    }

    /// Lets requests through that `is_operator` says are an operator's, whatever is decided about the tenant. Where they name
    /// one, their handler finds the verdict as for everybody else, but it may be a refusal.
    #[must_use]
    pub fn let_through(self, is_operator: impl Fn(&Head<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.with(|rules| rules.is_operator = Some(Arc::new(is_operator)))
    }

    /// Does not put the verdict into the request's extensions, where no handler asks for it.
    #[must_use]
    pub fn without_verdict(self) -> Self {
        self.with(|rules| rules.keeps_verdict = false)
    }
}

impl<D> Clone for GuardLayer<D> {
    fn clone(&self) -> Self {
        Self { rules: Arc::clone(&self.rules), door: PhantomData }
    }
}

impl<D> fmt::Debug for GuardLayer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GuardLayer").field(&self.rules).finish()
    }
}

impl<S, D> Layer<S> for GuardLayer<D> {
    type Service = Guarded<S, D>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { inner, rules: Arc::clone(&self.rules), door: PhantomData }
    }
}

/// A service with a [`GuardLayer`] in front of it.
pub struct Guarded<S, D> {
    inner: S,
    rules: Arc<Rules>,
    door: PhantomData<fn() -> D>,
}

impl<S: Clone, D> Clone for Guarded<S, D> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), rules: Arc::clone(&self.rules), door: PhantomData }
    }
}

impl<S: fmt::Debug, D> fmt::Debug for Guarded<S, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("inner", &self.inner).field("rules", &self.rules).finish()
    }
}

impl<S, B, D> Service<Request<B>> for Guarded<S, D>
where
    S: Service<Request<B>, Response = Response<D::Body>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    D: Door,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = GuardFuture<S::Future, S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let to_ask = match self.rules.judge::<D, B>(&request) {
            Ok(Judged::Passed) => return GuardFuture::passed(self.inner.call(request)),
            Ok(Judged::Decided(verdict, caller)) => {
                return match self.rules.admit(verdict, caller, &mut request) {
                    Ok(()) => GuardFuture::passed(self.inner.call(request)),
                    Err(error) => GuardFuture::refused(D::refuse(error)),
                };
            }
            Ok(Judged::ToAsk(to_ask)) => to_ask,
            Err(error) => return GuardFuture::refused(D::refuse(error)),
        };
        // The one that is ready is the one to be called; its clone may not be.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let rules = Arc::clone(&self.rules);
        GuardFuture::waiting(Box::pin(async move {
            let verdict = rules.guard.check(&to_ask.org, &to_ask.requirement).await;
            match rules.admit(verdict, to_ask.caller, &mut request) {
                Ok(()) => inner.call(request).await,
                Err(error) => Ok(D::refuse(error)),
            }
        }))
    }
}
