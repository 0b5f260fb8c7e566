//! From the command line and the environment to a value, or to one line that says why not.

use std::{
    any::TypeId,
    error::Error as _,
    ffi::OsString,
    io::Write as _,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
};

use clap::{
    Arg, Command, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{SettingError, error};

/// Reads the settings of this process. When they are not accepted it says so on stderr, in one line, and exits
/// with 2; when `--help` or `--version` is asked for it prints that and exits with 0.
pub fn parse<C: Parser>() -> C {
    or_exit(try_parse_from(std::env::args_os()))
}

/// As [`parse`], from the given arguments (the first is the program's name) and this process's environment.
///
/// # Errors
/// The setting that is not accepted, or the text of `--help`.
pub fn try_parse_from<C: Parser>(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<C, SettingError> {
    try_parse_command(C::command(), args)
}

/// As [`try_parse_from`], with other defaults: pairs of a field's name in `C` and its default.
///
/// # Errors
/// As [`try_parse_from`].
pub fn try_parse_with_defaults<C: Parser>(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    defaults: &[(&'static str, &'static str)],
) -> Result<C, SettingError> {
    try_parse_command(with_defaults(C::command(), defaults), args)
}

/// `command` with other defaults: pairs of a field's name and its default. Flags and environment still override them.
#[must_use]
pub fn with_defaults(command: Command, defaults: &[(&'static str, &'static str)]) -> Command {
    defaults
        .iter()
        .fold(command, |command, (field, value)| command.mut_arg(field, |arg| arg.default_value(*value)))
}

/// As [`try_parse_from`], with a command derived from `C` and then adapted.
///
/// # Errors
/// As [`try_parse_from`].
pub fn try_parse_command<C: Parser>(
    mut command: Command,
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<C, SettingError> {
    let parsed = command.try_get_matches_from_mut(args).and_then(|matches| C::from_arg_matches(&matches));
    parsed.map_err(|error| explain(&command, &error))
}

/// The value; or, as [`parse`], one line and the end of the process.
pub fn or_exit<T>(result: Result<T, SettingError>) -> T {
    let error = match result {
        Ok(value) => return value,
        Err(error) => error,
    };
    // Nobody is left to tell when these streams are closed.
    let _ = match error.as_information() {
        Some(text) => write!(std::io::stdout(), "{text}"),
        None => writeln!(std::io::stderr(), "{error}"),
    };
    std::process::exit(i32::from(error.exit_code()))
}

/// The line for what clap refuses.
fn explain(command: &Command, error: &clap::Error) -> SettingError {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return SettingError::information(error.render().to_string());
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            let names: Vec<_> =
                command.get_subcommands().map(Command::get_name).filter(|name| *name != "help").collect();
            return SettingError::line(format!("say what to do: {}; see --help", names.join(" or ")));
        }
        ErrorKind::UnknownArgument => {
            let flag = context(error, ContextKind::InvalidArg).unwrap_or_default();
            return SettingError::line(format!("{} is not a setting; see --help", error::quoted(flag)));
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let shown = context(error, ContextKind::InvalidArg).unwrap_or_default();
            if let Some(arg) = find(command, &shown) {
                return SettingError::line(refusal(arg, error));
            }
        }
        ErrorKind::MissingRequiredArgument => {
            let shown = context(error, ContextKind::InvalidArg).unwrap_or_default();
            let first = shown.split(", ").next().unwrap_or_default();
            if let Some(arg) = find(command, first) {
                return SettingError::line(format!("{}: must be set: {}", display_name(arg), help(arg)));
            }
        }
        _ => {}
    }
    let rendered = error.render().to_string();
    let line = rendered.lines().next().unwrap_or_default();
    SettingError::line(format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(line)))
}

fn refusal(arg: &Arg, error: &clap::Error) -> String {
    let name = display_name(arg);
    if arg.is_hide_env_values_set() {
        return format!("{name}: the value (not shown) is not accepted; expected {}", expected(arg));
    }
    let value = error::quoted(context(error, ContextKind::InvalidValue).unwrap_or_default());
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    let expected = match cause.strip_prefix("expected ") {
        // A parser of this project's own: it says it all.
        Some(expected) => expected.to_owned(),
        None if cause.is_empty() => expected(arg),
        None => format!("{} ({cause})", expected(arg)),
    };
    format!("{name}: {value} is not accepted; expected {expected}")
}

/// What an argument accepts, told from its possible values or from its type.
fn expected(arg: &Arg) -> String {
    let values: Vec<_> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if let [most @ .., last] = values.as_slice() {
        return if most.is_empty() { last.clone() } else { format!("{} or {last}", most.join(", ")) };
    }
    let parser = arg.get_value_parser().type_id();
    let is = |types: &[TypeId]| types.iter().any(|id| parser == *id);
    let whole = [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>()];
    let positive = [TypeId::of::<NonZeroU32>(), TypeId::of::<NonZeroU64>(), TypeId::of::<NonZeroUsize>()];
    if is(&whole) {
        "a whole number".into()
    } else if is(&positive) {
        "a whole number above zero".into()
    } else if is(&[TypeId::of::<SocketAddr>()]) {
        "an address and port such as 127.0.0.1:8080".into()
    } else if is(&[TypeId::of::<PathBuf>()]) {
        "a path".into()
    } else {
        "what --help says".into()
    }
}

/// `PULSE_DATA_DIR (--data-dir)`, from what the argument itself declares.
fn display_name(arg: &Arg) -> String {
    let flag = arg.get_long().map(|long| format!("--{long}"));
    match (arg.get_env().map(|env| env.to_string_lossy()), flag) {
        (Some(env), Some(flag)) => format!("{env} ({flag})"),
        (Some(env), None) => env.into_owned(),
        (None, Some(flag)) => flag,
        (None, None) => arg.get_id().to_string(),
    }
}

fn help(arg: &Arg) -> String {
    arg.get_help().map_or_else(|| "see --help".into(), ToString::to_string)
}

/// The argument that clap names as `--flag <VALUE>`, in the command or one below it.
fn find<'a>(command: &'a Command, shown: &str) -> Option<&'a Arg> {
    let flag = shown.split_whitespace().next()?;
    let matches = |arg: &&Arg| arg.get_long().is_some_and(|long| flag.strip_prefix("--") == Some(long));
    command
        .get_arguments()
        .find(matches)
        .or_else(|| command.get_subcommands().find_map(|below| find(below, shown)))
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        other => Some(other.to_string()),
    }
}
