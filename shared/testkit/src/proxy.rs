//! A TCP forwarder: a plain balancer, and a network that can be cut and frozen.

use std::{
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::LazyLock,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinSet,
};

use crate::ports::Port;

/// How much is read before it is passed on.
const BUFFER: usize = 16 * 1024;

/// The forwarders' own threads: a test that blocks its thread must not hold up what it tests.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("proxy").enable_all().build().expect("threads can be started")
});

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Cut,
    Frozen,
}

/// Passes TCP connections on to its backends, each new one to the next backend in turn that accepts it.
///
/// A client from another loopback address than 127.0.0.1 comes to the backend from that address too, so that whom it counts
/// by address stays who it is.
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    mode: watch::Sender<Mode>,
    /// The mode that the listener has come to.
    reached: watch::Receiver<Mode>,
}

impl Proxy {
    /// A proxy on a free loopback port.
    ///
    /// # Panics
    /// When there is no such port.
    pub fn to(backends: &[SocketAddr]) -> Self {
        Self::at(Port::reserve(), backends)
    }

    /// A proxy on that port.
    ///
    /// # Panics
    /// When the port cannot be listened on.
    pub fn at(port: Port, backends: &[SocketAddr]) -> Self {
        let (mode, asked) = watch::channel(Mode::Open);
        let (report, reached) = watch::channel(Mode::Open);
        let forwarder = Forwarder { addr: port.addr(), backends: backends.to_owned(), mode: asked };
        let listener = forwarder.listen();
        RUNTIME.spawn(forwarder.run(listener, report));
        Self { port, mode, reached }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Resets every connection and refuses new ones, as when nothing runs at the address; complete on return.
    pub async fn cut(&self) {
        self.change(Mode::Cut).await;
    }

    /// Passes nothing on any more, without closing anything: what is sent is never answered, and new connections are accepted
    /// and left alone. A network that loses every packet looks like this.
    pub async fn freeze(&self) {
        self.change(Mode::Frozen).await;
    }

    /// Accepts connections again and passes on what was held back.
    pub async fn heal(&self) {
        self.change(Mode::Open).await;
    }

    async fn change(&self, mode: Mode) {
        self.mode.send_replace(mode);
        let mut reached = self.reached.clone();
        reached.wait_for(|reached| *reached == mode).await.expect("the forwarder is running");
    }
}

/// What runs behind a [`Proxy`], for as long as there is one.
#[derive(Debug, Clone)]
struct Forwarder {
    addr: SocketAddr,
    backends: Vec<SocketAddr>,
    mode: watch::Receiver<Mode>,
}

impl Forwarder {
    /// # Panics
    /// When the address is taken.
    fn listen(&self) -> TcpListener {
        let listener = std::net::TcpListener::bind(self.addr)
            .unwrap_or_else(|error| panic!("{} cannot be listened on: {error}", self.addr));
        listener.set_nonblocking(true).expect("a listener can be made to not block");
        let _inside = RUNTIME.enter();
        TcpListener::from_std(listener).expect("a listener can be registered")
    }

    async fn run(mut self, listener: TcpListener, report: watch::Sender<Mode>) {
        let mut listener = Some(listener);
        let mut connections = JoinSet::new();
        loop {
            let mode = *self.mode.borrow_and_update();
            if mode == Mode::Cut {
                listener = None;
                while connections.join_next().await.is_some() {}
            } else if listener.is_none() {
                listener = Some(self.listen());
            }
            report.send_replace(mode);
            tokio::select! {
                changed = self.mode.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                (client, from) = accept(listener.as_ref()) => {
                    connections.spawn(self.clone().forward(client, from));
                    self.backends.rotate_left(1);
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// One connection, to its end.
    async fn forward(mut self, mut client: TcpStream, from: SocketAddr) {
        let opened = until_cut(self.mode.clone(), self.open(from)).await;
        let Some(Ok(mut backend)) = opened else { return reset(&client) };
        let there_and_back = {
            let ((from_client, to_client), (from_backend, to_backend)) = (client.split(), backend.split());
            let there = pump(from_client, to_backend, self.mode.clone());
            let back = pump(from_backend, to_client, self.mode.clone());
            until_cut(self.mode, async { tokio::try_join!(there, back) }).await
        };
        if !matches!(there_and_back, Some(Ok(_))) {
            reset(&client);
            reset(&backend);
        }
    }

    /// A connection to the first backend that accepts one.
    async fn open(&mut self, from: SocketAddr) -> io::Result<TcpStream> {
        thawed(&mut self.mode).await;
        let mut result = Err(io::ErrorKind::NotFound.into());
        for backend in &self.backends {
            result = connect(from.ip(), *backend).await;
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

/// The next connection; never one without a listener.
async fn accept(listener: Option<&TcpListener>) -> (TcpStream, SocketAddr) {
    let Some(listener) = listener else { return pending().await };
    loop {
        // What fails is one connection that has gone again.
        if let Ok((client, from)) = listener.accept().await
            && client.set_nodelay(true).is_ok()
        {
            return (client, from);
        }
    }
}

async fn connect(from: IpAddr, backend: SocketAddr) -> io::Result<TcpStream> {
    let stream = if from.is_ipv4() && from.is_loopback() && from != Ipv4Addr::LOCALHOST && backend.is_ipv4() {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        socket.connect(backend).await?
    } else {
        TcpStream::connect(backend).await?
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Passes on what comes, until there is no more; holds it back while nothing may pass.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        thawed(&mut mode).await;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

/// Completes once nothing is held back.
async fn thawed(mode: &mut watch::Receiver<Mode>) {
    // Without a proxy there is no more to wait for.
    let _ = mode.wait_for(|mode| *mode != Mode::Frozen).await;
}

/// What comes of `work`, unless the connections are cut first.
async fn until_cut<T>(mut mode: watch::Receiver<Mode>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => None,
        result = work => Some(result),
    }
}

/// Has the other side hear of a reset, not of an end, when the stream is dropped.
fn reset(stream: &TcpStream) {
    // It may be gone already.
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::{eventually, listener};

    const SOON: Duration = Duration::from_secs(10);

    /// A server that tells everyone `name` and where they come from, and then repeats whatever they say.
    async fn backend(name: &'static str) -> SocketAddr {
        let (listener, addr) = listener().await;
        tokio::spawn(async move {
            while let Ok((mut stream, from)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = stream.write_all(format!("{name} {}\n", from.ip()).as_bytes()).await;
                    let (mut there, mut back) = stream.split();
                    tokio::io::copy(&mut there, &mut back).await
                });
            }
        });
        addr
    }

    /// A connection through the proxy, and the line that it begins with.
    async fn visit(proxy: &Proxy) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        let line = line(&mut stream).await.unwrap();
        (stream, line)
    }

    async fn line(stream: &mut TcpStream) -> io::Result<String> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(timeout(SOON, stream.read_u8()).await.expect("an answer comes")?);
        }
        Ok(String::from_utf8(line).unwrap())
    }

    #[tokio::test]
    async fn connections_go_round_the_backends_that_accept() {
        // A port on which nobody listens.
        let nobody = Port::reserve();
        let proxy = Proxy::to(&[backend("a").await, nobody.addr(), backend("b").await]);
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(visit(&proxy).await.1.chars().next().unwrap());
        }
        assert_eq!(seen, ['a', 'b', 'b', 'a', 'b', 'b']);

        let proxy = Proxy::to(&[nobody.addr()]);
        // The reset may come before the client has noticed that it is connected.
        let error = async { line(&mut TcpStream::connect(proxy.addr()).await?).await };
        assert_eq!(error.await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn both_sides_see_each_other_as_if_nothing_were_between() {
        let proxy = Proxy::to(&[backend("a").await]);
        let (mut stream, greeting) = visit(&proxy).await;
        assert_eq!(greeting, "a 127.0.0.1\n");
        let long = vec![b'x'; 5 * BUFFER];
        stream.write_all(&long).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut echo = Vec::new();
        timeout(SOON, stream.read_to_end(&mut echo)).await.unwrap().unwrap();
        assert_eq!(echo.len(), long.len(), "an end in one direction leaves the other open");

        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        let mut stream = socket.connect(proxy.addr()).await.unwrap();
        assert_eq!(line(&mut stream).await.unwrap(), "a 127.0.0.2\n");
    }

    #[tokio::test]
    async fn a_cut_resets_what_there_is_and_refuses_what_is_new() {
        let proxy = Proxy::to(&[backend("a").await]);
        let (mut stream, _) = visit(&proxy).await;
        proxy.cut().await;
        assert_eq!(line(&mut stream).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

        proxy.heal().await;
        assert_eq!(visit(&proxy).await.1, "a 127.0.0.1\n");
    }

    #[tokio::test]
    async fn what_is_frozen_says_nothing_until_it_is_healed() {
        let proxy = Proxy::to(&[backend("a").await]);
        let (mut old, _) = visit(&proxy).await;
        proxy.freeze().await;
        let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
        old.write_all(b"hello\n").await.unwrap();
        // Longer than the answer takes by far when nothing holds it back.
        let a_while = Duration::from_millis(200);
        assert!(timeout(a_while, old.peek(&mut [0])).await.is_err(), "a connection from before");
        assert!(timeout(a_while, new.peek(&mut [0])).await.is_err(), "a new connection");

        proxy.heal().await;
        assert_eq!(line(&mut old).await.unwrap(), "hello\n");
        assert_eq!(line(&mut new).await.unwrap(), "a 127.0.0.1\n");

        proxy.freeze().await;
        proxy.cut().await;
        assert_eq!(line(&mut old).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_proxy_that_is_dropped_gives_its_port_back() {
        let proxy = Proxy::to(&[backend("a").await]);
        let addr = proxy.addr();
        let (mut stream, _) = visit(&proxy).await;
        drop(proxy);
        assert!(line(&mut stream).await.is_err());
        eventually(SOON, async || TcpListener::bind(addr).await).await;
    }
}
