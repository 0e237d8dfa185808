//! The tables against the reference: the state in ordered maps.

use firn_base::{Availability, Scheme, Timestamp};
use firn_coordinator_logic::{Absence, Change, CodingRecord, ErasedRecord, MemoryState, NodeSite};
use firn_wire::{Actor, DomainRule, LedgerAct, LedgerHead, NodeState, OperatorRole};

use super::*;
use crate::raft::changes;
use crate::storage::{Batch, Durability, KeyValue, Memory};

/// SplitMix64: chance from a seed.
struct Chance {
    seed: u64,
    feed: Vec<FeedRecord>,
}

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn small(&mut self) -> u8 {
        u8::try_from(self.below(4)).unwrap()
    }

    // Kinds, low and high bytes: whatever prefixes and order could get wrong.
    fn key(&mut self) -> ObjectKey {
        let byte = [0, 1, 0xfe, 0xff][usize::from(self.small())];
        if self.below(2) == 0 { ObjectKey::store_path([byte; 20]) } else { ObjectKey::build_log([byte; 20]) }
    }

    fn id(&mut self) -> [u8; 32] {
        [[0, 1, 0xfe, 0xff][usize::from(self.small())]; 32]
    }

    fn number(&mut self) -> u32 {
        [0, 1, 255, 256][usize::from(self.small())]
    }

    fn location(&mut self) -> Location {
        let small = |value: u32| u16::try_from(value).unwrap();
        Location {
            bundle: BundleNumber(self.number()),
            block: small(self.number()),
            entry: small(self.number()),
        }
    }

    fn places(&mut self) -> Vec<(ShardIndex, NodeNumber)> {
        (0..self.below(3)).map(|_| (ShardIndex(self.small()), NodeNumber(self.number()))).collect()
    }

    fn change(&mut self) -> Change {
        match self.below(31) {
            0 => Change::PutCounters(self.counters()),
            1 | 2 => Change::PutNode(self.node()),
            3 => Change::NameNode(NodeId::from_bytes(self.id()), NodeNumber(self.number())),
            4 => Change::PutBundle(self.bundle()),
            5 => Change::NameBundle(BundleId::from_bytes(self.id()), BundleNumber(self.number())),
            6 => Change::NameCoding(CodingId::from_bytes(self.id()), BundleNumber(self.number())),
            7 => Change::PutReservation(self.reservation()),
            8 => Change::RemoveReservation(ReservationId::from_bytes(self.id())),
            9 => Change::PutReservationOf(self.coding(), ReservationId::from_bytes(self.id())),
            10 => Change::RemoveReservationOf(self.coding(), ReservationId::from_bytes(self.id())),
            11 => Change::PutSurplus(self.surplus()),
            12 => Change::RemoveSurplus(NodeNumber(self.number()), self.coding(), ShardIndex(self.small())),
            13..=15 => self.turn(),
            16 => Change::PutVariant(self.key(), self.location()),
            17 => Change::RemoveVariant(self.key(), self.location()),
            18 => {
                let (key, location, waits) = (self.key(), self.location(), vec![self.key()]);
                Change::PutHeld(HeldRecord { key, location, waits })
            }
            19 => Change::RemoveHeld(self.key(), self.location()),
            20 => Change::PutWaiter { awaited: self.key(), key: self.key(), location: self.location() },
            21 => Change::RemoveWaiter { awaited: self.key(), key: self.key(), location: self.location() },
            22 => Change::PutExternal(self.key()),
            23 if self.below(3) == 0 => Change::RemoveWithdrawn(self.key()),
            23 => Change::PutWithdrawn(WithdrawnRecord {
                key: self.key(),
                places: vec![self.location(), self.location()],
            }),
            26 => Change::PutPurge(PurgeRecord {
                key: self.key(),
                since: Timestamp::from_millis(1),
                places: vec![self.location()],
            }),
            27 => Change::PutErasure(self.erasure()),
            24 => Change::PutUsedToken(TokenId::from_bytes(self.id())),
            29 => Change::PutFeature(FeatureRecord {
                feature: Feature::from_bytes([self.small(); 8]),
                places: (0..=self.below(4)).map(|_| self.location()).collect(),
            }),
            28 if self.below(3) == 0 => Change::RemoveOperator(PublicKey::from_bytes(self.id())),
            28 => Change::PutOperator(
                PublicKey::from_bytes(self.id()),
                OperatorEntry { name: "ada".into(), role: OperatorRole::Content },
            ),
            25 => Change::PutPolicy(Policy {
                domains: DomainRule::Named,
                repair_at: Some(self.small()),
                repair_at_full: false,
                count_lost_after_millis: 1,
                brake: true,
                trust_declared_domains: false,
            }),
            _ => Change::PutLedger(LedgerEntry {
                position: self.below(300),
                previous: Digest::from_bytes(self.id()),
                at: Timestamp::from_millis(1),
                by: Actor::Coordinators,
                act: LedgerAct::RemoveUploader { key: PublicKey::from_bytes(self.id()) },
            }),
        }
    }

    /// A key appears or, if it can be read, is moved or withdrawn.
    fn turn(&mut self) -> Change {
        let key = self.key();
        let last = self.feed.iter().rfind(|record| record.key() == key).copied();
        let record = match last {
            Some(FeedRecord::Visible { .. } | FeedRecord::Moved { .. }) if self.below(3) == 0 => {
                FeedRecord::Moved { key, location: self.location() }
            }
            Some(FeedRecord::Visible { .. } | FeedRecord::Moved { .. }) => FeedRecord::Withdrawn { key },
            _ => FeedRecord::Visible { key, location: self.location() },
        };
        self.feed.push(record);
        Change::PutFeed(self.feed.len() as u64 - 1, record)
    }

    fn erasure(&mut self) -> ErasureRecord {
        let erased = ErasedRecord {
            position: self.below(9),
            holders: vec![NodeNumber(self.number())],
            waiting: Vec::new(),
        };
        ErasureRecord {
            bundle: BundleNumber(self.number()),
            id: BundleId::from_bytes(self.id()),
            keys: vec![self.key()],
            replacements: vec![BundleNumber(self.number())],
            since: Timestamp::from_millis(1),
            erased: (self.below(2) == 0).then_some(erased),
        }
    }

    fn coding(&mut self) -> CodingId {
        CodingId::from_bytes(self.id())
    }

    fn counters(&mut self) -> Counters {
        Counters {
            next_bundle: self.number(),
            feed_head: self.below(300),
            ledger: LedgerHead { entries: 1, digest: Digest::from_bytes(self.id()) },
            ..Counters::default()
        }
    }

    fn node(&mut self) -> NodeRecord {
        NodeRecord {
            number: NodeNumber(self.number()),
            id: NodeId::from_bytes(self.id()),
            operator: "operator".into(),
            failure_domain: String::new(),
            address: "host:1".into(),
            quota_bytes: self.below(9),
            assigned_bytes: 1,
            shards: 1,
            state: NodeState::Active,
            joined_at: Timestamp::from_millis(1),
            last_seen: Timestamp::from_millis(2),
            availability: Availability::UNKNOWN,
            absence: Absence::default(),
            suspension: None,
            vouched: false,
            declared_since: Timestamp::from_millis(1),
            site: NodeSite::default(),
        }
    }

    fn bundle(&mut self) -> BundleRecord {
        let coding = CodingRecord {
            id: self.coding(),
            header: vec![1, 2],
            scheme: Scheme::new(4, 12).unwrap(),
            shard_bytes: 1,
            file_bytes: 2,
            placements: self.places(),
        };
        BundleRecord {
            number: BundleNumber(self.number()),
            id: BundleId::from_bytes(self.id()),
            content_header: vec![3],
            payload_bytes: 4,
            codings: vec![coding],
            recoding: None,
            keys: 5,
            uploader: PublicKey::from_bytes([1; 32]),
            committed_at: Timestamp::from_millis(6),
            ledger_entries: 7,
            externals: Vec::new(),
        }
    }

    fn reservation(&mut self) -> ReservationRecord {
        ReservationRecord {
            id: ReservationId::from_bytes(self.id()),
            uploader: PublicKey::from_bytes([1; 32]),
            bundle: BundleId::from_bytes(self.id()),
            content_header: vec![1],
            coding: self.coding(),
            coding_header: vec![],
            scheme: Scheme::new(1, 3).unwrap(),
            shard_bytes: 2,
            file_bytes: 3,
            assignments: self.places(),
            expires: Timestamp::from_millis(4),
            committed: None,
        }
    }

    fn surplus(&mut self) -> SurplusRecord {
        SurplusRecord {
            node: NodeNumber(self.number()),
            coding: self.coding(),
            index: ShardIndex(self.small()),
            file_bytes: 5,
            since: Timestamp::from_millis(6),
        }
    }
}

/// Every answer that `facts` give about the small world of [`Chance`].
fn answers<F: Scan>(facts: &F) -> Vec<String>
where
    F::Error: std::fmt::Debug,
{
    let bytes = [0, 1, 0xfe, 0xff];
    let mut all = vec![
        format!("{:?}", facts.counters().unwrap()),
        format!("{:?}", facts.policy().unwrap()),
        format!("{:?}", facts.all_nodes().unwrap()),
        format!("{:?}", facts.ledger_state().unwrap()),
    ];
    for number in [0, 1, 255, 256] {
        all.push(format!("{:?}", facts.node(NodeNumber(number)).unwrap()));
        all.push(format!("{:?}", facts.bundle(BundleNumber(number)).unwrap()));
        all.push(format!("{:?}", facts.nodes_from(NodeNumber(number), 2).unwrap()));
        all.push(format!("{:?}", facts.bundles_from(BundleNumber(number), 2).unwrap()));
        all.push(format!("{:?}", facts.erasure(BundleNumber(number)).unwrap()));
        all.push(format!("{:?}", facts.erasures_from(BundleNumber(number), 2).unwrap()));
        all.push(format!("{:?}", facts.ledger_from(u64::from(number), 3).unwrap()));
        all.push(format!("{:?}", facts.feed_from(u64::from(number), 3).unwrap()));
        for (byte, index) in bytes.iter().flat_map(|byte| (0..4).map(move |index| (*byte, ShardIndex(index))))
        {
            let coding = CodingId::from_bytes([byte; 32]);
            all.push(format!("{:?}", facts.surplus(NodeNumber(number), coding, index).unwrap()));
            let after = Some((NodeNumber(number), coding, index));
            all.push(format!("{:?}", facts.surplus_after(after, 2).unwrap()));
        }
    }
    for byte in bytes {
        let id = [byte; 32];
        all.push(format!("{:?}", facts.node_number(NodeId::from_bytes(id)).unwrap()));
        all.push(format!("{:?}", facts.bundle_number(BundleId::from_bytes(id)).unwrap()));
        all.push(format!("{:?}", facts.coding_bundle(CodingId::from_bytes(id)).unwrap()));
        all.push(format!("{:?}", facts.reservation(ReservationId::from_bytes(id)).unwrap()));
        all.push(format!("{:?}", facts.reservations_of(CodingId::from_bytes(id)).unwrap()));
        all.push(format!("{:?}", facts.is_token_used(TokenId::from_bytes(id)).unwrap()));
        let feature = Feature::from_bytes([byte; 8]);
        all.push(format!("{:?}", facts.similar(feature).unwrap()));
        all.push(format!("{:?}", facts.features_after(Some(feature), 2).unwrap()));
        all.push(format!("{:?}", facts.operator(PublicKey::from_bytes(id)).unwrap()));
        all.push(format!("{:?}", facts.used_tokens_after(Some(TokenId::from_bytes(id)), 2).unwrap()));
        all.push(format!("{:?}", facts.reservations_after(Some(ReservationId::from_bytes(id)), 2).unwrap()));
        for key in [ObjectKey::store_path([byte; 20]), ObjectKey::build_log([byte; 20])] {
            all.push(format!("{:?}", facts.location(key).unwrap()));
            all.push(format!("{:?}", facts.variants(key).unwrap()));
            all.push(format!("{:?}", facts.locations(key).unwrap()));
            all.push(format!("{:?}", facts.held(key).unwrap()));
            all.push(format!("{:?}", facts.waiters(key).unwrap()));
            all.push(format!("{:?}", facts.is_external(key).unwrap()));
            all.push(format!("{:?}", facts.withdrawn(key).unwrap()));
            all.push(format!("{:?}", facts.purge(key).unwrap()));
            all.push(format!("{:?}", facts.purges_after(Some(key), 3).unwrap()));
            all.push(format!("{:?}", facts.keys_after(Some(key), 3).unwrap()));
            all.push(format!("{:?}", facts.externals_after(Some(key), 3).unwrap()));
            all.push(format!("{:?}", facts.withdrawn_after(Some(key), 3).unwrap()));
            let place = Location { bundle: BundleNumber(1), block: 255, entry: 0 };
            all.push(format!("{:?}", facts.variants_after(Some((key, place)), 3).unwrap()));
            all.push(format!("{:?}", facts.held_after(Some((key, place)), 3).unwrap()));
        }
    }
    all.push(format!("{:?}", facts.features_after(None, 100).unwrap()));
    all.push(format!("{:?}", facts.keys_after(None, 100).unwrap()));
    all.push(format!("{:?}", facts.variants_after(None, 100).unwrap()));
    all.push(format!("{:?}", facts.held_after(None, 0).unwrap()));
    all
}

fn the_tables_answer_as_the_reference_does(store: Arc<dyn KeyValue>, seed: u64) {
    let mut chance = Chance { seed, feed: Vec::new() };
    let mut reference = MemoryState::new();
    let facts = StateFacts::new(Arc::clone(&store) as Arc<dyn Read>);
    for _ in 0..40 {
        let changes: Vec<_> = (0..25).map(|_| chance.change()).collect();
        let mut batch = Batch::new();
        changes::record(&*store, &mut batch, &changes).unwrap();
        store.write(batch, Durability::Buffered).unwrap();
        reference.absorb(changes);
        assert_eq!(answers(&facts), answers(&reference), "seed {seed}");
    }
    let keys: Vec<_> = reference.keys_after(None, 100).unwrap().into_iter().map(|(key, _)| key).collect();
    let expected: Vec<_> = keys.iter().map(|key| reference.locations(*key).unwrap()).collect();
    assert_eq!(facts.lookup(&keys).unwrap(), expected);
}

#[test]
fn tables_in_memory_answer_as_the_reference_does() {
    for seed in 0..5 {
        the_tables_answer_as_the_reference_does(Arc::new(Memory::new(StoreKind::State)), seed);
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn tables_on_disk_answer_as_the_reference_does() {
    let dir = tempfile::tempdir().unwrap();
    let store = crate::storage::RocksDb::open(dir.path(), StoreKind::State).unwrap();
    the_tables_answer_as_the_reference_does(Arc::new(store), 7);
}

#[test]
fn a_lookup_of_an_unknown_key_gives_no_place() {
    let facts = StateFacts::new(Arc::new(Memory::new(StoreKind::State)));
    assert_eq!(facts.lookup(&[ObjectKey::store_path([1; 20])]).unwrap(), [vec![]]);
}
