//! The hosts of every tenant.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pulse_kernel::{ApiError, OrgId, Reason};
use pulse_tenant_guard::{Guard, Requirement};
use serde::Serialize;

use crate::doors::MONITORED_HOSTS;

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// Whether somebody is to be told when it is silent.
    pub(crate) alerts: bool,
}

type ByTenant = HashMap<OrgId, BTreeMap<String, Host>>;

/// The hosts of every tenant. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Hosts {
    by_tenant: Arc<Mutex<ByTenant>>,
    guard: Guard,
}

impl Hosts {
    pub(crate) fn new(guard: Guard) -> Self {
        Self { by_tenant: Arc::default(), guard }
    }

    pub(crate) fn list(&self, org: &OrgId) -> Vec<Host> {
        self.lock().get(org).map(|hosts| hosts.values().cloned().collect()).unwrap_or_default()
    }

    /// Adds a host; one that is there already stays as it is.
    ///
    /// # Errors
    /// `LIMIT_EXCEEDED` when the tenant may not have one more, or why that cannot be told.
    pub(crate) async fn add(&self, org: &OrgId, name: &str) -> Result<Host, ApiError> {
        if name.is_empty() || name.len() > 253 {
            return Err(ApiError::field(Reason::InvalidRequest, "name", "must have 1 to 253 bytes"));
        }
        loop {
            let have = self.lock().get(org).map_or(0, BTreeMap::len);
            let one_more = Requirement::limit(MONITORED_HOSTS, have as u64 + 1);
            let verdict = self.guard.check(org, &one_more).await;
            let mut tenants = self.lock();
            let hosts = tenants.entry(org.clone()).or_default();
            if let Some(host) = hosts.get(name) {
                return Ok(host.clone());
            }
            // Where somebody else has added one meanwhile, that was not the question.
            if hosts.len() == have {
                verdict.into_result()?;
                let host = Host { name: name.to_owned(), alerts: false };
                hosts.insert(name.to_owned(), host.clone());
                return Ok(host);
            }
        }
    }

    /// # Errors
    /// `INVALID_REQUEST` when there is no such host.
    pub(crate) fn enable_alerts(&self, org: &OrgId, name: &str) -> Result<Host, ApiError> {
        let mut tenants = self.lock();
        let host = tenants.get_mut(org).and_then(|hosts| hosts.get_mut(name));
        let unknown = || ApiError::field(Reason::InvalidRequest, "name", "must be a host that was added");
        let host = host.ok_or_else(unknown)?;
        host.alerts = true;
        Ok(host.clone())
    }

    /// All of them, as RFC 4180 has it.
    pub(crate) fn export(&self, org: &OrgId) -> String {
        let mut csv = "name,alerts\r\n".to_owned();
        for Host { name, alerts } in self.list(org) {
            // Writing to a string cannot fail.
            let _ = write!(csv, "\"{}\",{alerts}\r\n", name.replace('"', "\"\""));
        }
        csv
    }

    fn lock(&self) -> MutexGuard<'_, ByTenant> {
        self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
