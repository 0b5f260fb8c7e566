//! What an operator says about a change.

use pulse_kernel::{ApiError, Reason};

/// The longest note, in characters.
const MAX_CHARS: usize = 500;

/// An operator's words: 1 to 500 characters, without control characters but line breaks and tabs. May hold
/// personal data, so it is kept only where it can be erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note(String);

impl Note {
    /// Reads the field `reason`; surrounding white space is ignored, and nothing but it is no note.
    ///
    /// # Errors
    /// `INVALID_REQUEST` naming `reason`.
    pub fn parse(text: &str) -> Result<Option<Self>, ApiError> {
        let invalid = |why: &str| Err(ApiError::field(Reason::InvalidRequest, "reason", why));
        let text = text.trim();
        if text.chars().count() > MAX_CHARS {
            return invalid("must be at most 500 characters long");
        }
        if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            return invalid("must not contain control characters");
        }
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }

    /// The note as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Note> for String {
    fn from(note: Note) -> Self {
        note.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_is_none_and_the_rest_is_trimmed_and_bounded() {
        assert_eq!(Note::parse(" \n ").unwrap(), None);
        assert_eq!(Note::parse(" unpaid\ninvoice ").unwrap().unwrap().as_str(), "unpaid\ninvoice");
        assert!(Note::parse(&"é".repeat(500)).is_ok());
        for text in [&"é".repeat(501), "a\0b", "\u{1b}[31m"] {
            let error = Note::parse(text).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidRequest);
            assert_eq!(error.violations()[0].field, "reason");
        }
    }
}
