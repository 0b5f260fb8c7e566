//! Passwords: checked for strength, then carried as a secret until they are hashed.

use secrecy::{ExposeSecret, SecretString};
use zxcvbn::Score;

use crate::{ApiError, Reason};

/// The longest password accepted, in bytes; it bounds the work of hashing.
const MAX_BYTES: usize = 1024;

/// What a new password must satisfy (NIST SP 800-63B-4 section 3.1.1.2, OWASP ASVS 5 section 6.2).
#[derive(Debug, Clone, Copy)]
pub struct PasswordPolicy {
    /// The fewest characters a password may have.
    pub min_length: usize,
}

impl Default for PasswordPolicy {
    fn default() -> Self {
        Self { min_length: 8 }
    }
}

impl PasswordPolicy {
    /// Accepts `text` as a new password of the account `email` of the organization `org_name`; both may be
    /// given as typed, valid or not. The text is neither trimmed nor truncated.
    ///
    /// # Errors
    /// `WEAK_PASSWORD` naming `password`. The message says what is wrong and never repeats the password.
    pub fn check(self, text: SecretString, email: &str, org_name: &str) -> Result<Password, ApiError> {
        let weak = |why: String| ApiError::field(Reason::WeakPassword, "password", why);
        let password = text.expose_secret();
        if password.chars().count() < self.min_length {
            return Err(weak(format!("must be at least {} characters long", self.min_length)));
        }
        if password.len() > MAX_BYTES {
            return Err(weak(format!("must be at most {MAX_BYTES} bytes long")));
        }
        let local_part = email.split('@').next().unwrap_or_default();
        for (what, own) in [("email", email), ("email", local_part), ("organization's name", org_name)] {
            if !own.trim().is_empty() && password.trim().to_lowercase() == own.trim().to_lowercase() {
                return Err(weak(format!("must not be your {what}")));
            }
        }
        // zxcvbn looks the password up in lists of common passwords, names and words as part of the estimate.
        let estimate = zxcvbn::zxcvbn(password, &[email, local_part, org_name]);
        if estimate.score() < Score::Three {
            let hint = estimate.feedback().map(|feedback| {
                let warning = feedback.warning().map(|w| w.to_string());
                let suggestions = feedback.suggestions().iter().map(ToString::to_string);
                warning.into_iter().chain(suggestions).collect::<Vec<_>>().join(" ")
            });
            let hint = hint.filter(|h| !h.is_empty()).unwrap_or_else(|| "Use a longer phrase.".to_owned());
            return Err(weak(format!("is too easy to guess. {hint}")));
        }
        Ok(Password(text))
    }
}

/// A password on its way to the hash. Printed, it shows nothing; dropped, its memory is wiped.
#[derive(Debug)]
pub struct Password(SecretString);

impl Password {
    /// Takes a password to be verified rather than set: no rule but the bound on its length applies.
    ///
    /// # Errors
    /// `INVALID_REQUEST` naming `password` when it is empty or longer than 1024 bytes.
    pub fn to_verify(text: SecretString) -> Result<Self, ApiError> {
        if text.expose_secret().is_empty() || text.expose_secret().len() > MAX_BYTES {
            return Err(ApiError::field(Reason::InvalidRequest, "password", "must be 1 to 1024 bytes long"));
        }
        Ok(Self(text))
    }

    /// The bytes to hash.
    pub fn expose_bytes(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(password: &str) -> Result<Password, ApiError> {
        PasswordPolicy::default().check(password.into(), "ann@example.com", "Acme Rockets")
    }

    #[test]
    fn accepts_strong_passwords_of_any_script() {
        for password in
            ["correct horse battery staple", "j8#Kq!vz2Lw", "пароль-от-сейфа-72!", " spaces stay here 9 "]
        {
            assert!(check(password).is_ok(), "{password}");
        }
        let pieces: Vec<_> = ('a'..='z').map(|c| format!("{c}9;Q#{}", u32::from(c) * 7919)).collect();
        let longest = pieces.concat();
        let longest = longest.repeat(3) + &"~".repeat(1024 - longest.len() * 3);
        assert!(check(&longest).is_ok(), "1024 bytes");
    }

    #[test]
    fn refuses_short_long_common_and_personal_passwords() {
        let long = "k9;Q".repeat(256) + "x";
        for password in [
            "",
            "short1!",
            &long,
            "password",
            "password1234",
            "qwertyuiop",
            "12345678",
            "aaaaaaaaaaaa",
            "ann@example.com",
            "ANN@example.com",
            "acme rockets",
            "iloveyou1",
        ] {
            let error = check(password).expect_err(password);
            assert_eq!(error.reason(), Reason::WeakPassword, "{password}");
            let said = &error.violations()[0].message;
            assert!(["", "password"].contains(&password) || !said.contains(password), "repeats {password}");
        }
    }

    #[test]
    fn minimum_length_can_be_raised() {
        let policy = PasswordPolicy { min_length: 15 };
        assert!(policy.check("j8#Kq!vz2Lw".into(), "", "").is_err());
    }

    #[test]
    fn debug_does_not_print_the_password() {
        let password = check("correct horse battery staple").unwrap();
        assert!(!format!("{password:?}").contains("horse"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn never_panics_and_never_repeats_the_password(password in "\\PC{1,120}") {
            if let Err(error) = check(&password) {
                prop_assert!(password.chars().count() < 9 || !error.violations()[0].message.contains(&password));
            }
        }
    }
}
