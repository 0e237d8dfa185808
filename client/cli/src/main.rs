//! The `firn` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    firn_cli::main()
}
