//! A password after hashing: the only form in which it is ever stored.

use secrecy::{ExposeSecret, SecretString};

/// A password hash in PHC string format, such as `$argon2id$v=19$m=19456,t=2,p=1$…`. Printed, it shows nothing.
#[derive(Debug, Clone)]
pub struct PasswordHash(SecretString);

impl PasswordHash {
    /// Takes a PHC string as the hashing pool or the store hands it over.
    pub fn from_phc(phc: impl Into<String>) -> Self {
        Self(SecretString::from(phc.into()))
    }

    /// The PHC string, for the store and the hashing pool only.
    pub fn expose_phc(&self) -> &str {
        self.0.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_print_the_hash() {
        assert!(!format!("{:?}", PasswordHash::from_phc("$argon2id$canary")).contains("canary"));
    }
}
