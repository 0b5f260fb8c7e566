//! An answer from the caches of this process: what it takes, and that it allocates nothing.

use std::{hint::black_box, sync::Arc, time::Duration};

use anyhow::Result;
use pulse_entitlements::{Catalog, DatabaseSource, cache::CacheConfig};
use pulse_kernel::{OrgId, SystemClock};
use pulse_tenant_guard::{OrganizationStatus, StatusCache, StatusLookup, StatusSource as _};

use crate::{
    measure::{Effort, cost, count, median},
    report::{Figure, Goal},
    tenants::{self, Everybody},
};

pub(super) const ABOUT: &str = "an answer that is at hand in this process: processor time, and allocations";

/// How many tenants there are.
const TENANTS: usize = 1000;

/// Both caches, and tenants that both know of.
pub(super) struct Caches {
    pub(super) entitlements: DatabaseSource,
    pub(super) statuses: StatusCache,
    pub(super) ids: Vec<OrgId>,
}

impl Caches {
    pub(super) fn with(tenants: usize) -> Result<Self> {
        let everybody = Arc::new(Everybody::new());
        let (config, clock) = (CacheConfig::default(), Arc::new(SystemClock));
        let caches = Self {
            entitlements: DatabaseSource::new(
                Arc::clone(&everybody) as _,
                &Catalog::built_in(),
                config,
                Arc::clone(&clock) as _,
            ),
            statuses: StatusCache::new(Arc::clone(&everybody) as _, config, clock),
            ids: (0..tenants).map(tenants::id).collect::<Result<_>>()?,
        };
        caches.fill(&everybody);
        Ok(caches)
    }

    /// Tells both caches of every tenant.
    fn fill(&self, everybody: &Everybody) {
        for org in &self.ids {
            self.entitlements.update(org, everybody.lookup(org));
            self.statuses.update(org, StatusLookup::Status(OrganizationStatus::Active), 1);
        }
    }

    /// As if both had just heard that nothing has changed.
    pub(super) fn confirm(&self) {
        self.entitlements.confirm(Duration::ZERO);
        self.statuses.confirm(Duration::ZERO);
    }
}

pub(super) fn run(effort: Effort) -> Result<Vec<Figure>> {
    let caches = Caches::with(TENANTS)?;
    let entitlements = |org: &OrgId| caches.entitlements.cached(org).is_some();
    let statuses = |org: &OrgId| caches.statuses.cached(org).is_some();
    let [entitlements_time, entitlements_allocations] = measure(effort, &caches, entitlements)?;
    let [statuses_time, statuses_allocations] = measure(effort, &caches, statuses)?;
    Ok(vec![
        Figure::new("entitlements of a tenant: DatabaseSource::cached", "ns", entitlements_time)
            .with_goal(Goal::AtMost(100.0)),
        Figure::new("allocations of it", "a call", entitlements_allocations).with_goal(Goal::AtMost(0.0)),
        Figure::new("status of a tenant: StatusCache::cached", "ns", statuses_time)
            .with_goal(Goal::AtMost(100.0)),
        Figure::new("allocations of it", "a call", statuses_allocations).with_goal(Goal::AtMost(0.0)),
    ])
}

/// Nanoseconds of a look, and how often it allocates, in each run.
fn measure(effort: Effort, caches: &Caches, look: impl Fn(&OrgId) -> bool) -> Result<[Vec<f64>; 2]> {
    let (mut times, mut allocations) = (Vec::new(), Vec::new());
    for _ in 0..effort.runs {
        caches.confirm();
        let mut ids = caches.ids.iter().cycle();
        let mut hits = 0;
        let mut call = || hits += usize::from(ids.next().is_some_and(|org| look(black_box(org))));
        let rounds: Vec<f64> = (0..effort.rounds).map(|_| cost(effort.calls, &mut call)).collect();
        times.push(median(&rounds));
        let allocated = allocation_counter::measure(|| (0..effort.calls).for_each(|_| call()));
        allocations.push(count(usize::try_from(allocated.count_total)?) / count(effort.calls));
        anyhow::ensure!(hits == effort.calls * (effort.rounds + 1), "not every answer was at hand");
    }
    Ok([times, allocations])
}
