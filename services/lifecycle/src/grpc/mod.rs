//! The gRPC services: each handler converts, calls, converts.
//!
//! | module | holds |
//! |---|---|
//! | [`organization`] | `OrganizationService`, for the provisioner and internal services; always served |
//! | [`admin`] | `LifecycleAdminService`, for operators; hosted mode only |

pub(crate) mod admin;
pub(crate) mod organization;
