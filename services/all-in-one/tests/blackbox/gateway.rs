//! A real gateway, as `deploy` has it, in front of an application that says what it was told.

use std::{fs, net::SocketAddr, path::Path, process::Stdio};

use http::Request as HttpRequest;
use pulse_testkit::{
    eventually,
    ports::Port,
    system::{
        Answer, System,
        tools::{python_programs, repository},
    },
};
use reqwest::{Method, header::HOST};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinHandle,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    metadata::{AsciiMetadataKey, MetadataMap},
    transport::{Endpoint, Server},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::SOON;

/// A gateway with the configuration that the documents recommend, and the application behind it.
pub(crate) struct Gateway {
    addr: SocketAddr,
    upstreams: [JoinHandle<()>; 2],
    #[expect(dead_code, reason = "held, not used: the gateway ends with it")]
    program: Child,
    #[expect(dead_code, reason = "held, not used: the port is free again with it")]
    port: Port,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.upstreams.iter().for_each(JoinHandle::abort);
    }
}

impl Gateway {
    pub(crate) async fn nginx(system: &System) -> Self {
        let nginx = ["/usr/sbin/nginx", "-e", "stderr", "-p", ".", "-c", "nginx.conf"];
        let one_process = ["-g", "daemon off; master_process off;"];
        // Where this user may write.
        let prepare = |text: String| text.replace("\nhttp {", &format!("\nhttp {{{}", temporary_paths()));
        Self::start(system, "nginx", prepare, &[&nginx[..], &one_process].concat()).await
    }

    pub(crate) async fn caddy(system: &System) -> Self {
        let caddy = ["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"];
        let prepare = |text: String| text.replace(":8000 {", ":{port} {");
        Self::start(system, "caddy", prepare, &caddy).await
    }

    pub(crate) async fn envoy(system: &System) -> Self {
        Self::envoy_with(system, |text| text).await
    }

    /// Envoy with a configuration that is changed.
    pub(crate) async fn envoy_with(system: &System, change: impl Fn(String) -> String) -> Self {
        let envoy = python_programs().join("envoy");
        let envoy = [envoy.to_str().unwrap(), "-c", "envoy.yaml", "--log-level", "warning"];
        let small = ["--concurrency", "1", "--disable-hot-restart"];
        // An address is in two parts there.
        let prepare = |text: String| change(text).replace("127.0.0.1, port_value: ", "127.0.0.1:");
        Self::start(system, "envoy", prepare, &[&envoy[..], &small].concat()).await
    }

    /// Starts a gateway with the files that are recommended for it, in which only addresses are replaced.
    async fn start(
        system: &System,
        name: &str,
        prepare: impl Fn(String) -> String,
        command: &[&str],
    ) -> Self {
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let over_grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
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
                .replace("127.0.0.1:3000", &application.local_addr().unwrap().to_string())
                .replace("127.0.0.1:3001", &over_grpc.local_addr().unwrap().to_string())
                .replace("{ address: 127.0.0.1:", "{ address: 127.0.0.1, port_value: ");
            fs::write(folder.join(file.file_name()), text).unwrap();
        }
        let program = run(command, &folder);
        let upstreams = [tokio::spawn(serve(application)), tokio::spawn(serve_grpc(over_grpc))];
        eventually(SOON, async || {
            let connected = TcpStream::connect(port.addr()).await;
            connected.map_err(|_| fs::read_to_string(folder.join("log")).unwrap())
        })
        .await;
        Self { addr: port.addr(), upstreams, program, port }
    }

    /// What a client gets that asks for `path` at the tenant's host name, with these headers of its own.
    pub(crate) async fn ask(
        &self,
        system: &System,
        tenant: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let request =
            system.visitor().at(self.addr).request(Method::POST, path).body("a body of the client's");
        let request = request.header(HOST, format!("{tenant}.app.example.com"));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        Answer::to(request).await.unwrap()
    }

    /// What a gRPC client gets that calls a method at the tenant's host name, with this metadata of its own: the head that the
    /// application got.
    pub(crate) async fn call(
        &self,
        tenant: &str,
        method: &'static str,
        metadata: &[(&str, &str)],
    ) -> Result<String, Status> {
        let origin = format!("http://{tenant}.app.example.com").parse().unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{}", self.addr)).unwrap().origin(origin);
        let mut client = tonic::client::Grpc::new(endpoint.timeout(SOON).connect_lazy());
        client.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let mut request = Request::new("a message of the client's".to_owned());
        for (name, value) in metadata {
            let name: AsciiMetadataKey = name.parse().unwrap();
            request.metadata_mut().append(name, value.parse().unwrap());
        }
        let path = http::uri::PathAndQuery::from_static(method);
        let codec = ProstCodec::<String, String>::default();
        client.unary(request, path, codec).await.map(Response::into_inner)
    }

    /// Asks until it is let in.
    pub(crate) async fn until_let_in(&self, system: &System, tenant: &str, path: &str) {
        eventually(SOON, async || {
            let answer = self.ask(system, tenant, path, &[]).await;
            if answer.status == 200 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
    }

    /// Asks until it is refused for that reason. Replicas hear of a change one after the other.
    pub(crate) async fn until_refused(&self, system: &System, tenant: &str, path: &str, code: &str) {
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

/// The same over gRPC: every method takes a text and answers with one.
async fn serve_grpc(listener: TcpListener) {
    let application = service_fn(async |request: HttpRequest<Body>| {
        let path = request.uri().path().to_owned();
        let method = service_fn(move |request: Request<String>| {
            let head = head(&path, request.metadata());
            async move { Ok::<_, Status>(Response::new(head)) }
        });
        let codec = ProstCodec::<String, String>::default();
        Ok::<_, Status>(tonic::server::Grpc::new(codec).unary(method, request).await)
    });
    let incoming = TcpListenerStream::new(listener);
    Server::builder().serve_with_incoming(application, incoming).await.unwrap();
}

fn head(path: &str, metadata: &MetadataMap) -> String {
    let headers =
        metadata.as_ref().iter().map(|(name, value)| format!("\r\n{name}: {}", value.to_str().unwrap()));
    format!("post {path}{}", headers.collect::<String>())
}

/// The values of a header in the head that the application got.
pub(crate) fn values_of(head: &str, name: &str) -> Vec<String> {
    let values = head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    values.map(str::to_owned).collect()
}

/// The same, of the head that it answered with.
pub(crate) fn got(answer: &Answer, name: &str) -> Vec<String> {
    values_of(&String::from_utf8(answer.body.clone()).unwrap(), name)
}

/// Whether a client is told why it is refused.
#[track_caller]
pub(crate) fn refused(answer: Answer, status: u16, code: &str) {
    let answer = answer.expect(status);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer}");
    let problem = answer.json();
    assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{answer}");
    assert_eq!(problem["type"], format!("urn:pulse:problem:{code}"), "{answer}");
}
