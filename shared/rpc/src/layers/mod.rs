//! The one stack of layers around every gRPC service, and the reason for its order.
//!
//! | module | layer |
//! |---|---|
//! | [`scope`] | [`scope::RequestScope`]: request id and deadline |
//! | [`trace`] | [`trace::Trace`]: a span, child of the caller's |
//! | [`measure`] | [`measure::Measure`]: duration by method and code |
//! | [`mod@panic`] | [`panic::CatchPanic`]: a panic is an `INTERNAL` answer |
//! | [`shed`] | [`shed::LoadShed`]: bounded work in flight |
//! | [`deadline`] | [`deadline::Deadline`]: nobody works for a caller who is gone |
//! | [`methods`] | the methods that exist, for labels and span names |

pub mod deadline;
pub mod measure;
pub mod methods;
pub mod panic;
pub mod scope;
pub mod shed;
pub mod trace;

use std::{sync::Arc, time::Duration};

use opentelemetry::metrics::Meter;
use pulse_kernel::ApiError;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tower::{Layer, ServiceBuilder};

use self::{
    deadline::Deadline, measure::Measure, methods::Methods, panic::CatchPanic, scope::RequestScope,
    shed::LoadShed, trace::Trace,
};
use crate::to_status;

/// Makes the stack around a router; clones share their counters and limits.
#[derive(Debug, Clone)]
pub struct ServerStack {
    request_timeout: Duration,
    methods: Arc<Methods>,
    in_flight: Arc<Semaphore>,
}

impl ServerStack {
    /// A stack for a server of `methods` that admits `max_in_flight` requests at a time, each for at most
    /// `request_timeout`.
    pub fn new(
        services: &[methods::Service],
        meter: &Meter,
        max_in_flight: usize,
        request_timeout: Duration,
    ) -> Self {
        Self {
            request_timeout,
            methods: Arc::new(Methods::new(services, meter)),
            in_flight: Arc::new(Semaphore::new(max_in_flight.min(Semaphore::MAX_PERMITS))),
        }
    }
}

impl<S> Layer<S> for ServerStack {
    type Service = RequestScope<Trace<Measure<CatchPanic<LoadShed<Deadline<S>>>>>>;

    fn layer(&self, service: S) -> Self::Service {
        ServiceBuilder::new()
            // Outermost, so that every answer and every log line below carries the request id.
            .layer_fn(|inner| RequestScope::new(inner, self.request_timeout))
            // Around everything that does work, so that the trace shows all of it, and logs belong to the span.
            .layer_fn(|inner| Trace::new(inner, Arc::clone(&self.methods)))
            // Above whatever may refuse, so that refusals, panics and timeouts are counted with their codes.
            .layer_fn(|inner| Measure::new(inner, Arc::clone(&self.methods)))
            // Below the metrics, which then see INTERNAL; above the rest, so that no layer can take a stream down.
            .layer_fn(CatchPanic::new)
            // Before any time is spent: what is too much is refused at once and never queues.
            .layer_fn(|inner| LoadShed::new(inner, Arc::clone(&self.in_flight)))
            // Innermost: only the handler's own work counts, and dropping it gives its place back.
            .layer_fn(Deadline::new)
            .service(service)
    }
}

/// The answer that a layer itself makes, in place of the handler's.
fn refusal(error: &ApiError) -> http::Response<Body> {
    to_status(error).into_http()
}
