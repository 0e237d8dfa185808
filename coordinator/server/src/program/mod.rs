//! The program around the library: arguments, running, administration.

mod administration;
mod arguments;
mod coordinators;
mod desk;
mod disowning;
mod ledger_log;
mod purges;
mod rebuild;
mod resync;
mod running;
mod since;
mod suspensions;

pub(crate) use administration::administer;
pub(crate) use arguments::{Action, Cli};
pub(crate) use rebuild::rebuild;
pub(crate) use resync::resync;
pub(crate) use running::{print_id, run};

/// The arguments do not fit together: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUsage(pub(crate) &'static str);

/// An error for the person at the terminal.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
