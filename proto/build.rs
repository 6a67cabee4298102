//! Generates the wire types. protox compiles the `.proto` files, so that nobody has to install protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/equipoise/v1/cluster.proto", "proto/equipoise/v1/fallback.proto"];
    files.iter().for_each(|file| println!("cargo:rerun-if-changed={file}"));
    let descriptors = protox::compile(files, ["proto"])?;
    // Sorted, so that the same policy always has the same bytes, and with them the same hash.
    let sorted = ".equipoise.v1.Locality";
    let config = tonic_prost_build::configure().bytes(".").btree_map(sorted);
    // It holds private keys: `v1.rs` shows it without.
    let config = config.skip_debug([".equipoise.v1.Certificate"]);
    config.codec_path("crate::codec::StreamCodec").compile_fds(descriptors)?;
    Ok(())
}
