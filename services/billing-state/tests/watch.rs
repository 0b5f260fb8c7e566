//! `WatchBillingStates`: what watchers are told of billing states, over a real connection, whoever changes them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::{collections::BTreeMap, fs};

use futures::future::join_all;
use pulse_kernel::Reason;
use pulse_proto::{
    billing::v1::{
        BillingState, BillingStateChange,
        SubscriptionState::{self, Active, Expired, Suspended, Trial},
        WatchBillingStatesRequest, WatchBillingStatesResponse,
        billing_state_change::Now,
        entitlement_service_client::EntitlementServiceClient,
        watch_billing_states_response::Event,
    },
    watch::v1::WatchMode,
};
use pulse_rpc::{Channel, from_status};
use pulse_testkit::{ManualClock, Postgres, Proxy};
use tokio::time::timeout;
use tonic::Streaming;

use self::support::{Answer, Billing, WAIT, answer, to};

/// What a watcher knows of a tenant.
#[derive(Debug, Clone, PartialEq)]
enum Known {
    State(Box<BillingState>),
    Gone,
    Unreadable,
}

/// Somebody who keeps a copy of what is told.
struct Watcher {
    stream: Streaming<WatchBillingStatesResponse>,
    copy: BTreeMap<String, (u64, Known)>,
    resume_token: String,
    synced: bool,
    resets: usize,
}

impl Watcher {
    async fn begin(channel: Channel, request: WatchBillingStatesRequest) -> Answer<Self> {
        let stream = answer(EntitlementServiceClient::new(channel).watch_billing_states(request).await)?;
        Ok(Self { stream, copy: BTreeMap::new(), resume_token: String::new(), synced: false, resets: 0 })
    }

    /// One that has been told of all there is.
    async fn of_all(billing: &Billing) -> Self {
        let begin = Self::begin(billing.channel(), WatchBillingStatesRequest::default());
        let mut watcher = begin.await.unwrap();
        watcher.until_synced().await;
        watcher
    }

    /// What is told next. Revisions never go backwards.
    async fn next(&mut self) -> Answer<()> {
        let message = self.stream.message().await.map_err(|status| from_status(&status))?.unwrap();
        if !message.resume_token.is_empty() {
            self.resume_token = message.resume_token;
        }
        match message.event.unwrap() {
            Event::Changed(BillingStateChange { org_id, revision, now }) => {
                let known = match now.unwrap() {
                    Now::BillingState(state) => Known::State(Box::new(state)),
                    Now::Gone(_) => Known::Gone,
                    Now::Unreadable(_) => Known::Unreadable,
                };
                let before = self.copy.insert(org_id, (revision, known.clone()));
                let before = before.map(|(revision, _)| revision).unwrap_or_default();
                assert!(revision >= before || !matches!(known, Known::State(_)), "{revision} after {before}");
            }
            Event::Synced(_) => self.synced = true,
            Event::Reset(_) => self.resets += 1,
            Event::Heartbeat(_) => {}
        }
        Ok(())
    }

    async fn until_synced(&mut self) {
        self.until_told(|watcher| watcher.synced).await;
    }

    /// Takes what is told until that holds; not for long, although heartbeats go on.
    async fn until_told(&mut self, holds: impl Fn(&Self) -> bool) {
        let told = async {
            while !holds(self) {
                self.next().await.unwrap();
            }
        };
        timeout(WAIT, told).await.unwrap();
    }

    /// Waits until that holds of the tenant.
    async fn until(&mut self, org: &str, holds: impl Fn(&Known) -> bool) {
        self.until_told(|watcher| watcher.copy.get(org).is_some_and(|(_, known)| holds(known))).await;
    }

    async fn until_state(&mut self, org: &str, state: SubscriptionState) {
        self.until(org, |known| is(known, state)).await;
    }
}

fn is(known: &Known, state: SubscriptionState) -> bool {
    matches!(known, Known::State(known) if known.subscription_state() == state)
}

fn changes_only() -> WatchBillingStatesRequest {
    WatchBillingStatesRequest { mode: WatchMode::ChangesOnly.into(), ..WatchBillingStatesRequest::default() }
}

#[tokio::test]
async fn a_watcher_is_told_of_every_state_and_of_every_change() {
    let billing = Billing::hosted().await;
    for number in 0..100 {
        billing.start_trial(&format!("org-{number}"), "k").await.unwrap();
    }
    let mut watcher = Watcher::of_all(&billing).await;
    assert_eq!(watcher.copy.len(), 100, "more than a page");
    let stored = billing.stored("org-7").await.unwrap();
    assert_eq!(watcher.copy["org-7"], (1, Known::State(Box::new(stored))), "all of it");

    billing.start_trial("acme", "k").await.unwrap();
    watcher.until_state("acme", Trial).await;
    let stored = billing.set("billing", to("acme", Suspended)).await.unwrap();
    watcher.until_state("acme", Suspended).await;
    assert_eq!(watcher.copy["acme"], (2, Known::State(Box::new(stored))));
    billing.purge("acme", "").await.unwrap();
    watcher.until("acme", |known| *known == Known::Gone).await;
    assert_eq!(watcher.resets, 0);
}

#[tokio::test]
async fn a_watcher_is_told_of_edits_by_hand_and_of_files_that_cannot_be_read() {
    let billing = Billing::hosted().await;
    billing.start_trial("acme", "k").await.unwrap();
    let mut watcher = Watcher::of_all(&billing).await;
    billing.edit("acme", "\"trial\"", "\"expired\"");
    watcher.until_state("acme", Expired).await;
    assert_eq!(watcher.copy["acme"].0, 2);

    fs::write(billing.file("acme", "billing.json"), "{").unwrap();
    let watcher = Watcher::of_all(&billing).await;
    assert_eq!(watcher.copy["acme"], (0, Known::Unreadable));
}

#[tokio::test]
async fn a_watcher_may_want_changes_only_and_goes_on_where_it_was_or_starts_over() {
    let billing = Billing::hosted().await;
    billing.start_trial("acme", "k").await.unwrap();
    let mut watcher = Watcher::begin(billing.channel(), changes_only()).await.unwrap();
    watcher.until_synced().await;
    assert!(watcher.copy.is_empty());
    billing.set("billing", to("acme", Active)).await.unwrap();
    watcher.until_state("acme", Active).await;
    let resume = WatchBillingStatesRequest { resume_token: watcher.resume_token.clone(), ..changes_only() };
    drop(watcher);

    billing.set("billing", to("acme", Suspended)).await.unwrap();
    let mut resumed = Watcher::begin(billing.channel(), resume.clone()).await.unwrap();
    resumed.until_state("acme", Suspended).await;
    assert_eq!(resumed.resets, 0);

    let billing = billing.restart().await;
    let mut resumed = Watcher::begin(billing.channel(), resume).await.unwrap();
    resumed.until_synced().await;
    assert_eq!((resumed.copy.len(), resumed.resets), (0, 1));
    let refused = WatchBillingStatesRequest { org_ids: vec!["Not an id".into()], ..changes_only() };
    let refused = Watcher::begin(billing.channel(), refused).await.err().unwrap();
    assert_eq!(refused.reason(), Reason::InvalidOrgId);
    billing.stop().await;
    let ended = resumed.next().await.unwrap_err();
    assert_eq!((ended.reason(), ended.retry_delay().is_some()), (Reason::Unavailable, true));
}

#[tokio::test]
async fn a_thousand_watchers_hear_of_a_change() {
    let billing = Billing::hosted().await;
    billing.start_trial("acme", "k").await.unwrap();
    let channels: Vec<_> = (0..10).map(|_| billing.channel()).collect();
    let begin = |number: usize| Watcher::begin(channels[number % 10].clone(), changes_only());
    let mut watchers: Vec<_> = join_all((0..1000).map(begin)).await.into_iter().map(Result::unwrap).collect();
    join_all(watchers.iter_mut().map(Watcher::until_synced)).await;
    billing.set("billing", to("acme", Suspended)).await.unwrap();
    join_all(watchers.iter_mut().map(|watcher| watcher.until_state("acme", Suspended))).await;
}

#[tokio::test]
async fn a_watcher_of_one_replica_hears_what_another_changes_and_all_of_it_after_an_outage() {
    let database = Postgres::shared().await.database().await;
    let proxy = Proxy::to(&[Postgres::shared().await.addr()]);
    let clock = ManualClock::default();
    let one = Billing::replica(&database.url(), clock.clone()).await;
    one.start_trial("acme", "k").await.unwrap();
    one.start_trial("other", "k").await.unwrap();
    let replica = Billing::replica(&database.url_through(proxy.addr()), clock).await;
    let mut watcher = Watcher::of_all(&replica).await;
    assert!(is(&watcher.copy["acme"].1, Trial));
    one.set("billing", to("acme", Suspended)).await.unwrap();
    watcher.until_state("acme", Suspended).await;

    proxy.cut().await;
    one.set("billing", to("acme", Active)).await.unwrap();
    one.set("billing", to("acme", Expired)).await.unwrap();
    one.purge("other", "").await.unwrap();
    proxy.heal().await;
    watcher.until_state("acme", Expired).await;
    watcher.until("other", |known| *known == Known::Gone).await;
    assert_eq!(watcher.copy["acme"].0, 4);
}
