//! Entity tags (RFC 9110 sections 8.8.3, 13.1.1 and 13.1.2): `ETag` on answers, `If-Match` and `If-None-Match` on requests.

use axum::{
    Json,
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderValue,
    header::{ETAG, IF_MATCH, IF_NONE_MATCH},
    request::Parts,
};
use pulse_kernel::{ApiError, Reason};
use serde::Serialize;

use crate::problem::Problem;

/// Something with an entity tag.
pub(crate) trait Tagged {
    /// Its current tag; none where nothing is stored yet.
    fn etag(&self) -> Option<&str>;
}

/// A JSON answer whose `ETag` header is the body's own.
#[derive(Debug)]
pub(crate) struct WithEtag<T>(pub(crate) T);

impl<T: Tagged + Serialize> IntoResponse for WithEtag<T> {
    fn into_response(self) -> Response {
        let header = self.0.etag().and_then(|tag| HeaderValue::try_from(format!("\"{tag}\"")).ok());
        let mut response = Json(self.0).into_response();
        response.headers_mut().extend(header.map(|value| (ETAG, value)));
        response
    }
}

/// What a request requires of the resource that it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// Nothing.
    None,
    /// `*`: that there is a stored one.
    Exists,
    /// That its tag is one of these. With none of them, or only weak ones, nothing matches: `If-Match` compares
    /// strongly, and a header that was sent never turns into no condition at all.
    OneOf(Vec<String>),
}

impl Precondition {
    fn of(headers: &HeaderMap) -> Self {
        let mut lines = headers.get_all(IF_MATCH).iter().peekable();
        if lines.peek().is_none() {
            return Self::None;
        }
        let mut tags = Vec::new();
        for line in lines {
            let text = line.to_str().unwrap_or_default().trim();
            if text == "*" {
                return Self::Exists;
            }
            let strong = entity_tags(text).into_iter().filter(|tag| !tag.is_weak);
            tags.extend(strong.map(|tag| tag.opaque));
        }
        Self::OneOf(tags)
    }

    /// As the header says; where there was none, as the etag says that came in the body.
    pub(crate) fn or_tag(self, tag: Option<String>) -> Self {
        match (self, tag) {
            (Self::None, Some(tag)) => {
                Self::OneOf(vec![tag].into_iter().filter(|tag| !tag.is_empty()).collect())
            }
            (condition, _) => condition,
        }
    }

    /// The etag to make the change conditional on in the service, which compares and changes at once; empty for none.
    /// `current` is asked for the resource's tag only where one tag cannot say it all.
    ///
    /// # Errors
    /// `ETAG_MISMATCH` when no tag matches, and whatever `current` fails with.
    pub(crate) async fn resolve<F>(self, current: impl FnOnce() -> F) -> Result<String, ApiError>
    where
        F: Future<Output = Result<Option<String>, ApiError>>,
    {
        let mismatch = || ApiError::new(Reason::EtagMismatch, "no etag in If-Match is the current one");
        match self {
            Self::None => Ok(String::new()),
            Self::Exists => current().await?.map(|_| String::new()).ok_or_else(mismatch),
            Self::OneOf(tags) => match <[String; 1]>::try_from(tags) {
                Ok([tag]) => Ok(tag),
                Err(tags) => current().await?.filter(|tag| tags.contains(tag)).ok_or_else(mismatch),
            },
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Precondition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::of(&parts.headers))
    }
}

/// Whether `If-None-Match` has this tag. It compares weakly; `*` is of no use where there always is something.
pub(crate) fn none_match(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let tags = |value: &HeaderValue| entity_tags(value.to_str().unwrap_or_default().trim());
    let current = tags(etag);
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .flat_map(tags)
        .any(|tag| current.iter().any(|current| current.opaque == tag.opaque))
}

/// An entity tag.
#[derive(Debug, PartialEq, Eq)]
struct EntityTag {
    is_weak: bool,
    opaque: String,
}

/// The non-empty tags of a list. A single tag may also come without quotes, as it stands in JSON; reading of a list stops
/// where it is malformed.
fn entity_tags(text: &str) -> Vec<EntityTag> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:+=".contains(&b)) {
        return vec![EntityTag { is_weak: false, opaque: text.to_owned() }];
    }
    let mut tags = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let weak = rest.strip_prefix("W/");
        let Some(opened) = weak.unwrap_or(rest).strip_prefix('"') else { return tags };
        let Some((tag, after)) = opened.split_once('"') else { return tags };
        if !tag.is_empty() {
            tags.push(EntityTag { is_weak: weak.is_some(), opaque: tag.to_owned() });
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use proptest::prelude::*;

    use super::*;

    fn precondition(lines: &[&str]) -> Precondition {
        let line = |line: &&str| (IF_MATCH, HeaderValue::from_str(line).unwrap());
        Precondition::of(&lines.iter().map(line).collect())
    }

    fn one_of(tags: &[&str]) -> Precondition {
        Precondition::OneOf(tags.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn reads_lists_and_lines_and_leaves_out_what_cannot_match() {
        assert_eq!(precondition(&[]), Precondition::None);
        assert_eq!(precondition(&["*"]), Precondition::Exists);
        assert_eq!(precondition(&["\"a\""]), one_of(&["a"]));
        assert_eq!(precondition(&["\"a\", \"b,c\" ,\"d\"", "\"e\""]), one_of(&["a", "b,c", "d", "e"]));
        assert_eq!(precondition(&["W/\"a\", \"b\""]), one_of(&["b"]));
        assert_eq!(precondition(&["bare-tag_1"]), one_of(&["bare-tag_1"]));
        for nothing in ["", "\"\"", "W/\"a\"", "\"open", "two words", "'a'"] {
            assert_eq!(precondition(&[nothing]), one_of(&[]), "{nothing:?}");
        }
    }

    #[tokio::test]
    async fn one_tag_is_left_to_the_service_and_everything_else_compared_here() {
        let stored = |tag: Option<&str>| {
            let tag = tag.map(str::to_owned);
            move || ready(Ok::<_, ApiError>(tag))
        };
        let never = || ready(Err(ApiError::internal()));
        assert_eq!(Precondition::None.resolve(never).await.unwrap(), "");
        assert_eq!(one_of(&["a"]).resolve(never).await.unwrap(), "a");
        assert_eq!(one_of(&["a", "b"]).resolve(stored(Some("b"))).await.unwrap(), "b");
        assert_eq!(Precondition::Exists.resolve(stored(Some("b"))).await.unwrap(), "");
        for (condition, current) in [
            (one_of(&["a", "b"]), Some("c")),
            (one_of(&["a", "b"]), None),
            (one_of(&[]), Some("c")),
            (Precondition::Exists, None),
        ] {
            let error = condition.resolve(stored(current)).await.unwrap_err();
            assert_eq!(error.reason(), Reason::EtagMismatch);
        }
    }

    #[test]
    fn what_one_has_already_is_told_by_any_form_of_its_tag() {
        let current = HeaderValue::from_static("W/\"a1\"");
        let matches = |lines: &[&str]| {
            let line = |line: &&str| (IF_NONE_MATCH, HeaderValue::from_str(line).unwrap());
            none_match(&lines.iter().map(line).collect(), &current)
        };
        for same in ["W/\"a1\"", "\"a1\"", "a1", "\"b\", W/\"a1\""] {
            assert!(matches(&[same]), "{same}");
        }
        assert!(matches(&["\"b\"", "\"a1\""]));
        for other in ["", "*", "\"a\"", "W/\"\"", "\"a1", "a1 b"] {
            assert!(!matches(&[other]), "{other}");
        }
        assert!(!matches(&[]));
    }

    proptest! {
        #[test]
        fn a_header_that_was_sent_is_a_condition(line in "[ -~]{0,40}") {
            prop_assert_ne!(precondition(&[&line]), Precondition::None);
        }

        #[test]
        fn a_list_of_tags_is_read_back(tags in prop::collection::vec("[!#-~]{1,10}", 1..5)) {
            let line = tags.iter().map(|tag| format!("\"{tag}\"")).collect::<Vec<_>>().join(", ");
            prop_assert_eq!(precondition(&[&line]), Precondition::OneOf(tags));
        }
    }
}
