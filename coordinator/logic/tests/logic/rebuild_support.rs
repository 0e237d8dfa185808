//! What honest nodes and coordinators show of an archive in memory, and telling its history again.

use std::collections::BTreeSet;

use firn_base::{ArchiveId, BundleId, Digest, NodeId, ObjectKey, ShardIndex, Timestamp};
use firn_coordinator_logic::{
    BundleRecord, CertifiedBundle, CommitOrder, Evidence, Facts, MemoryBook, MemoryState, RecordSummary,
    Scan, ToldSoFar, WithdrawnReferences, full_digest, plan_restored,
};
use firn_wire::{
    Certificate, Command, CommandOutcome, CoordinatorEntry, Identity, KeptBundle, LedgerAct, LedgerEntry,
    LedgerHead, Roster, Signed, VerifiedRoster,
};

use crate::support::{Archive, bundle_id, commit_of, entry, feature, key, uploader};

pub(crate) fn archive_key() -> Identity {
    Identity::from_seed(&[200; 32])
}

pub(crate) fn archive() -> ArchiveId {
    archive_key().public().into()
}

pub(crate) fn coordinator(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

/// The roster of coordinators 1 to 3, signed by a key.
pub(crate) fn signed_roster(signer: &Identity, generation: u64, members: &[u8]) -> Signed<Roster> {
    let entry = |number: &u8| CoordinatorEntry {
        id: coordinator(*number).node_id(),
        raft_id: (*number).into(),
        address: "h:1".into(),
    };
    let coordinators = members.iter().map(entry).collect();
    let issued = Timestamp::from_millis(generation);
    let roster = Roster { archive: archive(), generation, issued, coordinators, retired: Vec::new() };
    Signed::seal(signer, archive(), &roster)
}

pub(crate) fn roster() -> VerifiedRoster {
    VerifiedRoster::open(&signed_roster(&archive_key(), 1, &[1, 2, 3]), archive()).unwrap()
}

/// Evidence in memory.
pub(crate) type Shown = Evidence<MemoryBook>;

pub(crate) fn evidence() -> Shown {
    Evidence::new([roster()], archive(), MemoryBook::default())
}

pub(crate) fn show(evidence: &mut Shown, node: NodeId, kept: KeptBundle) {
    let Ok(()) = evidence.show_bundle(node, kept);
}

/// The bundles that are believed and were not erased, in their order; read two at a time.
pub(crate) fn in_order(evidence: &Shown) -> Vec<BundleId> {
    let (mut order, mut after): (Vec<CommitOrder>, _) = (Vec::new(), None);
    loop {
        let Ok(page) = evidence.history(after, 2);
        let Some(last) = page.last() else { break };
        after = Some(*last);
        order.extend(page);
    }
    let erased = evidence.erased();
    order.into_iter().map(|place| place.bundle).filter(|bundle| !erased.contains(bundle)).collect()
}

pub(crate) fn codings(evidence: &Shown, bundle: BundleId) -> Vec<CertifiedBundle> {
    let Ok(codings) = evidence.bundle(bundle);
    codings
}

pub(crate) fn sealed<T: firn_wire::Statement>(signers: &[u8], statement: &T) -> Vec<Signed<T>> {
    signers.iter().map(|signer| Signed::seal(&coordinator(*signer), archive(), statement)).collect()
}

pub(crate) fn heads(signers: &[u8], entries: &[LedgerEntry]) -> Vec<Signed<LedgerHead>> {
    let digest = entries.last().map_or(Digest::from_bytes([0; 32]), LedgerEntry::digest);
    sealed(signers, &LedgerHead { entries: entries.len() as u64, digest })
}

/// What records a bundle's manifest has, in these tests: its keys, and what each refers to.
pub(crate) type Manifests = fn(&CertifiedBundle) -> Vec<RecordSummary>;

impl Archive {
    pub(crate) fn ledger(&self) -> Vec<LedgerEntry> {
        let Ok(entries) = self.state.ledger_from(0, usize::MAX);
        entries
    }

    pub(crate) fn certificate(&self, tag: u8) -> Certificate {
        certificate_of(&self.bundle(tag))
    }

    /// What an honest node shows of a bundle.
    pub(crate) fn kept(&self, tag: u8, indexes: &[u8]) -> KeptBundle {
        self.kept_of(&self.bundle(tag), indexes)
    }

    pub(crate) fn kept_of(&self, bundle: &BundleRecord, indexes: &[u8]) -> KeptBundle {
        KeptBundle {
            content_header: bundle.content_header.clone(),
            coding_header: bundle.codings[0].header.clone(),
            certificate: sealed(&[1, 2], &certificate_of(bundle)),
            indexes: indexes.iter().copied().map(ShardIndex).collect(),
        }
    }

    pub(crate) fn digests(&self) -> (Digest, Digest) {
        let Ok(digest) = full_digest(&self.state);
        digest.restorable()
    }

    pub(crate) fn commit_with(
        &mut self,
        tag: u8,
        entries: Vec<firn_wire::IndexEntry>,
        externals: Vec<ObjectKey>,
    ) {
        assert_eq!(self.reserve(tag, (2, 4), &[0, 1, 2, 3]), CommandOutcome::Applied);
        let bundle = commit_of(tag, &[0, 1, 2, 3], entries);
        let outcome = self.run(Command::Commit { bundles: vec![bundle], externals });
        assert!(matches!(outcome, CommandOutcome::Committed { .. }), "{outcome:?}");
    }

    pub(crate) fn govern(&mut self, act: LedgerAct) {
        assert_eq!(self.run(Command::Govern(act)), CommandOutcome::Applied);
    }

    /// An archive without anything, or with what a backup held, that is being rebuilt.
    pub(crate) fn beginning(state: MemoryState, now: Timestamp) -> Self {
        let mut archive = Self::of(0);
        (archive.state, archive.now) = (state, now);
        assert_eq!(archive.run(Command::BeginRebuild), CommandOutcome::Applied);
        archive
    }

    pub(crate) fn ledger_entries(&self) -> u64 {
        let Ok(counters) = self.state.counters();
        counters.ledger.entries
    }

    /// Tells everything again that `evidence` believes.
    pub(crate) fn restore(&mut self, evidence: &Shown, manifests: Manifests) {
        let Ok(withdrawn) = WithdrawnReferences::read(&self.state, evidence.ledger());
        let (erased, may_lack) = (evidence.erased(), evidence.may_lack());
        for id in in_order(evidence) {
            let Ok(known) = self.state.bundle_number(id);
            if known.is_some() {
                continue;
            }
            let bundle = codings(evidence, id).remove(0);
            self.restore_ledger(evidence, bundle.certificate.ledger_entries);
            let mut records = manifests(&bundle);
            let told = ToldSoFar { ledger_entries: self.ledger_entries(), may_lack };
            withdrawn.forget_in(&mut records, &bundle.certificate, told);
            let Ok(plan) = plan_restored(&self.state, bundle, &records, &erased);
            for command in [Some(plan.restore), plan.remember].into_iter().flatten() {
                assert_eq!(self.run(command), CommandOutcome::Applied);
            }
        }
        self.restore_ledger(evidence, u64::MAX);
    }

    fn restore_ledger(&mut self, evidence: &Shown, until: u64) {
        loop {
            let page = evidence.ledger_page(self.ledger_entries(), until);
            if page.is_empty() {
                return;
            }
            assert_eq!(self.run(Command::RestoreLedger(page)), CommandOutcome::Applied);
        }
    }
}

fn certificate_of(bundle: &BundleRecord) -> Certificate {
    Certificate {
        bundle: bundle.id,
        coding: bundle.codings[0].id,
        n: bundle.codings[0].scheme.n(),
        number: bundle.number,
        uploader: bundle.uploader,
        committed_at: bundle.committed_at,
        ledger_entries: bundle.ledger_entries,
        externals: bundle.externals.clone(),
    }
}

/// What brings a bundle back whose manifest has no records.
pub(crate) fn restored(bundle: CertifiedBundle) -> Command {
    let Ok(plan) = plan_restored(&MemoryState::new(), bundle, &[], &BTreeSet::new());
    plan.restore
}

/// The records of the bundles of [`eventful`]: each holds the key of its tag.
pub(crate) fn manifests(bundle: &CertifiedBundle) -> Vec<RecordSummary> {
    let tag = (1..=9).find(|tag| bundle_id(*tag) == bundle.certificate.bundle).unwrap();
    let references = match tag {
        2 | 7 => vec![key(50)],
        3 => vec![key(1), key(60)],
        4 | 5 => vec![key(1)],
        _ => Vec::new(),
    };
    vec![RecordSummary {
        key: key(tag),
        block: 0,
        entry: tag.into(),
        references,
        features: vec![feature(tag)],
    }]
}

pub(crate) fn withdraw(name: u8) -> LedgerAct {
    LedgerAct::Withdraw { key: key(name), reason: "law".into() }
}

/// An archive with all that makes content: visible and held keys, external references, withdrawals before and after what
/// refers to them.
pub(crate) fn eventful() -> Archive {
    let mut archive = Archive::of(4);
    archive.govern(LedgerAct::AddUploader { key: uploader(), name: "hydra".into() });
    archive.commit_with(1, vec![entry(1, &[])], Vec::new());
    archive.wait(5);
    archive.commit_with(2, vec![entry(2, &[])], vec![key(50)]);
    archive.commit_with(3, vec![entry(3, &[60])], Vec::new());
    archive.commit_with(4, vec![entry(4, &[])], Vec::new());
    archive.govern(withdraw(1));
    archive.wait(5);
    // Refers to what is withdrawn: it waits, where bundle 4 does not.
    archive.commit_with(5, vec![entry(5, &[1])], Vec::new());
    archive.govern(withdraw(2));
    archive.govern(LedgerAct::Reinstate { key: key(2), reason: "error".into() });
    archive.commit_with(6, vec![entry(6, &[])], Vec::new());
    archive.govern(withdraw(6));
    assert!(
        archive.is_visible(2) && archive.is_visible(4) && !archive.is_visible(5) && !archive.is_visible(6)
    );
    archive
}
