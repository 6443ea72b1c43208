//! Builds the calls of libtorch that tch does not bind and an operation of our own, and writes where libtorch is into this
//! package's programs. The C++ is for GCC, 12 or later.

#[path = "../../.cargo/rpath.rs"]
mod rpath;

use std::{env, path::PathBuf};

const CALLS: [&str; 3] = ["src/adamw/fused.cpp", "src/memory.cpp", "src/operations.cpp"];
const FRAMEWISE: &str = "src/qwen/framewise.cpp";

fn main() {
    rpath::main();
    CALLS.iter().chain(&[FRAMEWISE, "src/native.h"]).for_each(|file| println!("cargo:rerun-if-changed={file}"));
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        return;
    };
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").flag("-isystem").flag(libtorch.join("include"));
    build.clone().files(CALLS).compile("foveate_calls");
    // Whatever the profile, its loops become vector instructions and run on libtorch's threads.
    build.opt_level(3).flags(["-fopenmp", "-fno-math-errno", "-fno-trapping-math"]);
    build.file(FRAMEWISE).compile("foveate_framewise");
    println!("cargo:rustc-link-lib=dylib=gomp"); // at run time the one that libtorch brings
}
