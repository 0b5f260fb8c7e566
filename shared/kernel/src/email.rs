//! The owner's email address: kept as typed for display, compared in a canonical form.

use std::{fmt, str::FromStr};

use email_address::Options;
use unicode_normalization::UnicodeNormalization;

use crate::{ApiError, Reason};

/// The longest address accepted, in bytes (RFC 5321 section 4.5.3.1.3, less the angle brackets).
const MAX_BYTES: usize = 254;

/// One email address.
///
/// Two addresses are equal when their canonical forms are: lower case, Unicode NFC, and the domain in its
/// IDNA A-label form (RFC 5891). Dots and plus tags are part of the address and are not stripped.
#[derive(Clone)]
pub struct EmailAddress {
    typed: String,
    canonical: String,
}

impl EmailAddress {
    /// Reads an address; surrounding white space is ignored.
    ///
    /// # Errors
    /// `INVALID_EMAIL` naming `email` when it is not exactly one address (RFC 5321, RFC 6531) with a dot in
    /// its domain, of at most 254 bytes.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let invalid = |why: &str| ApiError::field(Reason::InvalidEmail, "email", why);
        let typed = text.trim();
        if typed.is_empty() {
            return Err(invalid("is required"));
        }
        if typed.len() > MAX_BYTES {
            return Err(invalid("must be at most 254 bytes long"));
        }
        let options = Options::default().with_required_tld().without_domain_literal().without_display_text();
        let composed: String = typed.nfc().collect();
        let address = email_address::EmailAddress::parse_with_options(&composed, options)
            .map_err(|_| invalid("must be one email address, such as name@example.com"))?;
        let domain = idna::domain_to_ascii_strict(address.domain())
            .map_err(|_| invalid("has a domain that is not a valid host name"))?;
        if !domain.contains('.') || domain.parse::<std::net::Ipv4Addr>().is_ok() {
            return Err(invalid("must have a domain with a dot in it, such as name@example.com"));
        }
        let local: String = address.local_part().to_lowercase().nfc().collect();
        let canonical = format!("{local}@{domain}");
        if canonical.len() > MAX_BYTES {
            return Err(invalid("must be at most 254 bytes long"));
        }
        Ok(Self { typed: typed.to_owned(), canonical })
    }

    /// The address as its owner typed it, trimmed.
    pub fn typed(&self) -> &str {
        &self.typed
    }

    /// The form that login and uniqueness use.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }
}

impl PartialEq for EmailAddress {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for EmailAddress {}

impl std::hash::Hash for EmailAddress {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.canonical.hash(state);
    }
}

impl FromStr for EmailAddress {
    type Err = ApiError;
    fn from_str(text: &str) -> Result<Self, ApiError> {
        Self::parse(text)
    }
}

/// An address is personal data, so it does not appear in logs by way of `{:?}`.
impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmailAddress(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn compares_case_composition_and_domain_in_canonical_form() {
        for (left, right) in [
            ("Ann@Example.COM", "ann@example.com"),
            (" ann@example.com ", "ann@example.com"),
            ("ann@bücher.example", "ann@xn--bcher-kva.example"),
            ("re\u{301}ne@example.com", "r\u{e9}ne@example.com"),
        ] {
            assert_eq!(
                EmailAddress::parse(left).unwrap(),
                EmailAddress::parse(right).unwrap(),
                "{left} {right}"
            );
        }
    }

    #[test]
    fn keeps_dots_and_tags_and_what_was_typed() {
        let address = EmailAddress::parse(" A.n.n+news@Example.com").unwrap();
        assert_eq!(address.canonical(), "a.n.n+news@example.com");
        assert_eq!(address.typed(), "A.n.n+news@Example.com");
    }

    #[test]
    fn refuses_what_is_not_one_address() {
        let long = format!("{}@example.com", "a".repeat(250));
        for text in [
            "",
            " ",
            "ann",
            "@example.com",
            "ann@",
            "ann@example",
            "ann@@example.com",
            "a b@example.com",
            "Ann <ann@example.com>",
            "ann@example.com, bob@example.com",
            "ann@[127.0.0.1]",
            "ann@127.0.0.1",
            "ann@.example.com",
            "ann@example..com",
            "ann@exa mple.com",
            "ann\n@example.com",
            "ann@-a.com",
            &long,
        ] {
            let error = EmailAddress::parse(text).expect_err(text);
            assert_eq!(error.reason(), Reason::InvalidEmail, "{text}");
        }
    }

    #[test]
    fn debug_does_not_print_the_address() {
        assert!(!format!("{:?}", EmailAddress::parse("ann@example.com").unwrap()).contains("ann"));
    }

    proptest! {
        #[test]
        fn never_panics_and_canonical_is_a_fixed_point(text in "\\PC{0,40}@?\\PC{0,20}(\\.[a-z]{2,5})?") {
            if let Ok(address) = EmailAddress::parse(&text) {
                let again = EmailAddress::parse(address.canonical()).unwrap();
                prop_assert_eq!(again.canonical(), address.canonical());
            }
        }
    }
}
