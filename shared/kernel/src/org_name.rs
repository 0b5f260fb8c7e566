//! The name of an organization, as people read it.

use std::fmt;

use unicode_normalization::UnicodeNormalization;

use crate::{ApiError, Reason};

/// A display name of 3 to 64 characters in any script, safe as a path segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgName(String);

impl OrgName {
    /// Reads a name; surrounding white space is ignored, composition is NFC.
    ///
    /// # Errors
    /// `INVALID_ORG_NAME` naming `org_name` when it is shorter than 3 or longer than 64 characters, or holds
    /// `/`, `\`, a control, bidirectional-override or zero-width character.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let invalid = |why: String| ApiError::field(Reason::InvalidOrgName, "org_name", why);
        let name: String = text.trim().nfc().collect();
        let length = name.chars().count();
        if !(3..=64).contains(&length) {
            return Err(invalid(format!("must be 3 to 64 characters long, and has {length}")));
        }
        if let Some(bad) = name.chars().find(|c| forbidden(*c)) {
            return Err(invalid(format!(
                "must not contain {}: '/', '\\', control, bidirectional-override and zero-width characters are not allowed",
                bad.escape_unicode()
            )));
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Characters that separate paths, or that make a name look like something it is not
/// (Unicode TR36 section 3: bidirectional controls, invisible characters).
fn forbidden(c: char) -> bool {
    matches!(c, '/' | '\\')
        || c.is_control()
        || matches!(c,
            '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{180E}'
            | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
            | '\u{3164}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

impl fmt::Display for OrgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_names_that_people_have() {
        for name in
            ["Acme, Inc.", "My Organization", "株式会社", "Ünïcode & Söhne", "abc", "...", &"x".repeat(64)]
        {
            assert_eq!(OrgName::parse(name).unwrap().as_str(), name);
        }
        assert_eq!(OrgName::parse("  Acme  ").unwrap().as_str(), "Acme");
    }

    #[test]
    fn refuses_short_long_and_deceptive_names() {
        let long = "x".repeat(65);
        for name in [
            "",
            "ab",
            "  ab  ",
            ".",
            "..",
            &long,
            "a/b",
            "a\\b",
            "a\nb",
            "abc\u{202e}",
            "a\u{200b}b",
            "abc\u{7f}",
            "a\0b",
        ] {
            assert_eq!(OrgName::parse(name).expect_err(name).reason(), Reason::InvalidOrgName, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_trimmed_and_in_bounds(text in "\\PC{0,80}") {
            if let Ok(name) = OrgName::parse(&text) {
                prop_assert!((3..=64).contains(&name.as_str().chars().count()));
                prop_assert!(!name.as_str().chars().any(forbidden));
                prop_assert_eq!(OrgName::parse(name.as_str()).unwrap(), name);
            }
        }
    }
}
