//! `GET /api/openapi.json`: what this listener serves, as OpenAPI 3.1.
//!
//! The document grows with the router: a route is in it exactly when it is served. What all routes of a kind have in
//! common, above all how they fail, is added here once.

use axum::{Extension, body::Bytes};
use http::header::CONTENT_TYPE;
use utoipa::{
    IntoParams, PartialSchema as _, ToSchema,
    openapi::{
        ComponentsBuilder, Content, HeaderBuilder, InfoBuilder, ObjectBuilder, OpenApi, OpenApiBuilder, Ref,
        RefOr, Response, ResponseBuilder, Type,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Answer;
use crate::problem::{Document, MEDIA_TYPE};

/// The name of the operators' security scheme.
const OPERATOR: &str = "operator";

/// Paths below this one take an operator's token.
const ADMIN: &str = "/api/admin/";

/// The document as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Description(pub(crate) Bytes);

pub(crate) fn router() -> OpenApiRouter {
    OpenApiRouter::default().routes(routes!(describe))
}

/// Describe this listener
///
/// Exactly what it serves now.
#[utoipa::path(
    get,
    path = "/api/openapi.json",
    tag = "description",
    responses((status = OK, body = Object, description = "This document"))
)]
async fn describe(
    Extension(Description(bytes)): Extension<Description>,
) -> Answer<([(http::HeaderName, &'static str); 1], Bytes)> {
    Ok(([(CONTENT_TYPE, "application/json")], bytes))
}

/// The `If-Match` header in the documentation of routes that change something.
#[derive(Debug)]
pub(super) struct IfMatch;

impl IntoParams for IfMatch {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = ParameterBuilder::new()
            .name("If-Match")
            .parameter_in(ParameterIn::Header)
            .description(Some("Only change what has one of these etags, or, with `*`, what is stored at all"))
            .schema(Some(text()));
        vec![parameter.build()]
    }
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Finishes the document of a listener on which every client is limited, or none is.
pub(crate) fn complete(mut document: OpenApi, limited: bool) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("Pulse Hosted")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The control plane of Pulse Hosted, as this listener serves it."))
        .license(Some(utoipa::openapi::License::new("Apache-2.0")))
        .build();
    let mut has_operators = false;
    for (path, item) in &mut document.paths.paths {
        let kind = Kind::of(path, limited);
        has_operators |= kind.admin;
        operations(item).for_each(|operation| kind.complete(path, operation));
    }
    let mut nested = Vec::new();
    Document::schemas(&mut nested);
    let mut components = ComponentsBuilder::from(document.components.take().unwrap_or_default())
        .schema(Document::name(), Document::schema())
        .schemas_from_iter(nested);
    if has_operators {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An operator's token"))
            .build();
        components = components.security_scheme(OPERATOR, SecurityScheme::Http(scheme));
    }
    OpenApiBuilder::from(document).components(Some(components.build())).build()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
}

/// What the routes of a path have in common.
#[derive(Debug, Clone, Copy)]
struct Kind {
    admin: bool,
    limited: bool,
    one_org: bool,
    health: bool,
}

impl Kind {
    fn of(path: &str, limited: bool) -> Self {
        let health = !path.starts_with("/api/");
        let admin = path.starts_with(ADMIN);
        Self { admin, limited: limited && !health, one_org: path.contains("{id}"), health }
    }

    fn complete(self, path: &str, operation: &mut Operation) {
        let answers_problem = |response: &mut RefOr<Response>| {
            if let RefOr::T(response) = response {
                response.content.entry(MEDIA_TYPE.into()).or_insert_with(|| RefOr::T(problem()));
            }
        };
        let responses = &mut operation.responses.responses;
        responses
            .iter_mut()
            .filter(|(status, _)| is_error(status))
            .for_each(|(_, response)| answers_problem(response));

        let mut add = |status: &str, description: &str| {
            responses.entry(status.to_owned()).or_insert_with(|| {
                let response = ResponseBuilder::new().description(description);
                RefOr::T(response.content(MEDIA_TYPE, problem()).build())
            });
        };
        if operation.request_body.is_some() {
            add("400", "`invalid_request`: the body is malformed; `errors` names every field that is wrong");
            add("408", "`request_timeout`: the body did not arrive in time");
            add("413", "`payload_too_large`: the body is longer than 64 KiB");
            add("415", "`unsupported_media_type`: the body is not JSON");
        }
        if self.admin {
            add("401", "`unauthenticated`: no operator's token, or an unknown one");
            add("403", "`role_required`: the operator lacks the role");
            add("400", "`invalid_request` or `invalid_org_id`; `errors` names what is wrong");
        }
        if self.one_org {
            add("404", "`org_not_found`");
        }
        if operation.parameters.iter().flatten().any(|parameter| parameter_name(parameter) == "If-Match") {
            add("412", "`etag_mismatch`: it has changed");
        }
        if !self.health {
            add("429", self.too_many(path));
            add("503", "`unavailable`: a service that this needs is not there; try again");
        }
        add("500", "`internal`: quote the request id when you report it");
        responses
            .iter_mut()
            .for_each(|(status, response)| self.add_headers(status, operation_has_etag(path), response));
        if self.admin {
            operation.security = Some(vec![SecurityRequirement::new(OPERATOR, Vec::<String>::new())]);
        }
    }

    fn too_many(self, path: &str) -> &'static str {
        match (self.limited, path.ends_with("/signup")) {
            (true, true) => {
                "`rate_limited`: too many signups or requests of this client; `overloaded`: no capacity now"
            }
            (true, false) => {
                "`rate_limited`: too many requests of this client; `overloaded`: no capacity now"
            }
            (false, _) => "`overloaded`: no capacity now",
        }
    }

    fn add_headers(self, status: &str, tagged: bool, response: &mut RefOr<Response>) {
        let RefOr::T(response) = response else { return };
        let mut add = |name: &str, schema: ObjectBuilder, description: &str| {
            let header = HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build();
            response.headers.insert(name.to_owned(), header.into());
        };
        add("x-request-id", text(), "The request's id: the caller's own where that is a sane one");
        match status {
            "200" if tagged => add("ETag", text(), "The etag, quoted; absent where nothing is stored"),
            "401" => add("WWW-Authenticate", text(), "`Bearer`"),
            "429" | "503" => {
                let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
                add("Retry-After", seconds, "Seconds until a retry may succeed");
            }
            _ => {}
        }
        if status == "429" && self.limited {
            add("RateLimit-Policy", text(), "The limit that was met, such as `\"signup\";q=5;w=3600`");
            add("RateLimit", text(), "What is left of it, such as `\"signup\";r=0;t=720`");
        }
    }
}

fn is_error(status: &str) -> bool {
    status.starts_with(['4', '5'])
}

/// Single organizations and their billing states have etags; lists and audit records do not.
fn operation_has_etag(path: &str) -> bool {
    path.contains("{id}") && !path.ends_with("/audit-events")
}

fn parameter_name(parameter: &RefOr<Parameter>) -> &str {
    match parameter {
        RefOr::T(parameter) => &parameter.name,
        RefOr::Ref(_) => "",
    }
}

fn problem() -> Content {
    Content::new(Some(Ref::from_schema_name(Document::name())))
}
