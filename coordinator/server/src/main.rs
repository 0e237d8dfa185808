//! The `firn-coordinator` program: runs a coordinator, or administers the one that runs on a data directory.

mod program;

use std::process::ExitCode;

use program::{Action, Cli, WrongUsage};

fn main() -> ExitCode {
    let cli: Cli = firn_program::parse();
    cli.log.begin(!cli.runs());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return firn_program::failed(&error),
    };
    let result = runtime.block_on(async {
        match &cli.action {
            None => program::run(&cli.run, &cli.data_dir()?, None).await,
            Some(Action::Rebuild(arguments)) if cli.runs() => {
                program::rebuild(arguments, &cli.archive, &cli.run, &cli.data_dir()?).await
            }
            Some(action) => program::administer(action, &cli.desk().await?, cli.json).await,
        }
    });
    // Blocking work that is under way (a snapshot) must not keep a stopped program alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<WrongUsage>() => {
            firn_program::failed(error.as_ref());
            ExitCode::from(2)
        }
        Err(error) => firn_program::failed(error.as_ref()),
    }
}
