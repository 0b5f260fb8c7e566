//! The generated code of `envoy.service.auth.v3`, by which Envoy asks whether a request may go on, and of what it imports.
//!
//! The files in `proto/` are as their authors publish them. Generated types stop in the service's own conversions.
#![expect(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code follows its generator's taste"
)]

tonic::include_proto!("api");

/// Every file in `proto/` and what it imports, as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
