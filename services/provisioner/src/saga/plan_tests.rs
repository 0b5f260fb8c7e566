//! Every state with every outcome, and what holds along any sequence of outcomes.

use std::time::Duration;

use proptest::prelude::*;
use pulse_kernel::Reason;

use super::*;

const NOW: Timestamp = Timestamp::constant(1_893_456_000, 0);
const MOMENT: Moment = Moment { now: NOW, jitter: Jitter(u32::MAX) };

fn tuning() -> Tuning {
    Tuning { forward_attempts: 3, backward_attempts: 3, ..Tuning::default() }
}

fn transient() -> Outcome {
    Outcome::Failed(Failure::new(Reason::Unavailable, "away"))
}

fn permanent() -> Outcome {
    Outcome::Failed(Failure::new(Reason::EmailTaken, "taken"))
}

fn foreign() -> Outcome {
    Outcome::Failed(Failure::new(Reason::OrgIdTaken, "used before"))
}

fn progress(state: State, attempts: u32) -> Progress {
    Progress { state, attempts, next_attempt_at: Some(NOW), cause: None, last_failure: None }
}

fn follow(state: State, attempts: u32, outcome: &Outcome) -> Option<Progress> {
    plan(&progress(state, attempts), outcome, MOMENT, &tuning()).ok()
}

/// The states that a journal row can be in.
fn states() -> Vec<State> {
    let stuck = |direction| move |step| State::Stuck { step, direction };
    let of = |kind: SagaKind| Step::ALL.into_iter().filter(move |step| step.kind() == kind);
    Step::ALL
        .into_iter()
        .map(State::Running)
        .chain(of(SagaKind::Provision).map(State::Compensating))
        .chain(of(SagaKind::Provision).map(stuck(Direction::Backward)))
        .chain(of(SagaKind::Purge).map(stuck(Direction::Forward)))
        .chain([State::Done, State::Undone])
        .collect()
}

#[test]
fn every_state_with_success() {
    use State::{Compensating, Done, Running, Undone};
    use Step::{
        ActivateOrganization, CreateOrganization, DeleteAccounts, FinishPurge, InsertAccount,
        PurgeBillingState, StartTrial,
    };
    let back = |step| State::Stuck { step, direction: Direction::Backward };
    let on = |step| State::Stuck { step, direction: Direction::Forward };
    let table = [
        (Running(CreateOrganization), Some(Running(InsertAccount))),
        (Running(InsertAccount), Some(Running(StartTrial))),
        (Running(StartTrial), Some(Running(ActivateOrganization))),
        (Running(ActivateOrganization), Some(Done)),
        (Running(PurgeBillingState), Some(Running(DeleteAccounts))),
        (Running(DeleteAccounts), Some(Running(FinishPurge))),
        (Running(FinishPurge), Some(Done)),
        (Compensating(ActivateOrganization), Some(Compensating(StartTrial))),
        (Compensating(StartTrial), Some(Compensating(InsertAccount))),
        (Compensating(InsertAccount), Some(Compensating(CreateOrganization))),
        (Compensating(CreateOrganization), Some(Undone)),
        (back(ActivateOrganization), Some(Compensating(StartTrial))),
        (back(StartTrial), Some(Compensating(InsertAccount))),
        (back(InsertAccount), Some(Compensating(CreateOrganization))),
        (back(CreateOrganization), Some(Undone)),
        (on(PurgeBillingState), Some(Running(DeleteAccounts))),
        (on(DeleteAccounts), Some(Running(FinishPurge))),
        (on(FinishPurge), Some(Done)),
        (Done, None),
        (Undone, None),
    ];
    for state in states() {
        let expected = table.iter().find(|(from, _)| *from == state).expect("the table names every state").1;
        let next = follow(state, 2, &Outcome::Succeeded);
        assert_eq!(next.as_ref().map(|next| next.state), expected, "{state:?}");
        if let Some(next) = next {
            assert_eq!((next.attempts, &next.last_failure), (0, &None), "{state:?}: a new step begins anew");
            assert_eq!(next.next_attempt_at.is_none(), next.state.has_ended(), "{state:?}");
        }
    }
}

#[test]
fn every_state_with_a_transient_failure() {
    for state in states() {
        let Some((step, direction)) = state.task() else {
            assert_eq!(follow(state, 0, &transient()), None);
            continue;
        };
        let first = follow(state, 0, &transient()).unwrap();
        assert_eq!(first.state, state, "it is tried again");
        assert_eq!(first.attempts, 1);
        let pause = if state.is_stuck() { 120_000 } else { 100 };
        assert_eq!(first.next_attempt_at, Some(after(NOW, Duration::from_millis(pause))), "{state:?}");

        let last = follow(state, 2, &transient()).unwrap();
        let expected = match (step.kind(), direction) {
            (SagaKind::Provision, Direction::Forward) => State::Compensating(step),
            (SagaKind::Provision, Direction::Backward) | (SagaKind::Purge, Direction::Forward) => {
                State::Stuck { step, direction }
            }
            (SagaKind::Purge, Direction::Backward) => unreachable!("a purge is never undone"),
        };
        assert_eq!(last.state, expected, "{state:?}: not for ever");
        assert!(
            last.next_attempt_at.is_some(),
            "{state:?}: what may pass is tried again without an operator"
        );
    }
}

#[test]
fn every_state_with_a_permanent_failure() {
    for state in states() {
        let Some((step, direction)) = state.task() else {
            assert_eq!(follow(state, 0, &permanent()), None);
            continue;
        };
        let next = follow(state, 0, &permanent()).unwrap();
        if step.kind() == SagaKind::Provision && direction == Direction::Forward {
            assert_eq!(next.state, State::Compensating(step), "the step that failed counts as possibly done");
            assert_eq!(next.cause.unwrap().reason, Reason::EmailTaken);
        } else {
            assert_eq!(next.state, State::Stuck { step, direction });
            assert_eq!(next.next_attempt_at, None, "{state:?}: waits for an operator");
            assert_eq!(next.last_failure.unwrap().reason, Reason::EmailTaken);
        }
    }
}

#[test]
fn every_state_with_the_goal_reached() {
    for state in states() {
        let expected = match state.task() {
            Some((Step::ActivateOrganization, Direction::Backward) | (Step::PurgeBillingState, _)) => {
                Some(State::Done)
            }
            _ => None,
        };
        assert_eq!(
            follow(state, 0, &Outcome::GoalReached).map(|next| next.state),
            expected,
            "{state:?}: only the pivot, and a purge before its first effect, may find that"
        );
    }
}

#[test]
fn what_belongs_to_another_is_not_undone() {
    let next = follow(State::Running(Step::CreateOrganization), 0, &foreign()).unwrap();
    assert_eq!(next.state, State::Undone);
    assert_eq!(next.cause.unwrap().reason, Reason::OrgIdTaken);
}

#[test]
fn only_what_is_stuck_can_be_retried_or_abandoned() {
    for state in states() {
        let given = progress(state, 7);
        let retried = retry(&given, NOW);
        let abandoned = abandon(&given, NOW);
        match state {
            State::Stuck { step, direction } => {
                let retried = retried.unwrap();
                assert_eq!(retried.state.task(), Some((step, direction)));
                assert!(!retried.state.is_stuck());
                assert_eq!((retried.attempts, retried.next_attempt_at), (0, Some(NOW)));
                assert_eq!(abandoned.is_ok(), step.kind() == SagaKind::Provision, "{state:?}");
            }
            State::Running(_) | State::Compensating(_) | State::Done | State::Undone => {
                assert_eq!((retried, abandoned), (Err(NotStuck), Err(NotStuck)), "{state:?}");
            }
        }
    }
    let stuck = State::Stuck { step: Step::StartTrial, direction: Direction::Backward };
    let (going_on, passed_over) = abandon(&progress(stuck, 3), NOW).unwrap();
    assert_eq!(going_on.state, State::Compensating(Step::InsertAccount));
    assert_eq!((going_on.attempts, going_on.next_attempt_at), (0, Some(NOW)));
    assert_eq!(passed_over, Step::StartTrial);
    let first = State::Stuck { step: Step::CreateOrganization, direction: Direction::Backward };
    let (undone, passed_over) = abandon(&progress(first, 3), NOW).unwrap();
    assert_eq!((undone.state, undone.next_attempt_at), (State::Undone, None));
    assert_eq!(passed_over, Step::CreateOrganization);
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => Just(Outcome::Succeeded),
        4 => Just(transient()),
        1 => Just(permanent()),
        1 => Just(Outcome::GoalReached),
    ]
}

proptest! {
    /// I4 and I12 in the small: whatever happens, a saga only ever goes on, turns back once, and ends once faults stop.
    #[test]
    fn a_saga_turns_back_at_most_once_and_ends(
        purge: bool,
        faults in prop::collection::vec((outcomes(), any::<u32>()), 0..60),
    ) {
        let kind = if purge { SagaKind::Purge } else { SagaKind::Provision };
        let tuning = tuning();
        let mut now = NOW;
        let mut at = Progress::new(kind, now);
        let calm = std::iter::repeat((Outcome::Succeeded, 0));
        for (outcome, random) in faults.into_iter().chain(calm).take(100) {
            let Some((step, direction)) = at.state.task() else { break };
            prop_assert_eq!(step.kind(), kind);
            // A saga without a next try waits for an operator.
            if at.next_attempt_at.is_none() {
                at = retry(&at, now).unwrap();
            }
            now = at.next_attempt_at.unwrap().max(now);
            let moment = Moment { now, jitter: Jitter(random) };
            let Ok(next) = plan(&at, &outcome, moment, &tuning) else {
                prop_assert_eq!(outcome, Outcome::GoalReached);
                continue;
            };
            prop_assert!(next.next_attempt_at.is_none_or(|due| due >= now));
            if direction == Direction::Backward {
                prop_assert!(!matches!(next.state, State::Running(_)), "never forwards again");
                prop_assert!(next.state == State::Done || next.cause == at.cause, "the cause stays");
            }
            prop_assert!(kind == SagaKind::Provision || next.state != State::Undone);
            at = next;
        }
        prop_assert!(at.state.has_ended(), "{:?}", at);
        prop_assert_eq!(at.cause.is_some(), at.state == State::Undone);
    }
}
