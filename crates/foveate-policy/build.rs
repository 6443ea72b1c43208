//! Builds the calls of libtorch that tch does not bind, and writes where libtorch is into this package's programs.

#[path = "../../.cargo/rpath.rs"]
mod rpath;

use std::{env, path::PathBuf};

fn main() {
    rpath::main();
    println!("cargo:rerun-if-changed=src/adamw/fused.cpp");
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        return;
    };
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .flag("-isystem")
        .flag(libtorch.join("include"))
        .file("src/adamw/fused.cpp")
        .compile("foveate_fused");
}
