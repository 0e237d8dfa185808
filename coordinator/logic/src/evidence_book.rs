//! Where a rebuild keeps which bundles were shown, by whom.
//!
//! Owns: the rows and the trait over them, with an implementation in memory. Always holds: a row counts because
//! [`crate::Evidence`] believed it; nothing is kept that did not count. Leaves to others: what is believed (`evidence`),
//! rows on a disk (the shell), since 1.5 million bundles with 40 holders each take more than memory should.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use firn_base::{BundleId, CodingId, NodeId, ShardIndex, Timestamp};
use firn_wire::Certificate;

/// Different statements about one coding that are kept: honest coordinators differ for moments only.
const CLAIMS_MAX: usize = 8;

/// A bundle by one of its codings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CodingName {
    /// The bundle.
    pub bundle: BundleId,
    /// The coding.
    pub coding: CodingId,
}

/// The place of a bundle in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommitOrder {
    /// Entries of the ledger then. They come first: one that took the place of another stands where that one stood, with a
    /// greater number, and must not be told after a withdrawal that came behind it.
    pub ledger_entries: u64,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// Its number then: of two committed at one time the smaller came first.
    pub number: u32,
    /// The bundle.
    pub bundle: BundleId,
}

/// Both headers of a coding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownHeaders {
    /// The content header.
    pub content: Vec<u8>,
    /// The coding header.
    pub coding: Vec<u8>,
}

/// What is known of a coding, without headers and holders.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShownCoding {
    /// So many different shards are enough.
    pub k: u8,
    /// So many indexes there are.
    pub indexes_max: u8,
    /// Indexes that somebody says to hold; not kept up any more once they are enough.
    pub indexes: BTreeSet<ShardIndex>,
    /// What a majority said of it, at most eight different statements.
    pub claims: Vec<Certificate>,
}

/// What one showing adds to a book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Showing {
    /// Of which coding.
    pub name: CodingName,
    /// What is known of it from here on, if that is something new.
    pub known: Option<ShownCoding>,
    /// Its headers, if it was not known.
    pub headers: Option<ShownHeaders>,
    /// Its place in the history, if it was not known.
    pub order: Option<CommitOrder>,
    /// Who holds which of its shards; the node's earlier word is replaced.
    pub holder: (NodeId, Vec<ShardIndex>),
}

/// The rows.
pub trait EvidenceBook {
    /// Why it cannot be read or written.
    type Error;

    /// What is known of a coding.
    fn coding(&self, name: CodingName) -> Result<Option<ShownCoding>, Self::Error>;

    /// The headers of a coding.
    fn headers(&self, name: CodingName) -> Result<Option<ShownHeaders>, Self::Error>;

    /// Who says to hold what of a coding, by node.
    fn holders(&self, name: CodingName) -> Result<Vec<(NodeId, Vec<ShardIndex>)>, Self::Error>;

    /// The codings of a bundle.
    fn codings_of(&self, bundle: BundleId) -> Result<Vec<CodingId>, Self::Error>;

    /// At most `limit` places of the history behind `after`, in order.
    fn history(&self, after: Option<CommitOrder>, limit: usize) -> Result<Vec<CommitOrder>, Self::Error>;

    /// Adds a showing, all of it or nothing.
    fn add(&mut self, showing: Showing) -> Result<(), Self::Error>;
}

impl ShownCoding {
    /// The latest word of a majority: n only grows.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.claims.iter().max_by_key(|claim| claim.n)
    }

    /// Whether enough different shards were shown.
    pub fn is_readable(&self) -> bool {
        self.indexes.len() >= usize::from(self.k)
    }

    /// Takes one more showing in. Says whether that was something new.
    pub(crate) fn learn(&mut self, claim: Certificate, indexes: &[ShardIndex]) -> bool {
        let is_new_claim = self.claims.len() < CLAIMS_MAX && !self.claims.contains(&claim);
        if is_new_claim {
            self.claims.push(claim);
        }
        let mut is_new_index = false;
        for index in indexes {
            is_new_index |= !self.is_readable() && self.indexes.insert(*index);
        }
        is_new_claim || is_new_index
    }
}

/// A book in memory, for tests and small archives.
#[derive(Debug, Default)]
pub struct MemoryBook {
    codings: BTreeMap<CodingName, ShownCoding>,
    headers: BTreeMap<CodingName, ShownHeaders>,
    holders: BTreeMap<(CodingName, NodeId), Vec<ShardIndex>>,
    history: BTreeSet<CommitOrder>,
}

impl EvidenceBook for MemoryBook {
    type Error = Infallible;

    fn coding(&self, name: CodingName) -> Result<Option<ShownCoding>, Infallible> {
        Ok(self.codings.get(&name).cloned())
    }

    fn headers(&self, name: CodingName) -> Result<Option<ShownHeaders>, Infallible> {
        Ok(self.headers.get(&name).cloned())
    }

    fn holders(&self, name: CodingName) -> Result<Vec<(NodeId, Vec<ShardIndex>)>, Infallible> {
        let (least, most) = (NodeId::from_bytes([0; 32]), NodeId::from_bytes([u8::MAX; 32]));
        let rows = self.holders.range((name, least)..=(name, most));
        Ok(rows.map(|((_, node), indexes)| (*node, indexes.clone())).collect())
    }

    fn codings_of(&self, bundle: BundleId) -> Result<Vec<CodingId>, Infallible> {
        let name = |byte| CodingName { bundle, coding: CodingId::from_bytes([byte; 32]) };
        Ok(self.codings.range(name(0)..=name(u8::MAX)).map(|(name, _)| name.coding).collect())
    }

    fn history(&self, after: Option<CommitOrder>, limit: usize) -> Result<Vec<CommitOrder>, Infallible> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        Ok(self.history.range((from, Unbounded)).take(limit).copied().collect())
    }

    fn add(&mut self, showing: Showing) -> Result<(), Infallible> {
        let Showing { name, known, headers, order, holder: (node, indexes) } = showing;
        self.codings.extend(known.map(|known| (name, known)));
        self.headers.extend(headers.map(|headers| (name, headers)));
        self.history.extend(order);
        self.holders.insert((name, node), indexes);
        Ok(())
    }
}
