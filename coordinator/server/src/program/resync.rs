//! Rebuilding a coordinator from the others: what is done while it does not run.

use std::path::Path;

use firn_coordinator::Home;
use firn_transport::Environment;

use super::Failure;

/// Fewer than these cannot take one of them back: the others must be a majority.
const COORDINATORS_MIN: usize = 3;

/// Moves log and state of the coordinator in `directory` aside.
pub(crate) fn resync(directory: &Path, dry_run: bool) -> Result<(), Failure> {
    // Where nothing is, nothing is made.
    if !directory.is_dir() {
        return Err(format!(
            "{} is not there: name the data directory of a coordinator",
            directory.display()
        )
        .into());
    }
    let home = Home::open(directory, &Environment::real())?;
    let Some(descriptor) = home.descriptor()? else {
        return Err("this coordinator knows no archive: there is nothing to rebuild it from".into());
    };
    let roster = descriptor.verify()?;
    if roster.entry(home.identity().node_id()).is_none() {
        return Err(
            "the roster does not name this coordinator: start a new one with an empty --data-dir, and use \
                    `firn-coordinator member add` on one that runs"
                .into(),
        );
    }
    let coordinators = roster.roster().coordinators.len();
    if coordinators < COORDINATORS_MIN {
        return Err(format!(
            "of {coordinators} coordinators the others are no majority, so they cannot rebuild this one"
        )
        .into());
    }
    if dry_run {
        println!("would move log and state of {} aside", directory.display());
        return Ok(());
    }
    match home.begin_resync()? {
        Some(aside) => println!(
            "log and state are in {} now, and may be deleted once this coordinator has its vote again",
            aside.display()
        ),
        None => println!("there is neither log nor state"),
    }
    println!(
        "start this coordinator: the others take it back and give it the archive's state, then its vote"
    );
    Ok(())
}
