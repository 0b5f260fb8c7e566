//! What gateways ask about the requests that they pass on, and what they are told: the same at every door, whatever it speaks.
//!
//! | module | holds |
//! |---|---|
//! | here | [`Gatekeeper`]: answers a question, with trusted headers or a refusal |
//! | [`header`] | what the headers are called |
//! | [`question`] | [`Question`]: which tenant, and what it must have |
//! | [`refusal`] | [`Refusal`]: why a request is not to go on, and how its client is told |

pub mod header;
pub mod question;
pub mod refusal;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue};
use pulse_entitlements::{Answer, EntitlementSource, Source};
use pulse_kernel::OrgId;
use pulse_tenant_guard::{
    DenyReason, Guard, OnOutage, OutagePolicy, StatusAnswer, StatusError, StatusSource,
};

pub use question::Question;
pub use refusal::Refusal;

/// The status of an organization that nobody has told yet, in [`header::ORG_STATUS`].
const UNKNOWN: &str = "unknown";

/// Decides for gateways. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gatekeeper {
    lenient: Guard,
    strict: Guard,
    entitlements: Arc<dyn EntitlementSource>,
}

impl Gatekeeper {
    /// One that decides by what these say of tenants.
    pub fn new(statuses: Arc<dyn StatusSource>, entitlements: Arc<dyn EntitlementSource>) -> Self {
        let lenient = Guard::new(statuses, Arc::clone(&entitlements));
        let strict = lenient.clone().with_policy(OutagePolicy::new(OnOutage::Deny));
        Self { lenient, strict, entitlements }
    }

    /// Whether the request may go on. If so, every header of [`header::TRUSTED`] says what is known of its tenant; they are to
    /// be passed on in place of any that the client sent.
    ///
    /// # Errors
    /// Why not.
    pub async fn ask(&self, question: &Question) -> Result<HeaderMap, Refusal> {
        let guard = match question.on_outage {
            OnOutage::Allow => &self.lenient,
            OnOutage::Deny => &self.strict,
        };
        let verdict = guard.check(&question.org, &question.requirement()).await.into_result();
        let verdict = verdict.map_err(Refusal::denied)?;
        // The boxed future of a source is for those who have to wait.
        let entitled = match verdict.entitlements.or_else(|| self.entitlements.cached(&question.org)) {
            Some(entitled) => entitled,
            None => self.entitlements.entitlements(&question.org).await,
        };
        let entitled = entitled.map_err(|_| Refusal::denied(DenyReason::OrgNotFound.into()))?;
        Ok(trusted_headers(&question.org, &verdict.status, &entitled))
    }
}

/// All of them every time, so that a gateway that copies them leaves none of the client's in place.
fn trusted_headers(org: &OrgId, status: &Result<StatusAnswer, StatusError>, entitled: &Answer) -> HeaderMap {
    let (status_name, status_source, status_age) = match status {
        Ok(answer) => (answer.status.as_str(), answer.source, answer.age),
        Err(_) => (UNKNOWN, Source::Default, Duration::ZERO),
    };
    let entitlements = &entitled.entitlements;
    let texts = [
        (header::ORG_ID, org.as_str()),
        (header::ORG_STATUS, status_name),
        (header::ORG_STATUS_SOURCE, status_source.as_str()),
        (header::SUBSCRIPTION_STATE, entitlements.subscription_state.as_str()),
        (header::PLAN, entitlements.plan_version.as_str()),
        (header::ENTITLEMENT_SOURCE, entitled.source.as_str()),
    ];
    let ages = [(header::ORG_STATUS_AGE, status_age), (header::ENTITLEMENT_AGE, entitled.age)];
    let mut headers = HeaderMap::with_capacity(header::TRUSTED.len());
    // All of these are made of letters, digits and a few signs.
    headers
        .extend(texts.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?))));
    headers.extend(ages.map(|(name, age)| (name, HeaderValue::from(age.as_secs()))));
    headers
}
