//! The methods that a server has. Labels and span names come from this table alone, so that paths made up by
//! callers can neither grow a metric nor forge a name.

use std::{fmt, time::Duration};

use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter},
};
use tonic::Code;

/// What stands for a service or method that does not exist (OpenTelemetry semantic conventions).
const OTHER: &str = "_OTHER";

/// How many gRPC codes there are, `OK` to `UNAUTHENTICATED`.
const CODES: i32 = 17;

/// A service by its full protobuf name, and its methods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Such as `pulse.billing.v1.EntitlementService`.
    pub name: String,
    /// Such as `GetEntitlements`.
    pub methods: Vec<String>,
}

/// One method, with the label sets of its durations made in advance.
#[derive(Debug)]
pub struct Method {
    /// Where it is called: `/service/method`.
    pub path: String,
    /// The full name of the service.
    pub service: String,
    /// The name of the method.
    pub name: String,
    labels: Vec<[KeyValue; 3]>,
}

impl Method {
    fn new(service: &str, name: &str) -> Self {
        let labels = (0..CODES).map(|code| {
            [
                KeyValue::new("rpc.service", service.to_owned()),
                KeyValue::new("rpc.method", name.to_owned()),
                KeyValue::new("rpc.grpc.status_code", i64::from(code)),
            ]
        });
        Self {
            service: service.to_owned(),
            name: name.to_owned(),
            path: format!("/{service}/{name}"),
            labels: labels.collect(),
        }
    }
}

/// Every method of a server, by path.
pub struct Methods {
    all: Vec<Method>,
    durations: Histogram<f64>,
}

/// A method's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodId(usize);

/// The place of what stands for all that do not exist.
const UNKNOWN: MethodId = MethodId(0);

impl Methods {
    /// The table of `services`, which counts into `rpc_server_duration_seconds` of `meter`.
    pub fn new(services: &[Service], meter: &Meter) -> Self {
        let methods = services
            .iter()
            .flat_map(|service| service.methods.iter().map(|method| Method::new(&service.name, method)));
        let all = std::iter::once(Method::new(OTHER, OTHER)).chain(methods).collect();
        let durations = meter
            .f64_histogram("rpc.server.duration")
            .with_unit("s")
            .with_description("Duration of inbound RPCs")
            .build();
        Self { all, durations }
    }

    /// The method at `path`, or the one that stands for all that do not exist.
    pub fn find(&self, path: &str) -> MethodId {
        // A server has a dozen methods: comparing a path with each is quicker than hashing it.
        self.all.iter().position(|method| method.path == path).map_or(UNKNOWN, MethodId)
    }

    /// The names of a method.
    pub fn get(&self, id: MethodId) -> Option<&Method> {
        self.all.get(id.0)
    }

    /// Counts a call that took `elapsed` and ended with `code`.
    pub fn record(&self, id: MethodId, code: Code, elapsed: Duration) {
        let code = usize::try_from(i32::from(code)).ok();
        let labels = self.get(id).and_then(|method| method.labels.get(code?));
        self.durations.record(elapsed.as_secs_f64(), labels.map_or(&[], <[KeyValue; 3]>::as_slice));
    }
}

impl fmt::Debug for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.all.iter().map(|method| &method.path)).finish()
    }
}
