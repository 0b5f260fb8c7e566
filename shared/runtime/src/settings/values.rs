//! Parsers for the kinds of value that settings share. Each says what it expects, never what it was given.

use std::time::Duration;

use http::Uri;
use secrecy::SecretString;
use tracing_subscriber::EnvFilter;

/// Exactly `true` or `false`.
///
/// # Errors
/// On anything else: `yes`, `1`, `TRUE` and the empty text may each mean something to someone.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

/// A length of time with its unit, such as `60s`, `5m` or `1h 30m`; `0s` is one.
///
/// # Errors
/// When it has no unit or is not a length of time.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a duration such as 60s, 5m or 1h".into())
}

/// As [`duration`], but longer than zero.
///
/// # Errors
/// As [`duration`], and on zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(parsed) if !parsed.is_zero() => Ok(parsed),
        _ => Err("expected a duration longer than zero, such as 60s, 5m or 1h".into()),
    }
}

/// The fewest characters of a password: 8 to 128. NIST SP 800-63B-4 section 3.1.1.2 and OWASP ASVS 5 section 6.2.1 know
/// no minimum below 8.
///
/// # Errors
/// When it is not such a number.
pub fn password_min_length(text: &str) -> Result<usize, String> {
    let length = text.parse().ok().filter(|length| (8..=128).contains(length));
    length.ok_or_else(|| "expected a whole number from 8 to 128".into())
}

/// The address of a gRPC service: `http://host:port`, without a path.
///
/// # Errors
/// On any other scheme, without a host, or with a path.
pub fn http_url(text: &str) -> Result<Uri, String> {
    let url = text.parse::<Uri>().ok().filter(|url| {
        url.scheme_str() == Some("http")
            && url.host().is_some_and(|host| !host.is_empty())
            && url.path() == "/"
            && url.query().is_none()
    });
    url.ok_or_else(|| "expected a URL such as http://127.0.0.1:50051".into())
}

/// The URL of a PostgreSQL database. What is wrong with one is never told by showing it: it holds a password.
///
/// # Errors
/// On any other scheme.
pub fn postgres_url(text: &str) -> Result<SecretString, String> {
    let known = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
    if known { Ok(text.into()) } else { Err("expected a URL such as postgres://user@host/database".into()) }
}

/// A filter for logs, as `tracing_subscriber::EnvFilter` reads it: `info`, or `info,pulse_lifecycle=debug`.
///
/// # Errors
/// When the filter cannot be read.
pub fn log_filter(text: &str) -> Result<String, String> {
    let expected = || "expected a filter such as info or info,pulse_lifecycle=debug".into();
    if text.trim().is_empty() {
        return Err(expected());
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|_| expected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boolean_is_spelled_out() {
        assert_eq!((boolean("true"), boolean("false")), (Ok(true), Ok(false)));
        for text in ["", "yes", "no", "1", "0", "on", "TRUE", "True", " true", "true ", "t"] {
            assert_eq!(boolean(text).unwrap_err(), "expected true or false", "{text:?}");
        }
    }

    #[test]
    fn a_duration_has_a_unit() {
        assert_eq!(duration("60s").unwrap(), Duration::from_mins(1));
        assert_eq!(duration("1h 30m").unwrap(), Duration::from_mins(90));
        assert_eq!(duration("0s").unwrap(), Duration::ZERO);
        assert_eq!(positive_duration("5m").unwrap(), Duration::from_mins(5));
        for text in ["", "60", "-1s", "1 parsec", "s", "99999999999999999999y"] {
            assert!(duration(text).is_err() && positive_duration(text).is_err(), "{text:?}");
        }
        assert!(positive_duration("0s").unwrap_err().contains("longer than zero"));
    }

    #[test]
    fn a_password_is_never_shorter_than_eight() {
        assert_eq!((password_min_length("8"), password_min_length("128")), (Ok(8), Ok(128)));
        for text in ["", "7", "129", "-8", "8.0", "many"] {
            assert!(password_min_length(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_url_is_plain_http_without_a_path() {
        for text in ["http://127.0.0.1:50051", "http://lifecycle", "http://[::1]:50051/"] {
            assert!(http_url(text).is_ok(), "{text}");
        }
        for text in
            ["", "127.0.0.1:50051", "https://x:1", "http://", "http://x/path", "http://x?q=1", "ftp://x"]
        {
            assert!(http_url(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_log_filter_is_read_at_the_start() {
        assert!(log_filter("info").is_ok() && log_filter("info,pulse_lifecycle=debug,h2=off").is_ok());
        for text in ["", " ", "pulse=loud", "[{"] {
            assert!(log_filter(text).is_err(), "{text:?}");
        }
    }
}
