//! `firn publish`: a binary cache into the archive.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};
use firn_base::ByteCount;
use firn_bundle::{Encoding, FrameCompression, PAYLOAD_BYTES_MAX};
use firn_client::{
    OrderClass, PathNames, PlanError, PublishEvent, PublishEvents, PublishOptions, PublishOrder,
    PublishSummary, Selection, Share, SourceError, publish, publisher_endpoint,
};
use firn_transport::{Environment, load_identity};

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::commands::trusted_keys;
use crate::output::{print, print_json};
use crate::path_list::{ListLines, open_lines, read_lines, read_paths};
use crate::progress::{Progress, Unit};
use crate::report::{Packing, PublishReport, UploadEstimate};
use crate::session::Session;
use crate::source_flags::SourceFlags;
use crate::store_path_argument::StorePathArgument;
use crate::watch::Watch;

/// Publish a binary cache into the archive.
///
/// Reads every narinfo of SOURCE, refuses what no publisher of the archive has signed, checks every hash, and
/// skips what is archived already. Can be interrupted at any time and run again. What was refused, or waits for a
/// path that was refused, is listed and makes the exit code 1. With --watch it goes on until SIGTERM.
///
/// It works on all cores, on several paths at once and on several parts of a large one. What it reads takes about 96 MB
/// of memory on one or two cores and 40 MB for each core on larger machines, whatever the size of a NAR; besides that
/// come the frames and tables of a bundle, 24 MB for each core with lzma, shards on their way, and by reckoning 300 MB
/// for what is planned, however many paths there are: 64 MiB of narinfos at a time, of the public cache 32,000. Of a
/// source that has more, every narinfo is read once to see what there is, what decides its turn is kept in --spool-dir,
/// and it is read again when that comes; a path that is needed comes along with the first that needs it, as far as
/// there is room. Only what is refused, waits or is external, and with --watch what was looked at, is remembered for
/// each path.
#[derive(Debug, Args)]
pub(crate) struct PublishFlags {
    #[command(flatten)]
    source: SourceFlags,
    /// Publish only what this file names, one to a line: store paths, realisations (`sha256:<hash>!out`, or their URL),
    /// debuginfo links (`debuginfo/<build id>`); plain or as xz, zstd or bzip2, as channels have it in store-paths.xz. `-`
    /// reads standard input, an http(s) URL is fetched. Sources behind URLs need it
    #[arg(long, value_name = "FILE|URL")]
    paths: Option<PathBuf>,
    /// The key file of an uploader of the archive (see `firn key`)
    #[arg(long, value_name = "FILE", env = "FIRN_UPLOADER_KEY")]
    uploader_key: Option<PathBuf>,
    /// Only publish what these keys have signed, "K1 K2", of those that the archive accepts
    #[arg(long, value_name = "KEYS", env = "FIRN_TRUSTED_PUBLIC_KEYS")]
    trusted_public_keys: Vec<String>,
    /// Leave out store paths whose name fits this pattern (`*` any text, `?` any character); may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Publish one of several equal parts, as in 3/16, so that many uploaders divide an import: each path is in exactly one
    /// of 1/16 to 16/16, and all versions of a package are in the same. What a path needs of other parts it waits for
    #[arg(long, value_name = "N/OF")]
    share: Option<Share>,
    /// What comes first: `sources` (what was fetched to be built from), `releases` (what --release-paths names),
    /// `recent` (the newest version of each package), `rest`; each with all that it needs
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    order: Vec<OrderClass>,
    /// The paths that `releases` means, as for --paths
    #[arg(long, value_name = "FILE|URL")]
    release_paths: Option<PathBuf>,
    /// `chunked` takes NARs apart so that equal parts are stored once; `verbatim` keeps the published files
    #[arg(long, value_enum, default_value = "chunked")]
    encoding: EncodingFlag,
    /// Look for the recipe of every published file in xz or bzip2, and keep it: `firn get --as-published` and `firn
    /// export --as-published` then make the very file again. Each NAR is compressed once more for it: on a busy machine
    /// the program xz took 1.2 MB of one in a second of a core, and bzip2 6.9, where the rest of publishing takes 35 or
    /// so; 94 MiB more of memory for each core. It is tried once the file is there, and given up mostly at the first
    /// bytes where another program or preset made it. With --watch SIGTERM breaks it off: that path, and what comes
    /// behind it, is left to the next run. Files in zstd have none
    #[arg(long, env = "FIRN_KEEP_RECIPES")]
    keep_recipes: bool,
    /// Store everything again, also what bundles of the archive hold already. Without it a rebuild of what lies in
    /// bundles that are a quarter full and more takes few bytes, and is read from up to eight bundles more; a purge of
    /// a path has what uses its bundle packed anew, too
    #[arg(long, env = "FIRN_NO_REUSE_CHUNKS")]
    no_reuse_chunks: bool,
    /// Use chunks of bundles under a quarter full too. Such a bundle is packed together with others by `firn compact`
    /// no more, unless all that use it come along. For an archive that is never compacted: without it what lies in
    /// small bundles is stored once more by whoever publishes it again, until they are packed together
    #[arg(long, conflicts_with = "no_reuse_chunks", env = "FIRN_REUSE_SMALL_BUNDLES")]
    reuse_small_bundles: bool,
    /// What frames are compressed with; with a level if wished (zstd:1 to zstd:22, lzma:0 to lzma:6). `zstd` is what
    /// suits what was just built: everybody reads it now, and each cold read decompresses its frames, ten times as fast
    /// as lzma. `lzma` is for what is published to lie there, as an import of history: it takes 13 to 20 % fewer bytes
    /// on nodes for as long as they are kept, and packs some 2 MB of NARs in a second of a core, where zstd packs 33.
    /// Programs older than `lzma` cannot read such bundles, and say so
    #[arg(long, value_name = "CODEC[:LEVEL]", default_value_t, env = "FIRN_FRAME_COMPRESSION")]
    frame_compression: FrameCompression,
    /// The largest payload of a bundle
    #[arg(long, value_name = "SIZE", default_value = "256MiB", env = "FIRN_BUNDLE_SIZE")]
    bundle_size: ByteCount,
    /// Where large files are kept on the way; the system's directory for temporary files if not given. It takes large
    /// objects while they are read, and up to four bundles of --bundle-size, each with 256MiB more unless
    /// --no-reuse-chunks; for each path of a source of more than some 32,000 another 500 bytes
    #[arg(long, visible_alias = "spool", value_name = "DIR", env = "FIRN_SPOOL_DIR")]
    spool_dir: Option<PathBuf>,
    /// Keep looking at the source, at --paths too, this often, and publish what is new, until SIGTERM: bundles under
    /// way are committed then. Build logs that come later than their paths are not found: a publish of a directory
    /// without --watch finds them
    #[arg(long, value_name = "DURATION", value_parser = firn_base::parse_duration, conflicts_with = "dry_run")]
    watch: Option<Duration>,
    /// Tell metrics at /metrics of this address and TCP port: how far the archive is behind the source, and more
    #[arg(long, value_name = "ADDR", requires = "watch", env = "FIRN_PUBLISH_HTTP")]
    http: Option<SocketAddr>,
    /// Say what would be published and about how much would be sent, and publish nothing
    #[arg(long)]
    dry_run: bool,
}

impl PublishFlags {
    /// Whether it runs until it is stopped.
    pub(crate) const fn follows(&self) -> bool {
        self.watch.is_some()
    }
}

/// See [`Encoding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EncodingFlag {
    Chunked,
    Verbatim,
}

// A bundle holds at least a frame and its manifest.
const BUNDLE_BYTES_MIN: u64 = 1 << 20;

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, flags: PublishFlags) -> Result<Done, CommandError> {
    let options = options(&flags)?;
    let environment = Environment::real();
    let Some(key_file) = &flags.uploader_key else {
        return Err(CommandError::Usage(
            "who publishes? name the key file of an uploader with --uploader-key FILE (`firn key generate` makes one)"
                .to_owned(),
        ));
    };
    let identity = load_identity(key_file)?;
    let session = Session::open_as(common, identity, publisher_endpoint(), &environment).await?;
    let (options, flags) =
        environment.blocking(move || with_lists(options, &flags).map(|options| (options, flags))).await?;
    if let Some(period) = flags.watch {
        let (http, names) = (flags.http, names(&options, flags));
        let watch = Watch { session: &session, environment, options, names, period, http };
        let done = watch.run().await?;
        session.close().await;
        return Ok(done);
    }
    let dry_run = options.dry_run;
    let packing = match options.encoding {
        Encoding::Chunked => options.frame_compression.into(),
        Encoding::Verbatim => Packing::Verbatim,
    };
    let published = {
        let progress = Arc::new(Progress::new("publishing", Unit::Bytes, 0));
        let teller = Teller { progress: Arc::clone(&progress) };
        publish(session.archive(), options, PublishEvents::new(move |event| teller.tell(event))).await
    };
    let done = match published {
        Ok(summary) => {
            let estimate = if dry_run {
                let status = session.status().await?;
                UploadEstimate::new(&summary, &status, packing)
            } else {
                None
            };
            show(common, &summary, estimate)?;
            Done::when(summary.is_complete())
        }
        Err(stopped) => {
            // What was done before stands.
            show(common, &stopped.summary, None)?;
            return Err(CommandError::Failed(stopped.to_string()));
        }
    };
    session.close().await;
    Ok(done)
}

/// The options with what the lists say that they name. Blocks.
fn with_lists(options: PublishOptions, flags: &PublishFlags) -> Result<PublishOptions, CommandError> {
    let reading = flags.source.options();
    // Who follows a list reads it in each round.
    let list = flags.paths.as_deref().filter(|_| !flags.follows());
    let paths = list.map(|list| open_lines(list, &reading)).transpose()?.map(once);
    let releases = flags.release_paths.as_deref().map(|list| read_paths(list, &reading)).transpose()?;
    let releases = releases.iter().flatten().map(StorePathArgument::key).collect();
    Ok(PublishOptions { paths, order: PublishOrder { releases, ..options.order }, ..options })
}

/// The names of a list that is open; they are there once.
fn once(lines: ListLines) -> PathNames {
    let lines = Mutex::new(Some(lines));
    PathNames::new(move || {
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Box::new(lines.ok_or_else(|| io::Error::other("it was read already"))?))
    })
}

/// Names everything that there is to publish, each time anew.
fn names(
    options: &PublishOptions,
    flags: PublishFlags,
) -> Arc<dyn Fn() -> Result<Vec<String>, CommandError> + Send + Sync> {
    let source = options.source.clone();
    let failed = |error: SourceError| CommandError::Failed(error.to_string());
    Arc::new(move || match &flags.paths {
        Some(list) => read_lines(list, &flags.source.options()),
        None => {
            let mut names = source.list().map_err(failed)?;
            // A directory that is not mounted is no source that has nothing.
            if names.is_empty() {
                return Err(CommandError::Failed(PlanError::NothingThere(source.to_string()).to_string()));
            }
            names.extend(source.list_blobs().map_err(failed)?);
            Ok(names)
        }
    })
}

fn options(flags: &PublishFlags) -> Result<PublishOptions, CommandError> {
    let source = flags.source.open()?;
    if !source.is_local() && flags.paths.is_none() {
        return Err(CommandError::Usage(format!(
            "{source} cannot be listed: name the paths to publish with --paths FILE"
        )));
    }
    if flags.order.contains(&OrderClass::Releases) != flags.release_paths.is_some() {
        return Err(CommandError::Usage(
            "--order releases and --release-paths need each other: the one says when, the other what"
                .to_owned(),
        ));
    }
    if flags.follows() && flags.paths.as_deref() == Some(Path::new("-")) {
        return Err(CommandError::Usage(
            "standard input can be read once: --watch needs a list in a file, or behind a URL".to_owned(),
        ));
    }
    if flags.keep_recipes && flags.encoding == EncodingFlag::Verbatim {
        return Err(CommandError::Usage(
            "--keep-recipes is for --encoding chunked: verbatim keeps the published files themselves"
                .to_owned(),
        ));
    }
    if !(BUNDLE_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&flags.bundle_size.0) {
        return Err(CommandError::Usage("--bundle-size lies between 1MiB and 256MiB".to_owned()));
    }
    Ok(PublishOptions {
        selection: Selection { exclude: flags.exclude.clone(), share: flags.share },
        order: PublishOrder { classes: flags.order.clone(), ..PublishOrder::default() },
        trusted_keys: trusted_keys(&flags.trusted_public_keys)?,
        encoding: match flags.encoding {
            EncodingFlag::Chunked => Encoding::Chunked,
            EncodingFlag::Verbatim => Encoding::Verbatim,
        },
        keep_recipes: flags.keep_recipes,
        reuse_chunks: !flags.no_reuse_chunks,
        reuse_small_bundles: flags.reuse_small_bundles,
        frame_compression: flags.frame_compression,
        bundle_bytes: flags.bundle_size.0,
        spool_dir: flags.spool_dir.clone(),
        dry_run: flags.dry_run,
        ..PublishOptions::new(source)
    })
}

fn show(
    common: &CommonOptions,
    summary: &PublishSummary,
    estimate: Option<UploadEstimate>,
) -> Result<(), CommandError> {
    if common.json {
        return print_json(&PublishReport::new(summary, estimate));
    }
    print(&summary.to_string())?;
    estimate.map_or(Ok(()), |estimate| print(&estimate.to_string()))
}

/// Turns what a publish tells into progress.
struct Teller {
    progress: Arc<Progress>,
}

impl Teller {
    fn tell(&self, event: &PublishEvent) {
        match event {
            PublishEvent::Reading { narinfos } => self.progress.say(format!("reading {narinfos} narinfos")),
            PublishEvent::Planned { paths, logs, nar_bytes, skipped } => {
                self.progress.note(&format!(
                    "{paths} paths and {logs} logs to publish, {nar_bytes}; {skipped} are archived already"
                ));
                self.progress.expect(nar_bytes.0);
            }
            PublishEvent::Packed { name, content } => {
                self.progress.add(content.0);
                self.progress.say(name.clone());
            }
            PublishEvent::Uploading { bundle, payload } => {
                self.progress.say(format!("sending bundle {}, {payload}", bundle.short()));
            }
            PublishEvent::Committed { objects, content } => {
                self.progress.say(format!("{objects} objects committed, {content}"));
            }
            _ => {}
        }
    }
}
