//! Starts that are refused: exit code 2, and one line that names the setting.

use pulse_testkit::system::program::Program;

/// What a hosted start needs.
const HOSTED: [(&str, &str); 3] = [
    ("PULSE_HOSTED_MODE", "true"),
    ("PULSE_SIGNUP_VERIFICATION", "none"),
    ("PULSE_ADMIN_TOKENS_FILE", "tokens.toml"),
];

const TOKENS: &str = r#"
[[token]]
name = "ann"
sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
roles = ["admin"]
"#;

/// Starts the program with these settings and checks that it refuses, naming `setting`; returns what it said.
async fn refusal(program: &str, args: &[&str], settings: &[(&str, &str)], setting: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokens.toml"), TOKENS).unwrap();
    let mut program = Program::new(program, args, folder.path());
    for (name, value) in settings {
        program.set(name, value);
    }
    let (code, said) = program.run_to_end().await;
    assert_eq!(code, Some(2), "{settings:?}: {said}");
    assert_eq!(said.lines().count(), 1, "one line: {said}");
    assert!(said.contains(setting), "{setting} is not named: {said}");
    said
}

/// The programs that serve, with their arguments.
const PROGRAMS: [(&str, &[&str]); 6] = [
    ("pulse-hosted", &["serve"]),
    ("pulse-edge", &[]),
    ("pulse-signup-gateway", &[]),
    ("pulse-provisioner", &[]),
    ("pulse-billing-state", &[]),
    ("pulse-lifecycle", &[]),
];

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    HOSTED.into_iter().filter(|(setting, _)| *setting != name).collect()
}

fn with<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    HOSTED.into_iter().filter(|(setting, _)| *setting != name).chain([(name, value)]).collect()
}

#[tokio::test]
async fn hosted_mode_needs_tokens_and_a_decision_on_verification() {
    for (program, args) in PROGRAMS {
        // The gateway and the edge's public door take no tokens of their own, but the edge's admin door does.
        if program != "pulse-signup-gateway" {
            let said =
                refusal(program, args, &without("PULSE_ADMIN_TOKENS_FILE"), "PULSE_ADMIN_TOKENS_FILE").await;
            assert!(said.contains("must be set"), "{said}");
            let missing = with("PULSE_ADMIN_TOKENS_FILE", "no-such-file.toml");
            refusal(program, args, &missing, "PULSE_ADMIN_TOKENS_FILE").await;
        }
    }
    for (program, args) in [PROGRAMS[0], PROGRAMS[2]] {
        let unset = without("PULSE_SIGNUP_VERIFICATION");
        let said = refusal(program, args, &unset, "PULSE_SIGNUP_VERIFICATION").await;
        assert!(said.contains("none"), "says what to set: {said}");
    }
}

#[tokio::test]
async fn nothing_listens_beyond_loopback_in_plaintext_unasked() {
    for (program, args, addr) in [
        ("pulse-hosted", &["serve"][..], "PULSE_EDGE_PUBLIC_ADDR"),
        ("pulse-edge", &[], "PULSE_EDGE_ADMIN_ADDR"),
        ("pulse-edge", &[], "PULSE_EDGE_INTERNAL_ADDR"),
        ("pulse-signup-gateway", &[], "PULSE_SIGNUP_GATEWAY_ADDR"),
        ("pulse-provisioner", &[], "PULSE_PROVISIONER_ADDR"),
        ("pulse-billing-state", &[], "PULSE_BILLING_STATE_ADDR"),
        ("pulse-lifecycle", &[], "PULSE_METRICS_ADDR"),
    ] {
        let said = refusal(program, args, &with(addr, "0.0.0.0:0"), "PULSE_INSECURE_PLAINTEXT").await;
        assert!(said.contains(addr), "{said}");
    }
}

#[tokio::test]
async fn malformed_values_are_named_with_what_is_accepted() {
    for (program, args) in PROGRAMS {
        for value in ["yes", "1", "TRUE", "on", " true"] {
            let said = refusal(program, args, &with("PULSE_HOSTED_MODE", value), "PULSE_HOSTED_MODE").await;
            assert!(said.contains("true") && said.contains("false"), "{said}");
        }
        refusal(program, args, &with("PULSE_METRICS_ADDR", "nine"), "PULSE_METRICS_ADDR").await;
        refusal(program, args, &with("PULSE_LOG_FORMAT", "xml"), "PULSE_LOG_FORMAT").await;
    }
    for (name, value) in [
        ("PULSE_EDGE_PUBLIC_ADDR", "localhost"),
        ("PULSE_EDGE_ADMIN_ADDR", "127.0.0.1:99999"),
        ("PULSE_EDGE_INTERNAL_ADDR", "internal"),
        ("PULSE_LIFECYCLE_URL", "ftp://127.0.0.1"),
        ("PULSE_TRUSTED_PROXIES", "10.0.0.0/99"),
        ("PULSE_SIGNUP_LIMIT_PER_HOUR", "many"),
        ("PULSE_SIGNUP_LIMIT_PER_HOUR", "0"),
        ("PULSE_REQUEST_LIMIT_PER_MINUTE", "-1"),
        ("PULSE_SIGNUP_VERIFICATION", "maybe"),
        ("PULSE_TRIAL_DAYS", "0"),
        ("PULSE_TRIAL_DAYS", "a fortnight"),
        ("PULSE_ENTITLEMENT_REFRESH", "60"),
        ("PULSE_ENTITLEMENT_MAX_STALE", "soon"),
        ("PULSE_RETENTION_DAYS", "0"),
        ("PULSE_REAPER_INTERVAL", "0s"),
        ("PULSE_REAPER_DRY_RUN", "yes"),
        ("PULSE_PLAN_CATALOG", "no-such-file.toml"),
        ("PULSE_LOG", "a=b=c"),
    ] {
        refusal("pulse-hosted", &["serve"], &with(name, value), name).await;
    }
}

#[tokio::test]
async fn a_database_url_that_is_none_is_named_and_never_shown() {
    for (program, args) in PROGRAMS {
        for url in ["mysql://pulse:hunter2@db/pulse", "pulse:hunter2@db"] {
            let said = refusal(program, args, &with("PULSE_DATABASE_URL", url), "PULSE_DATABASE_URL").await;
            assert!(said.contains("not shown") && !said.contains("hunter2"), "{said}");
        }
    }
}

#[tokio::test]
async fn what_is_not_built_is_refused_rather_than_ignored() {
    refusal("pulse-hosted", &["serve"], &with("PULSE_TLS_CERT", "cert.pem"), "PULSE_TLS_CERT").await;
    refusal(
        "pulse-hosted",
        &["serve"],
        &with("PULSE_SIGNUP_VERIFICATION", "email"),
        "PULSE_SIGNUP_VERIFICATION",
    )
    .await;
}

#[tokio::test]
async fn dev_relaxes_defaults_and_nothing_else() {
    refusal("pulse-hosted", &["dev"], &[("PULSE_HOSTED_MODE", "maybe")], "PULSE_HOSTED_MODE").await;
    refusal("pulse-hosted", &["dev"], &[("PULSE_TRIAL_DAYS", "-3")], "PULSE_TRIAL_DAYS").await;
    let public = [("PULSE_EDGE_PUBLIC_ADDR", "0.0.0.0:0")];
    refusal("pulse-hosted", &["dev"], &public, "PULSE_INSECURE_PLAINTEXT").await;
    refusal("pulse-hosted", &["dev", "--no-such-flag"], &[], "--no-such-flag").await;
}
