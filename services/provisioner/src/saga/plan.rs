//! What follows from the outcome of a step. Pure: the journal as it is, the outcome and the moment decide.

use jiff::Timestamp;

use super::{
    Direction, Failure, Progress, SagaKind, State, Step,
    retry::{Jitter, Tuning, after},
};

/// What came of doing, or undoing, the current step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect, now or before.
    Succeeded,
    /// It did not, as far as anyone knows.
    Failed(Failure),
    /// It turned out that the whole saga has reached its goal: the organization that was to be abandoned is active, or
    /// the one that was to be purged is gone.
    GoalReached,
}

/// When a plan is made, and the chance that goes into it.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The time.
    pub now: Timestamp,
    /// Spreads the next try.
    pub jitter: Jitter,
}

/// An outcome that cannot be, in that state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a saga in state {from:?} cannot have the outcome {outcome:?}")]
pub struct InvalidTransition {
    /// The state.
    pub from: State,
    /// The outcome.
    pub outcome: Outcome,
}

/// A saga that an operator wants to set going, or to give up, but that is not stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the saga is not stuck")]
pub struct NotStuck;

/// The progress that follows.
///
/// # Errors
/// When a saga has ended already, or the outcome does not belong to its step.
pub fn plan(
    progress: &Progress,
    outcome: &Outcome,
    moment: Moment,
    tuning: &Tuning,
) -> Result<Progress, InvalidTransition> {
    let invalid = || InvalidTransition { from: progress.state, outcome: outcome.clone() };
    let (step, direction) = progress.state.task().ok_or_else(invalid)?;
    match (outcome, direction) {
        (Outcome::Succeeded, Direction::Forward) => {
            Ok(enter(progress, step.next().map_or(State::Done, State::Running), moment))
        }
        (Outcome::Succeeded, Direction::Backward) => {
            Ok(enter(progress, step.previous().map_or(State::Undone, State::Compensating), moment))
        }
        (Outcome::GoalReached, _) if can_reach_goal(step, direction) => {
            Ok(Progress { cause: None, ..enter(progress, State::Done, moment) })
        }
        (Outcome::GoalReached, _) => Err(invalid()),
        (Outcome::Failed(failure), _) => {
            Ok(after_failure(progress, step, direction, failure, moment, tuning))
        }
    }
}

/// A stuck saga going again from where it stopped.
///
/// # Errors
/// When it is not stuck.
pub fn retry(progress: &Progress, now: Timestamp) -> Result<Progress, NotStuck> {
    let state = match progress.state {
        State::Stuck { step, direction: Direction::Forward } => State::Running(step),
        State::Stuck { step, direction: Direction::Backward } => State::Compensating(step),
        State::Running(_) | State::Compensating(_) | State::Done | State::Undone => return Err(NotStuck),
    };
    Ok(Progress { state, attempts: 0, next_attempt_at: Some(now), ..progress.clone() })
}

/// A stuck provisioning given up, and the step that is passed over with whatever it has left behind. What came before that
/// step is undone as ever, so that its address is free again. A purge is never given up: what is half gone cannot stay.
///
/// # Errors
/// When it is not stuck, or is a purge.
pub fn abandon(progress: &Progress, now: Timestamp) -> Result<(Progress, Step), NotStuck> {
    match progress.state {
        State::Stuck { step, .. } if step.kind() == SagaKind::Provision => {
            let cause = progress.cause.clone().or_else(|| progress.last_failure.clone());
            let next = match step.previous() {
                None => ended(State::Undone, cause),
                Some(previous) => Progress {
                    state: State::Compensating(previous),
                    attempts: 0,
                    next_attempt_at: Some(now),
                    cause,
                    last_failure: None,
                },
            };
            Ok((next, step))
        }
        State::Stuck { .. } | State::Running(_) | State::Compensating(_) | State::Done | State::Undone => {
            Err(NotStuck)
        }
    }
}

const fn can_reach_goal(step: Step, direction: Direction) -> bool {
    match direction {
        Direction::Backward => matches!(step, Step::ActivateOrganization),
        Direction::Forward => matches!(step, Step::PurgeBillingState),
    }
}

fn enter(progress: &Progress, state: State, moment: Moment) -> Progress {
    if state.has_ended() {
        return ended(state, progress.cause.clone());
    }
    Progress {
        state,
        attempts: 0,
        next_attempt_at: Some(moment.now),
        cause: progress.cause.clone(),
        last_failure: None,
    }
}

const fn ended(state: State, cause: Option<Failure>) -> Progress {
    Progress { state, attempts: 0, next_attempt_at: None, cause, last_failure: None }
}

fn after_failure(
    progress: &Progress,
    step: Step,
    direction: Direction,
    failure: &Failure,
    moment: Moment,
    tuning: &Tuning,
) -> Progress {
    let attempts = progress.attempts.saturating_add(1);
    let failed = |state, pause| Progress {
        state,
        attempts,
        next_attempt_at: Some(after(moment.now, pause)),
        cause: progress.cause.clone(),
        last_failure: Some(failure.clone()),
    };
    let most = match direction {
        Direction::Forward => tuning.forward_attempts,
        Direction::Backward => tuning.backward_attempts,
    };
    if failure.is_transient() && attempts < most && !progress.state.is_stuck() {
        return failed(progress.state, tuning.backoff(attempts, moment.jitter));
    }
    if step.kind() == SagaKind::Provision && direction == Direction::Forward {
        return compensate(step, failure, moment);
    }
    let stuck = failed(State::Stuck { step, direction }, tuning.slow(moment.jitter));
    if failure.is_transient() { stuck } else { Progress { next_attempt_at: None, ..stuck } }
}

/// The way back: over the step that failed, which may have been done, and those before it.
fn compensate(step: Step, failure: &Failure, moment: Moment) -> Progress {
    let cause = Some(failure.clone());
    let first = if failure.is_foreign() { step.previous() } else { Some(step) };
    match first {
        None => ended(State::Undone, cause),
        Some(step) => Progress {
            state: State::Compensating(step),
            attempts: 0,
            next_attempt_at: Some(moment.now),
            cause,
            last_failure: None,
        },
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
