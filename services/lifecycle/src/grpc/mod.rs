//! The gRPC services: each handler converts, calls, converts.
//!
//! | module | holds |
//! |---|---|
//! | [`organization`] | `OrganizationService`, for the provisioner and internal services; always served |
//! | [`authorization`] | `envoy.service.auth.v3.Authorization`, for gateways; always served |
//! | [`admin`] | `LifecycleAdminService`, for operators; hosted mode only |

pub(crate) mod admin;
pub(crate) mod authorization;
pub(crate) mod organization;
