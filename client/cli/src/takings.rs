//! What lies in every bundle of an archive, read from the manifests.
//!
//! Always holds: one manifest is in memory for each bundle that is looked at, a few at a time; what a manifest says is
//! bounded before it is counted; a bundle that cannot be read is named.
//! Leaves to others: who is charged for what (`firn-client-logic`).

use std::sync::Arc;

use firn_base::BundleNumber;
use firn_bundle::{BundleRole, ChunkRef, ContentHeader, Manifest, ManifestError};
use firn_client::{Accounts, BundleFacts, Grouping, ObjectFacts, Takings};
use firn_retrieval::{PayloadReader, ReadError};
use firn_transport::Environment;
use firn_wire::BundleSummary;
use futures::{StreamExt, stream};

use crate::command_error::CommandError;
use crate::commands::bundle::page;
use crate::progress::{Progress, Unit};
use crate::session::Session;

// Manifests are up to 32 MiB, of full bundles about one.
const BUNDLES_AT_ONCE: usize = 4;

// Uses of chunks in one bundle: an honest one of 256 MiB, each chunk used by fifty objects, has half a million.
const CHUNK_USES_MAX: u64 = 1 << 24;

/// What was read.
#[derive(Debug)]
pub(crate) struct Takeoff {
    /// What each group takes.
    pub(crate) groups: Vec<(String, Takings)>,
    /// Bundles that could not be read, and why.
    pub(crate) unread: Vec<(u32, String)>,
}

/// Why a bundle says nothing.
#[derive(Debug, thiserror::Error)]
enum FactsError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("it uses more chunks than a bundle may have")]
    TooMany,
}

/// Reads the manifests of all bundles, in the order in which they were committed.
pub(crate) async fn take_off(session: &Session, grouping: Grouping) -> Result<Takeoff, CommandError> {
    let total = session.status().await?.bundles;
    let progress = Progress::new("reading manifests", Unit::Things("bundles"), total);
    let finder = session.finder();
    let payloads = finder.objects().manifests().payloads();
    let environment = session.archive().environment();
    let (mut accounts, mut unread) = (Accounts::new(grouping), Vec::new());
    let mut from = Some(BundleNumber(0));
    while let Some(next) = from {
        let bundles = page(session, next).await?;
        let last = bundles.last().map(|bundle| bundle.number).filter(|last| *last >= next);
        let read = stream::iter(&bundles).map(|bundle| facts(bundle, payloads, environment));
        let mut read = std::pin::pin!(read.buffered(BUNDLES_AT_ONCE));
        for bundle in &bundles {
            match read.next().await {
                Some(Ok(facts)) => accounts.enter(bundle.id, &facts),
                Some(Err(error)) => unread.push((bundle.number.0, error.to_string())),
                None => break,
            }
            progress.add(1);
        }
        from = last.and_then(|last| last.0.checked_add(1)).map(BundleNumber);
    }
    Ok(Takeoff { groups: accounts.groups().into_iter().collect(), unread })
}

async fn facts(
    bundle: &BundleSummary,
    payloads: &Arc<dyn PayloadReader>,
    environment: &Environment,
) -> Result<BundleFacts, FactsError> {
    let content = payloads.content(bundle.id).await?;
    let bytes = payloads.read(bundle.id, content.manifest_extent()).await?;
    let stored_bytes = u64::from(bundle.durable).saturating_mul(bundle.shard_bytes);
    environment.blocking(move || facts_of(&content, bytes, stored_bytes)).await
}

fn facts_of(
    content: &ContentHeader,
    bytes: bytes::Bytes,
    stored_bytes: u64,
) -> Result<BundleFacts, FactsError> {
    let manifest = Manifest::parse_whole(content, bytes)?;
    let (mut objects, mut uses) = (Vec::new(), 0_u64);
    for located in manifest.records() {
        let record = located?.record;
        let list = manifest.chunk_list(&record)?;
        uses = uses.saturating_add(list.chunk_count());
        if uses > CHUNK_USES_MAX {
            return Err(FactsError::TooMany);
        }
        let own = list.chunks().filter_map(|chunk| match chunk {
            ChunkRef::Own(number) => Some(number),
            ChunkRef::Foreign(_) => None,
        });
        let info = record.path_info();
        objects.push(ObjectFacts {
            name: info.map(|info| info.store_path.name().to_owned()),
            content_bytes: info.map_or(record.content_bytes, |info| info.nar_size),
            file_bytes: info.map_or(record.content_bytes, |info| info.file_size.unwrap_or(info.nar_size)),
            has_recipe: !record.recipe.is_none(),
            chunks: own.collect(),
        });
    }
    let parts = match content.role() {
        BundleRole::Head => content.dependencies().to_vec(),
        BundleRole::Ordinary | BundleRole::Part => Vec::new(),
    };
    Ok(BundleFacts {
        stored_bytes,
        frames: manifest.frames().iter().map(|frame| (frame.raw_bytes, frame.stored_bytes)).collect(),
        chunks: manifest.chunks().iter().map(|chunk| (chunk.frame, chunk.length)).collect(),
        objects,
        parts,
    })
}

#[cfg(test)]
mod tests {
    use firn_base::{BundleId, Digest, ObjectKey};
    use firn_bundle::{Blob, BuilderOptions, BundleBuilder, Encoding, NewRecord, PartChunk, RecipeNumber};
    use firn_nix_format::{Compression, PathInfo, Recipe, Sha256, StorePath};

    use super::*;

    #[test]
    fn facts_are_of_what_lies_in_a_bundle_and_not_of_what_it_uses_of_others() {
        let (own, earlier) = (vec![1; 3_000], vec![2; 5_000]);
        let mut builder = BundleBuilder::new(BuilderOptions::default());
        let hash = Digest::from_bytes(*blake3::hash(&earlier).as_bytes());
        let chunk = PartChunk { number: 9, length: 5_000, hash };
        builder.offer_foreign_chunk(BundleId::from_bytes([7; 32]), chunk);
        let path = |number: u8, file_size| {
            let store_path = StorePath::from_parts([number; 20], &format!("package-{number}")).unwrap();
            let nar = [&own[..], &earlier].concat();
            let info = PathInfo::of_nar(store_path, "nar/x".to_owned(), Sha256::of(&nar), 8_000);
            PathInfo { file_size, compression: Compression::Xz, ..info }
        };
        for (number, file_size, recipe) in
            [(1, Some(77), RecipeNumber::from(Recipe::Xz6)), (2, None, RecipeNumber::NONE)]
        {
            builder.begin_object();
            builder.push_chunk(&own).unwrap();
            builder.push_chunk(&earlier).unwrap();
            let record = NewRecord::store_path(path(number, file_size), Encoding::Chunked);
            builder.finish_object(NewRecord { recipe, ..record }).unwrap();
        }
        builder.begin_object();
        builder.push_chunk(b"it was built").unwrap();
        let (url, sha256) = ("log/x.drv".to_owned(), Sha256::of(b"it was built"));
        let blob = Blob { url, compression: Compression::None, bytes: 12, sha256 };
        let log = NewRecord::blob(ObjectKey::build_log([3; 20]), blob, Encoding::Chunked);
        builder.finish_object(log).unwrap();
        let sealed = builder.seal(&mut Vec::new()).unwrap();

        let facts = facts_of(&sealed.content, sealed.manifest.into(), 4_000).unwrap();
        let object = |name: Option<&str>, (content_bytes, file_bytes), has_recipe, chunk| ObjectFacts {
            name: name.map(str::to_owned),
            content_bytes,
            file_bytes,
            has_recipe,
            chunks: vec![chunk],
        };
        let expected = [
            object(Some("package-1"), (8_000, 77), true, 0),
            object(Some("package-2"), (8_000, 8_000), false, 0),
            object(None, (12, 12), false, 1),
        ];
        assert_eq!(facts.objects, expected);
        assert_eq!((facts.stored_bytes, facts.chunks), (4_000, vec![(0, 3_000), (0, 12)]));
        assert_eq!(facts.frames.iter().map(|(raw, _)| *raw).collect::<Vec<_>>(), [3_012]);
        assert!(facts.parts.is_empty(), "it depends on another one, and that is no part of it");
    }
}
