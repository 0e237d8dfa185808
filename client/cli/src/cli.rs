//! The command line: its options are documented here and in the commands, and nowhere else.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use firn_program::LogOptions;

use crate::commands::bundle::BundleCommand;
use crate::commands::compact::CompactFlags;
use crate::commands::compare::CompareOptions;
use crate::commands::export::ExportOptions;
use crate::commands::gateway::GatewayFlags;
use crate::commands::get::GetOptions;
use crate::commands::key::KeyCommand;
use crate::commands::node::NodeCommand;
use crate::commands::path_info::PathInfoOptions;
use crate::commands::publish::PublishFlags;
use crate::commands::recover::RecoverOptions;
use crate::commands::repack::RepackFlags;
use crate::commands::stats::StatsOptions;
use crate::commands::status::StatusOptions;
use crate::commands::verify::VerifyOptions;

/// Publishes Nix store paths into a Firn archive, serves them to Nix, and looks after them.
///
/// Every long option may also stand in a TOML file that --config names, under its own name.
/// Exit codes: 0 done, 1 failed or not everything done, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "firn", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) log: LogOptions,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct CommonOptions {
    /// Take options that are not given here from this TOML file
    #[arg(long, global = true, value_name = "FILE", env = "FIRN_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The archive's descriptor: a file or an http(s) URL
    #[arg(long, global = true, value_name = "FILE|URL", env = "FIRN_ARCHIVE")]
    pub(crate) archive: Option<String>,
    /// Read as whom this key file names (`firn key generate`): nodes with bounded lines keep nine tenths of them for
    /// uploaders and operators of the archive [default: a stranger]
    #[arg(long, global = true, value_name = "FILE", env = "FIRN_READER_KEY")]
    pub(crate) reader_key: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish a binary cache into the archive
    Publish(PublishFlags),
    /// Serve the archive to Nix as a binary cache over HTTP
    Gateway(GatewayFlags),
    /// Fetch store paths, as a binary cache or unpacked
    Get(GetOptions),
    /// Write store paths, or all of the archive, as a binary cache
    Export(ExportOptions),
    /// Print what the archive knows of store paths, as narinfo text
    PathInfo(PathInfoOptions),
    /// Read objects back completely and check every hash
    Verify(VerifyOptions),
    /// Print the archive's state, or wait for one
    Status(StatusOptions),
    /// Look at storage nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Look at bundles
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Print how much is archived and what it takes
    Stats(StatsOptions),
    /// Restore a binary cache from bare shard files, without any archive
    Recover(RecoverOptions),
    /// Make and show the key files of uploaders and operators
    #[command(subcommand)]
    Key(KeyCommand),
    /// Compare a binary cache with the archive
    Compare(CompareOptions),
    /// Pack bundles anew that hold purged paths beside others, or use chunks of such
    Repack(RepackFlags),
    /// Pack small bundles together into full ones
    Compact(CompactFlags),
}

impl Command {
    /// Whether it runs until it is stopped.
    pub(crate) const fn serves(&self) -> bool {
        match self {
            Self::Gateway(_) => true,
            Self::Publish(flags) => flags.follows(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["firn"], words].concat())
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_manual_parses() {
        for words in [
            "publish /cache --paths - --uploader-key k --exclude *-doc --encoding verbatim --bundle-size 8MiB --dry-run",
            "publish /cache --share 3/16 --order sources,releases,recent,rest --release-paths f --paths https://a.example/l.xz",
            "publish http://cache.example --paths - --private-source --source-connections 4",
            "publish /cache --watch 10m --http 127.0.0.1:9100",
            "publish /cache --trusted-public-keys x:y --spool-dir /tmp --archive a",
            "publish /cache --keep-recipes",
            "gateway --archive a --listen 127.0.0.1:0 --cache-dir d --cache-size 20GB --memory-cache 256MB --when-unreadable retry",
            "get 4d20g8srpvv02vkiwrmz28g62m15n56b-tree --closure --output o --compression xz --listings",
            "get 4d20g8srpvv02vkiwrmz28g62m15n56b-tree --unpack --output o",
            "export 4d20g8srpvv02vkiwrmz28g62m15n56b --paths - --closure --to o --compression none --json",
            "export --all --to o --trusted-public-keys x:y",
            "export --all --to o --as-published --listings",
            "get 4d20g8srpvv02vkiwrmz28g62m15n56b-tree --output o --as-published",
            "export --publisher a-1 --publisher b-1 --to file:///o --compression zstd",
            "path-info /nix/store/4d20g8srpvv02vkiwrmz28g62m15n56b-tree --json",
            "verify --all --json",
            "verify 4d20g8srpvv02vkiwrmz28g62m15n56b",
            "status --json",
            "status --until full --timeout 60s",
            "status --until-nodes 13 --timeout 2m",
            "node list --json",
            "bundle list",
            "bundle show 3",
            "stats",
            "stats --by generation --json",
            "recover a b --output o --log-format json -v",
            "key generate f",
            "key show f",
            "compare /cache --paths - --list missing --json",
            "compare https://cache.example.org --paths f --list different",
            "repack --operator-key k --spool-dir /tmp --dry-run",
            "compact --operator-key k --spool-dir /tmp --older-than 1d --limit 100GB --dry-run",
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            assert!(parse(&words).is_ok(), "{:?}: {}", words, parse(&words).unwrap_err());
        }
    }

    #[test]
    fn wrong_usage_ends_with_code_2() {
        for words in [
            "",
            "publish",
            "get --output o",
            "get x --output o",
            "get 4d20g8srpvv02vkiwrmz28g62m15n56b --unpack --listings --output o",
            "export --all --to o x",
            "export --all --closure --to o",
            "export --all --publisher a --to o",
            "export --all",
            "export --all --to o --compression bzip2",
            "export --all --to o --compression xz --as-published",
            "get 4d20g8srpvv02vkiwrmz28g62m15n56b --unpack --as-published --output o",
            "compare /cache --list all",
            "stats --by size",
            "verify",
            "verify --all 4d20g8srpvv02vkiwrmz28g62m15n56b",
            "status --until never",
            "recover --output o",
            "recover a",
            "bundle show tiny",
            "publish a --bundle-size many",
            "publish a --share 0/16",
            "publish a --watch 10m --dry-run",
            "publish a --http 127.0.0.1:9100",
            "publish a --order newest",
            "publish a --source-connections 0",
            "compare a --source-connections 257",
        ] {
            let words: Vec<&str> = words.split_whitespace().collect();
            assert_eq!(parse(&words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }
}
