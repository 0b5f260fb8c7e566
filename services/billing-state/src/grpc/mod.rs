//! The gRPC services: each method converts, calls, converts.
//!
//! | module | serves | for |
//! |---|---|---|
//! | [`at_hand`] | `GetEntitlements`, by the shortest way | the same |
//! | [`entitlement`] | `EntitlementService` | the application and other internal services |
//! | [`billing_state`] | `BillingStateService` | the provisioner |
//! | [`admin`] | `BillingAdminService` | operators, in hosted mode |

pub(crate) mod admin;
pub(crate) mod at_hand;
pub(crate) mod billing_state;
pub(crate) mod entitlement;

use pulse_rpc::RequestContext;

use crate::domain::Author;

/// The author of what the request in hand changes.
fn author(actor: String) -> Author {
    let request_id = RequestContext::with(|context| context.request_id.to_string());
    Author { actor, request_id }
}
