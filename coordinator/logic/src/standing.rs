//! How one bundle stands, and how nodes' roles change that.
//!
//! Owns: which of its shards are durable and online, how its copies lie, what it wants of repair. Always holds: what is
//! judged by what befell single copies equals what looking at the whole bundle gives.
//! Leaves to others: sums and queues over all bundles (`health_index`), counting shards (`health`), which copies lie
//! wrong (`layout`).

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
    /// Its record changed.
    Record,
    /// Something befell the node that holds this shard.
    Copy(ShardIndex, NodeNumber, Turn),
}

impl Look {
    /// Whether the bundle's record is looked at in any case.
    pub(crate) const fn is_deep(self) -> bool {
        !matches!(self, Self::Copy(_, _, Turn { is_newcomer: false, .. }))
    }
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
        let copies = u16::try_from(bundle.placements.len()).unwrap_or(u16::MAX);
        Self { scheme, file_bytes, copies, dependents: catalogue.dependents_of(bundle) }
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
    pub(crate) fn turned(&self, looks: &[(BundleNumber, Look)]) -> Option<(Presence, Layout)> {
        if self.layout != Layout::WELL {
            return None;
        }
        let (mut presence, mut layout) = (self.presence, self.layout);
        for (_, look) in looks {
            let Look::Copy(index, _, Turn { role, is_newcomer: false }) = *look else { return None };
            presence.durable.put(index, role.counts);
            presence.online.put(index, role.counts && role.is_reachable);
            layout.is_leaving |= role.counts && role.is_draining;
            layout.is_untidy |= role.is_removed;
        }
        Some((presence, layout))
    }

    /// Nodes that may lie too close to others now. None where any may, or some did before.
    pub(crate) fn newcomers(&self, looks: &[(BundleNumber, Look)]) -> Option<Vec<NodeNumber>> {
        if self.layout.together_since.is_some() {
            return None;
        }
        let mut newcomers = Vec::new();
        for (_, look) in looks {
            match look {
                Look::Record => return None,
                Look::Copy(_, node, turn) if turn.is_newcomer => newcomers.push(*node),
                Look::Copy(..) => {}
            }
        }
        Some(newcomers)
    }
}

/// How the copies of one bundle lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// One has to leave a draining node.
    pub(crate) is_leaving: bool,
    /// More lie together than caps allow, since then.
    pub(crate) together_since: Option<Timestamp>,
    /// Two are of one index, or one is on a node that was removed.
    pub(crate) is_untidy: bool,
}

impl Layout {
    /// Each where it should be.
    const WELL: Self = Self { is_leaving: false, together_since: None, is_untidy: false };

    /// Looks at every copy, and compares none with all others: nearly all bundles lie well and tidily. `taken` was begun
    /// for the bundle; only the `newcomers` may lie too close to others, if they are known.
    pub(crate) fn of(
        bundle: &BundleView,
        nodes: &Nodes,
        taken: &mut Taken,
        newcomers: Option<&[NodeNumber]>,
    ) -> Self {
        let copies = &bundle.placements;
        let roles = || copies.iter().map(|(_, node)| nodes.role(*node));
        let lies_twice = copies.windows(2).any(|copies| copies[0].0 == copies[1].0);
        let is_untidy = lies_twice || roles().any(|role| role.is_removed);
        let lies_apart = |newcomer: &NodeNumber| {
            let others = copies.iter().map(|(_, node)| *node).filter(|node| node != newcomer);
            let others = others.filter(|node| nodes.role(*node).stays()).filter_map(|node| nodes.names(node));
            !nodes.role(*newcomer).stays()
                || nodes.names(*newcomer).is_some_and(|names| taken.are_surely_apart(names, others))
        };
        if !lies_twice && newcomers.is_some_and(|newcomers| newcomers.iter().all(lies_apart)) {
            let is_leaving = roles().any(|role| role.counts && role.is_draining);
            return Self { is_leaving, is_untidy, ..Self::WELL };
        }
        let mut layout = Self { is_untidy, ..Self::WELL };
        let counted = |number| {
            let NodeRole { counts, is_draining, .. } = nodes.role(number);
            let names = nodes.names(number).filter(|_| counts)?;
            Some(Holder { names, is_draining })
        };
        find_flaws(copies, counted, taken, |_, flaw| match flaw {
            Flaw::Draining => layout.is_leaving = true,
            Flaw::TooMuch { since } => {
                layout.together_since = Some(layout.together_since.map_or(since, |known| known.min(since)));
            }
        });
        layout
    }
}
