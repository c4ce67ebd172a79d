//! Hands the built eBPF object to the crate, which carries it inside the binary.
//! Building it is `cargo xtask build-ebpf`'s business.

use std::{env, path::PathBuf};

/// Where `cargo xtask build-ebpf` leaves the object, below the target directory.
const OBJECT: &str = "bpf/bpfel-unknown-none/release/vxplane-ebpf";

/// Names the object to the compiler, or says how to build it.
pub(crate) fn embed() {
    println!("cargo::rerun-if-env-changed=VXPLANE_EBPF_OBJECT");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let candidates = candidates();
    for candidate in &candidates {
        println!("cargo::rerun-if-changed={}", candidate.display());
    }
    match candidates.iter().find(|path| path.is_file()) {
        Some(object) => println!("cargo::rustc-env=VXPLANE_EBPF_OBJECT={}", object.display()),
        None => println!(
            "cargo::error=the eBPF object is not built (looked for {}): run `cargo xtask build-ebpf`",
            candidates
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

/// The paths the object may be at, best first.
fn candidates() -> Vec<PathBuf> {
    if let Some(path) = env::var_os("VXPLANE_EBPF_OBJECT") {
        return vec![PathBuf::from(path)];
    }
    let mut targets = Vec::new();
    // cargo resolves a relative CARGO_TARGET_DIR against its own working
    // directory, which a build script does not know; OUT_DIR is always below.
    if let Some(out) = env::var_os("OUT_DIR") {
        let out = PathBuf::from(out);
        targets.extend(
            out.ancestors()
                .filter(|dir| dir.join("CACHEDIR.TAG").is_file())
                .map(PathBuf::from),
        );
    }
    if let Some(manifest) = env::var_os("CARGO_MANIFEST_DIR") {
        targets.extend(
            PathBuf::from(manifest)
                .parent()
                .map(|root| root.join("target")),
        );
    }
    targets.into_iter().map(|dir| dir.join(OBJECT)).collect()
}
