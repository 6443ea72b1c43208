//! Build script of the packages whose programs load libtorch: writes where it is into them, so that they run from any
//! folder and without `LD_LIBRARY_PATH`.

use std::{env, path::PathBuf};

pub(crate) fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        return;
    };
    // First through the checkout's link, so that a program follows it to another libtorch without being linked again;
    // then the place itself, for a program that outlives the checkout.
    let linked = libtorch.join("lib");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", linked.display());
    if let Ok(lib) = linked.canonicalize() {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
}
