//! Ways of storing a corpus, and what came of one.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use firn_base::Scheme;
use firn_benches::process::{Failure, cpu_time};
use firn_bundle::{FrameCompression, ShardFileHeader};
use firn_client::{PaperArchive, PaperBundle, PublishEvents, PublishOptions};
use firn_transport::Environment;

use crate::corpus::Corpus;

// A fleet of 60 failure domains and more.
pub(crate) const K: u8 = 16;
pub(crate) const N: u8 = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Variant {
    /// Each chunk compressed on its own, hash parts left as they are
    UnpatchedChunks,
    /// Each chunk compressed on its own
    Chunks,
    /// As a publish stores it, but hash parts left as they are
    Unpatched,
    /// As a publish stores it that uses no chunks of earlier bundles
    Publish,
    /// As a publish stores it that uses chunks of any earlier bundle
    Reuse,
}

/// How a corpus is published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publishing {
    /// Raw bytes of a frame; what suits the compression if not given.
    pub(crate) frame_bytes: Option<u32>,
    pub(crate) frame_compression: FrameCompression,
    /// Payload at which a bundle is full.
    pub(crate) bundle_bytes: u64,
    /// All generations in one publish.
    pub(crate) at_once: bool,
}

/// What is in the archive.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) bundles: Vec<PaperBundle>,
    /// Payload at which one was full.
    pub(crate) bundle_bytes: u64,
    pub(crate) cpu: Duration,
    /// By the clock.
    pub(crate) wall: Duration,
    // Bundles there were behind each publish.
    bundles_after: Vec<usize>,
}

impl Variant {
    pub(crate) const ALL: [Self; 5] =
        [Self::UnpatchedChunks, Self::Chunks, Self::Unpatched, Self::Publish, Self::Reuse];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::UnpatchedChunks => "chunks without patches",
            Self::Chunks => "chunks with patches",
            Self::Unpatched => "frames without patches",
            Self::Publish => "publish --no-reuse-chunks",
            Self::Reuse => "publish --reuse-small-bundles",
        }
    }

    /// Whether hash parts are replaced. There is no publish that leaves them: a corpus is published whose files have none
    /// ([`Corpus::renamed`]).
    pub(crate) const fn is_patched(self) -> bool {
        !matches!(self, Self::UnpatchedChunks | Self::Unpatched)
    }

    const fn frame_bytes(self, publishing: Publishing) -> Option<u32> {
        match self {
            Self::UnpatchedChunks | Self::Chunks => Some(1),
            Self::Unpatched | Self::Publish | Self::Reuse => publishing.frame_bytes,
        }
    }

    /// Publishes the corpus into an archive of its own, generation by generation or all of them at once.
    pub(crate) fn measure(self, corpus: &Corpus, publishing: Publishing) -> Result<Measured, Failure> {
        let runtime = tokio::runtime::Runtime::new()?;
        let archive = PaperArchive::new(Scheme::new(K, N)?);
        let environment = Environment::real();
        let rounds: Vec<Vec<String>> =
            corpus.generations.iter().map(|number| corpus.names(*number)).collect();
        let rounds = if publishing.at_once { vec![rounds.concat()] } else { rounds };
        let (before, begun) = (cpu_time(std::process::id())?, Instant::now());
        let mut bundles_after = Vec::new();
        for paths in rounds {
            let options = PublishOptions {
                paths: Some(paths.into()),
                reuse_chunks: self != Self::Publish,
                // A generation is less than a quarter of a bundle.
                reuse_small_bundles: self != Self::Publish,
                bundle_bytes: publishing.bundle_bytes,
                frame_bytes: self.frame_bytes(publishing),
                frame_compression: publishing.frame_compression,
                ..PublishOptions::new(corpus.source()?)
            };
            let publishers = vec![corpus.publisher.clone()];
            let publish = archive.publish(publishers, &environment, options, PublishEvents::none());
            let summary = runtime.block_on(publish)?;
            if summary.exit_code() != 0 {
                return Err(format!("not everything was published: {summary}").into());
            }
            bundles_after.push(archive.bundles().len());
        }
        let cpu = cpu_time(std::process::id())?.saturating_sub(before);
        let (bundles, wall) = (archive.bundles(), begun.elapsed());
        Ok(Measured { bundles, bundle_bytes: publishing.bundle_bytes, cpu, wall, bundles_after })
    }
}

impl Measured {
    pub(crate) fn frame_bytes(&self) -> u64 {
        self.bundles.iter().map(|bundle| bundle.content.manifest_extent().start).sum()
    }

    pub(crate) fn payload_bytes(&self) -> u64 {
        self.bundles.iter().map(|bundle| bundle.content.payload_bytes()).sum()
    }

    /// What there was behind each publish.
    pub(crate) fn payload_by_publish(&self) -> Vec<u64> {
        let payload = |count: &usize| self.bundles[..*count].iter().map(|b| b.content.payload_bytes()).sum();
        self.bundles_after.iter().map(payload).collect()
    }

    /// Bytes of all shard files.
    pub(crate) fn stored_bytes(&self) -> u64 {
        stored_bytes(&self.bundles)
    }

    pub(crate) fn bundles_and_dependencies(&self) -> String {
        let dependencies: usize = self.bundles.iter().map(|bundle| bundle.content.dependencies().len()).sum();
        format!("{}, {dependencies}", self.bundles.len())
    }
}

/// Bytes of all shard files of these.
pub(crate) fn stored_bytes(bundles: &[PaperBundle]) -> u64 {
    bundles.iter().map(|bundle| u64::from(N) * shard_file_bytes(bundle)).sum()
}

fn shard_file_bytes(bundle: &PaperBundle) -> u64 {
    let header =
        ShardFileHeader::new(bundle.content.clone(), bundle.coding.clone(), firn_base::ShardIndex(0));
    header.expect("a committed bundle has shard files").layout().file_bytes
}
