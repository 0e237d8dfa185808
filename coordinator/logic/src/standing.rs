//! How one bundle stands, and how nodes' roles change that.
//!
//! Owns: which of its shards are durable and online, how its copies lie, what it wants of repair. Always holds: what is
//! judged by what befell single copies equals what looking at the whole bundle gives.
//! Leaves to others: sums and queues over all bundles (`health_index`), counting shards (`health`), which copies lie
//! wrong (`layout`).

use std::fmt;

use firn_base::{BundleNumber, Scheme, ShardIndex, Timestamp};
use firn_wire::Policy;

use crate::caps::Caps;
use crate::catalogue::{BundleView, Catalogue};
use crate::health::{HealthClass, Presence, goal, repair_threshold};
use crate::layout::{Flaw, Holder, find_flaws};
use crate::node_roles::{NodeRole, Nodes, Turn};
use crate::spare_homes::HomesWanted;
use crate::state::NodeNumber;
use crate::survival::{Survival, SurvivalChart};
use crate::taken::Taken;

/// With fewer shards than these, one node or two that vanish take a bundle with them.
pub(crate) const COPIES_LEAST: u8 = 3;

/// What the judgement of every bundle rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) width: usize,
    pub(crate) caps: Caps,
    pub(crate) policy: Policy,
}

/// Why a bundle is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Look {
    /// Its record changed, or one of its copies may lie too close to another now.
    Whole,
    /// Something befell the node that holds this shard.
    Copy(ShardIndex, Turn),
}

/// How one bundle stands, and what it adds to the tally.
///
/// With what of the bundle's record that follows from, so that what befalls one copy is judged without looking at the
/// record and at the other copies: those lie elsewhere in memory, and a node's event touches thousands of bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) coded: Coded,
    pub(crate) presence: Presence,
    pub(crate) class: HealthClass,
    pub(crate) survival: Survival,
    pub(crate) unreadable: bool,
    /// Shards that repair has to make; none while it waits for more to be lost.
    pub(crate) backlog_shards: u8,
    pub(crate) is_due: bool,
    /// None if it needs no homes.
    pub(crate) homes_wanted: Option<HomesWanted>,
    pub(crate) layout: Layout,
}

/// What a bundle's judgement takes from its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coded {
    pub(crate) scheme: Scheme,
    file_bytes: u64,
    copies: u16,
    dependents: u32,
}

impl Coded {
    pub(crate) fn of(bundle: &BundleView, catalogue: &Catalogue) -> Self {
        let BundleView { scheme, file_bytes, .. } = *bundle;
        let copies = count(bundle.placements.iter());
        let dependents = u32::try_from(catalogue.dependents_of(bundle).len()).unwrap_or(u32::MAX);
        Self { scheme, file_bytes, copies, dependents }
    }
}

impl Standing {
    pub(crate) fn of(
        coded: Coded,
        presence: Presence,
        layout: Layout,
        (rules, chart): (&Rules, &SurvivalChart),
    ) -> Self {
        let scheme = coded.scheme;
        let goal = goal(scheme, rules.width);
        let (durable, online) = (presence.durable.len(), presence.online.len());
        let wanted = presence.durable.lacks_below(goal.n());
        let awaits_repair = wanted > 0 && durable <= repair_threshold(goal, &rules.policy);
        let unreadable = online < scheme.k();
        let away = durable.saturating_sub(online);
        // Of what lies together it is not counted how much may not.
        let crowded = layout.together_since.map_or(0, |_| coded.copies);
        let missing = presence.durable.lacks_below(scheme.n().max(COPIES_LEAST));
        let homeless = crowded.saturating_add(missing.into());
        Self {
            coded,
            presence,
            class: presence.class(scheme),
            survival: chart.survival(scheme.k(), online, away, coded.dependents),
            unreadable,
            backlog_shards: if awaits_repair { wanted } else { 0 },
            is_due: awaits_repair && !unreadable,
            homes_wanted: (homeless > 0).then_some(HomesWanted {
                n: goal.n(),
                holders: coded.copies,
                homeless,
            }),
            layout,
        }
    }

    pub(crate) const fn k(&self) -> u8 {
        self.coded.scheme.k()
    }

    /// How many more durable shards may be lost.
    pub(crate) fn spare(&self) -> u8 {
        self.presence.durable.len().saturating_sub(self.k())
    }

    /// Bytes of shards that are not durable; none if the bundle is lost.
    pub(crate) fn missing_bytes(&self) -> u64 {
        let missing = self.presence.durable.lacks_below(self.coded.scheme.n());
        if self.class == HealthClass::Lost { 0 } else { self.coded.file_bytes.saturating_mul(missing.into()) }
    }

    /// How its copies stand and lie after what befell some of their nodes. None where that takes a look at all of them.
    pub(crate) fn turned(&self, looks: &[(BundleNumber, Look)], rules: &Rules) -> Option<(Presence, Layout)> {
        if self.layout.lies_twice || self.layout.together_since.is_some() {
            return None;
        }
        let (mut presence, mut layout) = (self.presence, self.layout);
        for (_, look) in looks {
            let Look::Copy(index, Turn { before, role, has_moved, .. }) = *look else { return None };
            presence.durable.put(index, role.counts);
            presence.online.put(index, role.counts && role.is_reachable);
            let turn =
                |copies: u16, was, is| copies.saturating_add(u16::from(is)).saturating_sub(u16::from(was));
            layout.leaving = turn(layout.leaving, before.leaves(), role.leaves());
            layout.removed = turn(layout.removed, before.is_removed, role.is_removed);
            let AtMost(in_country) = layout.in_country;
            layout.in_country = AtMost(in_country.saturating_add(u8::from(has_moved)));
        }
        let most = rules.caps.most_in_country(goal(self.coded.scheme, rules.width).n());
        most.is_none_or(|most| layout.in_country.0 <= most).then_some((presence, layout))
    }
}

/// How the copies of one bundle lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// So many have to leave draining nodes.
    leaving: u16,
    /// So many are on nodes that were removed.
    removed: u16,
    /// Two are of one index.
    lies_twice: bool,
    /// More lie together than caps allow, since then.
    pub(crate) together_since: Option<Timestamp>,
    /// So many of all copies, those that do not count too, lie in one country.
    in_country: AtMost,
}

/// A bound that was exact when all copies were looked at last, and grew with every one whose node moved since.
///
/// When it says that too many may lie in a country, all copies are looked at, and it is exact again. Nothing else follows
/// from it, so it is no part of how a bundle stands.
#[derive(Clone, Copy, PartialEq, Eq)]
struct AtMost(u8);

impl fmt::Debug for AtMost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not shown")
    }
}

impl Layout {
    /// Looks at every copy. `taken` was begun for the bundle.
    pub(crate) fn of(copies: &[(ShardIndex, NodeNumber)], nodes: &Nodes, taken: &mut Taken) -> Self {
        let mut layout = Self {
            leaving: 0,
            removed: 0,
            lies_twice: copies.windows(2).any(|copies| copies[0].0 == copies[1].0),
            together_since: None,
            in_country: AtMost(0),
        };
        layout.removed = count(copies.iter().filter(|(_, node)| nodes.role(*node).is_removed));
        let counted = |number| {
            let NodeRole { counts, is_draining, .. } = nodes.role(number);
            let names = nodes.names(number).filter(|_| counts)?;
            Some(Holder { names, is_draining })
        };
        find_flaws(copies, counted, taken, |_, flaw| match flaw {
            Flaw::Draining => layout.leaving = layout.leaving.saturating_add(1),
            Flaw::TooMuch { since } => {
                layout.together_since = Some(layout.together_since.map_or(since, |known| known.min(since)));
            }
        });
        let all = copies.iter().filter_map(|(_, node)| nodes.names(*node));
        layout.in_country = AtMost(taken.most_in_country(all));
        layout
    }

    /// One has to leave a draining node.
    pub(crate) const fn is_leaving(&self) -> bool {
        self.leaving > 0
    }

    /// Two are of one index, or one is on a node that was removed.
    pub(crate) const fn is_untidy(&self) -> bool {
        self.lies_twice || self.removed > 0
    }
}

fn count<T>(copies: impl Iterator<Item = T>) -> u16 {
    u16::try_from(copies.count()).unwrap_or(u16::MAX)
}
