//! That a stream outlives the time that a call may take, at both ends of a real connection.

use std::time::Duration;

use http::HeaderValue;
use pulse_proto::{
    lifecycle::v1::{
        WatchOrganizationsRequest, organization_service_client::OrganizationServiceClient,
        watch_organizations_response::Event,
    },
    watch::v1::WatchMode,
};
use pulse_rpc::{RequestContext, RequestId, channel, watch::hub::Limits};
use pulse_runtime::Shutdown;
use tokio::time::Instant;

use crate::{
    PausedClock,
    service::Replica,
    store::{Statuses, Store},
};

/// How long a call may take, for its caller and at the server.
const A_CALL: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_stream_outlives_the_time_of_a_call() {
    let (store, shutdown) = (Store::new(PausedClock::start()), Shutdown::new());
    let limits = Limits { heartbeat: Duration::from_millis(50), ..Limits::default() };
    let replica = Replica::start(&store, 0, limits, &shutdown);
    let addr = replica.listen(A_CALL).await;

    let begin = Instant::now();
    let request_id = RequestId::accept(&HeaderValue::from_static("watcher")).unwrap();
    let context = RequestContext { request_id, deadline: Some(begin + A_CALL) };
    let opened = context.scope(async {
        let mut client = OrganizationServiceClient::new(channel(&format!("http://{addr}")).unwrap());
        let mode = WatchMode::ChangesOnly.into();
        client.watch_organizations(WatchOrganizationsRequest { mode, ..Default::default() }).await
    });
    let mut stream = opened.await.unwrap().into_inner();
    while begin.elapsed() < 4 * A_CALL {
        let event = stream.message().await.unwrap().unwrap().event;
        assert!(matches!(event, Some(Event::Synced(_) | Event::Heartbeat(_))), "{event:?}");
    }
    store.set_status("acme", Statuses::Suspended);
    replica.hubs().changed("acme");
    loop {
        match stream.message().await.unwrap().unwrap().event {
            Some(Event::Changed(change)) => break assert_eq!(change.org_id, "acme"),
            Some(Event::Heartbeat(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    shutdown.abort();
}
