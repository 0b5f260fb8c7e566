//! Who waits for which provisioning.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pulse_kernel::OrgId;
use tokio::sync::watch;

use super::Saga;

/// Wakes those who wait in this process when a runner here has stopped. Those who wait for a runner elsewhere look into the
/// journal now and then.
#[derive(Debug, Clone, Default)]
pub struct Endings(Arc<Mutex<Channels>>);

type Channels = HashMap<OrgId, watch::Sender<Option<Arc<Saga>>>>;

impl Endings {
    /// Begins to wait for the provisioning of that tenant. What is announced from now on is not missed.
    pub fn subscribe(&self, org_id: &OrgId) -> Subscription {
        let mut channels = self.lock();
        let channel = channels.entry(org_id.clone()).or_insert_with(|| watch::channel(None).0);
        Subscription { receiver: Some(channel.subscribe()), org_id: org_id.clone(), endings: self.clone() }
    }

    /// Tells those who wait how far it got.
    pub fn announce(&self, saga: &Arc<Saga>) {
        if let Some(channel) = self.lock().get(&saga.org_id) {
            channel.send_replace(Some(Arc::clone(saga)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Channels> {
        // No code under this lock can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those who wait; the last to leave takes the channel down.
#[derive(Debug)]
pub struct Subscription {
    receiver: Option<watch::Receiver<Option<Arc<Saga>>>>,
    org_id: OrgId,
    endings: Endings,
}

impl Subscription {
    /// The next announcement; never, once nobody can announce any more.
    pub async fn next(&mut self) -> Arc<Saga> {
        if let Some(receiver) = &mut self.receiver {
            while receiver.changed().await.is_ok() {
                if let Some(saga) = receiver.borrow_and_update().clone() {
                    return saga;
                }
            }
        }
        std::future::pending().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut channels = self.endings.lock();
        self.receiver = None;
        if channels.get(&self.org_id).is_some_and(watch::Sender::is_closed) {
            channels.remove(&self.org_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use jiff::Timestamp;

    use super::*;
    use crate::saga::{Lease, Subject};

    fn saga() -> Arc<Saga> {
        let lease = Lease { owner: "one".into(), until: Timestamp::UNIX_EPOCH };
        Arc::new(Saga::begin(OrgId::default_org(), Subject::Purge, lease, Timestamp::UNIX_EPOCH))
    }

    #[tokio::test]
    async fn all_who_wait_are_woken_and_nothing_is_left_behind() {
        let endings = Endings::default();
        let saga = saga();
        let (mut first, mut second) = (endings.subscribe(&saga.org_id), endings.subscribe(&saga.org_id));
        assert!(first.next().now_or_never().is_none());
        endings.announce(&saga);
        assert_eq!(first.next().await.org_id, saga.org_id);
        assert_eq!(second.next().await.org_id, saga.org_id);
        drop(first);
        assert_eq!(endings.lock().len(), 1);
        drop(second);
        assert!(endings.lock().is_empty());
        // Nobody waits: an announcement is not kept.
        endings.announce(&saga);
        assert!(endings.subscribe(&saga.org_id).next().now_or_never().is_none());
    }
}
