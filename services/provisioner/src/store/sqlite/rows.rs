//! Rows to and from domain types. A row that is not what was written is an error that names the column.

use jiff::Timestamp;
use pulse_kernel::{EmailAddress, OrgId, OrgName, Reason, UserId};
use pulse_store::time;
use pulse_tenant_guard::TenantRole;
use sqlx::FromRow;

use super::kind_from_name;
use crate::{
    domain::{Account, PasswordHash},
    saga::{Claim, Direction, Failure, Lease, Progress, Saga, SagaKind, State, Step, Subject},
};

/// A stored value that this program cannot have written.
#[derive(Debug, thiserror::Error)]
#[error("column {0} holds what it cannot hold")]
struct Unreadable(&'static str);

fn unreadable(column: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(Unreadable(column)))
}

pub(super) fn org_id(text: &str) -> Result<OrgId, sqlx::Error> {
    OrgId::parse(text).map_err(|_| unreadable("org_id"))
}

pub(super) fn user_id(text: &str) -> Result<UserId, sqlx::Error> {
    UserId::parse(text).map_err(|_| unreadable("user_id"))
}

pub(super) fn role(name: &str) -> Result<TenantRole, sqlx::Error> {
    TenantRole::parse(name).map_err(|_| unreadable("role"))
}

/// The address that a saga claims, if it does.
pub(super) fn claimed_email(saga: &Saga) -> Option<&str> {
    claim(saga).map(|claim| claim.email.canonical())
}

pub(super) const fn claim(saga: &Saga) -> Option<&Claim> {
    match &saga.subject {
        Subject::Provision { claim, .. } => claim.as_ref(),
        Subject::Purge => None,
    }
}

#[derive(FromRow)]
pub(super) struct AccountRow {
    user_id: String,
    home_org_id: String,
    email: String,
    password_hash: String,
    created_at: i64,
}

impl TryFrom<AccountRow> for Account {
    type Error = sqlx::Error;

    fn try_from(row: AccountRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            user_id: user_id(&row.user_id)?,
            home_org_id: org_id(&row.home_org_id)?,
            email: EmailAddress::parse(&row.email).map_err(|_| unreadable("email"))?,
            password_hash: PasswordHash::from_phc(row.password_hash),
            created_at: time::from_micros(row.created_at)?,
        })
    }
}

/// How a state is stored: its name, its step, and for a stuck saga its direction.
pub(super) const fn state_columns(
    state: State,
) -> (&'static str, Option<&'static str>, Option<&'static str>) {
    match state {
        State::Running(step) => ("running", Some(step.as_str()), None),
        State::Compensating(step) => ("compensating", Some(step.as_str()), None),
        State::Done => ("done", None, None),
        State::Undone => ("undone", None, None),
        State::Stuck { step, direction } => ("stuck", Some(step.as_str()), Some(direction.as_str())),
    }
}

#[derive(FromRow)]
pub(super) struct SagaRow {
    org_id: String,
    kind: String,
    state: String,
    step: Option<String>,
    direction: Option<String>,
    attempts: i64,
    next_attempt_at: Option<i64>,
    cause_reason: Option<String>,
    cause_message: Option<String>,
    failure_reason: Option<String>,
    failure_message: Option<String>,
    version: i64,
    lease_owner: Option<String>,
    lease_until: Option<i64>,
    owner_user_id: Option<String>,
    owner_email: Option<String>,
    password_hash: Option<String>,
    org_name: Option<String>,
    trial_ends_at: Option<i64>,
    created_at: i64,
    updated_at: i64,
}

impl SagaRow {
    /// The tenant, as it is stored.
    pub(super) fn org_id(&self) -> &str {
        &self.org_id
    }

    /// Where it stands in a list.
    pub(super) fn position(&self) -> (i64, String, String) {
        (self.created_at, self.org_id.clone(), self.kind.clone())
    }
}

impl TryFrom<SagaRow> for Saga {
    type Error = sqlx::Error;

    fn try_from(row: SagaRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            org_id: org_id(&row.org_id)?,
            progress: Progress {
                state: state(&row)?,
                attempts: u32::try_from(row.attempts).map_err(|_| unreadable("attempts"))?,
                next_attempt_at: instant(row.next_attempt_at)?,
                cause: failure(row.cause_reason.as_deref(), row.cause_message.as_deref())?,
                last_failure: failure(row.failure_reason.as_deref(), row.failure_message.as_deref())?,
            },
            version: row.version,
            lease: match (&row.lease_owner, row.lease_until) {
                (Some(owner), Some(until)) => {
                    Some(Lease { owner: owner.clone(), until: time::from_micros(until)? })
                }
                _ => None,
            },
            created_at: time::from_micros(row.created_at)?,
            updated_at: time::from_micros(row.updated_at)?,
            subject: subject(row)?,
        })
    }
}

fn subject(row: SagaRow) -> Result<Subject, sqlx::Error> {
    match kind_from_name(&row.kind).ok_or_else(|| unreadable("kind"))? {
        SagaKind::Purge => Ok(Subject::Purge),
        SagaKind::Provision => {
            let owner = row.owner_user_id.ok_or_else(|| unreadable("owner_user_id"))?;
            let claim = match (row.owner_email, row.password_hash, row.org_name) {
                (Some(email), Some(hash), Some(name)) => Some(Claim {
                    email: EmailAddress::parse(&email).map_err(|_| unreadable("owner_email"))?,
                    password_hash: PasswordHash::from_phc(hash),
                    org_name: OrgName::parse(&name).map_err(|_| unreadable("org_name"))?,
                }),
                (None, None, None) => None,
                _ => return Err(unreadable("owner_email")),
            };
            let trial_ends_at = instant(row.trial_ends_at)?;
            Ok(Subject::Provision { owner: user_id(&owner)?, claim, trial_ends_at })
        }
    }
}

fn state(row: &SagaRow) -> Result<State, sqlx::Error> {
    let step = || {
        let name = row.step.as_deref();
        Step::ALL.into_iter().find(|step| Some(step.as_str()) == name).ok_or_else(|| unreadable("step"))
    };
    match (row.state.as_str(), row.direction.as_deref()) {
        ("running", None) => Ok(State::Running(step()?)),
        ("compensating", None) => Ok(State::Compensating(step()?)),
        ("done", None) => Ok(State::Done),
        ("undone", None) => Ok(State::Undone),
        ("stuck", Some("forward")) => Ok(State::Stuck { step: step()?, direction: Direction::Forward }),
        ("stuck", Some("backward")) => Ok(State::Stuck { step: step()?, direction: Direction::Backward }),
        _ => Err(unreadable("state")),
    }
}

fn failure(reason: Option<&str>, message: Option<&str>) -> Result<Option<Failure>, sqlx::Error> {
    let (Some(reason), Some(message)) = (reason, message) else { return Ok(None) };
    let reason = Reason::from_wire(reason).ok_or_else(|| unreadable("failure_reason"))?;
    Ok(Some(Failure::new(reason, message)))
}

fn instant(micros: Option<i64>) -> Result<Option<Timestamp>, sqlx::Error> {
    micros.map(time::from_micros).transpose()
}
