//! What this service counts. No label carries a tenant.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge},
};
use pulse_store::StoreError;
use tokio::sync::Mutex;

use crate::{domain::StatusKind, store::Store};

/// Every transition that is counted; told as 0 until there is one, so that rates are right from the first.
const TRANSITIONS: [(StatusKind, &str); 10] = [
    (StatusKind::Provisioning, "active"),
    (StatusKind::Provisioning, "abandoned"),
    (StatusKind::Active, "suspended"),
    (StatusKind::Active, "pending_deletion"),
    (StatusKind::Suspended, "active"),
    (StatusKind::Suspended, "pending_deletion"),
    (StatusKind::PendingDeletion, "active"),
    (StatusKind::PendingDeletion, "suspended"),
    (StatusKind::PendingDeletion, "purging"),
    (StatusKind::Purging, "purged"),
];

/// The instruments. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    transitions: Counter<u64>,
    active_tenants: Gauge<u64>,
    due: Gauge<u64>,
    /// How often somebody asked for the number to be told.
    asked: Arc<AtomicU64>,
    /// How many of them have been answered. Held from reading the count to telling it, so that an older count never replaces
    /// a newer one.
    answered: Arc<Mutex<u64>>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = pulse_runtime::telemetry::meter("pulse-lifecycle");
        let transitions = meter
            .u64_counter("pulse_hosted_lifecycle_transitions")
            .with_description("Changes of an organization's status.")
            .build();
        for (from, to) in TRANSITIONS {
            transitions.add(0, &labels(from, to));
        }
        let active_tenants = meter
            .u64_gauge("pulse_hosted_active_tenants")
            .with_description("Tenants in status active, without the default organization.")
            .build();
        let due = meter
            .u64_gauge("pulse_hosted_reaper_due")
            .with_description("Organizations whose retention was over when the reaper last looked; 0 where it is another's turn.")
            .build();
        Self { transitions, active_tenants, due, asked: Arc::default(), answered: Arc::default() }
    }

    /// Counts a change of status.
    pub(crate) fn transition(&self, from: StatusKind, to: &'static str) {
        self.transitions.add(1, &labels(from, to));
    }

    /// Tells how many tenants are active, by what the store says now. One count answers all who asked before it began; when it
    /// fails, the one who counted is told, and nobody tries in turn what fails already.
    pub(crate) async fn show_active_tenants(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut answered = self.answered.lock().await;
        if *answered >= mine {
            return Ok(());
        }
        *answered = self.asked.load(Ordering::SeqCst);
        let counts = store.counts().await?;
        self.active_tenants.record(counts.of(StatusKind::Active), &[]);
        Ok(())
    }

    /// Tells how many organizations the reaper found due.
    pub(crate) fn show_due(&self, due: usize) {
        self.due.record(u64::try_from(due).unwrap_or(u64::MAX), &[]);
    }
}

fn labels(from: StatusKind, to: &'static str) -> [KeyValue; 2] {
    [KeyValue::new("from_status", from.as_str()), KeyValue::new("to_status", to)]
}
