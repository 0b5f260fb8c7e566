//! What Envoy asks, and what it is told, to and from what every gateway asks and is told.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use pulse_envoy_api::envoy::{
    config::core::v3::{self as core, HeaderValueOption, header_value_option::HeaderAppendAction},
    service::auth::v3::{
        CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse, attribute_context::HttpRequest,
        check_response::HttpResponse,
    },
    r#type::v3::HttpStatus,
};
use pulse_kernel::{ApiError, Reason};
use pulse_tenant_client::gateway::{Question, Refusal, header};
use pulse_tenant_guard::OnOutage;
use tonic_types::pb;

/// What a route's context extensions may say.
const CAPABILITY: &str = "capability";
const LIMIT: &str = "limit";
const ON_OUTAGE: &str = "on_outage";

/// A request that Envoy asks about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inquiry {
    /// What is to be decided, or why nothing can be.
    pub(crate) question: Result<Question, Refusal>,
    client: Client,
}

/// The client whose request it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Client {
    speaks_grpc: bool,
    /// Headers that say something in this system's name and that nobody will set anew.
    forged: Vec<String>,
}

impl From<CheckRequest> for Inquiry {
    fn from(request: CheckRequest) -> Self {
        let attributes = request.attributes.unwrap_or_default();
        let http = attributes.request.and_then(|request| request.http).unwrap_or_default();
        let extensions = attributes.context_extensions.iter();
        let extensions = extensions.map(|(name, value)| (name.as_str(), value.as_str()));
        Self { question: question(extensions, &http), client: Client::of(&http) }
    }
}

impl Inquiry {
    /// What Envoy is told, once that is decided.
    pub(crate) fn answer(self, decided: Result<HeaderMap, Refusal>) -> CheckResponse {
        match decided {
            Ok(trusted) => allowed(&trusted, self.client.forged),
            Err(refusal) if self.client.speaks_grpc => denied_over_grpc(&refusal),
            Err(refusal) => denied(&refusal),
        }
    }
}

impl Client {
    fn of(http: &HttpRequest) -> Self {
        let content_type = only(http, &CONTENT_TYPE);
        // As Envoy tells it: gRPC-Web, for one, is none.
        let speaks_grpc = content_type
            .and_then(|essence| essence.strip_prefix("application/grpc"))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('+'));
        let forged = headers(http).map(|(name, _)| name).filter(|name| {
            header::is_ours(name)
                && !header::TRUSTED.iter().any(|trusted| trusted.as_str().eq_ignore_ascii_case(name))
        });
        // The two that we know, also where Envoy is set to show only some headers.
        let known = [header::CAPABILITY, header::DENY_REASON];
        let mut forged: Vec<_> =
            known.iter().map(HeaderName::as_str).chain(forged).map(str::to_owned).collect();
        forged.sort_unstable();
        forged.dedup();
        Self { speaks_grpc, forged }
    }
}

fn question<'a>(
    extensions: impl Iterator<Item = (&'a str, &'a str)>,
    http: &HttpRequest,
) -> Result<Question, Refusal> {
    let refuse = |message: &str| Refusal::not_understood(ApiError::new(Reason::InvalidRequest, message));
    let (mut capability, mut limit, mut on_outage) = (None, None, OnOutage::Allow);
    for (name, value) in extensions {
        match (name, value) {
            (CAPABILITY, _) => capability = Some(value),
            (LIMIT, _) => limit = Some(value),
            (ON_OUTAGE, "allow") => on_outage = OnOutage::Allow,
            (ON_OUTAGE, "deny") => on_outage = OnOutage::Deny,
            // A requirement that is misspelt must not be one that is left out.
            _ => {
                return Err(refuse(
                    "the route's context extensions may have capability, limit and on_outage (allow or deny)",
                ));
            }
        }
    }
    Question::parse(only(http, &header::ORG_ID), capability, limit, on_outage)
}

/// The headers of the request; Envoy has two ways to show them.
fn headers(http: &HttpRequest) -> impl Iterator<Item = (&str, &[u8])> {
    let merged = http.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let raw = http.header_map.iter().flat_map(|map| &map.headers).map(|header| {
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        (header.key.as_str(), value)
    });
    merged.chain(raw)
}

/// The value of a header that comes once. Where several are merged into one, commas are between them.
fn only<'a>(http: &'a HttpRequest, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers(http).filter(|(own, _)| own.eq_ignore_ascii_case(name.as_str()));
    match (values.next(), values.next()) {
        (Some((_, value)), None) => str::from_utf8(value).ok(),
        (None | Some(_), _) => None,
    }
}

fn allowed(trusted: &HeaderMap, forged: Vec<String>) -> CheckResponse {
    let response =
        OkHttpResponse { headers: options(trusted), headers_to_remove: forged, ..OkHttpResponse::default() };
    CheckResponse {
        status: Some(pb::Status::default()),
        http_response: Some(HttpResponse::OkResponse(response)),
        dynamic_metadata: None,
    }
}

fn denied(refusal: &Refusal) -> CheckResponse {
    let (mut parts, body) = refusal.to_response().into_parts();
    parts.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    denial(refusal, parts.status.as_u16(), &parts.headers, String::from_utf8_lossy(&body).into_owned())
}

/// Envoy makes the code and the message of the trailers out of the status and the body, and takes over what is set besides.
fn denied_over_grpc(refusal: &Refusal) -> CheckResponse {
    let (parts, _) = refusal.to_response().into_parts();
    let status = refusal.to_status();
    let mut trailers = HeaderMap::new();
    // Only fails for messages that are no header; ours are.
    let _ = status.add_header(&mut trailers);
    trailers
        .extend(parts.headers.get(header::DENY_REASON).map(|reason| (header::DENY_REASON, reason.clone())));
    denial(refusal, parts.status.as_u16(), &trailers, status.message().to_owned())
}

fn denial(refusal: &Refusal, status: u16, headers: &HeaderMap, body: String) -> CheckResponse {
    let decision = refusal.to_status();
    let response = DeniedHttpResponse {
        status: Some(HttpStatus { code: status.into() }),
        headers: options(headers),
        body,
    };
    CheckResponse {
        status: Some(pb::Status {
            code: decision.code().into(),
            message: decision.message().to_owned(),
            details: Vec::new(),
        }),
        http_response: Some(HttpResponse::DeniedResponse(response)),
        dynamic_metadata: None,
    }
}

/// Headers that take the place of those of the same name.
fn options(headers: &HeaderMap) -> Vec<HeaderValueOption> {
    let option = |(name, value): (&HeaderName, &HeaderValue)| HeaderValueOption {
        header: Some(core::HeaderValue {
            key: name.as_str().to_owned(),
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
            raw_value: Vec::new(),
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    };
    headers.iter().map(option).collect()
}

#[cfg(test)]
mod tests;
