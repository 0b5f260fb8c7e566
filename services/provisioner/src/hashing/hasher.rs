//! One thread's hasher.

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{self, Output, ParamsString, Salt},
};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::domain::PasswordHash;

/// Memory of one hash, KiB (OWASP Password Storage Cheat Sheet: argon2id, 19 MiB, two passes, one lane).
pub const M_COST_KIB: u32 = 19_456;
/// Passes over the memory.
pub const T_COST: u32 = 2;
/// Lanes.
pub const P_COST: u32 = 1;

/// Length of a salt, bytes (RFC 9106 section 3.1).
pub(super) const SALT_BYTES: usize = 16;
/// Length of what is stored of a hash, bytes.
pub(super) const OUTPUT_BYTES: usize = 32;

/// Why a hash could not be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HasherError {
    /// The stored hash is not an argon2 PHC string, or needs more memory than new ones do.
    Malformed,
    /// The computation failed.
    Failed,
}

/// Hashes on one thread. Its memory is allocated once, since fresh pages cost more than the hash when several threads
/// ask for them, and wiped at the end.
pub(super) struct Hasher {
    memory: Vec<Block>,
}

impl Hasher {
    pub(super) fn new() -> Result<Self, HasherError> {
        Ok(Self { memory: vec![Block::new(); params()?.block_count()] })
    }

    /// The PHC string of a new password.
    pub(super) fn hash(
        &mut self,
        password: &[u8],
        salt: [u8; SALT_BYTES],
    ) -> Result<PasswordHash, HasherError> {
        let params = params()?;
        let mut output = Zeroizing::new([0; OUTPUT_BYTES]);
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        argon2
            .hash_password_into_with_memory(password, &salt, &mut *output, &mut self.memory)
            .map_err(|_| HasherError::Failed)?;
        to_phc(&params, &salt, &*output)
    }

    /// Whether the password is the one that was hashed. Takes as long for a wrong one as for the right one.
    pub(super) fn verify(&mut self, password: &[u8], hash: &PasswordHash) -> Result<bool, HasherError> {
        let malformed = |_| HasherError::Malformed;
        let stored = phc::PasswordHash::new(hash.expose_phc()).map_err(malformed)?;
        let algorithm = Algorithm::try_from(stored.algorithm.as_str()).map_err(|_| HasherError::Malformed)?;
        let version = stored.version.ok_or(HasherError::Malformed)?;
        let version = Version::try_from(version).map_err(|_| HasherError::Malformed)?;
        let params = Params::try_from(&stored).map_err(|_| HasherError::Malformed)?;
        let (Some(salt), Some(expected)) = (stored.salt, stored.hash) else {
            return Err(HasherError::Malformed);
        };
        if params.block_count() > self.memory.len() {
            return Err(HasherError::Malformed);
        }
        let mut output = Zeroizing::new(vec![0; expected.len()]);
        Argon2::new(algorithm, version, params)
            .hash_password_into_with_memory(password, &salt, &mut output, &mut self.memory)
            .map_err(|_| HasherError::Failed)?;
        Ok(output.ct_eq(expected.as_bytes()).into())
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        // What is left in the blocks was derived from a password.
        for block in &mut self.memory {
            block.zeroize();
        }
    }
}

/// A PHC string that no password matches: for an email that is not known, so that it costs what a known one does.
pub(super) fn unmatched(
    salt: [u8; SALT_BYTES],
    output: [u8; OUTPUT_BYTES],
) -> Result<PasswordHash, HasherError> {
    to_phc(&params()?, &salt, &output)
}

fn params() -> Result<Params, HasherError> {
    Params::new(M_COST_KIB, T_COST, P_COST, Some(OUTPUT_BYTES)).map_err(|_| HasherError::Failed)
}

fn to_phc(params: &Params, salt: &[u8], output: &[u8]) -> Result<PasswordHash, HasherError> {
    let phc = phc::PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(params).map_err(|_| HasherError::Failed)?,
        salt: Some(Salt::new(salt).map_err(|_| HasherError::Failed)?),
        hash: Some(Output::new(output).map_err(|_| HasherError::Failed)?),
    };
    Ok(PasswordHash::from_phc(phc.to_string()))
}

#[cfg(test)]
mod tests {
    use argon2::{PasswordHasher as _, PasswordVerifier as _};

    use super::*;

    #[test]
    fn phc_strings_name_algorithm_version_and_parameters() {
        let hash = Hasher::new().unwrap().hash(b"correct horse", [7; SALT_BYTES]).unwrap();
        assert!(hash.expose_phc().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.expose_phc());
    }

    #[test]
    fn agrees_with_the_library_in_both_directions() {
        let mut hasher = Hasher::new().unwrap();
        let ours = hasher.hash(b"correct horse", [7; SALT_BYTES]).unwrap();
        assert!(Argon2::default().verify_password(b"correct horse", ours.expose_phc()).is_ok());
        let theirs = Argon2::default().hash_password_with_salt(b"correct horse", &[9; 16]).unwrap();
        let theirs = PasswordHash::from_phc(theirs.to_string());
        assert_eq!(hasher.verify(b"correct horse", &theirs), Ok(true));
        assert_eq!(hasher.verify(b"correct horsf", &theirs), Ok(false));
    }

    #[test]
    fn reuses_its_memory_and_is_not_misled_by_what_is_left_in_it() {
        let mut hasher = Hasher::new().unwrap();
        let memory = hasher.memory.as_ptr();
        let first = hasher.hash(b"first", [1; SALT_BYTES]).unwrap();
        let second = hasher.hash(b"second", [1; SALT_BYTES]).unwrap();
        assert_eq!(
            hasher.hash(b"first", [1; SALT_BYTES]).unwrap().expose_phc(),
            first.expose_phc(),
            "the same input hashes alike whatever was hashed before"
        );
        assert_ne!(first.expose_phc(), second.expose_phc());
        assert_eq!(hasher.verify(b"second", &second), Ok(true));
        assert_eq!(memory, hasher.memory.as_ptr());
    }

    #[test]
    fn refuses_what_is_not_a_hash_of_its_kind() {
        let mut hasher = Hasher::new().unwrap();
        for phc in [
            "",
            "plain",
            "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ",
            "$scrypt$v=1$m=1$c2FsdHNhbHQ$aGFzaGhhc2g",
            "$argon2id$v=19$m=999999,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
        ] {
            assert_eq!(
                hasher.verify(b"any", &PasswordHash::from_phc(phc)),
                Err(HasherError::Malformed),
                "{phc}"
            );
        }
    }

    #[test]
    fn nothing_matches_the_unmatched_hash() {
        let hash = unmatched([1; SALT_BYTES], [2; OUTPUT_BYTES]).unwrap();
        assert_eq!(Hasher::new().unwrap().verify(b"any", &hash), Ok(false));
    }
}
