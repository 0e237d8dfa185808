//! What a publish is told, and how it ends early.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use firn_base::ByteCount;
use firn_bundle::{Encoding, FrameCompression, PAYLOAD_BYTES_MAX};
use firn_client_logic::{PlanWindow, PublishOrder, PublishSummary, Selection, UploadError, UploadPolicy};
use firn_nix_format::{PathInfo, PublisherKey, Recipe};
use firn_transport::{AskError, EndpointOptions};

use crate::code::CodeError;
use crate::pack::PackError;
use crate::path_names::PathNames;
use crate::plan::PlanError;
use crate::source::{Source, SourceError};
use crate::spool::SpoolError;

const MIB: u64 = 1 << 20;

// What two cores keep busy with; four objects of 8 MiB behind xz are 72 MiB.
const MEMORY_BYTES_MIN: u64 = 96 * MIB;
const MEMORY_BYTES_PER_CORE: u64 = 40 * MIB;

/// What to publish, and how.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// From where.
    pub source: Source,
    /// Exactly these; everything in the source if not given.
    pub paths: Option<PathNames>,
    /// What of it is this uploader's.
    pub selection: Selection,
    /// What comes first.
    pub order: PublishOrder,
    /// Only what these keys have signed, of those that the archive accepts.
    pub trusted_keys: Option<Vec<PublisherKey>>,
    /// In which form NARs are kept.
    pub encoding: Encoding,
    /// Whether the recipes of published files are looked for, and kept: where that is wished, the NAR of every
    /// compressed file is compressed again, by one encoder on each of the threads ([`Recipe::memory_bytes`]).
    pub keep_recipes: bool,
    /// Whether chunks of bundles that are archived already are used instead of being stored again. Before a bundle
    /// whose chunks are used can be erased, the bundles that use them have to be packed anew.
    pub reuse_chunks: bool,
    /// Whether chunks are used of bundles under a quarter full, too: those can come together with others no more then.
    pub reuse_small_bundles: bool,
    /// Largest payload of a bundle: 256 MiB at most.
    pub bundle_bytes: u64,
    /// Raw bytes at which a frame is closed, 4 MiB at most; what suits the compression if not given.
    pub frame_bytes: Option<u32>,
    /// What frames are compressed with.
    pub frame_compression: FrameCompression,
    /// Where spool files lie; the system's directory for temporary files if not given.
    pub spool_dir: Option<PathBuf>,
    /// Objects read and checked side by side.
    pub jobs: usize,
    /// Threads that compress frames, and files again for their recipes.
    pub threads: usize,
    /// Estimated memory of objects between their source and their bundle, beyond which no further one is begun.
    pub memory: ByteCount,
    /// How much of the source is planned at a time. What is more lies in the spool directory meanwhile.
    pub window: PlanWindow,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// How patient uploads are.
    pub policy: UploadPolicy,
    /// Asks it to end early.
    pub stop: PublishStop,
}

/// Asks a publish to end early: no further object is begun, and what was begun is packed, sent and committed, but for a
/// path whose recipe is being tried and what comes behind it, which are left to the next run. Clones ask the same
/// publish.
#[derive(Debug, Clone, Default)]
pub struct PublishStop(Arc<AtomicBool>);

impl PublishStop {
    /// Asks, for good.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a publish ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is nothing to publish from, or no way to tell what is archived.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The archive does not answer.
    #[error(transparent)]
    Archive(#[from] AskError),
    /// Nobody's signature would count.
    #[error("none of the trusted keys is a publisher of this archive: its publishers are {0}")]
    NoPublisher(String),
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Packing failed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Coding failed.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The archive takes no more.
    #[error(transparent)]
    Upload(#[from] UploadError),
}

/// A publish that ended before its end, and what it had done by then.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct PublishStopped {
    /// Why it ended.
    #[source]
    pub error: PublishError,
    /// What was done before. It stands, and running again goes on from there.
    pub summary: Box<PublishSummary>,
}

impl PublishOptions {
    /// The recipe to try on the file of this path.
    pub(crate) fn recipe_of(&self, info: &PathInfo) -> Option<Recipe> {
        let is_wished = self.keep_recipes && self.encoding == Encoding::Chunked;
        // Without a FileHash nothing tells whether it makes the published file.
        Recipe::of(info.compression).filter(|_| is_wished && info.file_hash.is_some())
    }

    /// Everything in `source`, with the defaults.
    pub fn new(source: Source) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = source.side_by_side(cores);
        Self {
            source,
            paths: None,
            selection: Selection::default(),
            order: PublishOrder::default(),
            trusted_keys: None,
            encoding: Encoding::Chunked,
            keep_recipes: false,
            reuse_chunks: true,
            reuse_small_bundles: false,
            bundle_bytes: PAYLOAD_BYTES_MAX,
            frame_bytes: None,
            frame_compression: FrameCompression::default(),
            spool_dir: None,
            jobs,
            threads: cores,
            memory: ByteCount(MEMORY_BYTES_MIN.max(MEMORY_BYTES_PER_CORE * cores as u64)),
            window: PlanWindow::default(),
            dry_run: false,
            policy: UploadPolicy::default(),
            stop: PublishStop::default(),
        }
    }
}

/// The bounds of an endpoint that publishes: a window for each node that is sent to is memory, and 4 MiB keep a
/// line of 1 Gbit/s with 30 ms busy.
pub fn publisher_endpoint() -> EndpointOptions {
    EndpointOptions { connection_window_bytes: 4 << 20, ..EndpointOptions::default() }
}
