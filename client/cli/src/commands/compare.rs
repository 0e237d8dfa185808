//! `firn compare`: a binary cache beside the archive.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use firn_base::ByteCount;
use firn_gateway::{ArchiveParts, FilterChoice, Gateway, GatewayOptions};
use firn_nix_format::nixbase32;
use tokio::time::timeout;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::comparison::{Comparer, Comparison, Difference, ListOf, Tally};
use crate::output::{print, print_json};
use crate::path_list::read_paths;
use crate::progress::{Progress, Unit};
use crate::session::Session;
use crate::source_flags::SourceFlags;
use crate::table::{Align, Table};

/// Compare a binary cache with the archive.
///
/// Says which of the cache's paths are archived, missing, or different (archived with other contents, or lacking a
/// signature), by their path infos; `firn verify` reads the contents. Nobody is told the hash of a path that is not
/// archived. Exit codes: 0 everything is archived, 1 something is missing, different or could not be read, 2 wrong usage.
#[derive(Debug, Args)]
pub(crate) struct CompareOptions {
    #[command(flatten)]
    source: SourceFlags,
    /// Compare only the store paths that this file names, one to a line, plain or as xz, zstd or bzip2; `-` reads standard
    /// input, an http(s) URL is fetched. Sources behind URLs need it
    #[arg(long, value_name = "FILE|URL")]
    paths: Option<PathBuf>,
    /// List these paths, one to a line: the missing ones are what `firn publish --paths -` reads
    #[arg(long, value_enum)]
    list: Option<ListFlag>,
}

/// See [`ListOf`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ListFlag {
    Missing,
    Different,
}

/// Fewer paths are settled by ranges of the index; for more the archive's filters, nine bits for each of its keys, are
/// fetched meanwhile.
const WORTH_FILTERS: usize = 20_000;

const FEED_WAIT: Duration = Duration::from_secs(60);

const UNREAD_LINES_MAX: usize = 50;

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, options: CompareOptions) -> Result<Done, CommandError> {
    let failed = |error: firn_client::SourceError| CommandError::Failed(error.to_string());
    let source = options.source.open()?;
    if !source.is_local() && options.paths.is_none() {
        return Err(CommandError::Usage(format!(
            "{source} cannot be listed: name the paths to compare with --paths FILE"
        )));
    }
    let session = Session::open(common).await?;
    let environment = session.archive().environment().clone();
    let (listed, file, reading) = (source.clone(), options.paths, options.source.options());
    // A source that is away is told as such, not as paths that could not be read.
    let greeted = source.clone();
    environment.blocking(move || greeted.greet()).await.map_err(failed)?;
    let names = move || match file {
        None => match listed.list().map_err(failed)? {
            // Of a directory that was named by mistake nothing would be missing.
            names if names.is_empty() => Err(CommandError::Failed(format!(
                "there is no narinfo in {listed}: name the directory of a binary cache, in which they lie"
            ))),
            names => Ok(names),
        },
        Some(file) => {
            let hash =
                |path: &crate::store_path_argument::StorePathArgument| nixbase32::encode(path.key().name());
            Ok(read_paths(&file, &reading)?.iter().map(hash).collect())
        }
    };
    let names: Vec<String> = environment.blocking(names).await?;
    let filter = if names.len() < WORTH_FILTERS { FilterChoice::None } else { FilterChoice::Full };
    let archive = ArchiveParts {
        environment: environment.clone(),
        coordinators: session.archive().coordinators().clone(),
    };
    let gateway = Gateway::open(archive, &GatewayOptions { filter, ..GatewayOptions::default() }).await?;
    timeout(FEED_WAIT, gateway.usable()).await.map_err(|_| {
        CommandError::Failed("no coordinator tells the archive's feed: try again later".to_owned())
    })?;
    let list = options.list.map(|flag| match flag {
        ListFlag::Missing => ListOf::Missing,
        ListFlag::Different => ListOf::Different,
    });
    let comparison = {
        let total = u64::try_from(names.len()).unwrap_or(u64::MAX);
        let progress = Progress::new("comparing", Unit::Things("paths"), total);
        let comparer = Comparer { environment: &environment, source: &source, core: gateway.core() };
        comparer.compare(&names, list, &progress).await
    };
    gateway.close().await;
    session.close().await;
    if common.json {
        print_json(&comparison)?;
    } else {
        show(&comparison)?;
    }
    Ok(Done::when(comparison.is_complete()))
}

/// With a list the counts go to stderr, so that the list can be piped.
fn show(comparison: &Comparison) -> Result<(), CommandError> {
    for unread in comparison.unread.iter().take(UNREAD_LINES_MAX) {
        eprintln!("error: {}: {}", unread.name, unread.reason);
    }
    if let Some(more @ 1..) = comparison.unread.len().checked_sub(UNREAD_LINES_MAX) {
        eprintln!("error: and {more} more, which --json names");
    }
    let Some(list) = &comparison.list else { return print(&table(comparison)) };
    eprintln!("{}", table(comparison));
    let line = |path: &crate::comparison::Listed| match path.difference {
        None => path.path.clone(),
        Some(Difference::Contents) => format!("{}: other contents", path.path),
        Some(Difference::PathInfo) => format!("{}: another name or other references", path.path),
        Some(Difference::Signatures) => format!("{}: signatures are missing", path.path),
    };
    let lines: Vec<String> = list.iter().map(line).collect();
    if lines.is_empty() { Ok(()) } else { print(&lines.join("\n")) }
}

fn table(comparison: &Comparison) -> String {
    let mut table = Table::new(&[("", Align::Left), ("paths", Align::Right), ("NAR bytes", Align::Right)]);
    let mut row = |name: &str, Tally { paths, nar_bytes }: Tally| {
        table.row(vec![name.to_owned(), paths.to_string(), ByteCount(nar_bytes).to_string()]);
    };
    row("archived", comparison.archived);
    row("missing", comparison.missing);
    row("different", comparison.different);
    let mut text = table.to_string();
    if !comparison.unread.is_empty() {
        text.push_str(&format!("\n{} could not be compared", comparison.unread.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_bytes_are_a_table() {
        let archived = Tally { paths: 12, nar_bytes: 3_000_000 };
        let mut comparison = Comparison { archived, ..Comparison::default() };
        let expected = "           paths  NAR bytes\narchived      12     3.0 MB\nmissing        0        0 B\ndifferent      0        0 B";
        assert_eq!(table(&comparison), expected);
        let unread = crate::comparison::Unread { name: "x".to_owned(), reason: "why".to_owned() };
        comparison.unread.push(unread);
        assert!(table(&comparison).ends_with("\n1 could not be compared"));
    }
}
