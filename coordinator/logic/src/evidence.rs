//! What nodes show of a lost archive, and what is believed of it.
//!
//! Owns: rosters, ledgers and certificates as they come in, who showed what is not believed, and in which order the
//! history is told again. Always holds: a roster counts if the archive's key signed it; of a ledger and of a certificate
//! counts what a majority of one such roster signed; headers count that such a certificate names by their hashes. So
//! nodes, however many, invent nothing that counts, and hide nothing that one honest node shows. What is shown is bounded
//! before it is kept.
//! Leaves to others: asking nodes, manifests and their signatures (the shell), placements (inventories).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{ArchiveId, BundleId, CodingId, NodeId, PublicKey, ShardIndex};
use firn_wire::{
    Certificate, KeptBundle, LedgerAct, LedgerEntry, LedgerHead, Roster, Signed, VerifiedRoster,
    believed_entries, is_chain,
};

use crate::headers::CodedBundle;

/// Bundles that are kept in memory at most, beside those that are certified: strangers may show any number.
const UNCERTIFIED_MAX: usize = 1 << 20;
/// Different statements about one coding that are kept: honest coordinators differ for moments only.
const CLAIMS_MAX: usize = 8;
/// Nodes of whose refused words one is kept.
const REFUSED_MAX: usize = 4_096;

/// Why something that a node showed is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// A roster that the archive's key did not sign.
    #[error("it shows a roster that the archive's key has not signed")]
    Roster,
    /// Entries that do not follow on one another.
    #[error("its ledger is no chain")]
    BrokenLedger,
    /// No majority of any roster signed any of it.
    #[error("no majority of the coordinators of any roster signed its ledger")]
    UnsignedLedger,
    /// Another ledger than the one that is believed, and a majority signed both.
    #[error("its ledger is signed and is another from entry {position} on than the one that is believed")]
    Fork {
        /// The first entry that differs.
        position: u64,
    },
    /// Headers that are none or do not belong together.
    #[error("it shows headers that are none: {0}")]
    Headers(String),
    /// A certificate whose signature does not fit.
    #[error("it shows a certificate with a signature that does not fit")]
    Signature,
    /// A certificate of something else than the headers beside it.
    #[error("it shows a certificate of another bundle or coding than the headers beside it")]
    OtherBundle,
    /// Signatures under different statements in the place of one certificate.
    #[error("it shows a certificate whose signatures are of different statements")]
    Mixed,
    /// A certificate that too few coordinators of any roster signed.
    #[error("it shows a certificate that no majority of the coordinators of any roster signed")]
    UnsignedCertificate,
}

/// A bundle that was committed, as far as it was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertifiedBundle {
    /// The content header.
    pub content_header: Vec<u8>,
    /// The header of a coding that has a certificate.
    pub coding_header: Vec<u8>,
    /// What the coordinators said of it.
    pub certificate: Certificate,
    /// Who says to hold which of its shards.
    pub holders: BTreeSet<(ShardIndex, NodeId)>,
    /// How many of them are enough.
    pub k: u8,
}

/// What to restore next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextStep {
    /// Entries of the ledger, which come before the next bundle.
    Ledger(Vec<LedgerEntry>),
    /// A bundle, by each of its codings that have a certificate, the one to try first first.
    Bundle(Vec<CertifiedBundle>),
    /// Nothing is left.
    Done,
}

#[derive(Debug, Default)]
struct Coding {
    header: Vec<u8>,
    k: u8,
    claims: BTreeSet<Certificate>,
    holders: BTreeSet<(ShardIndex, NodeId)>,
}

#[derive(Debug, Default)]
struct Seen {
    content_header: Vec<u8>,
    codings: BTreeMap<CodingId, Coding>,
}

/// Everything that was shown and may count.
#[derive(Debug)]
pub struct Evidence {
    archive: ArchiveId,
    rosters: Vec<VerifiedRoster>,
    ledger: Vec<LedgerEntry>,
    // Of the newest roster whose majority signed the ledger.
    ledger_generation: u64,
    bundles: BTreeMap<BundleId, Seen>,
    uncertified: BTreeSet<BundleId>,
    refused: BTreeMap<NodeId, (u64, EvidenceError)>,
    shown: BTreeSet<NodeId>,
    shards: u64,
}

/// Of everything shown, how much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EvidenceCounts {
    /// Nodes that have shown all they have.
    pub nodes: u64,
    /// Nodes that the ledger names and that are not among them.
    pub awaited: u64,
    /// Entries of the ledger.
    pub ledger: u64,
    /// Bundles with a certificate that is believed.
    pub certified: u64,
    /// Of these, those of which enough different shards were shown.
    pub readable: u64,
    /// Bundles without one.
    pub uncertified: u64,
    /// Shards shown.
    pub shards: u64,
}

impl Evidence {
    /// Nothing but the rosters that whoever rebuilds has at hand.
    pub fn new(rosters: impl IntoIterator<Item = VerifiedRoster>, archive: ArchiveId) -> Self {
        let known = rosters.into_iter().filter(|roster| roster.archive() == archive);
        Self {
            archive,
            rosters: known.collect(),
            ledger: Vec::new(),
            ledger_generation: 0,
            bundles: BTreeMap::new(),
            uncertified: BTreeSet::new(),
            refused: BTreeMap::new(),
            shown: BTreeSet::new(),
            shards: 0,
        }
    }

    /// `node` shows rosters, and its ledger with the heads that coordinators signed. What was shown before is judged by
    /// the new rosters too.
    pub fn show_governance(
        &mut self,
        node: NodeId,
        rosters: &[Signed<Roster>],
        heads: &[Signed<LedgerHead>],
        entries: Vec<LedgerEntry>,
    ) {
        for signed in rosters {
            match VerifiedRoster::open(signed, self.archive) {
                // Only the archive's key makes them, so there are few.
                Ok(roster) if !self.rosters.contains(&roster) => self.rosters.push(roster),
                Ok(_) => {}
                Err(_) => self.refuse(node, EvidenceError::Roster),
            }
        }
        if let Err(error) = self.weigh_ledger(heads, entries) {
            self.refuse(node, error);
        }
    }

    /// Believes the longest ledger; of two that differ, the one of the later roster.
    fn weigh_ledger(
        &mut self,
        heads: &[Signed<LedgerHead>],
        mut entries: Vec<LedgerEntry>,
    ) -> Result<(), EvidenceError> {
        if entries.is_empty() {
            return Ok(());
        }
        if !is_chain(&entries) {
            return Err(EvidenceError::BrokenLedger);
        }
        let lengths = self.rosters.iter().filter_map(|roster| {
            let (length, _) = believed_entries(&entries, heads, roster)?;
            Some((length, roster.roster().generation))
        });
        let (length, generation) = lengths.max().ok_or(EvidenceError::UnsignedLedger)?;
        entries.truncate(length);
        let differs = self.ledger.iter().zip(&entries).position(|(known, shown)| known != shown);
        let is_later = generation > self.ledger_generation;
        let position = differs.map(|position| u64::try_from(position).unwrap_or(u64::MAX));
        if (position.is_some() && is_later) || (position.is_none() && entries.len() > self.ledger.len()) {
            self.ledger = entries;
            self.ledger_generation = generation.max(self.ledger_generation);
        }
        position.map_or(Ok(()), |position| Err(EvidenceError::Fork { position }))
    }

    /// `node` shows a bundle of which it holds shards.
    pub fn show_bundle(&mut self, node: NodeId, kept: KeptBundle) {
        self.shards = self.shards.saturating_add(kept.indexes.len() as u64);
        if let Err(error) = self.weigh_bundle(node, kept) {
            self.refuse(node, error);
        }
    }

    fn weigh_bundle(&mut self, node: NodeId, kept: KeptBundle) -> Result<(), EvidenceError> {
        let KeptBundle { content_header, coding_header, certificate, indexes } = kept;
        let headers = |error: crate::CodedBundleError| EvidenceError::Headers(error.to_string());
        // n is in the certificate; any that the coding allows reads its headers.
        let n = firn_bundle::CodingHeader::parse(&coding_header).map_or(0, |coding| coding.k());
        let coded = CodedBundle::read(&content_header, &coding_header, n).map_err(headers)?;
        let claim = self.open_certificate(&certificate, &coded)?;
        let Some(statement) = claim else {
            if self.uncertified.len() < UNCERTIFIED_MAX {
                self.uncertified.insert(coded.bundle);
            }
            return Ok(());
        };
        let seen = self.bundles.entry(coded.bundle).or_default();
        seen.content_header = content_header;
        let coding = seen.codings.entry(coded.coding).or_default();
        (coding.header, coding.k) = (coding_header, coded.scheme.k());
        let exists = |index: &ShardIndex| index.position() < coded.roots.len();
        coding.holders.extend(indexes.into_iter().filter(exists).map(|index| (index, node)));
        if coding.claims.len() < CLAIMS_MAX {
            coding.claims.insert(statement);
        }
        Ok(())
    }

    /// The one statement of a certificate, if a majority signed it; none where there is none.
    fn open_certificate(
        &self,
        certificate: &[Signed<Certificate>],
        coded: &CodedBundle,
    ) -> Result<Option<Certificate>, EvidenceError> {
        let mut statement: Option<Certificate> = None;
        let mut signers = BTreeSet::new();
        for signed in certificate {
            let opened = signed.open(self.archive).map_err(|_| EvidenceError::Signature)?;
            signers.insert(opened.signer());
            let opened = opened.into_statement();
            if opened.bundle != coded.bundle || opened.coding != coded.coding {
                return Err(EvidenceError::OtherBundle);
            }
            match &statement {
                Some(known) if *known != opened => return Err(EvidenceError::Mixed),
                Some(_) => {}
                None => statement = Some(opened),
            }
        }
        let Some(statement) = statement else { return Ok(None) };
        match self.is_believed(&signers) {
            true => Ok(Some(statement)),
            false => Err(EvidenceError::UnsignedCertificate),
        }
    }

    fn is_believed(&self, signers: &BTreeSet<PublicKey>) -> bool {
        self.rosters.iter().any(|roster| Certificate::is_believed(signers, roster))
    }

    /// `node` has shown everything.
    pub fn all_shown(&mut self, node: NodeId) {
        self.shown.insert(node);
    }

    fn refuse(&mut self, node: NodeId, error: EvidenceError) {
        let has_room = self.refused.len() < REFUSED_MAX;
        if let Some((count, _)) = self.refused.get_mut(&node) {
            *count = count.saturating_add(1);
        } else if has_room {
            self.refused.insert(node, (1, error));
        }
    }

    /// Nodes that showed what is not believed: how often, and the first reason.
    pub fn refused(&self) -> impl Iterator<Item = (NodeId, u64, &EvidenceError)> {
        self.refused.iter().map(|(node, (count, error))| (*node, *count, error))
    }

    /// The ledger that is believed.
    pub fn ledger(&self) -> &[LedgerEntry] {
        &self.ledger
    }

    /// How much there is.
    pub fn counts(&self) -> EvidenceCounts {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let named = self.ledger.iter().filter_map(|entry| match &entry.act {
            LedgerAct::UseToken { node, .. } => Some(NodeId::from(*node)),
            _ => None,
        });
        let awaited = named.filter(|node| !self.shown.contains(node)).collect::<BTreeSet<_>>();
        let readable = |seen: &&Seen| seen.codings.values().any(Coding::is_readable);
        let uncertified = self.uncertified.iter().filter(|id| !self.bundles.contains_key(id));
        EvidenceCounts {
            nodes: count(self.shown.len()),
            awaited: count(awaited.len()),
            ledger: count(self.ledger.len()),
            certified: count(self.bundles.len()),
            readable: count(self.bundles.values().filter(readable).count()),
            uncertified: count(uncertified.count()),
            shards: self.shards,
        }
    }

    /// The certified bundles in the order in which they were committed, without those that a purge had erased: a node that
    /// was away may still show what the others have removed.
    pub fn in_order(&self) -> Vec<BundleId> {
        let erased = self.ledger.iter().filter_map(|entry| match entry.act {
            LedgerAct::Erase { bundle } => Some(bundle),
            _ => None,
        });
        let erased: BTreeSet<BundleId> = erased.collect();
        let mut all: Vec<_> = self
            .bundles
            .iter()
            .filter(|(id, _)| !erased.contains(id))
            .filter_map(|(id, seen)| {
                let certificate = seen.codings.values().find_map(Coding::certificate)?;
                Some(((certificate.committed_at, certificate.number, *id), *id))
            })
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// A bundle by each of its codings that have a certificate; empty where there is none. One of which enough shards were
    /// shown comes first, then the one with the larger k, which counted later. (What was shown may be a lie, so all count.)
    pub fn bundle(&self, id: BundleId) -> Vec<CertifiedBundle> {
        let Some(seen) = self.bundles.get(&id) else { return Vec::new() };
        let mut codings: Vec<_> = seen.codings.values().collect();
        codings.sort_by_key(|coding| std::cmp::Reverse((coding.is_readable(), coding.k)));
        let certified = codings.into_iter().filter_map(|coding| {
            Some(CertifiedBundle {
                content_header: seen.content_header.clone(),
                coding_header: coding.header.clone(),
                certificate: coding.certificate()?.clone(),
                holders: coding.holders.clone(),
                k: coding.k,
            })
        });
        certified.collect()
    }

    /// What comes next behind a ledger of `entries`, where `next` is the next bundle that is not there yet: entries of the
    /// ledger first that are older than it.
    pub fn next_step(&self, entries: u64, next: Option<BundleId>) -> NextStep {
        let bundle = next.map_or_else(Vec::new, |id| self.bundle(id));
        let until = bundle.first().map_or(u64::MAX, |bundle| bundle.certificate.ledger_entries);
        let position = |entries: u64| usize::try_from(entries).unwrap_or(usize::MAX).min(self.ledger.len());
        let (from, to) = (position(entries), position(until));
        if from < to {
            let page = self.ledger[from..to].iter().take(LEDGER_PAGE).cloned();
            return NextStep::Ledger(page.collect());
        }
        if bundle.is_empty() { NextStep::Done } else { NextStep::Bundle(bundle) }
    }
}

/// Entries of the ledger in one command.
const LEDGER_PAGE: usize = 1_024;

impl Coding {
    /// The latest word of a majority: n only grows.
    fn certificate(&self) -> Option<&Certificate> {
        self.claims.iter().max_by_key(|claim| claim.n)
    }

    fn is_readable(&self) -> bool {
        let distinct: BTreeSet<_> = self.holders.iter().map(|(index, _)| *index).collect();
        distinct.len() >= usize::from(self.k)
    }
}
