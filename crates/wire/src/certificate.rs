//! What nodes keep and show so that lost coordinators can be rebuilt: certificates of commits, the ledger, rosters.
//!
//! Owns: the statement that a bundle is committed, and how much of a ledger or certificate is believed. Always holds:
//! believed is what more than half of the coordinators of one roster signed; a node's word counts for nothing.
//! Leaves to others: which rosters the archive's key signed (`descriptor`), keeping (`storage-node`).

use std::collections::BTreeSet;

use firn_base::{BundleId, BundleNumber, CodingId, Digest, ObjectKey, PublicKey, ShardIndex, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{LedgerEntry, LedgerHead, Roster, Signed, Statement, VerifiedRoster, encode};

/// A coordinator's word that a bundle is committed, with what no shard file says of it. Nodes keep it beside the bundle's
/// shards, signed by a majority: what is shown without one was never committed, or by nobody.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Certificate {
    /// The bundle.
    pub bundle: BundleId,
    /// The coding of it that counts.
    pub coding: CodingId,
    /// How many shards of it there shall be.
    pub n: u8,
    /// Its number: of two bundles committed at one time the smaller came first.
    pub number: BundleNumber,
    /// Who committed it.
    pub uploader: PublicKey,
    /// When.
    pub committed_at: Timestamp,
    /// Entries of the ledger then: what was withdrawn before and what after.
    pub ledger_entries: u64,
    /// References that its commit recorded as external.
    pub externals: Vec<ObjectKey>,
}

impl Statement for Certificate {
    const KIND: &'static str = "certificate";
}

impl Certificate {
    /// BLAKE3 of its encoding: what names these words without repeating them.
    pub fn digest(&self) -> Digest {
        Digest::from_bytes(*blake3::hash(&encode(self)).as_bytes())
    }
}

/// What a node names of a coding of which it holds shards: enough to see whether others showed the rest before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptName {
    /// The bundle.
    pub bundle: BundleId,
    /// Its coding; that covers both headers.
    pub coding: CodingId,
    /// [`Certificate::digest`] of what its certificate says; none if the node has none.
    pub certificate: Option<Digest>,
    /// The shards that it holds.
    pub indexes: Vec<ShardIndex>,
}

/// What a node shows of a coding of which it holds shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptBundle {
    /// The content header of its shard files.
    pub content_header: Vec<u8>,
    /// Their coding header.
    pub coding_header: Vec<u8>,
    /// The certificate, once for each coordinator that signed it; empty if the node has none.
    pub certificate: Vec<Signed<Certificate>>,
    /// The shards that it holds.
    pub indexes: Vec<ShardIndex>,
}

/// What a node shows of the archive's governance, a page at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptGovernance {
    /// Rosters that were in force while it ran, on the first page only.
    pub rosters: Vec<Signed<Roster>>,
    /// Heads of its ledger, as coordinators signed them, on the first page only.
    pub heads: Vec<Signed<LedgerHead>>,
    /// Entries of its ledger from the position asked for.
    pub entries: Vec<LedgerEntry>,
    /// Whether there are more.
    pub more: bool,
}

/// Rosters that a node keeps and shows at most.
pub const ROSTERS_KEPT_MAX: usize = 256;

/// Codings in one request for certificates.
pub const CERTIFICATES_PER_REQUEST_MAX: usize = 1_024;

/// Codings of one page of names: each of which a node has no certificate costs it a look at its disk.
pub const KEPT_NAMES_PER_PAGE_MAX: usize = 1_024;

/// Codings of one request to show what was named: headers are read from the disk for each.
pub const KEPT_PER_REQUEST_MAX: usize = 256;

/// Bytes after which a page of certificates or kept bundles ends; one of them may pass it.
pub const KEPT_PAGE_BYTES: usize = 1 << 20;

/// Whether `entries` are a chain from the first on: each names its position and its predecessor.
pub fn is_chain(entries: &[LedgerEntry]) -> bool {
    let mut previous = Digest::from_bytes([0; 32]);
    entries.iter().zip(0..).all(|(entry, position)| {
        let follows = entry.position == position && entry.previous == previous;
        previous = entry.digest();
        follows
    })
}

/// How many of `entries`, which are a chain, more than half of the coordinators of `roster` signed, and their heads: none
/// if that is nothing. A head that reaches beyond the entries says nothing of them: they may be others.
pub fn believed_entries(
    entries: &[LedgerEntry],
    heads: &[Signed<LedgerHead>],
    roster: &VerifiedRoster,
) -> Option<(usize, Vec<Signed<LedgerHead>>)> {
    let mut signed = std::collections::BTreeMap::<PublicKey, usize>::new();
    let mut believed = Vec::new();
    for signed_head in heads.iter().filter(|head| roster.has_coordinator(head.signer())) {
        let Ok(head) = signed_head.open(roster.archive()) else { continue };
        let Ok(length) = usize::try_from(head.entries) else { continue };
        let last = length.checked_sub(1).and_then(|last| entries.get(last));
        if last.is_some_and(|last| last.digest() == head.digest) {
            let longest = signed.entry(head.signer()).or_default();
            *longest = length.max(*longest);
            believed.push(signed_head.clone());
        }
    }
    let mut lengths: Vec<usize> = signed.into_values().collect();
    lengths.sort_unstable_by(|one, other| other.cmp(one));
    Some((*lengths.get(roster.majority().saturating_sub(1))?, believed))
}

impl Certificate {
    /// Whether `signers`, each of whose signature was checked, are a majority of the coordinators of `roster`.
    pub fn is_believed(signers: &BTreeSet<PublicKey>, roster: &VerifiedRoster) -> bool {
        signers.iter().filter(|signer| roster.has_coordinator(**signer)).count() >= roster.majority()
    }
}
