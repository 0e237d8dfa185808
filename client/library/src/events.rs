//! What a publish tells while it runs.

use std::fmt;
use std::sync::Arc;

use firn_base::{BundleId, ByteCount};

/// A step of a publish, for progress bars and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishEvent {
    /// So many narinfos are going to be read.
    Reading {
        /// How many.
        narinfos: u64,
    },
    /// What will be done is known.
    Planned {
        /// Paths to publish.
        paths: u64,
        /// Build logs to publish.
        logs: u64,
        /// Bytes of their NARs.
        nar_bytes: ByteCount,
        /// Paths that the archive has already.
        skipped: u64,
    },
    /// An object was read, found right and packed.
    Packed {
        /// Its store path or URL.
        name: String,
        /// Its bytes.
        content: ByteCount,
    },
    /// Something is not published.
    Refused {
        /// What.
        name: String,
        /// Why.
        reason: String,
    },
    /// A bundle is on its way to the nodes.
    Uploading {
        /// Which.
        bundle: BundleId,
        /// Its payload.
        payload: ByteCount,
    },
    /// A node gave a receipt.
    ShardStored {
        /// Bytes of the shard.
        shard: ByteCount,
    },
    /// Objects are in the archive.
    Committed {
        /// How many.
        objects: u64,
        /// Their bytes.
        content: ByteCount,
    },
}

/// Who is told. Called from the publishing task: it must not block.
#[derive(Clone)]
pub struct PublishEvents {
    listener: Arc<dyn Fn(&PublishEvent) + Send + Sync>,
}

impl PublishEvents {
    /// Tells `listener`.
    pub fn new(listener: impl Fn(&PublishEvent) + Send + Sync + 'static) -> Self {
        Self { listener: Arc::new(listener) }
    }

    /// Tells nobody.
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    pub(crate) fn tell(&self, event: &PublishEvent) {
        (self.listener)(event);
    }
}

impl fmt::Debug for PublishEvents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PublishEvents")
    }
}
