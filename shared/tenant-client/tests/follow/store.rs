//! What both services have stored: every state that there ever was, and since when.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{StreamExt as _, stream};
use pulse_kernel::{ApiError, Clock as _, OrgId, Reason};
use pulse_proto::billing::v1::{BillingState, SubscriptionState};
pub(crate) use pulse_proto::lifecycle::v1::OrganizationStatus as Statuses;
use pulse_rpc::{
    convert::timestamp,
    watch::{Change, Now, Pages, Source},
};
use tokio::time::Instant;

use crate::{PausedClock, org};

/// The states of one kind that there ever were, by tenant, with when each was committed. Clones share them.
#[derive(Clone)]
pub(crate) struct Table<T> {
    histories: Arc<Mutex<Histories<T>>>,
    fails: Arc<AtomicBool>,
}

type Histories<T> = BTreeMap<OrgId, Vec<(Instant, Now<T>)>>;

impl<T: Clone> Table<T> {
    fn new() -> Self {
        Self { histories: Arc::default(), fails: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Histories<T>> {
        self.histories.lock().unwrap()
    }

    fn push(&self, org: OrgId, now: Now<T>) {
        self.lock().entry(org).or_default().push((Instant::now(), now));
    }

    fn next_version(&self, org: &OrgId) -> u64 {
        self.lock().get(org).map_or(0, Vec::len) as u64 + 1
    }

    /// What a tenant is now.
    pub(crate) fn get(&self, org: &OrgId) -> Result<Option<Now<T>>, ApiError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(ApiError::new(Reason::Unavailable, "told to fail"));
        }
        Ok(self.lock().get(org).and_then(|history| history.last()).map(|(_, now)| now.clone()))
    }

    /// Nothing can be read from now on, or it can again.
    pub(crate) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    /// What a tenant was at the version of that number; 0 is before the first.
    pub(crate) fn at_version(&self, org: &OrgId, version: u64) -> Option<Now<T>> {
        let history = self.lock().get(org)?.clone();
        history.into_iter().map(|(_, now)| now).find(|now| version_of(now) == version)
    }

    /// The version that a tenant had at that time; 0 where there was none.
    pub(crate) fn version_at(&self, org: &OrgId, time: Instant) -> u64 {
        let histories = self.lock();
        let Some(history) = histories.get(org) else { return 0 };
        history.iter().rev().find(|(since, _)| *since <= time).map_or(0, |(_, now)| version_of(now))
    }
}

/// Nothing comes after the end.
fn version_of<T>(now: &Now<T>) -> u64 {
    match now {
        Now::State { version, .. } => *version,
        Now::Gone => u64::MAX,
        Now::Unreadable => 0,
    }
}

impl<T: Clone + PartialEq + Send + Sync + 'static> Source for Table<T> {
    type State = T;
    type Error = ApiError;

    async fn current(&self, org: &OrgId) -> Result<Option<Now<T>>, ApiError> {
        self.get(org)
    }

    fn everything(&self) -> Pages<Self> {
        let page = self.lock().clone().into_iter().filter_map(|(org, history)| {
            let (_, now) = history.last()?.clone();
            Some(Change { org, now })
        });
        stream::iter([Ok(page.collect())]).boxed()
    }
}

/// An organization's status, and when it was decided.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Status {
    pub(crate) status: Statuses,
    pub(crate) changed_at: prost_types::Timestamp,
}

/// The stores of both services. Clones share them.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) organizations: Table<Status>,
    pub(crate) billing_states: Table<BillingState>,
    pub(crate) clock: PausedClock,
}

impl Store {
    pub(crate) fn new(clock: PausedClock) -> Self {
        Self { organizations: Table::new(), billing_states: Table::new(), clock }
    }

    fn now(&self) -> prost_types::Timestamp {
        timestamp(self.clock.now())
    }

    pub(crate) fn set_status(&self, id: &str, status: Statuses) -> u64 {
        let (org, changed_at) = (org(id), self.now());
        let version = self.organizations.next_version(&org);
        self.organizations.push(org, Now::State { version, state: Status { status, changed_at } });
        version
    }

    pub(crate) fn remove_organization(&self, id: &str, now: Now<Status>) {
        self.organizations.push(org(id), now);
    }

    /// The tenant is on that plan, which is paid for, or a trial until then.
    pub(crate) fn set_plan(&self, id: &str, plan: &str, trial_ends_at: Option<jiff::Timestamp>) -> u64 {
        let state =
            if trial_ends_at.is_some() { SubscriptionState::Trial } else { SubscriptionState::Active };
        let trial_ends_at = trial_ends_at.map(timestamp);
        self.set_billing(id, BillingState { trial_ends_at, ..billing_state(id, plan, state) })
    }

    /// Billing has suspended the tenant.
    pub(crate) fn suspend_billing(&self, id: &str) -> u64 {
        self.set_billing(id, billing_state(id, "pro", SubscriptionState::Suspended))
    }

    fn set_billing(&self, id: &str, state: BillingState) -> u64 {
        let org = org(id);
        let version = self.billing_states.next_version(&org);
        let state = BillingState { updated_at: Some(self.now()), ..state };
        self.billing_states.push(org, Now::State { version, state });
        version
    }

    pub(crate) fn remove_billing(&self, id: &str, now: Now<BillingState>) {
        self.billing_states.push(org(id), now);
    }
}

fn billing_state(id: &str, plan: &str, state: SubscriptionState) -> BillingState {
    BillingState {
        org_id: id.to_owned(),
        subscription_state: state.into(),
        plan_version: plan.to_owned(),
        capabilities: vec!["alerting".to_owned()],
        ..BillingState::default()
    }
}
