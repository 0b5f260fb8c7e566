//! The layers over sources that answer on command.
//!
//! | module | proves |
//! |---|---|
//! | `rest` | what an axum router refuses and lets in, and what its handlers are told |
//! | `grpc` | the same for a tonic service, and that refusals are well formed |
//! | `rules` | which rule counts, for every order in which they can be given |
//! | `outage` | what counts while the sources do not know for certain |
//! | `cost` | what a request that is let in allocates |

mod cost;
mod grpc;
mod outage;
mod rest;
mod rules;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_entitlements::{
    Answer, BillingState, EntitlementSource, Grants, Name, Source, SourceError, SubscriptionState, effective,
};

use super::*;
use crate::{OrganizationStatus, StatusAnswer, StatusError, StatusSource, Verdict};

/// A tenant `acme` and its subscription, as they are at the moment. Every other is unknown.
#[derive(Debug)]
struct Tenant {
    status: Mutex<Result<StatusAnswer, StatusError>>,
    granted: Mutex<Answer>,
    /// Whether there is an answer without waiting.
    is_at_hand: AtomicBool,
    waits: AtomicUsize,
}

impl Tenant {
    /// It is active, and everything is at hand.
    fn guard() -> (Arc<Self>, Guard) {
        let tenant = Arc::new(Self {
            status: Mutex::new(Ok(known(OrganizationStatus::Active, Source::Cached))),
            granted: Mutex::new(granted(SubscriptionState::Active, Source::Cached, true)),
            is_at_hand: AtomicBool::new(true),
            waits: AtomicUsize::new(0),
        });
        (Arc::clone(&tenant), Guard::new(Arc::clone(&tenant) as _, Arc::clone(&tenant) as _))
    }

    fn is(&self, status: OrganizationStatus) {
        self.says(Ok(known(status, Source::Cached)));
    }

    fn says(&self, status: Result<StatusAnswer, StatusError>) {
        *self.status.lock().unwrap() = status;
    }

    fn may(&self, granted: Answer) {
        *self.granted.lock().unwrap() = granted;
    }

    fn is_at_hand(&self, is_at_hand: bool) {
        self.is_at_hand.store(is_at_hand, Ordering::SeqCst);
    }

    fn answer(&self, org: &OrgId) -> Result<StatusAnswer, StatusError> {
        if org.as_str() == "acme" { *self.status.lock().unwrap() } else { Err(StatusError::NotFound) }
    }
}

#[async_trait]
impl StatusSource for Tenant {
    async fn status(&self, org: &OrgId) -> Result<StatusAnswer, StatusError> {
        self.waits.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.answer(org)
    }

    fn cached(&self, org: &OrgId) -> Option<Result<StatusAnswer, StatusError>> {
        self.is_at_hand.load(Ordering::SeqCst).then(|| self.answer(org))
    }
}

#[async_trait]
impl EntitlementSource for Tenant {
    async fn entitlements(&self, _: &OrgId) -> Result<Answer, SourceError> {
        Ok(self.granted.lock().unwrap().clone())
    }

    fn cached(&self, _: &OrgId) -> Option<Result<Answer, SourceError>> {
        Some(Ok(self.granted.lock().unwrap().clone()))
    }
}

fn known(status: OrganizationStatus, source: Source) -> StatusAnswer {
    StatusAnswer { status, source, age: Duration::ZERO, version: 1 }
}

/// The capability `alerting` and 10 `hosts`, where the subscription grants anything.
fn granted(subscription_state: SubscriptionState, source: Source, confirmed: bool) -> Answer {
    let name = |text| Name::parse(text).unwrap();
    let state = BillingState {
        org_id: OrgId::parse("acme").unwrap(),
        subscription_state,
        plan_version: Name::trial_plan(),
        grants: Grants {
            capabilities: [name("alerting")].into(),
            limits: [(name("hosts"), 10)].into(),
            ..Grants::default()
        },
        trial_started_at: None,
        trial_ends_at: None,
        grace_ends_at: None,
        updated_at: None,
    };
    let entitlements = Arc::new(effective(&state, Timestamp::UNIX_EPOCH));
    Answer { entitlements, source, age: Duration::ZERO, revision: 1, confirmed }
}
