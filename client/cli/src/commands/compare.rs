//! `firn compare`: a binary cache beside the archive.

use clap::Args;
use firn_base::{Location, ObjectKey};
use firn_client::{Source, publisher_keys};
use firn_nix_format::{PathInfo, PublisherKey};
use firn_transport::Environment;
use futures::stream::{self, StreamExt};
use serde::Serialize;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::output::{print, print_json};
use crate::progress::{Progress, Unit};
use crate::record_finder::RecordFinder;
use crate::session::Session;

/// Compare a binary cache with the archive.
///
/// Says which of the cache's paths are archived, missing, or archived with another content, by their path infos;
/// `firn verify` reads the contents. The exit code is 1 unless all are archived.
#[derive(Debug, Args)]
pub(crate) struct CompareOptions {
    /// A binary cache: a directory or file://…
    source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Unread {
    name: String,
    reason: String,
}

/// What a comparison came to. The names of the fields are those of the JSON.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Comparison {
    archived: u64,
    missing: Vec<String>,
    different: Vec<String>,
    /// Narinfos that cannot be read, and archived path infos that cannot.
    unread: Vec<Unread>,
}

// Narinfos that are held in memory and looked up together.
const PATHS_AT_ONCE: usize = 1_000;
const RECORDS_AT_ONCE: usize = 16;

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, options: CompareOptions) -> Result<Done, CommandError> {
    let failed = |error: firn_client::SourceError| CommandError::Failed(error.to_string());
    let source = Source::open(&options.source).map_err(failed)?;
    let session = Session::open(common).await?;
    let environment = session.archive().environment().clone();
    let listed = source.clone();
    let names = environment.blocking(move || listed.list()).await.map_err(failed)?;
    let publishers = publisher_keys(&session.archive().ledger().await?);
    let finder = session.finder();
    let progress =
        Progress::new("comparing", Unit::Things("paths"), u64::try_from(names.len()).unwrap_or(u64::MAX));
    let mut comparison = Comparison::default();
    for names in names.chunks(PATHS_AT_ONCE) {
        let infos = read_infos(&environment, &source, names, &mut comparison).await;
        compare(&finder, &publishers, &infos, &mut comparison, &progress).await?;
    }
    drop(progress);
    comparison.missing.sort_unstable();
    comparison.different.sort_unstable();
    if common.json {
        print_json(&comparison)?;
    } else {
        print(&comparison.to_string())?;
    }
    session.close().await;
    Ok(Done::when(comparison.is_complete()))
}

async fn read_infos(
    environment: &Environment,
    source: &Source,
    names: &[String],
    comparison: &mut Comparison,
) -> Vec<PathInfo> {
    let (source, names) = (source.clone(), names.to_vec());
    let read = move || {
        let read_one = |name: &String| match source.narinfo(name) {
            Ok(Some(text)) => PathInfo::parse(&text).map_err(|error| error.to_string()),
            Ok(None) => Err("it vanished".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        names.iter().map(|name| (name.clone(), read_one(name))).collect::<Vec<_>>()
    };
    let mut infos = Vec::new();
    for (name, info) in environment.blocking(read).await {
        match info {
            Ok(info) => infos.push(info),
            Err(reason) => comparison.unread.push(Unread { name: format!("{name}.narinfo"), reason }),
        }
    }
    infos
}

async fn compare(
    finder: &RecordFinder,
    publishers: &[PublisherKey],
    infos: &[PathInfo],
    comparison: &mut Comparison,
    progress: &Progress,
) -> Result<(), CommandError> {
    let keys: Vec<ObjectKey> =
        infos.iter().map(|info| ObjectKey::store_path(*info.store_path.hash())).collect();
    let places: Vec<Vec<Location>> = finder.locate(&keys).await?;
    let looks = infos
        .iter()
        .zip(&keys)
        .zip(&places)
        .map(|((info, key), places)| async move { (info, finder.path(key, places, publishers).await) });
    let mut looks = std::pin::pin!(stream::iter(looks).buffer_unordered(RECORDS_AT_ONCE));
    while let Some((info, found)) = looks.next().await {
        progress.add(1);
        let name = info.store_path.to_string();
        match found {
            Ok(None) => comparison.missing.push(name),
            Ok(Some(found)) if found.info.fingerprint() == info.fingerprint() => comparison.archived += 1,
            Ok(Some(_)) => comparison.different.push(name),
            Err(error) => comparison.unread.push(Unread { name, reason: error.to_string() }),
        }
    }
    Ok(())
}

impl Comparison {
    const fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.different.is_empty() && self.unread.is_empty()
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for path in &self.missing {
            writeln!(formatter, "missing: {path}")?;
        }
        for path in &self.different {
            writeln!(formatter, "different: {path}")?;
        }
        for path in &self.unread {
            writeln!(formatter, "unread: {}: {}", path.name, path.reason)?;
        }
        write!(
            formatter,
            "{} archived, {} missing, {} different, {} unread",
            self.archived,
            self.missing.len(),
            self.different.len(),
            self.unread.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_archived_alike_is_complete() {
        let mut comparison = Comparison { archived: 3, ..Comparison::default() };
        assert!(comparison.is_complete());
        comparison.different.push("/nix/store/x".to_owned());
        assert!(!comparison.is_complete());
        assert_eq!(
            comparison.to_string(),
            "different: /nix/store/x\n3 archived, 0 missing, 1 different, 0 unread"
        );
        assert_eq!(
            serde_json::to_string(&comparison).unwrap(),
            r#"{"archived":3,"missing":[],"different":["/nix/store/x"],"unread":[]}"#
        );
    }
}
