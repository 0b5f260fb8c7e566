//! How long a suspension, or a change of a billing state, takes until a thousand consumers refuse the tenant.
//!
//! Each consumer is what a service has: a client with its own connections, its own caches and its own guard, which follows
//! the changes of both services. All of them are in this process and on one thread, so that what is measured includes that
//! each waits for those before it, which consumers on machines of their own would not.
//!
//! When a change was committed is not seen from here. It was after the operator's call began, which includes the disk, and before
//! the operator was answered; so the time is told from both.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow, ensure};
use futures::{StreamExt as _, TryStreamExt as _, future::join_all, stream};
use pulse_entitlements::{Catalog, cache::CacheConfig};
use pulse_kernel::{OrgId, SystemClock};
use pulse_proto::{
    billing::v1::{BillingState, SetBillingStateRequest, StartTrialRequest, SubscriptionState},
    lifecycle::v1::{
        ActivateOrganizationRequest, CreateOrganizationRequest, SuspendOrganizationRequest,
        UnsuspendOrganizationRequest,
    },
};
use pulse_runtime::Shutdown;
use pulse_tenant_client::{TenantClient, follow::Following};
use pulse_tenant_guard::{Guard, Requirement};
use pulse_testkit::system::{Service, System};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{Instant, sleep};

use crate::{
    measure::{Effort, count, percentile, process_time},
    report::{Figure, Goal},
    tenants,
};

pub(super) const ABOUT: &str =
    "from a change to its refusal by every consumer that follows: suspension, and billing state";

/// How long to look away between two looks at all consumers.
const PAUSE: Duration = Duration::from_millis(1);

/// How long a change may take to reach everybody, before something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many consumers connect at the same time.
const CONNECTING: usize = 32;

/// What consumers ask of the tenant. It needs both services.
const ASKED: Requirement<'static> = Requirement::capability("alerting");

/// Somebody who decides about the tenant.
struct Consumer {
    guard: Guard,
    following: Following,
    #[expect(dead_code, reason = "held, not used: its caches are told of changes")]
    client: TenantClient,
}

/// The tenant that is closed and opened, and all who decide about it.
struct Scene {
    system: System,
    org: OrgId,
    consumers: Vec<Consumer>,
    shutdown: Shutdown,
}

/// What is done to a tenant.
#[derive(Debug, Clone, Copy)]
enum Change {
    Suspend,
    Unsuspend,
    Bill(SubscriptionState),
}

pub(super) async fn run(effort: Effort) -> Result<Vec<Figure>> {
    allow_many_connections()?;
    let scene = Scene::with(effort.watchers).await?;
    let suspension = scene.measure(effort, Service::Lifecycle, Change::Suspend, Change::Unsuspend).await?;
    let bill = (Change::Bill(SubscriptionState::Suspended), Change::Bill(SubscriptionState::Active));
    let billing = scene.measure(effort, Service::BillingState, bill.0, bill.1).await?;
    scene.shutdown.abort();
    Ok(suspension.figures("suspension").into_iter().chain(billing.figures("billing state")).collect())
}

/// Each consumer has two connections, of which this process has one end and each service the other.
fn allow_many_connections() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Milliseconds until a consumer refused, of every change and every consumer, in each run.
#[derive(Default)]
struct Delays {
    since_answer: Vec<Vec<f64>>,
    since_call: Vec<Vec<f64>>,
    /// Microseconds of the processor for each consumer that was told something: of the service, and of the consumer.
    telling: Vec<f64>,
    hearing: Vec<f64>,
}

impl Delays {
    fn figures(&self, of: &str) -> [Figure; 6] {
        let figure = |what: &str, runs: &[Vec<f64>], share| {
            let runs = runs.iter().map(|delays| percentile(delays, share)).collect();
            Figure::new(format!("{of}: {what}"), "ms", runs)
        };
        let processor = |what: &str, runs: &[f64]| Figure::new(format!("{of}: {what}"), "µs", runs.to_vec());
        [
            figure("refused after the operator's answer, p50", &self.since_answer, 0.5),
            figure("refused after the operator's answer, p99", &self.since_answer, 0.99)
                .with_goal(Goal::AtMost(10.0)),
            figure("refused after the operator's call, with its commit, p50", &self.since_call, 0.5),
            figure("refused after the operator's call, with its commit, p99", &self.since_call, 0.99),
            processor("processor time of the service for each consumer told", &self.telling),
            processor("processor time of each consumer, and of looking at it", &self.hearing),
        ]
    }
}

impl Scene {
    /// A tenant that is open, and so many consumers that know it and follow what becomes of it.
    async fn with(consumers: usize) -> Result<Self> {
        let system =
            System::five_processes().only(&[Service::Lifecycle, Service::BillingState]).start().await;
        let org = tenants::id(0)?;
        open(&system, &org).await?;
        let shutdown = Shutdown::new();
        let connecting = stream::iter(0..consumers).map(|_| Consumer::connect(&system, &org, &shutdown));
        let consumers = connecting.buffer_unordered(CONNECTING).try_collect().await?;
        let scene = Self { system, org, consumers, shutdown };
        // What was asked of billing-state's memory is asked again now and then; what was told is not.
        scene.change(Change::Bill(SubscriptionState::Active)).await?;
        scene.until_all(true).await?;
        Ok(scene)
    }

    /// Closes and opens the tenant again and again. How long it took everybody to refuse is what counts.
    async fn measure(&self, effort: Effort, service: Service, close: Change, open: Change) -> Result<Delays> {
        let mut delays = Delays::default();
        for _ in 0..effort.runs {
            let (mut since_answer, mut since_call) = (Vec::new(), Vec::new());
            let processes = [self.system.pid(service), std::process::id()];
            let before = processes.map(process_time);
            for _ in 0..effort.changes {
                let begun = Instant::now();
                let (answered, seen) = tokio::join!(self.change(close), self.until_all(false));
                let (answered, seen) = (answered?, seen?);
                let millis = |from: Instant| {
                    let millis = |at: &Instant| at.saturating_duration_since(from).as_secs_f64() * 1e3;
                    seen.iter().map(millis).collect::<Vec<_>>()
                };
                since_answer.extend(millis(answered));
                since_call.extend(millis(begun));
                self.change(open).await?;
                self.until_all(true).await?;
            }
            // Each was told that the tenant was closed, and that it was opened.
            let told = count(2 * effort.changes * self.consumers.len());
            let mut times = [0.0; 2];
            for ((time, pid), before) in times.iter_mut().zip(processes).zip(before) {
                *time = process_time(pid)?.saturating_sub(before?).as_secs_f64() * 1e6 / told;
            }
            delays.telling.push(times[0]);
            delays.hearing.push(times[1]);
            delays.since_answer.push(since_answer);
            delays.since_call.push(since_call);
        }
        Ok(delays)
    }

    /// Makes the change; says when that was answered.
    async fn change(&self, change: Change) -> Result<Instant> {
        let (org_id, reason) = (self.org.to_string(), "to see how long it takes".to_owned());
        match change {
            Change::Suspend => {
                let request = SuspendOrganizationRequest { org_id, reason, ..Default::default() };
                self.system.lifecycle_admin().suspend_organization(request).await?;
            }
            Change::Unsuspend => {
                let request = UnsuspendOrganizationRequest { org_id, reason, ..Default::default() };
                self.system.lifecycle_admin().unsuspend_organization(request).await?;
            }
            Change::Bill(state) => {
                let billing_state =
                    Some(BillingState { subscription_state: state.into(), ..BillingState::default() });
                let request = SetBillingStateRequest { org_id, billing_state, reason, ..Default::default() };
                self.system.billing_admin().set_billing_state(request).await?;
            }
        }
        Ok(Instant::now())
    }

    /// What is known of those who have not heard of a change.
    fn missed(&self, waiting: &[&Consumer], let_in: bool) -> String {
        let (mut without, mut following) = (0, 0);
        for consumer in waiting {
            without += usize::from(consumer.guard.check_cached(&self.org, &ASKED).is_none());
            following += usize::from(consumer.following.is_following());
        }
        let wanted = if let_in { "opened" } else { "closed" };
        let missed = waiting.len();
        format!(
            "{missed} consumers have not heard that a tenant was {wanted}: {without} know nothing for certain, {following} follow"
        )
    }

    /// Looks until every consumer lets the tenant in, or none does; says when each was seen to.
    async fn until_all(&self, let_in: bool) -> Result<Vec<Instant>> {
        let begun = Instant::now();
        let mut waiting: Vec<&Consumer> = self.consumers.iter().collect();
        let mut seen = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let mut to_ask = Vec::new();
            waiting.retain(|consumer| {
                let verdict = consumer.guard.check_cached(&self.org, &ASKED);
                if verdict.is_none() {
                    to_ask.push(*consumer);
                }
                let done = verdict.is_some_and(|verdict| verdict.decision.is_allowed() == let_in);
                if done {
                    seen.push(Instant::now());
                }
                !done
            });
            ensure!(begun.elapsed() < PATIENCE, "{}", self.missed(&waiting, let_in));
            // Who lost a stream, or has not heard for long that it is alive, asks; the next look sees what it was told.
            join_all(to_ask.iter().map(|consumer| consumer.guard.check(&self.org, &ASKED))).await;
            sleep(PAUSE).await;
        }
        Ok(seen)
    }
}

/// Makes an organization that is active and on a trial.
async fn open(system: &System, org: &OrgId) -> Result<()> {
    let org_id = org.to_string();
    let create = CreateOrganizationRequest {
        org_id: org_id.clone(),
        owner_user_id: org_id.clone(),
        owner_email: "owner@example.com".to_owned(),
        display_name: "Acme".to_owned(),
    };
    system.organizations().create_organization(create).await?;
    let activate = ActivateOrganizationRequest { org_id: org_id.clone() };
    system.organizations().activate_organization(activate).await?;
    let trial = StartTrialRequest { org_id, idempotency_key: "bench".to_owned() };
    system.billing_states().start_trial(trial).await?;
    Ok(())
}

impl Consumer {
    async fn connect(system: &System, org: &OrgId, shutdown: &Shutdown) -> Result<Self> {
        let channel = |service| pulse_rpc::channel(&format!("http://{}", system.addr(service)));
        let config = CacheConfig { max_entries: 100, ..TenantClient::config() };
        let client = TenantClient::new(
            channel(Service::Lifecycle)?,
            channel(Service::BillingState)?,
            &Catalog::built_in(),
            config,
            Arc::new(SystemClock),
        );
        let following = client.follow(shutdown);
        following.synced().await;
        let guard = client.guard();
        let verdict = guard.check(org, &ASKED).await;
        if verdict.decision.is_allowed() && verdict.is_certain() {
            return Ok(Self { guard, following, client });
        }
        Err(anyhow!("a consumer does not let the tenant in: {verdict:?}"))
    }
}
