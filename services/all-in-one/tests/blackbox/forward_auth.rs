//! Requests decided before they are passed on: with a real nginx and a real Caddy, as `deploy` has them, in front of an upstream
//! that says what it was told.

use std::{fs, net::SocketAddr, path::Path, process::Stdio};

use pulse_testkit::{
    eventually,
    ports::Port,
    system::{Answer, Plan, Service, System, tools::repository},
};
use reqwest::{Method, header::HOST};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinHandle,
};

use crate::{PASSWORD, SOON};

in_every_shape!(
    nginx_refuses_a_suspended_tenant_and_lets_it_back_in,
    nginx_lets_in_by_capability_and_limit_as_billing_changes,
    nginx_tells_the_application_what_is_true_and_nothing_that_a_client_says,
);

/// A gateway with the configuration that the documents recommend, and the application behind it.
struct Gateway {
    addr: SocketAddr,
    upstream: JoinHandle<()>,
    #[expect(dead_code, reason = "held, not used: the gateway ends with it")]
    program: Child,
    #[expect(dead_code, reason = "held, not used: the port is free again with it")]
    port: Port,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.upstream.abort();
    }
}

impl Gateway {
    async fn nginx(system: &System) -> Self {
        let nginx = ["/usr/sbin/nginx", "-e", "stderr", "-p", ".", "-c", "nginx.conf"];
        let one_process = ["-g", "daemon off; master_process off;"];
        // Where this user may write.
        let prepare = |text: String| text.replace("\nhttp {", &format!("\nhttp {{{}", temporary_paths()));
        Self::start(system, "nginx", prepare, &[&nginx[..], &one_process].concat()).await
    }

    async fn caddy(system: &System) -> Self {
        let caddy = ["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"];
        let prepare = |text: String| text.replace(":8000 {", ":{port} {");
        Self::start(system, "caddy", prepare, &caddy).await
    }

    /// Starts a gateway with the files that are recommended for it, in which only addresses are replaced.
    async fn start(
        system: &System,
        name: &str,
        prepare: impl Fn(String) -> String,
        command: &[&str],
    ) -> Self {
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = Port::reserve();
        let folder = system.folder().join(name);
        fs::create_dir(&folder).unwrap();
        for file in fs::read_dir(repository().join("deploy").join(name)).unwrap() {
            let file = file.unwrap();
            let text = prepare(fs::read_to_string(file.path()).unwrap());
            let text = system
                .with_my_addresses(&text)
                .replace("127.0.0.1:8000", &port.addr().to_string())
                .replace("{port}", &port.addr().port().to_string())
                .replace("127.0.0.1:3000", &application.local_addr().unwrap().to_string());
            fs::write(folder.join(file.file_name()), text).unwrap();
        }
        let program = run(command, &folder);
        let upstream = tokio::spawn(serve(application));
        eventually(SOON, async || {
            let connected = TcpStream::connect(port.addr()).await;
            connected.map_err(|_| fs::read_to_string(folder.join("log")).unwrap())
        })
        .await;
        Self { addr: port.addr(), upstream, program, port }
    }

    /// What a client gets that asks for `path` at the tenant's host name, with these headers of its own.
    async fn ask(&self, system: &System, tenant: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request =
            system.visitor().at(self.addr).request(Method::POST, path).body("a body of the client's");
        let request = request.header(HOST, format!("{tenant}.app.example.com"));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        Answer::to(request).await.unwrap()
    }

    /// Asks until it is let in.
    async fn until_let_in(&self, system: &System, tenant: &str, path: &str) {
        eventually(SOON, async || {
            let answer = self.ask(system, tenant, path, &[]).await;
            if answer.status == 200 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
    }

    /// Asks until it is refused for that reason. Replicas hear of a change one after the other.
    async fn until_refused(&self, system: &System, tenant: &str, path: &str, code: &str) {
        let answer = eventually(SOON, async || {
            let answer = self.ask(system, tenant, path, &[]).await;
            let is_that = answer.status == 403 && answer.json()["code"] == code;
            if is_that { Ok(answer) } else { Err(answer.to_string()) }
        })
        .await;
        refused(answer, 403, code);
    }
}

/// Starts a program that ends with the test.
fn run(command: &[&str], folder: &Path) -> Child {
    let log = fs::File::create(folder.join("log")).unwrap();
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .args(command)
        .current_dir(folder)
        .env("HOME", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn temporary_paths() -> String {
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    kinds.map(|kind| format!("\n    {kind}_temp_path {kind};")).concat()
}

/// An application that answers every request with the head that it got.
async fn serve(listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(echo(stream));
    }
}

async fn echo(mut stream: TcpStream) {
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        got.extend_from_slice(&buffer[..read]);
        if let Some(end) = got.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = got[..end].to_ascii_lowercase();
            let answer =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", head.len());
            let _ = stream.write_all(&[answer.as_bytes(), &head].concat()).await;
            return;
        }
    }
}

/// The values of a header that the application got.
fn got(answer: &Answer, name: &str) -> Vec<String> {
    let head = String::from_utf8(answer.body.clone()).unwrap();
    let values = head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    values.map(str::to_owned).collect()
}

#[track_caller]
fn refused(answer: Answer, status: u16, code: &str) {
    let answer = answer.expect(status);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer}");
    let problem = answer.json();
    assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{answer}");
    assert_eq!(problem["type"], format!("urn:pulse:problem:{code}"), "{answer}");
}

async fn nginx_refuses_a_suspended_tenant_and_lets_it_back_in(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let other = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let gateway = Gateway::nginx(&system).await;
    for tenant in [org_id, other] {
        let answer = gateway.ask(&system, tenant, "/reports?id=7", &[]).await.expect(200);
        assert!(answer.body.starts_with(b"post /reports?id=7 http/1.1\r\n"), "{answer}");
    }

    let _ = system.admin().suspend(org_id, "chargeback").await.expect(200);
    gateway.until_refused(&system, org_id, "/reports", "org_suspended").await;
    let _ = gateway.ask(&system, other, "/reports", &[]).await.expect(200);

    let _ = system.admin().unsuspend(org_id).await.expect(200);
    gateway.until_let_in(&system, org_id, "/reports").await;

    let _ = system.admin().soft_delete(org_id, 30.0).await.expect(200);
    gateway.until_refused(&system, org_id, "/", "org_pending_deletion").await;

    for nobody in ["no-such-org", "0198c5b1-0000-7000-8000-000000000000"] {
        refused(gateway.ask(&system, nobody, "/", &[]).await, 403, "org_not_found");
    }
    // Nothing in the host name that could be a tenant.
    refused(gateway.ask(&system, "-acme", "/", &[("x-pulse-org-id", other)]).await, 403, "invalid_org_id");
}

async fn nginx_lets_in_by_capability_and_limit_as_billing_changes(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let gateway = Gateway::nginx(&system).await;
    let _ = gateway.ask(&system, org_id, "/alerts/", &[]).await.expect(200);
    refused(gateway.ask(&system, org_id, "/hosts/11/", &[]).await, 403, "limit_exceeded");

    let bare = json!({
        "subscription_state": "active", "plan_version": "bare", "capabilities": [], "limits": { "monitored_hosts": 11 },
    });
    let _ = system.admin().set_billing_state(org_id, bare, None).await.expect(200);
    gateway.until_refused(&system, org_id, "/alerts/", "capability_required").await;
    gateway.until_let_in(&system, org_id, "/hosts/11/").await;

    let expired = json!({ "subscription_state": "expired" });
    let _ = system.admin().set_billing_state(org_id, expired, None).await.expect(200);
    gateway.until_refused(&system, org_id, "/hosts/11/", "subscription_inactive").await;
    // Whoever has to pay gets in.
    let answer = gateway.ask(&system, org_id, "/", &[]).await.expect(200);
    assert_eq!(got(&answer, "x-pulse-org-status"), ["active"]);
}

async fn nginx_tells_the_application_what_is_true_and_nothing_that_a_client_says(plan: Plan) {
    let system = plan.start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let other = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let _ = system.admin().suspend(other, "chargeback").await.expect(200);
    let gateway = Gateway::nginx(&system).await;

    let lies = [
        ("x-pulse-org-id", &**other),
        ("X-Pulse-Org-Status", "suspended"),
        ("x-pulse-org-status-source", "mine"),
        ("x-pulse-org-status-age", "-1"),
        ("x-pulse-subscription-state", "active"),
        ("x-pulse-plan", "enterprise"),
        ("x-pulse-entitlement-source", "mine"),
        ("x-pulse-entitlement-age", "-1"),
        ("x-pulse-capability", "teleporting"),
        ("x-pulse-deny-reason", "none"),
        ("x_pulse_plan", "enterprise"),
        ("x-request-id", "mine"),
        ("x-other", "the client's own"),
    ];
    let answer = gateway.ask(&system, org_id, "/alerts/", &lies).await.expect(200);
    for (name, value) in [
        ("x-pulse-org-id", &**org_id),
        ("x-pulse-org-status", "active"),
        ("x-pulse-subscription-state", "trial"),
        ("x-pulse-plan", "trial"),
        ("x-other", "the client's own"),
    ] {
        assert_eq!(got(&answer, name), [value], "{answer}");
    }
    for name in ["x-pulse-org-status-source", "x-pulse-entitlement-source"] {
        let source = got(&answer, name);
        assert!(["fresh", "cached"].contains(&&*source.concat()), "{name}: {source:?}");
    }
    for name in ["x-pulse-org-status-age", "x-pulse-entitlement-age"] {
        assert!(got(&answer, name).concat().parse::<u64>().is_ok_and(|age| age < 60), "{name}: {answer}");
    }
    for name in ["x-pulse-capability", "x-pulse-deny-reason", "x_pulse_plan"] {
        assert_eq!(got(&answer, name), [""; 0], "{answer}");
    }
    assert_ne!(got(&answer, "x-request-id"), ["mine"]);

    // Nor does it help a tenant that is suspended to be somebody else in a header, or to ask the gateway's own questions.
    let lies = [("x-pulse-org-id", &**org_id)];
    gateway.until_refused(&system, other, "/", "org_suspended").await;
    refused(gateway.ask(&system, other, "/", &lies).await, 403, "org_suspended");
    let _ = gateway.ask(&system, org_id, "/_pulse/active", &[]).await.expect(404);
}

#[tokio::test]
async fn caddy_refuses_a_suspended_tenant_and_lets_it_back_in_and_believes_no_client() {
    let system = System::all_in_one().start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let other = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let gateway = Gateway::caddy(&system).await;
    let lies = [
        ("x-pulse-org-id", &**other),
        ("x-pulse-org-status", "suspended"),
        ("x-pulse-org-status-source", "mine"),
        ("x-pulse-org-status-age", "-1"),
        ("x-pulse-subscription-state", "active"),
        ("x-pulse-plan", "enterprise"),
        ("x-pulse-entitlement-source", "mine"),
        ("x-pulse-entitlement-age", "-1"),
        ("x-pulse-capability", "teleporting"),
        ("x-pulse-deny-reason", "none"),
    ];
    let answer = gateway.ask(&system, org_id, "/alerts/7?x=1", &lies).await.expect(200);
    assert!(answer.body.starts_with(b"post /alerts/7?x=1 http/1.1\r\n"), "{answer}");
    for (name, value) in [
        ("x-pulse-org-id", &**org_id),
        ("x-pulse-org-status", "active"),
        ("x-pulse-subscription-state", "trial"),
        ("x-pulse-plan", "trial"),
    ] {
        assert_eq!(got(&answer, name), [value], "{answer}");
    }
    for name in [
        "x-pulse-org-status-source",
        "x-pulse-org-status-age",
        "x-pulse-entitlement-source",
        "x-pulse-entitlement-age",
    ] {
        let value = got(&answer, name).concat();
        assert!(!value.is_empty() && !["mine", "-1"].contains(&&*value), "{name}: {answer}");
    }
    for name in ["x-pulse-capability", "x-pulse-deny-reason"] {
        assert_eq!(got(&answer, name), [""; 0], "{answer}");
    }
    refused(gateway.ask(&system, org_id, "/hosts/11/", &[]).await, 403, "limit_exceeded");
    refused(gateway.ask(&system, "-acme", "/", &lies).await, 403, "invalid_org_id");

    let _ = system.admin().suspend(org_id, "chargeback").await.expect(200);
    gateway.until_refused(&system, org_id, "/", "org_suspended").await;
    for path in ["/", "/alerts/7", "/hosts/11/", "/exports/"] {
        refused(gateway.ask(&system, org_id, path, &lies).await, 403, "org_suspended");
    }
    let _ = gateway.ask(&system, other, "/", &[]).await.expect(200);
    let _ = system.admin().unsuspend(org_id).await.expect(200);
    gateway.until_let_in(&system, org_id, "/").await;
}

#[tokio::test]
async fn without_the_services_behind_decisions_go_on_and_a_suspension_stays_one() {
    let mut system = System::five_processes().start().await;
    let org_id = &system.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let suspended = &system.new_tenant("bob@example.com", PASSWORD, "Brick").await;
    let gateway = Gateway::nginx(&system).await;
    let _ = system.admin().suspend(suspended, "chargeback").await.expect(200);
    gateway.until_refused(&system, suspended, "/", "org_suspended").await;
    let _ = gateway.ask(&system, org_id, "/alerts/", &[]).await.expect(200);

    system.kill(Service::Lifecycle).await;
    system.kill(Service::BillingState).await;
    let stale = eventually(SOON, async || {
        let answer = gateway.ask(&system, org_id, "/alerts/", &[]).await.expect(200);
        let sources = [got(&answer, "x-pulse-org-status-source"), got(&answer, "x-pulse-entitlement-source")];
        if sources.concat() == ["stale", "stale"] { Ok(answer) } else { Err(sources) }
    })
    .await;
    for name in ["x-pulse-org-status-age", "x-pulse-entitlement-age"] {
        assert!(got(&stale, name).concat().parse::<u64>().is_ok_and(|age| age > 0), "{name}: {stale}");
    }
    refused(gateway.ask(&system, org_id, "/exports/", &[]).await, 503, "unavailable");
    for path in ["/", "/alerts/", "/exports/"] {
        refused(gateway.ask(&system, suspended, path, &[]).await, 403, "org_suspended");
    }

    system.start_again().await;
    gateway.until_let_in(&system, org_id, "/exports/").await;
    let _ = system.admin().unsuspend(suspended).await.expect(200);
    gateway.until_let_in(&system, suspended, "/").await;

    // Without the edge there is no decision, and so nothing is let in.
    system.kill(Service::Edge).await;
    refused(gateway.ask(&system, org_id, "/", &[]).await, 503, "unavailable");
}
