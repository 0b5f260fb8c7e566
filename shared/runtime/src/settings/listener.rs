//! [`bind`]: listeners are opened before anything is served, so that a port that is taken stops the start.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

use super::SettingError;

/// Listens on `addr`, which the setting `env` holds.
///
/// # Errors
/// Names the setting, the address and the cause.
pub async fn bind(env: &str, addr: SocketAddr) -> Result<TcpListener, SettingError> {
    TcpListener::bind(addr).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => "the address is in use; stop what uses it, or set another".to_owned(),
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
            io::ErrorKind::PermissionDenied => "this user may not listen there".to_owned(),
            _ => error.to_string(),
        };
        SettingError::new(env, format_args!("cannot listen on {addr}: {why}"))
    })
}
