//! Compiles `proto/` with protox, so that no protoc is needed.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

/// What is served; the rest is what it imports.
const SERVICE: &str = "envoy/service/auth/v3/external_auth.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    println!("cargo:rerun-if-changed={}", root.display());

    // Without comments, which are markup for another generator of documents.
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(false).open_file(SERVICE)?;
    let descriptors = compiler.file_descriptor_set();

    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    // As they are encoded here, they keep the options that the decoder does not know.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        .include_file("api.rs")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(())
}
