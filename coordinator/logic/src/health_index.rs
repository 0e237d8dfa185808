//! The health of all bundles, kept up with what befalls bundles and nodes.
//!
//! Owns: which shards of each bundle are durable and online, the counts of `status`, the queue of bundles to be
//! repaired by danger, since when bundles have few shards online, which bundles are to be moved or tidied, and of which
//! more shards lie together than caps allow.
//! Always holds: it equals one made anew from the same catalogue and fleet, but for since when; what befalls one
//! node touches only the bundles of which it holds shards; a change of width or policy touches all.
//! Leaves to others: what is done about it (`repair`, `moves`, `tidying`).

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firn_base::{BundleNumber, Timestamp};
use firn_wire::{BreachCount, BundleHealthCounts, NodeState, Policy, SpareCount};

use crate::caps::{BREACH_MENDED_AFTER, Caps, is_due};
use crate::catalogue::{BundleView, Catalogue};
use crate::fleet::{FleetNode, FleetView};
use crate::health::{HealthClass, Presence, goal, repair_threshold};
use crate::layout::{Flaw, Holder, find_flaws};
use crate::names::NodeNames;
use crate::state::NodeNumber;
use crate::survival::{Survival, SurvivalChart};
use crate::taken::Taken;

/// After so long with few shards online a bundle is repaired though its shards are durable: most nodes that reboot,
/// sleep at night or change their line are back by then.
pub const FEW_ONLINE_FOR: Duration = Duration::from_secs(4 * 3600);

/// The same for a bundle that one more node would make unreadable.
pub const BRINK_ONLINE_FOR: Duration = Duration::from_secs(30 * 60);

// The ladder's largest k: what has it is coded anew no more.
const K_MAX: u8 = 16;

// The widest scheme's n: a wider fleet changes no judgement.
const SHARDS_MAX: usize = 40;

/// The health of all bundles at the last update.
#[derive(Debug, Clone)]
pub struct HealthIndex {
    rules: Option<Rules>,
    chart: SurvivalChart,
    nodes: Vec<Option<NodeTraits>>,
    standings: Vec<Option<Standing>>,
    tally: Tally,
    due: BTreeSet<(Survival, BundleNumber)>,
    /// Bundles with a copy on a draining node.
    leaving: BTreeSet<BundleNumber>,
    /// Bundles of which more shards lie together than caps allow, by when that began.
    breaches: BTreeSet<(Timestamp, BundleNumber)>,
    untidy: BTreeSet<BundleNumber>,
    few_online: BTreeMap<BundleNumber, FewOnline>,
    /// Bundles whose k is not the ladder's largest, by k.
    smaller: BTreeSet<(u8, BundleNumber)>,
}

/// What the judgement of every bundle rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rules {
    width: usize,
    caps: Caps,
    policy: Policy,
}

/// What the judgement of a node's bundles rests on: small, for it is looked up for every copy of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NodeTraits {
    names: NodeNames,
    state: NodeState,
    counted: bool,
    reachable: bool,
}

impl NodeTraits {
    fn of(node: &FleetNode) -> Self {
        let FleetNode { names, state, counted, .. } = *node;
        Self { names, state, counted, reachable: node.is_reachable() }
    }
}

/// How one bundle stands, and what it adds to the tally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    k: u8,
    pub(crate) presence: Presence,
    pub(crate) class: HealthClass,
    pub(crate) survival: Survival,
    spare: u8,
    unreadable: bool,
    /// Shards that repair has to make; none while it waits for more to be lost.
    backlog_shards: u8,
    /// Bytes of shards that are not durable, unless the bundle is lost.
    pub(crate) missing_bytes: u64,
    is_due: bool,
    layout: Layout,
}

/// How the copies of one bundle lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// One has to leave a draining node.
    is_leaving: bool,
    /// More lie together than caps allow, since then.
    together_since: Option<Timestamp>,
    /// Two are of one index, or one is on a node that was removed.
    is_untidy: bool,
}

impl Layout {
    /// Looks at every copy, and compares none with all others: nearly all bundles lie well and tidily. `taken` was begun
    /// for the bundle.
    fn of(bundle: &BundleView, nodes: &[Option<NodeTraits>], taken: &mut Taken) -> Self {
        let lies_twice = bundle.placements.windows(2).any(|copies| copies[0].0 == copies[1].0);
        let mut layout = Self { is_leaving: false, together_since: None, is_untidy: lies_twice };
        let is_on_removed = Cell::new(false);
        let counted = |number| {
            let traits = traits_of(nodes, number)?;
            if !traits.counted {
                // Who was removed does not count.
                let is_removed = matches!(traits.state, NodeState::Lost | NodeState::Gone);
                is_on_removed.set(is_on_removed.get() || is_removed);
                return None;
            }
            Some(Holder { names: &traits.names, state: traits.state })
        };
        find_flaws(&bundle.placements, counted, taken, |_, flaw| match flaw {
            Flaw::Draining => layout.is_leaving = true,
            Flaw::TooMuch { since } => {
                layout.together_since = Some(layout.together_since.map_or(since, |known| known.min(since)));
            }
        });
        layout.is_untidy |= is_on_removed.get();
        layout
    }
}

fn traits_of(nodes: &[Option<NodeTraits>], node: NodeNumber) -> Option<&NodeTraits> {
    nodes.get(node.position())?.as_ref()
}

/// How much of a bundle is judged. The deeper comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Depth {
    /// Everything.
    Whole,
    /// Which shards are online; how its copies lie did not change.
    Presence,
}

/// Since when a bundle has few shards online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FewOnline {
    /// At or below its urgent threshold.
    few: Timestamp,
    /// At k + 1 or less.
    brink: Option<Timestamp>,
}

/// Sums over all bundles.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) counts: BundleHealthCounts,
    pub(crate) backlog_shards: u64,
    pub(crate) missing_bytes: u64,
    spare: BTreeMap<u8, u64>,
}

impl Default for HealthIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl HealthIndex {
    /// An index that has seen nothing: its first update judges every bundle.
    pub fn new() -> Self {
        Self {
            rules: None,
            chart: SurvivalChart::new(),
            nodes: Vec::new(),
            standings: Vec::new(),
            tally: Tally::default(),
            due: BTreeSet::new(),
            leaving: BTreeSet::new(),
            breaches: BTreeSet::new(),
            untidy: BTreeSet::new(),
            few_online: BTreeMap::new(),
            smaller: BTreeSet::new(),
        }
    }

    /// Judges anew what changed since the last update: `changed` bundles (as [`Catalogue::absorb`] gives them), and
    /// those of nodes that are not as they were. Gives how many bundles were judged.
    pub fn update(
        &mut self,
        catalogue: &Catalogue,
        fleet: &FleetView,
        changed: &BTreeSet<BundleNumber>,
        now: Timestamp,
    ) -> usize {
        let (width, caps) = (fleet.width().min(SHARDS_MAX), fleet.caps());
        let rules = Rules { width, caps, policy: catalogue.policy().clone() };
        let turned = self.take_traits(fleet);
        let mut judge = Judge { catalogue, rules: rules.clone(), now, taken: Taken::new(caps, 0) };
        if self.rules.as_ref() != Some(&rules) {
            self.rules = Some(rules);
            let mut judged = 0;
            for bundle in catalogue.bundles() {
                self.judge(&mut judge, bundle, Depth::Whole);
                judged += 1;
            }
            return judged;
        }
        let mut numbers: Vec<(BundleNumber, Depth)> =
            changed.iter().map(|number| (*number, Depth::Whole)).collect();
        for (node, depth) in turned {
            numbers.extend(catalogue.held_by(node).iter().map(|number| (*number, depth)));
        }
        // Of several reasons to look at a bundle the one that looks deepest comes first.
        numbers.sort_unstable();
        numbers.dedup_by_key(|(number, _)| *number);
        for (number, depth) in &numbers {
            if let Some(bundle) = catalogue.bundle(*number) {
                self.judge(&mut judge, bundle, *depth);
            }
        }
        numbers.len()
    }

    /// Bundles to be repaired that can be read, the one in most danger first.
    pub(crate) fn due(&self) -> impl Iterator<Item = BundleNumber> {
        self.due.iter().map(|(_, number)| *number)
    }

    /// Bundles that had few shards online for so long that this is treated like a loss, the one in most danger first.
    pub(crate) fn long_few_online(&self, now: Timestamp) -> Vec<BundleNumber> {
        let mut long: Vec<_> = self
            .few_online
            .iter()
            .filter(|(_, since)| {
                let at_brink = since.brink.is_some_and(|brink| now.since(brink) >= BRINK_ONLINE_FOR);
                at_brink || now.since(since.few) >= FEW_ONLINE_FOR
            })
            .filter_map(|(number, _)| Some((self.standing(*number)?.survival, *number)))
            .collect();
        long.sort_unstable();
        long.into_iter().map(|(_, number)| number).collect()
    }

    /// Bundles of which a shard has to move at `now`: those with one on a draining node in order, then those in breach of
    /// caps for long, the longest first.
    pub(crate) fn misplaced(&self, now: Timestamp) -> impl Iterator<Item = BundleNumber> {
        let long = self.breaches.iter().take_while(move |(since, _)| is_due(*since, now));
        let long = long.map(|(_, number)| *number).filter(|number| !self.leaving.contains(number));
        self.leaving.iter().copied().chain(long)
    }

    /// Bundles of which more shards lie together than caps allow, whether that has lasted or not.
    pub(crate) fn in_breach(&self) -> impl Iterator<Item = BundleNumber> {
        self.breaches.iter().map(|(_, number)| *number)
    }

    /// How many bundles have more shards together than caps allow.
    pub fn breaches(&self, now: Timestamp) -> BreachCount {
        let mut waiting = self.breaches.iter().skip_while(|(since, _)| is_due(*since, now));
        let next_due = waiting.next().map(|(since, _)| since.after(BREACH_MENDED_AFTER));
        let waiting = waiting.count() as u64 + u64::from(next_due.is_some());
        let bundles = self.breaches.len() as u64;
        BreachCount { bundles, due: bundles - waiting, next_due }
    }

    /// Since when more shards of a bundle lie together than caps allow; none where they do not.
    pub fn together_since(&self, number: BundleNumber) -> Option<Timestamp> {
        self.standing(number)?.layout.together_since
    }

    /// Bundles with more than one copy of a shard, or a copy on a node that was removed, in order.
    pub(crate) fn untidy(&self) -> impl Iterator<Item = BundleNumber> {
        self.untidy.iter().copied()
    }

    /// Bundles that have fewer shards than `n` though none of them is missing, in order. Looks at every bundle.
    pub(crate) fn smaller_and_full(&self, n: u8) -> impl Iterator<Item = BundleNumber> {
        let all = (0..).map(BundleNumber).zip(&self.standings);
        all.filter_map(move |(number, standing)| {
            let standing = standing.as_ref()?;
            (standing.class == HealthClass::Full && standing.presence.durable.len() < n).then_some(number)
        })
    }

    /// Bundles of which a shard is not durable, in order. Looks at every bundle.
    pub(crate) fn incomplete(&self) -> impl Iterator<Item = BundleNumber> {
        let all = (0..).map(BundleNumber).zip(&self.standings);
        all.filter_map(|(number, standing)| (standing.as_ref()?.class != HealthClass::Full).then_some(number))
    }

    /// Bundles with a smaller k, the smallest k and the oldest first.
    pub(crate) fn smaller_than(&self, k: u8) -> impl Iterator<Item = BundleNumber> {
        self.smaller.range(..(k, BundleNumber(0))).map(|(_, number)| *number)
    }

    pub(crate) fn standing(&self, number: BundleNumber) -> Option<&Standing> {
        self.standings.get(position(number))?.as_ref()
    }

    pub(crate) const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Bundles by how many more durable shards each may lose, the fewest first; lost ones are not among them.
    pub fn by_spare(&self) -> Vec<SpareCount> {
        let spare = self.tally.spare.iter();
        spare.map(|(spare, bundles)| SpareCount { spare: *spare, bundles: *bundles }).collect()
    }

    /// Takes over how the nodes are; gives those that were otherwise, and how deep their bundles are to be looked at.
    fn take_traits(&mut self, fleet: &FleetView) -> Vec<(NodeNumber, Depth)> {
        let mut changed = Vec::new();
        for node in fleet.nodes() {
            let place = node.number.position();
            if self.nodes.len() <= place {
                self.nodes.resize(place + 1, None);
            }
            let traits = NodeTraits::of(node);
            let before = self.nodes[place].replace(traits);
            if before != Some(traits) {
                let is_only_reachable =
                    |before: NodeTraits| before == NodeTraits { reachable: before.reachable, ..traits };
                let depth =
                    if before.is_some_and(is_only_reachable) { Depth::Presence } else { Depth::Whole };
                changed.push((node.number, depth));
            }
        }
        changed
    }

    fn judge(&mut self, judge: &mut Judge<'_>, bundle: &BundleView, depth: Depth) {
        let number = bundle.number;
        let place = position(number);
        if self.standings.len() <= place {
            self.standings.resize(place + 1, None);
        }
        let layout = match self.standings[place] {
            Some(before) if depth == Depth::Presence => before.layout,
            _ => {
                judge.taken.begin(goal(bundle.scheme, judge.rules.width).n());
                Layout::of(bundle, &self.nodes, &mut judge.taken)
            }
        };
        let presence = Presence::of(bundle, |node| {
            traits_of(&self.nodes, node).map_or((false, false), |traits| (traits.counted, traits.reachable))
        });
        let standing = judge.standing(bundle, presence, layout, &self.chart);
        self.note_few_online(judge, bundle, &standing);
        let k = bundle.scheme.k();
        let before = self.standings[place].replace(standing);
        // A bundle that was coded anew has another k, and so another standing.
        if let Some(before) = before.filter(|before| before.k != k) {
            self.smaller.remove(&(before.k, number));
        }
        if k < K_MAX {
            self.smaller.insert((k, number));
        }
        if before == Some(standing) {
            return;
        }
        if let Some(before) = before {
            self.tally.remove(&before);
            if before.is_due {
                self.due.remove(&(before.survival, number));
            }
            if let Some(since) = before.layout.together_since {
                self.breaches.remove(&(since, number));
            }
        }
        self.tally.add(&standing);
        if standing.is_due {
            self.due.insert((standing.survival, number));
        }
        if let Some(since) = standing.layout.together_since {
            self.breaches.insert((since, number));
        }
        put(&mut self.leaving, number, standing.layout.is_leaving);
        put(&mut self.untidy, number, standing.layout.is_untidy);
    }

    fn note_few_online(&mut self, judge: &Judge<'_>, bundle: &BundleView, standing: &Standing) {
        let (scheme, online) = (bundle.scheme, standing.presence.online.len());
        if online > scheme.urgent_threshold() {
            self.few_online.remove(&bundle.number);
            return;
        }
        let since = self.few_online.entry(bundle.number);
        let since = since.or_insert(FewOnline { few: judge.now, brink: None });
        since.brink = (online <= scheme.k().saturating_add(1)).then(|| since.brink.unwrap_or(judge.now));
    }
}

/// What bundles are judged by.
struct Judge<'a> {
    catalogue: &'a Catalogue,
    rules: Rules,
    now: Timestamp,
    taken: Taken,
}

impl Judge<'_> {
    fn standing(
        &self,
        bundle: &BundleView,
        presence: Presence,
        layout: Layout,
        chart: &SurvivalChart,
    ) -> Standing {
        let scheme = bundle.scheme;
        let goal = goal(scheme, self.rules.width);
        let class = presence.class(scheme);
        let (durable, online) = (presence.durable.len(), presence.online.len());
        let wanted = presence.durable.lacks_below(goal.n());
        let awaits_repair = wanted > 0 && durable <= repair_threshold(goal, &self.rules.policy);
        let missing =
            if class == HealthClass::Lost { 0 } else { u64::from(presence.durable.lacks_below(scheme.n())) };
        let unreadable = online < scheme.k();
        let dependents = self.catalogue.dependents_of(bundle);
        Standing {
            k: scheme.k(),
            presence,
            class,
            survival: chart.survival(scheme.k(), online, durable.saturating_sub(online), dependents),
            spare: durable.saturating_sub(scheme.k()),
            unreadable,
            backlog_shards: if awaits_repair { wanted } else { 0 },
            missing_bytes: bundle.file_bytes.saturating_mul(missing),
            is_due: awaits_repair && !unreadable,
            layout,
        }
    }
}

impl Tally {
    fn add(&mut self, standing: &Standing) {
        *self.of_class(standing.class) += 1;
        self.counts.unreadable += u64::from(standing.unreadable);
        self.backlog_shards += u64::from(standing.backlog_shards);
        self.missing_bytes = self.missing_bytes.saturating_add(standing.missing_bytes);
        if standing.class != HealthClass::Lost {
            *self.spare.entry(standing.spare).or_default() += 1;
        }
    }

    fn remove(&mut self, standing: &Standing) {
        *self.of_class(standing.class) -= 1;
        self.counts.unreadable -= u64::from(standing.unreadable);
        self.backlog_shards -= u64::from(standing.backlog_shards);
        self.missing_bytes = self.missing_bytes.saturating_sub(standing.missing_bytes);
        if standing.class != HealthClass::Lost
            && let Some(bundles) = self.spare.get_mut(&standing.spare)
        {
            *bundles -= 1;
            if *bundles == 0 {
                self.spare.remove(&standing.spare);
            }
        }
    }

    const fn of_class(&mut self, class: HealthClass) -> &mut u64 {
        match class {
            HealthClass::Full => &mut self.counts.full,
            HealthClass::Degraded => &mut self.counts.degraded,
            HealthClass::Urgent => &mut self.counts.urgent,
            HealthClass::Lost => &mut self.counts.lost,
        }
    }
}

fn put(set: &mut BTreeSet<BundleNumber>, number: BundleNumber, belongs: bool) {
    if belongs {
        set.insert(number);
    } else {
        set.remove(&number);
    }
}

fn position(number: BundleNumber) -> usize {
    usize::try_from(number.0).expect("bundle numbers have 32 bits, and so has usize at least")
}
