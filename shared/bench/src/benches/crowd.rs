//! A thousand tenants against a million: what an answer costs, and the memory that each tenant takes.
//!
//! Two things are told apart. That there are more tenants should cost nothing by itself: the same thousand are asked about,
//! among few or among many. That more of them are asked about does cost something, as what is not in the processor's caches
//! comes from memory.

use std::{hint::black_box, sync::Arc};

use anyhow::{Result, ensure};
use pulse_entitlements::{Catalog, DatabaseSource, cache::CacheConfig};
use pulse_kernel::{OrgId, SystemClock};
use pulse_tenant_guard::{OrganizationStatus, StatusCache, StatusLookup};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::hits::Caches;
use crate::{
    measure::{Effort, cost, count, median},
    report::{Figure, Goal},
    tenants::{self, Everybody},
};

pub(super) const ABOUT: &str = "many tenants in place of a thousand: processor time of an answer, and memory";

/// How few tenants the many are compared with.
const FEW: usize = 1000;

pub(super) fn run(effort: Effort) -> Result<Vec<Figure>> {
    let (few, many) = (Caches::with(FEW)?, Caches::with(effort.tenants)?);
    let mut random = SmallRng::seed_from_u64(1);
    let mut asked = |among: usize| -> Result<Vec<OrgId>> {
        // Made anew, one after the other: what is asked for has just arrived, wherever the tenant itself is in memory.
        (0..effort.calls).map(|_| tenants::id(random.random_range(0..among))).collect()
    };
    let (a_thousand, everybody) = (asked(FEW)?, asked(effort.tenants)?);
    let mut times = [vec![], vec![], vec![]];
    for _ in 0..effort.runs {
        few.confirm();
        many.confirm();
        let mut rounds = [vec![], vec![], vec![]];
        for _ in 0..effort.rounds {
            rounds[0].push(look(&few.entitlements, &a_thousand)?);
            rounds[1].push(look(&many.entitlements, &a_thousand)?);
            rounds[2].push(look(&many.entitlements, &everybody)?);
        }
        times.iter_mut().zip(&rounds).for_each(|(times, rounds)| times.push(median(rounds)));
    }
    drop((few, many));
    let [few, among_many, many] = times.map(|times| Figure::new("", "ns", times));
    Ok(vec![
        Figure::ratio("an answer about one of a thousand, among all of them", &among_many, &few)
            .with_goal(Goal::AtMost(1.2)),
        Figure::ratio("an answer about any of them", &many, &few).with_goal(Goal::AtMost(1.2)),
        few.called("an answer about one of a thousand, and there are no others"),
        among_many.called("an answer about one of a thousand, among all of them"),
        many.called("an answer about any of them"),
        memory("memory of a tenant's entitlements, beside its id", effort, entitlements)?,
        memory("memory of a tenant's status, beside its id", effort, statuses)?,
    ])
}

/// Nanoseconds of a look at each of these.
fn look(source: &DatabaseSource, ids: &[OrgId]) -> Result<f64> {
    let (mut ids, mut hits) = (ids.iter(), 0);
    let calls = ids.len();
    let time = cost(calls, || {
        hits += usize::from(ids.next().is_some_and(|org| source.cached(black_box(org)).is_some()));
    });
    // A cache makes room a little before it is full.
    ensure!(hits * 10 >= calls * 9, "only {hits} of {calls} answers were at hand");
    Ok(time)
}

/// Bytes that `fill` takes for good for each of the tenants, less those of the texts of their ids.
fn memory<T>(what: &str, effort: Effort, fill: impl Fn(&[OrgId]) -> T) -> Result<Figure> {
    let mut failed = None;
    let mut kept = None;
    let mut text = 0;
    let allocated = allocation_counter::measure(|| {
        let ids: Result<Vec<OrgId>> = (0..effort.tenants).map(tenants::id).collect();
        match ids {
            Ok(ids) => {
                text = ids.iter().map(|org| org.as_str().len()).sum();
                kept = Some(fill(&ids));
            }
            Err(error) => failed = Some(error),
        }
    });
    drop(kept);
    if let Some(error) = failed {
        return Err(error);
    }
    let bytes = usize::try_from(allocated.bytes_current)?.saturating_sub(text);
    Ok(Figure::new(what, "bytes", vec![count(bytes) / count(effort.tenants)]).with_goal(Goal::AtMost(100.0)))
}

/// A cache for so many tenants, with that many.
fn config(ids: &[OrgId]) -> CacheConfig {
    CacheConfig { max_entries: ids.len(), ..CacheConfig::default() }
}

fn entitlements(ids: &[OrgId]) -> DatabaseSource {
    let everybody = Arc::new(Everybody::new());
    let store = Arc::clone(&everybody) as _;
    let source = DatabaseSource::new(store, &Catalog::built_in(), config(ids), Arc::new(SystemClock));
    for org in ids {
        source.update(org, everybody.lookup(org));
    }
    source
}

fn statuses(ids: &[OrgId]) -> StatusCache {
    let cache = StatusCache::new(Arc::new(Everybody::new()), config(ids), Arc::new(SystemClock));
    for org in ids {
        cache.update(org, StatusLookup::Status(OrganizationStatus::Active), 1);
    }
    cache
}
