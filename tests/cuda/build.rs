//! Builds the library that stands in for libtorch_cuda.

use std::{env, path::PathBuf};

const SOURCES: [&str; 2] = ["src/device.cpp", "src/operations.cpp"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    SOURCES.iter().for_each(|file| println!("cargo:rerun-if-changed={file}"));
    let libtorch = PathBuf::from(env::var_os("LIBTORCH").ok_or("LIBTORCH is not set; see scripts/bootstrap")?);
    let library = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?).join("libcuda_stand_in.so");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").pic(true).opt_level(1).flag("-isystem").flag(libtorch.join("include"));
    let objects = build.files(SOURCES).try_compile_intermediates()?;
    let mut link = build.get_compiler().to_command();
    link.arg("-shared").args(objects).arg("-o").arg(&library);
    let status = link.arg("-L").arg(libtorch.join("lib")).args(["-ltorch_cpu", "-lc10"]).status()?;
    println!("cargo:rustc-env=CUDA_STAND_IN={}", library.display());
    println!("cargo:rustc-env=LIBTORCH_AT_BUILD={}", libtorch.display());
    if status.success() { Ok(()) } else { Err(format!("linking the library failed: {status}").into()) }
}
