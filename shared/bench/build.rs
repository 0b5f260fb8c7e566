//! Compiles `proto/` with protox, so that no protoc is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["pulse/bench/v1/echo_service.proto"], ["proto"])?;
    // The answer's payload is shared between answers, not copied for each.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
