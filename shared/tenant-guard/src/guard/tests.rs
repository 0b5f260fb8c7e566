//! What the guard makes of every answer that its sources can give, and how it asks them.

use std::sync::Mutex;

use async_trait::async_trait;
use futures::FutureExt as _;
use jiff::Timestamp;
use pulse_entitlements::{BillingState, Grants, SubscriptionState, effective};
use pulse_kernel::Reason;

use super::*;
use DenyReason::{
    CapabilityRequired, LimitExceeded, OrgNotFound, OrgPendingDeletion, OrgSuspended, SubscriptionInactive,
    Unavailable,
};

fn org() -> OrgId {
    OrgId::parse("acme").unwrap()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn status(status: OrganizationStatus, source: Source) -> StatusAnswer {
    StatusAnswer { status, source, age: Duration::from_secs(7), version: 3 }
}

/// Entitlements with the capability `alerting` and 10 `hosts`, where the state grants anything.
fn granted(state: SubscriptionState, source: Source, confirmed: bool) -> Answer {
    let state = BillingState {
        org_id: org(),
        subscription_state: state,
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
    Answer { entitlements, source, age: Duration::from_secs(9), revision: 1, confirmed }
}

/// An answer of a source, and what it is worth.
struct Case<A> {
    answer: A,
    /// What it is known to forbid.
    closed: Option<DenyReason>,
    certain: bool,
    /// It stands for no knowledge at all.
    guess: bool,
}

fn case<A>(answer: A, closed: Option<DenyReason>, certain: bool) -> Case<A> {
    Case { answer, closed, certain, guess: false }
}

/// Every answer about a status.
fn statuses() -> Vec<Case<Result<StatusAnswer, StatusError>>> {
    let mut all = vec![
        case(Err(StatusError::NotFound), Some(OrgNotFound), true),
        case(Err(StatusError::Forgotten), Some(Unavailable), false),
        case(Err(StatusError::Unknown), None, false),
    ];
    for known in OrganizationStatus::ALL {
        let closed = match known {
            OrganizationStatus::Active => None,
            OrganizationStatus::Provisioning => Some(OrgNotFound),
            OrganizationStatus::Suspended => Some(OrgSuspended),
            OrganizationStatus::PendingDeletion | OrganizationStatus::Purging => Some(OrgPendingDeletion),
        };
        for (source, certain) in [(Source::Fresh, true), (Source::Cached, true), (Source::Stale, false)] {
            all.push(case(Ok(status(known, source)), closed, certain));
        }
    }
    all
}

/// Every answer about entitlements.
fn entitlements() -> Vec<Case<Result<Answer, SourceError>>> {
    let trial = |confirmed| Ok(granted(SubscriptionState::Trial, Source::Default, confirmed));
    let mut all = vec![
        case(Err(SourceError::Purged), Some(OrgNotFound), true),
        case(trial(true), None, true),
        Case { guess: true, ..case(trial(false), None, false) },
    ];
    for state in SubscriptionState::ALL {
        let locked = state.is_locked().then_some(SubscriptionInactive);
        for (source, certain) in [(Source::Fresh, true), (Source::Cached, true), (Source::Stale, false)] {
            all.push(case(Ok(granted(state, source, certain)), locked, certain));
        }
    }
    all
}

/// Requirements that need a subscription, with what an active one lacks of them.
const NEEDS: [(Requirement<'static>, Option<DenyReason>); 6] = [
    (Requirement::capability("alerting"), None),
    (Requirement::limit("hosts", 10), None),
    (Requirement::capability("alerting").and_limit("hosts", 10), None),
    (Requirement::capability("teleporting"), Some(CapabilityRequired)),
    (Requirement::limit("hosts", 11), Some(LimitExceeded)),
    (Requirement::capability("teleporting").and_limit("hosts", 11), Some(CapabilityRequired)),
];

#[test]
fn what_is_known_to_be_closed_stays_closed_and_what_is_uncertain_is_up_to_the_policy() {
    let mut combinations = 0;
    for status in statuses() {
        for on_outage in [OnOutage::Allow, OnOutage::Deny] {
            let strict = on_outage == OnOutage::Deny;
            let expected = status.closed.or((strict && !status.certain).then_some(Unavailable));
            let decision = judge(&status.answer, None, &Requirement::active(), on_outage);
            assert_eq!(decision.into_result().err(), expected, "{:?} {on_outage:?}", status.answer);

            for granted in entitlements() {
                for (asked, lacking) in NEEDS {
                    let uncertain = !status.certain || !granted.certain;
                    let expected = status
                        .closed
                        .or(granted.closed)
                        .or((strict && uncertain).then_some(Unavailable))
                        .or(lacking.map(|reason| if granted.guess { Unavailable } else { reason }));
                    let decision = judge(&status.answer, Some(&granted.answer), &asked, on_outage);
                    assert_eq!(
                        decision.into_result().err(),
                        expected,
                        "{:?} {:?} {asked:?} {on_outage:?}",
                        status.answer,
                        granted.answer
                    );
                    combinations += 1;
                }
            }
        }
    }
    assert_eq!(combinations, 18 * 2 * 18 * 6);
}

#[test]
fn a_policy_is_that_of_the_stricter_name_and_otherwise_the_general_one() {
    let lenient = OutagePolicy::new(OnOutage::Allow).with(name("exports"), OnOutage::Deny);
    let strict = OutagePolicy::new(OnOutage::Deny)
        .with(name("dashboards"), OnOutage::Allow)
        .with(name("users"), OnOutage::Allow);
    let dashboards = Requirement::capability("dashboards");
    for (policy, asked, expected) in [
        (&OutagePolicy::default(), Requirement::capability("exports"), OnOutage::Allow),
        (&lenient, Requirement::active(), OnOutage::Allow),
        (&lenient, dashboards, OnOutage::Allow),
        (&lenient, Requirement::capability("exports"), OnOutage::Deny),
        (&lenient, Requirement::limit("exports", 1), OnOutage::Deny),
        (&lenient, dashboards.and_limit("exports", 1), OnOutage::Deny),
        (&strict, Requirement::active(), OnOutage::Deny),
        (&strict, dashboards, OnOutage::Allow),
        (&strict, dashboards.and_limit("users", 1), OnOutage::Allow),
        (&strict, dashboards.and_limit("hosts", 1), OnOutage::Deny),
        (&strict, Requirement::capability("exports"), OnOutage::Deny),
    ] {
        assert_eq!(policy.of(&asked), expected, "{asked:?} {policy:?}");
    }
}

/// A source of both kinds that says what it is told to, at once or only to those who wait, and counts its questions.
#[derive(Debug)]
struct Says {
    status: Result<StatusAnswer, StatusError>,
    granted: Result<Answer, SourceError>,
    at_hand: (bool, bool),
    asked: Mutex<Vec<&'static str>>,
}

impl Says {
    fn new(status: Result<StatusAnswer, StatusError>, at_hand: (bool, bool)) -> Arc<Self> {
        let granted = Ok(granted(SubscriptionState::Active, Source::Cached, true));
        Arc::new(Self { status, granted, at_hand, asked: Mutex::default() })
    }

    fn guard(self: &Arc<Self>) -> Guard {
        Guard::new(self.clone(), self.clone())
    }

    fn note(&self, question: &'static str) {
        self.asked.lock().unwrap().push(question);
    }
}

#[async_trait]
impl StatusSource for Says {
    async fn status(&self, _: &OrgId) -> Result<StatusAnswer, StatusError> {
        self.note("status");
        self.status
    }

    fn cached(&self, _: &OrgId) -> Option<Result<StatusAnswer, StatusError>> {
        self.at_hand.0.then_some(self.status)
    }
}

#[async_trait]
impl EntitlementSource for Says {
    async fn entitlements(&self, _: &OrgId) -> Result<Answer, SourceError> {
        self.note("entitlements");
        self.granted.clone()
    }

    fn cached(&self, _: &OrgId) -> Option<Result<Answer, SourceError>> {
        self.at_hand.1.then(|| self.granted.clone())
    }
}

#[tokio::test]
async fn with_everything_at_hand_nobody_waits_and_all_ways_to_ask_say_the_same() {
    let says = Says::new(Ok(status(OrganizationStatus::Active, Source::Cached)), (true, true));
    let guard = says.guard();
    for (asked, lacking) in NEEDS {
        let verdict = guard.check_cached(&org(), &asked).unwrap();
        assert_eq!(verdict.decision.into_result().err(), lacking);
        assert_eq!(guard.find_cached("acme", &asked).as_ref(), Some(&verdict));
        assert_eq!(guard.check(&org(), &asked).now_or_never(), Some(verdict));
    }
    assert_eq!(guard.find_cached("Not an id", &Requirement::active()), None);
    assert!(says.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn only_what_is_not_at_hand_and_still_matters_is_asked_for() {
    let active = Ok(status(OrganizationStatus::Active, Source::Fresh));
    let suspended = Ok(status(OrganizationStatus::Suspended, Source::Fresh));
    let (plain, need) = (Requirement::active(), Requirement::capability("alerting"));
    for (status, at_hand, asked, expected) in [
        (active, (false, false), plain, vec!["status"]),
        (active, (false, false), need, vec!["status", "entitlements"]),
        (active, (true, false), need, vec!["entitlements"]),
        (active, (false, true), need, vec!["status"]),
        (active, (true, false), plain, vec![]),
        // Whatever it may use, it may not.
        (suspended, (false, false), need, vec!["status"]),
        (suspended, (true, false), need, vec![]),
        (Err(StatusError::NotFound), (false, false), need, vec!["status"]),
        // It may be a tenant all the same.
        (Err(StatusError::Unknown), (false, false), need, vec!["status", "entitlements"]),
    ] {
        let says = Says::new(status, at_hand);
        let guard = says.guard();
        assert_eq!(guard.check_cached(&org(), &asked).is_some(), expected.is_empty(), "{status:?} {asked:?}");
        let verdict = guard.check(&org(), &asked).await;
        assert_eq!(*says.asked.lock().unwrap(), expected, "{status:?} {asked:?}");
        assert_eq!((verdict.org, verdict.status), (org(), status));
        let mattered = asked == need && status != suspended && status != Err(StatusError::NotFound);
        assert_eq!(verdict.entitlements.is_some(), mattered, "{status:?} {asked:?}");
    }
}

#[tokio::test]
async fn a_verdict_tells_how_old_and_how_certain_it_is_and_what_refused_callers_hear() {
    let need = Requirement::capability("alerting");
    let guard = Says::new(Ok(status(OrganizationStatus::Active, Source::Cached)), (true, true)).guard();
    let verdict = guard.check(&org(), &need).await;
    assert_eq!((verdict.age(), verdict.is_certain()), (Some(Duration::from_secs(9)), true));
    assert_eq!(verdict.entitlements().unwrap().revision, 1);
    assert!(verdict.into_result().is_ok());
    let verdict = guard.check(&org(), &Requirement::active()).await;
    assert_eq!((verdict.age(), verdict.entitlements()), (Some(Duration::from_secs(7)), None));

    let stale = Says::new(Ok(status(OrganizationStatus::Active, Source::Stale)), (true, true)).guard();
    assert!(!stale.check(&org(), &need).await.is_certain());
    let strict = stale.with_policy(OutagePolicy::new(OnOutage::Allow).with(name("alerting"), OnOutage::Deny));
    assert!(strict.check(&org(), &Requirement::limit("hosts", 1)).await.decision.is_allowed());
    let error = strict.check(&org(), &need).await.into_result().unwrap_err();
    assert_eq!((error.reason(), error.retry_delay()), (Reason::Unavailable, Some(Duration::from_secs(1))));

    let unknown = Says::new(Err(StatusError::Unknown), (true, true)).guard();
    let verdict = unknown.check(&org(), &Requirement::active()).await;
    assert_eq!((verdict.age(), verdict.is_certain(), verdict.decision), (None, false, Decision::Allow));
}
