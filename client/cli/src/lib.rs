//! The `firn` program: publishing into an archive, serving it, reading it, looking at it.
//!
//! Owns: flags, what is printed, exit codes, unpacking NARs and writing binary caches to disk. Always holds:
//! data goes to stdout, everything else to stderr; a command that could not do all it was asked for ends with
//! code 1 and says what is missing; files appear under their names only when they are complete and checked.
//! Leaves to others: publishing (`firn-client`), serving (`firn-gateway`), reading (`firn-retrieval`).

mod cache_check;
mod cache_directory;
mod cli;
mod command_error;
mod commands;
mod comparison;
mod export;
mod export_summary;
mod feed_keys;
mod file_writer;
mod metrics_port;
mod nar_encoder;
mod object_writer;
mod output;
mod path_list;
mod path_search;
mod progress;
mod record_finder;
mod recovery;
mod recovery_summary;
mod report;
mod runtime;
mod service_manager;
mod session;
mod source_flags;
mod store_path_argument;
mod table;
mod takings;
mod unpack;
mod watch;
mod withdrawals;

use std::process::ExitCode;
use std::time::Duration;

use crate::cli::Cli;
use crate::command_error::{CommandError, Done};

// Half-written files are removed within it.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

/// Runs the program with this process's arguments.
pub fn main() -> ExitCode {
    let cli: Cli = firn_program::parse();
    cli.log.begin(!cli.command.serves());
    let runtime = match runtime::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return firn_program::failed(&error),
    };
    let ended = runtime.block_on(async {
        if cli.command.serves() {
            // It stops by itself, in order.
            return commands::run(cli).await;
        }
        tokio::select! {
            ended = commands::run(cli) => ended,
            () = firn_program::stop_signal() => Err(CommandError::Stopped),
        }
    });
    // Work that reads standard input cannot be stopped, only left behind.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    match ended {
        Ok(Done::Completely) => ExitCode::SUCCESS,
        Ok(Done::Incompletely) => ExitCode::FAILURE,
        Err(CommandError::Usage(sentence)) => {
            eprintln!("error: {sentence}");
            ExitCode::from(2)
        }
        // Whoever closed our output, as `head` does, has seen enough.
        Err(CommandError::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => firn_program::failed(&error),
    }
}
