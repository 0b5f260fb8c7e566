//! A tenant for an address: made, joined or found. Nothing about a tenant that was there before is ever changed.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use pulse_kernel::{EmailAddress, OrgId, OrgName, Password, Reason, UserId};
use pulse_rpc::RequestContext;
use pulse_tenant_guard::OrganizationStatus;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::App;
use crate::{
    domain::{Account, PasswordHash},
    error::ProvisionerError,
    saga::{Claim, Failure, Saga, SagaId, State, Subject, endings::Subscription},
    store::{Begun, EmailHolder},
};

/// When the journal is first looked at while another process runs the saga, which takes a fraction of a second as a rule. The time
/// to the next look doubles with each, up to the longest: that is cheap also while many wait for long.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// How long an answer about a tenant that exists waits for billing-state; the end of the trial is not worth more.
const TRIAL_LOOKUP: Duration = Duration::from_secs(1);

/// How much of the caller's time is kept to tell it that the time is over.
const ANSWER_MARGIN: Duration = Duration::from_millis(100);

/// How often an address may change hands under one request before it is told to come back.
const TRIES: usize = 4;

/// A tenant that is wanted.
#[derive(Debug)]
pub struct Wanted {
    /// Of its owner.
    pub email: EmailAddress,
    /// Of its owner.
    pub password: Password,
    /// Its display name.
    pub org_name: OrgName,
}

/// Whether the request made the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It did.
    Created,
    /// It was there, or another request was making it.
    Existing,
}

/// The tenant of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioned {
    /// The tenant.
    pub org_id: OrgId,
    /// Its owner's account.
    pub user_id: UserId,
    /// Whether this request made it.
    pub origin: Origin,
    /// When its trial ends; none when it has none, or when billing-state did not say in time.
    pub trial_ends_at: Option<Timestamp>,
}

impl App {
    /// The tenant of that address, made now if there is none.
    ///
    /// # Errors
    /// `EmailTaken` when the password is not the owner's; the saga's cause when it was undone; `StillRunning` when the
    /// caller's time ends first.
    pub async fn provision(&self, wanted: Wanted) -> Result<Provisioned, ProvisionerError> {
        let Wanted { email, password, org_name } = wanted;
        let password = Arc::new(password);
        for _ in 0..TRIES {
            match self.store.find_by_email(&email).await? {
                Some(EmailHolder::Saga(saga)) => {
                    let Some(hash) = claimed_hash(&saga) else { continue };
                    self.authenticate(&password, hash).await?;
                    return self.join(&saga).await;
                }
                Some(EmailHolder::Account { account, purging }) => {
                    self.authenticate(&password, account.password_hash.clone()).await?;
                    return if purging {
                        Err(ProvisionerError::Purging)
                    } else {
                        self.existing(&account).await
                    };
                }
                None => {
                    let password_hash = self.hashing.hash(Arc::clone(&password)).await?;
                    let claim = Claim { email: email.clone(), password_hash, org_name: org_name.clone() };
                    // Taken: another request was quicker, and the password still has to be compared with its.
                    if let Some(created) = self.create(claim).await? {
                        return Ok(created);
                    }
                }
            }
        }
        Err(ProvisionerError::Contended)
    }

    async fn authenticate(
        &self,
        password: &Arc<Password>,
        hash: PasswordHash,
    ) -> Result<(), ProvisionerError> {
        let matches = self.hashing.verify(Arc::clone(password), Some(hash)).await?;
        if matches { Ok(()) } else { Err(ProvisionerError::EmailTaken) }
    }

    /// Claims the address and waits for the saga; none when someone else has the address.
    async fn create(&self, claim: Claim) -> Result<Option<Provisioned>, ProvisionerError> {
        let room = self.engine.room().ok_or(ProvisionerError::Overloaded)?;
        let (org_id, owner) = (self.ids.org_id(), self.ids.user_id());
        let mut waiting = self.engine.endings().subscribe(&org_id);
        let subject = Subject::Provision { owner, claim: Some(claim), trial_ends_at: None };
        let lease = self.engine.runner().lease(Duration::ZERO);
        let saga = Saga::begin(org_id.clone(), subject, lease, self.now());
        match self.engine.begin(saga, self.request_id(), room).await? {
            Begun::Taken => Ok(None),
            Begun::Started => {
                let saga = self.wait(&org_id, &mut waiting, LONGEST_LOOK).await?;
                conclude(&saga, Origin::Created).map(Some)
            }
        }
    }

    /// Waits for a saga that another request has begun.
    async fn join(&self, saga: &Saga) -> Result<Provisioned, ProvisionerError> {
        let org_id = &saga.org_id;
        let is_run_here =
            saga.lease.as_ref().is_some_and(|lease| *lease.owner == *self.engine.runner().owner);
        let mut waiting = self.engine.endings().subscribe(org_id);
        // It may have ended before the subscription.
        let saga = if let Some(saga) = self.look(org_id).await? {
            saga
        } else {
            let first = if is_run_here { LONGEST_LOOK } else { FIRST_LOOK };
            self.wait(org_id, &mut waiting, first).await?
        };
        conclude(&saga, Origin::Existing)
    }

    /// Waits until the saga has ended or is stuck, or the caller's time is over; the saga goes on in any case. What a runner here
    /// says is heard at once; for others the journal is looked at, first after `look`.
    async fn wait(
        &self,
        org_id: &OrgId,
        waiting: &mut Subscription,
        mut look: Duration,
    ) -> Result<Arc<Saga>, ProvisionerError> {
        let time_is_over = async {
            match RequestContext::with(|context| context.deadline).flatten() {
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    sleep_until(deadline - ANSWER_MARGIN.min(left / 4)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::pin!(time_is_over);
        loop {
            tokio::select! {
                saga = waiting.next() => return Ok(saga),
                () = &mut time_is_over => return Err(ProvisionerError::StillRunning),
                () = sleep(look) => {
                    if let Some(saga) = self.look(org_id).await? {
                        return Ok(saga);
                    }
                    look = LONGEST_LOOK.min(look * 2);
                }
            }
        }
    }

    /// The saga, if it has ended or is stuck.
    async fn look(&self, org_id: &OrgId) -> Result<Option<Arc<Saga>>, ProvisionerError> {
        match self.store.find_saga(&SagaId::provision(org_id.clone())).await? {
            Some(saga) if saga.state().has_ended() || saga.state().is_stuck() => Ok(Some(Arc::new(saga))),
            Some(_) => Ok(None),
            // Its journal goes only when the tenant is purged.
            None => Err(ProvisionerError::Purging),
        }
    }

    /// The tenant that the account belongs to, unless lifecycle has already decided that it goes: ids that are gone in a
    /// moment are no answer.
    async fn existing(&self, account: &Account) -> Result<Provisioned, ProvisionerError> {
        let (status, trial) = tokio::join!(
            self.organizations.status(&account.home_org_id),
            timeout(TRIAL_LOOKUP, self.billing.trial_ends_at(&account.home_org_id)),
        );
        match status {
            Ok(OrganizationStatus::Purging) => return Err(ProvisionerError::Purging),
            Ok(_) => {}
            Err(error) if error.reason() == Reason::OrgNotFound => return Err(ProvisionerError::Purging),
            Err(error) => return Err(ProvisionerError::Peer(error)),
        }
        let trial_ends_at = match trial {
            Ok(Ok(ends_at)) => ends_at,
            Ok(Err(error)) => {
                tracing::warn!(%error, org_id = %account.home_org_id, "the end of the trial is not known");
                None
            }
            Err(_) => None,
        };
        Ok(Provisioned {
            org_id: account.home_org_id.clone(),
            user_id: account.user_id,
            origin: Origin::Existing,
            trial_ends_at,
        })
    }
}

/// The hash of the password with which the address was claimed; none when the saga has just ended.
fn claimed_hash(saga: &Saga) -> Option<PasswordHash> {
    match &saga.subject {
        Subject::Provision { claim: Some(claim), .. } => Some(claim.password_hash.clone()),
        Subject::Provision { claim: None, .. } | Subject::Purge => None,
    }
}

fn conclude(saga: &Saga, origin: Origin) -> Result<Provisioned, ProvisionerError> {
    let unknown = || Failure::new(Reason::Internal, "the cause was not recorded");
    match (saga.state(), &saga.subject) {
        (State::Done, Subject::Provision { owner, trial_ends_at, .. }) => Ok(Provisioned {
            org_id: saga.org_id.clone(),
            user_id: *owner,
            origin,
            trial_ends_at: *trial_ends_at,
        }),
        (State::Undone, _) => {
            Err(ProvisionerError::Undone(saga.progress.cause.clone().unwrap_or_else(unknown)))
        }
        (State::Stuck { .. }, _) => Err(ProvisionerError::Stuck),
        (State::Done | State::Running(_) | State::Compensating(_), _) => Err(ProvisionerError::StillRunning),
    }
}
