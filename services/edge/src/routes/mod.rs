//! The routes, a file per resource. A handler converts, calls, converts.
//!
//! | file | serves |
//! |---|---|
//! | [`signup`] | the public signup |
//! | [`organizations`] | organizations and their status |
//! | [`billing`] | billing states |
//! | [`audit`] | what every service recorded about a tenant |
//! | [`authz`] | decisions for gateways |
//! | [`ofrep`] | decisions as flags, for OpenFeature SDKs |
//! | [`health`] | liveness and readiness |
//! | [`openapi`] | the description of what the listener serves |
//!
//! Every route is registered by the same attribute that documents it, so there is none that the other does not know.
#![expect(
    unused_qualifications,
    reason = "what the `utoipa::path` attribute generates names types by their paths"
)]

pub(crate) mod audit;
pub(crate) mod authz;
pub(crate) mod billing;
pub(crate) mod health;
pub(crate) mod ofrep;
pub(crate) mod openapi;
pub(crate) mod organizations;
pub(crate) mod signup;

use crate::problem::Problem;

/// What a handler returns.
type Answer<T> = Result<T, Problem>;
