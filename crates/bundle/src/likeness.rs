//! By what objects that probably share chunks are found: the name of their package, and a few of their chunks.
//!
//! Owns: which features an object has. Always holds: features are computed from what a manifest says alone, alike by whoever
//! reads it, in time that grows with the manifest's bytes; equal contents have equal sampled features, but for those of
//! manifests that name their chunks over and over. Leaves to others: keeping and asking (coordinators), and what is made
//! of what is found (uploaders): a feature proves nothing.

use std::collections::BTreeSet;

use firn_base::{Digest, FEATURE_BYTES, Feature};
use firn_nix_format::StorePath;

use crate::chunk_entry::ChunkRef;
use crate::limits::RECORDS_MAX;
use crate::manifest::Manifest;
use crate::manifest_error::ManifestError;
use crate::record::Record;

/// The most features that one object has: its name, and [`SAMPLES_MAX`] chunks.
pub const FEATURES_PER_RECORD_MAX: usize = 1 + SAMPLES_MAX;

const SAMPLES_MAX: usize = 4;

// Below 2 MiB (chunks of 64 KiB) a sample costs the coordinators more than finding the object saves: by the public cache's
// quantiles of sizes about a tenth of all paths lie between 0.5 and 2 MiB, with about a hundredth of the bytes, and their
// samples would be a quarter of all. They are still found by name.
const SAMPLED_FROM_CHUNKS: u64 = 32;

// One more sample for each 16 MiB: what is large and partly the same is worth several chances.
const CHUNKS_PER_SAMPLE: u64 = 256;

// A run of eight bytes may name a whole table, so a manifest of 32 MiB can name 8e11 chunks: a day to look at. Where
// versions of packages lie together, a chunk is named once for each; and small manifests may name theirs more often.
const VISITS_PER_CHUNK: u64 = 8;
const VISITS_MIN: u64 = RECORDS_MAX as u64;

const NAME: &[u8] = b"firn/feature/name/1\0";
const CHUNK: &[u8] = b"firn/feature/chunk/1\0";

/// The feature of everything that is called so, whatever its version: builds of one output of one package.
///
/// The name ends, as for Nix, before the first dash that no letter follows. What stands behind the last dash of the
/// version is the output's name if it is letters only.
pub fn name_feature(path: &StorePath) -> Feature {
    let (package, version) = split_version(path.name());
    let output = version.rsplit_once('-').map(|(_, last)| last);
    let output = output.filter(|last| last.bytes().all(|byte| byte.is_ascii_alphabetic()));
    feature(NAME, &[package.as_bytes(), b"\0", output.unwrap_or_default().as_bytes()])
}

fn split_version(name: &str) -> (&str, &str) {
    let dashes = name.match_indices('-').map(|(position, _)| position);
    let is_version =
        |dash: &usize| name.as_bytes().get(dash + 1).is_some_and(|next| !next.is_ascii_alphabetic());
    let end = dashes.into_iter().find(is_version).unwrap_or(name.len());
    name.split_at(end)
}

/// Chooses the chunks by which an object is found again under another name: those of the lowest hashes.
///
/// Two objects have the lowest hash in common as probably as a chunk of either is one of both (Broder's resemblance), so one
/// of some hundred chunks is enough to find nearly all objects that are worth finding.
#[derive(Debug, Clone, Default)]
pub struct FeatureSampler {
    chunks: u64,
    lowest: BTreeSet<Digest>,
}

impl FeatureSampler {
    /// Takes the hash of the object's next chunk.
    pub fn push(&mut self, hash: Digest) {
        self.chunks += 1;
        if self.lowest.len() < SAMPLES_MAX {
            self.lowest.insert(hash);
        } else if self.lowest.last().is_some_and(|highest| hash < *highest) && self.lowest.insert(hash) {
            self.lowest.pop_last();
        }
    }

    /// The features of the whole object; none if it is small.
    pub fn finish(self) -> Vec<Feature> {
        if self.chunks < SAMPLED_FROM_CHUNKS {
            return Vec::new();
        }
        let wanted = usize::try_from(1 + self.chunks / CHUNKS_PER_SAMPLE).unwrap_or(SAMPLES_MAX);
        self.lowest.iter().take(wanted).map(|hash| feature(CHUNK, &[hash.as_bytes()])).collect()
    }
}

/// Reads the features of a manifest's records, one after the other.
///
/// It looks at eight times as many chunks as the manifest's tables have, and 65,535 more. Objects that name more than are left
/// then are found by their names alone.
#[derive(Debug)]
pub struct FeatureReader<'a> {
    manifest: &'a Manifest,
    visits_left: u64,
}

impl<'a> FeatureReader<'a> {
    /// Reads in `manifest`.
    pub fn new(manifest: &'a Manifest) -> Self {
        let chunks = manifest.chunks().len() as u64 + manifest.foreign_chunks().len() as u64;
        Self { manifest, visits_left: chunks.saturating_mul(VISITS_PER_CHUNK).saturating_add(VISITS_MIN) }
    }

    /// The features of `record`, which is one of the manifest: its name first.
    pub fn features(&mut self, record: &Record) -> Result<Vec<Feature>, ManifestError> {
        let mut features: Vec<Feature> =
            record.path_info().map(|info| name_feature(&info.store_path)).into_iter().collect();
        let list = self.manifest.chunk_list(record)?;
        // Counted by its runs, before any chunk is looked at.
        let Some(left) = self.visits_left.checked_sub(list.chunk_count()) else { return Ok(features) };
        self.visits_left = left;
        let mut sampler = FeatureSampler::default();
        for chunk in list.chunks() {
            sampler.push(match chunk {
                ChunkRef::Own(number) => self.manifest.chunk(number)?.hash,
                ChunkRef::Foreign(number) => self.manifest.foreign(number)?.hash,
            });
        }
        features.extend(sampler.finish());
        Ok(features)
    }
}

fn feature(context: &[u8], parts: &[&[u8]]) -> Feature {
    let mut hasher = blake3::Hasher::new();
    hasher.update(context);
    for part in parts {
        hasher.update(part);
    }
    let mut bytes = [0; FEATURE_BYTES];
    hasher.finalize_xof().fill(&mut bytes);
    Feature::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use firn_nix_format::{Compression, PathInfo, Sha256};

    use super::*;
    use crate::builder::{BuilderOptions, BundleBuilder};
    use crate::record::{Encoding, NewRecord};
    use crate::record_codec::Content;

    fn named(name: &str) -> Feature {
        name_feature(&StorePath::from_parts([7; 20], name).unwrap())
    }

    fn hash(number: u64) -> Digest {
        Digest::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn sampled(chunks: impl IntoIterator<Item = u64>) -> Vec<Feature> {
        let mut sampler = FeatureSampler::default();
        chunks.into_iter().for_each(|number| sampler.push(hash(number)));
        sampler.finish()
    }

    #[test]
    fn versions_of_one_output_have_one_name_and_other_outputs_another() {
        assert_eq!(named("openssl-3.0.8"), named("openssl-3.1.0-rc1"));
        assert_eq!(named("openssl-3.0.8-dev"), named("openssl-3.1.0-dev"));
        assert_ne!(named("openssl-3.0.8"), named("openssl-3.0.8-dev"));
        assert_eq!(named("gcc-wrapper-12.2.0"), named("gcc-wrapper-13.1.0"));
        assert_ne!(named("gcc-wrapper-12.2.0"), named("gcc-12.2.0"));
        assert_eq!(named("bash-5.1-p16-man"), named("bash-5.2-p15-man"));
        assert_eq!(named("source"), named("source"));
        assert_ne!(named("a-b"), named("a"));
        assert_ne!(named("-"), named("--"));
    }

    #[test]
    fn what_is_small_is_found_by_its_name_alone() {
        assert!(sampled(0..31).is_empty());
        assert_eq!(sampled(0..32).len(), 1);
        assert_eq!(sampled(0..255).len(), 1);
        assert_eq!(sampled(0..256).len(), 2);
        assert_eq!(sampled(0..100_000).len(), SAMPLES_MAX);
        // Of one chunk again and again there is one sample.
        assert_eq!(sampled(std::iter::repeat_n(3, 1000)).len(), 1);
    }

    #[test]
    fn neither_order_nor_repetition_of_chunks_matters() {
        assert_eq!(sampled((0..50).rev()), sampled(0..50));
        assert_eq!(sampled((0..50).chain(0..50)), sampled(0..50));
    }

    #[test]
    fn objects_that_share_nine_of_ten_chunks_mostly_share_a_feature() {
        // 64 pairs of 200 chunks each, of which 20 differ: nine of eleven that are in either are in both.
        let shares = |pair: u64| {
            let (own, first) = (pair * 1000, pair * 1000 + 500);
            let one = sampled((own..own + 180).chain(first..first + 20));
            let other = sampled((own..own + 180).chain(first + 100..first + 120));
            one.iter().any(|feature| other.contains(feature))
        };
        let found = (0..64).filter(|pair| shares(*pair)).count();
        assert!((44..=62).contains(&found), "{found} of 64");
        assert!(sampled(0..200).iter().all(|feature| !sampled(1000..1200).contains(feature)));
    }

    fn record_of(seed: u8, nar_size: u64) -> NewRecord {
        let info = PathInfo {
            store_path: StorePath::from_parts([seed; 20], &format!("package-{seed}")).unwrap(),
            url: format!("nar/{seed}.nar.xz"),
            compression: Compression::Xz,
            file_hash: None,
            file_size: None,
            nar_hash: Sha256::from_bytes([seed; 32]),
            nar_size,
            references: Vec::new(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            extra: Vec::new(),
        };
        NewRecord::store_path(info, Encoding::Chunked)
    }

    const CHUNK_BYTES: u64 = 3;

    /// A manifest of so many chunks, of which each record has the runs given: their first chunks and counts.
    fn manifest_of(chunks: u32, records: &[Vec<(u32, u32)>]) -> Manifest {
        let mut builder = BundleBuilder::new(BuilderOptions::default());
        builder.begin_object();
        for number in 0..chunks {
            builder.push_chunk(&number.to_le_bytes()[..3]).unwrap();
        }
        // They stay, as no object leaves any.
        builder.object = None;
        for (seed, runs) in (1..).zip(records) {
            // No builder cuts such lists, and every reader takes them.
            let size = |length: usize| u32::try_from(length).unwrap();
            let mut list = [size(runs.len()).to_le_bytes(), 0_u32.to_le_bytes()].concat();
            list.extend(
                runs.iter().flat_map(|(first, count)| [first.to_le_bytes(), count.to_le_bytes()].concat()),
            );
            let bytes = runs.iter().map(|(_, count)| u64::from(*count) * CHUNK_BYTES).sum();
            let content =
                Content { bytes, list_offset: size(builder.lists.len()), list_bytes: size(list.len()) };
            builder.blocks.add(&record_of(seed, bytes), content).unwrap();
            builder.lists.extend_from_slice(&list);
        }
        let mut payload = Vec::new();
        let content = builder.seal(&mut payload).unwrap().content;
        let extent = content.manifest_extent();
        let manifest = payload.split_off(usize::try_from(extent.start).unwrap());
        Manifest::parse_whole(&content, manifest).unwrap()
    }

    fn features_in(manifest: &Manifest) -> Vec<Vec<Feature>> {
        let mut reader = FeatureReader::new(manifest);
        manifest.records().map(|located| reader.features(&located.unwrap().record).unwrap()).collect()
    }

    #[test]
    fn records_have_the_features_of_their_names_and_of_their_chunks() {
        let manifest = manifest_of(300, &[vec![(0, 300)], vec![(7, 3)], vec![(0, 100), (100, 200)]]);
        let features = features_in(&manifest);
        assert_eq!(features[0].len(), 1 + 2);
        assert_eq!(features[0][0], features[2][0], "they have one name");
        assert_eq!(features[0], features[2]);
        assert_eq!(features[1], features[0][..1]);
        let mut sampler = FeatureSampler::default();
        manifest.chunks().iter().for_each(|chunk| sampler.push(chunk.hash));
        assert_eq!(features[0][1..], sampler.finish());
    }

    #[test]
    fn a_manifest_that_names_its_chunks_a_million_times_over_takes_no_longer_than_its_tables() {
        // 16 MiB of runs, each of all but a few chunks of a table of as many bytes: 8e11 chunks.
        let (chunks, runs) = (381_000, 2 << 20);
        let endless = (0..runs).map(|run| (run % 100, chunks - 100)).collect();
        let manifest = manifest_of(chunks, &[vec![(0, chunks)], endless, vec![(0, 300)]]);
        let features = features_in(&manifest);
        assert_eq!(features.iter().map(Vec::len).collect::<Vec<_>>(), [1 + SAMPLES_MAX, 1, 1 + 2]);
    }

    #[test]
    fn eight_objects_of_all_chunks_are_sampled_and_more_only_in_small_manifests() {
        let sampled = |chunks: u32, objects: usize| {
            let features = features_in(&manifest_of(chunks, &vec![vec![(0, chunks)]; objects]));
            features.into_iter().filter(|features| features.len() > 1).count()
        };
        assert_eq!(sampled(100_000, 20), 8);
        assert_eq!(sampled(1_000, 200), 8 + 65);
    }
}
