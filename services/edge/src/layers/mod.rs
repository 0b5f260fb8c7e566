//! The one stack of layers around every route of a listener, and the reason for its order.

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state, map_response},
    response::{IntoResponse as _, Response},
};
use http::{
    HeaderName, HeaderValue,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use http_body::Body as _;
use http_body_util::Limited;
use pulse_kernel::{ApiError, Quota, Reason, SystemClock};
use pulse_rpc::{
    ClientKey, KeyedLimiter, RequestContext, client_key, context::until_deadline,
    layers::scope::RequestScope, limit::DEFAULT_MAX_KEYS,
};
use pulse_runtime::Shutdown;
use tokio::sync::Semaphore;
use tower::{ServiceBuilder, layer::layer_fn};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    client_ip::{ClientIp, TrustedProxies},
    config::Config,
    problem::{HttpError, Problem},
    server::Peer,
};

mod observe;

pub(crate) use self::observe::Observe;

/// The longest body that is read, in bytes.
pub(crate) const MAX_BODY: usize = 64 * 1024;

/// The window of the general limit.
const LIMIT_WINDOW: Duration = Duration::from_mins(1);

/// What a caller is told to wait when there is no place for its request.
const SHED_RETRY: Duration = Duration::from_secs(1);

/// What an API tells browsers that come upon it: this is no page, and nothing of it is to be kept.
const SECURITY_HEADERS: [(HeaderName, &str); 4] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CACHE_CONTROL, "no-store"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (REFERRER_POLICY, "no-referrer"),
];

/// What a listener's stack is made of.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) observe: Observe,
    pub(crate) request_timeout: Duration,
    pub(crate) in_flight: Arc<Semaphore>,
    /// The limit of every client; the admin surface, whose clients are known, has none.
    pub(crate) client_limit: Option<ClientLimit>,
}

impl Stack {
    /// A stack as the settings want it, without a limit for clients.
    pub(crate) fn new(config: &Config, observe: Observe) -> Self {
        let places = config.common.max_in_flight.get().min(Semaphore::MAX_PERMITS);
        Self {
            observe,
            request_timeout: config.common.request_timeout,
            in_flight: Arc::new(Semaphore::new(places)),
            client_limit: None,
        }
    }

    /// The routes `api` and, past everything that may refuse, `health`.
    pub(crate) fn around(self, api: Router, health: Router) -> Router {
        // Innermost first, as routers are layered.
        let api = api
            // Innermost: what takes too long is dropped, and gives its place back.
            .layer(from_fn(end_at_deadline))
            // Before any time is spent: what is too much is refused at once and never queues.
            .layer(from_fn_with_state(self.in_flight, shed_load));
        let api = match self.client_limit {
            // Above the places: a client who asks too much must not take those of others.
            Some(limit) => api.layer(from_fn_with_state(limit, limit_client)),
            None => api,
        };
        // Health joins here: a busy process that its orchestrator restarts gets no less busy.
        let stack = ServiceBuilder::new()
            // Outermost, so that also what the layers below answer carries them.
            .layer(map_response(add_security_headers))
            // Above everything that logs or answers: all of it belongs to a request id and a deadline.
            .layer(layer_fn(move |inner| RequestScope::new(inner, self.request_timeout)))
            // Above whatever may refuse: refusals and panics are in the trace and in the metrics, with their status.
            .layer(from_fn_with_state(self.observe, observe::observe))
            // Below the metrics, which then see a 500; above the rest, so that no layer takes a connection down.
            .layer(CatchPanicLayer::custom(answer_panic));
        api.merge(health).layer(stack)
    }
}

async fn add_security_headers(mut response: Response) -> Response {
    let headers = SECURITY_HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value)));
    response.headers_mut().extend(headers);
    response
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `CatchPanicLayer` asks for")]
fn answer_panic(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    RequestContext::with(|context| {
        let request_id = context.request_id.as_str();
        tracing::error!(request_id, panic = text.unwrap_or("without a message"), "a handler panicked");
    });
    Problem::from(ApiError::internal()).into_response()
}

/// The general limit: requests of any kind, per client.
#[derive(Debug, Clone)]
pub(crate) struct ClientLimit {
    trusted_proxies: TrustedProxies,
    limiter: Arc<KeyedLimiter<ClientKey>>,
}

impl ClientLimit {
    pub(crate) fn new(config: &Config, shutdown: &Shutdown) -> Self {
        let limit = config.request_limit_per_minute;
        let limiter = KeyedLimiter::new(limit, LIMIT_WINDOW, DEFAULT_MAX_KEYS, Arc::new(SystemClock));
        let limiter = Arc::new(limiter);
        limiter.sweep_in_background(shutdown);
        Self { trusted_proxies: config.edge.trusted_proxies.clone(), limiter }
    }

    fn check(&self, client: ClientIp) -> Result<(), ApiError> {
        self.limiter.check(&client_key(client.0)).map_err(|exceeded| {
            let quota = Quota {
                policy: "requests".to_owned(),
                limit: self.limiter.limit(),
                window_seconds: self.limiter.window().as_secs(),
            };
            ApiError::new(Reason::RateLimited, "too many requests from this address")
                .retry_after(exceeded.retry_after)
                .quota(quota)
        })
    }
}

async fn limit_client(
    State(limit): State<ClientLimit>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Peer(peer) = *request.extensions().get::<Peer>().ok_or_else(ApiError::internal)?;
    let client = ClientIp(limit.trusted_proxies.client_ip(peer, request.headers()));
    limit.check(client)?;
    request.extensions_mut().insert(client);
    Ok(next.run(request).await)
}

async fn shed_load(
    State(in_flight): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Ok(_place) = in_flight.try_acquire() else {
        let error = ApiError::new(Reason::Overloaded, "the service is at its capacity; try again");
        return Err(error.retry_after(SHED_RETRY).into());
    };
    Ok(next.run(request).await)
}

async fn end_at_deadline(request: Request, next: Next) -> Result<Response, Problem> {
    until_deadline(next.run(request)).await.map_err(|_| {
        // Nothing says that the request had no effect; repeating it is safe all the same.
        ApiError::new(Reason::Unavailable, "the request did not finish in time; try again").into()
    })
}

/// Bounds the body of a request, whether its length is declared or not. It stands around routes only, so that a path
/// that is not served answers the same to any body.
pub(crate) async fn limit_body(request: Request, next: Next) -> Result<Response, Problem> {
    let declared = request.body().size_hint().lower();
    if usize::try_from(declared).is_ok_and(|length| length <= MAX_BODY) {
        Ok(next.run(request.map(|body| Body::new(Limited::new(body, MAX_BODY)))).await)
    } else {
        Err(HttpError::PayloadTooLarge.into())
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use http::StatusCode;
    use http_body_util::BodyExt as _;
    use pulse_runtime::settings::try_parse_from;
    use tower::ServiceExt as _;

    use super::*;
    use crate::extract::{FromMembers, JsonBody, Members};

    struct Nothing;

    impl FromMembers for Nothing {
        fn from_members(_: &mut Members) -> Self {
            Self
        }
    }

    fn stack(flags: &[&str]) -> Router {
        let config = try_parse_from(std::iter::once("pulse-edge").chain(flags.iter().copied())).unwrap();
        let api = Router::new()
            .route("/panic", get(async || -> StatusCode { panic!("canary") }))
            .route("/read", post(async |JsonBody(Nothing): JsonBody<Nothing>| StatusCode::OK))
            .route_layer(from_fn(limit_body));
        Stack::new(&config, Observe::new()).around(api, Router::new())
    }

    async fn problem(router: Router, request: http::request::Builder, body: Body) -> (StatusCode, String) {
        let answer = router.oneshot(request.body(body).unwrap()).await.unwrap();
        assert!(answer.headers().contains_key("x-request-id"));
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_without_its_message() {
        let (status, body) = problem(stack(&[]), Request::get("/panic"), Body::empty()).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(body.contains("urn:pulse:problem:internal") && body.contains("request_id"), "{body}");
        assert!(!body.contains("canary"), "{body}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_not_waited_for() {
        let read = || Request::post("/read").header("content-type", "application/json");
        let pending = || Body::from_stream(futures::stream::pending::<Result<&[u8], std::io::Error>>());
        let (status, body) = problem(stack(&[]), read(), pending()).await;
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
        assert!(body.contains("\"request_timeout\""), "{body}");
        let (status, body) = problem(stack(&["--request-timeout", "1s"]), read(), pending()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "the request's own time is over first");
        assert!(body.contains("\"unavailable\""), "{body}");
    }

    #[tokio::test]
    async fn a_body_that_is_cut_off_is_the_caller_s_fault() {
        let cut = futures::stream::iter([Ok("{"), Err(std::io::Error::other("canary"))]);
        let read = Request::post("/read").header("content-type", "application/json");
        let (status, body) = problem(stack(&[]), read, Body::from_stream(cut)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body.contains("invalid_request") && !body.contains("canary"), "{body}");
    }
}
