//! The saga that makes a tenant.

use futures::future::join_all;
use pulse_kernel::{EmailAddress, OrgName, Reason};
use pulse_provisioner::{
    clients::{Billing as _, NewOrganization, Organizations as _},
    saga::{SagaId, State, runner::Stopped},
};
use pulse_tenant_guard::OrganizationStatus;

use crate::{
    faults::{Call, Fault, Line, PASSING, When, passing_faults},
    harness::Attempt,
    support::Plane,
};

/// The calls of a saga that goes forwards, in their order.
const FORWARD: [Call; 3] = [Call::Create, Call::StartTrial, Call::Activate];

/// How many commits a saga makes at the most: entering each step, and the end, forwards and backwards.
const COMMITS: usize = 7;

fn once(call: Call, fault: Fault) -> Line {
    (call, When::Nth(1), fault)
}

#[tokio::test]
async fn without_faults_a_tenant_is_whole_and_each_step_is_done_once() {
    let plane = Plane::start().await;
    let attempt = Attempt::new(&plane, &[]);
    assert_eq!(attempt.provision().await, Some(State::Done));
    attempt.is_whole(&[]).await;
    for call in FORWARD {
        assert_eq!(attempt.chaos.count(call), 1, "{call:?}");
    }
    assert_eq!((attempt.chaos.count(Call::Begin), attempt.chaos.count(Call::Commit)), (1, 3));
}

/// I2, I3, I4: a fault that passes, wherever it strikes, does not keep a tenant from being made, whole.
#[tokio::test]
async fn every_passing_fault_at_every_point_ends_in_a_whole_tenant() {
    let plane = Plane::start().await;
    let scripts = passing_faults(&FORWARD, 3).into_iter().map(|line| vec![line]);
    join_all(scripts.map(async |script| {
        let attempt = Attempt::new(&plane, &script);
        assert_eq!(attempt.provision().await, Some(State::Done), "{script:?}");
        attempt.is_whole(&script).await;
        attempt.chaos.let_late_calls_arrive().await;
        attempt.is_whole(&script).await;
    }))
    .await;
}

/// The claim itself: it is there or it is not, and what is there goes on.
#[tokio::test]
async fn a_fault_at_the_claim_leaves_all_or_nothing() {
    let plane = Plane::start().await;
    for fault in PASSING {
        let script = [once(Call::Begin, fault)];
        let attempt = Attempt::new(&plane, &script);
        match attempt.provision().await {
            None => attempt.left_nothing(&[], &script).await,
            state => {
                assert_eq!(state, Some(State::Done), "{script:?}");
                attempt.is_whole(&script).await;
            }
        }
        if attempt.saga(&SagaId::provision(attempt.org_id.clone())).await.is_none() {
            attempt.can_be_repeated(&script).await;
        }
    }
}

/// I4, I5: a step that is refused for good, or fails for ever, is undone with all before it, and the address is free.
#[tokio::test]
async fn every_step_that_fails_for_good_is_undone_without_a_trace() {
    let plane = Plane::start().await;
    let scripts = FORWARD.into_iter().flat_map(|call| {
        [Fault::Refused, Fault::Unavailable, Fault::Late].map(|fault| vec![(call, When::Always, fault)])
    });
    join_all(scripts.map(async |script| {
        let attempt = Attempt::new(&plane, &script);
        assert_eq!(attempt.provision().await, Some(State::Undone), "{script:?}");
        attempt.left_nothing(&["provisioning_undone"], &script).await;
        attempt.can_be_repeated(&script).await;
        attempt.left_nothing(&["provisioning_undone"], &script).await;
    }))
    .await;
}

/// Every reply to a step is lost for ever, though each try takes effect.
#[tokio::test]
async fn a_step_whose_replies_are_all_lost_is_undone_or_turns_out_to_be_done() {
    let plane = Plane::start().await;
    for call in FORWARD {
        let script = [(call, When::Always, Fault::ReplyLost)];
        let attempt = Attempt::new(&plane, &script);
        let state = attempt.provision().await;
        if call == Call::Activate {
            // What is active cannot be abandoned: undoing finds out that there is nothing to undo.
            assert_eq!(state, Some(State::Done), "{script:?}");
            attempt.is_whole(&script).await;
        } else {
            assert_eq!(state, Some(State::Undone), "{script:?}");
            attempt.left_nothing(&["provisioning_undone"], &script).await;
            attempt.can_be_repeated(&script).await;
        }
    }
}

/// I4: whatever happens to the undoing of each step, nothing is left.
#[tokio::test]
async fn every_passing_fault_while_undoing_leaves_nothing() {
    let plane = Plane::start().await;
    let scripts = FORWARD.into_iter().flat_map(|refused| {
        let first = (refused, When::Always, Fault::Refused);
        passing_faults(&[Call::Abandon, Call::UndoTrial], COMMITS)
            .into_iter()
            .map(move |line| vec![first, line])
    });
    join_all(scripts.map(async |script| {
        let attempt = Attempt::new(&plane, &script);
        assert_eq!(attempt.provision().await, Some(State::Undone), "{script:?}");
        attempt.left_nothing(&["provisioning_undone"], &script).await;
        attempt.can_be_repeated(&script).await;
    }))
    .await;
}

/// A process that stands still for longer than its lease is fenced when it comes back, wherever it stood, and harms
/// nothing of what others have finished or undone meanwhile.
#[tokio::test]
async fn a_process_that_comes_back_from_a_stall_is_fenced() {
    let plane = Plane::start().await;
    let calls = FORWARD.map(|call| (call, When::Nth(1), Fault::Stall));
    let commits = (1..=3).map(|nth| (Call::Commit, When::Nth(nth), Fault::Stall));
    for stall in calls.into_iter().chain(commits) {
        let attempt = Attempt::new(&plane, &[stall]);
        let (ended, zombie) = attempt.provision_with_a_stall().await;
        assert_eq!(ended, Some(State::Done), "{stall:?}");
        assert!(matches!(zombie, Stopped::Fenced), "{stall:?}: {zombie:?}");
        attempt.is_whole(&[stall]).await;

        // The one that takes over is refused at the last step; the first one's calls come after the undoing.
        let refused = (2..=9).map(|nth| (Call::Activate, When::Nth(nth), Fault::Refused));
        let first = (stall.0 != Call::Activate).then_some((Call::Activate, When::Nth(1), Fault::Refused));
        let script: Vec<_> = [stall].into_iter().chain(first).chain(refused).collect();
        let attempt = Attempt::new(&plane, &script);
        let (ended, zombie) = attempt.provision_with_a_stall().await;
        assert_eq!(ended, Some(State::Undone), "{script:?}");
        assert!(matches!(zombie, Stopped::Fenced), "{script:?}: {zombie:?}");
        attempt.left_nothing(&["provisioning_undone"], &script).await;
    }
}

/// Two faults that pass, in any two places: still a whole tenant.
#[tokio::test]
async fn every_pair_of_passing_faults_ends_in_a_whole_tenant() {
    let plane = Plane::start().await;
    let lines = passing_faults(&FORWARD, 3);
    for (index, first) in lines.iter().enumerate() {
        let pairs = lines[index + 1..].iter().map(|second| [*first, *second]);
        join_all(pairs.map(async |script| {
            let attempt = Attempt::new(&plane, &script);
            assert_eq!(attempt.provision().await, Some(State::Done), "{script:?}");
            attempt.is_whole(&script).await;
        }))
        .await;
    }
}

/// Undoing that fails for a cause that may pass goes on by itself; for another it waits for an operator.
#[tokio::test]
async fn undoing_that_fails_is_stuck_until_it_passes_or_an_operator_says_so() {
    let plane = Plane::start().await;
    for call in [Call::Abandon, Call::UndoTrial] {
        let script = [once(Call::Activate, Fault::Refused), (call, When::Always, Fault::Refused)];
        let attempt = Attempt::new(&plane, &script);
        let state = attempt.provision().await.unwrap();
        assert!(state.is_stuck(), "{script:?}: {state:?}");
        let id = SagaId::provision(attempt.org_id.clone());
        let saga = attempt.saga(&id).await.unwrap();
        assert_eq!(saga.progress.last_failure.unwrap().reason, Reason::InvalidRequest);
        assert!(saga.lease.is_none());
        attempt.chaos.calm();
        assert_eq!(attempt.retry(&id).await, Some(State::Undone), "{script:?}");
        attempt.left_nothing(&["provisioning_undone"], &script).await;

        // The first tries fail, and so do the next, slower ones; then the fault is over.
        let passes = (1..=9).map(|nth| (call, When::Nth(nth), Fault::Unavailable));
        let script: Vec<_> = passes.chain([once(Call::Activate, Fault::Refused)]).collect();
        let attempt = Attempt::new(&plane, &script);
        assert_eq!(attempt.provision().await, Some(State::Undone), "{script:?}");
        attempt.left_nothing(&["provisioning_undone"], &script).await;
    }
}

/// I1, I5: another organization has the address, unknown to this store. It stays exactly as it is.
#[tokio::test]
async fn an_address_that_is_taken_elsewhere_stays_with_whom_it_is() {
    let plane = Plane::start().await;
    let there = Attempt::new(&plane, &[]);
    assert_eq!(there.provision().await, Some(State::Done));
    let trial = plane.billing.trial_ends_at(&there.org_id).await.unwrap();

    let mut late = Attempt::new(&plane, &[]);
    late.email = there.email.clone();
    assert_eq!(late.provision().await, Some(State::Undone));
    let saga = late.saga(&SagaId::provision(late.org_id.clone())).await.unwrap();
    assert_eq!(saga.progress.cause.unwrap().reason, Reason::EmailTaken);
    late.left_nothing(&["provisioning_undone"], &[]).await;
    there.is_whole(&[]).await;
    assert_eq!(plane.billing.trial_ends_at(&there.org_id).await.unwrap(), trial);
}

/// I5: an organization that has the id already, and could still be abandoned, is another's and stays.
#[tokio::test]
async fn an_organization_of_the_same_id_is_not_touched() {
    let plane = Plane::start().await;
    let attempt = Attempt::new(&plane, &[]);
    let other = NewOrganization {
        org_id: attempt.org_id.clone(),
        owner: attempt.owner,
        email: EmailAddress::parse("someone.else@example.com").unwrap(),
        name: OrgName::parse("Other").unwrap(),
    };
    plane.organizations.create(&other).await.unwrap();
    assert_eq!(attempt.provision().await, Some(State::Undone));
    assert_eq!(plane.organizations.status(&attempt.org_id).await, Ok(OrganizationStatus::Provisioning));
}
