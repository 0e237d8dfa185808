//! Arguments. What is written here is the manual.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use firn_base::{BitRate, ByteCount, parse_duration};
use firn_coordinator::RepairAt;
use firn_nix_format::PublisherKey;
use firn_program::LogOptions;

use crate::control::{Request, ask};
use crate::failure::Failure;
use crate::up;

/// A whole Firn archive on this machine in one process: coordinators, storage nodes and a gateway.
///
/// Every role is the real one and talks to the others over loopback QUIC. While `up` runs, `stop` and `start` kill
/// roles and start them again.
#[derive(Debug, Parser)]
#[command(name = "firn-local", version)]
pub(crate) struct Cli {
    /// Options from a TOML file; the command line and FIRN_… variables come first
    #[arg(long, value_name = "FILE", global = true, env = "FIRN_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) log: LogOptions,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the archive in a directory, founding it the first time, until SIGTERM or SIGINT
    Up(UpOptions),
    /// Kill a role, without its shutdown code
    Stop(RoleOptions),
    /// Start a role that was stopped
    Start(RoleOptions),
    /// Make and start one more storage node
    Add(AddOptions),
    /// Kill a storage node and do not start it again; its directory stays
    Remove(RemoveOptions),
}

/// Options of `up`.
#[derive(Debug, Args)]
pub(crate) struct UpOptions {
    /// Where everything lies; an empty or missing directory the first time
    #[arg(long, value_name = "DIR", env = "FIRN_DIR")]
    pub(crate) dir: PathBuf,
    /// How many coordinators a new archive has: 1, 3 or 5 [default: 3]
    #[arg(long, value_name = "N", value_parser = coordinators)]
    pub(crate) coordinators: Option<u16>,
    /// How many storage nodes a new archive has [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=STORAGE_NODES_MAX))]
    pub(crate) storage_nodes: Option<u16>,
    /// Address and TCP port of the gateway [default: the last one, at first 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) gateway: Option<SocketAddr>,
    /// A Nix signing key whose paths the archive accepts; may be repeated. A new archive for which none is named
    /// accepts those of cache.nixos.org
    #[arg(long, value_name = "KEY")]
    pub(crate) publisher: Vec<PublisherKey>,
    /// The most bytes that each storage node puts on the disk [default: the last one, at first 10GB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) quota: Option<ByteCount>,
    /// When a new archive repairs a bundle: at this many durable shards, or at any loss [default: the scheme's rule]
    #[arg(long, value_name = "N|full")]
    pub(crate) repair_at: Option<RepairAt>,
    /// A node that is silent for longer counts as lost in a new archive [default: 72h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) count_lost_after: Option<Duration>,
    /// How fast each storage node uploads at most, as 10Mbit/s; those that were added with a rate of their own keep it
    /// [default: the last one, at first as fast as they can]
    #[arg(long, value_name = "RATE")]
    pub(crate) max_upload: Option<BitRate>,
    /// Bundles are coded anew for a larger k once there were nodes enough for it this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1h")]
    pub(crate) recode_after: Duration,
    /// Shards of a bundle that was packed anew stay for readers this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10m")]
    pub(crate) erase_after: Duration,
    /// So many events of the feed come into a filter, instead of 2^20; always the same for one archive
    #[arg(long, value_name = "EVENTS", hide = true)]
    pub(crate) filter_unit: Option<u64>,
}

/// A role of a running archive.
#[derive(Debug, Args)]
pub(crate) struct RoleOptions {
    /// coordinator-N, storage-node-N or gateway
    role: String,
    /// The archive's directory
    #[arg(long, value_name = "DIR", env = "FIRN_DIR")]
    dir: PathBuf,
}

/// Options of `add`.
#[derive(Debug, Args)]
pub(crate) struct AddOptions {
    /// What to add
    #[arg(value_parser = ["storage-node"])]
    kind: String,
    /// How fast it uploads at most [default: as the others]
    #[arg(long, value_name = "RATE")]
    max_upload: Option<BitRate>,
    /// The archive's directory
    #[arg(long, value_name = "DIR", env = "FIRN_DIR")]
    dir: PathBuf,
}

/// Options of `remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveOptions {
    /// storage-node-N
    role: String,
    /// The archive's directory
    #[arg(long, value_name = "DIR", env = "FIRN_DIR")]
    dir: PathBuf,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
}

// Each is a thread and a port; more belong on several machines.
const STORAGE_NODES_MAX: i64 = 200;

fn coordinators(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(number @ (1 | 3 | 5)) => Ok(number),
        _ => Err("an archive has 1, 3 or 5 coordinators".to_owned()),
    }
}

/// Runs the command.
pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let (directory, request) = match command {
        Command::Up(options) => return up::run(options).await,
        Command::Stop(options) => (options.dir, Request::Stop { role: options.role }),
        Command::Start(options) => (options.dir, Request::Start { role: options.role }),
        Command::Add(options) => {
            let max_upload_bytes_per_second = options.max_upload.map(|rate| rate.bytes_per_second);
            (options.dir, Request::Add { kind: options.kind, max_upload_bytes_per_second })
        }
        Command::Remove(options) => {
            (options.dir, Request::Remove { role: options.role, dry_run: options.dry_run })
        }
    };
    println!("{}", ask(&directory, &request).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_manual_parses_and_others_do_not() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        for words in [
            "firn-local up --dir D",
            "firn-local up --dir D --coordinators 5 --storage-nodes 16 --gateway 127.0.0.1:1 --quota 10GB --recode-after 5m -v",
            "firn-local up --dir D --max-upload 10Mbit/s --count-lost-after 20s",
            "firn-local up --dir D --repair-at full",
            "firn-local up --dir D --publisher cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
            "firn-local stop coordinator-1 --dir D",
            "firn-local start storage-node-16 --dir D",
            "firn-local add storage-node --dir D --max-upload 1Mbit/s",
            "firn-local remove storage-node-3 --dir D --dry-run",
        ] {
            assert!(parse(words).is_ok(), "{words}");
        }
        for words in [
            "firn-local",
            "firn-local up --dir D --coordinators 2",
            "firn-local up --dir D --storage-nodes 0",
            "firn-local up --dir D --publisher x",
            "firn-local add gateway --dir D",
        ] {
            assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words}");
        }
    }
}
