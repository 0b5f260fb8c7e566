//! `GET /api/openapi.json`: what this listener serves, as OpenAPI 3.1.
//!
//! The document grows with the router: a route is in it exactly when it is served. What all routes of a kind have in
//! common, above all how they fail, is added here once.

use std::collections::BTreeMap;

use axum::{Extension, body::Bytes};
use http::header::CONTENT_TYPE;
use pulse_rpc::problem::{Document, MEDIA_TYPE};
use utoipa::{
    IntoParams, PartialSchema as _, ToSchema,
    openapi::{
        ComponentsBuilder, Content, HeaderBuilder, InfoBuilder, ObjectBuilder, OpenApi, OpenApiBuilder, Ref,
        RefOr, Required, Response, ResponseBuilder, Schema, Type,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        request_body::RequestBody,
        schema::AdditionalProperties,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Answer;

/// The name of the operators' security scheme.
const OPERATOR: &str = "operator";

/// The header of a precondition.
const IF_MATCH: &str = "If-Match";

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
            .name(IF_MATCH)
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
        let kind = Kind { path, limited };
        has_operators |= kind.is_admin();
        operations(item).for_each(|operation| kind.complete(operation));
    }
    document.components.iter_mut().for_each(|components| close_bodies(&mut components.schemas));
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

/// Request bodies, which are named so, take no field that they do not have.
fn close_bodies(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    for (name, schema) in schemas {
        if let RefOr::T(Schema::Object(object)) = schema
            && name.ends_with("Body")
        {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
}

/// What tells how a route can fail, beyond what it says itself.
#[derive(Debug)]
struct Kind<'a> {
    path: &'a str,
    /// Whether the listener limits its clients.
    limited: bool,
}

impl Kind<'_> {
    fn is_admin(&self) -> bool {
        self.path.starts_with(ADMIN)
    }

    /// Health answers whatever else is refused.
    fn is_health(&self) -> bool {
        ["/livez", "/readyz"].contains(&self.path)
    }

    fn names_an_organization(&self) -> bool {
        self.path.contains("{id}")
    }

    /// Single organizations and their billing states have etags; lists do not.
    fn has_etag(&self) -> bool {
        self.names_an_organization() && !self.path.ends_with("/audit-events")
    }

    fn complete(&self, operation: &mut Operation) {
        operation.request_body.iter_mut().for_each(leave_out_null);
        let common = self.common_failures(operation);
        let responses = &mut operation.responses.responses;
        for (status, description) in common {
            let response = || RefOr::T(ResponseBuilder::new().description(description).build());
            responses.entry(status.to_owned()).or_insert_with(response);
        }
        for (status, response) in responses {
            let RefOr::T(response) = response else { continue };
            // But where the route says something else of its own: a protocol may have its own words.
            if status.starts_with(['4', '5']) && response.content.is_empty() {
                response.content.insert(MEDIA_TYPE.to_owned(), RefOr::T(problem()));
            }
            self.add_headers(status, response);
        }
        if self.is_admin() {
            operation.security = Some(vec![SecurityRequirement::new(OPERATOR, Vec::<String>::new())]);
        }
    }

    fn common_failures(&self, operation: &Operation) -> Vec<(&'static str, &'static str)> {
        let mut failures = vec![("500", "`internal`: quote the request id when you report it")];
        if operation.request_body.is_some() {
            failures.extend([
                ("400", "`invalid_request`, or `invalid_org_id`; `errors` names every field that is wrong"),
                ("408", "`request_timeout`: the body did not arrive in time"),
                ("413", "`payload_too_large`: the body is longer than 64 KiB"),
                ("415", "`unsupported_media_type`: the body is not JSON"),
            ]);
        }
        if self.is_admin() {
            failures.extend([
                ("400", "`invalid_request`, or `invalid_org_id`; `errors` names what is wrong"),
                ("401", "`unauthenticated`: no operator's token, or an unknown one"),
                ("403", "`role_required`: the operator lacks the role"),
            ]);
        }
        if self.names_an_organization() {
            failures.push(("404", "`org_not_found`"));
        }
        if has_precondition(operation) {
            failures.push(("412", "`etag_mismatch`: it has changed"));
        }
        if !self.is_health() {
            let too_many = if self.limited {
                "`rate_limited`: too many requests of this client; `overloaded`: no capacity now"
            } else {
                "`overloaded`: no capacity now"
            };
            failures.extend([
                ("429", too_many),
                ("503", "`unavailable`: a service that this needs is not there; try again"),
            ]);
        }
        failures
    }

    fn add_headers(&self, status: &str, response: &mut Response) {
        let mut add = |name: &str, schema: ObjectBuilder, description: &str| {
            let header = HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build();
            response.headers.insert(name.to_owned(), header.into());
        };
        add("x-request-id", text(), "The request's id: the caller's own where that is a sane one");
        match status {
            "200" if self.has_etag() => {
                add("ETag", text(), "The etag, quoted; absent where nothing is stored");
            }
            "401" => add("WWW-Authenticate", text(), "`Bearer`"),
            "429" | "503" => {
                let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
                add("Retry-After", seconds, "Seconds until a retry may succeed");
            }
            _ => {}
        }
        if status == "429" && self.limited {
            add("RateLimit-Policy", text(), "The limit that was met, such as `\"requests\";q=60;w=60`");
            add("RateLimit", text(), "What is left of it, such as `\"requests\";r=0;t=12`");
        }
    }
}

/// A body that may be left out comes described as one that may be null, which is not the same.
fn leave_out_null(body: &mut RefOr<RequestBody>) {
    let RefOr::T(body) = body else { return };
    for content in body.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        let Some(RefOr::T(Schema::OneOf(choice))) = &content.schema else { continue };
        content.schema = choice.items.iter().find(|schema| matches!(schema, RefOr::Ref(_))).cloned();
        body.required = Some(Required::False);
    }
}

/// Whether the route takes `If-Match`.
fn has_precondition(operation: &Operation) -> bool {
    let is_if_match = |parameter: &RefOr<Parameter>| match parameter {
        RefOr::T(parameter) => parameter.name == IF_MATCH,
        RefOr::Ref(_) => false,
    };
    operation.parameters.iter().flatten().any(is_if_match)
}

fn problem() -> Content {
    Content::new(Some(Ref::from_schema_name(Document::name())))
}
