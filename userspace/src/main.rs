//! The `vxplane` binary: daemon and command line in one.

use std::process::ExitCode;

fn main() -> ExitCode {
    vxplane::cli::main()
}
