//! Rows to and from domain types, in every database alike. A row that is not what was written is an error that names the
//! column.

use jiff::Timestamp;
use jiff_sqlx::Timestamp as PgTimestamp;
use pulse_kernel::{EmailAddress, OrgId, OrgName, Reason, UserId};
use pulse_store::time;
use pulse_tenant_guard::TenantRole;
use sqlx::FromRow;

use crate::{
    domain::{Account, PasswordHash},
    saga::{Claim, Direction, Failure, Lease, Progress, Saga, SagaKind, State, Step, Subject},
    store::StateFilter,
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

/// A time as a database keeps it.
pub(super) trait StoredTime: Clone {
    fn instant(self) -> Result<Timestamp, sqlx::Error>;
}

/// SQLite: whole microseconds since the Unix epoch.
impl StoredTime for i64 {
    fn instant(self) -> Result<Timestamp, sqlx::Error> {
        time::from_micros(self)
    }
}

/// PostgreSQL: `timestamptz`.
impl StoredTime for PgTimestamp {
    fn instant(self) -> Result<Timestamp, sqlx::Error> {
        Ok(self.to_jiff())
    }
}

#[derive(FromRow)]
pub(super) struct AccountRow<T> {
    user_id: String,
    home_org_id: String,
    email: String,
    password_hash: String,
    created_at: T,
}

impl<T: StoredTime> TryFrom<AccountRow<T>> for Account {
    type Error = sqlx::Error;

    fn try_from(row: AccountRow<T>) -> Result<Self, sqlx::Error> {
        Ok(Self {
            user_id: user_id(&row.user_id)?,
            home_org_id: org_id(&row.home_org_id)?,
            email: EmailAddress::parse(&row.email).map_err(|_| unreadable("email"))?,
            password_hash: PasswordHash::from_phc(row.password_hash),
            created_at: row.created_at.instant()?,
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
pub(super) struct SagaRow<T> {
    org_id: String,
    kind: String,
    state: String,
    step: Option<String>,
    direction: Option<String>,
    attempts: i32,
    next_attempt_at: Option<T>,
    cause_reason: Option<String>,
    cause_message: Option<String>,
    failure_reason: Option<String>,
    failure_message: Option<String>,
    version: i64,
    lease_owner: Option<String>,
    lease_until: Option<T>,
    owner_user_id: Option<String>,
    owner_email: Option<String>,
    password_hash: Option<String>,
    org_name: Option<String>,
    trial_ends_at: Option<T>,
    created_at: T,
    updated_at: T,
}

impl<T: Clone> SagaRow<T> {
    /// The tenant, as it is stored.
    pub(super) fn org_id(&self) -> &str {
        &self.org_id
    }

    /// Where it stands in a list.
    pub(super) fn position(&self) -> (T, String, String) {
        (self.created_at.clone(), self.org_id.clone(), self.kind.clone())
    }
}

impl<T: StoredTime> TryFrom<SagaRow<T>> for Saga {
    type Error = sqlx::Error;

    fn try_from(row: SagaRow<T>) -> Result<Self, sqlx::Error> {
        Ok(Self {
            org_id: org_id(&row.org_id)?,
            progress: Progress {
                state: state(&row)?,
                attempts: u32::try_from(row.attempts).map_err(|_| unreadable("attempts"))?,
                next_attempt_at: instant(row.next_attempt_at.clone())?,
                cause: failure(row.cause_reason.as_deref(), row.cause_message.as_deref())?,
                last_failure: failure(row.failure_reason.as_deref(), row.failure_message.as_deref())?,
            },
            version: row.version,
            lease: match (&row.lease_owner, row.lease_until.clone()) {
                (Some(owner), Some(until)) => Some(Lease { owner: owner.clone(), until: until.instant()? }),
                _ => None,
            },
            created_at: row.created_at.clone().instant()?,
            updated_at: row.updated_at.clone().instant()?,
            subject: subject(row)?,
        })
    }
}

fn subject<T: StoredTime>(row: SagaRow<T>) -> Result<Subject, sqlx::Error> {
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

fn state<T>(row: &SagaRow<T>) -> Result<State, sqlx::Error> {
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

fn instant<T: StoredTime>(stored: Option<T>) -> Result<Option<Timestamp>, sqlx::Error> {
    stored.map(StoredTime::instant).transpose()
}

/// The kind of that stored name.
fn kind_from_name(name: &str) -> Option<SagaKind> {
    [SagaKind::Provision, SagaKind::Purge].into_iter().find(|kind| kind.as_str() == name)
}

/// The sagas of those rows. One that cannot be read is named in the log and left out: it must not hide the others, nor keep
/// them from being taken up.
pub(super) fn readable<T: StoredTime>(rows: Vec<SagaRow<T>>) -> Vec<Saga> {
    let sagas = rows.into_iter().filter_map(|row| {
        let org_id = row.org_id().to_owned();
        let read = Saga::try_from(row);
        read.inspect_err(|error| tracing::error!(org_id, %error, "a row of the journal cannot be read")).ok()
    });
    sagas.collect()
}

/// The name of the states that a list shows, as stored.
pub(super) const fn state_name(filter: StateFilter) -> &'static str {
    match filter {
        StateFilter::Running => "running",
        StateFilter::Compensating => "compensating",
        StateFilter::Done => "done",
        StateFilter::Undone => "undone",
        StateFilter::Stuck => "stuck",
    }
}
