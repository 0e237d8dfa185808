//! The `firn-coordinator` program: runs a coordinator, or administers the one that runs on a data directory.

mod program;

use std::process::ExitCode;

use program::{Action, Cli};

fn main() -> ExitCode {
    let cli: Cli = firn_program::parse();
    cli.log.begin(cli.action.is_some());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return firn_program::failed(&error),
    };
    let result = runtime.block_on(async {
        match &cli.action {
            None => program::run(&cli.run, &cli.data_dir()?, None).await,
            Some(Action::Rebuild(arguments)) => {
                program::rebuild(arguments, &cli.run, &cli.data_dir()?, cli.json).await
            }
            Some(Action::Id) => program::print_id(&cli.data_dir()?),
            Some(action) => program::administer(action, &cli.data_dir()?, cli.json).await,
        }
    });
    // Blocking work that is under way (a snapshot) must not keep a stopped program alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => firn_program::failed(error.as_ref()),
    }
}
