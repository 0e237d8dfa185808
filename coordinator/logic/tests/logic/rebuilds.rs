//! An archive is told again from what its nodes show: equal digests, and nothing that a liar says.

use std::collections::BTreeSet;

use firn_base::{
    ArchiveId, BundleNumber, CodingId, Digest, NodeId, ObjectKey, PublicKey, ShardIndex, Timestamp, TokenId,
};
use firn_coordinator_logic::{
    CertifiedBundle, Evidence, EvidenceError, Facts, MemoryState, NextStep, RecordSummary, Scan, full_digest,
    plan_entries,
};
use firn_wire::{
    Certificate, Command, CommandOutcome, CoordinatorEntry, Identity, KeptBundle, LedgerAct, LedgerEntry,
    LedgerHead, PlacementChange, RejectReason, RestoredBundle, Roster, Signed, SurplusCopy, VerifiedRoster,
};

use crate::support::{Archive, bundle_id, coding_id, entry, headers, key, node_id, reservation_id, uploader};

fn archive_key() -> Identity {
    Identity::from_seed(&[200; 32])
}

fn archive() -> ArchiveId {
    archive_key().public().into()
}

fn coordinator(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

/// The roster of coordinators 1 to 3, signed by a key.
fn signed_roster(signer: &Identity, generation: u64, members: &[u8]) -> Signed<Roster> {
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

fn roster() -> VerifiedRoster {
    VerifiedRoster::open(&signed_roster(&archive_key(), 1, &[1, 2, 3]), archive()).unwrap()
}

fn evidence() -> Evidence {
    Evidence::new([roster()], archive())
}

fn sealed<T: firn_wire::Statement>(signers: &[u8], statement: &T) -> Vec<Signed<T>> {
    signers.iter().map(|signer| Signed::seal(&coordinator(*signer), archive(), statement)).collect()
}

fn heads(signers: &[u8], entries: &[LedgerEntry]) -> Vec<Signed<LedgerHead>> {
    let digest = entries.last().map_or(Digest::from_bytes([0; 32]), LedgerEntry::digest);
    sealed(signers, &LedgerHead { entries: entries.len() as u64, digest })
}

/// What records a bundle's manifest has, in these tests: its keys, and what each refers to.
type Manifests = fn(&CertifiedBundle) -> Vec<RecordSummary>;

impl Archive {
    fn ledger(&self) -> Vec<LedgerEntry> {
        let Ok(entries) = self.state.ledger_from(0, usize::MAX);
        entries
    }

    fn certificate(&self, tag: u8) -> Certificate {
        let bundle = self.bundle(tag);
        Certificate {
            bundle: bundle.id,
            coding: bundle.codings[0].id,
            n: bundle.codings[0].scheme.n(),
            number: bundle.number,
            uploader: bundle.uploader,
            committed_at: bundle.committed_at,
            ledger_entries: bundle.ledger_entries,
            externals: bundle.externals,
        }
    }

    /// What an honest node shows of a bundle.
    fn kept(&self, tag: u8, indexes: &[u8]) -> KeptBundle {
        let bundle = self.bundle(tag);
        KeptBundle {
            content_header: bundle.content_header.clone(),
            coding_header: bundle.codings[0].header.clone(),
            certificate: sealed(&[1, 2], &self.certificate(tag)),
            indexes: indexes.iter().copied().map(ShardIndex).collect(),
        }
    }

    fn digests(&self) -> (Digest, Digest) {
        let Ok(digest) = full_digest(&self.state);
        digest.restorable()
    }

    fn commit_with(&mut self, tag: u8, entries: Vec<firn_wire::IndexEntry>, externals: Vec<ObjectKey>) {
        assert_eq!(self.reserve(tag, (2, 4), &[0, 1, 2, 3]), CommandOutcome::Applied);
        let bundle = crate::support::commit_of(tag, &[0, 1, 2, 3], entries);
        let outcome = self.run(Command::Commit { bundles: vec![bundle], externals });
        assert!(matches!(outcome, CommandOutcome::Committed { .. }), "{outcome:?}");
    }

    fn govern(&mut self, act: LedgerAct) {
        assert_eq!(self.run(Command::Govern(act)), CommandOutcome::Applied);
    }

    /// An archive without anything, or with what a backup held, that is being rebuilt.
    fn beginning(state: MemoryState, now: Timestamp) -> Self {
        let mut archive = Self::of(0);
        (archive.state, archive.now) = (state, now);
        assert_eq!(archive.run(Command::BeginRebuild), CommandOutcome::Applied);
        archive
    }

    fn ledger_entries(&self) -> u64 {
        let Ok(counters) = self.state.counters();
        counters.ledger.entries
    }

    /// Tells everything again that `evidence` believes.
    fn restore(&mut self, evidence: &Evidence, manifests: Manifests) {
        let order = evidence.in_order();
        for next in order.into_iter().map(Some).chain([None]) {
            let Ok(known) = next.map_or(Ok(None), |id| self.state.bundle_number(id));
            if known.is_some() {
                continue;
            }
            while let NextStep::Ledger(entries) = evidence.next_step(self.ledger_entries(), next) {
                assert_eq!(self.run(Command::RestoreLedger(entries)), CommandOutcome::Applied);
            }
            if let NextStep::Bundle(bundle) = evidence.next_step(self.ledger_entries(), next) {
                let records = manifests(&bundle);
                let summaries: Vec<_> = records.iter().collect();
                let Ok((entries, externals)) =
                    plan_entries(&self.state, &summaries, &bundle.certificate.externals);
                assert_eq!(self.run(restored(*bundle, entries, externals)), CommandOutcome::Applied);
            }
        }
    }
}

fn restored(
    bundle: CertifiedBundle,
    entries: Vec<firn_wire::IndexEntry>,
    externals: Vec<ObjectKey>,
) -> Command {
    Command::RestoreBundle(Box::new(RestoredBundle {
        content_header: bundle.content_header,
        coding_header: bundle.coding_header,
        n: bundle.certificate.n,
        replaced: bundle.replaced,
        uploader: bundle.certificate.uploader,
        committed_at: bundle.certificate.committed_at,
        ledger_entries: bundle.certificate.ledger_entries,
        externals,
        entries,
    }))
}

/// The records of the bundles of [`eventful`]: each holds the key of its tag.
fn manifests(bundle: &CertifiedBundle) -> Vec<RecordSummary> {
    let tag = (1..=9).find(|tag| bundle_id(*tag) == bundle.certificate.bundle).unwrap();
    let references = match tag {
        2 => vec![key(50)],
        3 => vec![key(1), key(60)],
        4 | 5 => vec![key(1)],
        _ => Vec::new(),
    };
    vec![RecordSummary { key: key(tag), block: 0, entry: tag.into(), references }]
}

fn withdraw(name: u8) -> LedgerAct {
    LedgerAct::Withdraw { key: key(name), reason: "law".into() }
}

/// An archive with all that makes content: visible and held keys, external references, withdrawals before and after what
/// refers to them.
fn eventful() -> Archive {
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

/// All bundles of `archive`, as two nodes show them, in any order.
fn show_all(evidence: &mut Evidence, archive: &Archive) {
    let ledger = archive.ledger();
    for (node, indexes) in [(3, [0, 1]), (2, [2, 3])] {
        evidence.show_governance(node_id(node), &[], &heads(&[1, 2], &ledger), ledger.clone());
        for tag in [6, 2, 4, 1, 5, 3] {
            evidence.show_bundle(node_id(node), archive.kept(tag, &indexes));
        }
        evidence.all_shown(node_id(node));
    }
}

#[test]
fn a_history_told_again_gives_the_same_digests_feed_and_nodes() {
    let old = eventful();
    let mut evidence = evidence();
    show_all(&mut evidence, &old);
    let mut new = Archive::beginning(MemoryState::new(), old.now);
    new.restore(&evidence, manifests);
    assert_eq!(new.digests(), old.digests());
    assert_eq!(evidence.refused().count(), 0);
    let (Ok(before), Ok(after)) = (old.state.counters(), new.state.counters());
    assert_eq!((after.feed_digest, after.feed_head), (before.feed_digest, before.feed_head));
    assert_eq!(
        (after.visible_keys, after.held_records, after.externals),
        (before.visible_keys, before.held_records, before.externals)
    );
    for tag in 1..=6 {
        let (before, mut after) = (old.bundle(tag), new.bundle(tag));
        assert!(after.codings[0].placements.is_empty(), "only what an inventory proves is placed");
        after.codings[0].placements.clone_from(&before.codings[0].placements);
        assert_eq!(after, before);
    }
    let names = |archive: &Archive| -> Vec<_> {
        archive.nodes().into_iter().map(|node| (node.number, node.id, node.operator)).collect()
    };
    assert_eq!(names(&new), names(&old));
    let counts = evidence.counts();
    assert_eq!((counts.nodes, counts.awaited, counts.certified, counts.readable), (2, 2, 6, 6));
    assert_eq!(new.run(Command::EndRebuild), CommandOutcome::Applied);
    // And inventories bring the shards.
    let placed = PlacementChange::Placed { coding: coding_id(1, 2), index: ShardIndex(0), node: node_id(0) };
    assert_eq!(new.run(Command::RecordPlacements(vec![placed])), CommandOutcome::Applied);
    assert_eq!(new.placements(1), [(0, 0)]);
}

#[test]
fn an_old_backup_is_told_on_and_forgets_what_would_have_newer_shards_deleted() {
    let mut old = Archive::of(4);
    old.govern(LedgerAct::AddUploader { key: uploader(), name: "hydra".into() });
    old.commit_with(1, vec![entry(1, &[])], Vec::new());
    // In the backup this upload is still open, and a copy of it is surplus: it was committed later.
    old.reserve(2, (2, 4), &[0, 1, 2, 3]);
    let mut backup = old.state.clone();
    assert!(matches!(
        old.run(Command::Commit {
            bundles: vec![crate::support::commit_of(2, &[0, 1, 2, 3], vec![entry(2, &[])])],
            externals: Vec::new(),
        }),
        CommandOutcome::Committed { .. }
    ));
    old.govern(withdraw(1));
    let mut expired = Archive::of(0);
    (expired.state, expired.now) = (backup.clone(), old.now);
    expired.run(Command::ExpireReservations(vec![reservation_id(2)]));
    expired.reserve(3, (2, 4), &[0, 1, 2, 3]);
    backup = expired.state.clone();
    let Ok(uncounted) = backup.surplus_after(None, usize::MAX);
    assert_eq!(uncounted.len(), 4);

    let mut new = Archive::beginning(backup, old.now);
    let surplus = uncounted
        .iter()
        .map(|copy| SurplusCopy { node: node_id(copy.node.0), coding: copy.coding, index: copy.index })
        .collect();
    let forget = Command::ForgetUncounted { reservations: vec![reservation_id(3)], surplus };
    assert_eq!(new.run(forget), CommandOutcome::Applied);
    assert!(new.surplus().is_empty());
    let by_records = new.assigned_by_records();
    for node in new.nodes() {
        assert_eq!(node.assigned_bytes, by_records.get(&node.number).copied().unwrap_or(0));
    }
    let mut evidence = evidence();
    let ledger = old.ledger();
    evidence.show_governance(node_id(1), &[], &heads(&[2, 3], &ledger), ledger);
    evidence.show_bundle(node_id(1), old.kept(1, &[0]));
    evidence.show_bundle(node_id(1), old.kept(2, &[1]));
    new.restore(&evidence, |bundle| {
        let without = |record| RecordSummary { references: Vec::new(), ..record };
        manifests(bundle).into_iter().map(without).collect()
    });
    assert_eq!(new.digests(), old.digests());
}

#[test]
fn nothing_is_taken_on_while_an_archive_is_rebuilt_and_nothing_restored_while_it_is_not() {
    let mut archive = eventful();
    let bundle = archive.kept(1, &[0]);
    let mut evidence = evidence();
    evidence.show_bundle(node_id(0), bundle);
    let bundle = evidence.bundle(bundle_id(1)).unwrap();
    let restore = restored(bundle, Vec::new(), Vec::new());
    for command in [
        restore.clone(),
        Command::RestoreLedger(Vec::new()),
        Command::ForgetUncounted { reservations: Vec::new(), surplus: Vec::new() },
        Command::EndRebuild,
    ] {
        assert_eq!(archive.run(command), CommandOutcome::Rejected(RejectReason::NotRebuilding));
    }
    archive.run(Command::BeginRebuild);
    assert_eq!(archive.run(restore), CommandOutcome::Rejected(RejectReason::BundleExists));
    assert_eq!(archive.reserve(8, (2, 4), &[0, 1, 2, 3]), CommandOutcome::Rejected(RejectReason::Rebuilding));
    assert_eq!(archive.join(9, "domain-9"), CommandOutcome::Rejected(RejectReason::Rebuilding));
    assert_eq!(
        archive.join(1, "domain-x"),
        CommandOutcome::Applied,
        "a known node renews what it says of itself"
    );
    assert_eq!(archive.run(Command::Govern(withdraw(3))), CommandOutcome::Rejected(RejectReason::Rebuilding));
    let commit = Command::Commit { bundles: Vec::new(), externals: Vec::new() };
    assert_eq!(archive.run(commit), CommandOutcome::Rejected(RejectReason::Rebuilding));
    let mut other = archive.ledger();
    other[0].position = 77;
    assert_eq!(
        archive.run(Command::RestoreLedger(other)),
        CommandOutcome::Rejected(RejectReason::OtherLedger)
    );
}

#[test]
fn a_bundle_that_depends_on_a_missing_one_does_not_come_back() {
    let mut new = Archive::beginning(MemoryState::new(), Timestamp::from_millis(1));
    let (content, coding) = headers(7, 2, vec![bundle_id(1)]);
    let command = Command::RestoreBundle(Box::new(RestoredBundle {
        content_header: content.to_bytes(),
        coding_header: coding.to_bytes(),
        n: 4,
        replaced: Vec::new(),
        uploader: uploader(),
        committed_at: Timestamp::from_millis(1),
        ledger_entries: 0,
        externals: Vec::new(),
        entries: Vec::new(),
    }));
    assert_eq!(new.run(command), CommandOutcome::Rejected(RejectReason::UnknownDependency));
}

fn first_refusal(evidence: &Evidence) -> EvidenceError {
    evidence.refused().next().expect("somebody was refused").2.clone()
}

/// What comes of an honest word that `change` has made a lie.
#[track_caller]
fn refusal_of(change: impl FnOnce(&Archive, &mut KeptBundle)) -> EvidenceError {
    let archive = eventful();
    let mut kept = archive.kept(1, &[0, 1]);
    change(&archive, &mut kept);
    let mut evidence = evidence();
    evidence.show_bundle(node_id(0), kept);
    assert_eq!(evidence.in_order(), [], "nothing of it counts");
    let refused: Vec<_> = evidence.refused().map(|(node, times, _)| (node, times)).collect();
    assert_eq!(refused, [(node_id(0), 1)], "the liar is named");
    first_refusal(&evidence)
}

#[test]
fn forged_headers_and_certificates_are_refused() {
    let resign = |signers: &[u8], change: fn(&mut Certificate)| {
        let signers = signers.to_vec();
        move |archive: &Archive, kept: &mut KeptBundle| {
            let mut certificate = archive.certificate(1);
            change(&mut certificate);
            kept.certificate = sealed(&signers, &certificate);
        }
    };
    // Other roots, to have other bytes taken for the shards.
    assert_eq!(refusal_of(|_, kept| kept.coding_header[60] ^= 1), EvidenceError::OtherBundle);
    // Another bundle under a genuine certificate.
    let other = refusal_of(|_, kept| {
        let (content, coding) = headers(99, 2, Vec::new());
        (kept.content_header, kept.coding_header) = (content.to_bytes(), coding.to_bytes());
    });
    assert_eq!(other, EvidenceError::OtherBundle);
    let mixed = refusal_of(|_, kept| kept.content_header = headers(99, 2, Vec::new()).0.to_bytes());
    assert!(matches!(mixed, EvidenceError::Headers(_)), "{mixed:?}");
    assert!(matches!(refusal_of(|_, kept| kept.coding_header.clear()), EvidenceError::Headers(_)));
    // A minority, the same one twice, and strangers.
    let invent: fn(&mut Certificate) = |certificate| certificate.externals.push(key(77));
    assert_eq!(refusal_of(resign(&[1], invent)), EvidenceError::UnsignedCertificate);
    assert_eq!(refusal_of(resign(&[1, 1], invent)), EvidenceError::UnsignedCertificate);
    assert_eq!(refusal_of(resign(&[1, 8, 9], invent)), EvidenceError::UnsignedCertificate);
    // A signature of something else, and two statements for one.
    let twisted = refusal_of(|archive, kept| {
        let other = Signed::seal(&coordinator(2), ArchiveId::from_bytes([5; 32]), &archive.certificate(1));
        kept.certificate[1] = other;
    });
    assert_eq!(twisted, EvidenceError::Signature);
    let mixed = refusal_of(|archive, kept| {
        let other = Certificate { n: 3, ..archive.certificate(1) };
        kept.certificate[1] = sealed(&[2], &other).remove(0);
    });
    assert_eq!(mixed, EvidenceError::Mixed);
}

#[test]
fn what_has_no_certificate_is_counted_and_not_restored() {
    let archive = eventful();
    let mut evidence = evidence();
    for node in 0..4 {
        evidence.show_bundle(
            node_id(node),
            KeptBundle { certificate: Vec::new(), ..archive.kept(1, &[0, 1, 2, 3]) },
        );
    }
    assert_eq!((evidence.counts().uncertified, evidence.counts().certified), (1, 0));
    assert_eq!(evidence.in_order(), []);
    assert_eq!(evidence.refused().count(), 0, "an upload that never ended is no lie");
    // One honest node is enough.
    evidence.show_bundle(node_id(5), archive.kept(1, &[]));
    assert_eq!((evidence.counts().uncertified, evidence.in_order()), (0, vec![bundle_id(1)]));
}

#[test]
fn liars_cannot_hide_what_an_honest_node_shows() {
    let archive = eventful();
    let mut evidence = evidence();
    for liar in 10..30 {
        let mut kept = archive.kept(1, &[0, 1, 2, 3, 200]);
        let forged = Certificate { externals: vec![key(liar)], ..archive.certificate(1) };
        kept.certificate = sealed(&[1], &forged);
        evidence.show_bundle(node_id(liar.into()), kept);
    }
    evidence.show_bundle(node_id(1), archive.kept(1, &[1, 200]));
    let bundle = evidence.bundle(bundle_id(1)).unwrap();
    assert_eq!(bundle.certificate, archive.certificate(1));
    assert_eq!(
        bundle.holders,
        BTreeSet::from([(ShardIndex(1), node_id(1))]),
        "an index that no coding has is nobody's"
    );
}

#[test]
fn a_bundle_counts_by_the_certified_coding_with_the_largest_k() {
    let archive = eventful();
    let mut evidence = evidence();
    evidence.show_bundle(node_id(1), archive.kept(1, &[1]));
    let (content, coding) = headers(1, 4, Vec::new());
    let recoded = Certificate { coding: coding.coding_id(), n: 6, ..archive.certificate(1) };
    evidence.show_bundle(
        node_id(2),
        KeptBundle {
            content_header: content.to_bytes(),
            coding_header: coding.to_bytes(),
            certificate: sealed(&[2, 3], &recoded),
            indexes: vec![ShardIndex(3)],
        },
    );
    let bundle = evidence.bundle(bundle_id(1)).unwrap();
    assert_eq!(
        (bundle.certificate.coding, bundle.replaced.as_slice()),
        (coding.coding_id(), &[coding_id(1, 2)][..])
    );
    let mut new = Archive::beginning(MemoryState::new(), archive.now);
    assert_eq!(new.run(restored(bundle, Vec::new(), Vec::new())), CommandOutcome::Applied);
    let known = |coding: CodingId| {
        let Ok(number) = new.state.coding_bundle(coding);
        number
    };
    assert_eq!(
        (known(coding.coding_id()), known(coding_id(1, 2))),
        (Some(BundleNumber(0)), Some(BundleNumber(0)))
    );
}

/// An honest ledger, and one that a liar made of it.
fn two_ledgers() -> (Vec<LedgerEntry>, Vec<LedgerEntry>) {
    let mut archive = Archive::of(1);
    archive.govern(withdraw(1));
    archive.govern(withdraw(2));
    let honest = archive.ledger();
    let mut forged = honest.clone();
    forged[1].act = LedgerAct::AddUploader { key: PublicKey::from_bytes([6; 32]), name: "thief".into() };
    forged[2].previous = forged[1].digest();
    (honest, forged)
}

#[test]
fn what_a_purge_had_erased_does_not_come_back_though_nodes_that_were_away_show_it() {
    let old = eventful();
    let mut evidence = evidence();
    show_all(&mut evidence, &old);
    assert!(evidence.in_order().contains(&bundle_id(6)));
    let mut ledger = old.ledger();
    let last = ledger.last().unwrap();
    let erased = LedgerEntry {
        position: last.position + 1,
        previous: last.digest(),
        at: last.at,
        act: LedgerAct::Erase { bundle: bundle_id(6) },
    };
    ledger.push(erased);
    evidence.show_governance(node_id(3), &[], &heads(&[1, 3], &ledger), ledger.clone());
    assert!(!evidence.in_order().contains(&bundle_id(6)));
    let mut new = Archive::beginning(MemoryState::new(), old.now);
    new.restore(&evidence, manifests);
    assert_eq!(new.ledger(), ledger);
    let Ok(number) = new.state.bundle_number(bundle_id(6));
    assert_eq!(number, None);
}

#[test]
fn forged_ledgers_are_refused_and_the_longest_signed_one_is_believed() {
    let (honest, forged) = two_ledgers();
    let shown = |heads: Vec<Signed<LedgerHead>>, entries: &[LedgerEntry]| {
        let mut evidence = evidence();
        evidence.show_governance(node_id(0), &[], &heads, entries.to_vec());
        let refusal = evidence.refused().next().map(|(_, _, error)| error.clone());
        (evidence.ledger().len(), refusal)
    };
    assert_eq!(shown(heads(&[1, 2], &honest), &honest), (3, None));
    // As far as a majority signed.
    let both = [heads(&[1], &honest), heads(&[3], &honest[..2])].concat();
    assert_eq!(shown(both, &honest), (2, None));
    let unsigned = Some(EvidenceError::UnsignedLedger);
    assert_eq!(shown(heads(&[1], &forged), &forged), (0, unsigned.clone()));
    assert_eq!(shown(heads(&[1, 1, 9], &forged), &forged), (0, unsigned.clone()));
    // Genuine heads beside forged entries.
    assert_eq!(shown(heads(&[1, 2], &honest), &forged), (0, unsigned));
    let mut broken = honest.clone();
    broken.remove(1);
    assert_eq!(shown(heads(&[1, 2], &honest), &broken), (0, Some(EvidenceError::BrokenLedger)));
    assert_eq!(shown(Vec::new(), &[]), (0, None), "a node that has none yet is no liar");
}

#[test]
fn of_two_signed_ledgers_the_one_of_the_later_roster_counts_and_the_fork_is_said() {
    let (honest, other) = two_ledgers();
    let later = signed_roster(&archive_key(), 2, &[4, 5, 6]);
    for late_first in [false, true] {
        let mut evidence = evidence();
        let late = |evidence: &mut Evidence| {
            evidence.show_governance(
                node_id(1),
                std::slice::from_ref(&later),
                &heads(&[4, 5], &honest),
                honest.clone(),
            );
        };
        if late_first {
            late(&mut evidence);
        }
        evidence.show_governance(node_id(2), &[], &heads(&[1, 2], &other), other.clone());
        if !late_first {
            late(&mut evidence);
        }
        assert_eq!(evidence.ledger(), honest);
        assert_eq!(first_refusal(&evidence), EvidenceError::Fork { position: 1 });
    }
}

#[test]
fn rosters_count_if_the_archive_key_signed_them() {
    let archive = eventful();
    let forged = signed_roster(&coordinator(1), 9, &[7, 8, 9]);
    let mut evidence = evidence();
    evidence.show_governance(node_id(0), &[forged], &[], Vec::new());
    assert_eq!(first_refusal(&evidence), EvidenceError::Roster);
    let by_later = |evidence: &mut Evidence| {
        let certificate = sealed(&[4, 5], &archive.certificate(1));
        evidence.show_bundle(node_id(1), KeptBundle { certificate, ..archive.kept(1, &[0]) });
        evidence.in_order().len()
    };
    assert_eq!(by_later(&mut evidence), 0);
    evidence.show_governance(node_id(1), &[signed_roster(&archive_key(), 2, &[4, 5, 6])], &[], Vec::new());
    assert_eq!(by_later(&mut evidence), 1);
}

#[test]
fn a_node_comes_back_as_its_token_said() {
    let mut archive = Archive::of(0);
    let mut join = |domain: &str, vouched: bool, node: u32| {
        archive.run(Command::JoinNode {
            node: node_id(node),
            operator: "ada".into(),
            failure_domain: domain.into(),
            vouched,
            seen_at: None,
            address: "h:1".into(),
            quota_bytes: 1,
            token: Some(TokenId::from_bytes([u8::try_from(node).unwrap(); 32])),
        })
    };
    assert_eq!(
        (join("attic", true, 1), join("host", false, 2)),
        (CommandOutcome::Applied, CommandOutcome::Applied)
    );
    let mut new = Archive::beginning(MemoryState::new(), archive.now);
    new.run(Command::RestoreLedger(archive.ledger()));
    let facts: Vec<_> =
        new.nodes().into_iter().map(|node| (node.operator, node.failure_domain, node.vouched)).collect();
    assert_eq!(facts, [("ada".into(), "attic".into(), true), ("ada".into(), String::new(), false)]);
    assert_eq!(new.nodes().iter().map(|node| node.id).collect::<Vec<NodeId>>(), [node_id(1), node_id(2)]);
    assert_eq!(new.node(1).last_seen, new.now, "it does not count as lost before it can be heard");
}
