//! One tenant's directory. Everything here blocks, and runs while the tenant's lane is held.
//!
//! A commit, step by step:
//!
//! 1. `billing.json.next` is written and synced;
//! 2. the audit record, which holds the new content's etag, is appended and synced: **this is the commit**;
//! 3. `billing.json.next` becomes `billing.json`, and the directory is synced.
//!
//! Whoever opens the directory next finishes what a crash has interrupted: a `.next` that the last audit record names
//! takes its place, any other is dropped. A file that someone edited in between is left alone: it is the truth.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use pulse_entitlements::{BillingState, Stored};
use pulse_kernel::{Entropy, OrgId};
use pulse_store::audit::{AuditDraft, Salt};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    PURGED,
    disk::Disk,
    log::{Log, name_of},
};
use crate::{
    domain::{Document, Expected, Key, Write, document},
    store::{Committed, Purge, StoreError},
};

pub(super) const STATE: &str = "billing.json";
const NEXT: &str = "billing.json.next";

/// The largest `billing.json` that is read, in bytes: many times what the bounds on its entries allow.
const MAX_STATE: u64 = 1024 * 1024;

/// What an edit by hand is called in the audit, and who did it as far as anybody knows.
const EDITED: &str = "billing_state_edited_by_hand";
const EDITOR: &str = "service:billing-state";

/// Where all tenants are, and what is done to them with.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) orgs: PathBuf,
    pub(super) disk: Box<dyn Disk>,
    pub(super) entropy: Arc<dyn Entropy>,
}

/// One tenant's directory, at one instant.
#[derive(Debug)]
pub(super) struct Tenant {
    place: Arc<Place>,
    org: OrgId,
    dir: PathBuf,
    now: Timestamp,
}

/// What is there.
enum Found {
    Purged,
    Nothing,
    State(Box<BillingState>),
    /// Something that cannot be understood, and why.
    Broken(String),
}

impl Tenant {
    pub(super) fn new(place: Arc<Place>, org: OrgId, now: Timestamp) -> Self {
        let dir = place.orgs.join(org.as_str());
        Self { place, org, dir, now }
    }

    fn disk(&self) -> &dyn Disk {
        &*self.place.disk
    }

    /// The directory of tombstones under `orgs`.
    pub(super) fn tombstones(orgs: &Path) -> PathBuf {
        orgs.join(PURGED)
    }

    pub(super) fn get(&self) -> Result<pulse_entitlements::Lookup, StoreError> {
        use pulse_entitlements::Lookup;
        let (found, log) = self.open()?;
        match found {
            Found::Purged => Ok(Lookup::Purged),
            Found::Nothing => Ok(Lookup::NotStored),
            Found::State(state) => {
                Ok(Lookup::Stored(Box::new(Stored { state: *state, revision: log.revision() })))
            }
            Found::Broken(problem) => Err(self.unreadable(problem, &log)),
        }
    }

    pub(super) fn put(&self, write: Write) -> Result<Committed, StoreError> {
        let (found, mut log) = self.open()?;
        let stored = match found {
            Found::Purged => return Err(StoreError::Purged),
            Found::Broken(problem) => return Err(self.unreadable(problem, &log)),
            Found::Nothing => Expected::Nothing,
            Found::State(state) => Expected::Etag(state.etag()),
        };
        if stored != write.expected {
            return Err(StoreError::Conflict);
        }
        log.check_intact()?;
        let at = self.commit(&mut log, &write).map_err(|source| self.failed("write", source))?;
        let stored = Stored { state: write.state, revision: log.revision() };
        Ok(Committed { stored, at, transaction: None })
    }

    fn commit(&self, log: &mut Log, write: &Write) -> io::Result<Instant> {
        let (disk, dir) = (self.disk(), &self.dir);
        disk.create_dir(dir)?;
        disk.write(&dir.join(NEXT), Document::of(&write.state).to_text()?.as_bytes())?;
        // The names must be there for good before the record that counts on them.
        if log.exists() {
            disk.sync_dir(dir)?;
        } else {
            log.create(disk)?;
            disk.sync_dir(dir)?;
            disk.sync_dir(&self.place.orgs)?;
        }
        log.append(disk, write.draft.clone(), Salt::random(&*self.place.entropy))?;
        let committed = Instant::now();
        self.finish(log)?;
        Ok(committed)
    }

    /// The part of a commit that can be made up for later.
    fn finish(&self, log: &Log) -> io::Result<()> {
        self.disk().rename(&self.dir.join(NEXT), &self.dir.join(STATE))?;
        log.note_head(self.disk())?;
        self.disk().sync_dir(&self.dir)
    }

    pub(super) fn creator(&self) -> Result<Option<String>, StoreError> {
        let (_, log) = self.open()?;
        self.creator_in(&log)
    }

    fn creator_in(&self, log: &Log) -> Result<Option<String>, StoreError> {
        let first = log.first(&self.org).map_err(|source| self.failed("read the audit in", source))?;
        let after = first.and_then(|record| record.details).and_then(|details| details.after);
        Ok(after.as_ref().and_then(document::created_by_key).map(str::to_owned))
    }

    pub(super) fn purge(&self, created_by: Option<&Key>) -> Result<Purge, StoreError> {
        let (found, log) = self.open()?;
        let stored = match found {
            Found::Purged => {
                self.clear().map_err(|source| self.failed("purge", source))?;
                return Ok(Purge::Nothing);
            }
            Found::Nothing => false,
            Found::State(_) | Found::Broken(_) => true,
        };
        if stored
            && let Some(key) = created_by
            && self.creator_in(&log)?.as_deref() != Some(key.as_str())
        {
            return Ok(Purge::NotTheirs);
        }
        self.bury().map_err(|source| self.failed("purge", source))?;
        Ok(if stored { Purge::Removed } else { Purge::Nothing })
    }

    /// The tombstone comes first and is the commit: from then on the rest is only litter.
    fn bury(&self) -> io::Result<()> {
        let tombstone = serde_json::json!({ "purged_at": self.now }).to_string() + "\n";
        self.disk().write(&self.tombstone(), tombstone.as_bytes())?;
        self.disk().sync_dir(&Self::tombstones(&self.place.orgs))?;
        self.clear()
    }

    fn clear(&self) -> io::Result<()> {
        if self.dir.try_exists()? {
            self.disk().remove_dir(&self.dir)?;
            self.disk().sync_dir(&self.place.orgs)?;
        }
        Ok(())
    }

    pub(super) fn audit(
        &self,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<pulse_store::audit::AuditRecord>, StoreError> {
        match self.open()? {
            (Found::Purged, _) => Ok(Vec::new()),
            (_, log) => log.list(&self.org, before, limit),
        }
    }

    /// Looks at what is there, after finishing what a crash interrupted and recording what someone edited.
    fn open(&self) -> Result<(Found, Log), StoreError> {
        let failed = |source| self.failed("open", source);
        let purged = self.tombstone().try_exists().map_err(failed)?;
        if purged {
            // A tenant with a tombstone is gone, whatever cannot be swept away yet.
            if let Err(error) = self.clear() {
                tracing::error!(org_id = %self.org, %error, "what is left of a purged tenant cannot be removed");
            }
            return Ok((Found::Purged, Log::nothing(&self.dir, &self.org)));
        }
        let mut log = Log::open(self.disk(), &self.dir, &self.org).map_err(failed)?;
        let mut found = self.read(&log);
        if self.recover(&found, &log).map_err(failed)? {
            found = self.read(&log);
        }
        if let Found::State(state) = &found {
            self.note_edit(state, &mut log);
        }
        Ok((found, log))
    }

    fn read(&self, log: &Log) -> Found {
        match read_bounded(&self.dir.join(STATE)) {
            Ok(bytes) => match Document::parse(&bytes, &self.org) {
                Ok(state) => Found::State(Box::new(state)),
                Err(problem) => Found::Broken(problem),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => match log.last() {
                Some(_) => Found::Broken("is missing, although the audit log knows of a state".to_owned()),
                None => Found::Nothing,
            },
            Err(error) => Found::Broken(format!("cannot be read: {error}")),
        }
    }

    /// Completes or drops a `.next`. Returns whether the state is another one now.
    fn recover(&self, found: &Found, log: &Log) -> io::Result<bool> {
        let next = self.dir.join(NEXT);
        let bytes = match read_bounded(&next) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let (before, after) = last_change(log);
        let prepared = Document::parse(&bytes, &self.org).ok().map(|state| state.etag());
        let is_committed = prepared.is_some() && prepared.as_deref() == after.and_then(document::etag);
        let is_untouched = match found {
            Found::State(state) => Some(state.etag().as_str()) == before.and_then(document::etag),
            Found::Nothing | Found::Purged => true,
            Found::Broken(_) => !self.dir.join(STATE).try_exists()?,
        };
        if is_committed && is_untouched {
            tracing::info!(org_id = %self.org, "finishing a commit that a crash interrupted");
            self.finish(log)?;
            return Ok(true);
        }
        if is_committed && matches!(found, Found::Broken(_)) {
            // Someone has to mend the file first; what they make of it decides.
            return Ok(false);
        }
        self.disk().remove(&next)?;
        self.disk().sync_dir(&self.dir)?;
        Ok(false)
    }

    /// Appends an audit record when the state is not the one that the last record names. The state counts whether or
    /// not that succeeds.
    fn note_edit(&self, state: &BillingState, log: &mut Log) {
        let (_, last) = last_change(log);
        if last.and_then(document::etag) == Some(state.etag().as_str()) {
            return;
        }
        let draft = AuditDraft {
            org_id: self.org.clone(),
            at: self.now,
            actor: EDITOR.to_owned(),
            action: EDITED.to_owned(),
            reason: None,
            before: last.and_then(document::state).as_ref().and_then(document::before),
            after: document::after(state, EDITED, None),
            request_id: None,
        };
        if let Err(error) = log.check_intact().and_then(|()| {
            self.append_edit(log, draft).map_err(|source| self.failed("audit an edit in", source))
        }) {
            tracing::error!(org_id = %self.org, %error, "an edit by hand is not in the audit");
        }
    }

    fn append_edit(&self, log: &mut Log, draft: AuditDraft) -> io::Result<()> {
        if !log.exists() {
            log.create(self.disk())?;
            self.disk().sync_dir(&self.dir)?;
        }
        log.append(self.disk(), draft, Salt::random(&*self.place.entropy))?;
        tracing::info!(org_id = %self.org, "billing.json was edited by hand");
        log.note_head(self.disk())
    }

    fn tombstone(&self) -> PathBuf {
        Self::tombstones(&self.place.orgs).join(self.org.as_str())
    }

    fn failed(&self, action: &str, source: io::Error) -> StoreError {
        StoreError::Failed { action: format!("{action} {}", self.dir.display()), source }
    }

    /// The error for a state that cannot be understood, with the last one that the audit knows.
    fn unreadable(&self, problem: String, log: &Log) -> StoreError {
        let (_, after) = last_change(log);
        let last_known =
            after.and_then(document::state).map(|state| Box::new(Stored { state, revision: log.revision() }));
        StoreError::Unreadable { place: name_of(&self.org, STATE), problem, last_known }
    }
}

/// What the last record says was there before and after it.
fn last_change(log: &Log) -> (Option<&Value>, Option<&Value>) {
    let details = log.last().and_then(|record| record.details.as_ref());
    (details.and_then(|details| details.before.as_ref()), details.and_then(|details| details.after.as_ref()))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_STATE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_STATE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}
