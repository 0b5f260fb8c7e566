//! Free loopback ports.

use std::net::SocketAddr;

use tokio::net::TcpListener;

/// A listener on a free loopback port, for a server in the test's own process, and its address.
///
/// # Panics
/// When no port can be bound.
pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port can be bound");
    let addr = listener.local_addr().expect("a bound listener has an address");
    (listener, addr)
}
