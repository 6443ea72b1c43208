//! Builds the calls of libtorch that tch does not bind and what is written in C++ beside them, and writes where libtorch is into this package's programs.

#[path = "../../.cargo/rpath.rs"]
mod rpath;

use std::{env, path::PathBuf};

fn main() {
    rpath::main();
    const SOURCES: [&str; 3] = ["src/adamw/fused.cpp", "src/device_memory.cpp", "src/qwen/framewise.cpp"];
    SOURCES.iter().chain(&["src/native.h"]).for_each(|file| println!("cargo:rerun-if-changed={file}"));
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        return;
    };
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .flag("-isystem")
        .flag(libtorch.join("include"))
        // Whatever the profile: loops over numbers become vector instructions, and run on libtorch's threads.
        .opt_level(3)
        .flags(["-fopenmp", "-fno-math-errno", "-fno-trapping-math"])
        .files(SOURCES)
        .compile("foveate_fused");
    println!("cargo:rustc-link-lib=dylib=gomp"); // at run time the one that libtorch brings
}
