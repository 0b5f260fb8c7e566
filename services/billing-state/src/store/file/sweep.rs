//! Looking for edits by hand, so that those who are told of changes are told of these too.
//!
//! Whoever asks for a tenant's state reads the file; those who keep a copy do not ask. So all files are looked at again and again,
//! only at when each was last changed, by the file system's own clock (`st_ctime`, which nobody can set). With few tenants an edit is
//! noticed in seconds; with very many it takes longer, as a look at all of them takes the disk only a small part of the time.

use std::{
    fs::{self, ReadDir},
    io,
    os::unix::fs::MetadataExt as _,
    time::Duration,
};

use pulse_entitlements::Lookup;
use pulse_kernel::OrgId;
use pulse_runtime::Shutdown;
use pulse_store::postgres::feed::{Change, Event};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{FileStore, STATE, StoreError, org_of};
use crate::store::OnEvent;

/// How many files are looked at before others may use the thread.
const BATCH: usize = 256;

/// The pause between two looks at everything: at least so long, and so many times as long as a look takes.
const PAUSE: Duration = Duration::from_secs(1);
const REST: u32 = 20;

/// By how much the clock of a file may lag behind that of the mark, in nanoseconds.
const SLACK: i128 = 1_000_000_000;

/// Looks again and again, until the process is told to stop. What is under way then goes on to its end, so that nothing of the
/// store is held afterwards.
pub(super) async fn sweep(store: FileStore, mut on: OnEvent, shutdown: Shutdown) {
    let (mut after, mut failing) = (None, false);
    while !shutdown.is_draining() {
        let began = Instant::now();
        let looked = look(&store, after, &mut on, &shutdown).await;
        match &looked {
            Ok(mark) => after = Some(*mark),
            Err(error) if !failing => tracing::warn!(%error, "edits of billing states by hand go unnoticed"),
            Err(_) => {}
        }
        failing = looked.is_err();
        tokio::select! { () = sleep(PAUSE.max(began.elapsed() * REST)) => {}, () = shutdown.draining() => {} }
    }
}

/// Tells `on` of every state whose file was changed since the last look, if there was one; returns when this one began.
async fn look(
    store: &FileStore,
    after: Option<i128>,
    on: &mut OnEvent,
    shutdown: &Shutdown,
) -> io::Result<i128> {
    let inner = store.0.clone();
    let (mark, mut orgs) = spawn_blocking(move || {
        // That changes nothing but when the file was changed.
        inner.lock.set_permissions(inner.lock.metadata()?.permissions())?;
        Ok::<_, io::Error>((changed(&inner.lock.metadata()?), fs::read_dir(&inner.place.orgs)?))
    })
    .await??;
    let Some(after) = after else { return Ok(mark) };
    while !shutdown.is_draining() {
        let inner = store.0.clone();
        let (rest, found) = spawn_blocking(move || {
            let found = edited(&mut orgs, &inner.place.orgs, after - SLACK)?;
            Ok::<_, io::Error>((orgs, found))
        })
        .await??;
        orgs = rest;
        let Some(found) = found else { return Ok(mark) };
        for org in found {
            tell(store, org, on).await;
        }
    }
    Ok(after)
}

/// Those of the next tenants whose file was changed since; none where there are no more.
fn edited(orgs: &mut ReadDir, folder: &std::path::Path, since: i128) -> io::Result<Option<Vec<OrgId>>> {
    let (mut found, mut seen) = (Vec::new(), 0);
    for entry in orgs.by_ref().take(BATCH) {
        seen += 1;
        let Some(org) = org_of(&entry?) else { continue };
        match fs::metadata(folder.join(org.as_str()).join(STATE)) {
            Ok(metadata) if changed(&metadata) >= since => found.push(org),
            Ok(_) => {}
            // Not there yet, or any more.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((seen > 0).then_some(found))
}

/// When that was changed, in nanoseconds by the file system's clock.
fn changed(metadata: &fs::Metadata) -> i128 {
    i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec())
}

/// Reads the state, which records an edit in the audit, and says what revision it is. One that was not edited is known already.
async fn tell(store: &FileStore, org: OrgId, on: &mut OnEvent) {
    let found = store.with(&org, |tenant| Ok((tenant.get()?, tenant.now()))).await;
    match found {
        Ok((Lookup::Stored(stored), at)) => {
            let version = i64::try_from(stored.revision).unwrap_or(i64::MAX);
            on(Event::Changed(Change { org_id: org, version, at }));
        }
        Ok((Lookup::NotStored | Lookup::Purged, _)) => {}
        Err(error @ StoreError::Unreadable { .. }) => {
            tracing::error!(org_id = %org, %error, "a billing state was made unreadable");
        }
        Err(error) => tracing::warn!(org_id = %org, %error, "a billing state cannot be looked at"),
    }
}
