//! Which tenant a request for flags is about.

use axum::extract::{FromRequest, Request};
use pulse_kernel::OrgId;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::wire::{ErrorCode, Refusal};
use crate::extract::{read, require_json};

/// The member of the context that names the tenant where the targeting key names somebody else, such as a user.
const ORG_ID: &str = "org_id";
const TARGETING_KEY: &str = "targetingKey";

/// What flags are evaluated for.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "documents what is read by `Context`")]
pub(super) struct EvaluationRequest {
    /// The evaluation context. Its `org_id` is the tenant or, without one, its `targetingKey` is. Everything else in it is
    /// ignored.
    #[schema(value_type = Object, example = json!({"targetingKey": "0190a5c8-7c3e-7000-8000-000000000000"}))]
    context: Map<String, Value>,
}

/// The tenant that a request is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) org: OrgId,
}

impl<S: Send + Sync> FromRequest<S> for Context {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        parse(&read(body).await?)
    }
}

fn parse(bytes: &[u8]) -> Result<Context, Refusal> {
    let body: Value = serde_json::from_slice(bytes)
        .map_err(|_| Refusal::failure(ErrorCode::ParseError, "the body is not well-formed JSON"))?;
    let context = match body.get("context") {
        Some(Value::Object(context)) => context,
        None if body.is_object() => return Err(missing()),
        None | Some(_) => return Err(invalid("the body must be an object with an object named context")),
    };
    let (name, id) = match (context.get(ORG_ID), context.get(TARGETING_KEY)) {
        (Some(id), _) => (ORG_ID, id),
        (None, Some(id)) => (TARGETING_KEY, id),
        (None, None) => return Err(missing()),
    };
    match id.as_str() {
        Some("") => Err(missing()),
        Some(id) => OrgId::parse(id)
            .map(|org| Context { org })
            .map_err(|error| invalid(format!("{name} names no tenant: {error}"))),
        None => Err(invalid(format!("{name} must be a string"))),
    }
}

fn missing() -> Refusal {
    Refusal::failure(
        ErrorCode::TargetingKeyMissing,
        "the context must name the tenant, as its targetingKey or its org_id",
    )
}

fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::failure(ErrorCode::InvalidContext, why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn code(body: &str) -> ErrorCode {
        match parse(body.as_bytes()) {
            Err(Refusal::Failure { code, .. }) => code,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn the_tenant_is_the_org_id_or_else_the_targeting_key() {
        let acme = Context { org: OrgId::parse("acme").unwrap() };
        for body in [
            r#"{"context":{"targetingKey":"acme"}}"#,
            r#"{"context":{"targetingKey":"acme","plan":"pro","age":[1]},"more":1}"#,
            r#"{"context":{"targetingKey":"0190a5c8-7c3e-7000-8000-000000000001","org_id":"acme"}}"#,
            r#"{"context":{"org_id":"acme"}}"#,
        ] {
            assert_eq!(parse(body.as_bytes()).unwrap(), acme, "{body}");
        }
    }

    #[test]
    fn what_names_no_tenant_is_told_apart() {
        for body in ["", "{", "tenant", "{\"context\":{\"targetingKey\":\"acme\"}} x"] {
            assert_eq!(code(body), ErrorCode::ParseError, "{body}");
        }
        for body in [r"{}", r#"{"context":{}}"#, r#"{"context":{"targetingKey":""}}"#] {
            assert_eq!(code(body), ErrorCode::TargetingKeyMissing, "{body}");
        }
        for body in [
            "[]",
            "1",
            r#"{"context":null}"#,
            r#"{"context":"acme"}"#,
            r#"{"context":{"targetingKey":1}}"#,
            r#"{"context":{"targetingKey":"Acme, Inc."}}"#,
            r#"{"context":{"targetingKey":"acme","org_id":null}}"#,
            r#"{"context":{"targetingKey":"acme","org_id":"../etc"}}"#,
        ] {
            assert_eq!(code(body), ErrorCode::InvalidContext, "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
