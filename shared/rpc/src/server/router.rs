//! From a path to its service.
//!
//! A gRPC path is `/service/method` and a server has a handful of services, so this compares names. The general router
//! that tonic brings (axum's) parses patterns and parameters, which costs more than all the layers around it together:
//! measured at a tenth of a small request.

use std::{convert::Infallible, fmt, future::Future, pin::Pin, sync::Arc, task};

use http::{Request, Response};
use tonic::{Status, body::Body, server::NamedService};
use tower::{Service, ServiceExt as _};

type Answer = Result<Response<Body>, Infallible>;
type AnswerFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The services of a server. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Router(Arc<Vec<Route>>);

struct Route {
    name: &'static str,
    call: Box<dyn Fn(Request<Body>) -> AnswerFuture + Send + Sync>,
}

impl Router {
    /// Adds a service under its name.
    pub(crate) fn add<S>(self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let call = move |request| -> AnswerFuture { Box::pin(service.clone().oneshot(request)) };
        let route = Route { name: S::NAME, call: Box::new(call) };
        let mut routes = Arc::into_inner(self.0).unwrap_or_default();
        routes.push(route);
        Self(Arc::new(routes))
    }

    fn find(&self, path: &str) -> Option<&Route> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        self.0.iter().find(|route| route.name == service && !method.is_empty())
    }
}

impl Service<Request<Body>> for Router {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = AnswerFuture;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> AnswerFuture {
        match self.find(request.uri().path()) {
            Some(route) => (route.call)(request),
            None => Box::pin(std::future::ready(Ok(Status::unimplemented("").into_http()))),
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|route| route.name)).finish()
    }
}
