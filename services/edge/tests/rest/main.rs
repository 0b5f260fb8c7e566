//! The edge over real connections, in front of services that a test scripts.
//!
//! | module | proves |
//! |---|---|
//! | `gate` | hosted mode off: nothing tells a signup from a path that never existed |
//! | `signup`, `organizations`, `billing`, `audit` | every route: what is passed on, what is answered, every refusal |
//! | `authz`, `ofrep` | decisions for gateways and for OpenFeature SDKs |
//! | `http` | bodies, media types, methods, limits, proxies, headers, connections |
//! | `health` | liveness, readiness, the end in two phases |
//! | `openapi` | the document describes exactly what is served |
//! | `metrics` | every request is counted, by method, route and status |
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper fails the test that called it"
)]

mod audit;
mod authz;
mod billing;
mod client;
mod fakes;
mod gate;
mod health;
mod http;
mod internal_fakes;
mod metrics;
mod ofrep;
mod openapi;
mod organizations;
mod signup;
mod support;
