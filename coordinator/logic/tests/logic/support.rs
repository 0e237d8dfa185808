//! A small archive in memory, driven by commands.

use std::collections::BTreeMap;

use firn_base::{
    AddressPrefix, BundleId, ByteCount, CodingId, Feature, ManifestRoot, NodeId, ObjectKey, Origin,
    PayloadRoot, PublicKey, ReservationId, ShardIndex, ShardRoot, Timestamp, TokenId, shard_bytes,
};
use firn_bundle::{BundleRole, CodingHeader, ContentHeader};
use firn_coordinator_logic::{
    BrakeState, BundleRecord, Catalogue, Deletion, Facts, FleetView, FleetWatch, HealthIndex, MemoryState,
    NodeNumber, NodeRecord, Orders, PlanningBudget, PlanningView, Scan, apply,
};
use firn_wire::{
    BundleCommit, Command, CommandOutcome, DeletionRoom, IndexEntry, MovedRecord, NodePlace, NodeState,
    NodeStatus, PlacementChange, RecordPlace, TimedCommand,
};

pub(crate) const PAYLOAD_BYTES: u64 = 100_000;
pub(crate) const QUOTA_BYTES: u64 = 1 << 30;
pub(crate) const BUDGET: PlanningBudget =
    PlanningBudget { builds_max: 1000, away_builds_max: 1000, builds_per_worker_max: 1000 };

pub(crate) struct Archive {
    pub(crate) state: MemoryState,
    pub(crate) now: Timestamp,
    pub(crate) log: Vec<TimedCommand>,
    pub(crate) watch: FleetWatch,
    pub(crate) orders: Orders,
}

pub(crate) fn node_id(node: u32) -> NodeId {
    NodeId::from_bytes(*blake3::hash(&node.to_le_bytes()).as_bytes())
}

pub(crate) fn key(name: u8) -> ObjectKey {
    ObjectKey::store_path([name; 20])
}

/// One that half of all names have.
pub(crate) fn feature(name: u8) -> Feature {
    Feature::from_bytes([name % 2; 8])
}

pub(crate) fn entry(name: u8, waits: &[u8]) -> IndexEntry {
    let waits = waits.iter().copied().map(key).collect();
    IndexEntry { key: key(name), block: 0, entry: u16::from(name), waits }
}

pub(crate) const fn at(entry: u8) -> RecordPlace {
    RecordPlace { block: 0, entry: entry as u16 }
}

/// The record of [`entry`] on its way to the place ten entries behind.
pub(crate) fn moved(name: &u8) -> MovedRecord {
    MovedRecord { key: key(*name), from: at(*name), to: at(*name + 10) }
}

pub(crate) fn reservation_id(tag: u8) -> ReservationId {
    ReservationId::from_bytes([tag; 32])
}

pub(crate) fn uploader() -> PublicKey {
    PublicKey::from_bytes([77; 32])
}

pub(crate) fn n_max(k: u8) -> u8 {
    firn_base::Scheme::n_max(k).unwrap()
}

pub(crate) fn root(index: u8) -> ShardRoot {
    ShardRoot::from_bytes([index; 32])
}

/// A prefix of a node's own, and what a table says of it.
pub(crate) fn place(node: u32, origin: Option<Origin>) -> NodePlace {
    let [_, a, b, c] = node.to_be_bytes();
    NodePlace { prefix: AddressPrefix::V4([a.wrapping_add(10), b, c]), origin }
}

/// Headers of a bundle whose contents are told apart by `tag`.
pub(crate) fn headers(tag: u8, k: u8, dependencies: Vec<BundleId>) -> (ContentHeader, CodingHeader) {
    let role = if dependencies.is_empty() { BundleRole::Ordinary } else { BundleRole::Head };
    headers_as(role, tag, k, dependencies)
}

/// Headers of such a bundle that is this to its dependencies.
pub(crate) fn headers_as(
    role: BundleRole,
    tag: u8,
    k: u8,
    dependencies: Vec<BundleId>,
) -> (ContentHeader, CodingHeader) {
    let payload = (PAYLOAD_BYTES, PayloadRoot::from_bytes([tag; 32]));
    let manifest = (200, ManifestRoot::from_bytes([tag; 32]));
    let content = ContentHeader::new(role, payload, manifest, dependencies).unwrap();
    let roots = (0..n_max(k)).map(root).collect();
    let shard = shard_bytes(PAYLOAD_BYTES, k);
    let coding = CodingHeader::new(content.bundle_id(), k, shard, roots).unwrap();
    (content, coding)
}

pub(crate) fn coding_id(tag: u8, k: u8) -> CodingId {
    headers(tag, k, Vec::new()).1.coding_id()
}

pub(crate) fn bundle_id(tag: u8) -> BundleId {
    headers(tag, 1, Vec::new()).0.bundle_id()
}

impl Archive {
    /// An archive of `nodes` active nodes, each its own failure domain, all online and proved.
    pub(crate) fn of(nodes: u32) -> Self {
        let now = Timestamp::from_millis(1_000_000);
        let watch = FleetWatch::new(now);
        let (state, orders) = (MemoryState::new(), Orders::new());
        let mut archive = Self { state, now, log: Vec::new(), watch, orders };
        for node in 0..nodes {
            assert_eq!(archive.join(node, &format!("domain-{node}")), CommandOutcome::Applied);
            archive.hear(node);
        }
        archive
    }

    pub(crate) fn run(&mut self, command: Command) -> CommandOutcome {
        let command = TimedCommand::of_coordinators(self.now, command);
        let Ok(applied) = apply(&self.state, &command);
        self.state.absorb(applied.changes);
        self.log.push(command);
        applied.outcome
    }

    pub(crate) fn wait(&mut self, millis: u64) {
        self.now = Timestamp::from_millis(self.now.as_millis() + millis);
    }

    pub(crate) fn join(&mut self, node: u32, domain: &str) -> CommandOutcome {
        self.join_with(node, domain, QUOTA_BYTES)
    }

    pub(crate) fn join_with(&mut self, node: u32, domain: &str, quota_bytes: u64) -> CommandOutcome {
        let mut token = [0; 32];
        token[..4].copy_from_slice(&node.to_le_bytes());
        self.run(Command::JoinNode {
            node: node_id(node),
            operator: format!("operator-{node}"),
            failure_domain: domain.into(),
            vouched: false,
            seen_at: Some(place(node, None)),
            address: format!("[::1]:{node}"),
            quota_bytes,
            token: Some(TokenId::from_bytes(token)),
        })
    }

    /// A heartbeat, an inventory that fits, and its proof.
    pub(crate) fn hear(&mut self, node: u32) {
        let number = self.number(node);
        if self.watch.heard(number, status(1), self.now).inventory_wanted {
            self.watch.inventory_page(number, Vec::new(), false);
            self.watch.prove(number);
        }
    }

    /// Another inventory that fits, and its proof.
    pub(crate) fn show_inventory(&mut self, node: u32) {
        let number = self.number(node);
        self.watch.want_inventory(number, self.now);
        self.hear(node);
    }

    /// A heartbeat that says how much the node would still delete.
    pub(crate) fn hear_room(&mut self, node: u32, all: u64, unique: u64) {
        let deletion_room = DeletionRoom { all: ByteCount(all), unique: ByteCount(unique) };
        self.hear_status(node, NodeStatus { deletion_room, ..status(1) });
    }

    /// A heartbeat of a node that was heard before.
    pub(crate) fn hear_status(&mut self, node: u32, status: NodeStatus) {
        let heard = self.watch.heard(self.number(node), status, self.now);
        assert!(!heard.inventory_wanted);
    }

    /// Heartbeats of all members but `silent`.
    pub(crate) fn hear_all_but(&mut self, silent: &[u32]) {
        let members = self.nodes().into_iter().filter(NodeRecord::is_member);
        for number in members.map(|node| node.number.0).collect::<Vec<_>>() {
            if !silent.contains(&number) {
                self.hear(number);
            }
        }
    }

    /// Nodes are numbered as they joined: in tests, from zero on without gaps.
    pub(crate) fn number(&self, node: u32) -> NodeNumber {
        let Ok(number) = self.state.node_number(node_id(node));
        number.unwrap()
    }

    pub(crate) fn node(&self, node: u32) -> NodeRecord {
        let Ok(record) = self.state.node_by_id(node_id(node));
        record.unwrap()
    }

    pub(crate) fn nodes(&self) -> Vec<NodeRecord> {
        let Ok(nodes) = self.state.all_nodes();
        nodes
    }

    pub(crate) fn set_state(&mut self, node: u32, state: NodeState) -> CommandOutcome {
        self.run(Command::SetNodeState { node: node_id(node), state })
    }

    /// Reserves shard i of bundle `tag` on the i-th of `nodes`.
    pub(crate) fn reserve(&mut self, tag: u8, (k, n): (u8, u8), nodes: &[u32]) -> CommandOutcome {
        self.reserve_as(tag, &headers(tag, k, Vec::new()), n, nodes)
    }

    pub(crate) fn reserve_as(
        &mut self,
        reservation: u8,
        headers: &(ContentHeader, CodingHeader),
        n: u8,
        nodes: &[u32],
    ) -> CommandOutcome {
        let assignments = (0..).map(ShardIndex).zip(nodes.iter().copied().map(node_id)).collect();
        self.run(Command::Reserve {
            reservation: reservation_id(reservation),
            uploader: uploader(),
            content_header: headers.0.to_bytes(),
            coding_header: headers.1.to_bytes(),
            n,
            assignments,
            expires: self.now.after(std::time::Duration::from_secs(3600)),
        })
    }

    /// Commits reservation `tag` with receipts for shard i from the i-th of `nodes`.
    pub(crate) fn commit(&mut self, tag: u8, nodes: &[u32], entries: Vec<IndexEntry>) -> CommandOutcome {
        let bundle = commit_of(tag, nodes, entries);
        self.run(Command::Commit { bundles: vec![bundle], externals: Vec::new() })
    }

    /// A whole bundle `tag` with one key of the same name: shard i on the i-th of `nodes`.
    pub(crate) fn publish(&mut self, tag: u8, scheme: (u8, u8), nodes: &[u32]) {
        assert_eq!(self.reserve(tag, scheme, nodes), CommandOutcome::Applied);
        let outcome = self.commit(tag, nodes, vec![entry(tag, &[])]);
        assert!(matches!(outcome, CommandOutcome::Committed { .. }), "{outcome:?}");
    }

    pub(crate) fn bundle(&self, tag: u8) -> BundleRecord {
        let Ok(record) = self.state.bundle_by_id(bundle_id(tag));
        record.unwrap()
    }

    pub(crate) fn placements(&self, tag: u8) -> Vec<(u8, u32)> {
        let placements = &self.bundle(tag).codings[0].placements;
        placements.iter().map(|(index, node)| (index.0, node.0)).collect()
    }

    pub(crate) fn is_visible(&self, name: u8) -> bool {
        let Ok(location) = self.state.location(key(name));
        location.is_some()
    }

    pub(crate) fn surplus(&self) -> Vec<(u32, u8)> {
        let Ok(surplus) = self.state.surplus_after(None, usize::MAX);
        surplus.iter().map(|copy| (copy.node.0, copy.index.0)).collect()
    }

    /// Lets `look` plan over the state as it is now, without a brake.
    pub(crate) fn planning<T>(&self, look: impl FnOnce(&PlanningView<'_>) -> T) -> T {
        self.planning_with(&mut HealthIndex::new(), look)
    }

    /// The same with an index that has seen what was before; it is brought up to date.
    pub(crate) fn planning_with<T>(
        &self,
        health: &mut HealthIndex,
        look: impl FnOnce(&PlanningView<'_>) -> T,
    ) -> T {
        let Ok(catalogue) = Catalogue::load(&self.state);
        let fleet = FleetView::new(&catalogue, &self.watch, &self.orders, self.now);
        let all = catalogue.bundles().map(|bundle| bundle.number).collect();
        health.update(&catalogue, &fleet, &all, self.now);
        look(&PlanningView {
            catalogue: &catalogue,
            fleet: &fleet,
            health,
            orders: &self.orders,
            brake: BrakeState::Free,
            now: self.now,
        })
    }

    /// Assigned bytes of each node as its records add up to.
    pub(crate) fn assigned_by_records(&self) -> BTreeMap<NodeNumber, u64> {
        let mut assigned: BTreeMap<NodeNumber, u64> = BTreeMap::new();
        let mut add = |node: NodeNumber, bytes: u64| *assigned.entry(node).or_default() += bytes;
        let Ok(bundles) = self.state.bundles_from(firn_base::BundleNumber(0), usize::MAX);
        for coding in bundles.iter().flat_map(|bundle| &bundle.codings) {
            coding.placements.iter().for_each(|(_, node)| add(*node, coding.file_bytes));
        }
        let Ok(reservations) = self.state.reservations_after(None, usize::MAX);
        for reservation in &reservations {
            reservation.assignments.iter().for_each(|(_, node)| add(*node, reservation.file_bytes));
        }
        let Ok(surplus) = self.state.surplus_after(None, usize::MAX);
        surplus.iter().for_each(|copy| add(copy.node, copy.file_bytes));
        assigned
    }
}

pub(crate) fn commit_of(tag: u8, nodes: &[u32], entries: Vec<IndexEntry>) -> BundleCommit {
    let receipts = (0..).map(ShardIndex).zip(nodes.iter().copied().map(node_id)).collect();
    BundleCommit { reservation: reservation_id(tag), receipts, entries }
}

/// What is recorded when nodes have followed these orders.
pub(crate) fn trashed(deletions: &[Deletion]) -> Vec<PlacementChange> {
    let change = |deletion: &Deletion| {
        let (node, coding, index) = deletion.copy;
        PlacementChange::Trashed { coding, index, node: node_id(node.0) }
    };
    deletions.iter().map(change).collect()
}

pub(crate) fn status(run: u64) -> NodeStatus {
    NodeStatus {
        address: "[::1]:1".into(),
        quota: ByteCount(QUOTA_BYTES),
        used: ByteCount(0),
        young_trash: ByteCount(0),
        deletion_room: DeletionRoom { all: ByteCount(u64::MAX), unique: ByteCount(u64::MAX) },
        refused_deletions: 0,
        shards: 0,
        max_upload: None,
        rest: None,
        leaving: false,
        run,
        erased_through: 0,
    }
}
