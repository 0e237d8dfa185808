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
    /// Each chunk compressed on its own
    Chunks,
    /// As a publish stores it that uses no chunks of earlier bundles
    Publish,
    /// As a publish stores it that uses chunks of any earlier bundle
    Reuse,
}

/// What is in the archive.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) bundles: Vec<PaperBundle>,
    pub(crate) cpu: Duration,
    /// By the clock.
    pub(crate) wall: Duration,
    // Bundles there were behind each generation.
    bundles_after: Vec<usize>,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::Chunks, Self::Publish, Self::Reuse];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Chunks => "chunks alone",
            Self::Publish => "publish --no-reuse-chunks",
            Self::Reuse => "publish --reuse-small-bundles",
        }
    }

    /// Publishes the corpus into an archive of its own, generation by generation.
    pub(crate) fn measure(
        self,
        corpus: &Corpus,
        frame_bytes: Option<u32>,
        frame_compression: FrameCompression,
    ) -> Result<Measured, Failure> {
        let runtime = tokio::runtime::Runtime::new()?;
        let archive = PaperArchive::new(Scheme::new(K, N)?);
        let environment = Environment::real();
        let (before, begun) = (cpu_time(std::process::id())?, Instant::now());
        let mut bundles_after = Vec::new();
        for generation in &corpus.generations {
            let mut options = PublishOptions::new(corpus.source()?);
            options.paths = Some(corpus.hash_parts(*generation));
            options.reuse_chunks = self == Self::Reuse;
            options.reuse_small_bundles = self == Self::Reuse;
            match self {
                Self::Chunks => options.frame_bytes = Some(1),
                Self::Publish | Self::Reuse => {
                    options.frame_bytes = frame_bytes;
                    options.frame_compression = frame_compression;
                }
            }
            let publishers = vec![corpus.publisher.clone()];
            let publish = archive.publish(publishers, &environment, options, PublishEvents::none());
            let summary = runtime.block_on(publish)?;
            if summary.exit_code() != 0 {
                return Err(format!("not everything was published: {summary}").into());
            }
            bundles_after.push(archive.bundles().len());
        }
        let cpu = cpu_time(std::process::id())?.saturating_sub(before);
        Ok(Measured { bundles: archive.bundles(), cpu, wall: begun.elapsed(), bundles_after })
    }
}

impl Measured {
    pub(crate) fn frame_bytes(&self) -> u64 {
        self.bundles.iter().map(|bundle| bundle.content.manifest_extent().start).sum()
    }

    pub(crate) fn payload_bytes(&self) -> u64 {
        self.bundles.iter().map(|bundle| bundle.content.payload_bytes()).sum()
    }

    /// What there was behind each generation.
    pub(crate) fn payload_by_generation(&self) -> Vec<u64> {
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
