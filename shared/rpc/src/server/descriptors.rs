//! The schema that a server admits to: the files of its services and what those import, and nothing of services that
//! it does not serve.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use prost::{DecodeError, Message};
use prost_types::FileDescriptorProto;

use crate::layers::methods::Service;

/// Standard services that every server has.
pub(crate) const HEALTH: &str = "grpc.health.v1.Health";
pub(crate) const REFLECTION_V1: &str = "grpc.reflection.v1.ServerReflection";
pub(crate) const REFLECTION_V1ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// A `FileDescriptorSet` whose files stay encoded: decoding and encoding them would lose options that the decoder
/// does not know, such as `debug_redact`.
#[derive(Clone, PartialEq, Message)]
struct EncodedFiles {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

#[derive(Debug, Clone)]
struct File {
    proto: FileDescriptorProto,
    encoded: Bytes,
}

/// Schema files by name.
#[derive(Debug, Clone)]
pub(crate) struct Descriptors(BTreeMap<String, File>);

impl Descriptors {
    /// Reads encoded `FileDescriptorSet`s, and adds those of the standard services.
    pub(crate) fn read(sets: &[&'static [u8]]) -> Result<Self, DecodeError> {
        let standard = [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut files = BTreeMap::new();
        for set in sets.iter().chain(&standard) {
            for encoded in EncodedFiles::decode(*set)?.file {
                let proto = FileDescriptorProto::decode(encoded.clone())?;
                files.entry(proto.name().to_owned()).or_insert(File { proto, encoded });
            }
        }
        Ok(Self(files))
    }

    /// What is left when only `services` exist.
    pub(crate) fn only(mut self, services: &[&str]) -> Self {
        let mut wanted = HashSet::new();
        let mut queue: Vec<String> =
            self.0.values().filter(|file| file.has_any(services)).map(File::name).collect();
        while let Some(name) = queue.pop() {
            if let Some(file) = self.0.get(&name)
                && wanted.insert(name)
            {
                queue.extend(file.proto.dependency.iter().cloned());
            }
        }
        self.0.retain(|name, _| wanted.contains(name));
        for file in self.0.values_mut() {
            file.keep_only(services);
        }
        self
    }

    /// The services and their methods.
    pub(crate) fn services(&self) -> Vec<Service> {
        let of_file = |file: &File| {
            let package = file.proto.package().to_owned();
            let services = file.proto.service.clone();
            services.into_iter().map(move |service| Service {
                name: full_name(&package, service.name()),
                methods: service.method.iter().map(|method| method.name().to_owned()).collect(),
            })
        };
        self.0.values().flat_map(of_file).collect()
    }

    /// The encoded `FileDescriptorSet`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let file = self.0.values().map(|file| file.encoded.clone()).collect();
        EncodedFiles { file }.encode_to_vec()
    }
}

impl File {
    fn name(&self) -> String {
        self.proto.name().to_owned()
    }

    fn has_any(&self, services: &[&str]) -> bool {
        let package = self.proto.package();
        self.proto.service.iter().any(|service| services.contains(&&*full_name(package, service.name())))
    }

    /// Takes out services that are not among `services`. Here each has a file of its own, so that a file which is
    /// imported has none and is left as it is.
    fn keep_only(&mut self, services: &[&str]) {
        let package = self.proto.package().to_owned();
        let before = self.proto.service.len();
        self.proto.service.retain(|service| services.contains(&&*full_name(&package, service.name())));
        if self.proto.service.len() != before {
            self.encoded = self.proto.encode_to_vec().into();
        }
    }
}

fn full_name(package: &str, name: &str) -> String {
    if package.is_empty() { name.to_owned() } else { format!("{package}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(services: &[&str]) -> Descriptors {
        Descriptors::read(&[pulse_proto::FILE_DESCRIPTOR_SET]).unwrap().only(services)
    }

    #[test]
    fn shows_what_is_served_and_its_imports_only() {
        let schema = schema(&["pulse.billing.v1.EntitlementService", HEALTH]);
        let names: Vec<_> = schema.services().into_iter().map(|service| service.name).collect();
        assert_eq!(names, [HEALTH, "pulse.billing.v1.EntitlementService"]);
        assert!(schema.0.contains_key("google/protobuf/timestamp.proto"));
        assert!(
            schema.0.keys().all(|name| !name.contains("admin") && !name.contains("signup")),
            "{schema:?}"
        );
    }

    #[test]
    fn a_service_beside_a_served_one_is_taken_out() {
        let mut all = Descriptors::read(&[pulse_proto::FILE_DESCRIPTOR_SET]).unwrap();
        let file =
            all.0.values_mut().find(|file| file.name().ends_with("entitlement_service.proto")).unwrap();
        let mut other = file.proto.service[0].clone();
        other.name = Some("HiddenService".into());
        file.proto.service.push(other);
        let schema = all.only(&["pulse.billing.v1.EntitlementService"]);
        assert!(!String::from_utf8_lossy(&schema.encode()).contains("HiddenService"));
    }

    #[test]
    fn options_survive() {
        let schema = schema(&["pulse.signup.v1.SignupService"]);
        let original = EncodedFiles::decode(pulse_proto::FILE_DESCRIPTOR_SET).unwrap();
        assert!(original.file.contains(&schema.0["pulse/signup/v1/signup_service.proto"].encoded));
    }
}
