//! [`SettingError`]: why a start is refused, in one line.

use std::fmt;

/// The exit code of a start that its settings stop.
pub(super) const EXIT_CODE: u8 = 2;

/// A setting that stops the start. It prints as one line that says what to change, and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingError(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Not an error: `--help` or `--version` was asked for.
    Information(String),
    Refused(String),
}

impl SettingError {
    /// What is wrong with the setting of environment name `env`, such as `PULSE_DATA_DIR`, and what to do about it.
    pub fn new(env: &str, problem: impl fmt::Display) -> Self {
        Self::line(format!("{}: {problem}", name(env)))
    }

    /// The setting's value is not one of those accepted; `expected` completes the sentence "expected …".
    /// Not for secrets: the value is shown.
    pub fn not_accepted(env: &str, value: impl fmt::Display, expected: impl fmt::Display) -> Self {
        Self::new(env, format_args!("{} is not accepted; expected {expected}", quoted(value)))
    }

    /// The setting must be set; `why` says what needs it and what to set it to.
    pub fn missing(env: &str, why: impl fmt::Display) -> Self {
        Self::new(env, format_args!("must be set: {why}"))
    }

    pub(super) fn line(text: impl Into<String>) -> Self {
        Self(Kind::Refused(text.into().replace(['\n', '\r'], " ")))
    }

    pub(super) fn information(text: impl Into<String>) -> Self {
        Self(Kind::Information(text.into()))
    }

    /// The text of `--help` or `--version`, when that is what was asked for.
    pub fn as_information(&self) -> Option<&str> {
        match &self.0 {
            Kind::Information(text) => Some(text),
            Kind::Refused(_) => None,
        }
    }

    /// What the process exits with: 0 for `--help` and `--version`, else 2.
    pub fn exit_code(&self) -> u8 {
        match self.0 {
            Kind::Information(_) => 0,
            Kind::Refused(_) => EXIT_CODE,
        }
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Information(text) | Kind::Refused(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for SettingError {}

/// `PULSE_DATA_DIR (--data-dir)`; what is not this project's own has no flag.
fn name(env: &str) -> String {
    env.strip_prefix("PULSE_").map_or_else(
        || env.to_owned(),
        |name| format!("{env} (--{})", name.to_ascii_lowercase().replace('_', "-")),
    )
}

/// The value in quotes, with anything escaped that would break the line.
pub(super) fn quoted(value: impl fmt::Display) -> String {
    format!("{:?}", value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_one_line_that_names_the_environment_and_the_flag() {
        let lines = [
            SettingError::new("PULSE_DATA_DIR", "cannot be read\nat all"),
            SettingError::not_accepted("PULSE_DATA_DIR", "a\nb", "a folder"),
            SettingError::missing("PULSE_DATA_DIR", "set it to a folder"),
        ];
        assert_eq!(
            lines.map(|line| line.to_string()),
            [
                "PULSE_DATA_DIR (--data-dir): cannot be read at all",
                r#"PULSE_DATA_DIR (--data-dir): "a\nb" is not accepted; expected a folder"#,
                "PULSE_DATA_DIR (--data-dir): must be set: set it to a folder",
            ]
        );
    }
}
