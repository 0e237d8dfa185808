//! `firn export`: an ordinary binary cache from the archive.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use firn_client::{SourceOptions, publisher_keys};
use firn_nix_format::PublisherKey;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::commands::trusted_keys;
use crate::export::{Export, Others};
use crate::export_summary::ExportSummary;
use crate::feed_keys::FeedKeys;
use crate::nar_encoder::NarCompression;
use crate::object_writer::{NarFile, NarForm};
use crate::output::print_as;
use crate::path_list::read_paths;
use crate::path_search::PathSearch;
use crate::progress::{Progress, Unit};
use crate::session::Session;
use crate::store_path_argument::StorePathArgument;

/// Write store paths as a binary cache that Nix reads by file://.
///
/// Narinfos say what was signed, every NAR was hashed, logs lie beside. What lies in DIR already and is right is not
/// fetched again, what is damaged is replaced: run it again after an interruption. Everything that was asked for and is
/// not there (not archived, withdrawn, not signed by a trusted key, unreadable now, not to be written) is named and makes
/// the exit code 1.
#[derive(Debug, Args)]
pub(crate) struct ExportOptions {
    /// Store paths: whole, by base name, or by their hash of 32 characters
    #[arg(value_name = "STOREPATH")]
    paths: Vec<StorePathArgument>,
    /// Store paths that this file names, one to a line; `-` reads standard input
    #[arg(long = "paths", value_name = "FILE")]
    path_file: Option<PathBuf>,
    /// Everything that is archived, with all logs and other objects
    #[arg(long, conflicts_with_all = ["paths", "path_file", "closure"])]
    all: bool,
    /// All that this publisher of the archive has signed, with its logs; may be repeated
    #[arg(long, value_name = "NAME", conflicts_with_all = ["paths", "path_file", "closure", "all", "trusted_public_keys"])]
    publisher: Vec<String>,
    /// Everything that the named paths refer to as well
    #[arg(long)]
    closure: bool,
    /// The directory of the cache: new, empty, or a binary cache
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    form: NarFlags,
    /// Only take what these keys have signed, "K1 K2"; by default what any publisher of the archive has
    #[arg(long, value_name = "KEYS", env = "FIRN_TRUSTED_PUBLIC_KEYS")]
    trusted_public_keys: Vec<String>,
}

/// How NARs are written.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct NarFlags {
    /// How NARs are compressed. Default: as the archive keeps them, which is bare, or as it was published for what is
    /// archived verbatim. xz takes 94 MiB of memory for each core
    #[arg(long, value_enum)]
    compression: Option<CompressionFlag>,
    /// Write the very files that were published, with their URL, FileHash, FileSize and Compression: those that are
    /// archived verbatim or bare, and those whose recipe is kept (`firn publish --keep-recipes`), which are made again
    /// and checked against their FileHash. Of what is neither nothing is written, and it is named. As many are made at
    /// once as there are cores, each in xz with 94 MiB of memory. How fast: on a busy machine the program xz took 1.2
    /// MB of a NAR in a second of a core, and bzip2 6.9
    #[arg(long, conflicts_with = "compression")]
    as_published: bool,
    /// Write a listing (.ls) beside each NAR
    #[arg(long)]
    listings: bool,
}

/// See [`NarCompression`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompressionFlag {
    None,
    Zstd,
    Xz,
}

impl From<NarFlags> for NarForm {
    fn from(flags: NarFlags) -> Self {
        let file = match flags.compression {
            _ if flags.as_published => NarFile::AsPublished,
            None => NarFile::AsArchived,
            Some(CompressionFlag::None) => NarFile::Compressed(NarCompression::None),
            Some(CompressionFlag::Zstd) => NarFile::Compressed(NarCompression::Zstd),
            Some(CompressionFlag::Xz) => NarFile::Compressed(NarCompression::XZ),
        };
        Self { file, listings: flags.listings }
    }
}

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, options: ExportOptions) -> Result<Done, CommandError> {
    let everything = options.all || !options.publisher.is_empty();
    if !everything && options.paths.is_empty() && options.path_file.is_none() {
        return Err(CommandError::Usage(
            "what is to be exported? name store paths, a file of them with --paths, a --publisher, or --all"
                .to_owned(),
        ));
    }
    let to = directory(&options.to)?;
    let mut trusted = trusted_keys(&options.trusted_public_keys)?;
    let session = Session::open(common).await?;
    let environment = session.archive().environment().clone();
    if !options.publisher.is_empty() {
        trusted = Some(publishers(&publisher_keys(&session.archive().ledger().await?), &options.publisher)?);
    }
    let search = PathSearch::new(&session, trusted).await?;
    let export = Export::open(&environment, search, &to, options.form.into()).await?;
    let summary = if everything {
        let feed = FeedKeys::open(session.archive().coordinators()).await;
        let mut feed = feed.map_err(|error| CommandError::Failed(error.to_string()))?;
        let others = if options.all { Others::All } else { Others::OwnLogs };
        export.all(&mut feed, others, &Progress::new("exporting", Unit::Things("objects"), 0)).await?
    } else {
        let mut paths = options.paths;
        if let Some(file) = options.path_file {
            paths.extend(environment.blocking(move || read_paths(&file, &SourceOptions::default())).await?);
        }
        export.named(&paths, options.closure, &Progress::new("exporting", Unit::Bytes, 0)).await?
    };
    let done = show(common, &summary)?;
    session.close().await;
    Ok(done)
}

/// Says what an export came to.
pub(crate) fn show(common: &CommonOptions, summary: &ExportSummary) -> Result<Done, CommandError> {
    for note in &summary.notes {
        eprintln!("note: {note}");
    }
    for missing in &summary.missing {
        eprintln!("error: {}: {}", missing.path, missing.reason);
    }
    print_as(common.json, summary, ToString::to_string)?;
    Ok(Done::when(summary.is_complete()))
}

/// The directory that was named, as a path or by file://.
fn directory(text: &std::path::Path) -> Result<PathBuf, CommandError> {
    match text.to_str().and_then(|text| text.split_once("://")) {
        None => Ok(text.to_owned()),
        Some(("file", path)) => Ok(path.into()),
        Some(_) => Err(CommandError::Usage(format!(
            "{} cannot be written to: name a directory with --to, and copy it from there",
            text.display()
        ))),
    }
}

/// The keys of the publishers of these names.
fn publishers(known: &[PublisherKey], names: &[String]) -> Result<Vec<PublisherKey>, CommandError> {
    let find = |name: &String| {
        known.iter().find(|key| key.name() == name).cloned().ok_or_else(|| {
            let known: Vec<&str> = known.iter().map(PublisherKey::name).collect();
            CommandError::Usage(format!(
                "{name} is no publisher of the archive, which are: {}",
                known.join(", ")
            ))
        })
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use firn_nix_format::PublisherSecretKey;

    use super::*;

    #[test]
    fn a_cache_is_written_to_a_directory_and_nowhere_else() {
        assert_eq!(directory("/a/b".as_ref()).unwrap(), PathBuf::from("/a/b"));
        assert_eq!(directory("file:///a/b".as_ref()).unwrap(), PathBuf::from("/a/b"));
        assert!(matches!(directory("s3://bucket".as_ref()), Err(CommandError::Usage(_))));
    }

    #[test]
    fn a_publisher_is_named_as_the_archive_knows_it() {
        let key = |name: &str| PublisherSecretKey::from_seed(name, &[1; 32]).unwrap().public_key();
        let known = [key("a-1"), key("b-1")];
        assert_eq!(publishers(&known, &["b-1".to_owned()]).unwrap(), [key("b-1")]);
        let unknown = publishers(&known, &["c-1".to_owned()]).unwrap_err();
        assert!(unknown.to_string().ends_with("which are: a-1, b-1"), "{unknown}");
    }
}
