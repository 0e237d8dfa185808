//! The health of all bundles, kept up with what befalls bundles and nodes.
//!
//! Owns: which shards of each bundle are durable and online, the counts of `status`, the queue of bundles to be
//! repaired by danger, since when bundles have few shards online, which bundles are to be moved or tidied, and of which
//! more shards lie together than caps allow.
//! Always holds: it equals one made anew from the same catalogue and fleet, but for since when; what befalls one
//! node touches only the bundles of which it holds shards; a change of width or policy touches all.
//! Leaves to others: what is done about it (`repair`, `moves`, `tidying`).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::Duration;

use firn_base::{BundleNumber, Timestamp};
use firn_wire::{BreachCount, BundleHealthCounts, SpareCount};

use crate::bundle_set::BundleSet;
use crate::caps::{BREACH_MENDED_AFTER, is_due};
use crate::catalogue::{BundleView, Catalogue};
use crate::fleet::FleetView;
use crate::health::{HealthClass, Presence, goal};
use crate::kin::SharedWithKin;
use crate::node_roles::{NodeRole, Nodes, Turn};
use crate::spare_homes::HomesWanted;
use crate::standing::{Coded, Layout, Look, Rules, Standing};
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

// Bundles whose records are read ahead.
const BATCH: usize = 64;

// The widest scheme's n: a wider fleet changes no judgement.
const SHARDS_MAX: usize = 40;

/// The health of all bundles at the last update.
#[derive(Debug, Clone)]
pub struct HealthIndex {
    rules: Option<Rules>,
    chart: SurvivalChart,
    nodes: Nodes,
    standings: Vec<Option<Standing>>,
    tally: Tally,
    due: BTreeSet<(Survival, BundleNumber)>,
    /// Bundles with a copy on a draining node.
    leaving: BundleSet,
    /// Bundles of which more shards lie together than caps allow, by when that began.
    breaches: BTreeSet<(Timestamp, BundleNumber)>,
    untidy: BundleSet,
    /// Bundles that may need homes, because shards are missing or too many lie together, by what they want.
    wanting: BTreeMap<HomesWanted, BundleSet>,
    few_online: BTreeMap<BundleNumber, FewOnline>,
    /// Bundles whose k is not the ladder's largest, by k.
    smaller: BTreeSet<(u8, BundleNumber)>,
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
            nodes: Nodes::default(),
            standings: Vec::new(),
            tally: Tally::default(),
            due: BTreeSet::new(),
            leaving: BundleSet::default(),
            breaches: BTreeSet::new(),
            untidy: BundleSet::default(),
            wanting: BTreeMap::new(),
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
        changed
            .iter()
            .filter(|number| catalogue.bundle(**number).is_none())
            .for_each(|gone| self.forget(*gone));
        let turned = fleet.nodes().filter_map(|node| Some((node.number, self.nodes.put(node)?)));
        let turned: Vec<(NodeNumber, Turn)> = turned.collect();
        let mut judge = Judge { catalogue, rules: rules.clone(), now, taken: Taken::new(caps, 0) };
        if self.rules.as_ref() != Some(&rules) {
            self.rules = Some(rules);
            let mut judged = 0;
            for bundle in catalogue.bundles() {
                self.judge(&mut judge, bundle);
                judged += 1;
            }
            return judged;
        }
        let mut looks: Vec<(BundleNumber, Look)> =
            changed.iter().map(|number| (*number, Look::Whole)).collect();
        for (node, turn) in turned {
            let kin = turn.is_newcomer.then(|| SharedWithKin::of(node, &self.nodes, catalogue, caps));
            let look = |(number, index): &(BundleNumber, _)| {
                let is_near = kin.as_ref().is_some_and(|shared| shared.contains(*number));
                (*number, if is_near { Look::Whole } else { Look::Copy(*index, turn) })
            };
            looks.extend(catalogue.held_by(node).iter().map(look));
        }
        looks.sort_unstable();
        let mut judged = 0;
        let mut by_bundle = looks.chunk_by(|one, next| one.0 == next.0).peekable();
        let mut batch = Vec::with_capacity(BATCH);
        while by_bundle.peek().is_some() {
            batch.clear();
            batch.extend(by_bundle.by_ref().take(BATCH));
            self.bring_near(&batch, catalogue);
            for looks in batch.drain(..) {
                self.follow(&mut judge, looks);
                judged += 1;
            }
        }
        judged
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
        let long = long.map(|(_, number)| *number).filter(|number| !self.leaving.contains(*number));
        self.leaving.iter().chain(long)
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
        self.untidy.iter()
    }

    /// Bundles that may need homes for shards, by what they want.
    pub(crate) fn wanting(&self) -> impl Iterator<Item = (HomesWanted, &BundleSet)> {
        self.wanting.iter().map(|(wanted, bundles)| (*wanted, bundles))
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

    /// Reads what judging these bundles will read, so that memory is waited for once for all of them and not for one after
    /// the other: that is what an event's time goes for.
    fn bring_near(&self, batch: &[&[(BundleNumber, Look)]], catalogue: &Catalogue) {
        let standings = batch.iter().filter_map(|looks| self.standing(looks[0].0));
        black_box(standings.map(Standing::missing_bytes).fold(0, u64::wrapping_add));
        let whole = batch.iter().filter(|looks| looks.iter().any(|(_, look)| *look == Look::Whole));
        let records = whole.filter_map(|looks| catalogue.bundle(looks[0].0));
        // One copy of each line of the cache.
        let copies = records.flat_map(|bundle| bundle.placements.iter().step_by(8));
        black_box(copies.map(|(_, node)| node.position()).fold(0, usize::wrapping_add));
    }

    /// Judges a bundle by what befell some of its copies, where that is enough, and else by all of them.
    fn follow(&mut self, judge: &mut Judge<'_>, looks: &[(BundleNumber, Look)]) {
        let number = looks[0].0;
        let before = self.standing(number);
        let turned = before.and_then(|before| Some((before.coded, before.turned(looks, &judge.rules)?)));
        if let Some((coded, (presence, layout))) = turned {
            let standing = Standing::of(coded, presence, layout, (&judge.rules, &self.chart));
            self.put(number, standing, judge.now);
        } else if let Some(bundle) = judge.catalogue.bundle(number) {
            self.judge(judge, bundle);
        }
    }

    /// Looks at all copies of a bundle.
    fn judge(&mut self, judge: &mut Judge<'_>, bundle: &BundleView) {
        judge.taken.begin(goal(bundle.scheme, judge.rules.width).n());
        let layout = Layout::of(&bundle.placements, &self.nodes, &mut judge.taken);
        let presence = Presence::of(bundle, |node| {
            let NodeRole { counts, is_reachable, .. } = self.nodes.role(node);
            (counts, is_reachable)
        });
        let coded = Coded::of(bundle, judge.catalogue);
        let standing = Standing::of(coded, presence, layout, (&judge.rules, &self.chart));
        self.put(bundle.number, standing, judge.now);
    }

    /// A bundle stands so at `now`.
    fn put(&mut self, number: BundleNumber, standing: Standing, now: Timestamp) {
        let place = position(number);
        if self.standings.len() <= place {
            self.standings.resize(place + 1, None);
        }
        self.note_few_online(number, &standing, now);
        let before = self.standings[place].replace(standing);
        if before == Some(standing) {
            return;
        }
        if let Some(before) = before {
            self.withdraw(number, &before);
            // A bundle that was coded anew has another k.
            if before.k() < K_MAX && before.k() != standing.k() {
                self.smaller.remove(&(before.k(), number));
            }
        }
        self.tally.add(&standing);
        if standing.is_due {
            self.due.insert((standing.survival, number));
        }
        if let Some(since) = standing.layout.together_since {
            self.breaches.insert((since, number));
        }
        if standing.k() < K_MAX {
            self.smaller.insert((standing.k(), number));
        }
        self.leaving.put(number, standing.layout.is_leaving());
        self.untidy.put(number, standing.layout.is_untidy());
        self.put_wanting(number, before.and_then(|before| before.homes_wanted), standing.homes_wanted);
    }

    /// Forgets a bundle that was erased.
    fn forget(&mut self, number: BundleNumber) {
        let Some(before) = self.standings.get_mut(position(number)).and_then(Option::take) else { return };
        self.withdraw(number, &before);
        self.smaller.remove(&(before.k(), number));
        self.put_wanting(number, before.homes_wanted, None);
        self.leaving.put(number, false);
        self.untidy.put(number, false);
        self.few_online.remove(&number);
    }

    /// Takes a standing out of the sums and queues that depend on its values.
    fn withdraw(&mut self, number: BundleNumber, before: &Standing) {
        self.tally.remove(before);
        if before.is_due {
            self.due.remove(&(before.survival, number));
        }
        if let Some(since) = before.layout.together_since {
            self.breaches.remove(&(since, number));
        }
    }

    fn put_wanting(&mut self, number: BundleNumber, before: Option<HomesWanted>, after: Option<HomesWanted>) {
        if before == after {
            return;
        }
        if let Some(wanted) = before
            && let Entry::Occupied(mut bundles) = self.wanting.entry(wanted)
        {
            bundles.get_mut().put(number, false);
            if bundles.get().is_empty() {
                bundles.remove();
            }
        }
        if let Some(wanted) = after {
            self.wanting.entry(wanted).or_default().put(number, true);
        }
    }

    fn note_few_online(&mut self, number: BundleNumber, standing: &Standing, now: Timestamp) {
        let (scheme, online) = (standing.coded.scheme, standing.presence.online.len());
        if online > scheme.urgent_threshold() {
            self.few_online.remove(&number);
            return;
        }
        let since = self.few_online.entry(number).or_insert(FewOnline { few: now, brink: None });
        since.brink = (online <= scheme.k().saturating_add(1)).then(|| since.brink.unwrap_or(now));
    }
}

/// What bundles are judged by.
struct Judge<'a> {
    catalogue: &'a Catalogue,
    rules: Rules,
    now: Timestamp,
    taken: Taken,
}

impl Tally {
    fn add(&mut self, standing: &Standing) {
        *self.of_class(standing.class) += 1;
        self.counts.unreadable += u64::from(standing.unreadable);
        self.backlog_shards += u64::from(standing.backlog_shards);
        self.missing_bytes = self.missing_bytes.saturating_add(standing.missing_bytes());
        if standing.class != HealthClass::Lost {
            *self.spare.entry(standing.spare()).or_default() += 1;
        }
    }

    fn remove(&mut self, standing: &Standing) {
        *self.of_class(standing.class) -= 1;
        self.counts.unreadable -= u64::from(standing.unreadable);
        self.backlog_shards -= u64::from(standing.backlog_shards);
        self.missing_bytes = self.missing_bytes.saturating_sub(standing.missing_bytes());
        if standing.class != HealthClass::Lost
            && let Some(bundles) = self.spare.get_mut(&standing.spare())
        {
            *bundles -= 1;
            if *bundles == 0 {
                self.spare.remove(&standing.spare());
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

fn position(number: BundleNumber) -> usize {
    usize::try_from(number.0).expect("bundle numbers have 32 bits, and so has usize at least")
}
