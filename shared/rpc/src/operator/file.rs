//! The tokens file (`PULSE_ADMIN_TOKENS_FILE`):
//!
//! ```toml
//! [[token]]
//! name = "ann"
//! sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
//! roles = ["support", "billing"]
//! ```

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Operator, Role, Token};

/// How often the file is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The largest tokens file read, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Names that begin so belong to the services themselves in audit records.
const RESERVED_PREFIX: &str = "service:";

/// The longest name, in bytes.
const MAX_NAME: usize = 64;

/// Why the tokens file is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TokensFileError {
    /// It cannot be read.
    #[error("the operator tokens file {path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML of the form above.
    #[error(
        "the operator tokens file {path} is not accepted: {message}; expected [[token]] entries with name, sha256 and roles"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says; it quotes no values.
        message: String,
    },
    /// An entry is not accepted.
    #[error("the operator tokens file {path} is not accepted: token {entry}: {problem}")]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry's place, from 1, and its name.
        entry: String,
        /// What is wrong, and what is accepted.
        problem: String,
    },
    /// It has no entries.
    #[error(
        "the operator tokens file {path} is not accepted: it has no [[token]], so that nobody could sign in"
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileToml {
    #[serde(default)]
    token: Vec<EntryToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryToml {
    name: String,
    sha256: String,
    roles: Vec<String>,
}

/// One version of the file.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) tokens: Arc<[Token]>,
    seen: Seen,
}

/// How a version of the file is told from the next.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    modified: Option<SystemTime>,
    bytes: u64,
    content: [u8; 32],
}

/// Reads and checks the file.
pub(super) fn read(path: &Path) -> Result<Version, TokensFileError> {
    let (text, seen) = load(path)?;
    Ok(Version { tokens: parse(path, &text)?, seen })
}

fn load(path: &Path) -> Result<(String, Seen), TokensFileError> {
    let unreadable = |source| TokensFileError::Unreadable { path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if meta.len() > MAX_BYTES {
        return Err(unreadable(std::io::Error::other("it is larger than 1 MiB")));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let content = Sha256::digest(text.as_bytes()).into();
    Ok((text, Seen { modified: meta.modified().ok(), bytes: meta.len(), content }))
}

/// What the parser has to say, as long as it names members only: its other messages quote what stands there, which may
/// be a token that someone put in the wrong place.
fn without_values(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    if ["unknown field", "missing field"].iter().any(|harmless| message.starts_with(harmless)) {
        return message.to_owned();
    }
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {} is not what is expected there", before.matches('\n').count() + 1)
}

fn parse(path: &Path, text: &str) -> Result<Arc<[Token]>, TokensFileError> {
    let file: FileToml = toml::from_str(text).map_err(|error| TokensFileError::Malformed {
        path: path.to_owned(),
        message: without_values(text, &error),
    })?;
    if file.token.is_empty() {
        return Err(TokensFileError::Empty { path: path.to_owned() });
    }
    let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
    let mut tokens = Vec::with_capacity(file.token.len());
    for (number, entry) in (1..).zip(file.token) {
        let place = format!("{number} ({:?})", entry.name);
        let refuse = |problem| TokensFileError::Entry { path: path.to_owned(), entry: place, problem };
        let token = check(entry, &mut names, &mut hashes).map_err(refuse)?;
        tokens.push(token);
    }
    Ok(tokens.into())
}

/// The entry as a token, or what is wrong with it.
fn check(
    entry: EntryToml,
    names: &mut HashSet<String>,
    hashes: &mut HashSet<[u8; 32]>,
) -> Result<Token, String> {
    let EntryToml { name, sha256, roles } = entry;
    if name.trim().is_empty()
        || name.trim() != name
        || name.len() > MAX_NAME
        || name.chars().any(char::is_control)
    {
        return Err("name must be 1 to 64 bytes long, without control characters or space around it".into());
    }
    if name.starts_with(RESERVED_PREFIX) {
        return Err(format!(
            "name must not begin with {RESERVED_PREFIX:?}, which stands for the services themselves"
        ));
    }
    if !names.insert(name.clone()) {
        return Err("name is used twice; each token needs its own".into());
    }
    let mut hash = [0; 32];
    hex::decode_to_slice(&sha256, &mut hash)
        .map_err(|_| "sha256 must be the SHA-256 of the token as 64 hexadecimal digits".to_owned())?;
    if !hashes.insert(hash) {
        return Err("sha256 is that of another entry; each operator needs a token of their own".into());
    }
    if roles.is_empty() {
        return Err("roles must hold at least one of viewer, support, billing, admin".into());
    }
    let roles: Vec<Role> = roles
        .iter()
        .map(|role| role.parse().map_err(|expected| format!("role {role:?} is not accepted: {expected}")))
        .collect::<Result<_, _>>()?;
    Ok(Token { hash, operator: Operator { name: name.into(), roles } })
}

/// Looks at the file every half second and hands each accepted new version to `accept`; never ends.
pub(super) async fn follow(path: PathBuf, first: Version, accept: impl Fn(Arc<[Token]>)) {
    let mut seen = Some(first.seen);
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let looked = path.clone();
        let before = seen.clone();
        // A read blocks, if only for a moment.
        let Ok(look) = tokio::task::spawn_blocking(move || look(&looked, before.as_ref())).await else {
            continue;
        };
        match look {
            Look::Same => {}
            Look::Changed(now, Ok(tokens)) => {
                tracing::info!(path = %path.display(), operators = tokens.len(), "operator tokens reloaded");
                accept(tokens);
                seen = now;
            }
            // Taking the last token away must work like taking any other. A file without a byte is more likely one that
            // someone is just writing.
            Look::Changed(now, Err(TokensFileError::Empty { path }))
                if now.as_ref().is_some_and(|now| now.bytes > 0) =>
            {
                tracing::warn!(path = %path.display(), "no operator tokens are left; every operator is refused");
                accept(Arc::default());
                seen = now;
            }
            Look::Changed(now, Err(error)) => {
                tracing::error!(%error, "operator tokens not reloaded; the previous list stays in force");
                seen = now;
            }
        }
    }
}

/// What a look at the file found. A version, good or bad, is `Changed` once and then the `Same`; so is a file that is
/// not there.
enum Look {
    Same,
    Changed(Option<Seen>, Result<Arc<[Token]>, TokensFileError>),
}

/// Compares the file with what was seen before. The content counts, as an edit within the clock's granularity may
/// leave time and length as they were; the file is small.
fn look(path: &Path, before: Option<&Seen>) -> Look {
    match load(path) {
        Ok((_, now)) if Some(&now) == before => Look::Same,
        Ok((text, now)) => {
            let tokens = parse(path, &text);
            Look::Changed(Some(now), tokens)
        }
        Err(_) if before.is_none() => Look::Same,
        Err(error) => Look::Changed(None, Err(error)),
    }
}
