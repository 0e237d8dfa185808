//! The bytes of what is signed, logged or kept for years: a change of these is a new version, not an edit.
//!
//! The golden file holds one line per message: its name and its encoding in hexadecimal digits. On a mismatch the
//! test prints the whole file as the code writes it now.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use firn_base::{
    AddressHistory, AddressPrefix, ArchiveId, AsNumber, Availability, BitRate, BundleId, BundleNumber,
    ByteCount, CodingId, Country, Digest, Feature, FeedRange, FilterId, KeyPrefix, Location, NodeId,
    ObjectKey, Origin, PublicKey, ReservationId, ShardIndex, ShardRoot, Timestamp, TokenId,
};
use firn_wire::{
    Actor, AdminReply, AdminRequest, AnnouncedSuspension, BuildOrder, BuildSource, BundleCommit, BundleFill,
    Certificate, Command, CompactRequest, CompactedBundle, CompactionGroup, CompactionPlan, CoordinatorEntry,
    CoordinatorReply, CoordinatorRequest, DecodeError, DecodeOrder, DecodeReport, DeleteOrder, DeleteReason,
    DeletionRoom, Descriptor, DomainRule, DrainBacklog, FEATURE_LEVEL, FeedBatch, FeedEvent, FilterEntry,
    FilterList, Gathered, GatheredPlace, GatheredRecord, Identity, IndexEntry, IndexRangePage,
    IndexRangeRequest, IndexedKey, InventoryComparison, InventoryRange, JoinToken, KeptBundle, KeptName,
    LedgerAct, LedgerEntry, LedgerHead, MemberChange, MovedRecord, NeededBundle, NodePlace, NodeReply,
    NodeRequest, NodeRest, NodeSighting, NodeStanding, NodeStatus, NodeTerms, OperatorRole, OrderRank, Pass,
    PassPurpose, PlacementChange, Policy, PublisherEntry, PurgeHolder, PurgeProgress, RangeRequest, Receipt,
    RecodeOrder, RecodeReport, RecordPlace, RepairWait, RepairWaitReason, ReplacementBundle, RestCause,
    RestingNode, RestoredBundle, Roster, ShardReport, Signed, SimilarRecord, StateDigests, SurplusCopy,
    SuspensionNotice, Ticket, TimedCommand, UploadedBundle, decode, encode,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

const GOLDEN: &str = include_str!("golden/messages.txt");

/// Encodes each message as a line, after it was read back equal.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add<T: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, name: &str, message: &T) {
        let bytes = encode(message);
        assert_eq!(decode::<T>(&bytes).as_ref(), Ok(message), "{name} reads back");
        writeln!(self.0, "{name} {}", HEXLOWER.encode(&bytes)).unwrap();
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

#[test]
fn messages_are_encoded_as_ever() {
    let mut lines = Lines::default();
    statements(&mut lines);
    governance(&mut lines);
    commands(&mut lines);
    requests(&mut lines);
    news(&mut lines);
    purges(&mut lines);
    ledger_heads(&mut lines);
    terms(&mut lines);
    inventories(&mut lines);
    repair_waits(&mut lines);
    suspensions(&mut lines);
    assert!(lines.0 == GOLDEN, "the encodings are now:\n{}", lines.0);
}

fn statements(lines: &mut Lines) {
    let archive = ArchiveId::from_bytes([1; 32]);
    let identity = Identity::from_seed(&[2; 32]);
    let rank = OrderRank { generation: 3, epoch: 400 };
    let (node, coding) = (NodeId::from_bytes([4; 32]), CodingId::from_bytes([5; 32]));
    let (index, root, reservation) =
        (ShardIndex(6), ShardRoot::from_bytes([7; 32]), ReservationId::from_bytes([8; 32]));
    let bearer = PublicKey::from_bytes([9; 32]);
    let pass = Pass { reader: bearer, expires: at(1_000_000), purpose: PassPurpose::Building };
    lines.add("pass", &pass);
    lines.add("signed-pass", &Signed::seal(&identity, archive, &pass));
    lines.add(
        "ticket",
        &Ticket {
            node,
            bearer,
            reservation,
            coding,
            index,
            shard_bytes: 65_536,
            root,
            expires: at(300),
            rank,
        },
    );
    lines.add("receipt", &Receipt { node, reservation, coding, index, root, rank });
    for reason in DeleteReason::ALL {
        let order = DeleteOrder { node, coding, index, reason, expires: at(300), rank };
        lines.add(&format!("delete-{reason:?}"), &order);
    }
    let certificate = Certificate {
        bundle: BundleId::from_bytes([15; 32]),
        coding,
        n: 40,
        number: BundleNumber(700),
        uploader: bearer,
        committed_at: at(1_000_000),
        ledger_entries: 300,
        externals: vec![ObjectKey::store_path([16; 20])],
    };
    lines.add("certificate", &certificate);
    let kept = KeptBundle {
        content_header: vec![1],
        coding_header: vec![2],
        certificate: vec![Signed::seal(&identity, archive, &certificate)],
        indexes: vec![index],
    };
    lines.add("kept-bundle", &kept);
    let name = KeptName {
        bundle: certificate.bundle,
        coding,
        certificate: Some(certificate.digest()),
        indexes: vec![index],
    };
    lines.add("kept-name", &name);
    lines.add("name-bundles", &NodeRequest::NameBundles { after: Some(coding) });
    lines.add("show-bundles", &NodeRequest::ShowBundles { codings: vec![coding] });
    lines.add("bundle-names", &NodeReply::BundleNames { names: vec![name], more_after: Some(coding) });
    lines.add("bundles", &NodeReply::Bundles { bundles: Vec::new(), looked_at: 300 });
    let token = TokenId::from_bytes([10; 32]);
    let failure_domain = Some("attic".to_owned());
    lines.add("token", &JoinToken { token, operator: "ada".into(), expires: at(5), failure_domain });
    let visible = FeedEvent::Visible(ObjectKey::store_path([11; 20]));
    let withdrawn = FeedEvent::Withdrawn(ObjectKey::build_log([12; 20]));
    lines.add("feed", &FeedBatch { first: 7, events: vec![visible, withdrawn], head: 900 });
    let coordinators =
        vec![CoordinatorEntry { id: NodeId::from_bytes([13; 32]), raft_id: 1, address: "h:1".into() }];
    let own: ArchiveId = identity.public().into();
    let roster = Roster {
        archive: own,
        generation: 2,
        issued: at(6),
        coordinators,
        retired: vec![NodeId::from_bytes([14; 32])],
    };
    lines.add("roster", &roster);
    let descriptor = Descriptor { archive: own, roster: Signed::seal(&identity, own, &roster) };
    assert!(descriptor.verify().is_ok());
    lines.add("descriptor", &descriptor);
}

fn acts() -> Vec<LedgerAct> {
    let (key, node) = (PublicKey::from_bytes([1; 32]), NodeId::from_bytes([7; 32]));
    let policy = Policy {
        domains: DomainRule::Named,
        repair_at: Some(28),
        repair_at_full: false,
        count_lost_after_millis: 259_200_000,
        brake: true,
        trust_declared_domains: false,
    };
    vec![
        LedgerAct::AddPublisher(PublisherEntry { name: "cache-1".into(), key, rank: 100 }),
        LedgerAct::RemovePublisher { name: "cache-1".into() },
        LedgerAct::AddUploader { key, name: "hydra".into() },
        LedgerAct::RemoveUploader { key },
        LedgerAct::AddOperator { key, name: "ada".into(), role: OperatorRole::Content },
        LedgerAct::RemoveOperator { key },
        LedgerAct::UseToken {
            token: TokenId::from_bytes([2; 32]),
            node: key,
            operator: "ada".into(),
            failure_domain: Some("attic".into()),
        },
        LedgerAct::Withdraw { key: ObjectKey::store_path([3; 20]), reason: "licence".into() },
        LedgerAct::SetPolicy(policy),
        LedgerAct::Purge { key: ObjectKey::store_path([3; 20]), reason: "court".into() },
        LedgerAct::Erase { bundle: BundleId::from_bytes([6; 32]) },
        LedgerAct::CreateToken {
            token: TokenId::from_bytes([2; 32]),
            operator: "ada".into(),
            failure_domain: None,
            expires: at(10),
        },
        LedgerAct::SetNodeState { node, state: firn_wire::NodeState::Lost },
        LedgerAct::ChangeMember(MemberChange::Remove { id: node }),
        LedgerAct::AdoptRoster { generation: 300 },
        LedgerAct::Repack { bundle: BundleId::from_bytes([6; 32]) },
        LedgerAct::Refuse {
            operator: key,
            name: "ada".into(),
            what: "withdraw".into(),
            needed: OperatorRole::Admin,
            times: 2,
        },
        LedgerAct::Reinstate { key: ObjectKey::store_path([3; 20]), reason: "appeal".into() },
    ]
}

fn governance(lines: &mut Lines) {
    let node = NodeId::from_bytes([7; 32]);
    let key = PublicKey::from_bytes([1; 32]);
    let actors = [
        Actor::Coordinators,
        Actor::Socket { coordinator: node },
        Actor::Operator { key, name: "ada".into() },
    ];
    for (position, act) in (0..).zip(acts()) {
        let by = actors[usize::try_from(position).unwrap() % actors.len()].clone();
        let entry = LedgerEntry { position, previous: Digest::from_bytes([4; 32]), at: at(9), by, act };
        lines.add(&format!("ledger-{position}"), &entry);
    }
    lines.add("ledger-head", &LedgerHead { entries: 9, digest: Digest::from_bytes([5; 32]) });
}

fn all_commands() -> Vec<Command> {
    let (node, coding, index) = (NodeId::from_bytes([1; 32]), CodingId::from_bytes([2; 32]), ShardIndex(3));
    let reservation = ReservationId::from_bytes([4; 32]);
    let (key, waits) = (ObjectKey::store_path([5; 20]), vec![ObjectKey::store_path([6; 20])]);
    let feature = Feature::from_bytes([11; 8]);
    let entries = vec![IndexEntry { key, block: 7, entry: 8, waits }];
    let place = |block, entry| RecordPlace { block, entry };
    let origin = Some(Origin { asn: Some(AsNumber(64_500)), country: Country::try_from(*b"CH").ok() });
    vec![
        Command::Govern(LedgerAct::RemovePublisher { name: "x".into() }),
        Command::JoinNode {
            node,
            operator: "ada".into(),
            failure_domain: "attic".into(),
            vouched: true,
            seen_at: Some(NodePlace { prefix: AddressPrefix::V4([127, 1, 2]), origin }),
            address: "h:1".into(),
            quota_bytes: 50_000_000_000,
            token: None,
        },
        Command::SetNodeState { node, state: firn_wire::NodeState::Draining },
        Command::Reserve {
            reservation,
            uploader: PublicKey::from_bytes([9; 32]),
            content_header: vec![1, 2],
            coding_header: vec![3],
            n: 12,
            assignments: vec![(index, node)],
            expires: at(70),
        },
        Command::ExpireReservations(vec![reservation]),
        Command::Commit {
            bundles: vec![BundleCommit {
                reservation,
                receipts: vec![(index, node)],
                entries: entries.clone(),
            }],
            externals: vec![key],
        },
        Command::RecordPlacements(vec![
            PlacementChange::Placed { coding, index, node },
            PlacementChange::Missing { coding, index, node },
            PlacementChange::Retired { coding, index, node },
            PlacementChange::Trashed { coding, index, node },
            PlacementChange::Stray { coding, index, node },
        ]),
        Command::Summary {
            nodes: vec![NodeSighting {
                node,
                last_seen: Some(at(80)),
                availability: Availability::UNKNOWN,
                addresses: AddressHistory::first_seen_at(AddressPrefix::V6([0x20, 1, 0xd, 0xb8, 0, 7])),
                origin,
            }],
        },
        Command::BeginRecoding {
            bundle: BundleId::from_bytes([7; 32]),
            coding_header: vec![8, 9],
            n: 24,
            workers: [node, NodeId::from_bytes([10; 32])],
        },
        Command::FinishRecoding { bundle: BundleId::from_bytes([7; 32]), coding, decoder: node },
        Command::DropRecoding { bundle: BundleId::from_bytes([7; 32]), coding },
        Command::RaiseFeatureLevel { level: 300 },
        Command::BeginRebuild,
        Command::RestoreLedger(vec![LedgerEntry {
            position: 0,
            previous: Digest::from_bytes([0; 32]),
            at: at(3),
            by: Actor::Coordinators,
            act: LedgerAct::RemovePublisher { name: "x".into() },
        }]),
        Command::RestoreBundle(Box::new(RestoredBundle {
            content_header: vec![1, 2],
            coding_header: vec![3],
            n: 12,
            uploader: PublicKey::from_bytes([9; 32]),
            committed_at: at(4),
            ledger_entries: 5,
            externals: vec![key],
            entries: entries.clone(),
        })),
        Command::ForgetUncounted {
            reservations: vec![reservation],
            surplus: vec![SurplusCopy { node, coding, index }],
        },
        Command::EndRebuild,
        Command::ReplaceBundle {
            bundle: BundleId::from_bytes([7; 32]),
            left_out: vec![(key, place(11, 12))],
            replacements: vec![ReplacementBundle {
                reservation,
                receipts: vec![(index, node)],
                records: vec![MovedRecord { key, from: place(13, 14), to: place(15, 16) }],
            }],
        },
        Command::EraseBundle {
            bundle: BundleId::from_bytes([7; 32]),
            surplus: vec![SurplusCopy { node, coding, index }],
        },
        Command::ConfirmErasures(vec![(BundleId::from_bytes([7; 32]), node)]),
        Command::GovernAll(vec![LedgerAct::RemovePublisher { name: "x".into() }]),
        Command::RememberFeatures {
            bundle: BundleId::from_bytes([7; 32]),
            replaces: Some(BundleId::from_bytes([8; 32])),
            records: vec![(place(300, 8), vec![feature])],
        },
        Command::CompactBundles {
            bundles: vec![BundleId::from_bytes([7; 32]), BundleId::from_bytes([8; 32])],
            into: vec![CompactedBundle {
                reservation,
                receipts: vec![(index, node)],
                records: vec![GatheredRecord {
                    key,
                    from: GatheredPlace { bundle: 300, place: place(13, 14) },
                    to: place(15, 16),
                }],
            }],
        },
        Command::RestoreLacking(Box::new(RestoredBundle {
            content_header: vec![1, 2],
            coding_header: vec![3],
            n: 12,
            uploader: PublicKey::from_bytes([9; 32]),
            committed_at: at(4),
            ledger_entries: 5,
            externals: vec![key],
            entries: entries.clone(),
        })),
        Command::CompactUnused {
            bundles: vec![BundleId::from_bytes([7; 32]), BundleId::from_bytes([8; 32])],
            into: Vec::new(),
            looked_to: BundleNumber(300),
        },
        Command::DeclareAbsence { node: NodeId::from_bytes([6; 32]), until: at(300) },
        Command::AnnounceSuspension {
            node: NodeId::from_bytes([6; 32]),
            at: at(300),
            reason: "new disks".into(),
        },
        Command::CarryOutSuspension { node: NodeId::from_bytes([6; 32]), at: at(300) },
    ]
}

fn commands(lines: &mut Lines) {
    let by = Actor::Socket { coordinator: NodeId::from_bytes([7; 32]) };
    for (number, command) in all_commands().into_iter().enumerate() {
        lines.add(&format!("command-{number}"), &TimedCommand { at: at(90), by: by.clone(), command });
    }
}

fn requests(lines: &mut Lines) {
    let key = ObjectKey::store_path([1; 20]);
    lines.add("lookup", &CoordinatorRequest::Lookup(vec![key]));
    lines.add("get-members", &CoordinatorRequest::GetMembers);
    lines.add("feed-request", &CoordinatorRequest::Feed { from: 5, wait_millis: 20_000 });
    let status = NodeStatus {
        address: "a:1".into(),
        quota: ByteCount(1_000),
        used: ByteCount(900),
        young_trash: ByteCount(800),
        deletion_room: DeletionRoom { all: ByteCount(20), unique: ByteCount(10) },
        refused_deletions: 1,
        shards: 300,
        max_upload: Some(BitRate { bytes_per_second: 1_250_000 }),
        rest: Some(NodeRest::OutsideHours),
        leaving: true,
        run: 7,
        erased_through: 8,
    };
    lines.add("heartbeat", &CoordinatorRequest::Heartbeat(status));
    for rest in [NodeRest::Paused, NodeRest::TrafficSpent] {
        lines.add(&format!("rest-{rest:?}"), &rest);
    }
    lines.add("state-digests-request", &CoordinatorRequest::StateDigests);
    let digest = |byte| Digest::from_bytes([byte; 32]);
    let digests = StateDigests { applied: 300, content: digest(1), governance: digest(2), rest: digest(3) };
    let reply =
        CoordinatorReply::StateDigests { digests: vec![digests], feature_level: 300, clock: at(1_000_000) };
    lines.add("state-digests", &reply);
    let range = RangeRequest {
        pass: None,
        coding: CodingId::from_bytes([2; 32]),
        index: ShardIndex(3),
        offset: 16_384,
        bytes: 65_536,
    };
    lines.add("read-range", &NodeRequest::ReadRange(range));
    let identity = Identity::from_seed(&[4; 32]);
    let pass = Pass { reader: identity.public(), expires: at(1_000), purpose: PassPurpose::Reading };
    let pass = Signed::seal(&identity, ArchiveId::from_bytes([5; 32]), &pass);
    let rank = OrderRank { generation: 1, epoch: 6 };
    let source =
        BuildSource { index: ShardIndex(7), node: NodeId::from_bytes([8; 32]), address: "h:1".into() };
    let recode = RecodeOrder {
        content_header: vec![1, 2],
        coding_header: vec![3],
        k: 8,
        sources: vec![source.clone()],
        pass: pass.clone(),
        rank,
    };
    lines.add("recode", &NodeRequest::Recode(recode));
    let read = ByteCount(9);
    lines.add("recoded", &NodeReply::Recoded(RecodeReport { coding_header: vec![3], read }));
    let decode = DecodeOrder {
        content_header: vec![1, 2],
        coding_header: vec![3],
        sources: vec![source.clone()],
        pass: pass.clone(),
        rank,
    };
    lines.add("decode", &NodeRequest::Decode(decode));
    lines.add("decoded", &NodeReply::Decoded(DecodeReport { differs: Some("it differs".into()), read }));
    let build = BuildOrder {
        reservation: ReservationId::from_bytes([9; 32]),
        content_header: vec![1, 2],
        coding_header: vec![3],
        sources: vec![source],
        targets: Vec::new(),
        pass,
        rank,
        source_coding_header: Some(vec![4]),
    };
    lines.add("build-of-another-coding", &NodeRequest::Build(build));
    filters(lines, key);
}

fn filters(lines: &mut Lines, key: ObjectKey) {
    let filter = FilterId::from_bytes([1; 32]);
    let range = FeedRange { first: 0, end: 1 << 20 };
    let feed_digest = Digest::from_bytes([2; 32]);
    let entry = FilterEntry { range, id: filter, bytes: 1_180_000, keys: 1_000_000, feed_digest };
    lines.add("filters", &FilterList { filters: vec![entry], head: 1_100_000 });
    lines.add("filters-request", &CoordinatorRequest::ListFilters);
    lines.add("filter-piece-request", &CoordinatorRequest::FilterPiece { filter, offset: 1 << 20 });
    lines.add("filter-piece", &CoordinatorReply::FilterPiece(vec![3, 4]));
    let prefix = KeyPrefix::of(&key, 20).unwrap();
    let request = IndexRangeRequest { prefix, after: Some(key) };
    lines.add("index-range-request", &CoordinatorRequest::IndexRange(request));
    let locations = vec![Location { bundle: BundleNumber(5), block: 6, entry: 7 }];
    let page = IndexRangePage { position: 300, keys: vec![IndexedKey { key, locations }], more: true };
    lines.add("index-range", &CoordinatorReply::IndexRange(page));
    let (node, coding) = (NodeId::from_bytes([6; 32]), CodingId::from_bytes([7; 32]));
    let report = ShardReport { node, coding, index: ShardIndex(3), offset: 1 << 20, bytes: 65_536 };
    lines.add("shard-report", &CoordinatorRequest::ReportShard(report));
    lines.add("shard-report-taken", &CoordinatorReply::ReportTaken);
    let feature = Feature::from_bytes([8; 8]);
    lines.add("similar-request", &CoordinatorRequest::Similar(vec![feature]));
    let place = RecordPlace { block: 300, entry: 2 };
    let similar = SimilarRecord { bundle: BundleId::from_bytes([9; 32]), place };
    let bundle = similar.bundle;
    lines.add("similar", &CoordinatorReply::Similar(vec![vec![similar], Vec::new()]));
    compactions(lines, bundle);
}

fn compactions(lines: &mut Lines, bundle: BundleId) {
    let request = AdminRequest::Compaction { older_than_millis: 300 };
    lines.add("compaction-request", &CoordinatorRequest::Admin(request));
    let fill =
        BundleFill { bundles: 5, payload: ByteCount(400), small_bundles: 3, small_payload: ByteCount(300) };
    let group = CompactionGroup { bundles: vec![bundle], payload: ByteCount(300), records: 2 };
    let plan = CompactionPlan { fill, groups: vec![group] };
    lines.add("compaction", &CoordinatorReply::Admin(AdminReply::Compaction(plan)));
    let from = GatheredPlace { bundle: 1, place: RecordPlace { block: 300, entry: 2 } };
    let gathered = Gathered { bundles: vec![bundle], from: vec![vec![from]] };
    let reservation = ReservationId::from_bytes([4; 32]);
    let uploaded = UploadedBundle { reservation, manifest: vec![1, 2], receipts: Vec::new() };
    let request = CompactRequest { bundles: vec![uploaded], gathered };
    lines.add("compact", &CoordinatorRequest::Compact(request));
    let request = AdminRequest::CompactionBehind { older_than_millis: 300, bundle };
    lines.add("compaction-behind-request", &CoordinatorRequest::Admin(request));
}

fn purges(lines: &mut Lines) {
    let bundle = |byte| BundleId::from_bytes([byte; 32]);
    let request = AdminRequest::ReplacedAmong(vec![bundle(9), bundle(10)]);
    lines.add("replaced-among", &CoordinatorRequest::Admin(request));
    lines.add("replaced", &CoordinatorReply::Admin(AdminReply::Replaced(vec![bundle(10)])));
    let needed = NeededBundle { bundle: bundle(9), dependents: 300, to_repack: vec![bundle(10)] };
    let waiting = PurgeHolder {
        node: NodeId::from_bytes([6; 32]),
        state: firn_wire::NodeState::Suspended,
        online: true,
        last_seen: at(300),
    };
    let purge = PurgeProgress {
        key: ObjectKey::store_path([3; 20]),
        since: at(90),
        to_repack: vec![bundle(11)],
        passing: vec![bundle(12)],
        kept: vec![needed],
        holders: 39,
        waiting: vec![waiting],
    };
    lines.add("purges", &CoordinatorReply::Admin(AdminReply::Purges(vec![purge])));
}

fn terms(lines: &mut Lines) {
    let node = NodeId::from_bytes([6; 32]);
    let (none, some) = (NodeTerms::default(), Some(at(300)));
    lines.add("tell-no-terms", &CoordinatorRequest::TellTerms(none));
    let terms = NodeTerms { rest_until: some, month_left: Some(ByteCount(1_000)) };
    lines.add("tell-terms", &CoordinatorRequest::TellTerms(terms));
    lines.add("declare-absence", &CoordinatorRequest::DeclareAbsence { for_millis: 300 });
    let drain = Some(DrainBacklog { to_move: 300, without_home: 2, home_unavailable: 1 });
    let standing = NodeStanding { drain, absent_until: some, absence_left_millis: 400 };
    lines.add("standing", &CoordinatorReply::Standing(standing));
    lines.add("list-resting", &CoordinatorRequest::ListResting);
    let causes = [RestCause::Paused, RestCause::TrafficSpent, RestCause::OutsideHours, RestCause::Absent];
    let resting = |cause| RestingNode { node, cause, until: some };
    lines.add("resting", &CoordinatorReply::Resting(causes.map(resting).into()));
}

fn news(lines: &mut Lines) {
    lines.add("news-request", &CoordinatorRequest::News { from: 5, wait_millis: 20_000 });
    let batch = FeedBatch { first: 7, events: Vec::new(), head: 7 };
    let batch = Signed::seal(&Identity::from_seed(&[4; 32]), ArchiveId::from_bytes([5; 32]), &batch);
    let news = |stale_millis| CoordinatorReply::News { batch: batch.clone(), stale_millis };
    lines.add("news", &news(None));
    lines.add("news-stale", &news(Some(300)));
}

fn ledger_heads(lines: &mut Lines) {
    lines.add("ledger-heads-request", &CoordinatorRequest::GetLedgerHeads);
    let head = LedgerHead { entries: 300, digest: Digest::from_bytes([6; 32]) };
    let head = Signed::seal(&Identity::from_seed(&[4; 32]), ArchiveId::from_bytes([5; 32]), &head);
    lines.add("ledger-heads", &CoordinatorReply::LedgerHeads(vec![head]));
}

fn inventories(lines: &mut Lines) {
    let shards: Vec<_> = (0..9).map(|byte| (CodingId::from_bytes([byte; 32]), ShardIndex(3))).collect();
    let (all, salt) = (InventoryRange::ALL, [6; 32]);
    let begin = InventoryComparison::beginning(salt, &shards);
    lines.add("compare-inventory-whole", &CoordinatorRequest::CompareInventory(begin));
    let parts = InventoryComparison { salt, ranges: vec![(all, all.refined(&salt, &shards))] };
    lines.add("compare-inventory-parts", &CoordinatorRequest::CompareInventory(parts));
    let first = all.parts().unwrap()[0].parts().unwrap()[7];
    let listed = InventoryComparison { salt, ranges: vec![(first, first.refined(&salt, &shards))] };
    lines.add("compare-inventory-listed", &CoordinatorRequest::CompareInventory(listed));
    lines.add("inventory-compared", &CoordinatorReply::InventoryCompared { differing: vec![all, first] });
}

fn repair_waits(lines: &mut Lines) {
    use RepairWaitReason::{DisksRest, FleetVanished, LossesFollow, NewLeader};
    let waits = [NewLeader, FleetVanished, LossesFollow, DisksRest];
    lines.add("repair-waits", &waits.map(|reason| RepairWait { reason, until: at(5) }).to_vec());
}

fn suspensions(lines: &mut Lines) {
    let (node, reason) = (NodeId::from_bytes([6; 32]), || "new disks".to_owned());
    let announce = AdminRequest::AnnounceSuspension { node, reason: reason() };
    lines.add("announce-suspension", &CoordinatorRequest::Admin(announce));
    let announced = AdminReply::SuspensionAnnounced { at: at(300) };
    lines.add("suspension-announced", &CoordinatorReply::Admin(announced));
    lines.add("list-suspensions", &CoordinatorRequest::Admin(AdminRequest::AnnouncedSuspensions));
    let by = Actor::Operator { key: PublicKey::from_bytes([9; 32]), name: "ada".into() };
    let listed = vec![AnnouncedSuspension { node, at: at(300), by, reason: reason() }];
    lines.add("suspensions", &CoordinatorReply::Admin(AdminReply::AnnouncedSuspensions(listed)));
    lines.add("suspension-request", &CoordinatorRequest::GetSuspension);
    lines.add("no-suspension", &CoordinatorReply::Suspension(None));
    let notice = SuspensionNotice { at: at(300), reason: reason() };
    lines.add("suspension", &CoordinatorReply::Suspension(Some(notice)));
}

/// What each kind says of its level, in the order of the kinds: all of them, for behind the last one there is none.
fn levels<T: Serialize + DeserializeOwned + Debug>(all: &[T], level: fn(&T) -> u16) -> Vec<u16> {
    let kind = |message: &T| encode(message)[2];
    let levels: BTreeMap<u8, u16> = all.iter().map(|message| (kind(message), level(message))).collect();
    let kinds = u8::try_from(levels.len()).unwrap();
    assert!(levels.keys().copied().eq(0..kinds), "one of each kind: {levels:?}");
    let without_fields = |kind| decode::<T>(&[1, 0, kind]);
    let unknown = without_fields(0xfe >> 1);
    assert!(matches!(unknown, Err(DecodeError::Malformed(_))));
    assert_eq!(format!("{:?}", without_fields(kinds)), format!("{unknown:?}"), "a kind is missing here");
    levels.into_values().collect()
}

#[test]
fn every_command_and_act_says_since_which_level_it_is_known() {
    let commands = levels(&all_commands(), Command::level);
    assert_eq!(
        commands,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 3, 4, 5, 6, 7, 8, 8]
    );
    assert_eq!(levels(&acts(), LedgerAct::level), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0]);
    assert_eq!(commands.into_iter().max(), Some(FEATURE_LEVEL), "the last level is that of some command");
    // Acts in a command count.
    let purge = LedgerAct::Purge { key: ObjectKey::store_path([3; 20]), reason: "court".into() };
    assert_eq!(Command::Govern(purge).level(), 2);
}
