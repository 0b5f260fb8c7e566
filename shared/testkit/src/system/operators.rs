//! Operators: their tokens, and the file that says who has which roles.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pulse_kernel::{Entropy, OsEntropy};
use sha2::{Digest, Sha256};

/// Someone with a token.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The name in the tokens file, which is the actor in audit records.
    pub name: String,
    /// The token itself, which the file does not hold.
    pub token: String,
    /// The roles in the tokens file.
    pub roles: Vec<String>,
}

impl Operator {
    /// An operator with a new token.
    pub fn new(name: &str, roles: &[&str]) -> Self {
        let mut random = [0; 32];
        OsEntropy.fill(&mut random);
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        Self { name: name.to_owned(), token: hex::encode(random), roles }
    }
}

/// The tokens file of a system, and the tokens that go with it.
#[derive(Debug)]
pub struct Operators {
    file: PathBuf,
    known: Vec<Operator>,
}

impl Operators {
    /// Olga with every role, and one operator for each role, named after it.
    pub(super) fn standard(folder: &Path) -> Self {
        let known = vec![
            Operator::new("olga", &["viewer", "support", "billing", "admin"]),
            Operator::new("viewer", &["viewer"]),
            Operator::new("support", &["support"]),
            Operator::new("billing", &["billing"]),
            Operator::new("admin", &["admin"]),
        ];
        let operators = Self { file: folder.join("operator-tokens.toml"), known };
        operators.replace_file(&operators.known);
        operators
    }

    /// The path of the file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The token of one of the standard operators.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn token(&self, name: &str) -> &str {
        let found = self.known.iter().find(|operator| operator.name == name);
        &found.unwrap_or_else(|| panic!("no operator is called {name}")).token
    }

    /// Puts a file with just these operators in place of the present one, in one step.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn replace_file(&self, operators: &[Operator]) {
        let entries = operators.iter().map(|Operator { name, token, roles }| {
            let hash = hex::encode(Sha256::digest(token.as_bytes()));
            format!("[[token]]\nname = {name:?}\nsha256 = {hash:?}\nroles = {roles:?}\n")
        });
        let new = self.file.with_extension("new");
        fs::write(&new, entries.collect::<Vec<_>>().join("\n")).expect("a tokens file can be written");
        fs::rename(&new, &self.file).expect("a file can be replaced");
    }
}
