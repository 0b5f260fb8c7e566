//! The state of a subscription, and every change of it that is legal.

use std::{fmt, str::FromStr};

use pulse_kernel::{ApiError, Reason};
use serde::{Deserialize, Serialize};

/// Where a tenant's subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubscriptionState {
    /// Trying the product, until the trial's end.
    Trial,
    /// Paid.
    Active,
    /// A payment failed; everything still works, until the grace's end.
    Grace,
    /// Over, by time or by cancellation: nothing is granted until a payment arrives.
    Expired,
    /// Stopped by billing, say for a chargeback: nothing is granted, and a payment alone does not lift it.
    Suspended,
}

/// What happens to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The tenant is given its first billing state.
    TrialStarted,
    /// The trial's end was reached.
    TrialEnded,
    /// A payment arrived: a first one, a renewal, or one that was overdue.
    PaymentSucceeded,
    /// A payment that was due did not arrive.
    PaymentFailed,
    /// The grace's end was reached without a payment.
    GraceEnded,
    /// Billing stops the subscription.
    Suspended,
    /// Billing lifts its own suspension.
    Reinstated,
    /// The customer, or billing for the customer, ends the subscription.
    Cancelled,
}

/// A change that the table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a subscription that is {from} cannot take the event {event}")]
pub struct InvalidTransition {
    /// The state it was in.
    pub from: SubscriptionState,
    /// What was tried.
    pub event: Event,
}

/// How an operator's change of state relates to the table; recorded in the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The state stays; other fields may not.
    Unchanged,
    /// The table has this change, by this event.
    Transition(Event),
    /// The table does not have it: the operator overrides it.
    Override,
}

impl SubscriptionState {
    /// All of them, in the order of the contract.
    pub const ALL: [Self; 5] = [Self::Trial, Self::Active, Self::Grace, Self::Expired, Self::Suspended];

    /// The name as it is stored and sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Active => "active",
            Self::Grace => "grace",
            Self::Expired => "expired",
            Self::Suspended => "suspended",
        }
    }

    /// Reads a name, exactly as [`as_str`](Self::as_str) writes it.
    ///
    /// # Errors
    /// `INVALID_SUBSCRIPTION_STATE` naming `subscription_state` and the five names that are accepted.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            ApiError::field(
                Reason::InvalidSubscriptionState,
                "subscription_state",
                "must be one of trial, active, grace, expired, suspended",
            )
        })
    }

    /// Whether this state grants nothing.
    pub const fn is_locked(self) -> bool {
        match self {
            Self::Trial | Self::Active | Self::Grace => false,
            Self::Expired | Self::Suspended => true,
        }
    }

    /// The state of a tenant that had none: a trial is started once and never again.
    ///
    /// # Errors
    /// When there is a state already.
    pub const fn begin(existing: Option<Self>) -> Result<Self, InvalidTransition> {
        match existing {
            None => Ok(Self::Trial),
            Some(from) => Err(InvalidTransition { from, event: Event::TrialStarted }),
        }
    }

    /// The state after `event`.
    ///
    /// | from \ event | trial ended | payment succeeded | payment failed | grace ended | suspended | reinstated | cancelled |
    /// |---|---|---|---|---|---|---|---|
    /// | trial | expired | active | | | suspended | | expired |
    /// | active | | active | grace | | suspended | | expired |
    /// | grace | | active | grace | expired | suspended | | expired |
    /// | expired | | active | | | suspended | | |
    /// | suspended | | | | | | active | expired |
    ///
    /// # Errors
    /// Where the table is empty.
    pub const fn on(self, event: Event) -> Result<Self, InvalidTransition> {
        use Event as E;
        match (self, event) {
            (Self::Trial, E::TrialEnded)
            | (Self::Grace, E::GraceEnded)
            | (Self::Trial | Self::Active | Self::Grace | Self::Suspended, E::Cancelled) => Ok(Self::Expired),
            (Self::Trial | Self::Active | Self::Grace | Self::Expired, E::PaymentSucceeded)
            | (Self::Suspended, E::Reinstated) => Ok(Self::Active),
            (Self::Active | Self::Grace, E::PaymentFailed) => Ok(Self::Grace),
            (Self::Trial | Self::Active | Self::Grace | Self::Expired, E::Suspended) => Ok(Self::Suspended),
            (Self::Trial, E::TrialStarted | E::PaymentFailed | E::GraceEnded | E::Reinstated)
            | (Self::Active, E::TrialStarted | E::TrialEnded | E::GraceEnded | E::Reinstated)
            | (Self::Grace, E::TrialStarted | E::TrialEnded | E::Reinstated)
            | (
                Self::Expired,
                E::TrialStarted
                | E::TrialEnded
                | E::PaymentFailed
                | E::GraceEnded
                | E::Reinstated
                | E::Cancelled,
            )
            | (
                Self::Suspended,
                E::TrialStarted
                | E::TrialEnded
                | E::PaymentSucceeded
                | E::PaymentFailed
                | E::GraceEnded
                | E::Suspended,
            ) => Err(InvalidTransition { from: self, event }),
        }
    }
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::TrialStarted,
        Self::TrialEnded,
        Self::PaymentSucceeded,
        Self::PaymentFailed,
        Self::GraceEnded,
        Self::Suspended,
        Self::Reinstated,
        Self::Cancelled,
    ];

    /// The name as it stands in the audit.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TrialStarted => "trial_started",
            Self::TrialEnded => "trial_ended",
            Self::PaymentSucceeded => "payment_succeeded",
            Self::PaymentFailed => "payment_failed",
            Self::GraceEnded => "grace_ended",
            Self::Suspended => "suspended",
            Self::Reinstated => "reinstated",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Change {
    /// Classifies a change to `to` of a tenant that was effectively `from` (`None`: it had no state).
    pub fn classify(from: Option<SubscriptionState>, to: SubscriptionState) -> Self {
        let event = match from {
            Some(from) if from == to => return Self::Unchanged,
            Some(from) => Event::ALL.into_iter().find(|event| from.on(*event) == Ok(to)),
            None => (SubscriptionState::begin(None) == Ok(to)).then_some(Event::TrialStarted),
        };
        event.map_or(Self::Override, Self::Transition)
    }

    /// The name as it stands in the audit: `unchanged`, an event's name, or `override`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Transition(event) => event.as_str(),
            Self::Override => "override",
        }
    }
}

impl fmt::Display for SubscriptionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SubscriptionState {
    type Err = ApiError;
    fn from_str(text: &str) -> Result<Self, ApiError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Event::{
            Cancelled, GraceEnded, PaymentFailed, PaymentSucceeded, Reinstated, TrialEnded, TrialStarted,
        },
        SubscriptionState::{Active, Expired, Grace, Suspended, Trial},
        *,
    };

    /// The table again, written the other way round; what is not here is refused.
    const LEGAL: [(SubscriptionState, Event, SubscriptionState); 17] = [
        (Trial, TrialEnded, Expired),
        (Trial, PaymentSucceeded, Active),
        (Trial, Event::Suspended, Suspended),
        (Trial, Cancelled, Expired),
        (Active, PaymentSucceeded, Active),
        (Active, PaymentFailed, Grace),
        (Active, Event::Suspended, Suspended),
        (Active, Cancelled, Expired),
        (Grace, PaymentSucceeded, Active),
        (Grace, PaymentFailed, Grace),
        (Grace, GraceEnded, Expired),
        (Grace, Event::Suspended, Suspended),
        (Grace, Cancelled, Expired),
        (Expired, PaymentSucceeded, Active),
        (Expired, Event::Suspended, Suspended),
        (Suspended, Reinstated, Active),
        (Suspended, Cancelled, Expired),
    ];

    #[test]
    fn the_table_is_exactly_this() {
        for from in SubscriptionState::ALL {
            for event in Event::ALL {
                let expected = LEGAL
                    .iter()
                    .find(|(f, e, _)| (*f, *e) == (from, event))
                    .map(|(_, _, to)| *to)
                    .ok_or(InvalidTransition { from, event });
                assert_eq!(from.on(event), expected, "{from} on {event}");
            }
        }
    }

    #[test]
    fn a_payment_does_not_lift_a_suspension() {
        assert!(Suspended.on(PaymentSucceeded).is_err());
    }

    #[test]
    fn a_trial_begins_once() {
        assert_eq!(SubscriptionState::begin(None), Ok(Trial));
        for from in SubscriptionState::ALL {
            assert_eq!(
                SubscriptionState::begin(Some(from)),
                Err(InvalidTransition { from, event: TrialStarted })
            );
        }
    }

    #[test]
    fn names_read_back_and_nothing_else_does() {
        for state in SubscriptionState::ALL {
            assert_eq!(SubscriptionState::parse(state.as_str()), Ok(state));
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
        for text in ["", "Trial", "ACTIVE", " trial", "cancelled", "pending", "trial\0"] {
            let error = SubscriptionState::parse(text).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidSubscriptionState, "{text:?}");
            assert!(error.message().contains("trial, active, grace, expired, suspended"));
        }
    }

    #[test]
    fn every_change_of_state_is_a_transition_or_an_override() {
        for from in SubscriptionState::ALL {
            for to in SubscriptionState::ALL {
                match Change::classify(Some(from), to) {
                    Change::Unchanged => assert_eq!(from, to),
                    Change::Transition(event) => assert_eq!(from.on(event), Ok(to)),
                    Change::Override => assert!(!LEGAL.iter().any(|(f, _, t)| (*f, *t) == (from, to))),
                }
            }
        }
        assert_eq!(Change::classify(None, Trial), Change::Transition(TrialStarted));
        assert_eq!(Change::classify(None, Active), Change::Override);
        assert_eq!(Change::classify(Some(Expired), Trial).as_str(), "override");
    }
}
