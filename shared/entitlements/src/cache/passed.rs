//! When a change was passed over: one that was told of a tenant of which nothing was known.

use std::collections::{HashMap, VecDeque};

use pulse_kernel::OrgId;

/// Of how many changes this is known. One before those may have been of any tenant.
const MOST: usize = 10_000;

/// The changes that were last passed over, by tenant, in microseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Passed {
    times: HashMap<OrgId, i64>,
    order: VecDeque<(OrgId, i64)>,
    before: Option<i64>,
}

impl Passed {
    /// One was, now.
    pub(super) fn note(&mut self, org: &OrgId, now: i64) {
        if self.order.len() == MOST
            && let Some((org, time)) = self.order.pop_front()
        {
            self.before = self.before.max(Some(time));
            if self.times.get(&org) == Some(&time) {
                self.times.remove(&org);
            }
        }
        self.times.insert(org.clone(), now);
        self.order.push_back((org.clone(), now));
    }

    /// Whether one may have been that this tenant has seen after that time.
    pub(super) fn may_have_been_since(&self, org: &OrgId, time: i64) -> bool {
        self.times.get(org).copied().max(self.before) > Some(time)
    }
}
