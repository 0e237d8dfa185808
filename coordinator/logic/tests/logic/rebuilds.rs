//! An archive is told again from what its nodes show: equal digests, and nothing deleted or taken on meanwhile.

use firn_base::{NodeId, ShardIndex, Timestamp, TokenId};
use firn_bundle::{BundleRole, CodingHeader, ContentHeader};
use firn_coordinator_logic::{Facts, MemoryState, RecordSummary, Scan};
use firn_wire::{
    Command, CommandOutcome, KeptBundle, LedgerAct, LedgerEntry, PlacementChange, RejectReason,
    RestoredBundle, SurplusCopy,
};

use crate::rebuild_support::{
    Shown, codings, eventful, evidence, heads, in_order, manifests, restored, show, withdraw,
};
use crate::support::{
    Archive, bundle_id, coding_id, commit_of, entry, headers, headers_as, key, node_id, reservation_id,
    uploader,
};

/// All bundles of `archive`, as two nodes show them, in any order.
fn show_all(evidence: &mut Shown, archive: &Archive) {
    show_some(evidence, archive, |_| true);
}

/// Of the bundles of `archive` those that `is_shown`.
fn show_some(evidence: &mut Shown, archive: &Archive, is_shown: impl Fn(u8) -> bool) {
    let ledger = archive.ledger();
    for (node, indexes) in [(3, [0, 1]), (2, [2, 3])] {
        evidence.show_governance(node_id(node), &[], &heads(&[1, 2], &ledger), ledger.clone());
        let is_there = |tag: &u8| matches!(archive.state.bundle_by_id(bundle_id(*tag)), Ok(Some(_)));
        for tag in [6, 2, 7, 4, 1, 5, 3].into_iter().filter(is_there).filter(|tag| is_shown(*tag)) {
            show(evidence, node_id(node), archive.kept(tag, &indexes));
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
fn whichever_bundles_come_back_only_when_it_is_told_once_more_content_is_the_same_in_the_end() {
    let mut old = eventful();
    old.govern(withdraw(50));
    // Refers to what is withdrawn and was external before: it does not wait.
    old.commit_with(7, vec![entry(7, &[])], Vec::new());
    for late in 0..1_u8 << 7 {
        let is_late = |tag: u8| late & 1 << (tag - 1) != 0;
        let mut first = evidence();
        // Nodes that the ledger names are awaited.
        show_some(&mut first, &old, |tag| !is_late(tag));
        let mut new = Archive::beginning(MemoryState::new(), old.now);
        new.restore(&first, manifests);
        assert_eq!(new.run(Command::EndRebuild), CommandOutcome::Applied);
        assert_eq!(new.run(Command::BeginRebuild), CommandOutcome::Applied);
        let mut second = evidence();
        show_all(&mut second, &old);
        new.restore(&second, manifests);
        let visible =
            |archive: &Archive| (1..=7).filter(|name| archive.is_visible(*name)).collect::<Vec<_>>();
        assert_eq!((visible(&new), new.digests()), (visible(&old), old.digests()), "late: {late:07b}");
    }
}

#[test]
fn what_waited_for_a_path_that_was_withdrawn_before_it_came_waits_on_in_an_archive_that_lacks_nothing() {
    let mut uncertified = eventful();
    uncertified.commit_with(8, vec![entry(8, &[])], Vec::new());
    let mut old = eventful();
    old.govern(withdraw(60));
    let mut evidence = evidence();
    show_all(&mut evidence, &old);
    assert!(evidence.may_lack(), "nodes that the ledger names are awaited");
    [0, 1].into_iter().for_each(|node| evidence.all_shown(node_id(node)));
    // Anybody can name a bundle that nobody certified.
    show(&mut evidence, node_id(9), KeptBundle { certificate: Vec::new(), ..uncertified.kept(8, &[0]) });
    assert_eq!((evidence.counts().uncertified, evidence.may_lack()), (1, false));
    let mut new = Archive::beginning(MemoryState::new(), old.now);
    new.restore(&evidence, manifests);
    assert!(!new.is_visible(3));
    assert_eq!(new.digests(), old.digests());
}

#[test]
fn a_reference_that_was_external_when_a_bundle_was_committed_is_so_again_though_it_was_withdrawn_later() {
    let mut old = eventful();
    old.govern(withdraw(50));
    let mut evidence = evidence();
    show_all(&mut evidence, &old);
    let mut new = Archive::beginning(MemoryState::new(), old.now);
    new.restore(&evidence, manifests);
    assert_eq!(new.digests(), old.digests());
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
            bundles: vec![commit_of(2, &[0, 1, 2, 3], vec![entry(2, &[])])],
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
    show(&mut evidence, node_id(1), old.kept(1, &[0]));
    show(&mut evidence, node_id(1), old.kept(2, &[1]));
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
    show(&mut evidence, node_id(0), bundle);
    let bundle = codings(&evidence, bundle_id(1)).remove(0);
    let restore = restored(bundle);
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

fn bundle(headers: &(ContentHeader, CodingHeader), tag: u8) -> Box<RestoredBundle> {
    Box::new(RestoredBundle {
        content_header: headers.0.to_bytes(),
        coding_header: headers.1.to_bytes(),
        n: 4,
        uploader: uploader(),
        committed_at: Timestamp::from_millis(1),
        ledger_entries: 0,
        externals: Vec::new(),
        entries: vec![entry(tag, &[])],
    })
}

fn comes_back(archive: &mut Archive, headers: &(ContentHeader, CodingHeader), tag: u8) -> CommandOutcome {
    archive.run(Command::RestoreLacking(bundle(headers, tag)))
}

#[test]
fn a_head_does_not_come_back_without_its_parts() {
    let mut new = Archive::beginning(MemoryState::new(), Timestamp::from_millis(1));
    let head = headers(7, 2, vec![bundle_id(1)]);
    let unknown = CommandOutcome::Rejected(RejectReason::UnknownDependency);
    assert_eq!(comes_back(&mut new, &head, 7), unknown);
    assert_eq!(comes_back(&mut new, &headers(1, 2, Vec::new()), 1), CommandOutcome::Applied);
    assert_eq!(comes_back(&mut new, &head, 7), CommandOutcome::Applied);
}

#[test]
fn an_ordinary_bundle_comes_back_before_and_without_one_whose_chunks_it_uses() {
    let mut new = Archive::beginning(MemoryState::new(), Timestamp::from_millis(1));
    let dependent = headers_as(BundleRole::Ordinary, 7, 2, vec![bundle_id(1)]);
    let unknown = CommandOutcome::Rejected(RejectReason::UnknownDependency);
    let as_before = Command::RestoreBundle(bundle(&dependent, 7));
    assert_eq!(new.run(as_before), unknown, "as programs have it that know no other command");
    assert_eq!(comes_back(&mut new, &dependent, 7), CommandOutcome::Applied);
    let Ok(places) = new.state.locations(key(7));
    assert_eq!(places.len(), 1, "its paths are archived, readable or not");
    assert_eq!(comes_back(&mut new, &headers(1, 2, Vec::new()), 1), CommandOutcome::Applied);
    assert_eq!(new.run(Command::EndRebuild), CommandOutcome::Applied);
}

#[test]
fn what_a_purge_had_erased_does_not_come_back_though_nodes_that_were_away_show_it() {
    let old = eventful();
    let mut evidence = evidence();
    show_all(&mut evidence, &old);
    assert!(in_order(&evidence).contains(&bundle_id(6)));
    let mut ledger = old.ledger();
    let last = ledger.last().unwrap();
    let erased = LedgerEntry {
        position: last.position + 1,
        previous: last.digest(),
        at: last.at,
        by: firn_wire::Actor::Coordinators,
        act: LedgerAct::Erase { bundle: bundle_id(6) },
    };
    ledger.push(erased);
    evidence.show_governance(node_id(3), &[], &heads(&[1, 3], &ledger), ledger.clone());
    assert!(!in_order(&evidence).contains(&bundle_id(6)));
    let mut new = Archive::beginning(MemoryState::new(), old.now);
    new.restore(&evidence, manifests);
    assert_eq!(new.ledger(), ledger);
    let Ok(number) = new.state.bundle_number(bundle_id(6));
    assert_eq!(number, None);
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
