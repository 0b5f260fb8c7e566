//! The loop that executes one saga: effect, plan, commit.

use std::{sync::Arc, time::Duration};

use pulse_kernel::{Clock, Entropy, Ids, Reason};
use pulse_rpc::{RequestContext, RequestId};
use pulse_runtime::Shutdown;
use pulse_store::{StoreError, time};
use tokio::time::Instant;

use super::{
    Direction, Failure, Lease, Progress, Saga, SagaKind, State, Step, Subject,
    meters::Meters,
    plan::{InvalidTransition, Moment, Outcome, plan},
    provision, purge,
    retry::{Jitter, Tuning, after},
};
use crate::{
    clients::{Billing, Organizations},
    store::{Advance, AdvanceError, Effect, Store},
};

/// The longest pause between two tries of a commit.
const LONGEST_COMMIT_PAUSE: Duration = Duration::from_secs(1);

/// Why a runner stopped.
#[derive(Debug)]
pub enum Stopped {
    /// The saga is done or undone.
    Ended,
    /// It is stuck.
    Stuck,
    /// The process is being stopped; the lease is given back.
    Draining,
    /// Someone else runs it now.
    Fenced,
    /// The journal cannot be written; the lease runs out and someone recovers it.
    Store(StoreError),
    /// The journal asks for what cannot be.
    Invalid(InvalidTransition),
}

/// Why an advance was not made.
#[derive(Debug)]
enum NotCommitted {
    Fenced,
    EmailTaken,
    Store(StoreError),
}

/// Everything that a runner needs; clones share it.
#[derive(Debug, Clone)]
pub struct Runner {
    /// The journal, and where local steps take effect.
    pub store: Arc<dyn Store>,
    /// lifecycle.
    pub organizations: Arc<dyn Organizations>,
    /// billing-state.
    pub billing: Arc<dyn Billing>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for jitter.
    pub entropy: Arc<dyn Entropy>,
    /// The bounds.
    pub tuning: Tuning,
    /// What is counted.
    pub meters: Meters,
    /// The random id of this process, under which it holds leases.
    pub owner: Arc<str>,
    /// When to stop.
    pub shutdown: Shutdown,
}

impl Runner {
    /// A lease on a saga whose next try is in `pause`.
    pub fn lease(&self, pause: Duration) -> Lease {
        let until = after(self.clock.now(), pause.saturating_add(self.tuning.lease));
        Lease { owner: self.owner.to_string(), until: time::truncate(until) }
    }

    /// Takes over a saga that nobody runs; none when someone else was quicker.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn take_over(&self, saga: &Saga) -> Result<Option<Saga>, StoreError> {
        let leased = Saga { lease: Some(self.lease(Duration::ZERO)), updated_at: self.now(), ..saga.clone() };
        match self.commit(Advance { saga: leased, effect: Effect::None, audit: None }).await {
            Ok(saga) => Ok(Some(saga)),
            Err(NotCommitted::Fenced | NotCommitted::EmailTaken) => Ok(None),
            Err(NotCommitted::Store(error)) => Err(error),
        }
    }

    /// Runs a saga, on which this process holds the lease, until it ends, is stuck, or is someone else's. To be dropped
    /// at any point without harm: whoever takes it over goes on where the journal says. `request` is the one that caused
    /// it, if one did.
    pub async fn run(&self, mut saga: Saga, request: Option<&RequestId>) -> (Saga, Stopped) {
        let ids = Ids::new(Arc::clone(&self.clock), Arc::clone(&self.entropy));
        let calls_as = request.cloned().unwrap_or_else(|| RequestId::generate(&ids));
        loop {
            let Some((step, direction)) = saga.state().task() else { return (saga, Stopped::Ended) };
            if !self.pause(&saga).await {
                self.give_back(&saga).await;
                return (saga, Stopped::Draining);
            }
            let (outcome, effect) = if step.is_local() {
                (Outcome::Succeeded, local_effect(&saga, direction))
            } else {
                (self.act(&mut saga, step, direction, &calls_as).await, Effect::None)
            };
            let progress = match self.follow(&saga, &outcome) {
                Ok(progress) => progress,
                Err(invalid) => return (saga, Stopped::Invalid(invalid)),
            };
            // A local step needs no record of having been begun: its effect commits with the next advance.
            if !step.is_local() && !progress.state.is_stuck() && enters_local(&progress) {
                saga.progress = progress;
                continue;
            }
            match self.commit(self.advance(&saga, progress, effect, request)).await {
                Ok(advanced) => {
                    self.note(&saga, &advanced).await;
                    saga = advanced;
                    if saga.state().is_stuck() {
                        return (saga, Stopped::Stuck);
                    }
                }
                Err(NotCommitted::EmailTaken) => {
                    let taken = Failure::new(Reason::EmailTaken, "the email address already has an account");
                    match self.follow(&saga, &Outcome::Failed(taken)) {
                        Ok(progress) => saga.progress = progress,
                        Err(invalid) => return (saga, Stopped::Invalid(invalid)),
                    }
                }
                Err(NotCommitted::Fenced) => return (saga, Stopped::Fenced),
                Err(NotCommitted::Store(error)) => return (saga, Stopped::Store(error)),
            }
        }
    }

    /// Waits until the next try is due; says no when the process is being stopped instead.
    async fn pause(&self, saga: &Saga) -> bool {
        let due = saga.progress.next_attempt_at.unwrap_or_else(|| self.now());
        // A negative length, for what is due already, is none.
        let pause = Duration::try_from(due.duration_since(self.clock.now())).unwrap_or_default();
        // However far the clock was set back, nobody waits for longer than the longest pause.
        let pause = pause.min(self.tuning.longest_backoff);
        if pause.is_zero() {
            return true;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = self.shutdown.draining() => false,
        }
    }

    /// Does or undoes a step in another service, for at most the deadline. What came of it by then nobody knows, and the
    /// step is repeated.
    async fn act(
        &self,
        saga: &mut Saga,
        step: Step,
        direction: Direction,
        request_id: &RequestId,
    ) -> Outcome {
        let deadline = Instant::now() + self.tuning.rpc_deadline;
        let context = RequestContext { request_id: request_id.clone(), deadline: Some(deadline) };
        let (organizations, billing) = (&*self.organizations, &*self.billing);
        let call = async {
            match step.kind() {
                SagaKind::Provision => provision::act(saga, step, direction, organizations, billing).await,
                SagaKind::Purge => purge::act(saga, step, organizations, billing).await,
            }
        };
        match tokio::time::timeout_at(deadline, context.scope(call)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Failed(error.into()),
            Err(_) => {
                Outcome::Failed(Failure::new(Reason::DeadlineExceeded, "the service did not answer in time"))
            }
        }
    }

    fn follow(&self, saga: &Saga, outcome: &Outcome) -> Result<Progress, InvalidTransition> {
        let moment = Moment { now: self.now(), jitter: Jitter::draw(&*self.entropy) };
        let progress = plan(&saga.progress, outcome, moment, &self.tuning)?;
        if let Outcome::Failed(failure) = outcome {
            let (org_id, attempts) = (&saga.org_id, saga.progress.attempts + 1);
            tracing::warn!(%org_id, state = ?saga.state(), %failure, attempts, next = ?progress.state, "a step failed");
        }
        Ok(progress)
    }

    /// The advance to `progress`: with a lease for as long as it goes on, and with a record when it has ended.
    fn advance(
        &self,
        saga: &Saga,
        progress: Progress,
        effect: Effect,
        request: Option<&RequestId>,
    ) -> Advance {
        let now = self.now();
        let goes_on = !progress.state.has_ended() && !progress.state.is_stuck();
        let pause = progress.next_attempt_at.map(|due| due.duration_since(now)).unwrap_or_default();
        let pause = Duration::try_from(pause).unwrap_or_default();
        let mut next =
            Saga { lease: goes_on.then(|| self.lease(pause)), updated_at: now, progress, ..saga.clone() };
        let ended = next.state().has_ended();
        let effect = match (&mut next.subject, ended) {
            (Subject::Provision { claim, .. }, true) => {
                *claim = None;
                effect
            }
            // Nothing is left to tell of a tenant that is gone.
            (Subject::Purge, true) => Effect::Forget,
            (_, false) => effect,
        };
        let audit = provision::ended_record(&next, now, request.map(ToString::to_string));
        Advance { saga: next, effect, audit }
    }

    /// Commits an advance. An outcome that nobody knows is read back; one that certainly failed is tried again, also when the
    /// store is only overloaded: what has begun is not shed. After a while the saga is left to whoever recovers it.
    async fn commit(&self, advance: Advance) -> Result<Saga, NotCommitted> {
        let mut advanced = advance.saga.clone();
        advanced.version += 1;
        let patience = Instant::now() + self.tuning.commit_patience();
        let mut unknown = false;
        let mut tries = 0;
        loop {
            let error = match self.store.advance(advance.clone()).await {
                Ok(()) => return Ok(advanced),
                Err(AdvanceError::EmailTaken) => return Err(NotCommitted::EmailTaken),
                Err(AdvanceError::Fenced) if !unknown => return Err(NotCommitted::Fenced),
                // After an outcome that nobody knew, the other runner may be an earlier try of this one.
                Err(AdvanceError::Fenced) => None,
                Err(AdvanceError::Store(error)) => Some(error),
            };
            unknown |= matches!(error, None | Some(StoreError::Ambiguous(_)));
            if unknown {
                match self.is_committed(&advance, &advanced).await {
                    Ok(Some(true)) => return Ok(advanced),
                    Ok(Some(false)) => return Err(NotCommitted::Fenced),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "the journal cannot be read back"),
                }
            }
            tries += 1;
            let pause = self.tuning.backoff(tries, Jitter::draw(&*self.entropy)).min(LONGEST_COMMIT_PAUSE);
            let is_over = Instant::now() + pause > patience;
            match error {
                Some(error) if !error.is_transient() || is_over => return Err(NotCommitted::Store(error)),
                None if is_over => return Err(NotCommitted::Fenced),
                Some(_) | None => {}
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether the journal holds this advance (yes), that of another (no), or neither yet (none).
    async fn is_committed(&self, advance: &Advance, advanced: &Saga) -> Result<Option<bool>, StoreError> {
        let row = self.store.find_saga(&advance.saga.id()).await?;
        Ok(match row {
            // Gone is what was wanted of it; and a row that someone else removed is no longer ours either.
            None => Some(matches!(advance.effect, Effect::Forget)),
            Some(row) if row.version == advance.saga.version => None,
            Some(row) => Some(
                row.version == advanced.version
                    && row.state() == advanced.state()
                    && row.lease == advanced.lease
                    && row.updated_at == advanced.updated_at,
            ),
        })
    }

    /// Logs and counts what has just been committed.
    async fn note(&self, before: &Saga, after: &Saga) {
        if after.state().has_ended() {
            self.meters.ended(after);
            let (org_id, kind) = (&after.org_id, after.subject.kind().as_str());
            let cause = after.progress.cause.as_ref().map(tracing::field::display);
            tracing::info!(%org_id, kind, state = ?after.state(), cause, "ended");
        }
        if before.state().is_stuck() != after.state().is_stuck() {
            if let State::Stuck { step, direction } = after.state() {
                let (org_id, direction) = (&after.org_id, direction.as_str());
                tracing::error!(%org_id, %step, direction, failure = ?after.progress.last_failure, "stuck");
            }
            self.count_stuck().await;
        }
    }

    /// Counts what is stuck, anew.
    pub async fn count_stuck(&self) {
        match self.store.count_stuck().await {
            Ok(count) => self.meters.set_stuck(count),
            Err(error) => tracing::warn!(%error, "stuck sagas cannot be counted"),
        }
    }

    /// Lets others take the saga over at once, rather than when the lease runs out.
    async fn give_back(&self, saga: &Saga) {
        let given = Advance {
            saga: Saga { lease: None, updated_at: self.now(), ..saga.clone() },
            effect: Effect::None,
            audit: None,
        };
        // When it fails the lease runs out.
        if let Err(error) = self.store.advance(given).await {
            tracing::debug!(%error, "a lease was not given back");
        }
    }

    /// The time, as precisely as the journal keeps it.
    fn now(&self) -> jiff::Timestamp {
        time::truncate(self.clock.now())
    }
}

/// What doing or undoing a local step changes in this store.
fn local_effect(saga: &Saga, direction: Direction) -> Effect {
    match saga.subject {
        Subject::Provision { .. } => provision::local_effect(saga, direction),
        Subject::Purge => Effect::DeleteTenant,
    }
}

const fn enters_local(progress: &Progress) -> bool {
    match progress.state.task() {
        Some((step, _)) => step.is_local(),
        None => false,
    }
}
