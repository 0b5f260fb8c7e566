//! The generated code of everything in `proto/`: messages, clients and servers, one module a package.
//!
//! Nothing is written by hand here but the `Debug` of the messages that carry a password.
//! Generated types stop in each service's `convert.rs`.
#![expect(
    clippy::pedantic,
    clippy::large_enum_variant,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code follows its generator's taste"
)]

use std::fmt;

macro_rules! packages {
    ($($area:ident = $package:literal;)*) => {
        /// The packages, as in their protobuf names.
        pub mod pulse {
            $(pub mod $area { pub mod v1 { tonic::include_proto!($package); } })*
        }
    };
}

packages! {
    audit = "pulse.audit.v1";
    billing = "pulse.billing.v1";
    lifecycle = "pulse.lifecycle.v1";
    provisioner = "pulse.provisioner.v1";
    signup = "pulse.signup.v1";
    watch = "pulse.watch.v1";
}

pub use pulse::{audit, billing, lifecycle, provisioner, signup, watch};

/// Every file in `proto/` and what it imports, as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

impl fmt::Debug for signup::v1::SignUpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignUpRequest").field("client_ip", &self.client_ip).finish_non_exhaustive()
    }
}

impl fmt::Debug for provisioner::v1::ProvisionTenantRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProvisionTenantRequest").finish_non_exhaustive()
    }
}

impl fmt::Debug for provisioner::v1::VerifyCredentialsRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyCredentialsRequest").field("client_ip", &self.client_ip).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_password_and_no_email() {
        let request = provisioner::v1::ProvisionTenantRequest {
            owner_email: "ann@example.com".into(),
            password: "canary-password".into(),
            org_name: "Acme".into(),
        };
        let shown = format!("{request:?}");
        assert!(!shown.contains("canary") && !shown.contains("ann@"), "{shown}");
    }
}
