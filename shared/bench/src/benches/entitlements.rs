//! `GetEntitlements` over gRPC, warm, against a bare tonic server whose messages are as long: two programs that are under the
//! same load in turn.

use anyhow::Result;
use bytes::Bytes;
use prost::Message as _;
use pulse_proto::billing::v1::{GetEntitlementsRequest, StartTrialRequest};
use pulse_testkit::system::{Service, System};

use crate::{
    echo::{self, Echo},
    load::{Done, Load},
    measure::{Effort, Side, count, process_time, turns},
    report::{Figure, Goal},
    tenants,
};

pub(super) const ABOUT: &str =
    "GetEntitlements over gRPC, answers from the cache, against a bare tonic server with messages as long";

const PATH: &str = "/pulse.billing.v1.EntitlementService/GetEntitlements";

/// How many tenants are asked about.
const TENANTS: usize = 100;

/// A server under load, and what has come of it in this run.
struct Server {
    pid: u32,
    load: Load,
    calls: f64,
    seconds: f64,
    processor: f64,
}

impl Server {
    fn new(pid: u32, load: Load) -> Self {
        Self { pid, load, calls: 0.0, seconds: 0.0, processor: 0.0 }
    }

    /// A round. The first calls after a break are not counted.
    async fn round(&mut self, effort: Effort) -> Result<()> {
        self.load.run(effort.load / 10).await?;
        let before = process_time(self.pid)?;
        let Done { calls, took } = self.load.run(effort.load).await?;
        self.processor += process_time(self.pid)?.saturating_sub(before).as_secs_f64();
        self.calls += count(calls);
        self.seconds += took.as_secs_f64();
        Ok(())
    }

    /// Calls a second, and microseconds of the processor for each; begins anew.
    fn take(&mut self) -> (f64, f64) {
        let taken = (self.calls / self.seconds, self.processor / self.calls * 1e6);
        (self.calls, self.seconds, self.processor) = (0.0, 0.0, 0.0);
        taken
    }
}

pub(super) async fn run(effort: Effort) -> Result<Vec<Figure>> {
    let system = System::five_processes().only(&[Service::BillingState]).start().await;
    let requests = tenants_on_trial(&system).await?;
    let request = requests.first().map_or(0, Bytes::len);
    let load = Load::connect(system.addr(Service::BillingState), PATH, requests).await?;
    load.once().await?;
    let org_id = tenants::id(0)?.to_string();
    let answer =
        system.entitlements().get_entitlements(GetEntitlementsRequest { org_id }).await?.into_inner();
    let mut ours = Server::new(system.pid(Service::BillingState), load);

    let echo = Echo::start(answer.encoded_len()).await?;
    let load = Load::connect(echo.addr(), echo::PATH, vec![echo::request(request)]).await?;
    let mut bare = Server::new(echo.pid()?, load);

    let (mut rates, mut costs) = ([vec![], vec![]], [vec![], vec![]]);
    for _ in 0..effort.runs {
        for side in turns(effort.rounds) {
            match side {
                Side::Ours => ours.round(effort).await?,
                Side::Bare => bare.round(effort).await?,
            }
        }
        for (side, server) in [&mut ours, &mut bare].into_iter().enumerate() {
            let (rate, cost) = server.take();
            rates[side].push(rate);
            costs[side].push(cost);
        }
    }
    let [ours, bare] = rates.map(|runs| Figure::new("", "calls/s", runs));
    let [our_cost, bare_cost] = costs.map(|runs| Figure::new("", "µs", runs));
    Ok(vec![
        Figure::ratio("calls a second, of those of the bare server", &ours, &bare)
            .with_goal(Goal::AtLeast(0.9)),
        Figure::ratio("processor time of the server for a call, of the bare one's", &our_cost, &bare_cost)
            .with_goal(Goal::AtMost(1.1)),
        ours.called("calls a second"),
        bare.called("calls a second, bare server"),
        our_cost.called("processor time of the server for a call"),
        bare_cost.called("processor time of the bare server for a call"),
    ])
}

/// Starts trials; returns a request for the entitlements of each tenant.
async fn tenants_on_trial(system: &System) -> Result<Vec<Bytes>> {
    let mut states = system.billing_states();
    let mut requests = Vec::new();
    for number in 0..TENANTS {
        let org_id = tenants::id(number)?.to_string();
        let idempotency_key = format!("bench-{number}");
        states.start_trial(StartTrialRequest { org_id: org_id.clone(), idempotency_key }).await?;
        requests.push(GetEntitlementsRequest { org_id }.encode_to_vec().into());
    }
    Ok(requests)
}
