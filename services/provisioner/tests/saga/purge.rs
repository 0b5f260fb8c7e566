//! The saga that unmakes a tenant.

use futures::future::join_all;
use pulse_kernel::Reason;
use pulse_provisioner::saga::{Direction, SagaId, State, Step};

use crate::{
    faults::{Call, Fault, Line, PASSING, When, passing_faults},
    harness::Attempt,
    support::Plane,
};

/// The calls of a purge, in their order.
const CALLS: [Call; 3] = [Call::Status, Call::PurgeBilling, Call::FinishPurge];

/// How many commits a purge makes: the two advances, and the end.
const COMMITS: usize = 2;

/// A whole tenant that lifecycle has decided to purge.
async fn doomed<'a>(plane: &'a Plane, script: &[Line]) -> Attempt<'a> {
    let attempt = Attempt::new(plane, &[]);
    assert_eq!(attempt.provision().await, Some(State::Done));
    plane.delete(attempt.org_id.as_str()).await;
    attempt.chaos.play(script);
    attempt
}

#[tokio::test]
async fn without_faults_nothing_is_left_and_each_step_is_done_once() {
    let plane = Plane::start().await;
    let attempt = doomed(&plane, &[]).await;
    assert_eq!(attempt.purge().await, None);
    attempt.left_nothing(&[], &[]).await;
    for call in CALLS {
        assert_eq!(attempt.chaos.count(call), 1, "{call:?}");
    }
    assert_eq!(attempt.chaos.count(Call::Commit), COMMITS);
    assert!(attempt.saga(&SagaId::provision(attempt.org_id.clone())).await.is_none());
    attempt.can_be_repeated(&[]).await;
}

/// I4, I11: a fault that passes, wherever it strikes, does not keep a purge from being complete; and it is idempotent.
#[tokio::test]
async fn every_passing_fault_at_every_point_ends_with_nothing_left() {
    let plane = Plane::start().await;
    let scripts = passing_faults(&CALLS, COMMITS).into_iter().map(|line| vec![line]);
    join_all(scripts.map(async |script| {
        let attempt = doomed(&plane, &script).await;
        assert_eq!(attempt.purge().await, None, "{script:?}");
        attempt.left_nothing(&[], &script).await;
        attempt.chaos.calm();
        assert_eq!(attempt.purge().await, None, "{script:?}: once more, from a list that was old");
        attempt.can_be_repeated(&script).await;
        attempt.left_nothing(&[], &script).await;
    }))
    .await;
}

#[tokio::test]
async fn every_pair_of_passing_faults_ends_with_nothing_left() {
    let plane = Plane::start().await;
    let lines = passing_faults(&CALLS, COMMITS);
    for (index, first) in lines.iter().enumerate() {
        let pairs = lines[index + 1..].iter().map(|second| [*first, *second]);
        join_all(pairs.map(async |script| {
            let attempt = doomed(&plane, &script).await;
            assert_eq!(attempt.purge().await, None, "{script:?}");
            attempt.left_nothing(&[], &script).await;
        }))
        .await;
    }
}

/// A purge is never given up: what fails for long is tried seldom, and goes on by itself once faults stop.
#[tokio::test]
async fn a_long_outage_is_survived_without_an_operator() {
    let plane = Plane::start().await;
    for call in CALLS {
        let script: Vec<_> = (1..=9).map(|nth| (call, When::Nth(nth), Fault::Unavailable)).collect();
        let attempt = doomed(&plane, &script).await;
        assert_eq!(attempt.purge().await, None, "{script:?}");
        assert_eq!(attempt.chaos.count(call), 10, "{script:?}");
        attempt.left_nothing(&[], &script).await;
    }
}

#[tokio::test]
async fn what_is_refused_for_good_waits_for_an_operator() {
    let plane = Plane::start().await;
    for (call, step) in [
        (Call::Status, Step::PurgeBillingState),
        (Call::PurgeBilling, Step::PurgeBillingState),
        (Call::FinishPurge, Step::FinishPurge),
    ] {
        let script = [(call, When::Always, Fault::Refused)];
        let attempt = doomed(&plane, &script).await;
        let stuck = State::Stuck { step, direction: Direction::Forward };
        assert_eq!(attempt.purge().await, Some(stuck), "{script:?}");
        attempt.chaos.calm();
        assert_eq!(attempt.retry(&SagaId::purge(attempt.org_id.clone())).await, None, "{script:?}");
        attempt.left_nothing(&[], &script).await;
    }
}

/// I11: whatever list it came from, a tenant that lifecycle does not say is purging is not touched.
#[tokio::test]
async fn a_tenant_that_is_not_purging_is_never_touched() {
    let plane = Plane::start().await;
    let attempt = Attempt::new(&plane, &[]);
    assert_eq!(attempt.provision().await, Some(State::Done));
    let stuck = State::Stuck { step: Step::PurgeBillingState, direction: Direction::Forward };
    assert_eq!(attempt.purge().await, Some(stuck));
    let saga = attempt.saga(&SagaId::purge(attempt.org_id.clone())).await.unwrap();
    assert_eq!(saga.progress.last_failure.unwrap().reason, Reason::NotPendingDeletion);
    assert_eq!(attempt.chaos.count(Call::PurgeBilling), 0);
    attempt.is_whole(&[]).await;
}

/// The beginning of a purge: its row is there or it is not, and what is there goes on.
#[tokio::test]
async fn a_fault_at_the_beginning_leaves_all_or_nothing() {
    let plane = Plane::start().await;
    for fault in PASSING {
        let attempt = doomed(&plane, &[(Call::Begin, When::Nth(1), fault)]).await;
        assert_eq!(attempt.purge().await, None, "{fault:?}");
        // What did not begin is found again.
        assert_eq!(attempt.purge().await, None, "{fault:?}");
        attempt.left_nothing(&[], &[]).await;
    }
}
