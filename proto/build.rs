//! Generates the Rust code of the messages and the service.

use std::{env, error::Error, fs, path::PathBuf};

#[expect(clippy::disallowed_methods, reason = "cargo names the folder in a variable")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    // A compiler in Rust, so that no machine needs protoc.
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file("grpc_service.proto")?;
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    let generated = tonic_prost_build::configure();
    // Tensors stay slices of the message in which they arrived.
    generated.bytes(".").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
