//! Switches the library's sources, which this crate includes, over to loom's primitives. Only this
//! crate is compiled that way, so that no flag has to be given to cargo.

fn main() {
    println!("cargo:rustc-check-cfg=cfg(loom)");
    println!("cargo:rustc-cfg=loom");
    println!("cargo:rerun-if-changed=build.rs");
}
