//! PostgreSQL cut off, gone silent, stopped and killed under a light load: what cannot be done is said at once, and everything
//! recovers by itself.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt::Debug,
    time::Duration,
};

use futures::future::LocalBoxFuture;
use pulse_proto::{
    billing::v1::{BillingStateServiceGetBillingStateRequest, GetEntitlementsRequest, SubscriptionState},
    lifecycle::v1::OrganizationServiceGetOrganizationRequest,
    provisioner::v1::VerifyCredentialsRequest,
};
use pulse_testkit::{
    eventually,
    system::{
        Answer, Plan, Service, System,
        grpc::{self, rejection},
    },
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::{Code, Response, Status};

use crate::{
    PASSWORD, SOON,
    crash::{every_store_agrees, insist, no_saga_is_left_open},
};

/// How long a request may take by default, and a little more, for a machine that does all of this at once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const MARGIN: Duration = Duration::from_secs(3);

/// How often each kind of request is sent.
const PACE: Duration = Duration::from_millis(250);

/// How many answers of each kind are waited for, each time, and for how long.
const ENOUGH: usize = 3;
const A_ROUND: Duration = Duration::from_mins(1);

/// How PostgreSQL is away.
#[derive(Debug, Clone, Copy)]
enum Outage {
    /// Connections are reset and refused.
    Cut,
    /// Nothing that is sent arrives.
    Silent,
    /// It is shut down.
    Stopped,
    /// It is gone from one moment to the next.
    Killed,
}

impl Outage {
    async fn begin(self, system: &mut System) {
        match self {
            Self::Cut => system.network().cut().await,
            Self::Silent => system.network().freeze().await,
            Self::Stopped => system.postgres().stop().await,
            Self::Killed => system.postgres().kill().await,
        }
    }

    async fn end(self, system: &mut System) {
        match self {
            Self::Cut | Self::Silent => system.network().heal().await,
            Self::Stopped | Self::Killed => system.postgres().start_again().await,
        }
    }
}

#[tokio::test]
async fn one_process_gets_over_being_cut_off() {
    gets_over(System::all_in_one(), &[Outage::Cut]).await;
}

#[tokio::test]
async fn one_process_gets_over_silence() {
    gets_over(System::all_in_one(), &[Outage::Silent]).await;
}

#[tokio::test]
async fn one_process_gets_over_a_restart_and_a_crash_of_the_database() {
    gets_over(System::all_in_one(), &[Outage::Stopped, Outage::Killed]).await;
}

#[tokio::test]
async fn replicas_get_over_all_of_it() {
    gets_over(System::replicated(), &[Outage::Cut, Outage::Silent, Outage::Stopped, Outage::Killed]).await;
}

async fn gets_over(plan: Plan, outages: &[Outage]) {
    let plan = plan.over_own_postgres().without_limits();
    // Entitlements are looked up again all the time, so that it shows what becomes of them without the database.
    let plan = plan.set("PULSE_ENTITLEMENT_REFRESH", "1s");
    let plan = plan.set("PULSE_SIGN_IN_LIMIT_PER_EMAIL_PER_MINUTE", "1000000");
    let plan = plan.set("PULSE_SIGN_IN_LIMIT_PER_CALLER_PER_MINUTE", "1000000");
    let mut system = plan.start().await;
    let org_id = system.new_tenant("ann@example.com", PASSWORD, "Acme").await;

    let load = Load::default();
    let requests = everything(&load, &system, &org_id);
    let outages = async {
        load.answers_well().await;
        for outage in outages {
            outage.begin(&mut system).await;
            everyone_is(&system, Ready::No, *outage).await;
            load.is_refused(*outage).await;
            outage.end(&mut system).await;
            everyone_is(&system, Ready::Yes, *outage).await;
            load.answers_well().await;
        }
        load.over.set(true);
    };
    tokio::join!(requests, Box::pin(outages));

    let mut tenants = load.acknowledged.take();
    tenants.insert("ann@example.com".to_owned(), org_id);
    for (email, org_id) in &tenants {
        let again = system.signup(email, PASSWORD, "Asked Again").await.expect(200).json();
        assert_eq!(again["org_id"], **org_id, "nothing acknowledged is lost");
    }
    no_saga_is_left_open(&system).await;
    every_store_agrees(&system, &tenants).await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    Yes,
    No,
}

/// Every process says so of every service, and says that it is alive in any case.
async fn everyone_is(system: &System, ready: Ready, outage: Outage) {
    for service in Service::ALL {
        for replica in 0..system.replicas(service) {
            let addr = system.replica_addr(service, replica);
            eventually(SOON, async || match (system.is_ready(service, addr).await, ready) {
                (Ok(()), Ready::Yes) | (Err(_), Ready::No) => Ok(()),
                (Ok(()), Ready::No) => Err(format!("{outage:?}: {service:?} is still ready")),
                (Err(why), Ready::Yes) => Err(format!("{outage:?}: {service:?}: {why}")),
            })
            .await;
            if service == Service::Edge {
                let _ = system.visitor().at(addr).get("/livez").await.unwrap().expect(200);
            } else {
                grpc::health(addr, "").await.unwrap();
            }
        }
    }
}

/// What came of the requests so far. All of it is one task, so nothing here is shared between threads.
#[derive(Debug, Default)]
struct Load {
    /// For each kind of request: how many were answered well, and how many were refused, since that was last of interest.
    answers: RefCell<BTreeMap<&'static str, [usize; 2]>>,
    /// The organization id of each email whose signup was acknowledged.
    acknowledged: RefCell<BTreeMap<String, String>>,
    over: Cell<bool>,
}

/// What came of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Well,
    /// For want of the database.
    Refused,
}

/// The kinds of request; each must be refused without the database, but for entitlements, which are remembered.
const KINDS: [&str; 6] =
    ["signup", "billing state over REST", "organization", "billing state", "credentials", ENTITLEMENTS];
const ENTITLEMENTS: &str = "entitlements";

impl Load {
    /// Every kind of request is answered well again.
    async fn answers_well(&self) {
        self.come_to("answered well", |_, [well, _]| well >= ENOUGH).await;
    }

    /// Every kind of request is answered, and none for which the database is needed is answered well.
    async fn is_refused(&self, outage: Outage) {
        self.come_to(&format!("refused while it is {outage:?}"), |kind, [well, refused]| {
            if kind == ENTITLEMENTS { well >= ENOUGH } else { refused >= ENOUGH }
        })
        .await;
    }

    /// Waits until that is true of every kind of request, counted from now on.
    async fn come_to(&self, what: &str, is_enough: impl Fn(&str, [usize; 2]) -> bool) {
        self.answers.take();
        eventually(A_ROUND, async || {
            let answers = self.answers.borrow();
            let missing =
                KINDS.iter().find(|kind| !is_enough(kind, answers.get(*kind).copied().unwrap_or_default()));
            missing.map_or(Ok(()), |kind| Err(format!("{kind} is not yet {what}: {answers:?}")))
        })
        .await;
    }

    /// Sends one kind of request again and again, until it is over.
    async fn repeat(&self, kind: &'static str, send: impl AsyncFn() -> Outcome) {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.over.get() {
            pace.tick().await;
            let answered = timeout(REQUEST_TIMEOUT + MARGIN, send()).await;
            let outcome = answered.unwrap_or_else(|_| panic!("{kind}: no answer within {REQUEST_TIMEOUT:?}"));
            self.answers.borrow_mut().entry(kind).or_default()[outcome as usize] += 1;
        }
    }
}

/// Every kind of request, again and again until it is over.
fn everything<'a>(load: &'a Load, system: &System, org_id: &'a str) -> LocalBoxFuture<'a, ()> {
    let (visitor, admin) = (system.visitor(), system.admin());
    let (organizations, billing_states) = (system.organizations(), system.billing_states());
    let (accounts, entitlements) = (system.accounts(), system.entitlements());
    Box::pin(async move {
        let signups = async {
            let signed_up = Cell::new(0);
            let email = || format!("load{}@example.com", signed_up.get());
            load.repeat("signup", async || {
                let answer = visitor.signup(&email(), PASSWORD, "Load").await.unwrap();
                let outcome = over_rest(&answer);
                if outcome == Outcome::Well {
                    let org_id = answer.json()["org_id"].as_str().unwrap().to_owned();
                    load.acknowledged.borrow_mut().insert(email(), org_id);
                    signed_up.set(signed_up.get() + 1);
                }
                outcome
            })
            .await;
            // Whatever became of the last one, it is known in the end.
            let (org_id, _) = insist(&visitor, &email()).await;
            load.acknowledged.borrow_mut().insert(email(), org_id);
        };
        let billing_over_rest =
            load.repeat("billing state over REST", async || over_rest(&admin.billing_state(org_id).await));
        let organizations = load.repeat("organization", async || {
            let request = OrganizationServiceGetOrganizationRequest { org_id: org_id.to_owned() };
            over_grpc(organizations.clone().get_organization(request).await)
        });
        let billing_states = load.repeat("billing state", async || {
            let request = BillingStateServiceGetBillingStateRequest { org_id: org_id.to_owned() };
            over_grpc(billing_states.clone().get_billing_state(request).await)
        });
        let credentials = load.repeat("credentials", async || {
            let (email, password) = ("ann@example.com".to_owned(), PASSWORD.to_owned());
            let request = VerifyCredentialsRequest { email, password, client_ip: String::new() };
            over_grpc(accounts.clone().verify_credentials(request).await)
        });
        let entitlements = load.repeat(ENTITLEMENTS, async || {
            let request = GetEntitlementsRequest { org_id: org_id.to_owned() };
            let granted = entitlements.clone().get_entitlements(request).await.unwrap().into_inner();
            assert_eq!(granted.subscription_state(), SubscriptionState::Trial, "{granted:?}");
            assert!(!granted.capabilities.is_empty(), "what was known goes on: {granted:?}");
            Outcome::Well
        });
        tokio::join!(signups, billing_over_rest, organizations, billing_states, credentials, entitlements);
    })
}

#[track_caller]
fn over_rest(answer: &Answer) -> Outcome {
    if [200, 201].contains(&answer.status) {
        return Outcome::Well;
    }
    let refused = answer.clone().expect_problem(503, "unavailable");
    let wait = refused.header("retry-after").and_then(|wait| wait.parse::<u32>().ok());
    assert!(wait.is_some_and(|wait| wait > 0), "{refused}");
    Outcome::Refused
}

#[track_caller]
fn over_grpc<T: Debug>(answer: Result<Response<T>, Status>) -> Outcome {
    if answer.is_ok() {
        return Outcome::Well;
    }
    let refused = rejection(answer);
    assert_eq!((refused.code, &*refused.reason), (Code::Unavailable, "UNAVAILABLE"), "{refused:?}");
    assert!(refused.retry_after.is_some_and(|wait| !wait.is_zero()), "{refused:?}");
    Outcome::Refused
}
