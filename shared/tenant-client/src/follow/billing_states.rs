//! The stream of billing states, from billing-state, for a [`DatabaseSource`].

use std::time::Duration;

use pulse_entitlements::DatabaseSource;
use pulse_proto::{
    billing::v1::{
        WatchBillingStatesRequest, WatchBillingStatesResponse,
        entitlement_service_client::EntitlementServiceClient, watch_billing_states_response::Event,
    },
    watch::v1::WatchMode,
};
use pulse_rpc::Channel;
use tonic::{Status, Streaming};

use super::feed::{Feed, Heard, lasting};
use crate::convert::{self, Told};

/// The stream, and the cache that it is for.
#[derive(Debug)]
pub(super) struct BillingStates {
    client: EntitlementServiceClient<Channel>,
    entitlements: DatabaseSource,
}

impl BillingStates {
    pub(super) fn new(billing_state: Channel, entitlements: DatabaseSource) -> Self {
        Self { client: EntitlementServiceClient::new(billing_state), entitlements }
    }
}

impl Feed for BillingStates {
    const STREAM: &'static str = "billing_states";
    const TASK: &'static str = "follow billing states";
    type Message = WatchBillingStatesResponse;

    async fn open(&self, resume_token: String) -> Result<Streaming<Self::Message>, Status> {
        let mode = WatchMode::ChangesOnly.into();
        let request = WatchBillingStatesRequest { mode, resume_token, org_ids: Vec::new() };
        Ok(self.client.clone().watch_billing_states(lasting(request)).await?.into_inner())
    }

    fn hear(&self, message: Self::Message) -> (Heard, String) {
        let heard = match message.event {
            Some(Event::Changed(change)) => match convert::billing_state_change(&change) {
                Some(Told { org, now: Some(lookup), at }) => {
                    self.entitlements.tell(&org, lookup);
                    Heard::Changed(at)
                }
                Some(Told { org, now: None, at }) => {
                    self.entitlements.invalidate(&org);
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
        self.entitlements.confirm(age);
    }

    fn lost(&self) {
        self.entitlements.lost();
    }

    fn invalidate_all(&self) {
        self.entitlements.invalidate_all();
    }
}
