//! Where bundles lie: what a reader must know before it asks nodes.
//!
//! Owns: the facts of one bundle, the nodes' addresses, and the trait by which readers get them. Always holds:
//! facts that exist fit together (the coding is one of the bundle, holders are of indexes that it has).
//! Leaves to others: asking coordinators and remembering (`cached_directory`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use firn_base::{BundleId, BundleNumber, NodeId, Scheme, ShardIndex};
use firn_bundle::{CodingHeader, ContentHeader};
use firn_wire::{BundleInfo, NodeAddress, Pass, ShardReport, Signed};
use futures::future::BoxFuture;

use crate::ReadError;

/// Addresses of nodes that hold shards, by node.
pub type NodeBook = BTreeMap<NodeId, NodeAddress>;

/// A bundle and where its shards lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFacts {
    /// Its number in this archive.
    pub number: BundleNumber,
    /// Its id.
    pub id: BundleId,
    /// What it holds.
    pub content: Arc<ContentHeader>,
    /// The coding to read.
    pub coding: CodingHeader,
    /// How many shards there shall be.
    pub n: u8,
    /// Who holds each shard, by index; as many lists as the coding has roots.
    pub holders: Vec<Vec<NodeId>>,
}

/// Why a directory has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The archive has no such bundle.
    #[error("the archive has no such bundle")]
    UnknownBundle,
    /// No coordinator answered, or none could.
    #[error("{0}")]
    Unavailable(String),
    /// A coordinator answered with what cannot be.
    #[error("a coordinator's answer does not fit together: {0}")]
    Malformed(String),
}

impl DirectoryError {
    /// The error of a read of `bundle` that failed for this.
    pub fn into_read_error(self, bundle: BundleId) -> ReadError {
        match self {
            Self::UnknownBundle => ReadError::UnknownBundle { bundle },
            other => ReadError::NoDirectory { cause: other.to_string() },
        }
    }
}

/// Tells where bundles lie. Answers may be old: what a reader finds wrong it reports by [`Self::doubt`].
pub trait Directory: Send + Sync + fmt::Debug {
    /// The facts of a bundle, by id.
    fn bundle(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<BundleFacts>, DirectoryError>>;

    /// The facts of a bundle, by the number that the index names.
    fn numbered(&self, number: BundleNumber) -> BoxFuture<'_, Result<Arc<BundleFacts>, DirectoryError>>;

    /// The addresses of nodes.
    fn nodes(&self) -> BoxFuture<'_, Result<Arc<NodeBook>, DirectoryError>>;

    /// The reader's right to read; none where none is needed.
    fn pass(&self) -> BoxFuture<'_, Result<Option<Arc<Signed<Pass>>>, DirectoryError>>;

    /// Facts of the bundle and addresses as they are now; the old ones if nobody answers in time. A bundle that was
    /// erased meanwhile is unknown.
    fn refresh(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<BundleFacts>, DirectoryError>>;

    /// A holder did not have what the facts say: they shall be fetched anew before long.
    fn doubt(&self, bundle: BundleId);

    /// A node sent what the shard's root does not prove: whoever can do something about it shall hear.
    fn report(&self, report: ShardReport) {
        let _ = report;
    }

    /// A node refused the pass: the next one shall be new.
    fn forget_pass(&self);
}

impl BundleFacts {
    /// Reads and checks what a coordinator said.
    pub fn from_info(info: &BundleInfo) -> Result<Self, DirectoryError> {
        let malformed = |what: &dyn fmt::Display| DirectoryError::Malformed(what.to_string());
        let content = ContentHeader::parse(&info.content_header).map_err(|error| malformed(&error))?;
        let first = info.codings.first().ok_or_else(|| malformed(&"a bundle without a coding"))?;
        let coding = CodingHeader::parse(&first.header).map_err(|error| malformed(&error))?;
        coding.check_belongs_to(&content).map_err(|error| malformed(&error))?;
        let scheme = Scheme::new(coding.k(), first.n).map_err(|error| malformed(&error))?;
        let mut holders = vec![Vec::new(); coding.roots().len()];
        for copies in &first.shards {
            let own = holders
                .get_mut(copies.index.position())
                .ok_or_else(|| malformed(&"a shard that the coding does not have"))?;
            own.extend_from_slice(&copies.nodes);
        }
        let id = content.bundle_id();
        Ok(Self { number: info.number, id, content: Arc::new(content), coding, n: scheme.n(), holders })
    }

    /// Who holds the shard; nobody for an index that the coding does not have.
    pub fn holders_of(&self, index: ShardIndex) -> &[NodeId] {
        self.holders.get(index.position()).map_or(&[], Vec::as_slice)
    }
}
