use firn_base::{Availability, ObjectKey, TokenId};
use firn_wire::LedgerAct;

use super::*;

const GOLDEN: &str = include_str!("../../tests/golden/records.txt");

fn location() -> Location {
    Location { bundle: BundleNumber(0x0102_0304), block: 0x0506, entry: 0x0708 }
}

fn key(byte: u8) -> ObjectKey {
    ObjectKey::store_path([byte; 20])
}

fn counters() -> Counters {
    Counters {
        next_bundle: 1,
        next_node: 2,
        feed_head: 3,
        feed_digest: Digest::from_bytes([13; 32]),
        visible_keys: 4,
        held_records: 5,
        externals: 6,
        withdrawn: 7,
        payload_bytes: 8,
        stored_bytes: 9,
        ledger: LedgerHead { entries: 10, digest: Digest::from_bytes([11; 32]) },
        time: Timestamp::from_millis(12),
        feature_level: 14,
        rebuilding: true,
    }
}

fn node() -> NodeRecord {
    NodeRecord {
        number: NodeNumber(1),
        id: NodeId::from_bytes([2; 32]),
        operator: "op".into(),
        failure_domain: "host".into(),
        address: "127.0.0.1:4433".into(),
        quota_bytes: 3,
        assigned_bytes: 4,
        shards: 5,
        state: NodeState::Draining,
        joined_at: Timestamp::from_millis(6),
        last_seen: Timestamp::from_millis(7),
        availability: Availability::UNKNOWN,
        absence: Absence::default(),
        suspension: None,
        vouched: true,
        declared_since: Timestamp::from_millis(8),
        site: NodeSite {
            addresses: AddressHistory::try_from(vec![
                (AddressPrefix::V4([127, 1, 2]), 900_000_000),
                (AddressPrefix::V6([0x20, 1, 0xd, 0xb8, 0, 7]), 100_000_000),
            ])
            .unwrap(),
            origin: Some(Origin { asn: Some(AsNumber(64_500)), country: Country::try_from(*b"CH").ok() }),
            since: Timestamp::from_millis(9),
        },
    }
}

fn bundle() -> BundleRecord {
    let coding = CodingRecord {
        id: CodingId::from_bytes([3; 32]),
        header: vec![4, 5],
        scheme: Scheme::new(4, 12).unwrap(),
        shard_bytes: 65_536,
        file_bytes: 69_000,
        placements: vec![(ShardIndex(0), NodeNumber(1)), (ShardIndex(7), NodeNumber(258))],
    };
    BundleRecord {
        number: BundleNumber(1),
        id: BundleId::from_bytes([2; 32]),
        content_header: vec![1, 2, 3],
        payload_bytes: 100,
        codings: vec![coding],
        recoding: None,
        keys: 9,
        uploader: PublicKey::from_bytes([6; 32]),
        committed_at: Timestamp::from_millis(7),
        ledger_entries: 8,
        externals: vec![key(9)],
    }
}

fn reservation() -> ReservationRecord {
    ReservationRecord {
        id: ReservationId::from_bytes([1; 32]),
        uploader: PublicKey::from_bytes([2; 32]),
        bundle: BundleId::from_bytes([3; 32]),
        content_header: vec![4],
        coding: CodingId::from_bytes([5; 32]),
        coding_header: vec![6, 7],
        scheme: Scheme::new(2, 5).unwrap(),
        shard_bytes: 8,
        file_bytes: 9,
        assignments: vec![(ShardIndex(1), NodeNumber(2))],
        expires: Timestamp::from_millis(10),
        committed: Some(BundleNumber(11)),
    }
}

fn check<R: Record + PartialEq + std::fmt::Debug>(lines: &mut Vec<String>, name: &str, record: &R) {
    let bytes = record.to_bytes();
    assert_eq!(&R::from_bytes(&bytes).unwrap(), record);
    assert!(R::from_bytes(&[bytes.as_slice(), &[0]].concat()).is_err(), "{name}: bytes behind its end");
    for end in 0..bytes.len() {
        assert!(R::from_bytes(&bytes[..end]).is_err(), "{name}: cut at {end}");
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    lines.push(format!("{name} {hex}"));
}

#[test]
fn the_bytes_of_all_records_are_pinned() {
    let mut lines = Vec::new();
    check(&mut lines, "counters", &counters());
    check(&mut lines, "node", &node());
    let unseen = NodeRecord { site: NodeSite::default(), vouched: false, ..node() };
    check(&mut lines, "node-unseen", &unseen);
    let unknown = NodeSite { origin: Some(Origin::default()), ..node().site };
    check(&mut lines, "node-unknown-origin", &NodeRecord { site: unknown, ..node() });
    let declared =
        Absence { until: Timestamp::from_millis(300), spent_millis: 10, as_of: Timestamp::from_millis(11) };
    check(&mut lines, "node-absent", &NodeRecord { absence: declared, ..node() });
    let at = Timestamp::from_millis(301);
    let announced = |by| Some(Suspension { at, by, reason: "new disks".into() });
    let operator = Actor::Operator { key: PublicKey::from_bytes([6; 32]), name: "bob".into() };
    check(&mut lines, "node-announced", &NodeRecord { suspension: announced(operator), ..node() });
    let socket = Actor::Socket { coordinator: NodeId::from_bytes([6; 32]) };
    let both = NodeRecord { absence: declared, suspension: announced(socket), ..node() };
    check(&mut lines, "node-absent-announced", &both);
    let automatic = NodeRecord { suspension: announced(Actor::Coordinators), ..node() };
    check(&mut lines, "node-announced-by-coordinators", &automatic);
    check(&mut lines, "bundle", &bundle());
    let first = bundle().codings.remove(0);
    let second = CodingRecord {
        id: CodingId::from_bytes([8; 32]),
        scheme: Scheme::new(8, 24).unwrap(),
        ..first.clone()
    };
    let recoding =
        RecodingRecord { workers: [NodeNumber(9), NodeNumber(10)], begun: Timestamp::from_millis(11) };
    let recoded = BundleRecord { codings: vec![first, second], recoding: Some(recoding), ..bundle() };
    check(&mut lines, "bundle-recoding", &recoded);
    check(&mut lines, "reservation", &reservation());
    check(&mut lines, "reservation-open", &ReservationRecord { committed: None, ..reservation() });
    let surplus = SurplusRecord {
        node: NodeNumber(1),
        coding: CodingId::from_bytes([2; 32]),
        index: ShardIndex(3),
        file_bytes: 4,
        since: Timestamp::from_millis(5),
    };
    check(&mut lines, "surplus", &surplus);
    check(&mut lines, "held", &HeldRecord { key: key(1), location: location(), waits: vec![key(2), key(3)] });
    let purge =
        PurgeRecord { key: key(1), since: Timestamp::from_millis(2), places: vec![location(), location()] };
    check(&mut lines, "purge", &purge);
    let erased = ErasedRecord {
        position: 7,
        holders: vec![NodeNumber(8), NodeNumber(9)],
        waiting: vec![NodeNumber(9)],
    };
    let erasure = ErasureRecord {
        bundle: BundleNumber(1),
        id: BundleId::from_bytes([2; 32]),
        keys: vec![key(3)],
        replacements: vec![BundleNumber(4), BundleNumber(5)],
        since: Timestamp::from_millis(6),
        erased: Some(erased),
    };
    check(&mut lines, "erasure", &erasure);
    check(&mut lines, "erasure-begun", &ErasureRecord { erased: None, ..erasure });
    check(&mut lines, "withdrawn", &WithdrawnRecord { key: key(1), places: vec![location()] });
    let policy = Policy {
        domains: DomainRule::Named,
        repair_at: Some(28),
        repair_at_full: false,
        count_lost_after_millis: 259_200_000,
        brake: true,
        trust_declared_domains: false,
    };
    check(&mut lines, "policy", &policy);
    let public =
        Policy { domains: DomainRule::Public, repair_at: None, trust_declared_domains: true, ..policy };
    check(&mut lines, "policy-public", &public);
    let operator = OperatorEntry { name: "ada".into(), role: OperatorRole::Nodes };
    check(&mut lines, "operator", &operator);
    let entry = LedgerEntry {
        position: 1,
        previous: Digest::from_bytes([2; 32]),
        at: Timestamp::from_millis(3),
        by: Actor::Operator { key: PublicKey::from_bytes([6; 32]), name: "bob".into() },
        act: LedgerAct::UseToken {
            token: TokenId::from_bytes([4; 32]),
            node: PublicKey::from_bytes([5; 32]),
            operator: "ada".into(),
            failure_domain: Some("attic".into()),
        },
    };
    check(&mut lines, "ledger", &entry);
    let found = lines.join("\n");
    assert!(found == GOLDEN.trim_end(), "the bytes on disk have changed; now they are\n{found}");
}

#[test]
fn a_record_of_a_newer_version_is_refused_by_name() {
    let mut bytes = node().to_bytes();
    bytes[0] = 4;
    assert!(matches!(NodeRecord::from_bytes(&bytes), Err(StorageError::Newer(_))));
    bytes[0] = 0;
    assert!(matches!(NodeRecord::from_bytes(&bytes), Err(StorageError::Corrupted(_))));
}

#[test]
fn a_list_that_claims_more_than_the_record_holds_is_refused_before_it_is_allocated() {
    let mut bytes = reservation().to_bytes();
    let count = bytes.len() - 5 - 4;
    bytes[count..count + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(ReservationRecord::from_bytes(&bytes), Err(StorageError::Corrupted(_))));
}
