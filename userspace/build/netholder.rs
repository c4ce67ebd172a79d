//! Compiles the program that runs in network-only containers. It is a static
//! executable of its own, so it cannot be a target of this package; and as a
//! single file without dependencies it needs nothing but the compiler.

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "netholder/main.rs";

/// Leaves the executable at `$OUT_DIR/netholder`.
pub(crate) fn build() {
    println!("cargo::rerun-if-changed={SOURCE}");
    if let Err(reason) = compile() {
        println!(
            "cargo::error=the network-only container's program ({SOURCE}) was not built: {reason}"
        );
    }
}

fn compile() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let target = variable("TARGET")?;
    if !["x86_64-", "aarch64-"]
        .iter()
        .any(|known| target.starts_with(known))
    {
        return Err(format!("it knows no system calls of {target}; add them"));
    }
    let output = PathBuf::from(variable("OUT_DIR")?).join("netholder");
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc.args([
        "--edition",
        "2024",
        "--crate-type",
        "bin",
        "--crate-name",
        "netholder",
    ]);
    rustc
        .args(["--target", &target, "-o"])
        .arg(&output)
        .arg(SOURCE);
    for option in [
        "panic=abort",
        "opt-level=s",
        "strip=symbols",
        "relocation-model=static",
    ] {
        rustc.args(["-C", option]);
    }
    // A program without start-up code or libraries of any kind.
    for option in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-Wl,--build-id=none",
    ] {
        rustc.arg(format!("-Clink-arg={option}"));
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    let status = rustc
        .status()
        .map_err(|error| format!("{rustc:?}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{rustc:?}: {status}"))
    }
}
