//! What must hold, looked at from outside: in the stores of coordinators and on the disks of nodes.
//!
//! Owns: comparing replicas at equal positions of the log, placements with domains, files and trash with the books.
//! Leaves to others: whether paths can be read (`scenario`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use firn_base::{BundleId, CodingId, Digest, NodeId, ShardIndex, Timestamp};
use firn_coordinator::StateFacts;
use firn_coordinator::storage::{Memory, Read, Table};
use firn_coordinator_logic::{BundleRecord, CLOCK_BAND, CodingRecord, Facts, NodeNumber, NodeRecord, Scan};
use firn_storage_node::{DeletionLimits, Disk, MemoryDisk, verify_file};
use firn_wire::NodeState;

use crate::cast::{self, Cast};
use crate::machines::{Machines, deletion_limits};
use crate::operator::shards_at_rest;

/// A shard on a node.
type Copy = (NodeId, CodingId, ShardIndex);

/// Digests by position of the log: each position has one, whoever applied it and whenever.
#[derive(Debug, Default)]
pub(crate) struct Replicas {
    seen: BTreeMap<Vec<u8>, (usize, Digest)>,
}

impl Replicas {
    /// Looks at every coordinator's state; gives what does not fit.
    pub(crate) fn look<'a>(&mut self, states: impl IntoIterator<Item = &'a Memory>) -> Vec<String> {
        let mut faults = Vec::new();
        for (number, state) in states.into_iter().enumerate() {
            match position(state) {
                Ok(Some((position, digest))) => {
                    let (first, known) = *self.seen.entry(position).or_insert((number, digest));
                    if known != digest {
                        faults.push(format!(
                            "coordinators {first} and {number} have other states at the same position of the log"
                        ));
                    }
                }
                Ok(None) => {}
                Err(error) => faults.push(format!("coordinator {number} cannot be read: {error}")),
            }
        }
        faults
    }

    /// Positions looked at.
    pub(crate) fn positions(&self) -> usize {
        self.seen.len()
    }
}

/// Whether the archive's time is nowhere later than clocks allow that are right to ten minutes, when they show `now`. Gives
/// what does not fit.
pub(crate) fn check_time<'a>(states: impl IntoIterator<Item = &'a Memory>, now: Timestamp) -> Option<String> {
    // Those that are right are a little wrong, too.
    let latest = now.after(CLOCK_BAND + Duration::from_secs(2));
    let time = |state: &Memory| StateFacts::new(Arc::new(state.clone())).counters().ok().map(|it| it.time);
    let late = states.into_iter().filter_map(time).find(|time| *time > latest);
    late.map(|time| format!("the archive's time is {time}, and clocks that are right show {now}"))
}

/// Whether all coordinators have applied the same; then the digest of their states.
pub(crate) fn agreed(machines: &Machines) -> Option<Digest> {
    let mut all = machines.states().map(|state| position(state).ok().flatten());
    let first = all.next()??;
    all.all(|other| other.as_ref() == Some(&first)).then_some(first.1)
}

fn position(state: &Memory) -> Result<Option<(Vec<u8>, Digest)>, String> {
    let applied = state.get(Table::Meta, b"applied").map_err(|error| error.to_string())?;
    let Some(applied) = applied else { return Ok(None) };
    let digest = StateFacts::new(Arc::new(state.clone())).digest().map_err(|error| error.to_string())?;
    Ok(Some((applied, digest)))
}

/// The books of the archive beside what lies on the disks; gives what does not fit. To be asked once the faults
/// are over and every node has shown its inventory.
pub(crate) fn compare_books(cast: &Cast, machines: &Machines) -> Vec<String> {
    let Some(state) = machines.states().next() else { return Vec::new() };
    let facts = StateFacts::new(Arc::new(state.clone()));
    match read_books(&facts) {
        Ok(books) => {
            let mut faults = books.check_domains();
            let (files, mut bad) = files_of(cast, machines, &books.members());
            faults.append(&mut bad);
            faults.extend(books.check_files(&files));
            faults.extend(books.check_account(&files));
            faults
        }
        Err(error) => vec![format!("the state cannot be read: {error}")],
    }
}

/// Whether every committed bundle has as many shards on the disks, of one of its codings, as a commit needs: no fault of
/// a run takes a disk away, and where a shard rots there are more (`rot`), so that nothing explains fewer. Gives what does
/// not fit.
pub(crate) fn check_durable(machines: &Machines) -> Vec<String> {
    let held = indexes_held(machines);
    let mut faults = Vec::new();
    let all: Vec<Vec<BundleRecord>> = machines.states().map(bundles_of).collect();
    // What one of them knows to be erased another one may not know yet.
    let is_erased = |bundle: &&BundleRecord| bundle.codings.is_empty();
    let erased: BTreeSet<_> = all.iter().flatten().filter(is_erased).map(|bundle| bundle.id).collect();
    for bundles in &all {
        for bundle in bundles.iter().filter(|bundle| !erased.contains(&bundle.id)) {
            let on_disks = |coding: &CodingRecord| held.get(&coding.id).map_or(0, BTreeSet::len);
            let is_safe =
                |coding: &CodingRecord| on_disks(coding) >= usize::from(coding.scheme.commit_threshold());
            if !bundle.codings.iter().any(is_safe) {
                let counts: Vec<usize> = bundle.codings.iter().map(on_disks).collect();
                faults.push(format!("bundle {} has {counts:?} shards on all disks", bundle.number));
            }
        }
    }
    faults
}

/// The codings, each with its bundle, of which at least two more shards are on the disks than a commit needs: one may go then,
/// and one beside it that was never committed.
pub(crate) fn spare_codings(machines: &Machines) -> BTreeMap<CodingId, BundleId> {
    let held = indexes_held(machines);
    let has_spare = |coding: &CodingRecord| {
        let on_disks = held.get(&coding.id).map_or(0, BTreeSet::len);
        on_disks >= usize::from(coding.scheme.commit_threshold()) + 2
    };
    let bundles = machines.states().flat_map(bundles_of);
    let codings =
        bundles.flat_map(|bundle| bundle.codings.into_iter().map(move |coding| (coding, bundle.id)));
    codings.filter(|(coding, _)| has_spare(coding)).map(|(coding, bundle)| (coding.id, bundle)).collect()
}

/// Which shards of each coding are on the disks of all nodes.
fn indexes_held(machines: &Machines) -> BTreeMap<CodingId, BTreeSet<ShardIndex>> {
    let mut held: BTreeMap<CodingId, BTreeSet<ShardIndex>> = BTreeMap::new();
    for disk in &machines.disks {
        for (coding, index) in disk.paths().iter().filter_map(|path| shard_of(path)) {
            held.entry(coding).or_default().insert(index);
        }
    }
    held
}

/// The bundles that a coordinator's state knows; none of one whose disk fails, which is told of elsewhere.
fn bundles_of(state: &Memory) -> Vec<BundleRecord> {
    let facts = StateFacts::new(Arc::new(state.clone()));
    facts.bundles_from(firn_base::BundleNumber(0), usize::MAX).unwrap_or_default()
}

/// Files in trash on all nodes.
pub(crate) fn files_in_trash(machines: &Machines) -> usize {
    let in_trash =
        |disk: &MemoryDisk| disk.paths().iter().filter(|path| path.starts_with("shards/trash/")).count();
    machines.disks.iter().map(in_trash).sum()
}

struct Books {
    nodes: BTreeMap<NodeNumber, NodeRecord>,
    bundles: Vec<BundleRecord>,
    surplus: BTreeSet<Copy>,
    // Shards of uploads that may still be committed, with the bytes of their files: they may be there or not.
    reserved: BTreeMap<Copy, u64>,
    stored_bytes: u64,
}

fn read_books(facts: &StateFacts) -> Result<Books, firn_coordinator::storage::StorageError> {
    let nodes: BTreeMap<_, _> = facts.all_nodes()?.into_iter().map(|node| (node.number, node)).collect();
    let id = |number: &NodeNumber| nodes.get(number).map(|node| node.id);
    let surplus = facts.surplus_after(None, usize::MAX)?;
    let surplus =
        surplus.iter().filter_map(|copy| Some((id(&copy.node)?, copy.coding, copy.index))).collect();
    let mut reserved = BTreeMap::new();
    for record in facts.reservations_after(None, usize::MAX)? {
        let assigned = record.assignments.iter();
        reserved.extend(
            assigned
                .filter_map(|(index, node)| Some(((id(node)?, record.coding, *index), record.file_bytes))),
        );
    }
    let bundles = facts.bundles_from(firn_base::BundleNumber(0), usize::MAX)?;
    let stored_bytes = facts.counters()?.stored_bytes;
    Ok(Books { nodes, bundles, surplus, reserved, stored_bytes })
}

impl Books {
    /// No index of a bundle twice, no two indexes of a bundle in one domain, nothing on a node that is gone.
    fn check_domains(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for bundle in &self.bundles {
            for coding in &bundle.codings {
                let (mut indexes, mut domains) = (BTreeSet::new(), BTreeSet::new());
                for (index, number) in &coding.placements {
                    let Some(node) = self.nodes.get(number) else {
                        faults.push(format!("bundle {} has a shard on an unknown node", bundle.number));
                        continue;
                    };
                    if !indexes.insert(*index) {
                        faults.push(format!("shard {index} of bundle {} is placed twice", bundle.number));
                    }
                    if !domains.insert(node.failure_domain.as_str()) {
                        faults.push(format!(
                            "{} holds two shards of bundle {}",
                            node.failure_domain, bundle.number
                        ));
                    }
                    if node.state != NodeState::Active {
                        faults.push(format!("bundle {} has a shard on a {} node", bundle.number, node.state));
                    }
                }
                let least = usize::from(shards_at_rest(coding.scheme));
                if indexes.len() < least || indexes.len() > usize::from(coding.scheme.n()) {
                    let (has, scheme) = (indexes.len(), coding.scheme);
                    faults
                        .push(format!("bundle {} has {has} shards of {scheme}, not {least}", bundle.number));
                }
            }
        }
        faults
    }

    /// Nodes that take part. What was never reported to anybody may lie on one that left, and harms nobody.
    fn members(&self) -> BTreeSet<NodeId> {
        let gone = |node: &&NodeRecord| !matches!(node.state, NodeState::Gone | NodeState::Lost);
        self.nodes.values().filter(gone).map(|node| node.id).collect()
    }

    fn placed(&self) -> BTreeSet<Copy> {
        let codings = self.bundles.iter().flat_map(|bundle| &bundle.codings);
        let copies = codings
            .flat_map(|coding| coding.placements.iter().map(|(index, node)| (*node, coding.id, *index)));
        copies.filter_map(|(node, coding, index)| Some((self.nodes.get(&node)?.id, coding, index))).collect()
    }

    /// Files are placements and surplus, no more and no less; their bytes and numbers are those of the counters.
    fn check_files(&self, files: &BTreeMap<Copy, u64>) -> Vec<String> {
        let mut faults = Vec::new();
        let say =
            |copy: &Copy| format!("shard {} of coding {} on node {}", copy.2, copy.1.short(), copy.0.short());
        let placed = self.placed();
        for copy in placed.iter().filter(|copy| !files.contains_key(copy)) {
            faults.push(format!("{} is placed and not there", say(copy)));
        }
        for copy in self.surplus.iter().filter(|copy| !files.contains_key(copy)) {
            if self.members().contains(&copy.0) {
                faults.push(format!("{} is surplus and not there", say(copy)));
            }
        }
        for copy in files.keys() {
            if !placed.contains(copy) && !self.surplus.contains(copy) && !self.reserved.contains_key(copy) {
                faults.push(format!("{} is there and in no book", say(copy)));
            }
        }
        let bytes: u64 = files.iter().filter(|(copy, _)| placed.contains(copy)).map(|(_, bytes)| bytes).sum();
        if bytes != self.stored_bytes {
            faults.push(format!("placed files have {bytes} bytes, the account says {}", self.stored_bytes));
        }
        for node in self.nodes.values() {
            let shards = placed.iter().filter(|copy| copy.0 == node.id).count() as u64;
            if shards != node.shards {
                faults.push(format!(
                    "node {} has {shards} placed shards, the account says {}",
                    node.id.short(),
                    node.shards
                ));
            }
        }
        faults
    }

    /// What the books charge each node is what lies on its disk, beside trash.
    fn check_account(&self, files: &BTreeMap<Copy, u64>) -> Vec<String> {
        let members = self.members();
        let mut faults = Vec::new();
        for node in self.nodes.values().filter(|node| members.contains(&node.id)) {
            let promised = self.reserved.iter().filter(|(copy, _)| !files.contains_key(copy));
            let charged = files.iter().chain(promised).filter(|(copy, _)| copy.0 == node.id);
            let bytes: u64 = charged.map(|(_, bytes)| bytes).sum();
            if bytes != node.assigned_bytes {
                faults.push(format!(
                    "node {} holds {bytes} bytes, the account says {}",
                    node.id.short(),
                    node.assigned_bytes
                ));
            }
        }
        faults
    }
}

/// Every shard file on `members` with its bytes, checked from its first byte to its last.
fn files_of(
    cast: &Cast,
    machines: &Machines,
    members: &BTreeSet<NodeId>,
) -> (BTreeMap<Copy, u64>, Vec<String>) {
    let (mut files, mut faults) = (BTreeMap::new(), Vec::new());
    for (number, disk) in machines.disks.iter().enumerate() {
        let node = cast.identity(&cast::node(number)).node_id();
        if !members.contains(&node) {
            continue;
        }
        let mut held = Held::default();
        for path in disk.paths().iter().filter(|path| path.starts_with("shards/")) {
            let Some((coding, index)) = shard_of(path) else {
                let bytes = disk.open(path).and_then(|file| file.bytes()).unwrap_or_default();
                if !held.add_trash(path, bytes) && !["shards/marker", "shards/index"].contains(&path.as_str())
                {
                    faults.push(format!("{path} on node {number} is neither a shard nor trash"));
                }
                continue;
            };
            match check_file(disk, path, coding, index) {
                Ok(bytes) => {
                    held.stored += bytes;
                    files.insert((node, coding, index), bytes);
                }
                Err(what) => faults.push(format!("{path} on node {number}: {what}")),
            }
        }
        faults.extend(held.check(number, deletion_limits(cast.story)));
    }
    (files, faults)
}

/// What lies on a node's disk. No run takes a day, so that all trash was made within one.
#[derive(Debug, Default)]
struct Held {
    stored: u64,
    damaged: u64,
    deleted: u64,
    unique: u64,
}

impl Held {
    /// Counts `shards/trash/CODING.INDEX.MILLIS.REASON`; says whether it is that.
    fn add_trash(&mut self, path: &str, bytes: u64) -> bool {
        let Some(name) = path.strip_prefix("shards/trash/") else { return false };
        match name.split('.').collect::<Vec<_>>()[..] {
            [_, _, _, "damaged"] => self.damaged += bytes,
            [_, _, _, "surplus" | "replaced"] => self.deleted += bytes,
            [_, _, _, "abandoned"] => {
                self.deleted += bytes;
                self.unique += bytes;
            }
            _ => return false,
        }
        true
    }

    /// No more was deleted than a node deletes within a day.
    fn check(&self, number: usize, limits: DeletionLimits) -> Option<String> {
        let held = self.stored + self.damaged + self.deleted;
        let exceeds =
            |deleted: u64, percent: u64| deleted > limits.floor_bytes && deleted * 100 > held * percent;
        let too_much =
            exceeds(self.deleted, limits.all_percent) || exceeds(self.unique, limits.unique_percent);
        too_much.then(|| format!("node {number} has deleted more than it does within a day: {self:?}"))
    }
}

/// Reads `shards/xx/CODING.INDEX.shard`.
pub(crate) fn shard_of(path: &str) -> Option<(CodingId, ShardIndex)> {
    let name = path.strip_prefix("shards/")?.split_once('/')?.1.strip_suffix(".shard")?;
    let (coding, index) = name.split_once('.')?;
    Some((coding.parse().ok()?, ShardIndex(index.parse().ok()?)))
}

fn check_file(disk: &MemoryDisk, path: &str, coding: CodingId, index: ShardIndex) -> Result<u64, String> {
    let file = disk.open(path).map_err(|error| error.to_string())?;
    let header = verify_file(file.as_ref()).map_err(|error| error.to_string())?;
    if header.coding().coding_id() != coding || header.index() != index {
        return Err("it is another shard than its name says".to_owned());
    }
    file.bytes().map_err(|error| error.to_string())
}
