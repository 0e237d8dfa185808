//! Options of the program, made into what a node is started with.
//!
//! Always holds: nothing is guessed. Leaves to others: where an option comes from (`firn-program`), running
//! (`main`).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use firn_base::{BitRate, ByteCount, DiskWindows, parse_duration};
use firn_program::LogOptions;
use firn_storage_node::{LineTerms, ScrubPlan};
use firn_wire::{Descriptor, JoinToken, Signed};

const ARCHIVE_BYTES_MAX: u64 = 1 << 20;
// What a line at home does not miss.
const MAX_UPLOAD_DEFAULT: BitRate = BitRate { bytes_per_second: 1_250_000 };
// Below it a block of 1 MiB does not come in time, and signs of life wait for it.
const UPLOAD_LEAST: BitRate = BitRate { bytes_per_second: 125_000 };
// Below it the 64 KiB that the kernel hands over at once are more than a twentieth of what may come in ten seconds.
const DOWNLOAD_LEAST: BitRate = BitRate { bytes_per_second: 137_500 };
// What was enough before that.
const DOWNLOAD_LEAST_BEFORE: BitRate = BitRate { bytes_per_second: 125_000 };

// Heartbeats to three coordinators take a tenth of it.
const MONTHLY_TRAFFIC_LEAST: ByteCount = ByteCount(20_000_000_000);

const SCRUB_EVERY_LEAST: Duration = Duration::from_secs(86_400);

const FETCH_TIMEOUT: Duration = Duration::from_secs(20);

/// Keeps erasure-coded pieces of Nix store paths for an archive.
///
/// The node keeps shards within its quota, serves them to readers who show a coordinator's pass, and rebuilds
/// or moves shards when a coordinator orders it. It dials the coordinators itself; readers dial it, so its UDP
/// port must be reachable.
#[derive(Debug, Parser)]
#[command(name = "firn-storage-node", version, args_conflicts_with_subcommands = false)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) settings: Settings,

    /// A TOML file with the same keys as the options, without the dashes in front
    #[arg(long, value_name = "FILE", env = "FIRN_CONFIG", global = true)]
    config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) log: LogOptions,

    /// Without a command the node runs until SIGTERM
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What may stand on the command line, in the environment and in the file.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Settings {
    /// Where the node keeps its identity and shards; an empty directory at first
    #[arg(long, value_name = "DIR", env = "FIRN_DATA_DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,

    /// The archive's descriptor: a file or an http(s):// URL. The node keeps it and refreshes it from the
    /// coordinators, so it is needed at the first start only
    #[arg(long, value_name = "FILE|URL", env = "FIRN_ARCHIVE", global = true)]
    pub(crate) archive: Option<String>,

    /// The most bytes that the node puts on the disk, everything included [default: 50GB, and never more than
    /// half of what the disk has for it]
    #[arg(long, value_name = "SIZE", env = "FIRN_QUOTA", global = true)]
    pub(crate) quota: Option<String>,

    /// How fast the node uploads at most, everything counted, as 10Mbit/s or 2MB/s; `unlimited` for as fast as it can.
    /// Repairs that the node carries out take at most 30 % of it, half of that while readers want it, and readers whom
    /// the archive does not know a tenth, of this and of --monthly-traffic [default: 10Mbit/s]
    #[arg(long, value_name = "RATE", env = "FIRN_MAX_UPLOAD", global = true)]
    pub(crate) max_upload: Option<String>,

    /// How fast the node downloads at most, everything counted, 1100kbit/s at least, for which 1Mbit/s is taken: below that it could
    /// not be held to it within 5 % over ten seconds; `unlimited` for as fast as it can [default: unlimited]
    #[arg(long, value_name = "RATE", env = "FIRN_MAX_DOWNLOAD", global = true)]
    pub(crate) max_download: Option<String>,

    /// About how much goes over the node's line in a month of the calendar, both ways together, as 2TB: all that it
    /// exchanges with coordinators, nodes and readers counts, not what --archive fetches and --http serves. Once all but 3 GB of it is used up (nine tenths of less than 30 GB) the node only stays in touch until the next
    /// month, which takes about the rest: heartbeats, and the requests that it refuses [default: no limit]
    #[arg(long, value_name = "SIZE", env = "FIRN_MONTHLY_TRAFFIC", global = true)]
    pub(crate) monthly_traffic: Option<String>,

    /// The hours in which the node works, in the machine's time zone. Outside them it stays in touch, and serves only
    /// readers who find nobody else, at 1 Mbit/s [default: always]
    #[arg(long, value_name = "HH:MM-HH:MM", env = "FIRN_ACTIVE_HOURS", global = true)]
    pub(crate) active_hours: Option<String>,

    /// Within which time every shard is read again, to find damage before somebody needs it: a share of them in each
    /// window of --disk-windows [default: 30d]
    #[arg(long, value_name = "DURATION", env = "FIRN_SCRUB_EVERY", global = true)]
    pub(crate) scrub_every: Option<String>,

    /// In how many windows of a day shards are read again, counted from midnight UTC: 1, 2, 3, 4, 6, 8, 12 or 24. A disk that
    /// nobody reads from rests in between, where the coordinators move shards in the same windows and nothing is urgent or
    /// packed anew [default: 4]
    #[arg(long, value_name = "N", env = "FIRN_DISK_WINDOWS", global = true)]
    pub(crate) disk_windows: Option<String>,

    /// A file with the join token that the archive's operator gave you; needed until the node is admitted
    #[arg(long, value_name = "FILE", env = "FIRN_TOKEN_FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,

    /// What this node can vanish together with: nodes of one name get at most one shard of a bundle
    /// [default: the host's name]
    #[arg(long, value_name = "NAME", env = "FIRN_FAILURE_DOMAIN", global = true)]
    pub(crate) failure_domain: Option<String>,

    /// The UDP address to listen on [default: 0.0.0.0:4434]
    #[arg(long, value_name = "ADDR", env = "FIRN_LISTEN", global = true)]
    pub(crate) listen: Option<String>,

    /// The host and UDP port at which readers and other nodes reach this node. Needed behind a router or
    /// firewall that forwards a port [default: the address it listens on, or for 0.0.0.0 the one from which this
    /// machine reaches the coordinators]
    #[arg(long, value_name = "ADDR", env = "FIRN_ADVERTISE", global = true)]
    pub(crate) advertise: Option<String>,

    /// A TCP address for the owner's page (at /), /metrics, /healthz and /readyz; for this machine alone as 127.0.0.1:9434
    /// [default: none]
    #[arg(long, value_name = "ADDR", env = "FIRN_HTTP", global = true)]
    pub(crate) http: Option<String>,

    /// A command that the shell runs when something concerns you, with a line of JSON on its standard input: something needs
    /// your attention, the node is suspended or will be, its disk fails, a new version is required, or it has left. Each cause is
    /// told once; the command has 30 s [default: none]
    #[arg(long, value_name = "COMMAND", env = "FIRN_NOTIFY_COMMAND", global = true)]
    pub(crate) notify_command: Option<String>,
}

/// Commands about a node.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prints the node's id
    Id,
    /// Checks the settings, and starts nothing
    Check,
    /// Shows the running node at a glance. Ends with 1 if its owner has to see to something
    Status {
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Lets the running node read every shard again now, at half of its disk's time; damaged ones are made anew elsewhere
    Scrub,
    /// Lets the running node do nothing but stay in touch: it takes, builds and serves nothing. What it holds goes on to
    /// count as long as it runs
    Pause {
        /// For how long, as 12h or 10d; 14d at most
        duration: String,
    },
    /// Ends a pause, and an absence that was declared
    Resume,
    /// Declares that the node will be switched off for a while: until then what it holds goes on to count, and nothing is made anew
    /// for it. It has 14 days, which come back within a year; `resume` ends it sooner and gives the rest back
    Absent {
        /// For how long, as 10d; 14d at most
        duration: String,
    },
    /// Checks a shard file and prints what it holds: of a plain slice also which packages, as far as the slice names them
    Inspect {
        /// The file
        file: PathBuf,
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Lets the running node leave the archive: its shards are moved to others, as fast as its line may go, then it ends;
    /// `status` says how far it has come
    Leave {
        /// Only says what would be moved
        #[arg(long)]
        dry_run: bool,
        /// Waits until the node has left, and says how it gets on
        #[arg(long, conflicts_with = "dry_run")]
        wait: bool,
    },
}

/// What a node is started with, checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) archive: Option<String>,
    pub(crate) quota: Option<ByteCount>,
    pub(crate) terms: LineTerms,
    pub(crate) scrub: ScrubPlan,
    pub(crate) token: Option<Signed<JoinToken>>,
    pub(crate) failure_domain: String,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<String>,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) notify_command: Option<String>,
}

impl Settings {
    /// Where the node lives.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, String> {
        self.data_dir.clone().ok_or_else(|| "say where the node lives: --data-dir DIR".to_owned())
    }

    /// Checks everything that can be checked without opening the node.
    pub(crate) fn check(self, host_name: &str) -> Result<Config, String> {
        let data_dir = self.data_dir()?;
        let quota = self.quota.as_deref().map(str::parse).transpose();
        let quota = quota.map_err(|error| format!("--quota: {error}"))?;
        let terms = LineTerms {
            max_upload: match self.max_upload.as_deref() {
                None => Some(MAX_UPLOAD_DEFAULT),
                Some(text) => parse_rate("--max-upload", text, UPLOAD_LEAST, UPLOAD_LEAST)?,
            },
            max_download: match self.max_download.as_deref() {
                None => None,
                Some(text) => parse_rate("--max-download", text, DOWNLOAD_LEAST_BEFORE, DOWNLOAD_LEAST)?,
            },
            monthly_traffic: parse_monthly_traffic(self.monthly_traffic.as_deref())?,
            active_hours: {
                let hours = self.active_hours.as_deref().map(str::parse).transpose();
                hours.map_err(|error| format!("--active-hours: {error}"))?
            },
        };
        let scrub = parse_scrub(self.scrub_every.as_deref(), self.disk_windows.as_deref())?;
        let listen = parse_address("--listen", self.listen.as_deref().unwrap_or("0.0.0.0:4434"))?;
        let http = self.http.as_deref().map(|text| parse_address("--http", text)).transpose()?;
        if let Some(advertise) = &self.advertise
            && advertise
                .rsplit_once(':')
                .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
        {
            return Err(format!(
                "--advertise: `{advertise}` is not a host and port: write for example 203.0.113.7:4434"
            ));
        }
        let failure_domain = self.failure_domain.unwrap_or_else(|| host_name.to_owned());
        if failure_domain.is_empty() {
            return Err("--failure-domain: the name must not be empty".to_owned());
        }
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        let (archive, advertise, notify_command) = (self.archive, self.advertise, self.notify_command);
        if notify_command.as_deref().is_some_and(|command| command.trim().is_empty()) {
            return Err("--notify-command: the command must not be empty".to_owned());
        }
        Ok(Config {
            data_dir,
            archive,
            quota,
            terms,
            scrub,
            token,
            failure_domain,
            listen,
            advertise,
            http,
            notify_command,
        })
    }
}

/// Reads the descriptor that `--archive` names. May block for 20 s.
pub(crate) fn read_descriptor(archive: &str) -> Result<Descriptor, String> {
    let text = if archive.starts_with("http://") || archive.starts_with("https://") {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(FETCH_TIMEOUT)).build().into();
        let fetched = agent.get(archive).call().and_then(|mut response| {
            response.body_mut().with_config().limit(ARCHIVE_BYTES_MAX).read_to_string()
        });
        fetched.map_err(|error| format!("the descriptor cannot be fetched from {archive}: {error}"))?
    } else {
        fs::read_to_string(archive)
            .map_err(|error| format!("the descriptor {archive} cannot be read: {error}"))?
    };
    text.parse().map_err(|error| format!("{archive}: {error}"))
}

fn parse_address(flag: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{flag}: `{text}` is not an address and port: write for example 0.0.0.0:4434"))
}

/// None for no bound. What is less than `least` is refused, or taken for that where programs before took it: an update is no reason
/// for a node to stay away.
fn parse_rate(
    flag: &str,
    text: &str,
    least_before: BitRate,
    least: BitRate,
) -> Result<Option<BitRate>, String> {
    if text == "unlimited" {
        return Ok(None);
    }
    let rate: BitRate = text.parse().map_err(|error| format!("{flag}: {error}"))?;
    if rate.bytes_per_second >= least.bytes_per_second {
        return Ok(Some(rate));
    }
    // As it can be written: without a fraction.
    let least_text = format!("{}kbit/s", least.bytes_per_second * 8 / 1000);
    if rate.bytes_per_second < least_before.bytes_per_second {
        let sentence = "is too little to be of use to anybody: give at least";
        return Err(format!("{flag}: {rate} {sentence} {least_text}"));
    }
    tracing::warn!(
        "{flag}: {rate} is less than the least that can be held to, so it is taken as {least_text}"
    );
    Ok(Some(least))
}

fn parse_monthly_traffic(text: Option<&str>) -> Result<Option<ByteCount>, String> {
    let Some(text) = text else { return Ok(None) };
    let bytes: ByteCount = text.parse().map_err(|error| format!("--monthly-traffic: {error}"))?;
    if bytes < MONTHLY_TRAFFIC_LEAST {
        return Err(format!(
            "--monthly-traffic: {bytes} is too little to be of use to anybody: give at least {MONTHLY_TRAFFIC_LEAST}"
        ));
    }
    Ok(Some(bytes))
}

fn parse_scrub(every: Option<&str>, windows: Option<&str>) -> Result<ScrubPlan, String> {
    let windows = windows.map(str::parse::<DiskWindows>).transpose();
    let windows =
        windows.map_err(|error| format!("--disk-windows: {error}"))?.unwrap_or(DiskWindows::STANDARD);
    let windows_per_day = windows.per_day();
    let Some(text) = every else { return Ok(ScrubPlan { windows_per_day, ..ScrubPlan::STANDARD }) };
    let period = parse_duration(text).map_err(|error| format!("--scrub-every: {error}"))?;
    if period < SCRUB_EVERY_LEAST {
        return Err(format!("--scrub-every: {text} would wear out the disk: give at least 1d"));
    }
    Ok(ScrubPlan { period, windows_per_day })
}

/// Reads a join token as `token create` printed it.
fn read_token(file: &Path) -> Result<Signed<JoinToken>, String> {
    let text = fs::read_to_string(file)
        .map_err(|error| format!("the token file {} cannot be read: {error}", file.display()))?;
    Signed::from_text(&text).ok_or_else(|| {
        format!("{} holds no join token: ask the archive's operator for a new one", file.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { data_dir: Some("/data".into()), ..Settings::default() }
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        let config = settings().check("host").unwrap();
        assert_eq!((config.failure_domain.as_str(), config.quota), ("host", None));
        assert_eq!(config.terms, LineTerms { max_upload: Some(MAX_UPLOAD_DEFAULT), ..LineTerms::default() });
        let rates = |up: &str, down: &str| {
            let (max_upload, max_download) = (Some(up.into()), Some(down.into()));
            Settings { max_upload, max_download, ..settings() }.check("host").unwrap().terms
        };
        assert_eq!(rates("unlimited", "unlimited"), LineTerms::default());
        assert_eq!(config.scrub, ScrubPlan::STANDARD);
        let once = Settings { disk_windows: Some("1".into()), ..settings() }.check("host").unwrap().scrub;
        assert_eq!(once, ScrubPlan { windows_per_day: 1, ..ScrubPlan::STANDARD });
        let rate = |bytes_per_second| Some(BitRate { bytes_per_second });
        let both =
            LineTerms { max_upload: rate(2_000_000), max_download: rate(500_000), ..LineTerms::default() };
        assert_eq!(rates("2MB/s", "4Mbit/s"), both);
    }

    #[test]
    fn a_download_rate_that_was_enough_before_is_taken_for_the_least_there_is_now() {
        for text in ["1Mbit/s", "1099kbit/s", "1100kbit/s"] {
            let given = Settings { max_download: Some(text.into()), ..settings() };
            assert_eq!(given.check("host").unwrap().terms.max_download, Some(DOWNLOAD_LEAST), "{text}");
        }
    }

    #[test]
    fn wrong_values_are_refused_with_a_sentence() {
        let refusal = |settings: Settings| settings.check("host").unwrap_err();
        assert!(refusal(Settings::default()).contains("--data-dir"));
        assert!(
            refusal(Settings { quota: Some("lots".into()), ..settings() }).starts_with("--quota: `lots`")
        );
        let max_upload = |text: &str| refusal(Settings { max_upload: Some(text.into()), ..settings() });
        assert!(max_upload("fast").starts_with("--max-upload: `fast`"));
        assert!(max_upload("8kbit/s").ends_with("give at least 1000kbit/s"), "{}", max_upload("8kbit/s"));
        let max_download = |text: &str| refusal(Settings { max_download: Some(text.into()), ..settings() });
        assert!(max_download("1B/s").starts_with("--max-download: 8 bit/s is too little"));
        let short = max_download("999kbit/s");
        assert!(short.ends_with("give at least 1100kbit/s"), "{short}");
        let monthly = |text: &str| refusal(Settings { monthly_traffic: Some(text.into()), ..settings() });
        assert!(monthly("much").starts_with("--monthly-traffic: `much`"));
        assert!(monthly("1GB").starts_with("--monthly-traffic: 1.0 GB is too little"));
        let windows = refusal(Settings { disk_windows: Some("5".into()), ..settings() });
        assert!(windows.starts_with("--disk-windows: `5` is no number of windows of a day"), "{windows}");
        let hours = refusal(Settings { active_hours: Some("nights".into()), ..settings() });
        assert!(hours.starts_with("--active-hours: `nights`"));
        let no_command = refusal(Settings { notify_command: Some(" ".into()), ..settings() });
        assert!(no_command.contains("--notify-command"));
        assert!(refusal(Settings { listen: Some("here".into()), ..settings() }).contains("--listen"));
        assert!(refusal(Settings { advertise: Some("host".into()), ..settings() }).contains("--advertise"));
    }
}
