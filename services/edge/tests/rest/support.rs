//! An edge on free ports, in front of scripted services.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use pulse_edge::{Config, Listeners, serve};
use pulse_rpc::{GrpcServer, Limits, OperatorTokens};
use pulse_runtime::{Readiness, Service, Shutdown, settings::try_parse_from};
use pulse_testkit::{eventually, listener};
use tempfile::TempDir;

use crate::{
    client::{Answer, Request, request},
    fakes::World,
};

/// How long anything may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Tokens of operators with one role each, and what they hash to (SHA-256).
const TOKENS: &str = r#"
[[token]]
name = "vera"
sha256 = "VIEWER"
roles = ["viewer"]
[[token]]
name = "sam"
sha256 = "SUPPORT"
roles = ["support"]
[[token]]
name = "bill"
sha256 = "BILLING"
roles = ["billing"]
[[token]]
name = "ada"
sha256 = "ADMIN"
roles = ["admin"]
"#;
pub(crate) const VIEWER: &str = "viewer-token-0123456789abcdef0123456789";
pub(crate) const SUPPORT: &str = "support-token-0123456789abcdef012345678";
pub(crate) const BILLING: &str = "billing-token-0123456789abcdef012345678";
pub(crate) const ADMIN: &str = "admin-token-0123456789abcdef0123456789a";

/// A running edge.
pub(crate) struct Edge {
    pub(crate) public: SocketAddr,
    /// Where the admin surface is, if it is anywhere.
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) internal: SocketAddr,
    pub(crate) world: Arc<World>,
    pub(crate) shutdown: Shutdown,
    upstreams: Vec<(Service, Upstream)>,
    _folder: TempDir,
}

struct Upstream {
    shutdown: Shutdown,
    serving: Arc<AtomicBool>,
}

/// How an edge is started.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    pub(crate) hosted_off: bool,
    /// One listener for both surfaces.
    pub(crate) shared: bool,
    pub(crate) flags: Vec<&'static str>,
}

impl Edge {
    /// A hosted edge whose limits are out of the way.
    pub(crate) async fn start() -> Self {
        Self::with(Setup { flags: vec!["--request-limit-per-minute", "100000"], ..Setup::default() }).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tokens_file = write_tokens(&folder);
        let tokens = OperatorTokens::load(&tokens_file).expect("a tokens file");
        let world = Arc::new(World::new(tokens));

        let mut flags = vec!["pulse-edge".to_owned()];
        if !setup.hosted_off {
            flags.extend(["--hosted-mode".into(), "true".into(), "--admin-tokens-file".into()]);
            flags.push(tokens_file.to_str().expect("a path that is text").into());
        }
        let mut upstreams = Vec::new();
        for service in Service::ALL {
            let (upstream, addr) = upstream(service, &world).await;
            flags.extend([format!("--{}-url", service.name()), format!("http://{addr}")]);
            upstreams.push((service, upstream));
        }
        flags.extend(setup.flags.iter().map(ToString::to_string));
        let config: Config = try_parse_from(flags).expect("flags");

        let (public, public_addr) = listener().await;
        let (admin, admin_addr) = listener().await;
        let (internal, internal_addr) = listener().await;
        let has_admin = !setup.shared && !setup.hosted_off;
        let listeners = Listeners { public, admin: (!setup.shared).then_some(admin), internal };
        let shutdown = Shutdown::new();
        shutdown.spawn_service("edge", serve(config, listeners, shutdown.clone()));
        let edge = Self {
            public: public_addr,
            admin: has_admin.then_some(admin_addr),
            internal: internal_addr,
            world,
            shutdown,
            upstreams,
            _folder: folder,
        };
        edge.until_ready().await;
        edge
    }

    pub(crate) async fn until_ready(&self) {
        eventually(SOON, async || self.public("GET", "/readyz").send().await.status == 200).await;
    }

    pub(crate) fn public(&self, method: &str, path: &str) -> Request {
        request(self.public, method, path)
    }

    pub(crate) fn admin(&self, method: &str, path: &str) -> Request {
        request(self.admin.unwrap_or(self.public), method, path)
    }

    pub(crate) fn internal(&self, method: &str, path: &str) -> Request {
        request(self.internal, method, path)
    }

    /// A request of an operator who may do everything.
    pub(crate) fn operator(&self, method: &str, path: &str) -> Request {
        self.admin(method, path).bearer(ADMIN)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.operator("GET", path).send().await
    }

    /// Lets a service say that it is not ready.
    pub(crate) fn set_serving(&self, service: Service, serving: bool) {
        self.upstream(service).serving.store(serving, std::sync::atomic::Ordering::SeqCst);
    }

    /// Ends a service.
    pub(crate) async fn stop(&self, service: Service) {
        let upstream = self.upstream(service);
        upstream.shutdown.abort();
        upstream.shutdown.wait().await.expect("an upstream ends in order");
    }

    fn upstream(&self, service: Service) -> &Upstream {
        let found = self.upstreams.iter().find(|(known, _)| *known == service);
        &found.expect("every service has a fake").1
    }
}

async fn upstream(service: Service, world: &Arc<World>) -> (Upstream, SocketAddr) {
    let (listener, addr) = listener().await;
    let (shutdown, serving) = (Shutdown::new(), Arc::new(AtomicBool::new(true)));
    let probed = Arc::clone(&serving);
    let readiness = Readiness::follow(&shutdown, Duration::from_millis(20), move || {
        let serving = probed.load(std::sync::atomic::Ordering::SeqCst);
        async move { if serving { Ok(()) } else { Err("told not to") } }
    });
    let server = GrpcServer::new(Limits::default());
    let server = match service {
        Service::SignupGateway => server.add(world.signup()),
        Service::Provisioner => server.add(world.provisioner()),
        Service::BillingState => {
            server.add(world.billing()).add(world.entitlements()).add(world.billing_states())
        }
        Service::Lifecycle => server.add(world.lifecycle()).add(world.organizations()),
    };
    shutdown.spawn_service(service.name(), server.serve(listener, readiness, shutdown.clone()));
    (Upstream { shutdown, serving }, addr)
}

fn write_tokens(folder: &TempDir) -> PathBuf {
    let roles = [("VIEWER", VIEWER), ("SUPPORT", SUPPORT), ("BILLING", BILLING), ("ADMIN", ADMIN)];
    let text = roles.into_iter().fold(TOKENS.to_owned(), |text, (role, token)| {
        use sha2::{Digest as _, Sha256};
        text.replace(role, &hex::encode(Sha256::digest(token)))
    });
    let path = folder.path().join("tokens.toml");
    std::fs::write(&path, text).expect("a writable folder");
    path
}
