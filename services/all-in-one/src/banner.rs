//! What `dev` prints once everything is ready: where things are, and commands to try.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use pulse_runtime::{CommonSettings, Endpoints, Service};

use crate::{dev::OperatorToken, services::EdgeAddrs};

/// Where operators' tokens are.
#[derive(Debug)]
pub(crate) enum Tokens {
    /// Hosted mode is off: nothing takes one.
    NotNeeded,
    /// `dev` made one, which is in this file.
    Made(PathBuf),
    /// The operator has them; this file holds their hashes.
    Own(PathBuf),
}

impl Tokens {
    /// Where they are: those of `made`, if `dev` made one.
    pub(crate) fn new(made: Option<&OperatorToken>, common: &CommonSettings) -> Self {
        // What is typed into a shell reads better without the leading dot.
        let shown = |path: &Path| path.strip_prefix(".").unwrap_or(path).to_owned();
        match (made, &common.admin_tokens_file) {
            _ if !common.hosted_mode => Self::NotNeeded,
            (Some(made), _) => Self::Made(shown(made.file())),
            (None, Some(file)) => Self::Own(shown(file)),
            (None, None) => Self::NotNeeded,
        }
    }
}

/// Everything that is printed.
#[derive(Debug)]
pub(crate) struct Banner {
    pub(crate) edge: EdgeAddrs,
    pub(crate) endpoints: Endpoints,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) tokens: Tokens,
    /// Whether data is in PostgreSQL; where that is stays unsaid, as its URL holds a password.
    pub(crate) in_postgres: bool,
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.edge.admin.is_some() { "on" } else { "off" };
        let stores = if self.in_postgres { "PostgreSQL" } else { "embedded stores" };
        writeln!(f, "Pulse Hosted is ready (hosted mode {mode}, loopback only, {stores})\n")?;
        writeln!(f, "  {:<24} http://{}", "public REST", self.edge.public)?;
        if let Some(admin) = self.edge.admin {
            writeln!(f, "  {:<24} http://{admin}", "admin REST")?;
        }
        writeln!(f, "  {:<24} http://{}", "internal REST", self.edge.internal)?;
        for service in Service::ALL {
            writeln!(f, "  {:<24} {}", format!("{} gRPC", service.name()), self.endpoints.addr(service))?;
        }
        if let Some(metrics) = self.metrics {
            writeln!(f, "  {:<24} http://{metrics}/metrics", "metrics")?;
        }
        match &self.tokens {
            Tokens::NotNeeded => {}
            Tokens::Made(file) => writeln!(f, "  {:<24} {}", "operator token", file.display())?,
            Tokens::Own(file) => writeln!(f, "  {:<24} those of {}", "operator tokens", file.display())?,
        }
        writeln!(f, "\nTry:\n\n  {}\n\n  {}\n", self.curl(), self.grpcurl())
    }
}

impl Banner {
    fn curl(&self) -> String {
        if self.edge.admin.is_none() {
            return format!("curl -sS http://{}/readyz", self.edge.public);
        }
        let body =
            r#"{"email":"ann@example.com","password":"orbit-lantern-72-quartz","org_name":"Acme, Inc."}"#;
        format!(
            "curl -sS http://{}/api/public/signup -H 'content-type: application/json' -d '{body}'",
            self.edge.public
        )
    }

    fn grpcurl(&self) -> String {
        let lifecycle = self.endpoints.addr(Service::Lifecycle);
        let list = format!("{lifecycle} pulse.lifecycle.v1.LifecycleAdminService/ListOrganizations");
        match &self.tokens {
            Tokens::NotNeeded => format!("grpcurl -plaintext {lifecycle} grpc.health.v1.Health/Check"),
            Tokens::Made(file) => format!(
                r#"grpcurl -plaintext -H "authorization: Bearer $(cat {})" {list}"#,
                quoted(&file.to_string_lossy())
            ),
            Tokens::Own(_) => format!(r#"grpcurl -plaintext -H "authorization: Bearer $TOKEN" {list}"#),
        }
    }
}

/// The text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word_in_a_shell() {
        for text in ["data/admin-token", "my data/it's $HOME/`x`", "a\\b"] {
            let echoed = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(text))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(echoed.stdout).unwrap(), text);
        }
    }
}
