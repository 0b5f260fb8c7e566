//! What replicas make of each other's sagas.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use pulse_kernel::{Clock as _, OsEntropy};
use pulse_provisioner::{
    saga::{SagaId, State, Subject, plan, retry::Tuning, runner::Stopped},
    store::{Advance, Begun, Effect, SagaQuery, StateFilter, Store as _},
};
use pulse_rpc::RequestId;
use pulse_testkit::eventually;

use crate::{
    faults::{Call, Chaos, Fault, When},
    replicas::Deployment,
    support::WAIT,
};

/// The calls of a saga, in their order.
fn places() -> impl Iterator<Item = Call> {
    [Call::Create, Call::StartTrial, Call::Activate].into_iter()
}

pub(crate) fn request() -> RequestId {
    let ids = pulse_kernel::Ids::new(Arc::new(pulse_kernel::SystemClock), Arc::new(OsEntropy));
    RequestId::generate(&ids)
}

/// I4: a replica dies in the middle of a saga; another finishes it when the lease has run out, and not before.
#[tokio::test]
async fn the_saga_of_a_replica_that_dies_is_finished_by_another() {
    let deployment = Deployment::start().await;
    for call in places() {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let chaos = Chaos::new(&[(call, When::Nth(1), fault)]);
            let one = deployment.replica("one", &chaos).await;
            let calm = Chaos::new(&[]);
            let two = deployment.replica("two", &calm).await;
            let saga = deployment.saga(&one, &format!("{call:?}-{fault:?}@example.com"));
            let room = one.engine.room().unwrap();
            assert_eq!(one.engine.begin(saga.clone(), request(), room).await.unwrap(), Begun::Started);
            chaos.crashed().await;
            one.die();

            // The lease that the journal holds is respected to its last moment.
            let id = saga.id();
            let left = two.store.find_saga(&id).await.unwrap().unwrap();
            let until = left.lease.unwrap().until;
            assert!(
                until.duration_since(deployment.plane.clock.now())
                    <= Tuning::default().lease.try_into().unwrap()
            );
            deployment.plane.clock.set(until.checked_sub(Duration::from_micros(1)).unwrap());
            two.engine.recover().await.unwrap();
            two.engine.idle().await;
            assert_eq!(two.store.find_saga(&id).await.unwrap().unwrap().version, left.version, "{call:?}");

            deployment.plane.clock.set(until);
            two.engine.recover().await.unwrap();
            two.engine.idle().await;
            deployment.is_whole(&*two.store, &saga.org_id).await;
            let calls = places().map(|call| calm.count(call));
            assert_eq!(calls.filter(|count| *count > 1).count(), 0, "each of its steps once");
        }
    }
}

/// I5: a replica that stood still for longer than its lease is fenced when it comes back, wherever it stood.
#[tokio::test]
async fn a_replica_that_comes_back_from_a_stall_is_fenced() {
    let deployment = Deployment::start().await;
    let calls = places().map(|call| (call, When::Nth(1), Fault::Stall));
    let commits = (1..=3).map(|nth| (Call::Commit, When::Nth(nth), Fault::Stall));
    for (number, stall) in calls.chain(commits).enumerate() {
        for outcome in [State::Done, State::Undone] {
            // Where it is to be undone, the last step is refused to both; an earlier line of a script wins.
            let refused = (Call::Activate, When::Always, Fault::Refused);
            let script: &[_] = if outcome == State::Undone { &[refused] } else { &[] };
            let chaos = Chaos::new(&[&[stall], script].concat());
            let one = deployment.replica("one", &chaos).await;
            let two = deployment.replica("two", &Chaos::new(script)).await;
            let saga = deployment.saga(&one, &format!("{number}-{outcome:?}@example.com"));
            one.store.begin(saga.clone()).await.unwrap();
            let zombie = one.engine.runner().run(saga.clone(), None);
            tokio::pin!(zombie);
            tokio::select! {
                (_, stopped) = &mut zombie => panic!("it did not stand still: {stopped:?}"),
                () = chaos.stalled() => {}
            }
            deployment.plane.clock.advance(Tuning::default().lease);
            two.engine.recover().await.unwrap();
            two.engine.idle().await;
            chaos.resume();
            let (_, stopped) = zombie.await;
            // Its last call may have arrived when everything was undone, and its commits have not.
            assert!(matches!(stopped, Stopped::Fenced), "{stall:?}: {stopped:?}");
            match outcome {
                State::Undone => deployment.left_nothing(&*two.store, &saga.org_id).await,
                _ => deployment.is_whole(&*two.store, &saga.org_id).await,
            }
        }
    }
}

/// A replica that is stopped in good order gives its sagas to the others at once.
#[tokio::test]
async fn what_a_stopped_replica_gives_back_is_taken_at_once() {
    let deployment = Deployment::start().await;
    // It waits for its second try when it is told to stop.
    let chaos = Chaos::new(&[(Call::StartTrial, When::Always, Fault::Unavailable)]);
    let one = deployment.replica("one", &chaos).await;
    let two = deployment.replica("two", &Chaos::new(&[])).await;
    let saga = deployment.saga(&one, "ann@example.com");
    let room = one.engine.room().unwrap();
    one.engine.begin(saga.clone(), request(), room).await.unwrap();
    eventually(WAIT, async || chaos.count(Call::StartTrial) > 3).await;
    one.engine.runner().shutdown.trigger();
    one.engine.idle().await;
    let left = two.store.find_saga(&saga.id()).await.unwrap().unwrap();
    assert!(left.lease.is_none());
    deployment.plane.clock.set(left.progress.next_attempt_at.unwrap());
    two.engine.recover().await.unwrap();
    two.engine.idle().await;
    deployment.is_whole(&*two.store, &saga.org_id).await;
}

/// Many sagas of a replica that died: the others finish all of them, each once, and hardly get in each other's way.
#[tokio::test]
async fn what_is_due_is_shared_among_the_replicas() {
    const SAGAS: usize = 150;
    let deployment = Deployment::start().await;
    let dead = deployment.replica("dead", &Chaos::new(&[])).await;
    let sagas: Vec<_> =
        (0..SAGAS).map(|number| deployment.saga(&dead, &format!("owner-{number}@example.com"))).collect();
    for saga in &sagas {
        dead.store.begin(saga.clone()).await.unwrap();
    }
    dead.die();
    deployment.plane.clock.advance(Tuning::default().lease);

    let (one_chaos, two_chaos) = (Chaos::new(&[]), Chaos::new(&[]));
    let one = deployment.replica("one", &one_chaos).await;
    let two = deployment.replica("two", &two_chaos).await;
    // Both look at once: each has room for 32, and finds the same 100.
    let (first, second) = tokio::join!(one.engine.recover(), two.engine.recover());
    assert!(first.unwrap() && second.unwrap(), "more is due than there is room for");
    one.engine.idle().await;
    two.engine.idle().await;
    let done = SagaQuery { state: Some(StateFilter::Done), limit: 1000, ..SagaQuery::default() };
    let taken = two.store.list_sagas(done.clone()).await.unwrap().len();
    let both = |call| one_chaos.count(call) + two_chaos.count(call);
    // Four commits a saga, the take-over included; what is more was in vain. By chance it is a third of 32, and in the same
    // order it would be all of them.
    let in_vain = both(Call::Commit) - 4 * taken;
    assert!(in_vain <= 22, "{in_vain} were taken over in vain, and {taken} not");
    assert_eq!(taken + in_vain, 64);

    one.keep_recovering();
    two.keep_recovering();
    eventually(Duration::from_mins(1), async || {
        two.store.list_sagas(done.clone()).await.unwrap().len() == SAGAS
    })
    .await;
    join_all(sagas.iter().map(|saga| deployment.is_whole(&*one.store, &saga.org_id))).await;
    for call in places() {
        assert_eq!(both(call), SAGAS, "{call:?}: each step of each saga once");
    }
    for chaos in [&one_chaos, &two_chaos] {
        assert!(chaos.count(Call::Activate) > SAGAS / 10, "each has its share");
    }
}

/// What is stuck is stuck for all: every replica tells the same number, whoever let it get stuck or set it going again.
#[tokio::test]
async fn every_replica_knows_how_many_are_stuck() {
    let deployment = Deployment::start().await;
    let refused = [Call::Activate, Call::UndoTrial].map(|call| (call, When::Always, Fault::Refused));
    let chaos = Chaos::new(&refused);
    let one = deployment.replica("one", &chaos).await;
    let two = deployment.replica("two", &Chaos::new(&[])).await;
    one.keep_recovering();
    two.keep_recovering();
    let stuck = [&one, &two].map(|replica| replica.engine.runner().meters.clone());
    let all_know = async |count| {
        eventually(WAIT, async || stuck.iter().all(|meters| meters.stuck() == count)).await;
    };
    let mut ids = Vec::new();
    for (number, address) in (1..).zip(["ann@example.com", "bob@example.com"]) {
        let saga = deployment.saga(&one, address);
        ids.push(saga.id());
        let room = one.engine.room().unwrap();
        one.engine.begin(saga, request(), room).await.unwrap();
        all_know(number).await;
    }
    chaos.calm();
    for (left, id) in [1, 0].into_iter().zip(&ids) {
        // An operator asks the other replica.
        let saga = two.store.find_saga(id).await.unwrap().unwrap();
        let progress = plan::retry(&saga.progress, deployment.plane.clock.now()).unwrap();
        let saga = pulse_provisioner::saga::Saga { progress, ..saga };
        two.store.advance(Advance { saga, effect: Effect::None, audit: None }).await.unwrap();
        all_know(left).await;
    }
}

/// I11: both find the same tenants in lifecycle's list, and each is purged once.
#[tokio::test]
async fn a_tenant_is_purged_once_whoever_finds_it() {
    let deployment = Deployment::start().await;
    let chaos = Chaos::new(&[]);
    let one = deployment.replica("one", &chaos).await;
    let two = deployment.replica("two", &chaos).await;
    let saga = deployment.saga(&one, "ann@example.com");
    one.store.begin(saga.clone()).await.unwrap();
    one.engine.runner().run(saga.clone(), None).await;
    deployment.is_whole(&*one.store, &saga.org_id).await;
    deployment.plane.delete(saga.org_id.as_str()).await;

    let (first, second) = tokio::join!(one.engine.find_purging(), two.engine.find_purging());
    first.and(second).unwrap();
    one.engine.idle().await;
    two.engine.idle().await;
    assert_eq!(chaos.count(Call::FinishPurge), 1);
    for id in [saga.id(), SagaId::purge(saga.org_id.clone())] {
        assert!(two.store.find_saga(&id).await.unwrap().is_none());
    }
    let Subject::Provision { owner, .. } = saga.subject else { panic!("a provisioning has an owner") };
    assert!(two.store.find_member(&saga.org_id, owner).await.unwrap().is_none());
}
