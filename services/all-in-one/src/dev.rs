//! What `dev` adds to `serve`: other defaults, and an operator token made on the first start.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use pulse_kernel::Entropy;
use pulse_runtime::{CommonSettings, SettingError};
use sha2::{Digest as _, Sha256};

/// The defaults that `dev` changes; flags and environment still override them.
pub(crate) const DEFAULTS: [(&str, &str); 3] =
    [("hosted_mode", "true"), ("signup_verification", "none"), ("log", "warn")];

/// The files in the data folder: the token itself, and what the services know of it.
const TOKEN: &str = "admin-token";
const TOKENS: &str = "admin-tokens.toml";

/// The length of a token, in random bytes; written as hexadecimal digits.
const TOKEN_BYTES: usize = 32;

/// What only this user may read or write.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;

/// The operator token of `dev`, before its files are written.
#[derive(Debug)]
pub(crate) struct OperatorToken {
    file: PathBuf,
    tokens_file: PathBuf,
}

impl OperatorToken {
    /// Points `common` at a tokens file in the data folder, where hosted mode needs one and none is set.
    pub(crate) fn choose(common: &mut CommonSettings) -> Option<Self> {
        if !common.hosted_mode || common.admin_tokens_file.is_some() {
            return None;
        }
        let tokens_file = common.data_dir.join(TOKENS);
        common.admin_tokens_file = Some(tokens_file.clone());
        Some(Self { file: common.data_dir.join(TOKEN), tokens_file })
    }

    /// Where the token is.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Makes the token and the tokens file, unless they are there.
    ///
    /// # Errors
    /// When the data folder cannot be written, or the tokens file does not know the token.
    pub(crate) fn ensure(&self, entropy: &dyn Entropy) -> Result<(), SettingError> {
        let cannot = |path: &Path, error: io::Error| {
            SettingError::new("PULSE_DATA_DIR", format_args!("cannot use {}: {error}", path.display()))
        };
        if let Some(folder) = self.file.parent() {
            let made = DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(folder);
            made.map_err(|error| cannot(folder, error))?;
        }
        let token = self.token(entropy).map_err(|error| cannot(&self.file, error))?;
        let hash = hex::encode(Sha256::digest(token.as_bytes()));
        match fs::read_to_string(&self.tokens_file) {
            Ok(known) if known.contains(&hash) => Ok(()),
            Ok(_) => Err(SettingError::new(
                "PULSE_ADMIN_TOKENS_FILE",
                format_args!(
                    "{} does not hold the token of {}; remove both to have new ones made, or set this",
                    self.tokens_file.display(),
                    self.file.display()
                ),
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let entry = format!("[[token]]\nname = \"dev\"\nsha256 = \"{hash}\"\nroles = [\"admin\"]\n");
                write_private(&self.tokens_file, &entry).map_err(|error| cannot(&self.tokens_file, error))
            }
            Err(error) => Err(cannot(&self.tokens_file, error)),
        }
    }

    /// The token in the file, which is made when it is not there and closed to others when it is not.
    fn token(&self, entropy: &dyn Entropy) -> io::Result<String> {
        match fs::read_to_string(&self.file) {
            Ok(token) if token.trim().is_empty() => Err(io::Error::other("it is empty; remove it")),
            Ok(token) => {
                fs::set_permissions(&self.file, Permissions::from_mode(PRIVATE_FILE))?;
                Ok(token.trim().to_owned())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; TOKEN_BYTES];
                entropy.fill(&mut bytes);
                let token = hex::encode(bytes);
                write_private(&self.file, &format!("{token}\n"))?;
                Ok(token)
            }
            Err(error) => Err(error),
        }
    }
}

/// Writes a file that only this user may read, whole or not at all.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let _ = fs::remove_file(&unfinished);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use pulse_kernel::OsEntropy;

    use super::*;
    use crate::cli::{Cli, Mode};

    fn common(folder: &Path, args: &[&str]) -> CommonSettings {
        let data_dir = ["pulse-hosted", "dev", "--data-dir", folder.to_str().unwrap()];
        let Mode::Dev(config) = Cli::parse_from(data_dir.iter().chain(args)).mode else { unreachable!() };
        config.common
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_token_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("new/data");
        let token = OperatorToken::choose(&mut common(&data, &["--hosted-mode", "true"])).unwrap();
        token.ensure(&OsEntropy).unwrap();
        let first = fs::read_to_string(token.file()).unwrap();
        assert_eq!(first.trim().len(), 64, "{first}");
        assert_eq!((mode(token.file()), mode(&data.join(TOKENS)), mode(&data)), (0o600, 0o600, 0o700));
        let tokens = fs::read_to_string(data.join(TOKENS)).unwrap();
        assert!(
            tokens.contains(&hex::encode(Sha256::digest(first.trim()))) && !tokens.contains(first.trim())
        );

        fs::set_permissions(token.file(), Permissions::from_mode(0o644)).unwrap();
        token.ensure(&OsEntropy).unwrap();
        assert_eq!(fs::read_to_string(token.file()).unwrap(), first);
        assert_eq!(mode(token.file()), 0o600, "closed again");
        assert_eq!(fs::read_to_string(data.join(TOKENS)).unwrap(), tokens);
    }

    #[test]
    fn a_tokens_file_that_does_not_know_the_token_is_told_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let token = OperatorToken::choose(&mut common(folder.path(), &["--hosted-mode", "true"])).unwrap();
        fs::write(folder.path().join(TOKENS), "# someone else's\n").unwrap();
        let line = token.ensure(&OsEntropy).unwrap_err().to_string();
        assert!(line.starts_with("PULSE_ADMIN_TOKENS_FILE (--admin-tokens-file): "), "{line}");
        assert_eq!(fs::read_to_string(folder.path().join(TOKENS)).unwrap(), "# someone else's\n");
    }

    #[test]
    fn a_data_folder_that_cannot_be_used_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let token = OperatorToken::choose(&mut common(&file, &["--hosted-mode", "true"])).unwrap();
        let line = token.ensure(&OsEntropy).unwrap_err().to_string();
        assert!(line.starts_with("PULSE_DATA_DIR (--data-dir): cannot use "), "{line}");
    }

    #[test]
    fn no_token_is_made_where_none_is_needed_or_one_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let mut off = common(folder.path(), &["--hosted-mode", "false"]);
        assert!(OperatorToken::choose(&mut off).is_none() && off.admin_tokens_file.is_none());
        let mut set = common(folder.path(), &["--hosted-mode", "true", "--admin-tokens-file", "mine.toml"]);
        assert!(OperatorToken::choose(&mut set).is_none());
        assert_eq!(set.admin_tokens_file.as_deref(), Some(Path::new("mine.toml")));
    }
}
