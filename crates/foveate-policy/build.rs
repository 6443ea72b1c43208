//! Builds the calls of libtorch that tch does not bind, and writes where libtorch is into this package's programs.

#[path = "../../.cargo/rpath.rs"]
mod rpath;

use std::{env, path::PathBuf};

fn main() {
    rpath::main();
    const SOURCES: [&str; 2] = ["src/adamw/fused.cpp", "src/device_memory.cpp"];
    SOURCES.iter().for_each(|source| println!("cargo:rerun-if-changed={source}"));
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        return;
    };
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .flag("-isystem")
        .flag(libtorch.join("include"))
        .files(SOURCES)
        .compile("foveate_fused");
}
