//! `WatchOrganizations`: what watchers are told of organizations, over a real connection.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::collections::BTreeMap;

use futures::future::join_all;
use pulse_kernel::Reason;
use pulse_proto::{
    lifecycle::v1::{
        OrganizationChange, OrganizationStatus, WatchOrganizationsRequest, WatchOrganizationsResponse,
        organization_change::Now, organization_service_client::OrganizationServiceClient,
        watch_organizations_response::Event,
    },
    watch::v1::WatchMode,
};
use pulse_rpc::{Channel, from_status};
use pulse_testkit::eventually;
use tokio::time::timeout;
use tonic::Streaming;

use self::support::{Answer, Lifecycle, WAIT, answer, request};

/// What a watcher knows of an organization; none: it is gone.
type Known = Option<OrganizationStatus>;

/// Somebody who keeps a copy of what is told.
struct Watcher {
    stream: Streaming<WatchOrganizationsResponse>,
    copy: BTreeMap<String, (u64, Known)>,
    resume_token: String,
    synced: bool,
    resets: usize,
}

impl Watcher {
    async fn begin(channel: Channel, request: WatchOrganizationsRequest) -> Answer<Self> {
        let stream = answer(OrganizationServiceClient::new(channel).watch_organizations(request).await)?;
        Ok(Self { stream, copy: BTreeMap::new(), resume_token: String::new(), synced: false, resets: 0 })
    }

    async fn of_all(lifecycle: &Lifecycle) -> Self {
        Self::begin(lifecycle.channel(), WatchOrganizationsRequest::default()).await.unwrap()
    }

    /// What is told next. Versions never go backwards.
    async fn next(&mut self) -> Answer<()> {
        let message = self.stream.message().await.map_err(|status| from_status(&status))?.unwrap();
        if !message.resume_token.is_empty() {
            self.resume_token = message.resume_token;
        }
        match message.event.unwrap() {
            Event::Changed(OrganizationChange { org_id, version, now, changed_at }) => {
                let known = match now.unwrap() {
                    Now::Status(status) => Some(OrganizationStatus::try_from(status).unwrap()),
                    Now::Gone(_) => None,
                    Now::Unreadable(_) => panic!("{org_id} is unreadable"),
                };
                assert_eq!(known.is_some(), version > 0 && changed_at.is_some());
                let before = self.copy.insert(org_id, (version, known)).unwrap_or_default().0;
                assert!(version >= before || known.is_none(), "{version} after {before}");
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

    /// Waits until that is what is known of the organization.
    async fn until(&mut self, org: &str, known: Known) {
        self.until_told(|watcher| watcher.copy.get(org).is_some_and(|(_, is)| *is == known)).await;
    }

    fn known(&self) -> Vec<(&str, Known)> {
        self.copy.iter().map(|(org, (_, known))| (org.as_str(), *known)).collect()
    }
}

fn named(orgs: &[&str]) -> WatchOrganizationsRequest {
    let org_ids = orgs.iter().map(|org| (*org).to_owned()).collect();
    WatchOrganizationsRequest { org_ids, ..WatchOrganizationsRequest::default() }
}

const ACTIVE: Known = Some(OrganizationStatus::Active);
const SUSPENDED: Known = Some(OrganizationStatus::Suspended);

#[tokio::test]
async fn a_watcher_is_told_what_there_is_and_every_step_of_a_tenants_life() {
    let lifecycle = Lifecycle::start(&["--hosted-mode", "true", "--reaper-interval", "5ms"]).await;
    for number in 0..100 {
        lifecycle.active(&format!("org-{number}")).await;
    }
    lifecycle.suspend("support", "org-7", "").await.unwrap();
    let mut watcher = Watcher::of_all(&lifecycle).await;
    watcher.until_synced().await;
    assert_eq!(watcher.copy.len(), 101, "more than a page, and the default organization");
    assert_eq!((watcher.copy["org-7"].1, watcher.copy["default"].1), (SUSPENDED, ACTIVE));

    lifecycle.create(request("acme")).await.unwrap();
    watcher.until("acme", Some(OrganizationStatus::Provisioning)).await;
    lifecycle.activate("acme").await.unwrap();
    watcher.until("acme", ACTIVE).await;
    lifecycle.suspend("support", "acme", "unpaid").await.unwrap();
    watcher.until("acme", SUSPENDED).await;
    lifecycle.unsuspend("support", "acme").await.unwrap();
    watcher.until("acme", ACTIVE).await;
    lifecycle.delete("admin", "acme", Some(1.0)).await.unwrap();
    watcher.until("acme", Some(OrganizationStatus::PendingDeletion)).await;
    lifecycle.restore("admin", "acme").await.unwrap();
    watcher.until("acme", ACTIVE).await;
    lifecycle.delete("admin", "acme", Some(1.0)).await.unwrap();
    watcher.until("acme", Some(OrganizationStatus::PendingDeletion)).await;
    lifecycle.clock.advance(std::time::Duration::from_hours(24));
    watcher.until("acme", Some(OrganizationStatus::Purging)).await;
    lifecycle.finish_purge("acme").await.unwrap();
    watcher.until("acme", None).await;

    lifecycle.create(request("brief")).await.unwrap();
    lifecycle.abandon("brief").await.unwrap();
    watcher.until("brief", None).await;
    assert_eq!(watcher.resets, 0);
}

#[tokio::test]
async fn a_watcher_may_want_some_organizations_or_changes_only_and_goes_on_where_it_was() {
    let lifecycle = Lifecycle::hosted().await;
    lifecycle.active("acme").await;
    lifecycle.active("other").await;
    let mut some = Watcher::begin(lifecycle.channel(), named(&["acme", "nowhere"])).await.unwrap();
    some.until_synced().await;
    assert_eq!(some.known(), [("acme", ACTIVE)]);
    let changes = WatchOrganizationsRequest {
        mode: WatchMode::ChangesOnly.into(),
        ..WatchOrganizationsRequest::default()
    };
    let mut changes = Watcher::begin(lifecycle.channel(), changes).await.unwrap();
    changes.until_synced().await;
    assert_eq!(changes.known(), []);

    lifecycle.suspend("support", "other", "").await.unwrap();
    lifecycle.suspend("support", "acme", "").await.unwrap();
    some.until("acme", SUSPENDED).await;
    assert_eq!(some.known(), [("acme", SUSPENDED)]);
    changes.until("acme", SUSPENDED).await;
    assert_eq!(changes.known(), [("acme", SUSPENDED), ("other", SUSPENDED)]);

    let WatchOrganizationsRequest { org_ids, mode, .. } = named(&["acme", "nowhere"]);
    let resume = WatchOrganizationsRequest { org_ids, mode, resume_token: some.resume_token.clone() };
    drop(some);
    lifecycle.unsuspend("support", "acme").await.unwrap();
    lifecycle.unsuspend("support", "other").await.unwrap();
    let mut resumed = Watcher::begin(lifecycle.channel(), resume.clone()).await.unwrap();
    resumed.until("acme", ACTIVE).await;
    assert_eq!((resumed.known(), resumed.resets), (vec![("acme", ACTIVE)], 0));

    // Another process does not know the place, and says so.
    let (directory, clock) = lifecycle.stop().await;
    let lifecycle = Lifecycle::start_in(directory, clock, &["--hosted-mode", "true"]).await;
    let mut after_restart = Watcher::begin(lifecycle.channel(), resume).await.unwrap();
    after_restart.until_synced().await;
    assert_eq!((after_restart.known(), after_restart.resets), (vec![("acme", ACTIVE)], 1));
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused_and_streams_end_with_the_server() {
    let lifecycle = Lifecycle::start(&[]).await;
    let refused = Watcher::begin(lifecycle.channel(), named(&["Not an id"])).await.err().unwrap();
    assert_eq!((refused.reason(), refused.violations()[0].field.as_str()), (Reason::InvalidOrgId, "org_ids"));
    let mode = WatchOrganizationsRequest { mode: 9, ..WatchOrganizationsRequest::default() };
    let refused = Watcher::begin(lifecycle.channel(), mode).await.err().unwrap();
    assert_eq!((refused.reason(), refused.violations()[0].field.as_str()), (Reason::InvalidRequest, "mode"));

    let mut watcher = Watcher::of_all(&lifecycle).await;
    watcher.until_synced().await;
    lifecycle.stop().await;
    let ended = watcher.next().await.unwrap_err();
    assert_eq!((ended.reason(), ended.retry_delay().is_some()), (Reason::Unavailable, true));
}

#[tokio::test]
async fn a_thousand_watchers_hear_of_a_suspension() {
    let lifecycle = Lifecycle::hosted().await;
    lifecycle.active("acme").await;
    let channels: Vec<_> = (0..10).map(|_| lifecycle.channel()).collect();
    let begin = |number: usize| Watcher::begin(channels[number % 10].clone(), named(&["acme"]));
    let mut watchers: Vec<_> = join_all((0..1000).map(begin)).await.into_iter().map(Result::unwrap).collect();
    join_all(watchers.iter_mut().map(Watcher::until_synced)).await;
    assert!(watchers.iter().all(|watcher| watcher.known() == [("acme", ACTIVE)]));

    let suspended = lifecycle.suspend("support", "acme", "").await.unwrap();
    join_all(watchers.iter_mut().map(|watcher| watcher.until("acme", SUSPENDED))).await;
    let version: u64 = suspended.etag.parse().unwrap();
    assert!(watchers.iter().all(|watcher| watcher.copy["acme"].0 == version));
    let text = pulse_runtime::telemetry::metrics_text().unwrap();
    let watching = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("pulse_hosted_watchers{"));
        line.and_then(|line| line.split(' ').next_back()?.parse::<u64>().ok())
    };
    assert!(watching(&text).unwrap() >= 1000, "{text}");
    drop(watchers);
    eventually(WAIT, async || {
        let text = pulse_runtime::telemetry::metrics_text().unwrap();
        watching(&text).is_some_and(|watching| watching < 1000)
    })
    .await;
}
