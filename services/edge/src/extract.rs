//! What handlers take out of a request. Whatever is wrong with it becomes a [`Problem`] that names the place and
//! never repeats the value: it may be a password.

use std::{collections::BTreeMap, fmt, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
};
use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
    request::Parts,
};
use http_body_util::{BodyExt as _, LengthLimitError};
use pulse_kernel::{ApiError, OrgId, Reason, Violations};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor},
};
use serde_json::{Value, error::Category};
use utoipa::IntoParams;

use crate::problem::{HttpError, Problem};

/// How long a body may take to arrive, once its request's head has.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The `{id}` of a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct OrgPathParameter {
    /// The organization.
    #[param(pattern = "^[a-z0-9][a-z0-9-]{0,63}$", example = "0190a5c8-7c3e-7000-8000-000000000000")]
    id: String,
}

/// The organization that the path names, which need not exist.
#[derive(Debug)]
pub(crate) struct OrgPath(pub(crate) OrgId);

impl<S: Send + Sync> FromRequestParts<S> for OrgPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<OrgPathParameter>::from_request_parts(parts, state).await;
        // A path that is not UTF-8 once decoded names no organization either.
        Ok(Self(OrgId::parse(path.as_ref().map_or("", |Path(path)| &path.id))?))
    }
}

/// The parameters of the query. A parameter that `T` does not have is ignored, one that is repeated refused.
#[derive(Debug)]
pub(crate) struct Parameters<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let parsed = Query::try_from_uri(&parts.uri).map(|Query(parameters)| Self(parameters));
        let invalid =
            |_| ApiError::new(Reason::InvalidRequest, "the query must name each parameter at most once");
        parsed.map_err(|rejection| invalid(rejection).into())
    }
}

/// A JSON body that must be there.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Send + Sync, T: FromMembers> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        parse(&read(body).await?).map(Self)
    }
}

/// A JSON body that may be left out; then it counts as `{}`, whatever its media type.
#[derive(Debug)]
pub(crate) struct OptionalJsonBody<T>(pub(crate) T);

impl<S: Send + Sync, T: FromMembers> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = read(body).await?;
        if bytes.is_empty() {
            return parse(b"{}").map(Self);
        }
        require_json(&parts.headers)?;
        parse(&bytes).map(Self)
    }
}

/// `application/json`, or any `+json` (RFC 6839 section 3.1), with or without parameters, as it is.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), HttpError> {
    let essence = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let json = essence.is_some_and(|essence| {
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    });
    let encoded = headers
        .get(CONTENT_ENCODING)
        .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if json && !encoded { Ok(()) } else { Err(HttpError::UnsupportedMediaType) }
}

/// The whole body. The layer around every route bounds its length, also where none was declared.
pub(crate) async fn read(body: Body) -> Result<Bytes, Problem> {
    let collected =
        tokio::time::timeout(BODY_TIMEOUT, body.collect()).await.map_err(|_| HttpError::RequestTimeout)?;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if error.is::<LengthLimitError>() {
                return HttpError::PayloadTooLarge.into();
            }
            cause = error.source();
        }
        ApiError::new(Reason::InvalidRequest, "the body ended early").into()
    })
}

fn parse<T: FromMembers>(bytes: &[u8]) -> Result<T, Problem> {
    let mut members: Members = serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let why = match error.classify() {
            Category::Data => "the body must be a JSON object that names each member once",
            Category::Syntax | Category::Eof | Category::Io => "the body is not well-formed JSON",
        };
        ApiError::new(Reason::InvalidRequest, format!("{why}: line {line}, column {column}"))
    })?;
    let value = T::from_members(&mut members);
    members.finish()?;
    Ok(value)
}

/// A request body: takes its fields out of a JSON object. Whatever it leaves there is refused by name.
pub(crate) trait FromMembers: Sized {
    /// Takes the fields; what is wrong with them is remembered by `members`.
    fn from_members(members: &mut Members) -> Self;
}

/// The members of a JSON object, and what is wrong with them. One answer then names all of it, not the first only.
#[derive(Debug, Default)]
pub(crate) struct Members {
    left: BTreeMap<String, Value>,
    violations: Violations,
}

impl Members {
    /// Takes a member out; none where it is absent or null. One of the wrong type is an `INVALID_REQUEST`;
    /// `expected` completes the sentence "must be …".
    pub(crate) fn take<T: DeserializeOwned>(&mut self, field: &str, expected: &str) -> Option<T> {
        self.take_or(field, Reason::InvalidRequest, expected)
    }

    /// As [`Members::take`], with a reason of its own for the wrong type.
    pub(crate) fn take_or<T: DeserializeOwned>(
        &mut self,
        field: &str,
        reason: Reason,
        expected: &str,
    ) -> Option<T> {
        match self.left.remove(field)? {
            Value::Null => None,
            value => {
                let taken = serde_json::from_value(value).ok();
                if taken.is_none() {
                    self.refuse(field, reason, format!("must be {expected}"));
                }
                taken
            }
        }
    }

    /// As [`Members::take_or`]; also refused where it is absent or null.
    pub(crate) fn require_or<T: DeserializeOwned>(
        &mut self,
        field: &str,
        reason: Reason,
        expected: &str,
    ) -> Option<T> {
        if self.left.get(field).is_none_or(Value::is_null) {
            self.refuse(field, reason, format!("must be {expected}"));
        }
        self.take_or(field, reason, expected)
    }

    /// Remembers what is wrong with a field.
    pub(crate) fn refuse(&mut self, field: &str, reason: Reason, message: impl Into<String>) {
        self.violations.push(field, reason, message);
    }

    fn finish(mut self) -> Result<(), ApiError> {
        for field in self.left.into_keys() {
            self.violations.push(shown(&field), Reason::InvalidRequest, "is not a field of this request");
        }
        self.violations.finish()
    }
}

/// A name that a stranger chose, cut to what an answer can hold.
fn shown(field: &str) -> String {
    const LONGEST: usize = 64;
    if field.chars().count() <= LONGEST {
        return field.to_owned();
    }
    field.chars().take(LONGEST).chain(['…']).collect()
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            // Two readers may disagree on which of two counts, so neither does (RFC 8259 section 4).
            if members.left.insert(name, value).is_some() {
                return Err(A::Error::custom("a member is repeated"));
            }
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Pet {
        name: String,
        age: Option<u32>,
    }

    impl FromMembers for Pet {
        fn from_members(members: &mut Members) -> Self {
            Self {
                name: members.take("name", "a string").unwrap_or_default(),
                age: members.take_or("age", Reason::InvalidRetentionDays, "a whole number"),
            }
        }
    }

    fn error(body: &[u8]) -> ApiError {
        match parse::<Pet>(body) {
            Err(Problem::Api(error)) => *error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_what_is_there_and_takes_null_for_absent() {
        assert_eq!(
            parse::<Pet>(br#"{"name":"Ida","age":3}"#).unwrap(),
            Pet { name: "Ida".into(), age: Some(3) }
        );
        assert_eq!(parse::<Pet>(br#"{"age":null}"#).unwrap(), Pet { name: String::new(), age: None });
    }

    #[test]
    fn names_everything_that_is_wrong_at_once_and_repeats_no_value() {
        let error = error(br#"{"name":12345678,"age":"old","extra":1,"more":{}}"#);
        assert_eq!(error.reason(), Reason::InvalidRequest);
        let named: Vec<_> = error.violations().iter().map(|v| (v.field.as_str(), v.reason)).collect();
        assert_eq!(
            named,
            [
                ("name", Reason::InvalidRequest),
                ("age", Reason::InvalidRetentionDays),
                ("extra", Reason::InvalidRequest),
                ("more", Reason::InvalidRequest)
            ]
        );
        assert!(!error.message().contains("12345678"), "{error}");
    }

    #[test]
    fn malformed_json_is_located_and_not_repeated() {
        for (body, place) in [
            ("", "line 1, column 0"),
            ("{\n  \"name\": secret\n}", "line 2, column 11"),
            ("{\"name\":\"a\"", "line 1, column 11"),
            ("{\"name\":\"a\"} secret", "line 1, column 14"),
        ] {
            let error = error(body.as_bytes());
            assert_eq!(error.message(), format!("the body is not well-formed JSON: {place}"), "{body}");
        }
        for body in ["[]", "null", "\"secret\"", "12", r#"{"name":"a","name":"secret"}"#] {
            let message = error(body.as_bytes()).message().to_owned();
            assert!(
                message.starts_with("the body must be a JSON object that names each member once"),
                "{message}"
            );
            assert!(!message.contains("secret"), "{message}");
        }
        let deep = format!("{{\"name\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
        assert_eq!(error(deep.as_bytes()).reason(), Reason::InvalidRequest);
        assert_eq!(error(b"{\"name\":\"\xff\"}").reason(), Reason::InvalidRequest);
        let long = format!("{{\"{}\":1}}", "n".repeat(500));
        assert_eq!(error(long.as_bytes()).violations()[0].field.chars().count(), 65);
    }

    #[test]
    fn json_is_told_by_its_media_type() {
        let check = |pairs: &[(http::HeaderName, &str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
                .collect();
            require_json(&headers).is_ok()
        };
        for accepted in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.pulse+json"]
        {
            assert!(check(&[(CONTENT_TYPE, accepted)]), "{accepted}");
        }
        for refused in
            ["", "text/plain", "text/json", "application/jsonp", "application/x-www-form-urlencoded"]
        {
            assert!(!check(&[(CONTENT_TYPE, refused)]), "{refused}");
        }
        assert!(!check(&[]));
        assert!(check(&[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "identity")]));
        assert!(!check(&[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "gzip")]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse::<Pet>(&bytes);
        }

        #[test]
        fn any_json_is_read_or_refused(text in r#"[\[\]{},:"a-e0-9 .n\\-]{0,60}"#) {
            let _ = parse::<Pet>(text.as_bytes());
        }
    }
}
