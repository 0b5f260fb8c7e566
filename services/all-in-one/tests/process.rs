//! The program itself: what `dev` makes and prints, that what it prints works, and what stops a start.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    sync::mpsc,
};

use pulse_testkit::{Database, Postgres};

use self::support::{ADDRS, Dev, LIMIT, pulse_hosted};

/// The exit code and the standard error of a start that ends by itself.
fn refused(mode: &str, env: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let Output { status, stdout, stderr } = pulse_hosted(mode, folder.path(), env).output().unwrap();
    assert_eq!(String::from_utf8(stdout).unwrap(), "", "nothing is printed");
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn dev_makes_a_token_once_and_prints_commands_that_work() {
    let dev = Dev::start(&[]);
    assert!(dev.banner.lines().count() <= 24, "more than a screen:\n{}", dev.banner);
    assert!(dev.line("operator token").ends_with(" data/admin-token"), "{}", dev.banner);
    assert!(dev.line("grpcurl").contains(r#"-H "authorization: Bearer $(cat data/admin-token)""#));

    let data = dev.folder.path().join("data");
    assert_eq!((mode(&data.join("admin-token")), mode(&data.join("admin-tokens.toml"))), (0o600, 0o600));
    let token = fs::read_to_string(data.join("admin-token")).unwrap();
    assert!(!dev.banner.contains(token.trim()), "the token is not printed");

    for status in ["created", "existing"] {
        let Output { stdout, stderr, .. } = dev.run_printed("curl");
        let answer: serde_json::Value = serde_json::from_slice(&stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr)));
        assert_eq!(answer["status"], status, "{answer}");
    }

    let (code, folder) = dev.stop();
    assert_eq!(code, Some(0));
    let again = Dev::start_in(folder, &[]);
    assert_eq!(fs::read_to_string(again.folder.path().join("data/admin-token")).unwrap(), token);
}

#[test]
fn dev_without_hosted_mode_makes_no_token_and_prints_what_is_there() {
    let dev = Dev::start(&[("PULSE_HOSTED_MODE", "false")]);
    assert!(!dev.banner.contains("token") && !dev.banner.contains("admin"), "{}", dev.banner);
    assert!(!dev.folder.path().join("data/admin-token").exists());
    assert!(dev.run_printed("curl").status.success());
}

#[test]
fn dev_takes_every_setting() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("mine.toml");
    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    fs::write(&tokens, format!("[[token]]\nname = \"ann\"\nsha256 = \"{hash}\"\nroles = [\"admin\"]\n"))
        .unwrap();
    let dev = Dev::start_in(
        folder,
        &[("PULSE_ADMIN_TOKENS_FILE", "mine.toml"), ("PULSE_DATA_DIR", "elsewhere"), ("PULSE_LOG", "info")],
    );
    assert!(dev.line("operator tokens").ends_with("mine.toml"), "{}", dev.banner);
    assert!(dev.folder.path().join("elsewhere/lifecycle.db").exists());
    assert!(
        !dev.folder.path().join("elsewhere/admin-token").exists() && !dev.folder.path().join("data").exists()
    );
}

/// A database of the tests' server, with a password in its URL, which that server does not ask for.
async fn database() -> (Database, String) {
    let database = Postgres::shared().await.database().await;
    let url = database.url().replace("postgres@", "postgres:canary@");
    (database, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_over_postgres_says_so_and_keeps_its_data_there() {
    let (database, url) = database().await;
    let dev = Dev::start(&[("PULSE_DATABASE_URL", &url)]);
    assert!(dev.banner.contains("PostgreSQL") && !dev.banner.contains("embedded"), "{}", dev.banner);
    assert!(!dev.banner.contains("canary"), "{}", dev.banner);
    let answer: serde_json::Value = serde_json::from_slice(&dev.run_printed("curl").stdout).unwrap();
    assert_eq!(answer["status"], "created", "{answer}");
    let mut files: Vec<_> = fs::read_dir(dev.folder.path().join("data"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["admin-token", "admin-tokens.toml"]);
    let kept = "SELECT count(*) FROM pulse_lifecycle.organizations WHERE id = $1";
    let kept: i64 = sqlx::query_scalar(kept)
        .bind(answer["org_id"].as_str())
        .fetch_one(&mut database.connect().await)
        .await
        .unwrap();
    assert_eq!(kept, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_brings_every_schema_up_to_date_and_may_be_repeated() {
    let (_database, url) = database().await;
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let migrate = pulse_hosted("migrate --database-url", folder.path(), &[]).arg(&url).output().unwrap();
        let said = String::from_utf8(migrate.stdout).unwrap();
        assert!(migrate.status.success(), "{}", String::from_utf8_lossy(&migrate.stderr));
        let schemas: Vec<_> =
            said.lines().map(|line| line.split_once(" is at version ").unwrap().0).collect();
        let all = ["pulse_lifecycle", "pulse_provisioner", "pulse_billing_state", "pulse_signup_gateway"];
        assert_eq!(schemas, all);
    }
    // Whoever has migrated may forbid a start to do it.
    let env = [("PULSE_DATABASE_URL", &*url), ("PULSE_DATABASE_MIGRATE", "false")];
    assert_eq!(Dev::start(&env).stop().0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_may_not_migrate_says_what_to_run() {
    let (_database, url) = database().await;
    let env = [("PULSE_DATABASE_URL", &*url), ("PULSE_DATABASE_MIGRATE", "false")];
    let (code, said) = refused("dev", &env);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("deploy/postgres/roles.sql") && !said.contains("canary"), "{said}");
}

#[test]
fn a_strict_start_says_what_to_set() {
    let hosted = ("PULSE_HOSTED_MODE", "true");
    let tokens = ("PULSE_ADMIN_TOKENS_FILE", "tokens.toml");
    for (mode, env, setting) in [
        ("serve", &[hosted][..], "PULSE_ADMIN_TOKENS_FILE (--admin-tokens-file): "),
        ("serve", &[hosted, tokens], "PULSE_SIGNUP_VERIFICATION (--signup-verification): "),
        (
            "serve",
            &[("PULSE_HOSTED_MODE", "yes")],
            "PULSE_HOSTED_MODE (--hosted-mode): \"yes\" is not accepted",
        ),
        (
            "serve",
            &[("PULSE_TRIAL_DAYS", "soon")],
            "PULSE_TRIAL_DAYS (--trial-days): \"soon\" is not accepted",
        ),
        (
            "serve",
            &[("PULSE_LIFECYCLE_ADDR", "0.0.0.0:0")],
            "PULSE_INSECURE_PLAINTEXT (--insecure-plaintext): ",
        ),
        (
            "dev",
            &[("PULSE_EDGE_ADMIN_ADDR", "0.0.0.0:0")],
            "PULSE_INSECURE_PLAINTEXT (--insecure-plaintext): ",
        ),
        ("dev", &[("PULSE_DATABASE_URL", "mysql://u:canary@db")], "PULSE_DATABASE_URL (--database-url): "),
        (
            "serve",
            &[("PULSE_DATABASE_URL", "postgres://u:canary@db:port")],
            "PULSE_DATABASE_URL (--database-url): ",
        ),
        ("migrate", &[], "PULSE_DATABASE_URL (--database-url): must be set"),
        ("dev", &[("PULSE_TLS_CERT", "cert.pem")], "PULSE_TLS_CERT (--tls-cert): "),
        ("", &[], "say what to do: "),
        ("produce", &[], "unrecognized subcommand"),
    ] {
        let (code, said) = refused(mode, env);
        assert_eq!((code, said.lines().count()), (Some(2), 1), "{mode} {env:?}: {said}");
        assert!(said.starts_with(setting) && !said.contains("canary"), "{mode} {env:?}: {said}");
    }
}

#[test]
fn an_address_in_use_is_named_with_its_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for setting in ADDRS {
        let (code, said) = refused("dev", &[(setting, &addr)]);
        assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
        assert!(said.starts_with(setting) && said.contains(&addr), "{said}");
    }
}

#[test]
fn help_names_every_setting_as_flag_and_environment() {
    let folder = tempfile::tempdir().unwrap();
    for mode in ["dev", "serve", "migrate"] {
        let output = pulse_hosted(mode, folder.path(), &[]).arg("--help").output().unwrap();
        assert!(output.status.success());
        let help = String::from_utf8(output.stdout).unwrap();
        for setting in
            ADDRS.iter().chain(&["PULSE_TRIAL_DAYS", "PULSE_RETENTION_DAYS", "PULSE_SIGNUP_VERIFICATION"])
        {
            let flag = setting.strip_prefix("PULSE_").unwrap().to_lowercase().replace('_', "-");
            assert!(help.contains(setting) && help.contains(&format!("--{flag}")), "{mode}: {setting}");
        }
    }
    let Output { status, .. } = pulse_hosted("--version", folder.path(), &[]).output().unwrap();
    assert!(status.success());
}

#[test]
fn serve_prints_nothing_and_logs_json() {
    let folder = tempfile::tempdir().unwrap();
    let env = [("PULSE_HOSTED_MODE", "false"), ("PULSE_LOG", "info")];
    let mut child = pulse_hosted("serve", folder.path(), &env).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = log.by_ref().map(Result::unwrap).find(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        line["message"] == "every service is ready"
    });
    assert!(ready.is_some());
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert!(log.all(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).is_ok()));
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    assert_eq!((status.code(), stdout), (Some(0), Vec::new()));
}

#[test]
fn a_store_that_cannot_be_opened_exits_with_1_and_names_its_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/lifecycle.db"), "not a database".repeat(1000)).unwrap();
    let Output { status, stderr, .. } = pulse_hosted("serve", folder.path(), &[]).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    let last = said.lines().last().unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(last.starts_with("cannot start: lifecycle: ") && last.contains("lifecycle.db"), "{said}");
}

#[test]
fn what_is_in_flight_when_told_to_stop_is_still_answered() {
    let limits = [("PULSE_SIGNUP_LIMIT_PER_HOUR", "100000"), ("PULSE_REQUEST_LIMIT_PER_MINUTE", "100000")];
    let dev = Dev::start(&limits);
    let curl = dev.line("curl").replace("curl -sS", "curl -s -o /dev/null -w '%{http_code}'");
    let (sender, answers) = mpsc::channel();
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (curl, sender) = (curl.clone(), sender.clone());
            // Signs up one after the other until nobody answers any more.
            std::thread::spawn(move || {
                for number in 0.. {
                    let curl = curl.replace("ann@", &format!("ann-{client}-{number}@"));
                    let output = Command::new("sh").args(["-c", &curl]).output().unwrap();
                    let status = String::from_utf8(output.stdout).unwrap();
                    let unanswered = status == "000";
                    sender.send(status).unwrap();
                    if unanswered {
                        break;
                    }
                }
            })
        })
        .collect();
    drop(sender);
    let before = answers.recv_timeout(LIMIT).unwrap();
    assert_eq!(dev.stop().0, Some(0));
    for client in clients {
        client.join().unwrap();
    }
    let statuses: Vec<_> = [before].into_iter().chain(answers).collect();
    assert!(statuses.iter().all(|status| ["201", "000"].contains(&status.as_str())), "{statuses:?}");
}
