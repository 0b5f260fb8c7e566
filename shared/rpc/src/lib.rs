//! What every gRPC server and client of the system has in common, so that no service makes it twice.
//!
//! | module | holds |
//! |---|---|
//! | [`server`] | [`GrpcServer`]: transport limits, health, reflection, two-phase shutdown |
//! | [`layers`] | the one stack of layers around every service, with the reason for its order |
//! | [`context`] | the request id and deadline that belong to the request in hand |
//! | [`client`] | [`Channel`], which carries that context on to the next service |
//! | [`status`] | the one map between [`pulse_kernel::ApiError`] and [`tonic::Status`] |
//! | [`problem`] | the same to `application/problem+json`, for whoever serves REST |
//! | [`operator`] | who operators are and what they may do |
//! | [`watch`] | streams of changes: what there is, then what changes, to thousands of watchers |
//! | [`limit`] | rate limits by key, and the keys of network clients |
//! | [`convert`], [`page`] | well-known protobuf types and page tokens to and from domain types |
//!
//! A service's handlers know nothing of this crate but [`status::reject`] and, for operators,
//! [`OperatorTokens::require`].
#![warn(missing_docs)]

pub mod client;
pub mod context;
pub mod convert;
pub mod layers;
pub mod limit;
pub mod operator;
pub mod page;
pub mod problem;
pub mod server;
pub mod status;
pub mod watch;

pub use client::{Channel, channel};
pub use context::{RequestContext, RequestId};
pub use limit::{ClientKey, KeyedLimiter, client_key};
pub use operator::{Operator, OperatorTokens, Role};
pub use server::{GrpcServer, Limits};
pub use status::{ServiceError, from_status, reject, to_status};
