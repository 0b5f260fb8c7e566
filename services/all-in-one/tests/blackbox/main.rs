//! The black-box suite: the real programs on real ports, driven from outside, as the contract has it.
//!
//! | module | proves |
//! |---|---|
//! | `first_start` | what a newcomer sees after `pulse-hosted dev` |
//! | `signup` | the public door: answers, validation, limits |
//! | `hosted_mode` | what is not there outside hosted mode |
//! | `operators` | who may do what, and how tokens come and go |
//! | `billing` | billing states and what they grant |
//! | `billing_files` | the file that a billing state is, with the embedded store |
//! | `lifecycle` | suspension, deletion, restoration, purge |
//! | `crash` | SIGKILL in the middle of two hundred signups |
//! | `replicas` | what must hold whichever replica is asked, and when one of them dies |
//! | `outage` | PostgreSQL cut off, gone silent, stopped and killed under load |
//! | `forward_auth` | decisions for a real nginx and a real Caddy, whatever a client says and while services are away |
//! | `guarded_service` | an application's service with the guard in front, over REST and gRPC, and while services are away |
//! | `envoy` | the same for a real Envoy, over HTTP and gRPC |
//! | `push` | the edge is told what changes: it refuses at once without asking, and stays honest while it is cut off (I6, I7) |
//! | `openfeature` | entitlements as flags, for a stock OpenFeature SDK |
//! | `transfer` | an embedded installation of ten thousand tenants, moved into PostgreSQL |
//! | `settings` | starts that are refused |
//! | `telemetry` | metrics, and what no log and no file may hold |
//! | `grpc_clients` | grpcurl and a client in Python |
//! | `documents` | the README's commands, the OpenAPI document |
//!
//! `gateway` is what those about gateways have in common; `shapes` makes tests of scenarios.
//!
//! Most scenarios run three times: against the five services in one process, against five processes, and against two replicas
//! of every service over PostgreSQL.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[macro_use]
mod shapes;

mod billing;
mod billing_files;
mod crash;
mod documents;
mod envoy;
mod first_start;
mod forward_auth;
mod gateway;
mod grpc_clients;
mod guarded_service;
mod hosted_mode;
mod lifecycle;
mod openfeature;
mod operators;
mod outage;
mod push;
mod replicas;
mod settings;
mod signup;
mod telemetry;
mod transfer;

use std::time::Duration;

/// A password that is strong enough.
const PASSWORD: &str = "orbit-lantern-72-quartz";

/// How long anything may take that a test waits for.
const SOON: Duration = Duration::from_secs(30);
