//! One file per command: its options, and what it prints.

pub(crate) mod bundle;
pub(crate) mod compact;
pub(crate) mod compare;
pub(crate) mod export;
pub(crate) mod gateway;
pub(crate) mod get;
pub(crate) mod key;
pub(crate) mod node;
pub(crate) mod path_info;
pub(crate) mod publish;
pub(crate) mod recover;
pub(crate) mod repack;
mod server_flags;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod verify;

use firn_nix_format::PublisherKey;

use crate::cli::{Cli, Command};
use crate::command_error::{CommandError, Done};

/// Runs the command that was given.
pub(crate) async fn run(cli: Cli) -> Result<Done, CommandError> {
    let common = cli.common;
    match cli.command {
        Command::Publish(options) => publish::run(&common, options).await,
        Command::Gateway(options) => gateway::run(&common, options).await,
        Command::Export(options) => export::run(&common, options).await,
        Command::Get(options) => get::run(&common, options).await,
        Command::PathInfo(options) => path_info::run(&common, options).await,
        Command::Verify(options) => verify::run(&common, options).await,
        Command::Status(options) => status::run(&common, options).await,
        Command::Node(command) => node::run(&common, &command).await,
        Command::Bundle(command) => bundle::run(&common, &command).await,
        Command::Stats(options) => stats::run(&common, &options).await,
        Command::Recover(options) => recover::run(&common, options).await,
        Command::Key(command) => key::run(&common, &command),
        Command::Compare(options) => compare::run(&common, options).await,
        Command::Repack(flags) => repack::run(&common, flags).await,
        Command::Compact(flags) => compact::run(&common, flags).await,
    }
}

/// Keys as Nix writes them, several separated by white space; none if none was given.
fn trusted_keys(texts: &[String]) -> Result<Option<Vec<PublisherKey>>, CommandError> {
    let keys = texts.iter().flat_map(|text| text.split_whitespace()).map(|text| {
        let key = text.parse::<PublisherKey>();
        key.map_err(|error| CommandError::Usage(format!("--trusted-public-keys: {error}")))
    });
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    Ok((!keys.is_empty()).then_some(keys))
}

#[cfg(test)]
mod tests {
    use firn_nix_format::PublisherSecretKey;

    use super::*;

    #[test]
    fn keys_come_one_by_one_or_in_one_text() {
        let key = |name| PublisherSecretKey::from_seed(name, &[1; 32]).unwrap().public_key();
        let (one, two) = (key("a"), key("b"));
        let together = trusted_keys(&[format!("{one} {two}")]).unwrap();
        assert_eq!(together, trusted_keys(&[one.to_string(), two.to_string()]).unwrap());
        assert_eq!(together.map(|keys| keys.len()), Some(2));
        assert!(trusted_keys(&[String::new()]).unwrap().is_none());
        assert!(matches!(trusted_keys(&["x".to_owned()]), Err(CommandError::Usage(_))));
    }
}
