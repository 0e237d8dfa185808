//! The `firn-local` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    firn_local::main()
}
