//! What a cache counts: a few atomics, so that a hit pays for nothing more; they are read when somebody asks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{KeyValue, metrics::Meter};

use super::{Facts, Inner};

/// The counters of one cache.
#[derive(Debug, Default)]
pub(super) struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
    unknown: AtomicU64,
    /// The greatest age of an answer since it was last told, in microseconds.
    oldest: AtomicU64,
}

impl Counts {
    /// An answer was at hand.
    pub(super) fn hit(&self, age: Duration) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        self.note_age(age);
    }

    /// One was not.
    pub(super) fn miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer is the last known one, as the store does not answer.
    pub(super) fn stale(&self, age: Duration) {
        self.stale.fetch_add(1, Ordering::Relaxed);
        self.note_age(age);
    }

    /// Nothing is known, and the store does not answer.
    pub(super) fn unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    fn note_age(&self, age: Duration) {
        let age = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        // Most answers are younger than the oldest one, and then nothing needs to be written.
        if age > self.oldest.load(Ordering::Relaxed) {
            self.oldest.fetch_max(age, Ordering::Relaxed);
        }
    }
}

/// Tells the counters of `cache` through `meter`, for as long as the cache lives.
pub(super) fn report<F: Facts>(cache: &Arc<Inner<F>>, meter: &Meter, name: &'static str) {
    let of = Told { cache, meter, labels: [KeyValue::new("cache", name)] };
    of.counter("hits", "Answers that were at hand", |counts| &counts.hits);
    of.counter("misses", "Answers that were not at hand", |counts| &counts.misses);
    of.counter("stale_answers", "Answers with the last known state: the store is away", |counts| {
        &counts.stale
    });
    of.counter("unknown_answers", "Answers without a known state: the store is away", |counts| {
        &counts.unknown
    });
    of.gauge("entries", "Tenants in the cache", |cache| cache.cache.len());
    of.gauge("remembered", "Evicted tenants that must stay closed", |cache| cache.remembered.len());
    of.age();
}

/// A cache on its way to a meter.
struct Told<'a, F: Facts> {
    cache: &'a Arc<Inner<F>>,
    meter: &'a Meter,
    labels: [KeyValue; 1],
}

impl<F: Facts> Told<'_, F> {
    fn counter(&self, name: &str, what: &'static str, counter: fn(&Counts) -> &AtomicU64) {
        let (counts, labels) = (Arc::downgrade(&self.cache.counts), self.labels.clone());
        self.meter
            .u64_observable_counter(format!("pulse_tenant_cache_{name}"))
            .with_description(what)
            .with_callback(move |observer| {
                if let Some(counts) = counts.upgrade() {
                    observer.observe(counter(&counts).load(Ordering::Relaxed), &labels);
                }
            })
            .build();
    }

    fn gauge(&self, name: &str, what: &'static str, count: fn(&Inner<F>) -> usize) {
        let (cache, labels) = (Arc::downgrade(self.cache), self.labels.clone());
        self.meter
            .u64_observable_gauge(format!("pulse_tenant_cache_{name}"))
            .with_description(what)
            .with_callback(move |observer| {
                if let Some(cache) = cache.upgrade() {
                    observer.observe(u64::try_from(count(&cache)).unwrap_or(u64::MAX), &labels);
                }
            })
            .build();
    }

    fn age(&self) {
        let (counts, labels) = (Arc::downgrade(&self.cache.counts), self.labels.clone());
        self.meter
            .f64_observable_gauge("pulse_tenant_cache_age")
            .with_unit("s")
            .with_description("The greatest age of an answer since this was last read")
            .with_callback(move |observer| {
                if let Some(counts) = counts.upgrade() {
                    let oldest = Duration::from_micros(counts.oldest.swap(0, Ordering::Relaxed));
                    observer.observe(oldest.as_secs_f64(), &labels);
                }
            })
            .build();
    }
}
