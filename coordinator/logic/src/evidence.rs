//! What nodes show of a lost archive, and what is believed of it.
//!
//! Owns: rosters, ledgers and certificates as they come in, who showed what is not believed, and in which order the
//! history is told again. Always holds: a roster counts if the archive's key signed it; of a ledger and of a certificate
//! counts what a majority of one such roster signed; headers count that such a certificate names by their hashes. So
//! nodes, however many, invent nothing that counts, and hide nothing that one honest node shows. What is shown is bounded
//! before it is kept. Memory does not grow with the number of bundles: these are rows of a book.
//! Leaves to others: the rows (`evidence_book`), asking nodes, manifests and their signatures (the shell), placements
//! (inventories).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_base::{ArchiveId, BundleId, NodeId, PublicKey, ShardIndex};
use firn_wire::{
    Certificate, KeptBundle, KeptName, LedgerAct, LedgerEntry, LedgerHead, NodeState, Roster, Signed,
    VerifiedRoster, believed_entries, is_chain,
};

use crate::evidence_book::{CodingName, CommitOrder, EvidenceBook, Showing, ShownCoding, ShownHeaders};
use crate::headers::CodedBundle;

/// Bundles without a certificate that are kept in memory at most: strangers may show any number.
const UNCERTIFIED_MAX: usize = 1 << 20;
/// Nodes that nobody names and that have shown everything: how many is told, no more.
const STRANGERS_SHOWN_MAX: usize = 1 << 16;
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
    /// It does not show what it had named.
    #[error("it does not show a bundle that it had named")]
    NotShown,
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

/// Everything that was shown and may count.
#[derive(Debug)]
pub struct Evidence<B> {
    book: B,
    archive: ArchiveId,
    rosters: Vec<VerifiedRoster>,
    ledger: Vec<LedgerEntry>,
    // Of the newest roster whose majority signed the ledger.
    ledger_generation: u64,
    certified: u64,
    readable: u64,
    uncertified: BTreeSet<BundleId>,
    refused: BTreeMap<NodeId, (u64, EvidenceError)>,
    shown: BTreeSet<NodeId>,
    named: Arc<BTreeSet<NodeId>>,
    // Of these, those that have left for good.
    left: BTreeSet<NodeId>,
    news: u64,
    shards: u64,
}

/// Of everything shown, how much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EvidenceCounts {
    /// Nodes that have shown all they have.
    pub nodes: u64,
    /// Nodes that a ledger or a backup names and that are not among them.
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

impl<B: EvidenceBook> Evidence<B> {
    /// Nothing but the rosters that whoever rebuilds has at hand, and an empty book.
    pub fn new(rosters: impl IntoIterator<Item = VerifiedRoster>, archive: ArchiveId, book: B) -> Self {
        let known = rosters.into_iter().filter(|roster| roster.archive() == archive);
        Self {
            book,
            archive,
            rosters: known.collect(),
            ledger: Vec::new(),
            ledger_generation: 0,
            certified: 0,
            readable: 0,
            uncertified: BTreeSet::new(),
            refused: BTreeMap::new(),
            shown: BTreeSet::new(),
            named: Arc::default(),
            left: BTreeSet::new(),
            news: 0,
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
                Ok(roster) if !self.rosters.contains(&roster) => {
                    self.rosters.push(roster);
                    self.note_news();
                }
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
            self.note_named();
            self.note_news();
        }
        position.map_or(Ok(()), |position| Err(EvidenceError::Fork { position }))
    }

    /// Nodes that a backup knows, which are named beside those of the ledger.
    pub fn name_nodes(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        Arc::make_mut(&mut self.named).extend(nodes);
    }

    fn note_named(&mut self) {
        let named = self.ledger.iter().filter_map(|entry| match &entry.act {
            LedgerAct::UseToken { node, .. } => Some(NodeId::from(*node)),
            _ => None,
        });
        Arc::make_mut(&mut self.named).extend(named);
        // Neither state is ever taken back.
        let left = self.ledger.iter().filter_map(|entry| match &entry.act {
            LedgerAct::SetNodeState { node, state: NodeState::Gone | NodeState::Lost } => Some(*node),
            _ => None,
        });
        self.left = left.collect();
    }

    /// Whether there may be bundles that cannot be told: one has too few shards, or a named node has not shown all that
    /// has not left for good. What has no certificate does not count: anybody may have made it up.
    pub fn may_lack(&self) -> bool {
        let mut awaited = self.named.difference(&self.shown);
        self.readable < self.certified || awaited.any(|node| !self.left.contains(node))
    }

    /// Nodes that a ledger which was believed, or a backup, names.
    pub fn named(&self) -> Arc<BTreeSet<NodeId>> {
        Arc::clone(&self.named)
    }

    /// How often something was shown that was not known and counts: a roster, more of a ledger, a bundle with a certificate,
    /// enough shards of one, all of what a named node has. Nobody can say any of it twice, or invent it.
    pub const fn news(&self) -> u64 {
        self.news
    }

    const fn note_news(&mut self) {
        self.news = self.news.saturating_add(1);
    }

    /// `node` names a bundle of which it holds shards. Says whether it is to show the rest of it. If not, somebody else
    /// has shown the same words, a majority signed them, and the node counts as a holder; or it has no certificate,
    /// without which nothing of it would count.
    pub fn name_bundle(&mut self, node: NodeId, kept: KeptName) -> Result<bool, B::Error> {
        let KeptName { bundle, coding, certificate, indexes } = kept;
        let count = indexes.len() as u64;
        let name = CodingName { bundle, coding };
        let Some(digest) = certificate else {
            self.shards = self.shards.saturating_add(count);
            self.note_uncertified(bundle)?;
            return Ok(false);
        };
        let Some(known) = self.book.coding(name)? else { return Ok(true) };
        let Some(claim) = known.claims.iter().find(|claim| claim.digest() == digest).cloned() else {
            return Ok(true);
        };
        self.shards = self.shards.saturating_add(count);
        let indexes = existing(indexes, known.indexes_max);
        let (k, indexes_max) = (known.k, known.indexes_max);
        self.enter(node, Claimed { name, k, indexes_max, headers: None, claim, indexes }, Some(known))?;
        Ok(false)
    }

    /// `node` did not show so many of the bundles that it had named.
    pub fn not_shown(&mut self, node: NodeId, count: usize) {
        (0..count).for_each(|_| self.refuse(node, EvidenceError::NotShown));
    }

    fn note_uncertified(&mut self, bundle: BundleId) -> Result<(), B::Error> {
        let has_room = self.uncertified.len() < UNCERTIFIED_MAX;
        if has_room && self.book.codings_of(bundle)?.is_empty() {
            self.uncertified.insert(bundle);
        }
        Ok(())
    }

    /// `node` shows a bundle of which it holds shards.
    pub fn show_bundle(&mut self, node: NodeId, kept: KeptBundle) -> Result<(), B::Error> {
        self.shards = self.shards.saturating_add(kept.indexes.len() as u64);
        if let Err(error) = self.weigh_bundle(node, kept)? {
            self.refuse(node, error);
        }
        Ok(())
    }

    fn weigh_bundle(
        &mut self,
        node: NodeId,
        kept: KeptBundle,
    ) -> Result<Result<(), EvidenceError>, B::Error> {
        let KeptBundle { content_header, coding_header, certificate, indexes } = kept;
        // n is in the certificate; any that the coding allows reads its headers.
        let n = firn_bundle::CodingHeader::parse(&coding_header).map_or(0, |coding| coding.k());
        let coded = match CodedBundle::read(&content_header, &coding_header, n) {
            Ok(coded) => coded,
            Err(error) => return Ok(Err(EvidenceError::Headers(error.to_string()))),
        };
        let name = CodingName { bundle: coded.bundle, coding: coded.coding };
        let known = self.book.coding(name)?;
        let claims = known.as_ref().map_or(&[][..], |known| &known.claims);
        let claim = match self.open_certificate(&certificate, &coded, claims) {
            Ok(Some(claim)) => claim,
            Ok(None) => return self.note_uncertified(name.bundle).map(Ok),
            Err(error) => return Ok(Err(error)),
        };
        let indexes_max = u8::try_from(coded.roots.len()).unwrap_or(u8::MAX);
        let showing = Claimed {
            name,
            k: coded.scheme.k(),
            indexes_max,
            headers: Some(ShownHeaders { content: content_header, coding: coding_header }),
            claim,
            indexes: existing(indexes, indexes_max),
        };
        self.enter(node, showing, known).map(Ok)
    }

    /// Adds to the book what is believed, and counts it.
    fn enter(&mut self, node: NodeId, claimed: Claimed, known: Option<ShownCoding>) -> Result<(), B::Error> {
        let Claimed { name, k, indexes_max, headers, claim, indexes } = claimed;
        let is_new = known.is_none();
        let mut coding = known.unwrap_or(ShownCoding { k, indexes_max, ..ShownCoding::default() });
        let was_readable = coding.is_readable();
        let order = CommitOrder {
            ledger_entries: claim.ledger_entries,
            committed_at: claim.committed_at,
            number: claim.number.0,
            bundle: name.bundle,
        };
        let has_news = coding.learn(claim, &indexes) || is_new;
        if is_new && self.book.codings_of(name.bundle)?.is_empty() {
            self.certified = self.certified.saturating_add(1);
            self.note_news();
            self.uncertified.remove(&name.bundle);
        }
        // A bundle that was coded anew is readable once, by whichever coding came to be first.
        if !was_readable && coding.is_readable() && !self.is_readable(name.bundle)? {
            self.readable = self.readable.saturating_add(1);
            self.note_news();
        }
        self.book.add(Showing {
            name,
            known: has_news.then_some(coding),
            headers: headers.filter(|_| is_new),
            order: is_new.then_some(order),
            holder: (node, indexes),
        })
    }

    fn is_readable(&self, bundle: BundleId) -> Result<bool, B::Error> {
        for coding in self.book.codings_of(bundle)? {
            if self.book.coding(CodingName { bundle, coding })?.is_some_and(|coding| coding.is_readable()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The one statement of a certificate, if a majority signed it; none where there is none. What is among the `claims`
    /// was signed by a majority: of 40 nodes that show the same words one pays for looking at the signatures.
    fn open_certificate(
        &self,
        certificate: &[Signed<Certificate>],
        coded: &CodedBundle,
        claims: &[Certificate],
    ) -> Result<Option<Certificate>, EvidenceError> {
        let mut statement: Option<Certificate> = None;
        for signed in certificate {
            let shown = signed.peek().map_err(|_| EvidenceError::Signature)?;
            if shown.bundle != coded.bundle || shown.coding != coded.coding {
                return Err(EvidenceError::OtherBundle);
            }
            match &statement {
                Some(known) if *known != shown => return Err(EvidenceError::Mixed),
                Some(_) => {}
                None => statement = Some(shown),
            }
        }
        let Some(statement) = statement else { return Ok(None) };
        if claims.contains(&statement) {
            return Ok(Some(statement));
        }
        let mut signers = BTreeSet::new();
        for signed in certificate {
            signers.insert(signed.open(self.archive).map_err(|_| EvidenceError::Signature)?.signer());
        }
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
        if self.named.contains(&node) {
            if self.shown.insert(node) {
                self.note_news();
            }
        } else if self.shown.len() < STRANGERS_SHOWN_MAX {
            self.shown.insert(node);
        }
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
        EvidenceCounts {
            nodes: count(self.shown.len()),
            awaited: count(self.named.difference(&self.shown).count()),
            ledger: count(self.ledger.len()),
            certified: self.certified,
            readable: self.readable,
            uncertified: count(self.uncertified.len()),
            shards: self.shards,
        }
    }

    /// Bundles that were erased: a node that was away may still show what the others have removed, and they do
    /// not come back.
    pub fn erased(&self) -> BTreeSet<BundleId> {
        let erased = self.ledger.iter().filter_map(|entry| match entry.act {
            LedgerAct::Erase { bundle } => Some(bundle),
            _ => None,
        });
        erased.collect()
    }

    /// At most `limit` certified bundles in the order in which they were committed, behind `after`.
    pub fn history(&self, after: Option<CommitOrder>, limit: usize) -> Result<Vec<CommitOrder>, B::Error> {
        self.book.history(after, limit)
    }

    /// A bundle by each of its codings that have a certificate; empty where there is none. One of which enough shards were
    /// shown comes first, then the one with the larger k, which counted later. (What was shown may be a lie, so all count.)
    pub fn bundle(&self, bundle: BundleId) -> Result<Vec<CertifiedBundle>, B::Error> {
        let mut codings = Vec::new();
        for coding in self.book.codings_of(bundle)? {
            let name = CodingName { bundle, coding };
            let (known, headers) = (self.book.coding(name)?, self.book.headers(name)?);
            let Some((known, headers)) = known.zip(headers) else { continue };
            let Some(certificate) = known.certificate().cloned() else { continue };
            let holders = self.book.holders(name)?.into_iter();
            let holders =
                holders.flat_map(|(node, indexes)| indexes.into_iter().map(move |index| (index, node)));
            let certified = CertifiedBundle {
                content_header: headers.content,
                coding_header: headers.coding,
                certificate,
                holders: holders.collect(),
                k: known.k,
            };
            codings.push((known.is_readable(), certified));
        }
        codings.sort_by_key(|(is_readable, coding)| std::cmp::Reverse((*is_readable, coding.k)));
        Ok(codings.into_iter().map(|(_, coding)| coding).collect())
    }

    /// Entries of the ledger that come next behind `entries` of them, at most `until` in all: those that are older than the
    /// next bundle come before it.
    pub fn ledger_page(&self, entries: u64, until: u64) -> Vec<LedgerEntry> {
        let position = |entries: u64| usize::try_from(entries).unwrap_or(usize::MAX).min(self.ledger.len());
        let (from, to) = (position(entries), position(until));
        self.ledger.get(from..to).unwrap_or_default().iter().take(LEDGER_PAGE).cloned().collect()
    }
}

/// Entries of the ledger in one command.
const LEDGER_PAGE: usize = 1_024;

/// Those of `indexes` that a coding has, each once and in order.
fn existing(indexes: Vec<ShardIndex>, indexes_max: u8) -> Vec<ShardIndex> {
    let existing: BTreeSet<ShardIndex> = indexes.into_iter().filter(|index| index.0 < indexes_max).collect();
    existing.into_iter().collect()
}

/// A showing that is believed.
struct Claimed {
    name: CodingName,
    k: u8,
    indexes_max: u8,
    // None where they are known.
    headers: Option<ShownHeaders>,
    claim: Certificate,
    indexes: Vec<ShardIndex>,
}
