//! Paging as in Google's API guidelines (AIP-158): a bounded `page_size` and an opaque `page_token`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use pulse_kernel::{ApiError, Reason};
use serde::{Serialize, de::DeserializeOwned};

/// The page size where none is asked for.
pub const DEFAULT_SIZE: usize = 50;

/// The largest page; more is not an error but gets this many.
pub const MAX_SIZE: usize = 1000;

/// The longest token read, in bytes.
const MAX_TOKEN: usize = 1024;

/// The first byte of a token. A token of another version is refused, not misread.
const VERSION: u8 = 1;

/// How many items a page holds.
///
/// # Errors
/// `INVALID_REQUEST` naming `page_size` when it is negative.
pub fn size(asked: i32) -> Result<usize, ApiError> {
    match usize::try_from(asked) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) => Ok(size.min(MAX_SIZE)),
        Err(_) => Err(ApiError::field(Reason::InvalidRequest, "page_size", "must not be negative")),
    }
}

/// The token that leads to what follows `cursor`. A cursor serialises to JSON, whatever its type.
pub fn token<C: Serialize>(cursor: &C) -> String {
    let mut bytes = vec![VERSION];
    // A vector takes every write, so this fails only for a cursor that is no JSON: its page is then the last.
    match serde_json::to_writer(&mut bytes, cursor) {
        Ok(()) => URL_SAFE_NO_PAD.encode(bytes),
        Err(error) => {
            tracing::error!(%error, "a page cursor does not serialise");
            String::new()
        }
    }
}

/// The cursor of a token; none for the first page.
///
/// # Errors
/// `INVALID_REQUEST` naming `page_token` when it is not a token that [`token`] made for this kind of list.
pub fn cursor<C: DeserializeOwned>(token: &str) -> Result<Option<C>, ApiError> {
    let invalid = || {
        ApiError::field(Reason::InvalidRequest, "page_token", "must be a next_page_token of this same list")
    };
    if token.is_empty() {
        return Ok(None);
    }
    if token.len() > MAX_TOKEN {
        return Err(invalid());
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    match bytes.as_slice() {
        [VERSION, json @ ..] => serde_json::from_slice(json).map(Some).map_err(|_| invalid()),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_bounded() {
        for (asked, size_given) in [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (i32::MAX, 1000)] {
            assert_eq!(size(asked).unwrap(), size_given);
        }
        assert_eq!(size(-1).unwrap_err().violations()[0].field, "page_size");
    }

    #[test]
    fn garbage_and_other_versions_are_refused() {
        let other_version = URL_SAFE_NO_PAD.encode([2, b'"', b'a', b'"']);
        let other_list = token(&7);
        for bad in ["x", "!!!", "AAAA", &other_version, &other_list, &"A".repeat(2000)] {
            let error = cursor::<String>(bad).unwrap_err();
            assert_eq!(
                (error.reason(), error.violations()[0].field.as_str()),
                (Reason::InvalidRequest, "page_token")
            );
        }
    }

    proptest! {
        #[test]
        fn tokens_lead_back_to_their_cursor(time: i64, id in "\\PC{1,64}") {
            prop_assert_eq!(cursor(&token(&(time, &id))).unwrap(), Some((time, id)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            let _ = cursor::<(i64, String)>(&text);
        }
    }
}
