//! What callers write, parsed once.

use pulse_kernel::{ApiError, Reason};

/// The longest note, in characters.
const MAX_NOTE: usize = 500;

/// The longest key, in bytes.
const MAX_KEY: usize = 128;

/// An operator's words about a change: 1 to 500 characters, without control characters but line breaks and tabs.
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
        if text.chars().count() > MAX_NOTE {
            return invalid("must be at most 500 characters long");
        }
        if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            return invalid("must not contain control characters");
        }
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }
}

impl From<Note> for String {
    fn from(note: Note) -> Self {
        note.0
    }
}

/// Names one attempt of a caller: 1 to 128 visible ASCII characters. Its repetitions carry the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// Reads the field `field`.
    ///
    /// # Errors
    /// `INVALID_REQUEST` naming the field.
    pub fn parse(text: &str, field: &str) -> Result<Self, ApiError> {
        let visible = text.bytes().all(|b| b.is_ascii_graphic());
        if text.is_empty() || text.len() > MAX_KEY || !visible {
            let why = "must be 1 to 128 visible ASCII characters";
            return Err(ApiError::field(Reason::InvalidRequest, field, why));
        }
        Ok(Self(text.to_owned()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_note_is_none_and_the_rest_is_trimmed_and_bounded() {
        assert_eq!(Note::parse(" \n "), Ok(None));
        assert_eq!(Note::parse(" paid\nlate "), Ok(Some(Note("paid\nlate".to_owned()))));
        assert!(Note::parse(&"é".repeat(500)).is_ok());
        for text in [&"é".repeat(501), "a\0b", "\u{1b}[31m"] {
            assert_eq!(Note::parse(text).unwrap_err().violations()[0].field, "reason");
        }
    }

    #[test]
    fn a_key_is_visible_and_bounded() {
        assert_eq!(Key::parse("saga:0199/start-trial", "key").unwrap().as_str(), "saga:0199/start-trial");
        for text in ["", "a b", "a\n", "é", &"k".repeat(129)] {
            assert_eq!(Key::parse(text, "key").unwrap_err().violations()[0].field, "key", "{text:?}");
        }
    }
}
