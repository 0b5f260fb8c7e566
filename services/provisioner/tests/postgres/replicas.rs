//! Replicas of the engine over one database.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use pulse_kernel::{Clock as _, EmailAddress, Ids, OrgId, OrgName, OsEntropy, Reason, UserId};
use pulse_provisioner::{
    clients::{Billing as _, Organizations as _},
    domain::{Account, PasswordHash},
    saga::{
        Claim, Saga, SagaId, State, Subject, engine::Engine, meters::Meters, retry::Tuning, runner::Runner,
    },
    store::{PostgresStore, Store},
};
use pulse_runtime::{DatabaseSettings, Shutdown, telemetry::meter};
use pulse_tenant_guard::OrganizationStatus;
use pulse_testkit::{Database, Postgres};

use crate::{
    faults::{Chaos, FaultyBilling, FaultyOrganizations, FaultyStore},
    support::Plane,
};

const PHC: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g";

/// A store on a database, with connections of its own.
pub(crate) async fn store_at(url: String) -> Arc<PostgresStore> {
    store_with(url, 10, Duration::from_secs(2)).await
}

/// As [`store_at`], with that many connections, which are waited for that long.
pub(crate) async fn store_with(url: String, connections: u32, wait: Duration) -> Arc<PostgresStore> {
    let settings = DatabaseSettings {
        database_url: Some(url.into()),
        database_max_connections: connections.try_into().unwrap(),
        database_acquire_timeout: wait,
        database_migrate: true,
    };
    Arc::new(PostgresStore::open(&settings, Arc::new(OsEntropy)).await.unwrap())
}

/// A database, and what is in front of and behind the replicas that use it.
pub(crate) struct Deployment {
    pub(crate) plane: Plane,
    pub(crate) database: Database,
}

impl Deployment {
    pub(crate) async fn start() -> Self {
        Self::over(Postgres::shared().await.database().await).await
    }

    pub(crate) async fn over(database: Database) -> Self {
        Self { plane: Plane::start().await, database }
    }

    pub(crate) async fn store(&self) -> Arc<PostgresStore> {
        store_at(self.database.url()).await
    }

    /// A replica by the plane's clock, whose calls and writes are in the hands of `chaos`.
    pub(crate) async fn replica(&self, owner: &'static str, chaos: &Arc<Chaos>) -> Replica {
        let tuning = Tuning { recovery_interval: Duration::from_millis(20), ..Tuning::default() };
        self.replica_on(self.store().await, owner, chaos, tuning)
    }

    /// As [`Self::replica`], on that store and with those numbers.
    pub(crate) fn replica_on(
        &self,
        store: Arc<PostgresStore>,
        owner: &'static str,
        chaos: &Arc<Chaos>,
        tuning: Tuning,
    ) -> Replica {
        let chaos = || Arc::clone(chaos);
        let runner = Runner {
            store: Arc::new(FaultyStore(store.clone(), chaos())),
            organizations: Arc::new(FaultyOrganizations(self.plane.organizations.clone(), chaos())),
            billing: Arc::new(FaultyBilling(self.plane.billing.clone(), chaos())),
            clock: Arc::new(self.plane.clock.clone()),
            entropy: Arc::new(OsEntropy),
            tuning,
            meters: Meters::new(&meter(owner), Arc::new(AtomicUsize::new(0))),
            owner: owner.into(),
            shutdown: Shutdown::new(),
        };
        Replica { engine: Engine::new(runner), store }
    }

    /// A provisioning that is about to begin, under the lease of that replica.
    pub(crate) fn saga(&self, replica: &Replica, address: &str) -> Saga {
        let ids = Ids::new(Arc::new(self.plane.clock.clone()), Arc::new(OsEntropy));
        let claim = Claim {
            email: EmailAddress::parse(address).unwrap(),
            password_hash: PasswordHash::from_phc(PHC),
            org_name: OrgName::parse("Acme, Inc.").unwrap(),
        };
        let subject = Subject::Provision { owner: ids.user_id(), claim: Some(claim), trial_ends_at: None };
        let lease = replica.engine.runner().lease(Duration::ZERO);
        Saga::begin(ids.org_id(), subject, lease, self.plane.clock.now())
    }

    /// I2, I9: the tenant is whole, and was made once.
    pub(crate) async fn is_whole(&self, store: &dyn Store, org_id: &OrgId) {
        let saga = store.find_saga(&SagaId::provision(org_id.clone())).await.unwrap().unwrap();
        assert_eq!(saga.state(), State::Done, "{saga:?}");
        assert_eq!(self.plane.organizations.status(org_id).await, Ok(OrganizationStatus::Active));
        assert!(self.plane.billing.trial_ends_at(org_id).await.unwrap().is_some());
        let member = store.find_member(org_id, owner_of(&saga)).await.unwrap().unwrap();
        assert_eq!(member.account.home_org_id, *org_id);
        let records = store.list_audit(org_id, None, 10).await.unwrap();
        let actions: Vec<_> = records.iter().map(|record| record.action.as_str()).collect();
        assert_eq!(actions, ["tenant_provisioned"]);
    }

    /// I4: nothing of it is left anywhere, and the reason why is recorded once.
    pub(crate) async fn left_nothing(&self, store: &dyn Store, org_id: &OrgId) {
        let saga = store.find_saga(&SagaId::provision(org_id.clone())).await.unwrap().unwrap();
        assert_eq!(saga.state(), State::Undone, "{saga:?}");
        let gone = Reason::OrgNotFound;
        assert_eq!(self.plane.organizations.status(org_id).await.unwrap_err().reason(), gone);
        assert_eq!(self.plane.billing.trial_ends_at(org_id).await.unwrap_err().reason(), gone);
        assert!(store.find_member(org_id, owner_of(&saga)).await.unwrap().is_none());
        let records = store.list_audit(org_id, None, 10).await.unwrap();
        let actions: Vec<_> = records.iter().map(|record| record.action.as_str()).collect();
        assert_eq!(actions, ["provisioning_undone"]);
    }
}

/// One replica.
pub(crate) struct Replica {
    pub(crate) engine: Engine,
    pub(crate) store: Arc<PostgresStore>,
}

impl Replica {
    /// The process is gone at once, with whatever it was doing.
    pub(crate) fn die(self) {
        self.engine.runner().shutdown.abort();
    }

    /// Has it look after sagas in the background from now on.
    pub(crate) fn keep_recovering(&self) {
        self.engine.spawn(Duration::from_mins(1));
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.engine.runner().shutdown.abort();
    }
}

/// The account that the saga is about to make.
pub(crate) fn account_of(saga: &Saga) -> Account {
    let Subject::Provision { owner, claim: Some(claim), .. } = &saga.subject else { panic!("no claim") };
    Account {
        user_id: *owner,
        home_org_id: saga.org_id.clone(),
        email: claim.email.clone(),
        password_hash: claim.password_hash.clone(),
        created_at: saga.created_at,
    }
}

fn owner_of(saga: &Saga) -> UserId {
    match saga.subject {
        Subject::Provision { owner, .. } => owner,
        Subject::Purge => panic!("a purge has no owner"),
    }
}
