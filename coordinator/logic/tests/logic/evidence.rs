//! What is believed of what nodes show of a lost archive, and that liars are named.

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{ArchiveId, BundleNumber, CodingId, PublicKey, ShardIndex};
use firn_coordinator_logic::{EvidenceError, Facts, MemoryState};
use firn_wire::{
    Certificate, CommandOutcome, KeptBundle, KeptName, LedgerAct, LedgerEntry, LedgerHead, Signed,
};

use crate::rebuild_support::{
    Shown, archive_key, codings, coordinator, eventful, evidence, heads, in_order, restored, sealed, show,
    signed_roster, withdraw,
};
use crate::support::{Archive, bundle_id, coding_id, headers, key, node_id};

fn first_refusal(evidence: &Shown) -> EvidenceError {
    evidence.refused().next().expect("somebody was refused").2.clone()
}

/// What comes of an honest word that `change` has made a lie.
#[track_caller]
fn refusal_of(change: impl FnOnce(&Archive, &mut KeptBundle)) -> EvidenceError {
    let archive = eventful();
    let mut kept = archive.kept(1, &[0, 1]);
    change(&archive, &mut kept);
    let mut evidence = evidence();
    show(&mut evidence, node_id(0), kept);
    assert_eq!(in_order(&evidence), [], "nothing of it counts");
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
        show(
            &mut evidence,
            node_id(node),
            KeptBundle { certificate: Vec::new(), ..archive.kept(1, &[0, 1, 2, 3]) },
        );
    }
    assert_eq!((evidence.counts().uncertified, evidence.counts().certified), (1, 0));
    assert_eq!(in_order(&evidence), []);
    assert_eq!(evidence.refused().count(), 0, "an upload that never ended is no lie");
    // One honest node is enough.
    show(&mut evidence, node_id(5), archive.kept(1, &[]));
    assert_eq!((evidence.counts().uncertified, in_order(&evidence)), (0, vec![bundle_id(1)]));
}

#[test]
fn liars_cannot_hide_what_an_honest_node_shows() {
    let archive = eventful();
    let mut evidence = evidence();
    for liar in 10..30 {
        let mut kept = archive.kept(1, &[0, 1, 2, 3, 200]);
        let forged = Certificate { externals: vec![key(liar)], ..archive.certificate(1) };
        kept.certificate = sealed(&[1], &forged);
        show(&mut evidence, node_id(liar.into()), kept);
    }
    show(&mut evidence, node_id(1), archive.kept(1, &[1, 200]));
    let bundle = codings(&evidence, bundle_id(1)).remove(0);
    assert_eq!(bundle.certificate, archive.certificate(1));
    assert_eq!(
        bundle.holders,
        BTreeSet::from([(ShardIndex(1), node_id(1))]),
        "an index that no coding has is nobody's"
    );
}

#[test]
fn words_that_a_majority_signed_count_again_whoever_repeats_them_and_other_words_do_not() {
    let archive = eventful();
    let mut evidence = evidence();
    show(&mut evidence, node_id(1), archive.kept(1, &[0]));
    // Whoever has lost the other signature says nothing new.
    let repeated = KeptBundle { certificate: sealed(&[1], &archive.certificate(1)), ..archive.kept(1, &[1]) };
    show(&mut evidence, node_id(2), repeated);
    let invented = Certificate { ledger_entries: 0, ..archive.certificate(1) };
    let invented = KeptBundle { certificate: sealed(&[1], &invented), ..archive.kept(1, &[2]) };
    show(&mut evidence, node_id(3), invented);
    let bundle = codings(&evidence, bundle_id(1)).remove(0);
    assert_eq!(bundle.holders, BTreeSet::from([(ShardIndex(0), node_id(1)), (ShardIndex(1), node_id(2))]));
    assert_eq!(bundle.certificate, archive.certificate(1));
    let refused: Vec<_> = evidence.refused().map(|(node, _, error)| (node, error.clone())).collect();
    assert_eq!(refused, [(node_id(3), EvidenceError::UnsignedCertificate)]);
    assert_eq!((evidence.counts().certified, evidence.counts().readable), (1, 1));
}

#[test]
fn a_bundle_that_was_coded_anew_comes_back_by_whichever_coding_can_be_read() {
    let archive = eventful();
    let mut evidence = evidence();
    let (content, coding) = headers(1, 4, Vec::new());
    let recoded = Certificate { coding: coding.coding_id(), n: 6, ..archive.certificate(1) };
    let show_recoded = |evidence: &mut Shown, indexes: &[u8]| {
        let kept = KeptBundle {
            content_header: content.to_bytes(),
            coding_header: coding.to_bytes(),
            certificate: sealed(&[2, 3], &recoded),
            indexes: indexes.iter().copied().map(ShardIndex).collect(),
        };
        show(evidence, node_id(2), kept);
    };
    let order = |evidence: &Shown| -> Vec<u8> {
        codings(evidence, bundle_id(1)).iter().map(|coding| coding.k).collect()
    };
    show(&mut evidence, node_id(1), archive.kept(1, &[1]));
    show_recoded(&mut evidence, &[3]);
    assert_eq!(order(&evidence), [4, 2], "the later one, where neither can be read");
    show(&mut evidence, node_id(1), archive.kept(1, &[2]));
    assert_eq!(order(&evidence), [2, 4], "the one that can");
    show_recoded(&mut evidence, &[0, 1, 2]);
    assert_eq!(order(&evidence), [4, 2]);
    assert_eq!(
        (evidence.counts().certified, evidence.counts().readable),
        (1, 1),
        "one bundle, by two codings"
    );
    let mut new = Archive::beginning(MemoryState::new(), archive.now);
    let bundle = codings(&evidence, bundle_id(1)).remove(0);
    assert_eq!(new.run(restored(bundle)), CommandOutcome::Applied);
    let known = |coding: CodingId| {
        let Ok(number) = new.state.coding_bundle(coding);
        number
    };
    assert_eq!(known(coding.coding_id()), Some(BundleNumber(0)));
    assert_eq!(
        known(coding_id(1, 2)),
        None,
        "nothing is ordered away for a coding that was shown to be replaced"
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
        let late = |evidence: &mut Shown| {
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
    let by_later = |evidence: &mut Shown| {
        let certificate = sealed(&[4, 5], &archive.certificate(1));
        show(evidence, node_id(1), KeptBundle { certificate, ..archive.kept(1, &[0]) });
        in_order(evidence).len()
    };
    assert_eq!(by_later(&mut evidence), 0);
    evidence.show_governance(node_id(1), &[signed_roster(&archive_key(), 2, &[4, 5, 6])], &[], Vec::new());
    assert_eq!(by_later(&mut evidence), 1);
}

/// What a node names of a bundle of which it would show `kept`.
fn name_of(kept: &KeptBundle) -> KeptName {
    let statement = kept.certificate.first().map(|signed| signed.peek().unwrap());
    let coding = firn_bundle::CodingHeader::parse(&kept.coding_header).unwrap();
    let bundle = coding.bundle();
    let (coding, certificate) = (coding.coding_id(), statement.map(|statement| statement.digest()));
    KeptName { bundle, coding, certificate, indexes: kept.indexes.clone() }
}

fn is_asked(evidence: &mut Shown, node: u32, name: KeptName) -> bool {
    let Ok(is_asked) = evidence.name_bundle(node_id(node), name);
    is_asked
}

#[test]
fn what_one_node_has_shown_others_only_name_and_count_as_holders_all_the_same() {
    let archive = eventful();
    let (mut evidence, mut in_full) = (evidence(), crate::rebuild_support::evidence());
    for node in 0..4 {
        let index = u8::try_from(node).unwrap();
        let kept = archive.kept(1, &[index, 200]);
        show(&mut in_full, node_id(node), kept.clone());
        assert_eq!(is_asked(&mut evidence, node, name_of(&kept)), node == 0, "the first one alone");
        if node == 0 {
            show(&mut evidence, node_id(node), kept);
        }
    }
    assert_eq!(codings(&evidence, bundle_id(1)), codings(&in_full, bundle_id(1)));
    assert_eq!(evidence.counts(), in_full.counts());
    assert_eq!(evidence.refused().count(), 0);
}

#[test]
fn a_name_brings_nothing_to_be_believed() {
    let archive = eventful();
    let mut evidence = evidence();
    let honest = name_of(&archive.kept(1, &[0]));
    let forged = Certificate { externals: vec![key(77)], ..archive.certificate(1) };
    let lie = KeptName { certificate: Some(forged.digest()), ..honest.clone() };
    // What nobody has shown is asked for, whoever names it and how often.
    assert!(is_asked(&mut evidence, 1, honest.clone()) && is_asked(&mut evidence, 2, honest.clone()));
    assert_eq!(in_order(&evidence), [], "nothing counts by its name");
    show(&mut evidence, node_id(1), archive.kept(1, &[0]));
    // Other words about it are asked for in full, and then judged.
    assert!(is_asked(&mut evidence, 3, lie));
    let certificate = sealed(&[1], &forged);
    show(&mut evidence, node_id(3), KeptBundle { certificate, ..archive.kept(1, &[1]) });
    let other_coding = KeptName { coding: CodingId::from_bytes([9; 32]), ..honest.clone() };
    assert!(is_asked(&mut evidence, 4, other_coding));
    evidence.not_shown(node_id(4), 1);
    let refused: BTreeMap<_, _> = evidence.refused().map(|(node, _, error)| (node, error.clone())).collect();
    let expected = BTreeMap::from([
        (node_id(3), EvidenceError::UnsignedCertificate),
        (node_id(4), EvidenceError::NotShown),
    ]);
    assert_eq!(refused, expected, "the liars are named");
    let bundle = codings(&evidence, bundle_id(1)).remove(0);
    assert_eq!(bundle.holders, BTreeSet::from([(ShardIndex(0), node_id(1))]));
    assert_eq!(bundle.certificate, archive.certificate(1));
}

#[test]
fn later_words_about_a_coding_are_asked_for_and_count() {
    let archive = eventful();
    let mut evidence = evidence();
    let early = Certificate { n: 3, ..archive.certificate(1) };
    show(
        &mut evidence,
        node_id(1),
        KeptBundle { certificate: sealed(&[1, 3], &early), ..archive.kept(1, &[0]) },
    );
    let late = archive.kept(1, &[1]);
    assert!(is_asked(&mut evidence, 2, name_of(&late)));
    show(&mut evidence, node_id(2), late.clone());
    assert!(!is_asked(&mut evidence, 3, name_of(&late)));
    assert_eq!(codings(&evidence, bundle_id(1)).remove(0).certificate, archive.certificate(1));
}

#[test]
fn what_has_no_certificate_is_counted_by_its_name() {
    let archive = eventful();
    let mut evidence = evidence();
    let bare = KeptBundle { certificate: Vec::new(), ..archive.kept(1, &[0, 1]) };
    for node in 0..3 {
        assert!(!is_asked(&mut evidence, node, name_of(&bare)), "nothing of it would count");
    }
    assert_eq!((evidence.counts().uncertified, evidence.counts().shards), (1, 6));
    show(&mut evidence, node_id(5), archive.kept(1, &[]));
    assert!(!is_asked(&mut evidence, 6, name_of(&bare)));
    assert_eq!((evidence.counts().uncertified, evidence.counts().certified), (0, 1));
}

/// Whether something is new to what was shown before.
fn is_news(evidence: &mut Shown, show: impl FnOnce(&mut Shown)) -> bool {
    let before = evidence.news();
    show(evidence);
    evidence.news() != before
}

#[test]
fn what_was_shown_before_is_no_news_whoever_says_it_again_and_neither_is_what_does_not_count() {
    let archive = eventful();
    let mut evidence = evidence();
    let ledger = archive.ledger();
    let governance = |node: u32, entries: &[LedgerEntry]| {
        let (heads, entries) = (heads(&[1, 2], entries), entries.to_vec());
        move |evidence: &mut Shown| evidence.show_governance(node_id(node), &[], &heads, entries)
    };
    assert!(is_news(&mut evidence, governance(1, &ledger[..2])));
    assert!(is_news(&mut evidence, governance(2, &ledger)), "more of the ledger");
    assert!(!is_news(&mut evidence, governance(3, &ledger)));
    assert!(!is_news(&mut evidence, governance(1, &ledger[..2])));
    let bundle = |node: u32, kept: &KeptBundle| {
        let kept = kept.clone();
        move |evidence: &mut Shown| show(evidence, node_id(node), kept)
    };
    assert!(is_news(&mut evidence, bundle(1, &archive.kept(1, &[0]))));
    assert!(!is_news(&mut evidence, bundle(1, &archive.kept(1, &[0]))), "it shows it again");
    assert!(!is_news(&mut evidence, bundle(2, &archive.kept(1, &[0]))), "the same shard once more");
    assert!(is_news(&mut evidence, bundle(2, &archive.kept(1, &[1]))), "two shards are enough");
    assert!(!is_news(&mut evidence, bundle(3, &archive.kept(1, &[2]))), "a third one changes nothing");
    let bare = KeptBundle { certificate: Vec::new(), ..archive.kept(2, &[0]) };
    assert!(!is_news(&mut evidence, bundle(9, &bare)), "anybody may invent it");
    let unsigned = KeptBundle { certificate: sealed(&[1], &archive.certificate(2)), ..archive.kept(2, &[0]) };
    assert!(!is_news(&mut evidence, bundle(9, &unsigned)));
    let name = name_of(&archive.kept(1, &[0]));
    assert!(!is_news(&mut evidence, |evidence| assert!(!is_asked(evidence, 9, name))));
}

#[test]
fn that_a_named_node_has_shown_everything_is_news_once_and_that_a_stranger_has_is_none() {
    let archive = Archive::of(3);
    let mut evidence = evidence();
    let (ledger, backup) = (archive.ledger(), node_id(7));
    evidence.show_governance(node_id(1), &[], &heads(&[1, 2], &ledger), ledger);
    evidence.name_nodes([backup]);
    let named: BTreeSet<_> = [0, 1, 2, 7].map(node_id).into();
    assert_eq!((*evidence.named()).clone(), named);
    for (node, expected) in [(1, true), (1, false), (9, false), (7, true), (2, true)] {
        assert_eq!(is_news(&mut evidence, |evidence| evidence.all_shown(node_id(node))), expected, "{node}");
    }
    assert_eq!((evidence.counts().nodes, evidence.counts().awaited), (4, 1));
}
