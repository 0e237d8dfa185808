//! `firn key`: key files of uploaders and operators.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use firn_transport::{Environment, load_identity, write_identity};
use firn_wire::Identity;
use serde::Serialize;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::output::print_as;

/// Make and show key files.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a new key, and print its public id: what an archive's operator adds as uploader or operator
    Generate {
        /// The file to write, readable by its owner only; there must be none yet
        file: PathBuf,
    },
    /// Print the public id of a key
    Show {
        /// The key's file
        file: PathBuf,
    },
}

#[derive(Serialize)]
struct PublicId {
    public_id: String,
}

/// Runs the command.
pub(crate) fn run(common: &CommonOptions, command: &KeyCommand) -> Result<Done, CommandError> {
    let identity = match command {
        KeyCommand::Generate { file } => generate(file)?,
        KeyCommand::Show { file } => load_identity(file)?,
    };
    let public_id = identity.public().to_string();
    print_as(common.json, &PublicId { public_id }, |id| id.public_id.clone())?;
    Ok(Done::Completely)
}

fn generate(file: &Path) -> Result<Identity, CommandError> {
    let identity = Identity::from_seed(&Environment::real().seed());
    write_identity(file, &identity)?;
    Ok(identity)
}
