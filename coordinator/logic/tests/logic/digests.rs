//! The digest of the state: what it covers, and what it does not depend on.

use firn_base::{
    AddressHistory, AddressPrefix, AsNumber, Availability, BundleId, BundleNumber, CodingId, Country, Digest,
    Feature, Location, NodeId, ObjectKey, Origin, PublicKey, ReservationId, Scheme, ShardIndex, Timestamp,
    TokenId,
};
use firn_coordinator_logic::{
    Absence, BundleRecord, Change, CodingRecord, Counters, FeatureRecord, FeedRecord, HeldRecord,
    MemoryState, NodeNumber, NodeRecord, NodeSite, RecodingRecord, ReservationRecord, StateDigest,
    SurplusRecord, Suspension, WithdrawnRecord, advance, full_digest,
};
use firn_wire::{
    Actor, Command, DomainRule, LedgerAct, LedgerEntry, LedgerHead, NodeState, Policy, StateDigests,
};

use crate::support::{Archive, entry, key};

fn digest_of(changes: &[Change]) -> StateDigest {
    let mut state = MemoryState::new();
    state.absorb(changes.to_vec());
    let Ok(digest) = full_digest(&state);
    digest
}

/// Checks that each of `changed` has a digest of its own, none of them that of `base`; gives them.
fn all_differ(base: &[Change], changed: Vec<Vec<Change>>) -> Vec<StateDigests> {
    let mut seen = vec![digest_of(base).at(0)];
    for (number, changes) in changed.into_iter().enumerate() {
        let digests = digest_of(&changes).at(0);
        assert!(!seen.contains(&digests), "change {number} is not seen");
        seen.push(digests);
    }
    seen
}

fn node() -> NodeRecord {
    NodeRecord {
        number: NodeNumber(1),
        id: NodeId::from_bytes([2; 32]),
        operator: "operator".into(),
        failure_domain: "domain".into(),
        address: "host:1".into(),
        quota_bytes: 3,
        assigned_bytes: 4,
        shards: 5,
        state: NodeState::Active,
        joined_at: Timestamp::from_millis(6),
        last_seen: Timestamp::from_millis(7),
        availability: Availability::UNKNOWN,
        absence: Absence::default(),
        suspension: None,
        vouched: false,
        declared_since: Timestamp::from_millis(8),
        site: NodeSite::default(),
    }
}

fn suspension(millis: u64, by: Actor, reason: &str) -> Option<Suspension> {
    Some(Suspension { at: Timestamp::from_millis(millis), by, reason: reason.into() })
}

fn socket(byte: u8) -> Actor {
    Actor::Socket { coordinator: NodeId::from_bytes([byte; 32]) }
}

fn operator(byte: u8, name: &str) -> Actor {
    Actor::Operator { key: PublicKey::from_bytes([byte; 32]), name: name.into() }
}

fn seen_at(address: &str) -> AddressHistory {
    AddressHistory::first_seen_at(AddressPrefix::of(address.parse().unwrap()))
}

fn origin(asn: u32, country: &str) -> Option<Origin> {
    let letters: [u8; 2] = country.as_bytes().try_into().unwrap();
    Some(Origin { asn: Some(AsNumber(asn)), country: Some(Country::try_from(letters).unwrap()) })
}

fn coding(tag: u8) -> CodingRecord {
    CodingRecord {
        id: CodingId::from_bytes([tag; 32]),
        header: vec![1],
        scheme: Scheme::new(4, 12).unwrap(),
        shard_bytes: 2,
        file_bytes: 3,
        placements: vec![(ShardIndex(0), NodeNumber(1)), (ShardIndex(1), NodeNumber(2))],
    }
}

fn bundle(number: u32, id: u8) -> BundleRecord {
    BundleRecord {
        number: BundleNumber(number),
        id: BundleId::from_bytes([id; 32]),
        content_header: vec![3],
        payload_bytes: 4,
        codings: vec![coding(5)],
        recoding: None,
        keys: 6,
        uploader: PublicKey::from_bytes([7; 32]),
        committed_at: Timestamp::from_millis(8),
        ledger_entries: 9,
        externals: vec![key(10)],
    }
}

#[test]
fn every_field_of_a_node_is_covered() {
    let with = |change: &dyn Fn(&mut NodeRecord)| {
        let mut record = node();
        change(&mut record);
        vec![Change::PutNode(record)]
    };
    let changed = vec![
        vec![],
        with(&|node| node.number = NodeNumber(9)),
        with(&|node| node.id = NodeId::from_bytes([9; 32])),
        with(&|node| node.operator.push('x')),
        with(&|node| node.failure_domain.push('x')),
        with(&|node| node.address.push('x')),
        with(&|node| node.quota_bytes = 9),
        with(&|node| node.assigned_bytes = 9),
        with(&|node| node.shards = 9),
        with(&|node| node.state = NodeState::Draining),
        with(&|node| node.joined_at = Timestamp::from_millis(9)),
        with(&|node| node.last_seen = Timestamp::from_millis(9)),
        with(&|node| node.availability = Availability::from_billionths(9).unwrap()),
        with(&|node| node.vouched = true),
        with(&|node| node.declared_since = Timestamp::from_millis(9)),
        with(&|node| node.site.since = Timestamp::from_millis(9)),
        with(&|node| node.site.addresses = seen_at("192.0.2.1")),
        with(&|node| node.site.addresses = seen_at("198.51.100.1")),
        with(&|node| node.site.origin = origin(1, "IS")),
        with(&|node| node.site.origin = origin(2, "IS")),
        with(&|node| node.site.origin = origin(1, "NO")),
        // A text does not run into the next.
        with(&|node| (node.operator, node.failure_domain) = ("operatord".into(), "omain".into())),
        with(&|node| node.absence.until = Timestamp::from_millis(9)),
        with(&|node| node.absence.spent_millis = 9),
        with(&|node| node.absence.as_of = Timestamp::from_millis(9)),
        with(&|node| node.suspension = suspension(1, Actor::Coordinators, "x")),
        with(&|node| node.suspension = suspension(9, Actor::Coordinators, "x")),
        with(&|node| node.suspension = suspension(1, Actor::Coordinators, "y")),
        with(&|node| node.suspension = suspension(1, socket(2), "x")),
        with(&|node| node.suspension = suspension(1, socket(9), "x")),
        with(&|node| node.suspension = suspension(1, operator(2, "ada"), "x")),
        with(&|node| node.suspension = suspension(1, operator(9, "ada"), "x")),
        with(&|node| node.suspension = suspension(1, operator(2, "bob"), "x")),
    ];
    let seen = all_differ(&[Change::PutNode(node())], changed);
    assert!(seen.iter().all(|digests| digests.content == seen[0].content), "nodes are no content");
}

#[test]
fn every_field_of_a_bundle_is_covered_and_its_number_and_placements_are_no_content() {
    let with = |change: &dyn Fn(&mut BundleRecord)| {
        let mut record = bundle(1, 2);
        change(&mut record);
        vec![Change::PutBundle(record)]
    };
    let recoding =
        RecodingRecord { workers: [NodeNumber(1), NodeNumber(2)], begun: Timestamp::from_millis(3) };
    let rest_only = vec![
        with(&|bundle| bundle.number = BundleNumber(9)),
        with(&|bundle| bundle.content_header.push(9)),
        with(&|bundle| bundle.payload_bytes = 9),
        with(&|bundle| bundle.keys = 9),
        with(&|bundle| bundle.uploader = PublicKey::from_bytes([9; 32])),
        with(&|bundle| bundle.committed_at = Timestamp::from_millis(9)),
        with(&|bundle| bundle.codings[0].header.push(9)),
        with(&|bundle| bundle.codings[0].scheme = Scheme::new(4, 11).unwrap()),
        with(&|bundle| bundle.codings[0].shard_bytes = 9),
        with(&|bundle| bundle.codings[0].file_bytes = 9),
        with(&|bundle| bundle.codings[0].placements[1].0 = ShardIndex(9)),
        with(&|bundle| bundle.codings[0].placements[1].1 = NodeNumber(9)),
        with(&|bundle| bundle.codings[0].placements.truncate(1)),
        with(&|bundle| bundle.recoding = Some(recoding)),
        with(&|bundle| bundle.recoding = Some(RecodingRecord { workers: [NodeNumber(1); 2], ..recoding })),
        with(&|bundle| bundle.recoding = Some(RecodingRecord { workers: [NodeNumber(2); 2], ..recoding })),
        with(&|bundle| {
            bundle.recoding = Some(RecodingRecord { begun: Timestamp::from_millis(9), ..recoding })
        }),
    ];
    let seen = all_differ(&[Change::PutBundle(bundle(1, 2))], rest_only);
    assert!(seen.iter().all(|digests| digests.content == seen[0].content));
    let content = vec![
        vec![],
        with(&|bundle| bundle.id = BundleId::from_bytes([9; 32])),
        with(&|bundle| bundle.codings[0].id = CodingId::from_bytes([9; 32])),
        with(&|bundle| bundle.codings.push(coding(6))),
        with(&|bundle| drop(bundle.codings.pop())),
    ];
    let seen = all_differ(&[Change::PutBundle(bundle(1, 2))], content);
    assert!(seen[1..].iter().all(|digests| digests.content != seen[0].content));
}

#[test]
fn every_field_of_reservations_and_surplus_copies_is_covered() {
    let reservation = ReservationRecord {
        id: ReservationId::from_bytes([1; 32]),
        uploader: PublicKey::from_bytes([2; 32]),
        bundle: BundleId::from_bytes([3; 32]),
        content_header: vec![4],
        coding: CodingId::from_bytes([5; 32]),
        coding_header: vec![6],
        scheme: Scheme::new(4, 12).unwrap(),
        shard_bytes: 7,
        file_bytes: 8,
        assignments: vec![(ShardIndex(0), NodeNumber(1))],
        expires: Timestamp::from_millis(9),
        committed: None,
    };
    let with = |change: &dyn Fn(&mut ReservationRecord)| {
        let mut record = reservation.clone();
        change(&mut record);
        vec![Change::PutReservation(record)]
    };
    let changed = vec![
        vec![],
        with(&|record| record.id = ReservationId::from_bytes([9; 32])),
        with(&|record| record.uploader = PublicKey::from_bytes([9; 32])),
        with(&|record| record.bundle = BundleId::from_bytes([9; 32])),
        with(&|record| record.content_header.push(9)),
        with(&|record| record.coding = CodingId::from_bytes([9; 32])),
        with(&|record| record.coding_header.push(9)),
        with(&|record| record.scheme = Scheme::new(4, 11).unwrap()),
        with(&|record| record.scheme = Scheme::new(2, 6).unwrap()),
        with(&|record| record.shard_bytes = 9),
        with(&|record| record.file_bytes = 9),
        with(&|record| record.assignments[0].0 = ShardIndex(9)),
        with(&|record| record.assignments[0].1 = NodeNumber(9)),
        with(&|record| record.expires = Timestamp::from_millis(1)),
        with(&|record| record.committed = Some(BundleNumber(0))),
        with(&|record| record.committed = Some(BundleNumber(1))),
    ];
    all_differ(&[Change::PutReservation(reservation.clone())], changed);
    let surplus = SurplusRecord {
        node: NodeNumber(1),
        coding: CodingId::from_bytes([2; 32]),
        index: ShardIndex(3),
        file_bytes: 4,
        since: Timestamp::from_millis(5),
    };
    let changed = [
        SurplusRecord { node: NodeNumber(9), ..surplus },
        SurplusRecord { coding: CodingId::from_bytes([9; 32]), ..surplus },
        SurplusRecord { index: ShardIndex(9), ..surplus },
        SurplusRecord { file_bytes: 9, ..surplus },
        SurplusRecord { since: Timestamp::from_millis(9), ..surplus },
    ];
    let changed = changed.into_iter().map(|record| vec![Change::PutSurplus(record)]).collect();
    all_differ(&[Change::PutSurplus(surplus)], changed);
}

#[test]
fn every_field_of_what_keys_are_is_covered() {
    let place = |bundle, block, entry| Location { bundle: BundleNumber(bundle), block, entry };
    let committed = [Change::PutBundle(bundle(1, 1)), Change::PutBundle(bundle(2, 2))];
    let with = |changes: &[Change]| [committed.as_slice(), changes].concat();
    let visible = |name, location| FeedRecord::Visible { key: key(name), location };
    let held = |name, location, waits: &[u8]| {
        Change::PutHeld(HeldRecord {
            key: key(name),
            location,
            waits: waits.iter().copied().map(key).collect(),
        })
    };
    let withdrawn = |name, places: &[Location]| {
        Change::PutWithdrawn(WithdrawnRecord { key: key(name), places: places.to_vec() })
    };
    let featured = |name, places: &[Location]| {
        let feature = Feature::from_bytes([name; 8]);
        Change::PutFeature(FeatureRecord { feature, places: places.to_vec() })
    };
    let changed = vec![
        with(&[Change::PutFeed(0, visible(1, place(1, 0, 0)))]),
        with(&[Change::PutFeed(0, visible(2, place(1, 0, 0)))]),
        with(&[Change::PutFeed(0, visible(1, place(2, 0, 0)))]),
        with(&[Change::PutFeed(0, visible(1, place(1, 1, 0)))]),
        with(&[Change::PutFeed(0, visible(1, place(1, 0, 1)))]),
        with(&[Change::PutFeed(0, visible(1, place(1, 0, 0))), Change::PutVariant(key(1), place(2, 0, 0))]),
        with(&[Change::PutFeed(0, visible(1, place(2, 0, 0))), Change::PutVariant(key(1), place(1, 0, 0))]),
        with(&[Change::PutFeed(0, FeedRecord::Withdrawn { key: key(1) })]),
        with(&[held(1, place(1, 0, 0), &[2])]),
        with(&[held(2, place(1, 0, 0), &[2])]),
        with(&[held(1, place(2, 0, 0), &[2])]),
        with(&[held(1, place(1, 1, 0), &[2])]),
        with(&[held(1, place(1, 0, 1), &[2])]),
        with(&[held(1, place(1, 0, 0), &[3])]),
        with(&[held(1, place(1, 0, 0), &[2, 3])]),
        with(&[Change::PutExternal(key(1))]),
        with(&[Change::PutExternal(ObjectKey::build_log([1; 20]))]),
        with(&[withdrawn(1, &[])]),
        with(&[withdrawn(2, &[])]),
        with(&[withdrawn(1, &[place(1, 0, 0)])]),
        with(&[withdrawn(1, &[place(2, 0, 0)])]),
        with(&[withdrawn(1, &[place(1, 1, 0)])]),
        with(&[withdrawn(1, &[place(1, 0, 1)])]),
        with(&[withdrawn(1, &[place(1, 0, 0), place(2, 0, 0)])]),
        with(&[withdrawn(1, &[place(2, 0, 0), place(1, 0, 0)])]),
        with(&[featured(1, &[place(1, 0, 0)])]),
        with(&[featured(2, &[place(1, 0, 0)])]),
        with(&[featured(1, &[place(2, 0, 0)])]),
        with(&[featured(1, &[place(1, 1, 0)])]),
        with(&[featured(1, &[place(1, 0, 1)])]),
        with(&[featured(1, &[place(1, 0, 0), place(2, 0, 0)])]),
        with(&[featured(1, &[place(2, 0, 0), place(1, 0, 0)])]),
        with(&[Change::PutUsedToken(TokenId::from_bytes([1; 32]))]),
        with(&[Change::PutUsedToken(TokenId::from_bytes([2; 32]))]),
    ];
    all_differ(&committed, changed);
}

#[test]
fn ledger_policy_and_counters_are_covered() {
    let entry = LedgerEntry {
        position: 0,
        previous: Digest::from_bytes([1; 32]),
        at: Timestamp::from_millis(2),
        by: Actor::Coordinators,
        act: LedgerAct::RemoveUploader { key: PublicKey::from_bytes([3; 32]) },
    };
    let act = LedgerAct::RemoveUploader { key: PublicKey::from_bytes([9; 32]) };
    let entries = [
        LedgerEntry { position: 9, ..entry.clone() },
        LedgerEntry { previous: Digest::from_bytes([9; 32]), ..entry.clone() },
        LedgerEntry { at: Timestamp::from_millis(9), ..entry.clone() },
        LedgerEntry { by: Actor::Socket { coordinator: NodeId::from_bytes([9; 32]) }, ..entry.clone() },
        LedgerEntry { act, ..entry.clone() },
    ];
    let changed = entries.into_iter().map(|entry| vec![Change::PutLedger(entry)]).collect();
    all_differ(&[Change::PutLedger(entry)], changed);

    let policy = Policy {
        domains: DomainRule::Named,
        repair_at: None,
        repair_at_full: false,
        count_lost_after_millis: 1,
        brake: true,
        trust_declared_domains: false,
    };
    let policies = [
        Policy { domains: DomainRule::Public, ..policy.clone() },
        Policy { repair_at: Some(0), ..policy.clone() },
        Policy { repair_at: Some(9), ..policy.clone() },
        Policy { repair_at_full: true, ..policy.clone() },
        Policy { count_lost_after_millis: 9, ..policy.clone() },
        Policy { brake: false, ..policy.clone() },
        Policy { trust_declared_domains: true, ..policy.clone() },
    ];
    let changed = policies.into_iter().map(|policy| vec![Change::PutPolicy(policy)]).collect();
    let seen = all_differ(&[Change::PutPolicy(policy)], changed);
    assert!(seen.iter().all(|digests| digests.rest == seen[0].rest), "the policy is governance");

    let head = |entries| LedgerHead { entries, ..Counters::default().ledger };
    let counters = [
        Counters { next_bundle: 1, ..Counters::default() },
        Counters { next_node: 1, ..Counters::default() },
        Counters { feed_head: 1, ..Counters::default() },
        Counters { visible_keys: 1, ..Counters::default() },
        Counters { held_records: 1, ..Counters::default() },
        Counters { externals: 1, ..Counters::default() },
        Counters { withdrawn: 1, ..Counters::default() },
        Counters { payload_bytes: 1, ..Counters::default() },
        Counters { stored_bytes: 1, ..Counters::default() },
        Counters { ledger: head(1), ..Counters::default() },
        Counters { time: Timestamp::from_millis(1), ..Counters::default() },
        Counters { feature_level: 1, ..Counters::default() },
        Counters { rebuilding: true, ..Counters::default() },
    ];
    all_differ(&[], counters.into_iter().map(|counters| vec![Change::PutCounters(counters)]).collect());
}

#[test]
fn the_digest_of_the_feed_in_the_counters_is_checked_against_the_feed() {
    let mut archive = Archive::of(3);
    archive.publish(1, (1, 3), &[0, 1, 2]);
    let mut kept = StateDigest::default();
    let mut state = MemoryState::new();
    for command in &archive.log {
        let Ok(applied) = firn_coordinator_logic::apply(&state, command);
        let Ok(()) = advance(&mut kept, &state, &applied.changes);
        state.absorb(applied.changes);
    }
    assert_eq!(full_digest(&state), Ok(kept.clone()));
    // An event that no counter knows.
    state.absorb([Change::PutFeed(1, FeedRecord::Withdrawn { key: key(9) })]);
    let Ok(full) = full_digest(&state);
    assert_ne!(full.at(0).rest, kept.at(0).rest);
    assert_eq!(full.restorable(), kept.restorable());
}

#[test]
fn content_does_not_depend_on_the_order_of_commits_and_the_rest_does() {
    let archive = |tags: [u8; 2]| {
        let mut archive = Archive::of(4);
        for tag in tags {
            archive.reserve(tag, (1, 3), &[0, 1, 2]);
            // Both bring key 7: one of them is a variant. Key 8 of the second waits for a key that never comes.
            let entries = vec![entry(tag, &[]), entry(7, &[]), entry(tag + 50, &[99])];
            archive.commit(tag, &[0, 1, 2], entries);
        }
        archive.run(Command::Govern(LedgerAct::Withdraw { key: key(1), reason: String::new() }));
        let Ok(digest) = full_digest(&archive.state);
        digest
    };
    let (one, other) = (archive([1, 2]), archive([2, 1]));
    assert_eq!(one.at(0).content, other.at(0).content);
    assert_eq!(one.at(0).governance, other.at(0).governance);
    assert_ne!(one.at(0).rest, other.at(0).rest);
}

#[test]
fn the_digest_of_a_small_state_is_pinned() {
    let mut archive = Archive::of(3);
    archive.publish(1, (1, 3), &[0, 1, 2]);
    let Ok(digest) = full_digest(&archive.state);
    let StateDigests { content, governance, rest, .. } = digest.at(0);
    assert_eq!(
        [content, governance, rest].map(|digest| digest.to_string()),
        [
            "af017fd87e09590e25ab3d8a3c6c941c9a630046ba513f7b1cc4abb82100868b",
            "de14a42ad57a0a638bc6c5d03b666f2f1a61172524c102c6a4efda44a06976e5",
            "ff64621becf74f441464e03e9cac6286747500e7d70a32e49964730cbed1be81",
        ]
        .map(String::from),
        "replicas of different versions would no longer agree"
    );
    assert_eq!(StateDigest::from_bytes(&digest.to_bytes()), Some(digest));
}
