//! Faults on the way to other services and to the journal, placed by a script.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use jiff::Timestamp;
use pulse_entitlements::Entitlements;
use pulse_kernel::{ApiError, EmailAddress, OrgId, Reason, UserId};
use pulse_provisioner::{
    clients::{
        Billing, NewOrganization, Organizations, PurgingPage,
        grpc::{BillingClient, LifecycleClient},
    },
    domain::Member,
    saga::{Saga, SagaId},
    store::{Advance, AdvanceError, Begun, EmailHolder, RoleChange, SagaQuery, SetRolesError, Store},
};
use pulse_store::{StoreError, audit::AuditRecord};
use pulse_tenant_guard::OrganizationStatus;
use tokio::sync::Notify;

/// What a saga does to the world outside its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Create,
    StartTrial,
    Activate,
    Abandon,
    UndoTrial,
    Status,
    PurgeBilling,
    FinishPurge,
    /// The first row of the journal.
    Begin,
    /// An advance of the journal.
    Commit,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// It does not arrive.
    Unavailable,
    /// It is refused for good.
    Refused,
    /// It takes effect, and the answer is lost.
    ReplyLost,
    /// It arrives twice.
    Twice,
    /// It seems lost, and arrives when everything is over.
    Late,
    /// The process dies before it.
    CrashBefore,
    /// The process dies after it took effect.
    CrashAfter,
    /// The process stands still before it, for so long that another takes the saga over, and then goes on.
    Stall,
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// At that occurrence of the call, from 1.
    Nth(usize),
    /// Every time.
    Always,
}

/// A fault in its place.
pub(crate) type Line = (Call, When, Fault);

/// Faults that pass.
pub(crate) const PASSING: [Fault; 6] =
    [Fault::Unavailable, Fault::ReplyLost, Fault::Twice, Fault::Late, Fault::CrashBefore, Fault::CrashAfter];

/// Each remote call and each commit, failing once in each way that passes.
pub(crate) fn passing_faults(calls: &[Call], commits: usize) -> Vec<Line> {
    let of = |call, when| PASSING.map(|fault| (call, when, fault));
    let calls = calls.iter().flat_map(|call| of(*call, When::Nth(1)));
    let commits = (1..=commits).flat_map(|nth| of(Call::Commit, When::Nth(nth)));
    calls.chain(commits).collect()
}

/// The script, and what has come of it.
#[derive(Default)]
pub(crate) struct Chaos {
    script: Mutex<Vec<Line>>,
    counts: Mutex<HashMap<Call, usize>>,
    crash: Notify,
    stall: Notify,
    resume: Notify,
    late: Mutex<Vec<BoxFuture<'static, ()>>>,
}

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos").field("script", &self.script).finish_non_exhaustive()
    }
}

impl Chaos {
    pub(crate) fn new(script: &[Line]) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(script.to_vec()), ..Self::default() })
    }

    /// From now on there are these faults, and calls are counted anew.
    pub(crate) fn play(&self, script: &[Line]) {
        *self.script.lock().unwrap() = script.to_vec();
        self.counts.lock().unwrap().clear();
    }

    /// From now on there are no faults.
    pub(crate) fn calm(&self) {
        self.play(&[]);
    }

    /// When the process dies.
    pub(crate) async fn crashed(&self) {
        self.crash.notified().await;
    }

    /// When the process stands still.
    pub(crate) async fn stalled(&self) {
        self.stall.notified().await;
    }

    /// The process that stands still goes on.
    pub(crate) fn resume(&self) {
        self.resume.notify_one();
    }

    /// How often the call was made.
    pub(crate) fn count(&self, call: Call) -> usize {
        self.counts.lock().unwrap().get(&call).copied().unwrap_or_default()
    }

    /// What was late arrives.
    pub(crate) async fn let_late_calls_arrive(&self) {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        for call in late {
            call.await;
        }
    }

    fn next(&self, call: Call) -> Option<Fault> {
        let nth = {
            let mut counts = self.counts.lock().unwrap();
            let count = counts.entry(call).or_default();
            *count += 1;
            *count
        };
        let script = self.script.lock().unwrap();
        let strikes = |when: &When| *when == When::Always || *when == When::Nth(nth);
        script.iter().find(|(on, when, _)| *on == call && strikes(when)).map(|(_, _, fault)| *fault)
    }

    /// Makes a call, or lets happen to it what the script says.
    async fn around<T, F>(&self, call: Call, make: impl Fn() -> F + Send + 'static) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
        T: Send,
    {
        let unavailable = || ApiError::new(Reason::Unavailable, "told to fail");
        match self.next(call) {
            None => make().await,
            Some(Fault::Unavailable) => Err(unavailable()),
            Some(Fault::Refused) => Err(ApiError::new(Reason::InvalidRequest, "told to refuse")),
            Some(Fault::ReplyLost) => {
                make().await.ok();
                Err(unavailable())
            }
            Some(Fault::Twice) => {
                make().await.ok();
                make().await
            }
            Some(Fault::Late) => {
                let late = make();
                self.late.lock().unwrap().push(Box::pin(async move { drop(late.await) }));
                Err(unavailable())
            }
            Some(Fault::CrashBefore) => self.die().await,
            Some(Fault::CrashAfter) => {
                make().await.ok();
                self.die().await
            }
            Some(Fault::Stall) => {
                self.stand_still().await;
                make().await
            }
        }
    }

    /// As `around`, for a write of the journal: what is late or lost there is an outcome that nobody knows.
    async fn around_write<T, E: From<StoreError>>(
        &self,
        call: Call,
        write: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        match self.next(call) {
            None | Some(Fault::Twice) => write.await,
            Some(Fault::Unavailable | Fault::Refused) => Err(StoreError::Unavailable("told to fail").into()),
            Some(Fault::Late) => Err(StoreError::Ambiguous(None).into()),
            Some(Fault::ReplyLost) => {
                write.await.ok();
                Err(StoreError::Ambiguous(None).into())
            }
            Some(Fault::CrashBefore) => self.die().await,
            Some(Fault::CrashAfter) => {
                write.await.ok();
                self.die().await
            }
            Some(Fault::Stall) => {
                self.stand_still().await;
                write.await
            }
        }
    }

    async fn stand_still(&self) {
        self.stall.notify_one();
        self.resume.notified().await;
    }

    async fn die<T>(&self) -> T {
        self.crash.notify_one();
        std::future::pending().await
    }
}

/// lifecycle, with faults on the way.
#[derive(Debug)]
pub(crate) struct FaultyOrganizations(pub(crate) LifecycleClient, pub(crate) Arc<Chaos>);

macro_rules! faulty {
    ($self:ident, $call:expr, |$inner:ident $(, $argument:ident)*| $work:expr) => {{
        let $inner = $self.0.clone();
        $(let $argument = $argument.clone();)*
        let make = move || {
            let $inner = $inner.clone();
            $(let $argument = $argument.clone();)*
            async move { $work.await }
        };
        $self.1.around($call, make).await
    }};
}

#[async_trait]
impl Organizations for FaultyOrganizations {
    async fn create(&self, new: &NewOrganization) -> Result<(), ApiError> {
        faulty!(self, Call::Create, |inner, new| inner.create(&new))
    }

    async fn activate(&self, org_id: &OrgId) -> Result<(), ApiError> {
        faulty!(self, Call::Activate, |inner, org_id| inner.activate(&org_id))
    }

    async fn abandon(&self, org_id: &OrgId) -> Result<(), ApiError> {
        faulty!(self, Call::Abandon, |inner, org_id| inner.abandon(&org_id))
    }

    async fn status(&self, org_id: &OrgId) -> Result<OrganizationStatus, ApiError> {
        faulty!(self, Call::Status, |inner, org_id| inner.status(&org_id))
    }

    async fn list_purging(&self, page: Option<&str>) -> Result<PurgingPage, ApiError> {
        self.0.list_purging(page).await
    }

    async fn finish_purge(&self, org_id: &OrgId) -> Result<(), ApiError> {
        faulty!(self, Call::FinishPurge, |inner, org_id| inner.finish_purge(&org_id))
    }
}

/// billing-state, with faults on the way.
#[derive(Debug)]
pub(crate) struct FaultyBilling(pub(crate) BillingClient, pub(crate) Arc<Chaos>);

#[async_trait]
impl Billing for FaultyBilling {
    async fn start_trial(&self, org_id: &OrgId, key: &str) -> Result<Option<Timestamp>, ApiError> {
        let key = key.to_owned();
        faulty!(self, Call::StartTrial, |inner, org_id, key| inner.start_trial(&org_id, &key))
    }

    async fn trial_ends_at(&self, org_id: &OrgId) -> Result<Option<Timestamp>, ApiError> {
        self.0.trial_ends_at(org_id).await
    }

    async fn entitlements(&self, org_id: &OrgId) -> Result<Entitlements, ApiError> {
        self.0.entitlements(org_id).await
    }

    async fn purge(&self, org_id: &OrgId, created_by: Option<&str>) -> Result<(), ApiError> {
        let call = if created_by.is_some() { Call::UndoTrial } else { Call::PurgeBilling };
        let key = created_by.map(str::to_owned);
        faulty!(self, call, |inner, org_id, key| inner.purge(&org_id, key.as_deref()))
    }
}

/// The store, with faults on its writes.
#[derive(Debug)]
pub(crate) struct FaultyStore(pub(crate) Arc<dyn Store>, pub(crate) Arc<Chaos>);

#[async_trait]
impl Store for FaultyStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.0.ping().await
    }

    async fn close(&self) {}

    async fn find_by_email(&self, email: &EmailAddress) -> Result<Option<EmailHolder>, StoreError> {
        self.0.find_by_email(email).await
    }

    async fn begin(&self, saga: Saga) -> Result<Begun, StoreError> {
        self.1.around_write(Call::Begin, self.0.begin(saga)).await
    }

    async fn advance(&self, advance: Advance) -> Result<(), AdvanceError> {
        self.1.around_write(Call::Commit, self.0.advance(advance)).await
    }

    async fn find_saga(&self, id: &SagaId) -> Result<Option<Saga>, StoreError> {
        self.0.find_saga(id).await
    }

    async fn due_sagas(&self, now: Timestamp, limit: u32) -> Result<Vec<Saga>, StoreError> {
        self.0.due_sagas(now, limit).await
    }

    async fn list_sagas(&self, query: SagaQuery) -> Result<Vec<Saga>, StoreError> {
        self.0.list_sagas(query).await
    }

    async fn count_stuck(&self) -> Result<u64, StoreError> {
        self.0.count_stuck().await
    }

    async fn find_member(&self, org_id: &OrgId, user_id: UserId) -> Result<Option<Member>, StoreError> {
        self.0.find_member(org_id, user_id).await
    }

    async fn find_login(&self, email: &EmailAddress) -> Result<Option<Member>, StoreError> {
        self.0.find_login(email).await
    }

    async fn set_roles(&self, change: RoleChange) -> Result<(), SetRolesError> {
        self.0.set_roles(change).await
    }

    async fn list_audit(
        &self,
        org_id: &OrgId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        self.0.list_audit(org_id, before, limit).await
    }
}
