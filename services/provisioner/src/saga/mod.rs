//! The saga engine: how a tenant is made, and unmade, across services that fail one by one.
//!
//! | file | holds |
//! |---|---|
//! | here | the journal: [`Saga`], its [`State`] and [`Step`]s |
//! | [`plan`] | what follows from an outcome: pure, exhaustive |
//! | [`retry`] | backoff, and the numbers that bound it |
//! | [`runner`] | the loop that executes: effect, plan, commit |
//! | [`provision`], [`purge`] | the effects of the two sagas' steps |
//! | [`engine`] | starts, recovers and finds runners; wakes those who wait |
//! | [`endings`] | who waits for which saga |
//! | [`meters`] | what is counted |
//!
//! ```text
//! provision  create_organization -> insert_account* -> start_trial -> activate_organization -> done
//!            and backwards, from the step that failed, to undone
//! purge      purge_billing_state -> delete_accounts* -> finish_purge -> done (the journal row goes too)
//! ```
//! A step marked * is local: its effect commits together with the journal's advance, so it needs no record of having been
//! begun. Every other step is recorded before its effect, is idempotent, and may be repeated by whoever takes the saga over.
//!
//! The pivot is `activate_organization`: a failed activation is undone by abandoning the organization, and lifecycle
//! refuses that once it is active. Then the activation had taken effect after all and the saga is done.

pub mod endings;
pub mod engine;
pub mod meters;
pub mod plan;
pub mod provision;
pub mod purge;
pub mod retry;
pub mod runner;

use std::fmt;

use jiff::Timestamp;
use pulse_kernel::{ApiError, EmailAddress, ErrorKind, OrgId, OrgName, Reason, UserId};

use crate::domain::PasswordHash;

/// Which of the two sagas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SagaKind {
    /// Makes a tenant.
    Provision,
    /// Unmakes a tenant whose retention is over.
    Purge,
}

impl SagaKind {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provision => "provision",
            Self::Purge => "purge",
        }
    }

    /// Its first step.
    pub const fn first_step(self) -> Step {
        match self {
            Self::Provision => Step::CreateOrganization,
            Self::Purge => Step::PurgeBillingState,
        }
    }
}

/// One step of a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// lifecycle: the organization, in status provisioning.
    CreateOrganization,
    /// Local: the owner's account and its role.
    InsertAccount,
    /// billing-state: the trial.
    StartTrial,
    /// lifecycle: the organization becomes active.
    ActivateOrganization,
    /// billing-state: everything about the tenant, after lifecycle has confirmed that it is purging.
    PurgeBillingState,
    /// Local: the tenant's accounts, roles, audit records and its provisioning journal.
    DeleteAccounts,
    /// lifecycle: the organization becomes a tombstone.
    FinishPurge,
}

impl Step {
    /// Every step of both sagas.
    pub const ALL: [Self; 7] = [
        Self::CreateOrganization,
        Self::InsertAccount,
        Self::StartTrial,
        Self::ActivateOrganization,
        Self::PurgeBillingState,
        Self::DeleteAccounts,
        Self::FinishPurge,
    ];

    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateOrganization => "create_organization",
            Self::InsertAccount => "insert_account",
            Self::StartTrial => "start_trial",
            Self::ActivateOrganization => "activate_organization",
            Self::PurgeBillingState => "purge_billing_state",
            Self::DeleteAccounts => "delete_accounts",
            Self::FinishPurge => "finish_purge",
        }
    }

    /// The saga that it is a step of.
    pub const fn kind(self) -> SagaKind {
        match self {
            Self::CreateOrganization
            | Self::InsertAccount
            | Self::StartTrial
            | Self::ActivateOrganization => SagaKind::Provision,
            Self::PurgeBillingState | Self::DeleteAccounts | Self::FinishPurge => SagaKind::Purge,
        }
    }

    /// The step after it; none after the last.
    pub const fn next(self) -> Option<Self> {
        match self {
            Self::CreateOrganization => Some(Self::InsertAccount),
            Self::InsertAccount => Some(Self::StartTrial),
            Self::StartTrial => Some(Self::ActivateOrganization),
            Self::PurgeBillingState => Some(Self::DeleteAccounts),
            Self::DeleteAccounts => Some(Self::FinishPurge),
            Self::ActivateOrganization | Self::FinishPurge => None,
        }
    }

    /// The step before it, which is undone after it. A purge is never undone.
    pub const fn previous(self) -> Option<Self> {
        match self {
            Self::InsertAccount => Some(Self::CreateOrganization),
            Self::StartTrial => Some(Self::InsertAccount),
            Self::ActivateOrganization => Some(Self::StartTrial),
            Self::CreateOrganization | Self::PurgeBillingState | Self::DeleteAccounts | Self::FinishPurge => {
                None
            }
        }
    }

    /// Whether its effect is in this service's own store, and so commits with the journal.
    pub const fn is_local(self) -> bool {
        matches!(self, Self::InsertAccount | Self::DeleteAccounts)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which way a saga goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Doing its steps.
    Forward,
    /// Undoing them.
    Backward,
}

impl Direction {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
        }
    }
}

/// Where a saga is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// About to do the step, or doing it.
    Running(Step),
    /// About to undo the step, which may have been done or not.
    Compensating(Step),
    /// Everything is there; or, for a purge, nothing is left.
    Done,
    /// Nothing of it is left.
    Undone,
    /// The step keeps failing: tried seldom, or not at all until an operator says so.
    Stuck {
        /// The step that fails.
        step: Step,
        /// Whether it was being done or undone.
        direction: Direction,
    },
}

impl State {
    /// What is to be done next; nothing once it has ended.
    pub const fn task(self) -> Option<(Step, Direction)> {
        match self {
            Self::Running(step) => Some((step, Direction::Forward)),
            Self::Compensating(step) => Some((step, Direction::Backward)),
            Self::Stuck { step, direction } => Some((step, direction)),
            Self::Done | Self::Undone => None,
        }
    }

    /// Whether it has ended, one way or the other.
    pub const fn has_ended(self) -> bool {
        self.task().is_none()
    }

    /// Whether it is stuck.
    pub const fn is_stuck(self) -> bool {
        matches!(self, Self::Stuck { .. })
    }
}

/// Why a try failed. Holds no personal data: it is shown to operators and, as a cause, to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason, by which it is transient or permanent.
    pub reason: Reason,
    /// The message of the service that refused.
    pub message: String,
}

impl Failure {
    /// A failure with a message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// Whether the same call may succeed later. An unexpected error counts as such: tries are bounded in any case.
    pub const fn is_transient(&self) -> bool {
        match self.reason.kind() {
            ErrorKind::Unavailable
            | ErrorKind::DeadlineExceeded
            | ErrorKind::ResourceExhausted
            | ErrorKind::Aborted
            | ErrorKind::Internal => true,
            ErrorKind::InvalidArgument
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::FailedPrecondition
            | ErrorKind::DataLoss => false,
        }
    }

    /// Whether it says that what is there was made by someone else, so that there is nothing of ours to undo.
    pub const fn is_foreign(&self) -> bool {
        matches!(self.reason, Reason::OrgIdTaken)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::new(error.reason(), error.message())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.message)
    }
}

/// How far a saga is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Where it is.
    pub state: State,
    /// How often the current step has failed.
    pub attempts: u32,
    /// When the next try is due; none when none is planned.
    pub next_attempt_at: Option<Timestamp>,
    /// Why it is being undone, or was.
    pub cause: Option<Failure>,
    /// Why the last try of the current step failed.
    pub last_failure: Option<Failure>,
}

impl Progress {
    /// At the beginning.
    pub const fn new(kind: SagaKind, now: Timestamp) -> Self {
        Self {
            state: State::Running(kind.first_step()),
            attempts: 0,
            next_attempt_at: Some(now),
            cause: None,
            last_failure: None,
        }
    }
}

/// Who runs a saga, and until when others keep off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// A random id of the process.
    pub owner: String,
    /// From then on any process may take over.
    pub until: Timestamp,
}

/// What a provisioning needs to know until it has ended, cleared then.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The owner's address: one saga, and one account, for each canonical form.
    pub email: EmailAddress,
    /// Of the owner's password.
    pub password_hash: PasswordHash,
    /// The organization's display name.
    pub org_name: OrgName,
}

/// What the saga is about.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A tenant on its way into being.
    Provision {
        /// The owner's account.
        owner: UserId,
        /// None once the saga has ended.
        claim: Option<Claim>,
        /// Known once the trial has started.
        trial_ends_at: Option<Timestamp>,
    },
    /// A tenant on its way out of being.
    Purge,
}

impl Subject {
    /// Which saga it is the subject of.
    pub const fn kind(&self) -> SagaKind {
        match self {
            Self::Provision { .. } => SagaKind::Provision,
            Self::Purge => SagaKind::Purge,
        }
    }
}

/// Names a saga: each tenant has at most one of each kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SagaId {
    /// The tenant.
    pub org_id: OrgId,
    /// Which of its two sagas.
    pub kind: SagaKind,
}

impl SagaId {
    /// The saga that makes the tenant.
    pub const fn provision(org_id: OrgId) -> Self {
        Self { org_id, kind: SagaKind::Provision }
    }

    /// The saga that unmakes the tenant.
    pub const fn purge(org_id: OrgId) -> Self {
        Self { org_id, kind: SagaKind::Purge }
    }
}

/// A saga as its journal row tells it.
#[derive(Debug, Clone)]
pub struct Saga {
    /// The tenant; the saga's own id at the same time.
    pub org_id: OrgId,
    /// What it is about.
    pub subject: Subject,
    /// How far it is.
    pub progress: Progress,
    /// Grows with every change: the fencing token of whoever runs it.
    pub version: i64,
    /// Who runs it.
    pub lease: Option<Lease>,
    /// When it was claimed.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Saga {
    /// A saga about to begin, run by the holder of `lease`.
    pub fn begin(org_id: OrgId, subject: Subject, lease: Lease, now: Timestamp) -> Self {
        Self {
            org_id,
            progress: Progress::new(subject.kind(), now),
            subject,
            version: 1,
            lease: Some(lease),
            created_at: now,
            updated_at: now,
        }
    }

    /// Its name.
    pub fn id(&self) -> SagaId {
        SagaId { org_id: self.org_id.clone(), kind: self.subject.kind() }
    }

    /// Where it is.
    pub const fn state(&self) -> State {
        self.progress.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_chain_forwards_and_backwards_within_their_saga() {
        for step in Step::ALL {
            assert!(step.next().is_none_or(|next| next.kind() == step.kind()), "{step}");
            if let Some(previous) = step.previous() {
                assert_eq!(previous.next(), Some(step));
            }
        }
        let walk = |kind: SagaKind| std::iter::successors(Some(kind.first_step()), |step| step.next());
        assert_eq!(walk(SagaKind::Provision).chain(walk(SagaKind::Purge)).collect::<Vec<_>>(), Step::ALL);
    }

    #[test]
    fn a_refusal_is_permanent_and_an_outage_is_not() {
        for (reason, transient) in [
            (Reason::Unavailable, true),
            (Reason::DeadlineExceeded, true),
            (Reason::Overloaded, true),
            (Reason::Internal, true),
            (Reason::EmailTaken, false),
            (Reason::InvalidOrgName, false),
            (Reason::OrgNotFound, false),
            (Reason::StoredStateUnreadable, false),
        ] {
            assert_eq!(Failure::new(reason, "").is_transient(), transient, "{reason:?}");
        }
    }
}
