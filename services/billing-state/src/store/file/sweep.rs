//! Looking for edits by hand, so that those who are told of changes are told of these too.
//!
//! Whoever asks for a tenant's state reads the file; those who keep a copy do not ask. So all files, and their folders, are looked at
//! again and again, only at when each was last changed, by the file system's own clock (`st_ctime`, which nobody can set). With few
//! tenants an edit is noticed in seconds; with very many it takes longer, as a look at all of them takes the disk only a small part
//! of the time. What the service itself has changed is looked at once more, which tells nobody anything new.

use std::{
    collections::BTreeSet,
    fs::{self, ReadDir},
    io, mem,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use pulse_entitlements::Lookup;
use pulse_kernel::OrgId;
use pulse_runtime::Shutdown;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{FileStore, STATE, StoreError, Tenant, org_of};
use crate::store::{Event, OnEvent};

/// How many tenants are looked at before others may use the thread.
const BATCH: usize = 256;

/// The pause between two looks at everything: at least so long, and so many times as long as a look takes.
const PAUSE: Duration = Duration::from_secs(1);
const REST: u32 = 20;

/// By how much the clock of a file may lag behind that of the mark, in nanoseconds.
const SLACK: i128 = 1_000_000_000;

/// How many tenants that could not be read are tried again by themselves.
const MOST: usize = 1000;

/// Looks again and again, until the process is told to stop. What is under way then goes on to its end, so that nothing of the
/// store is held afterwards.
pub(super) async fn sweep(store: FileStore, on: OnEvent, shutdown: Shutdown) {
    let mut sweep = Sweep { store, on, after: None, later: BTreeSet::new(), shutdown: shutdown.clone() };
    let mut failing = false;
    while !shutdown.is_draining() {
        let began = Instant::now();
        let looked = sweep.look().await;
        if let Err(error) = &looked
            && !failing
        {
            tracing::warn!(%error, "edits of billing states by hand go unnoticed");
        }
        failing = looked.is_err();
        tokio::select! { () = sleep(PAUSE.max(began.elapsed() * REST)) => {}, () = shutdown.draining() => {} }
    }
}

/// What is known between two looks.
struct Sweep {
    store: FileStore,
    on: OnEvent,
    /// When the last look began, by the clock of the files.
    after: Option<i128>,
    /// Those that could not be read then.
    later: BTreeSet<OrgId>,
    shutdown: Shutdown,
}

impl Sweep {
    /// Tells of every tenant that was changed since the last look, if there was one.
    async fn look(&mut self) -> io::Result<()> {
        let inner = self.store.0.clone();
        let (mark, mut orgs) = spawn_blocking(move || {
            // That changes nothing but when the file was changed.
            inner.lock.set_permissions(inner.lock.metadata()?.permissions())?;
            Ok::<_, io::Error>((changed(&inner.lock.metadata()?), fs::read_dir(&inner.place.orgs)?))
        })
        .await??;
        let Some(after) = self.after else {
            self.after = Some(mark);
            return Ok(());
        };
        if mark < after {
            tracing::warn!("the clock was set back: anything may have been edited since");
            (self.on)(Event::Reset);
        }
        let mut unread = BTreeSet::new();
        for org in mem::take(&mut self.later) {
            self.tell(org, &mut unread).await;
        }
        while !self.shutdown.is_draining() {
            let inner = self.store.0.clone();
            let (rest, found) = spawn_blocking(move || {
                let found = edited(&mut orgs, &inner.place.orgs, after - SLACK)?;
                Ok::<_, io::Error>((orgs, found))
            })
            .await??;
            orgs = rest;
            let Some(found) = found else {
                // Too many to be remembered are found again.
                if unread.len() <= MOST {
                    (self.after, self.later) = (Some(mark), unread);
                }
                break;
            };
            for org in found {
                self.tell(org, &mut unread).await;
            }
        }
        Ok(())
    }

    /// Reads the state, which records an edit in the audit, and tells of it. One that cannot be read now is to be tried again.
    async fn tell(&mut self, org: OrgId, unread: &mut BTreeSet<OrgId>) {
        let found = match self.store.with(&org, Tenant::get).await {
            Ok(Lookup::NotStored | Lookup::Purged) => return,
            Ok(stored @ Lookup::Stored(_)) => Some(stored),
            Err(error @ StoreError::Unreadable { .. }) => {
                tracing::error!(org_id = %org, %error, "a billing state cannot be understood");
                None
            }
            Err(error) => {
                tracing::warn!(org_id = %org, %error, "a billing state cannot be looked at");
                unread.insert(org);
                return;
            }
        };
        (self.on)(Event::Looked { org, found });
    }
}

/// Those of the next tenants whose file or folder was changed since, or cannot be looked at; none where there are no more.
fn edited(orgs: &mut ReadDir, folder: &Path, since: i128) -> io::Result<Option<Vec<OrgId>>> {
    let (mut found, mut seen) = (Vec::new(), 0);
    for entry in orgs.by_ref().take(BATCH) {
        seen += 1;
        let Some(org) = org_of(&entry?) else { continue };
        let tenant = folder.join(org.as_str());
        let is_edited = |path: &Path| match fs::metadata(path) {
            Ok(metadata) => changed(&metadata) >= since,
            // Of a file that is gone, its folder tells.
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        };
        if is_edited(&tenant.join(STATE)) || is_edited(&tenant) {
            found.push(org);
        }
    }
    Ok((seen > 0).then_some(found))
}

/// When that was changed, in nanoseconds by the file system's clock.
fn changed(metadata: &fs::Metadata) -> i128 {
    i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec())
}
