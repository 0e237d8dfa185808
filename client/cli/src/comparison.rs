//! A binary cache beside the archive: how each of its paths stands.
//!
//! Owns: what counts as archived, missing and different. Always holds: nobody is told the hash of a path that the
//! archive does not have: presence is settled as a gateway settles it, from filters, the feed and ranges of the index;
//! counts are of paths that were read, and what could not be read is counted by itself.
//! Leaves to others: settling presence (`firn-gateway`), reading the cache (`firn-client`), printing (`commands`).

use std::sync::Arc;
use std::time::Duration;

use firn_client::Source;
use firn_gateway::{GatewayCore, NarCompression, ServeError};
use firn_nix_format::PathInfo;
use firn_transport::Environment;
use futures::stream::{self, StreamExt};
use serde::Serialize;
use tokio::time::sleep;

use crate::progress::Progress;

/// How a path of the cache stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Archived,
    Missing,
    Different(Difference),
    Unread(String),
}

/// In what an archived path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Difference {
    /// The archive has other NARs under this store path, and not this one.
    Contents,
    /// The same NAR with another name or other references.
    PathInfo,
    /// The same, and the archive lacks a signature.
    Signatures,
}

/// Paths and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    /// Paths.
    pub(crate) paths: u64,
    /// The sum of their NarSizes.
    pub(crate) nar_bytes: u64,
}

/// A narinfo or an archived path that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Unread {
    /// The store path, or the name of the narinfo.
    pub(crate) name: String,
    /// Why.
    pub(crate) reason: String,
}

/// A path of a list that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Listed {
    /// The store path.
    pub(crate) path: String,
    /// In what it differs; none for one that is missing.
    pub(crate) difference: Option<Difference>,
}

/// Which paths are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListOf {
    /// Those that are missing.
    Missing,
    /// Those that are different.
    Different,
}

/// What a comparison came to. The names of the fields are those of the JSON.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Comparison {
    /// Archived with this content and all these signatures.
    pub(crate) archived: Tally,
    /// Not archived.
    pub(crate) missing: Tally,
    /// Archived otherwise.
    pub(crate) different: Tally,
    /// Of these, those of which the archive has other contents only.
    pub(crate) different_contents: u64,
    /// Of these, those that lack signatures only.
    pub(crate) different_signatures: u64,
    /// Those that could not be compared.
    pub(crate) unread: Vec<Unread>,
    /// The list that was asked for.
    pub(crate) list: Option<Vec<Listed>>,
}

/// Compares.
#[derive(Debug)]
pub(crate) struct Comparer<'a> {
    /// Where the cache's files are read.
    pub(crate) environment: &'a Environment,
    /// The cache.
    pub(crate) source: &'a Source,
    /// The archive.
    pub(crate) core: &'a Arc<GatewayCore>,
}

// Narinfos that are held in memory.
const PATHS_AT_ONCE: usize = 1_000;
const BATCH_NARINFOS: usize = 32;
const LOOKS_AT_ONCE: usize = 32;

/// A coordinator that is replaced meanwhile is there again within some seconds.
const TRIES: u32 = 5;
const TRY_PAUSE: Duration = Duration::from_secs(2);

impl Comparer<'_> {
    /// Compares the paths with narinfos of these names.
    pub(crate) async fn compare(
        &self,
        names: &[String],
        list: Option<ListOf>,
        progress: &Progress,
    ) -> Comparison {
        let mut comparison = Comparison { list: list.map(|_| Vec::new()), ..Comparison::default() };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // A cache behind a URL takes a round trip for each narinfo, over as many connections as it may have.
        let readers = self.source.side_by_side(cores);
        for names in names.chunks(PATHS_AT_ONCE) {
            let each = names.len().div_ceil(readers).clamp(1, BATCH_NARINFOS);
            let batches = names.chunks(each).map(|batch| self.read(batch.to_vec()));
            let mut batches = std::pin::pin!(stream::iter(batches).buffered(readers));
            let mut infos = Vec::new();
            while let Some(batch) = batches.next().await {
                for read in batch {
                    match read {
                        Ok(info) => infos.push(info),
                        Err(unread) => {
                            comparison.unread.push(unread);
                            progress.add(1);
                        }
                    }
                }
            }
            let looks = infos.iter().map(|info| async move { (info, self.standing(info).await) });
            let mut looks = std::pin::pin!(stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE));
            while let Some((info, standing)) = looks.next().await {
                comparison.count(info, standing, list);
                progress.add(1);
            }
        }
        comparison.unread.sort();
        if let Some(list) = &mut comparison.list {
            list.sort_by(|one, other| one.path.cmp(&other.path));
        }
        comparison
    }

    async fn read(&self, names: Vec<String>) -> Vec<Result<PathInfo, Unread>> {
        let source = self.source.clone();
        let read_one = move |name: &String| match source.narinfo(name) {
            Ok(Some(text)) => match PathInfo::parse(&text) {
                Ok(info) if info.store_path.hash_part() == name => Ok(info),
                Ok(info) => Err(format!("it describes another path, {}", info.store_path)),
                Err(error) => Err(error.to_string()),
            },
            Ok(None) => Err("the source has no such narinfo".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let read = move || {
            let named = |name: String| {
                read_one(&name).map_err(|reason| Unread { name: format!("{name}.narinfo"), reason })
            };
            names.into_iter().map(named).collect()
        };
        self.environment.blocking(read).await
    }

    async fn standing(&self, info: &PathInfo) -> Standing {
        let mut standing = self.standing_now(info).await;
        for _ in 1..TRIES {
            if !matches!(standing, Standing::Unread(_)) {
                break;
            }
            sleep(TRY_PAUSE).await;
            standing = self.standing_now(info).await;
        }
        standing
    }

    async fn standing_now(&self, info: &PathInfo) -> Standing {
        let hash = *info.store_path.hash();
        let there = match self.core.narinfo(hash, NarCompression::None).await {
            Ok(narinfo) => PathInfo::parse(&narinfo.text),
            Err(ServeError::NotArchived(_)) => return Standing::Missing,
            Err(error) => return Standing::Unread(error.to_string()),
        };
        let there = match there {
            Ok(there) => there,
            Err(error) => return Standing::Unread(error.to_string()),
        };
        match difference(&there, info) {
            None => Standing::Archived,
            // Of several contents only the most preferred has a narinfo.
            Some(Difference::Contents) => match self.core.nar(hash, info.nar_hash).await {
                Ok(_) => Standing::Archived,
                Err(ServeError::NotArchived(_)) => Standing::Different(Difference::Contents),
                Err(error) => Standing::Unread(error.to_string()),
            },
            Some(other) => Standing::Different(other),
        }
    }
}

/// In what the archive's path differs from the cache's. Signatures that only the archive has are no difference.
fn difference(archived: &PathInfo, own: &PathInfo) -> Option<Difference> {
    if (archived.nar_hash, archived.nar_size) != (own.nar_hash, own.nar_size) {
        Some(Difference::Contents)
    } else if archived.fingerprint() != own.fingerprint() {
        Some(Difference::PathInfo)
    } else if own.signatures.iter().any(|signature| !archived.signatures.contains(signature)) {
        Some(Difference::Signatures)
    } else {
        None
    }
}

impl Comparison {
    /// Whether everything is archived alike.
    pub(crate) const fn is_complete(&self) -> bool {
        self.missing.paths == 0 && self.different.paths == 0 && self.unread.is_empty()
    }

    fn count(&mut self, info: &PathInfo, standing: Standing, list: Option<ListOf>) {
        let path = info.store_path.to_string();
        let (tally, listed) = match standing {
            Standing::Archived => (&mut self.archived, None),
            Standing::Missing => (&mut self.missing, (list == Some(ListOf::Missing)).then_some(None)),
            Standing::Different(how) => {
                self.different_contents += u64::from(how == Difference::Contents);
                self.different_signatures += u64::from(how == Difference::Signatures);
                (&mut self.different, (list == Some(ListOf::Different)).then_some(Some(how)))
            }
            Standing::Unread(reason) => {
                self.unread.push(Unread { name: path, reason });
                return;
            }
        };
        tally.paths += 1;
        tally.nar_bytes = tally.nar_bytes.saturating_add(info.nar_size);
        if let (Some(list), Some(difference)) = (&mut self.list, listed) {
            list.push(Listed { path, difference });
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_nix_format::{Compression, PublisherSecretKey, Sha256, StorePath};

    use super::*;

    fn info(nar: &[u8], signers: &[u8]) -> PathInfo {
        let mut info = PathInfo {
            store_path: StorePath::from_parts([1; 20], "x").unwrap(),
            url: "nar/x.nar".to_owned(),
            compression: Compression::None,
            file_hash: None,
            file_size: None,
            nar_hash: Sha256::of(nar),
            nar_size: nar.len() as u64,
            references: Vec::new(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            extra: Vec::new(),
        };
        let keys = signers.iter().map(|seed| PublisherSecretKey::from_seed("k", &[*seed; 32]).unwrap());
        info.signatures = keys.map(|key| key.sign(&info)).collect();
        info
    }

    #[test]
    fn what_is_signed_and_by_whom_makes_the_difference_and_nothing_else() {
        let own = info(b"nar", &[1]);
        assert_eq!(difference(&own, &own), None);
        assert_eq!(difference(&info(b"nar", &[1, 2]), &own), None, "the archive may know more signatures");
        let elsewhere = PathInfo { url: "nar/y.nar".to_owned(), file_size: Some(7), ..own.clone() };
        assert_eq!(difference(&elsewhere, &own), None);
        assert_eq!(difference(&info(b"other", &[1]), &own), Some(Difference::Contents));
        assert_eq!(difference(&info(b"nar", &[2]), &own), Some(Difference::Signatures));
        let refers = PathInfo { references: vec![own.store_path.clone()], ..own.clone() };
        assert_eq!(difference(&refers, &own), Some(Difference::PathInfo));
    }

    #[test]
    fn paths_are_counted_with_their_bytes_and_listed_as_asked() {
        let mut comparison = Comparison { list: Some(Vec::new()), ..Comparison::default() };
        let list = Some(ListOf::Different);
        comparison.count(&info(b"abc", &[]), Standing::Archived, list);
        assert!(comparison.is_complete());
        comparison.count(&info(b"abcd", &[]), Standing::Missing, list);
        comparison.count(&info(b"abcde", &[]), Standing::Different(Difference::Signatures), list);
        comparison.count(&info(b"abcdef", &[]), Standing::Unread("why".to_owned()), list);
        assert!(!comparison.is_complete());
        let json = serde_json::to_value(&comparison).unwrap();
        assert_eq!(json["archived"], serde_json::json!({ "paths": 1, "nar_bytes": 3 }));
        assert_eq!(json["missing"], serde_json::json!({ "paths": 1, "nar_bytes": 4 }));
        assert_eq!(json["different"], serde_json::json!({ "paths": 1, "nar_bytes": 5 }));
        assert_eq!((&json["different_contents"], &json["different_signatures"]), (&0.into(), &1.into()));
        assert_eq!(json["unread"][0]["reason"], "why");
        assert_eq!(json["list"][0]["difference"], "signatures");
        assert_eq!(json["list"].as_array().map(Vec::len), Some(1), "{json}");
    }
}
