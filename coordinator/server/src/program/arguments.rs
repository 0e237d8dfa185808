//! Arguments. What is written here is the manual.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use firn_base::{DiskWindows, NodeId, ObjectKey, PublicKey, parse_duration};
use firn_coordinator::{Peer, ROUND_TRIP_MAX, RepairAt};
use firn_program::LogOptions;
use firn_wire::{DomainRule, OperatorRole, Policy};

use super::desk::Desk;
use super::since::Since;
use super::{Failure, WrongUsage};

/// Coordinator of a Firn archive: decides with its peers who holds what.
///
/// Without a command it runs. The commands administer the coordinator that runs on --data-dir, or, with --operator-key and
/// --archive, the archive from anywhere, as far as the operator's role goes.
#[derive(Debug, Parser)]
#[command(name = "firn-coordinator", version)]
pub(crate) struct Cli {
    /// Options from a TOML file; the command line and FIRN_… variables come first
    #[arg(long, value_name = "FILE", global = true, env = "FIRN_CONFIG")]
    config: Option<PathBuf>,
    /// Keys, log and state; made if it is empty
    #[arg(long, value_name = "DIR", global = true, env = "FIRN_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Administer with this operator's key (`firn key generate` makes one) instead of on a coordinator's machine
    #[arg(long, value_name = "FILE", global = true, env = "FIRN_OPERATOR_KEY")]
    operator_key: Option<PathBuf>,
    /// The archive's descriptor, with --operator-key: `archive.firn` in a coordinator's data directory, or the URL
    /// http://HOST:PORT/archive of its HTTP port. For rebuild the newest file at hand, as every node (`archive` in its data
    /// directory) and gateway keeps it; once for each of several
    #[arg(long, value_name = "FILE|URL", global = true, env = "FIRN_ARCHIVE")]
    pub(crate) archive: Vec<String>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) log: LogOptions,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    #[command(subcommand)]
    pub(crate) action: Option<Action>,
}

/// What a running coordinator is told.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// UDP address for nodes, clients and other coordinators
    #[arg(long, value_name = "ADDR", env = "FIRN_LISTEN")]
    pub(crate) listen: Option<SocketAddr>,
    /// TCP address for /archive, /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDR", env = "FIRN_HTTP")]
    pub(crate) http: Option<SocketAddr>,
    /// HOST:PORT at which others reach --listen, if it differs
    #[arg(long, value_name = "HOST:PORT", env = "FIRN_ADVERTISE")]
    pub(crate) advertise: Option<String>,
    /// Another coordinator, once for each; its ID is what `firn-coordinator id` prints there
    #[arg(long, value_name = "ID@HOST:PORT", env = "FIRN_PEER", value_delimiter = ',')]
    pub(crate) peer: Vec<Peer>,
    /// Found a new archive with this coordinator and its peers; its key is written to archive.key
    #[arg(long)]
    pub(crate) bootstrap: bool,
    /// What keeps shards of one bundle apart; for --bootstrap
    #[arg(long, value_enum, default_value_t = Domains::Named)]
    domains: Domains,
    /// In a public archive, let the failure domain that a node declares keep it apart from others of its network and
    /// address prefix, as one does that a token gave it; for --bootstrap
    #[arg(long)]
    trust_declared_domains: bool,
    /// Repair at this many durable shards, or at any loss; default: the scheme's own rule; for --bootstrap
    #[arg(long, value_name = "N|full")]
    repair_at: Option<RepairAt>,
    /// A node that is offline for longer counts as lost; for --bootstrap
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "72h")]
    count_lost_after: Duration,
    /// Whether repair waits when much of the fleet vanishes at once; for --bootstrap
    #[arg(long, value_enum, default_value_t = Switch::On)]
    brake: Switch,
    /// Bundles are coded anew for a larger k once the fleet was wide enough for it this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1h", env = "FIRN_RECODE_AFTER")]
    pub(crate) recode_after: Duration,
    /// How long a message between coordinators and its answer are under way at most, up to 2s; the same for all of them.
    /// Elections wait accordingly: when a leader dies, writes resume within 3 s at 80ms or less, within 10 s at 300ms
    #[arg(long, value_name = "DURATION", value_parser = parse_round_trip, default_value = "80ms", env = "FIRN_ROUND_TRIP")]
    pub(crate) round_trip: Duration,
    /// Shards of a bundle that was packed anew stay for readers this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10m", env = "FIRN_ERASE_AFTER")]
    pub(crate) erase_after: Duration,
    /// In how many windows of a day shards are moved, and repairs made that are not urgent: 1, 2, 3, 4, 6, 8, 12 or 24,
    /// counted from midnight UTC, each open for a sixth of its time. Storage nodes begin to read their shards again in the
    /// same windows, so that disks rest in between; compaction is not held to them. The same for all coordinators [default:
    /// at any time]
    #[arg(long, value_name = "N", env = "FIRN_DISK_WINDOWS")]
    pub(crate) disk_windows: Option<DiskWindows>,
    /// Networks and countries of addresses, as a text of ranges in the format of iptoasn.com; without it a public archive
    /// does not look at them
    #[arg(long, value_name = "FILE", env = "FIRN_ADDRESS_TABLE")]
    pub(crate) address_table: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Domains {
    /// Operators, address prefixes, ASes and countries
    Public,
    /// The name that each node's owner gives
    Named,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// A round trip between coordinators, in one of the units of all durations.
fn parse_round_trip(text: &str) -> Result<Duration, String> {
    let round_trip = parse_duration(text).map_err(|error| error.to_string())?;
    if round_trip > ROUND_TRIP_MAX {
        return Err(format!(
            "coordinators that are more than {} s apart, there and back, cannot elect a leader in good time: give the \
             longest round trip between any two of them, or place them nearer",
            ROUND_TRIP_MAX.as_secs()
        ));
    }
    Ok(round_trip)
}

impl RunOptions {
    /// The policy that a new archive begins with.
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            domains: match self.domains {
                Domains::Public => DomainRule::Public,
                Domains::Named => DomainRule::Named,
            },
            repair_at: self.repair_at.and_then(RepairAt::shards),
            repair_at_full: self.repair_at == Some(RepairAt::Full),
            count_lost_after_millis: u64::try_from(self.count_lost_after.as_millis()).unwrap_or(u64::MAX),
            brake: self.brake == Switch::On,
            trust_declared_domains: self.trust_declared_domains,
        }
    }
}

impl Cli {
    /// Whether this process is to be a coordinator, not to ask one.
    pub(crate) const fn runs(&self) -> bool {
        matches!(self.action, None | Some(Action::Rebuild(RebuildArguments { action: None, .. })))
    }

    /// The data directory of the coordinator that this process is or was.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, Failure> {
        let missing = match self.operator_key {
            Some(_) => {
                "this works on the coordinator's own machine alone: name its data directory with --data-dir"
            }
            None => "name the data directory with --data-dir",
        };
        self.data_dir.clone().ok_or_else(|| WrongUsage(missing).into())
    }

    /// Where administration is asked for.
    pub(crate) async fn desk(&self) -> Result<Desk, Failure> {
        if matches!(self.action, Some(Action::Id | Action::Resync { .. } | Action::Snapshot { .. })) {
            return Ok(Desk::Socket(self.data_dir()?));
        }
        let Some(key) = &self.operator_key else {
            let directory = self.data_dir.clone();
            let missing = "name the data directory of a coordinator of this machine with --data-dir, or an operator's key with --operator-key and the archive with --archive";
            let signs_a_draft = self.signs_a_draft();
            return match directory {
                Some(directory) => Ok(Desk::Socket(directory)),
                None if signs_a_draft => Ok(Desk::Socket(PathBuf::new())),
                None => Err(WrongUsage(missing).into()),
            };
        };
        if self.data_dir.is_some() {
            return Err(WrongUsage("give either --data-dir or --operator-key (FIRN_DATA_DIR and FIRN_OPERATOR_KEY count as given): the one asks the coordinator of this machine, the other the archive's leader").into());
        }
        match self.archive.as_slice() {
            [descriptor] => Desk::with_key(key, descriptor).await,
            _ => Err(WrongUsage("name the archive once with --archive: a file as `archive.firn` in a coordinator's data directory, or the URL http://HOST:PORT/archive of its HTTP port").into()),
        }
    }

    /// Whether a draft is signed where the archive key is, and no coordinator is asked.
    const fn signs_a_draft(&self) -> bool {
        matches!(
            self.action,
            Some(Action::Roster(RosterAction::Sign { archive_key: Some(_), draft: Some(_) }))
        )
    }
}

/// What can be done with a coordinator.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Print this coordinator's ID, making its key if there is none
    Id,
    /// Join tokens
    #[command(subcommand)]
    Token(TokenAction),
    /// Storage nodes
    #[command(subcommand)]
    Node(NodeAction),
    /// Nix signing keys whose paths the archive accepts
    #[command(subcommand)]
    Publisher(PublisherAction),
    /// Identities that may upload
    #[command(subcommand)]
    Uploader(UploaderAction),
    /// Identities that may administer from afar, each with a role
    #[command(subcommand)]
    Operator(OperatorAction),
    /// Archived paths
    #[command(subcommand)]
    Path(PathAction),
    /// Coordinators
    #[command(subcommand)]
    Member(MemberAction),
    /// Rebuild this coordinator, whose log or state is damaged or lost, from the others: it must not run; its log and state
    /// are moved aside, and at its next start the others take it back. It needs a majority of them
    Resync {
        /// Say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// The signed list of coordinators
    #[command(subcommand)]
    Roster(RosterAction),
    /// Print the ledger: every act of administration, with who did it, when and why
    Log {
        /// Only from then on: a date as 2026-11-22 or 2026-11-22T21:05:09Z (UTC), or a position
        #[arg(long, value_name = "DATE|POSITION")]
        since: Option<Since>,
        /// At most so many entries; the last one's position and 1 is where the next page begins
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Print digests of this coordinator's state: those of content and governance are the same again after a rebuild
    Digest,
    /// Begin again with new coordinators after all were lost: nodes show their shards and ledgers
    ///
    /// Runs as the first of the new coordinators, on an empty --data-dir; options of running (--listen, --advertise,
    /// --http, --peer) stand before the command. The others are started with --peer alone.
    #[command(args_conflicts_with_subcommands = true)]
    Rebuild(RebuildArguments),
    /// Write a signed backup of this coordinator's state, to be kept elsewhere
    Snapshot {
        /// A file that does not exist, or a directory
        #[arg(long, value_name = "FILE|DIR")]
        to: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RebuildArguments {
    /// The archive key: signs the roster of the new coordinators
    #[arg(long, value_name = "FILE")]
    pub(crate) archive_key: Option<PathBuf>,
    /// Begin with the state of this backup; what is newer comes from the nodes
    #[arg(long, value_name = "FILE")]
    pub(crate) snapshot: Option<PathBuf>,
    /// The generation of the new roster, where a later one than that of --archive may have been in force
    #[arg(long, value_name = "N")]
    pub(crate) generation: Option<u64>,
    /// Nodes are listened to until they have shown nothing new for so long, or until `rebuild finish`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1h")]
    pub(crate) quiet: Duration,
    #[command(subcommand)]
    pub(crate) action: Option<RebuildAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RebuildAction {
    /// Print how far the rebuild has come, and what did not come back
    Status,
    /// Listen no longer: restore what was shown. Once more: wait for no more inventories
    Finish,
    /// Listen once more, for bundles that did not come back because their nodes came too late. Nothing is published or read
    /// meanwhile
    Reopen,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenAction {
    /// Print a token that makes one node active; give it to the node as --token-file
    Create {
        /// Who will own the node
        #[arg(long, default_value = "operator")]
        operator: String,
        /// The failure domain that the token vouches for
        #[arg(long)]
        failure_domain: Option<String>,
        /// How long it is good for
        #[arg(long, value_parser = parse_duration, default_value = "7d")]
        valid: Duration,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeAction {
    /// Print all nodes
    List,
    /// Give it no new shards: its owner is told now, and it is suspended 48 hours later
    Suspend {
        /// The node's ID
        node: NodeId,
        /// Why, on one line: for its owner, and for `node list`
        #[arg(long, value_name = "TEXT", required_unless_present = "now", conflicts_with = "now")]
        reason: Option<String>,
        /// At once, for a node that does harm: its owner hears of it when it is done, without a reason
        #[arg(long)]
        now: bool,
    },
    /// Give it shards again, or take back that it will be suspended
    Resume {
        /// The node's ID
        node: NodeId,
    },
    /// Give its shards other homes; it is gone when each has one, and deletes nothing: what lies on it is its owner's
    Drain {
        /// The node's ID
        node: NodeId,
    },
    /// Remove it: an empty one, or with --lost one that will not come back
    Remove {
        /// The node's ID
        node: NodeId,
        /// Count its shards as lost and repair them
        #[arg(long)]
        lost: bool,
        /// Say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PublisherAction {
    /// Accept paths signed by NAME:BASE64
    Add {
        /// The key as Nix writes it
        key: String,
        /// Smaller is preferred where two publishers signed different contents for one path
        #[arg(long, default_value_t = 100)]
        rank: u32,
    },
    /// Accept no more paths signed by this key; what is archived stays, unless --since is given
    Remove {
        /// The key's name
        name: String,
        /// Withdraw what was archived since then and nobody else vouches for: a date as 2026-11-22 or
        /// 2026-11-22T21:05:09Z, or the position of an entry of the ledger (see `log`). Can be run again
        #[arg(long, value_name = "DATE|POSITION")]
        since: Option<Since>,
        /// Say how much would be withdrawn; for --since
        #[arg(long, requires = "since")]
        dry_run: bool,
    },
    /// Print the accepted keys
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UploaderAction {
    /// Allow an identity
    Add {
        /// Its public key, 64 hexadecimal digits, as `firn key show FILE` prints it
        key: PublicKey,
        /// Whose it is
        #[arg(long)]
        name: String,
    },
    /// Allow it no more
    Remove {
        /// Its public key
        key: PublicKey,
    },
    /// Print those allowed
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperatorAction {
    /// Allow an identity, or give an operator another name or role
    Add {
        /// Its public key, 64 hexadecimal digits, as `firn key show FILE` prints it
        key: PublicKey,
        /// Whose it is
        #[arg(long)]
        name: String,
        /// observer: looks. nodes: also tokens, and nodes suspended, resumed, drained, removed. content: also publishers,
        /// uploaders, paths withdrawn, purged, packed anew. admin: everything
        #[arg(long, value_name = "observer|nodes|content|admin")]
        role: OperatorRole,
    },
    /// Allow it no more; at once, also where it is connected
    Remove {
        /// Its public key
        key: PublicKey,
    },
    /// Print operators with their roles
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PathAction {
    /// Serve a path no more; its bytes stay
    Withdraw {
        /// /nix/store/…
        path: String,
        /// Why, for those who ask
        #[arg(long)]
        reason: String,
        /// Say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Have a withdrawn path removed from every disk, for good; what shares a bundle with it stays
    Purge {
        /// /nix/store/…
        path: String,
        /// Why, for those who ask
        #[arg(long)]
        reason: String,
        /// Say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Print how far purges have come, in order of keys
    Purges {
        /// Only those asked for from then on: a date as 2026-11-22 or 2026-11-22T21:05:09Z (UTC), or a position of the
        /// ledger
        #[arg(long, value_name = "DATE|POSITION")]
        since: Option<Since>,
        /// Only those behind this key, as --json prints it: where the page before has ended
        #[arg(long, value_name = "KEY")]
        after: Option<ObjectKey>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Serve a withdrawn path again
    Reinstate {
        /// /nix/store/…
        path: String,
        /// Why, for those who ask
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberAction {
    /// Print the coordinators with role and lag
    List,
    /// Take in a coordinator that was started with --peer; it catches up and has no vote until it is promoted
    Add {
        /// The new coordinator: its ID is what `firn-coordinator id` prints there
        #[arg(value_name = "ID@HOST:PORT")]
        member: Peer,
    },
    /// Give a coordinator that has caught up a vote; the roster must name it
    Promote {
        /// The coordinator's ID
        id: NodeId,
    },
    /// Let a coordinator go for good; it stops by itself, and its ID is never used again
    Remove {
        /// The coordinator's ID
        id: NodeId,
        /// Say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Give the vote of one coordinator to a new one; call it again after each step that it names
    Replace {
        /// The ID of the one that goes
        old: NodeId,
        /// The one that comes
        #[arg(value_name = "ID@HOST:PORT")]
        new: Peer,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RosterAction {
    /// Sign the roster that names the members in force, and take it into force; or sign a draft and print it
    Sign {
        /// The archive key; default: archive.key in --data-dir
        #[arg(long, value_name = "FILE")]
        archive_key: Option<PathBuf>,
        /// What `roster draft` printed, where the key is but no coordinator runs
        #[arg(value_name = "DRAFT")]
        draft: Option<PathBuf>,
    },
    /// Print the roster that names the members in force, to be carried to the archive key
    Draft,
    /// Take a roster into force that `roster sign DRAFT` printed
    Adopt {
        /// The signed roster
        file: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_suspension_is_announced_with_a_reason_or_is_at_once_without_one() {
        let parse = |rest: &[&str]| {
            let node = "0".repeat(64);
            let words = ["firn-coordinator", "node", "suspend", node.as_str()];
            Cli::try_parse_from(words.iter().chain(rest)).map_err(|refusal| refusal.kind())
        };
        assert!(parse(&["--reason", "new disks"]).is_ok());
        assert!(parse(&["--now"]).is_ok());
        assert_eq!(parse(&[]).unwrap_err(), ErrorKind::MissingRequiredArgument);
        assert_eq!(parse(&["--now", "--reason", "x"]).unwrap_err(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn a_round_trip_that_elections_are_not_made_for_is_refused() {
        let parse = |round_trip| Cli::try_parse_from(["firn-coordinator", "--round-trip", round_trip]);
        assert_eq!(parse("2s").unwrap().run.round_trip, ROUND_TRIP_MAX);
        for longer in ["2001ms", "9s"] {
            let refusal = parse(longer).unwrap_err();
            assert_eq!(refusal.exit_code(), 2);
            assert!(refusal.to_string().contains("more than 2 s apart"), "{refusal}");
        }
    }

    #[test]
    fn the_policy_is_what_the_founder_said() {
        let cli = Cli::parse_from([
            "firn-coordinator",
            "--bootstrap",
            "--domains",
            "public",
            "--trust-declared-domains",
            "--repair-at",
            "full",
            "--count-lost-after",
            "24h",
            "--brake",
            "off",
        ]);
        let policy = cli.run.policy();
        assert_eq!(policy.domains, DomainRule::Public);
        assert!(policy.trust_declared_domains);
        assert!(policy.repair_at_full && !policy.brake);
        assert_eq!(policy.count_lost_after_millis, 24 * 3_600_000);
    }
}
