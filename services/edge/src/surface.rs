//! Which routes a listener serves, and the document that describes exactly those.

use axum::{
    Extension, Router,
    middleware::{from_fn, from_fn_with_state},
};
use pulse_rpc::OperatorTokens;
use pulse_runtime::Shutdown;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    Hosted,
    auth::require_operator,
    clients::Clients,
    config::Config,
    layers::{ClientLimit, Observe, Stack, limit_body},
    problem::{HttpError, Problem},
    routes::{
        audit, authz, billing,
        health::{self, Health},
        ofrep,
        openapi::{self, Description},
        organizations, signup,
    },
    tenants::Tenants,
};

/// What each listener serves.
#[derive(Debug)]
pub(crate) struct Surfaces {
    pub(crate) public: Router,
    /// The admin surface where it has a listener of its own.
    pub(crate) admin: Option<Router>,
    pub(crate) internal: Router,
}

impl Surfaces {
    /// The surfaces of these settings; with `shared`, one listener serves both.
    pub(crate) fn new(
        config: &Config,
        hosted: Option<Hosted>,
        shared: bool,
        tenants: Tenants,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let upstreams = hosted.as_ref().map(|hosted| hosted.upstreams.clone());
        let health = Health { shutdown: shutdown.clone(), upstreams };
        // Each listener has its own places: strangers can fill theirs, and operators still get through.
        let observe = Observe::new();
        // Whoever asks here goes on asking while the services behind are away, and is still answered.
        let always = Health { shutdown: shutdown.clone(), upstreams: None };
        let internal = listener(Part::internal(tenants), always, Stack::new(config, observe.clone()))?;
        let limited = Stack {
            client_limit: Some(ClientLimit::new(config, shutdown)),
            ..Stack::new(config, observe.clone())
        };
        let Some(Hosted { tokens, clients, .. }) = hosted else {
            let public = listener(Part::default(), health, limited)?;
            return Ok(Self { public, admin: None, internal });
        };
        let signup = Part::public(signup::router(), clients.clone());
        let admin = Part::admin(
            organizations::router().merge(billing::router()).merge(audit::router()),
            clients,
            tokens,
        );
        if shared {
            let public = listener(signup.and(admin), health, limited)?;
            return Ok(Self { public, admin: None, internal });
        }
        let admin = listener(admin, health.clone(), Stack::new(config, observe))?;
        Ok(Self { public: listener(signup, health, limited)?, admin: Some(admin), internal })
    }
}

/// Some routes, and their description.
#[derive(Default)]
struct Part {
    router: Router,
    document: OpenApi,
}

impl Part {
    fn public<S: Clone + Send + Sync + 'static>(described: OpenApiRouter<S>, state: S) -> Self {
        let (router, document) = described.split_for_parts();
        let router = router.with_state(state).route_layer(from_fn(limit_body));
        Self { router, document }
    }

    fn internal(tenants: Tenants) -> Self {
        // A gateway's question comes with whatever body the client sent, and nothing reads that.
        let questions = Self::from(authz::router().with_state(tenants.clone()));
        questions.and(Self::public(ofrep::router(), tenants))
    }

    /// Routes that only operators pass to; whoever is none learns nothing but that, not even about methods.
    fn admin(described: OpenApiRouter<Clients>, clients: Clients, tokens: OperatorTokens) -> Self {
        let Self { router, document } = Self::public(described, clients);
        let router = router
            .method_not_allowed_fallback(method_not_allowed)
            .layer(from_fn_with_state(tokens, require_operator));
        Self { router, document }
    }

    fn and(mut self, other: Self) -> Self {
        self.document.merge(other.document);
        Self { router: self.router.merge(other.router), document: self.document }
    }
}

/// Everything that a listener serves: `part`, health and the description of it all.
fn listener(part: Part, health: Health, stack: Stack) -> anyhow::Result<Router> {
    let (health, health_document) = health::router().with_state(health).split_for_parts();
    let description = Part::from(openapi::router());
    let Part { router, mut document } = part.and(description);
    document.merge(health_document);
    let document = openapi::complete(document, stack.client_limit.is_some());
    let bytes = serde_json::to_vec(&document)?;

    let api = router
        .layer(Extension(Description(bytes.into())))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found);
    Ok(stack.around(api, health.method_not_allowed_fallback(method_not_allowed)))
}

impl From<OpenApiRouter> for Part {
    fn from(described: OpenApiRouter) -> Self {
        let (router, document) = described.split_for_parts();
        Self { router, document }
    }
}

async fn not_found() -> Problem {
    HttpError::NotFound.into()
}

async fn method_not_allowed() -> Problem {
    HttpError::MethodNotAllowed.into()
}
