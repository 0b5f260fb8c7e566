//! The stream of organizations, from lifecycle, for a [`StatusCache`].

use std::time::Duration;

use pulse_proto::{
    lifecycle::v1::{
        WatchOrganizationsRequest, WatchOrganizationsResponse,
        organization_service_client::OrganizationServiceClient, watch_organizations_response::Event,
    },
    watch::v1::WatchMode,
};
use pulse_rpc::Channel;
use pulse_tenant_guard::StatusCache;
use tonic::{Status, Streaming};

use super::feed::{Feed, Heard, lasting};
use crate::convert::{self, Told};

/// The stream, and the cache that it is for.
#[derive(Debug)]
pub(super) struct Organizations {
    client: OrganizationServiceClient<Channel>,
    statuses: StatusCache,
}

impl Organizations {
    pub(super) fn new(lifecycle: Channel, statuses: StatusCache) -> Self {
        Self { client: OrganizationServiceClient::new(lifecycle), statuses }
    }
}

impl Feed for Organizations {
    const STREAM: &'static str = "organizations";
    const TASK: &'static str = "follow organizations";
    type Message = WatchOrganizationsResponse;

    async fn open(&self, resume_token: String) -> Result<Streaming<Self::Message>, Status> {
        let mode = WatchMode::ChangesOnly.into();
        let request = WatchOrganizationsRequest { mode, resume_token, org_ids: Vec::new() };
        Ok(self.client.clone().watch_organizations(lasting(request)).await?.into_inner())
    }

    fn hear(&self, message: Self::Message) -> (Heard, String) {
        let heard = match message.event {
            Some(Event::Changed(change)) => match convert::organization_change(&change) {
                Some(Told { org, now: Some((lookup, version)), at }) => {
                    self.statuses.tell(&org, lookup, version);
                    Heard::Changed(at)
                }
                Some(Told { org, now: None, at }) => {
                    self.statuses.invalidate(&org);
                    Heard::Changed(at)
                }
                None => Heard::Garbled,
            },
            Some(Event::Synced(_)) => Heard::Synced,
            Some(Event::Reset(_)) => Heard::Reset,
            Some(Event::Heartbeat(heartbeat)) => Heard::from(&heartbeat),
            None => Heard::Unknown,
        };
        (heard, message.resume_token)
    }

    fn confirm(&self, age: Duration) {
        self.statuses.confirm(age);
    }

    fn lost(&self) {
        self.statuses.lost();
    }

    fn invalidate_all(&self) {
        self.statuses.invalidate_all();
    }
}
