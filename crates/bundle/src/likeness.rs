//! By what objects that probably share chunks are found: the name of their package, and a few of their chunks.
//!
//! Owns: which features an object has. Always holds: features are computed from what a manifest says alone, alike by whoever
//! reads it; equal contents have equal sampled features. Leaves to others: keeping and asking (coordinators), and what is made
//! of what is found (uploaders): a feature proves nothing.

use std::collections::BTreeSet;

use firn_base::{Digest, FEATURE_BYTES, Feature};
use firn_nix_format::StorePath;

use crate::chunk_entry::ChunkRef;
use crate::manifest::Manifest;
use crate::manifest_error::ManifestError;
use crate::record::Record;

/// The most features that one object has: its name, and [`SAMPLES_MAX`] chunks.
pub const FEATURES_PER_RECORD_MAX: usize = 1 + SAMPLES_MAX;

const SAMPLES_MAX: usize = 4;

// Below half a megabyte (chunks of 64 KiB) a sample costs the coordinators more than finding the object saves: some 85 % of
// all paths are smaller, and hold 3 % of the bytes. They are still found by name.
const SAMPLED_FROM_CHUNKS: u64 = 8;

// One more sample for each 16 MiB: what is large and partly the same is worth several chances.
const CHUNKS_PER_SAMPLE: u64 = 256;

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

/// All features of an object of `manifest`.
pub fn record_features(manifest: &Manifest, record: &Record) -> Result<Vec<Feature>, ManifestError> {
    let mut sampler = FeatureSampler::default();
    for chunk in manifest.chunk_list(record)?.chunks() {
        sampler.push(match chunk {
            ChunkRef::Own(number) => manifest.chunk(number)?.hash,
            ChunkRef::Foreign(number) => manifest.foreign(number)?.hash,
        });
    }
    let name = record.path_info().map(|info| name_feature(&info.store_path));
    Ok(name.into_iter().chain(sampler.finish()).collect())
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
        self.lowest.insert(hash);
        if self.lowest.len() > SAMPLES_MAX {
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
    use super::*;

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
        assert!(sampled(0..7).is_empty());
        assert_eq!(sampled(0..8).len(), 1);
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
}
