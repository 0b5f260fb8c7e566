//! What the service does: use cases that put the domain, the store and the other services together.
//!
//! | file | holds |
//! |---|---|
//! | here | [`App`] and what it needs |
//! | [`provision`] | a tenant for an address: made, joined or found |
//! | [`accounts`] | who someone is, and what they may do |
//! | [`admin`] | what operators see and set going |

pub mod accounts;
pub mod admin;
pub mod provision;

use std::{sync::Arc, time::Duration};

use pulse_kernel::{Clock, Ids, PasswordPolicy};
use pulse_rpc::{ClientKey, KeyedLimiter, RequestContext, RequestId};

use crate::{
    clients::{Billing, Organizations},
    hashing::HashingPool,
    saga::engine::Engine,
    store::Store,
};

/// The window of the sign-in limits.
pub const SIGN_IN_WINDOW: Duration = Duration::from_mins(1);

/// How often sign-ins may be tried.
#[derive(Debug, Clone)]
pub struct SignInLimits {
    /// With one address, in its canonical form.
    pub by_email: Arc<KeyedLimiter<String>>,
    /// From one client.
    pub by_client: Arc<KeyedLimiter<ClientKey>>,
}

/// Some of a list, and where it goes on, if it does.
#[derive(Debug)]
pub struct Page<T, C> {
    /// What is on the page.
    pub items: Vec<T>,
    /// Leads to the next one.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// Of what was asked for and one more, by which the last page is known to be the last.
    fn of(mut items: Vec<T>, limit: u32, cursor: impl FnOnce(&T) -> C) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(cursor);
        Self { items, next }
    }
}

/// The service without its transport; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// What is kept.
    pub store: Arc<dyn Store>,
    /// lifecycle.
    pub organizations: Arc<dyn Organizations>,
    /// billing-state.
    pub billing: Arc<dyn Billing>,
    /// Passwords.
    pub hashing: Arc<HashingPool>,
    /// Sagas.
    pub engine: Engine,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Ids,
    /// What a new password must satisfy.
    pub password_policy: PasswordPolicy,
    /// How often sign-ins may be tried.
    pub sign_in: SignInLimits,
}

impl App {
    /// The time, as precisely as the store keeps it.
    fn now(&self) -> jiff::Timestamp {
        pulse_store::time::truncate(self.clock.now())
    }

    /// The id of the request in hand.
    fn request_id(&self) -> RequestId {
        RequestContext::with(|context| context.request_id.clone())
            .unwrap_or_else(|| RequestId::generate(&self.ids))
    }
}
