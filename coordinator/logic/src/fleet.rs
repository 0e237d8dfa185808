//! The fleet at one moment, as planners see it.
//!
//! Owns: for each node whether it is online, proved, counted and how much room it has; the width.
//! Always holds: one view is one moment: committed records, soft state and time meet here and nowhere else.
//! Leaves to others: choosing (`placement`), judging bundles (`health`).

use std::collections::BTreeMap;
use std::time::Duration;

use firn_base::{Availability, BitRate, NodeId, Timestamp};
use firn_wire::{Cap, DeletionRoom, NodeRest, NodeState};

use crate::brake::VANISHED_WINDOW;
use crate::caps::Caps;
use crate::catalogue::Catalogue;
use crate::fleet_watch::FleetWatch;
use crate::fleet_width::FleetWidth;
use crate::names::NodeNames;
use crate::orders::Orders;
use crate::state::NodeNumber;
use crate::taken::Taken;

/// One node at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetNode {
    /// Its number.
    pub number: NodeNumber,
    /// Its identity.
    pub id: NodeId,
    /// Where it is in its life.
    pub state: NodeState,
    /// Heard within the last seconds.
    pub online: bool,
    /// Its inventory was compared and sampled in this run.
    pub proved: bool,
    /// When the inventory was asked for that showed this; none while it is not proved.
    pub inventory_since: Option<Timestamp>,
    /// Its shards are durable: it is of the archive and not offline for longer than the policy allows.
    pub counted: bool,
    /// When it was last heard at the latest.
    pub last_seen: Timestamp,
    /// How much of the time it is there.
    pub availability: Availability,
    /// How fast it uploads at most, by its own word; none if it names no bound.
    pub max_upload: Option<BitRate>,
    /// Why it takes and builds nothing now, by its own word; what it holds is durable all the same.
    pub rest: Option<NodeRest>,
    /// Until when it may be away, if its owner has declared that: it is given nothing, and lost only after that.
    pub absent_until: Option<Timestamp>,
    /// When it counts as lost if it is not heard any more.
    pub lost_at: Timestamp,
    /// Its quota.
    pub quota_bytes: u64,
    /// Bytes that may still be put on it: of its quota, less what is assigned or on its way and the trash that makes no
    /// room yet, and no more than it says itself; nothing while it rests or may be away. Nor is it more than goes over its line
    /// this month: see `month_left_bytes`.
    pub free_bytes: u64,
    /// The same once the trash that it has now makes room.
    pub free_within_a_day_bytes: u64,
    /// What goes over its line this month, by what it said last, less what was assigned to it since and what is on its way for
    /// builds; no bound is the most. What was reserved before that and comes after it is not counted: once all is used up the
    /// node rests.
    pub month_left_bytes: u64,
    /// What it would still delete, by its own word.
    pub deletion_room: DeletionRoom,
    /// Entries of the ledger of whose erased bundles nothing is left on it, by its own word.
    pub erased_through: u64,
    pub(crate) names: NodeNames,
}

impl FleetNode {
    /// Its shards count as online: whoever wants to can read them.
    pub fn is_reachable(&self) -> bool {
        self.online && self.proved && self.rest.is_none_or(serves_readers)
    }

    /// It takes and builds nothing now, or may be away at any moment.
    pub const fn rests(&self) -> bool {
        self.rest.is_some() || self.absent_until.is_some()
    }
}

/// All nodes at one moment, by number.
#[derive(Debug, Clone)]
pub struct FleetView {
    caps: Caps,
    width: FleetWidth,
    count_lost_after: Duration,
    nodes: Vec<Option<FleetNode>>,
}

impl FleetView {
    /// The fleet at `now`.
    pub fn new(catalogue: &Catalogue, watch: &FleetWatch, orders: &Orders, now: Timestamp) -> Self {
        let policy = catalogue.policy();
        let count_lost_after = Duration::from_millis(policy.count_lost_after_millis);
        let coming = orders.bytes_coming();
        let mut view = Self {
            caps: Caps::of_fleet(policy, std::iter::empty()),
            width: FleetWidth::default(),
            count_lost_after,
            nodes: Vec::new(),
        };
        for (record, names) in catalogue.named_nodes() {
            let number = record.number;
            let seen = watch.sighting(record, now);
            let last_seen = seen.last_seen;
            let online = record.is_member() && seen.online;
            let counted =
                (record.is_member() && online) || record.counts_at(last_seen, count_lost_after, now);
            let absent_until = record.absence.in_force(now);
            let status = seen.status;
            // Its files take more than the books say, so near its quota only its word binds; and that is some seconds old.
            let own_word = status.map_or(u64::MAX, |status| {
                status.quota.0.saturating_sub(status.used.0).saturating_sub(seen.assigned_since)
            });
            let on_its_way = coming.get(&number).copied().unwrap_or_default();
            let month_left = watch.month_left_bytes(record, now);
            let month_left_bytes = month_left.map_or(u64::MAX, |left| left.saturating_sub(on_its_way));
            let rest = status.and_then(|status| status.rest);
            let young_trash = status.map_or(0, |status| status.young_trash.0);
            let assignable = record.free_bytes().saturating_sub(on_its_way);
            view.insert(FleetNode {
                number,
                id: record.id,
                state: record.state,
                online,
                proved: online && seen.inventory_since.is_some(),
                inventory_since: seen.inventory_since.filter(|_| online),
                counted,
                last_seen,
                availability: record.availability,
                max_upload: status.and_then(|status| status.max_upload),
                rest,
                absent_until,
                lost_at: last_seen.after(count_lost_after).max(record.absence.until),
                quota_bytes: record.quota_bytes,
                // Both: what is assigned may not have come yet, and trash is in no assignment.
                free_bytes: if rest.is_some() || absent_until.is_some() {
                    0
                } else {
                    own_word.min(assignable.saturating_sub(young_trash)).min(month_left_bytes)
                },
                free_within_a_day_bytes: own_word.saturating_add(young_trash).min(assignable),
                month_left_bytes,
                deletion_room: status.map_or_else(DeletionRoom::default, |status| status.deletion_room),
                erased_through: status.map_or(0, |status| status.erased_through),
                names,
            });
        }
        view.caps = Caps::of_fleet(policy, view.nodes().filter(|node| node.counted).map(|node| node.names));
        view.width = FleetWidth::measure(&view);
        view
    }

    fn insert(&mut self, node: FleetNode) {
        let position = node.number.position();
        if self.nodes.len() <= position {
            self.nodes.resize(position + 1, None);
        }
        self.nodes[position] = Some(node);
    }

    /// A node by number.
    pub fn node(&self, number: NodeNumber) -> Option<&FleetNode> {
        self.nodes.get(number.position())?.as_ref()
    }

    /// All nodes, in order of their numbers.
    pub fn nodes(&self) -> impl Iterator<Item = &FleetNode> {
        self.nodes.iter().flatten()
    }

    /// The caps in force.
    pub(crate) const fn caps(&self) -> Caps {
        self.caps
    }

    /// Nodes that may be given shards, whether online and with room or not: those first that have least in common with
    /// others. Whoever takes them in this order finds about as many homes as caps leave.
    pub(crate) fn eligible(&self) -> impl Iterator<Item = &FleetNode> {
        self.width.order().iter().filter_map(|number| self.node(*number))
    }

    /// How many nodes may be given shards.
    pub(crate) fn count_eligible(&self) -> usize {
        self.width.order().len()
    }

    /// See [`FleetWidth::too_narrow`].
    pub(crate) fn too_narrow(&self, count: usize, taken: &Taken) -> Option<Cap> {
        self.width.too_narrow(count, taken)
    }

    /// The nodes that count, those that can vanish together in one group: directly, or by way of others where in a
    /// `public` archive operator, address prefix and domain join them. A network or country vanishes, too, but comes
    /// back: nobody keeps room for it.
    pub fn domains(&self) -> Vec<Vec<&FleetNode>> {
        let counted = || self.nodes().filter(|node| node.counted);
        let mut joined: BTreeMap<u32, u32> = BTreeMap::new();
        if self.caps.is_public() {
            let (mut of_operator, mut of_prefix) = (BTreeMap::new(), BTreeMap::new());
            for FleetNode { names, .. } in counted() {
                let mut firsts = vec![*of_operator.entry(names.operator).or_insert(names.domain)];
                if !self.caps.is_vouched(*names) {
                    firsts.push(*of_prefix.entry(names.prefix).or_insert(names.domain));
                }
                for first in firsts {
                    let (one, other) = (least_joined(&joined, first), least_joined(&joined, names.domain));
                    if one != other {
                        joined.insert(one.max(other), one.min(other));
                    }
                }
            }
        }
        let mut groups: BTreeMap<u32, Vec<&FleetNode>> = BTreeMap::new();
        for node in counted() {
            groups.entry(least_joined(&joined, node.names.domain)).or_default().push(node);
        }
        groups.into_values().collect()
    }

    /// How many shards of one bundle the domain caps allow on active nodes, whether online or not.
    ///
    /// In a `public` archive, where several things cap, this may be less than the best assignment would reach; never
    /// more.
    pub const fn width(&self) -> usize {
        self.width.shards()
    }

    /// Nodes that are away: when each vanished, and when it began to count as lost, with its quota. For
    /// [`crate::brake()`]. Where both lie within one event, the node vanished once. Who said beforehand that it would be away has
    /// not vanished.
    pub fn departures(&self, now: Timestamp) -> Vec<(Timestamp, u64)> {
        let mut departures = Vec::new();
        for node in self.nodes().filter(|node| is_member(node.state) && !node.online) {
            if node.absent_until.is_some() {
                continue;
            }
            departures.push((node.last_seen, node.quota_bytes));
            if node.lost_at <= now && self.count_lost_after >= VANISHED_WINDOW {
                departures.push((node.lost_at, node.quota_bytes));
            }
        }
        departures
    }

    /// Members of the archive that are expected to be there or are, those of them that are online, and the quotas of all members
    /// together. Who said beforehand that it would be away is not expected.
    pub fn members(&self) -> (u64, u64, u64) {
        let mut sums = (0, 0, 0_u64);
        for node in self.nodes().filter(|node| is_member(node.state)) {
            sums.0 += u64::from(node.online || node.absent_until.is_none());
            sums.1 += u64::from(node.online);
            sums.2 = sums.2.saturating_add(node.quota_bytes);
        }
        sums
    }

    /// Notes that `bytes` of a node's room are promised, for the rest of a planning pass.
    pub(crate) fn promise(&mut self, number: NodeNumber, bytes: u64) {
        if let Some(Some(node)) = self.nodes.get_mut(number.position()) {
            node.free_bytes = node.free_bytes.saturating_sub(bytes);
            node.free_within_a_day_bytes = node.free_within_a_day_bytes.saturating_sub(bytes);
        }
    }
}

/// Whether a node that rests so answers readers: one that is paused, or whose traffic is used up, is away for them.
pub(crate) fn serves_readers(rest: NodeRest) -> bool {
    rest == NodeRest::OutsideHours
}

/// Whether a node may be given shards at all.
pub(crate) fn is_eligible(node: &FleetNode) -> bool {
    node.state == NodeState::Active && node.counted
}

const fn is_member(state: NodeState) -> bool {
    matches!(state, NodeState::Active | NodeState::Suspended | NodeState::Draining)
}

/// The domain that stands for all that are joined with this one.
fn least_joined(joined: &BTreeMap<u32, u32>, mut domain: u32) -> u32 {
    while let Some(smaller) = joined.get(&domain) {
        domain = *smaller;
    }
    domain
}
