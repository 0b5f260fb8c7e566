//! What each setting accepts, and what a refused one says.

use std::{net::SocketAddr, path::Path, time::Duration};

use clap::{CommandFactory as _, Parser};
use secrecy::{ExposeSecret as _, SecretString};

use super::*;

#[derive(Debug, Parser)]
#[command(version)]
struct Config {
    #[command(flatten)]
    common: CommonSettings,
    #[command(flatten)]
    endpoints: Endpoints,
    /// Not one of the shared settings, to see how a number and a secret are told.
    #[arg(long, env = "PULSE_TEST_DAYS", default_value = "14", value_parser = clap::value_parser!(u32).range(1..=366))]
    test_days: u32,
    #[arg(long, env = "PULSE_TEST_KEY", hide_env_values = true, value_parser = key)]
    test_key: Option<SecretString>,
}

fn key(text: &str) -> Result<SecretString, String> {
    if text.len() == 4 { Ok(text.into()) } else { Err(format!("expected four letters, not {text}")) }
}

fn parsed(args: &[&str]) -> Result<Config, SettingError> {
    try_parse_from(["test"].iter().chain(args))
}

fn refused(args: &[&str]) -> String {
    let error = parsed(args).unwrap_err();
    assert_eq!((error.exit_code(), error.as_information()), (2, None), "{error}");
    error.to_string()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let Config { common, endpoints, .. } = parsed(&[]).unwrap();
    assert!(!common.hosted_mode && !common.insecure_plaintext);
    assert_eq!(common.data_dir, Path::new("./data"));
    assert_eq!(common.metrics_addr, "127.0.0.1:9091".parse::<SocketAddr>().unwrap());
    assert_eq!((common.log.as_str(), common.log_format), ("info", None));
    assert_eq!(common.shutdown_grace, Duration::from_secs(20));
    assert_eq!((common.request_timeout, common.max_in_flight.get()), (Duration::from_secs(10), 1024));
    let database = &common.database;
    assert!(database.database_url.is_none() && database.database_migrate);
    assert_eq!(database.database_max_connections.get(), 10);
    assert_eq!(database.database_acquire_timeout, Duration::from_secs(2));
    let urls = Service::ALL.map(|service| endpoints.url(service).to_string());
    assert_eq!(
        urls,
        [50051, 50052, 50053, 50054].map(|port| format!("http://127.0.0.1:{port}/")),
        "in the order of the contract"
    );
}

#[test]
fn every_setting_is_a_flag_and_an_environment_variable_of_the_same_name() {
    for arg in Config::command().get_arguments() {
        let env = arg.get_env().unwrap_or_else(|| panic!("{} has no environment", arg.get_id()));
        let flag = env.to_str().unwrap().strip_prefix("PULSE_").unwrap().to_lowercase().replace('_', "-");
        assert_eq!(arg.get_long(), Some(flag.as_str()));
        assert!(arg.get_help().is_some() || arg.get_id() == "test_key", "{flag} is not explained");
    }
}

#[test]
fn a_refused_value_is_told_with_its_names_and_what_is_accepted() {
    for (flag, value, expected) in [
        ("--hosted-mode", "yes", "true or false"),
        ("--hosted-mode", "", "true or false"),
        ("--insecure-plaintext", "TRUE", "true or false"),
        ("--shutdown-grace", "20", "a duration longer than zero, such as 60s, 5m or 1h"),
        ("--request-timeout", "0s", "a duration longer than zero, such as 60s, 5m or 1h"),
        ("--log-format", "xml", "json or pretty"),
        ("--log", "pulse=loud", "a filter such as info or info,pulse_lifecycle=debug"),
        (
            "--metrics-addr",
            "9091",
            "an address and port such as 127.0.0.1:8080 (invalid socket address syntax)",
        ),
        (
            "--lifecycle-addr",
            "here\n",
            "an address and port such as 127.0.0.1:8080 (invalid socket address syntax)",
        ),
        ("--lifecycle-url", "https://lifecycle", "a URL such as http://127.0.0.1:50051"),
        ("--max-in-flight", "0", "a whole number above zero (number would be zero for non-zero type)"),
        ("--test-days", "many", "a whole number (invalid digit found in string)"),
        ("--test-days", "400", "a whole number (400 is not in 1..=366)"),
        ("--data-dir", "", "a path"),
    ] {
        let env = format!("PULSE_{}", flag.trim_start_matches('-').to_uppercase().replace('-', "_"));
        let line = format!("{env} ({flag}): {value:?} is not accepted; expected {expected}");
        assert_eq!(refused(&[flag, value]), line);
    }
}

#[test]
fn a_secret_is_not_shown() {
    assert_eq!(parsed(&["--test-key", "abcd"]).unwrap().test_key.unwrap().expose_secret(), "abcd");
    let line = refused(&["--test-key", "canary"]);
    assert_eq!(
        line,
        "PULSE_TEST_KEY (--test-key): the value (not shown) is not accepted; expected what --help says"
    );
    let config = parsed(&["--database-url", "postgres://user:canary@db/pulse"]).unwrap();
    assert!(!format!("{config:?}").contains("canary"));
    assert_eq!(config.common.check_strict(&[]), Ok(()));
    let line = refused(&["--database-url", "mysql://user:canary@db/pulse"]);
    assert!(line.starts_with("PULSE_DATABASE_URL (--database-url): the value (not shown)"), "{line}");
    assert!(!line.contains("canary"), "{line}");
}

#[test]
fn what_is_not_a_setting_is_told_in_one_line() {
    assert_eq!(refused(&["--hosted-mod", "true"]), r#""--hosted-mod" is not a setting; see --help"#);
    for args in [&["serve"][..], &["--hosted-mode"], &["--test-days", "1", "--test-days", "2"]] {
        let line = refused(args);
        assert!(!line.contains('\n') && !line.starts_with("error"), "{line}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    let help = parsed(&["--help"]).unwrap_err();
    assert_eq!(help.exit_code(), 0);
    let text = help.as_information().unwrap();
    assert!(text.contains("--hosted-mode") && text.contains("PULSE_HOSTED_MODE"), "{text}");
    assert_eq!(parsed(&["--version"]).unwrap_err().exit_code(), 0);
}

#[test]
fn other_defaults_are_still_overridden() {
    let defaults = [("hosted_mode", "true"), ("test_days", "30"), ("admin_tokens_file", "tokens.toml")];
    let config: Config = try_parse_with_defaults(["test"], &defaults).unwrap();
    assert!(config.common.hosted_mode && config.test_days == 30);
    assert_eq!(config.common.admin_tokens_file().unwrap(), Some(Path::new("tokens.toml")));
    let config: Config = try_parse_with_defaults(["test", "--hosted-mode", "false"], &defaults).unwrap();
    assert!(!config.common.hosted_mode);
    assert_eq!(config.common.admin_tokens_file().unwrap(), None, "no surface takes a token");
}

#[test]
fn urls_follow_the_addresses_unless_they_are_set() {
    let mut endpoints = parsed(&[
        "--lifecycle-addr",
        "0.0.0.0:7000",
        "--provisioner-addr",
        "[::]:7001",
        "--billing-state-url",
        "http://billing.svc:80",
    ])
    .unwrap()
    .endpoints;
    assert_eq!(endpoints.url(Service::Lifecycle), "http://127.0.0.1:7000");
    assert_eq!(endpoints.url(Service::Provisioner), "http://[::1]:7001");
    assert_eq!(endpoints.url(Service::BillingState), "http://billing.svc:80");
    let bound = "127.0.0.1:7777".parse().unwrap();
    endpoints.set_addr(Service::Lifecycle, bound);
    endpoints.set_addr(Service::BillingState, bound);
    assert_eq!(endpoints.url(Service::Lifecycle), "http://127.0.0.1:7777");
    assert_eq!(endpoints.url(Service::BillingState), "http://billing.svc:80");
    assert_eq!(endpoints.listener(Service::Lifecycle), ("PULSE_LIFECYCLE_ADDR", bound));
}

#[test]
fn a_start_is_strict() {
    let loopback = ("PULSE_LIFECYCLE_ADDR", "127.0.0.1:50054".parse().unwrap());
    let exposed = ("PULSE_EDGE_PUBLIC_ADDR", "0.0.0.0:8080".parse().unwrap());
    let check = |args: &[&str], listeners: &[(&str, SocketAddr)]| {
        parsed(args).unwrap().common.check_strict(listeners).map_err(|error| error.to_string())
    };
    let tokens = ["--hosted-mode", "true", "--admin-tokens-file", "tokens.toml"];
    assert_eq!(check(&[], &[loopback]), Ok(()));
    assert_eq!(check(&tokens, &[loopback, ("PULSE_X", "[::1]:1".parse().unwrap())]), Ok(()));
    assert_eq!(check(&["--insecure-plaintext", "true"], &[loopback, exposed]), Ok(()));

    let says = |outcome: Result<(), String>, start: &str, part: &str| {
        let line = outcome.unwrap_err();
        assert!(line.starts_with(start) && line.contains(part) && !line.contains('\n'), "{line}");
    };
    says(
        check(&["--hosted-mode", "true"], &[]),
        "PULSE_ADMIN_TOKENS_FILE (--admin-tokens-file): must be set",
        "",
    );
    for hosted in [&[][..], &tokens] {
        says(
            check(hosted, &[loopback, exposed]),
            "PULSE_INSECURE_PLAINTEXT (--insecure-plaintext): ",
            "PULSE_EDGE_PUBLIC_ADDR=0.0.0.0:8080",
        );
    }
    says(
        check(&["--metrics-addr", "[::]:9091"], &[]),
        "PULSE_INSECURE_PLAINTEXT",
        "PULSE_METRICS_ADDR=[::]:9091",
    );
    for flag in ["--tls-cert", "--tls-key", "--tls-client-ca"] {
        says(check(&[flag, "x.pem"], &[]), "PULSE_TLS_", "does not serve TLS itself");
    }
}

#[tokio::test]
async fn an_address_in_use_is_told_with_its_setting() {
    let taken = bind("PULSE_LIFECYCLE_ADDR", "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = taken.local_addr().unwrap();
    let error = bind("PULSE_LIFECYCLE_ADDR", addr).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "PULSE_LIFECYCLE_ADDR (--lifecycle-addr): cannot listen on {addr}: the address is in use; stop what \
             uses it, or set another"
        )
    );
}
