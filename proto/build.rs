//! Generates the wire types. protox compiles the `.proto` files, so that nobody has to install protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "proto/equipoise/v1/cluster.proto";
    println!("cargo:rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
