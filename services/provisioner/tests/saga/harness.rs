//! Runs a saga under a script of faults, recovers it as a new process would, and looks at what is left everywhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use pulse_kernel::{ApiError, Clock as _, EmailAddress, Ids, OrgId, OrgName, OsEntropy, Reason, UserId};
use pulse_provisioner::{
    clients::{Billing as _, Organizations as _},
    domain::PasswordHash,
    saga::{
        Claim, Saga, SagaId, State, Subject,
        meters::Meters,
        plan,
        retry::Tuning,
        runner::{Runner, Stopped},
    },
    store::{Advance, Begun, Effect, MemoryStore, Store as _},
};
use pulse_runtime::{Shutdown, telemetry::meter};
use pulse_tenant_guard::OrganizationStatus;
use pulse_testkit::ManualClock;

use crate::{
    faults::{Chaos, FaultyBilling, FaultyOrganizations, FaultyStore, Line},
    support::Plane,
};

/// More than any saga needs, faults and all.
const ROUNDS: usize = 60;

/// Numbers owners.
static OWNERS: AtomicU32 = AtomicU32::new(0);

/// One provisioner over the real lifecycle and billing-state, under a script.
pub(crate) struct Attempt<'a> {
    plane: &'a Plane,
    clock: ManualClock,
    store: MemoryStore,
    pub(crate) chaos: Arc<Chaos>,
    ids: Ids,
    pub(crate) org_id: OrgId,
    pub(crate) owner: UserId,
    pub(crate) email: EmailAddress,
    started: AtomicU32,
}

impl<'a> Attempt<'a> {
    /// With an owner of its own.
    pub(crate) fn new(plane: &'a Plane, script: &[Line]) -> Self {
        let clock = ManualClock::default();
        let ids = Ids::new(Arc::new(clock.clone()), Arc::new(OsEntropy));
        let number = OWNERS.fetch_add(1, Ordering::Relaxed);
        Self {
            plane,
            store: MemoryStore::new(Arc::new(OsEntropy)),
            chaos: Chaos::new(script),
            org_id: ids.org_id(),
            owner: ids.user_id(),
            email: EmailAddress::parse(&format!("owner-{number}@example.com")).unwrap(),
            ids,
            clock,
            started: AtomicU32::new(0),
        }
    }

    /// The same owner once more, in the same store, without faults.
    pub(crate) fn again(&self) -> Self {
        Self {
            plane: self.plane,
            clock: self.clock.clone(),
            store: self.store.clone(),
            chaos: Chaos::new(&[]),
            ids: self.ids.clone(),
            org_id: self.ids.org_id(),
            owner: self.ids.user_id(),
            email: self.email.clone(),
            started: AtomicU32::new(0),
        }
    }

    /// A process: it holds leases under a name of its own.
    fn process(&self) -> Runner {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let chaos = || Arc::clone(&self.chaos);
        Runner {
            store: Arc::new(FaultyStore(Arc::new(self.store.clone()), chaos())),
            organizations: Arc::new(FaultyOrganizations(self.plane.organizations.clone(), chaos())),
            billing: Arc::new(FaultyBilling(self.plane.billing.clone(), chaos())),
            clock: Arc::new(self.clock.clone()),
            entropy: Arc::new(OsEntropy),
            tuning: Tuning {
                forward_attempts: 4,
                backward_attempts: 4,
                first_backoff: Duration::from_micros(100),
                longest_backoff: Duration::from_micros(200),
                ..Tuning::default()
            },
            meters: Meters::new(&meter("saga-tests"), Arc::new(AtomicUsize::new(0))),
            owner: format!("process-{number}").into(),
            shutdown: Shutdown::new(),
        }
    }

    /// Makes the tenant, and recovers until nothing is left to be done.
    pub(crate) async fn provision(&self) -> Option<State> {
        self.live(self.subject()).await
    }

    fn subject(&self) -> Subject {
        let claim = Claim {
            email: self.email.clone(),
            password_hash: PasswordHash::from_phc("$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g"),
            org_name: OrgName::parse("Acme, Inc.").unwrap(),
        };
        Subject::Provision { owner: self.owner, claim: Some(claim), trial_ends_at: None }
    }

    /// Makes the tenant with a first process that stands still at some point while others finish what it began, and then
    /// goes on; answers how both saw it end.
    pub(crate) async fn provision_with_a_stall(&self) -> (Option<State>, Stopped) {
        let process = self.process();
        let saga =
            Saga::begin(self.org_id.clone(), self.subject(), process.lease(Duration::ZERO), self.clock.now());
        let id = saga.id();
        process.store.begin(saga.clone()).await.unwrap();
        let zombie = run(&process, saga);
        tokio::pin!(zombie);
        tokio::select! {
            stopped = &mut zombie => panic!("it did not stand still: {stopped:?}"),
            () = self.chaos.stalled() => {}
        }
        let ended = self.recover(&id).await;
        self.chaos.resume();
        (ended, zombie.await)
    }

    /// Unmakes the tenant, and recovers until nothing is left to be done.
    pub(crate) async fn purge(&self) -> Option<State> {
        self.live(Subject::Purge).await
    }

    /// The first process, and then as many as it takes.
    async fn live(&self, subject: Subject) -> Option<State> {
        let id = SagaId { org_id: self.org_id.clone(), kind: subject.kind() };
        let process = self.process();
        let saga = Saga::begin(self.org_id.clone(), subject, process.lease(Duration::ZERO), self.clock.now());
        let first = async {
            if process.store.begin(saga.clone()).await.is_ok_and(|begun| begun == Begun::Started) {
                run(&process, saga).await;
            }
        };
        tokio::select! { () = first => {}, () = self.chaos.crashed() => {} }
        self.recover(&id).await
    }

    /// Processes one after the other, each finding what the one before left, until the saga has ended or waits for an
    /// operator.
    pub(crate) async fn recover(&self, id: &SagaId) -> Option<State> {
        for _ in 0..ROUNDS {
            let state = self.saga(id).await.map(|saga| (saga.state(), saga.progress.next_attempt_at));
            match state {
                None => return None,
                Some((state, due)) if state.has_ended() || due.is_none() => return Some(state),
                Some(_) => {}
            }
            // Past every lease and every pause.
            self.clock.advance(Duration::from_mins(5));
            let process = self.process();
            let round = async {
                for saga in process.store.due_sagas(self.clock.now(), 10).await.unwrap() {
                    if let Ok(Some(saga)) = process.take_over(&saga).await {
                        run(&process, saga).await;
                    }
                }
            };
            tokio::select! { () = round => {}, () = self.chaos.crashed() => {} }
        }
        panic!("the saga does not end: {:?}", self.saga(id).await);
    }

    /// An operator sets it going again.
    pub(crate) async fn retry(&self, id: &SagaId) -> Option<State> {
        let saga = self.saga(id).await.unwrap();
        let progress = plan::retry(&saga.progress, self.clock.now()).unwrap();
        let saga = Saga { progress, ..saga };
        self.store.advance(Advance { saga, effect: Effect::None, audit: None }).await.unwrap();
        self.recover(id).await
    }

    pub(crate) async fn saga(&self, id: &SagaId) -> Option<Saga> {
        self.store.find_saga(id).await.unwrap()
    }

    async fn status(&self) -> Result<OrganizationStatus, Reason> {
        self.plane.organizations.status(&self.org_id).await.map_err(|error| error.reason())
    }

    async fn trial(&self) -> Result<(), Reason> {
        let trial = self.plane.billing.trial_ends_at(&self.org_id).await;
        trial.map(|_| ()).map_err(|error: ApiError| error.reason())
    }

    async fn records(&self) -> Vec<String> {
        let records = self.store.list_audit(&self.org_id, None, 100).await.unwrap();
        records.into_iter().map(|record| record.action).collect()
    }

    /// I2, I3, I9: an active organization has its owner's account, its billing state and one audit record; the claim is
    /// gone and the address leads to the account.
    pub(crate) async fn is_whole(&self, script: &[Line]) {
        assert_eq!(self.status().await, Ok(OrganizationStatus::Active), "{script:?}");
        assert_eq!(self.trial().await, Ok(()), "{script:?}");
        let member = self.store.find_member(&self.org_id, self.owner).await.unwrap();
        assert!(member.is_some_and(|member| member.account.home_org_id == self.org_id), "{script:?}");
        assert_eq!(self.records().await, ["tenant_provisioned"], "{script:?}");
        let login = self.store.find_login(&self.email).await.unwrap().unwrap();
        assert_eq!((login.org_id, login.account.user_id), (self.org_id.clone(), self.owner), "{script:?}");
        let saga = self.saga(&SagaId::provision(self.org_id.clone())).await.unwrap();
        assert!(matches!(saga.subject, Subject::Provision { claim: None, trial_ends_at: Some(_), .. }));
        assert!(self.store.audit_is_intact());
    }

    /// I4: nothing is left in any service, and nothing personal in the journal.
    pub(crate) async fn left_nothing(&self, records: &[&str], script: &[Line]) {
        assert_eq!(self.status().await, Err(Reason::OrgNotFound), "{script:?}");
        assert_eq!(self.trial().await, Err(Reason::OrgNotFound), "{script:?}");
        assert!(self.store.find_member(&self.org_id, self.owner).await.unwrap().is_none(), "{script:?}");
        assert_eq!(self.records().await, records, "{script:?}");
        if let Some(saga) = self.saga(&SagaId::provision(self.org_id.clone())).await {
            assert!(matches!(saga.subject, Subject::Provision { claim: None, .. }), "{script:?}");
        }
        assert!(self.store.audit_is_intact());
    }

    /// I1, I5: the address is free for another saga, which what the first one may still do does not touch.
    pub(crate) async fn can_be_repeated(&self, script: &[Line]) {
        let again = self.again();
        assert_eq!(again.provision().await, Some(State::Done), "{script:?}");
        self.chaos.calm();
        self.chaos.let_late_calls_arrive().await;
        again.is_whole(script).await;
    }
}

async fn run(process: &Runner, saga: Saga) -> Stopped {
    process.run(saga, None).await.1
}
