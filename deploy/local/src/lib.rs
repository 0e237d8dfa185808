//! The `firn-local` program: a whole archive in one process, every role real.
//!
//! Owns: founding an archive on one machine, running each role on a thread and runtime of its own, killing and
//! starting roles while the others run. Always holds: a role shares nothing with the others but the machine: all
//! they say to each other goes over loopback QUIC; a role that was stopped ended as by kill -9, and its locks and
//! port are free when that is said; ports are kept, so that a later start is the same archive.
//! Leaves to others: everything that a role does (`firn-coordinator`, `firn-storage-node`, `firn-gateway`).

mod archive;
mod cli;
mod control;
mod coordinator_role;
mod failure;
mod founding;
mod gateway_role;
mod governance;
mod holdings;
mod place;
mod ports;
mod readiness;
mod role;
mod role_thread;
mod settings;
mod storage_node_role;
mod up;

use std::process::ExitCode;

use crate::cli::Cli;

/// Runs the program with this process's arguments.
pub fn main() -> ExitCode {
    let cli: Cli = firn_program::parse();
    // Twenty roles that each say what they do would drown what this program has to say.
    cli.log.begin(true);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return firn_program::failed(&error),
    };
    match runtime.block_on(cli::run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => firn_program::failed(error.as_ref()),
    }
}
