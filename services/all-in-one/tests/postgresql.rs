//! What `docs/postgresql.md` tells operators to do, done on a server of its own, in the page's order; and what it says comes of it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::fs;

use pulse_runtime::settings::try_parse_from;
use pulse_signup_gateway::store::Store;
use serde_json::Value;

use self::support::{Dev, cluster::Cluster};

const PAGE: &str = include_str!("../../../docs/postgresql.md");

/// A fenced block of the page.
struct Block {
    section: String,
    language: String,
    text: String,
    is_done: bool,
}

/// The page, as it is worked through.
struct Page(Vec<Block>);

impl Page {
    fn read() -> Self {
        let (mut section, mut blocks, mut lines) = (String::new(), Vec::new(), PAGE.lines());
        while let Some(line) = lines.next() {
            if line.starts_with('#') {
                line.trim_start_matches(['#', ' ']).clone_into(&mut section);
            }
            if let Some(language) = line.strip_prefix("```") {
                let inside: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
                let text = inside.join("\n") + "\n";
                let (section, language) = (section.clone(), language.to_owned());
                blocks.push(Block { section, language, text, is_done: false });
            }
        }
        Self(blocks)
    }

    /// The next block of that section.
    fn next(&mut self, section: &str, language: &str) -> String {
        let is_next =
            |block: &&mut Block| !block.is_done && block.section == section && block.language == language;
        let block = self.0.iter_mut().find(is_next).unwrap_or_else(|| panic!("no {language} in {section}"));
        block.is_done = true;
        block.text.clone()
    }

    fn assert_that_every_command_was_run(&self) {
        let left: Vec<_> = self.0.iter().filter(|block| !block.is_done && block.language == "sh").collect();
        assert!(
            left.is_empty(),
            "nobody has run\n{}",
            left.iter().map(|block| &*block.text).collect::<String>()
        );
    }
}

/// The page, and the machine that it is about.
struct Operator {
    page: Page,
    cluster: Cluster,
    names: String,
}

impl Operator {
    fn new() -> Self {
        let mut page = Page::read();
        let access = page.next("TLS", "text");
        let logins = access.split_whitespace().nth(2).unwrap();
        let cluster = Cluster::start(logins);
        // The names, each with a value of ours. The administrator is on the machine itself, so PGHOST is for others.
        let [port, _] = cluster.ports();
        let root = cluster.path("root").display().to_string();
        let names = page.next("PostgreSQL", "sh");
        let own = |line: &str| {
            let (name, _) = line.split_once('=').unwrap();
            match name {
                "export PGHOST" => format!("SERVER=localhost PGPORT={port}\n"),
                "export CA" => format!("export CA={root}/ca.crt\n"),
                "DATA" => format!("DATA={root}/main\n"),
                "STANDBY" => format!("STANDBY={root}/standby\n"),
                "BACKUPS" => format!("BACKUPS={root}/backups\n"),
                other => panic!("the page leaves {other} to the reader, and so to this test"),
            }
        };
        let names = names.lines().map(own).collect();
        Self { page, cluster, names }
    }

    /// Runs the next commands of that section.
    fn run(&mut self, section: &str) -> String {
        self.run_with(section, |commands| commands)
    }

    /// As [`Self::run`], after a change.
    fn run_with(&mut self, section: &str, change: impl FnOnce(String) -> String) -> String {
        let commands = change(self.page.next(section, "sh"));
        // The repository is where the page is read.
        let commands = commands
            .replace("deploy/postgres/", concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/postgres/"));
        self.cluster.run(&format!("{}{commands}", self.names))
    }

    /// What a query answers, in a database of the server at that port.
    fn query_at(&self, port: u16, database: &str, query: &str) -> String {
        let psql =
            format!("psql --port={port} --dbname={database} --tuples-only --no-align --command=\"{query}\"");
        self.cluster.run(&psql).trim().to_owned()
    }

    fn query(&self, query: &str) -> String {
        self.query_at(self.cluster.ports()[0], "pulse", query)
    }

    fn url(&self, login: &str) -> String {
        fs::read_to_string(self.cluster.path("work").join(format!("{login}.url"))).unwrap().trim().to_owned()
    }
}

/// What each of these hears who signs up, at programs that were just started over that database.
fn sign_up(url: &str, people: &[&str]) -> Vec<String> {
    let dev = Dev::start(&[
        ("PULSE_DATABASE_URL", url),
        ("PULSE_DATABASE_MIGRATE", "false"),
        ("PULSE_SIGNUP_LIMIT_PER_HOUR", "1000"),
    ]);
    let heard = people.iter().map(|person| {
        let answer = dev.run_with("curl", |curl| curl.replace("ann@", &format!("{person}@")));
        let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
        answer["status"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    });
    let heard = heard.collect();
    assert_eq!(dev.stop().0, Some(0));
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_for_operators_of_postgresql_holds() {
    let mut operator = Operator::new();
    operator.run("Preparing a database");
    operator.run_with("Preparing a database", |commands| commands.replace("@$PGHOST:", "@$SERVER:"));
    let printed = operator.run("Migrations");
    assert_eq!(printed, operator.page.next("Migrations", "text"));
    let hosted = operator.url("hosted");
    assert_eq!(sign_up(&hosted, &["ann"]), ["created"]);

    who_is_who(&operator).await;
    assert!(operator.run("Connections").contains("psql"), "at least who asks is connected");
    operator.run("Poolers");
    let psql = format!("env -u PGUSER psql '{}' --tuples-only --no-align", operator.url("lifecycle"));
    let role = operator.cluster.run(&format!("{psql} --command='SELECT current_user, current_schema'"));
    assert_eq!(role.trim(), "pulse_lifecycle|pulse_lifecycle");
    operator.run("What slows it down");

    backup_and_mistake(&mut operator, &hosted);
    dump(&mut operator, &hosted);
    fail_over(&mut operator, &hosted).await;
    operator.run("Erasing personal data");
    assert_eq!(operator.query("SELECT count(*) FROM pulse_signup_gateway.signup_limits"), "1");
    operator.run_with("Erasing personal data", |commands| commands.replace("192.0.2.7", "127.0.0.1"));
    assert_eq!(operator.query("SELECT count(*) FROM pulse_signup_gateway.signup_limits"), "0");
    operator.page.assert_that_every_command_was_run();
}

async fn open(url: &str) -> anyhow::Result<std::sync::Arc<dyn Store>> {
    let flags = ["pulse-signup-gateway", "--database-url", url, "--database-migrate", "false"];
    pulse_signup_gateway::open_store(&try_parse_from(flags)?).await
}

/// A user to log in is one service's, and the connection is as safe as its URL says.
async fn who_is_who(operator: &Operator) {
    let own = operator.url("signup_gateway");
    open(&own).await.unwrap().ping().await.unwrap();
    for foreign in ["lifecycle", "migrate"] {
        let refused = open(&operator.url(foreign)).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{refused}");
    }
    for (change, with) in [("localhost", "127.0.0.1"), ("ca.crt", "server.crt"), ("verify-full", "disable")] {
        assert!(own.contains(change), "{own}");
        let refused = open(&own.replace(change, with)).await;
        assert!(refused.is_err(), "{change} may not be {with}");
    }
}

fn backup_and_mistake(operator: &mut Operator, hosted: &str) {
    const SECTION: &str = "Backup, and going back in time";
    operator.run(SECTION);
    operator.run(SECTION);
    // After the backup, so that it is in the log only.
    assert_eq!(sign_up(hosted, &["bob"]), ["created"]);
    let epoch = "SELECT epoch FROM pulse_billing_state.feed";
    let life = operator.query(epoch);
    let moment = operator.query("SELECT clock_timestamp()");
    operator.query("DROP SCHEMA pulse_provisioner CASCADE");
    operator.query("DELETE FROM pulse_signup_gateway.signup_limits");

    operator.run_with(SECTION, |commands| {
        let shown = commands.lines().next().unwrap().to_owned();
        commands.replace(&shown, &format!("MOMENT='{moment}'"))
    });
    operator.run(SECTION);
    assert_eq!(sign_up(hosted, &["ann", "bob", "eve"]), ["existing", "existing", "created"]);
    assert_eq!(operator.query("SELECT count(*) FROM pulse_signup_gateway.signup_limits"), "1");
    assert_ne!(operator.query(epoch), life, "the feed of changes has begun another life");
}

fn dump(operator: &mut Operator, hosted: &str) {
    operator.run("Dumps");
    let [port, _] = operator.cluster.ports();
    let counts = |database| {
        let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
            WHERE schemaname LIKE 'pulse%' AND tablename NOT IN ('feed', 'followers') ORDER BY 1";
        let tables = operator.query_at(port, database, tables);
        let count = |table| {
            format!(
                "{table}: {}",
                operator.query_at(port, database, &format!("SELECT count(*) FROM {table}"))
            )
        };
        tables.lines().map(count).collect::<Vec<_>>()
    };
    let original = counts("pulse");
    assert!(original.len() > 12, "{original:?}");
    assert_eq!(counts("pulse_copy"), original);
    let copy = hosted.replace("/pulse?", "/pulse_copy?");
    assert_eq!(sign_up(&copy, &["ann", "fay"]), ["existing", "created"]);
    // Row-level security keeps rows from their owner, too.
    let dump =
        "pg_dump --dbname=pulse --role=pulse_migrator --schema=pulse_lifecycle 2>&1 > owners.dump || true";
    assert!(operator.cluster.run(dump).contains("row-level security"));
}

async fn fail_over(operator: &mut Operator, hosted: &str) {
    const SECTION: &str = "Failing over to a standby";
    operator.run(SECTION);
    let [port, standby] = operator.cluster.ports();
    let moved = |url: &str| url.replace(&format!(":{port}/"), &format!(":{standby}/"));
    // Opened before: a start over a standby has to write.
    let store = open(&moved(&operator.url("signup_gateway"))).await.unwrap();
    let client = pulse_rpc::client_key("192.0.2.1".parse().unwrap());
    assert!(store.ping().await.unwrap_err().to_string().contains("takes no writes"));
    assert!(store.admit(client).await.unwrap_err().is_transient());

    operator.run(SECTION);
    pulse_testkit::eventually(support::LIMIT, async || store.ping().await.map_err(|error| error.to_string()))
        .await;
    store.admit(client).await.unwrap();
    assert_eq!(sign_up(&moved(hosted), &["ann", "gus"]), ["existing", "created"]);
}
