//! Compiles `proto/` with protox, so that no protoc is needed.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use prost::Message;

/// Messages that hold a password: their `Debug` is written by hand in `lib.rs` and shows none.
const REDACTED: &[&str] = &[
    "pulse.signup.v1.SignUpRequest",
    "pulse.provisioner.v1.ProvisionTenantRequest",
    "pulse.provisioner.v1.VerifyCredentialsRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());

    let mut files = Vec::new();
    for area in fs::read_dir(root.join("pulse"))? {
        for file in fs::read_dir(area?.path().join("v1"))? {
            files.push(file?.path());
        }
    }
    files.sort();

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let descriptors = compiler.file_descriptor_set();

    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    // Comments are for readers of the generated code; reflection clients have no use for their bulk.
    let mut bare = descriptors.clone();
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    fs::write(out.join("descriptors.bin"), bare.encode_to_vec())?;

    tonic_prost_build::configure().skip_debug(REDACTED).compile_fds(descriptors)?;
    Ok(())
}
