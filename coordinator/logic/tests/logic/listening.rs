//! Whom a rebuild listens to: nodes that are many, slow, or break off again and again hold up neither the others nor
//! the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firn_base::{NodeId, Timestamp};
use firn_coordinator_logic::{Listening, ListeningFacts, ListeningPlan, TurnEnd};
use proptest::prelude::*;

use crate::support::node_id;

const QUIET: Duration = Duration::from_secs(3_600);
const STEP: Duration = Duration::from_secs(5);

/// A rebuild whose nodes do what a test says.
struct World {
    listening: Listening,
    now: Timestamp,
    connected: BTreeMap<NodeId, usize>,
    named: BTreeSet<NodeId>,
    looks: u64,
}

impl World {
    fn new() -> Self {
        let now = Timestamp::from_millis(1_000_000);
        let (connected, named) = (BTreeMap::new(), BTreeSet::new());
        Self { listening: Listening::new(now), now, connected, named, looks: 0 }
    }

    fn connect(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        self.connected.extend(nodes.into_iter().map(|node| (node, 1)));
    }

    fn look(&mut self) -> ListeningPlan {
        self.looks += 1;
        let seed = *blake3::hash(&self.looks.to_le_bytes()).as_bytes();
        let Self { connected, named, now, .. } = self;
        self.listening.plan(&ListeningFacts { now: *now, quiet: QUIET, connected, named }, seed)
    }

    fn end(&mut self, node: NodeId, end: TurnEnd) {
        self.listening.end_turn(node, end, self.now);
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    /// Looks every five seconds, breaking off what is to be, until `wanted` gives something.
    fn until<T>(&mut self, within: Duration, mut wanted: impl FnMut(&ListeningPlan) -> Option<T>) -> T {
        let last = self.now.after(within);
        while self.now <= last {
            let plan = self.look();
            if let Some(found) = wanted(&plan) {
                return found;
            }
            plan.break_off.iter().for_each(|node| self.end(*node, TurnEnd::BrokenOff));
            self.now = self.now.after(STEP);
        }
        panic!("it does not come about within {within:?}")
    }
}

/// A name that comes before or behind all others.
fn extreme(first: u8, number: u16) -> NodeId {
    let mut bytes = [first; 32];
    bytes[16..18].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

#[test]
fn strangers_with_small_names_leave_half_of_the_places_to_nodes_that_are_named() {
    let mut world = World::new();
    world.connect((0..1_000).map(|number| extreme(0, number)));
    let strangers = world.look().ask;
    assert_eq!(strangers.len(), 8);
    assert_eq!(world.look().ask, [], "no place is free while they dawdle");
    let honest: Vec<NodeId> = (0..20).map(|number| extreme(255, number)).collect();
    world.connect(honest.clone());
    world.named = honest.iter().copied().collect();
    let asked = world.look().ask;
    assert_eq!(asked.len(), 8);
    assert!(asked.iter().all(|node| world.named.contains(node)));
    // Nodes that are named may have all places.
    strangers.iter().for_each(|node| world.end(*node, TurnEnd::Complete));
    let more = world.look().ask;
    assert!(more.len() == 8 && more.iter().all(|node| world.named.contains(node)));
}

#[test]
fn before_anybody_is_named_an_honest_node_among_a_hundred_strangers_that_dawdle_gets_its_turn() {
    let mut world = World::new();
    world.connect((0..100).map(|number| extreme(0, number)));
    let honest = extreme(255, 0);
    world.connect([honest]);
    world.until(Duration::from_secs(3_600), |plan| plan.ask.contains(&honest).then_some(()));
}

#[test]
fn a_turn_ends_after_a_minute_with_a_stranger_and_after_ten_with_a_node_that_is_named() {
    let mut world = World::new();
    let (stranger, named, becomes_named) = (node_id(1), node_id(2), node_id(3));
    world.named.insert(named);
    world.connect([stranger, named, becomes_named]);
    assert_eq!(world.look().ask.len(), 3);
    world.pass(59);
    assert_eq!(world.look().break_off, []);
    world.named.insert(becomes_named);
    world.pass(1);
    assert_eq!(world.look().break_off, [stranger]);
    assert_eq!(world.look().break_off, [stranger], "until it is said that the turn has ended");
    world.end(stranger, TurnEnd::BrokenOff);
    world.pass(539);
    assert_eq!(world.look().break_off, [], "its next turn has just begun");
    world.pass(1);
    let overdue: BTreeSet<NodeId> = world.look().break_off.into_iter().collect();
    assert_eq!(overdue, BTreeSet::from([named, becomes_named]));
}

#[test]
fn a_node_that_breaks_off_waits_twice_as_long_each_time() {
    let mut world = World::new();
    let node = node_id(1);
    world.connect([node]);
    assert_eq!(world.look().ask, [node]);
    for waits in [30, 60, 120, 240, 480, 960, 1_920, 1_920] {
        world.end(node, TurnEnd::BrokenOff);
        // Another connection makes no difference.
        world.connected.entry(node).and_modify(|number| *number += 1);
        world.pass(waits - 1);
        assert_eq!(world.look().ask, []);
        world.pass(1);
        assert_eq!(world.look().ask, [node], "after {waits} s");
    }
}

#[test]
fn a_node_that_has_shown_everything_is_asked_again_when_it_comes_again() {
    let mut world = World::new();
    let node = node_id(1);
    world.connect([node]);
    assert_eq!(world.look().ask, [node]);
    world.end(node, TurnEnd::Complete);
    world.pass(100);
    assert_eq!(world.look().ask, [], "it has nothing new to show");
    world.connected.insert(node, 2);
    assert_eq!(world.look().ask, [node]);
}

#[test]
fn news_of_strangers_and_of_a_fourth_turn_puts_nothing_off() {
    let heard = |turns: u32, is_named: bool, others_are_named: bool| {
        let mut world = World::new();
        let node = node_id(1);
        world.connect([node]);
        world.named.extend(is_named.then_some(node));
        world.named.extend(others_are_named.then_some(node_id(2)));
        for turn in 1..=turns {
            world.until(QUIET, |plan| plan.ask.contains(&node).then_some(()));
            if turn == turns {
                world.pass(3_600);
                world.listening.hear_news(node, &world.named, world.now);
            }
            world.end(node, TurnEnd::Complete);
            world.connected.entry(node).and_modify(|number| *number += 1);
        }
        world.connected.clear();
        !world.look().has_ended
    };
    assert!(heard(1, true, true) && heard(3, true, true));
    assert!(!heard(4, true, true));
    assert!(!heard(1, false, true));
    assert!(heard(1, false, false), "who is named is not known yet");
}

#[test]
fn strangers_that_went_are_forgotten_and_named_nodes_are_not() {
    let mut world = World::new();
    let named = node_id(1);
    world.named.insert(named);
    world.connect([named]);
    let broke_off = |world: &mut World| {
        let asked = world.look().ask;
        asked.iter().for_each(|node| world.end(*node, TurnEnd::BrokenOff));
        asked
    };
    assert_eq!(broke_off(&mut world), [named]);
    for number in 0..3_000 {
        world.connected.clear();
        world.connect((0..8).map(|place| node_id(100 + number * 8 + place)));
        assert_eq!(broke_off(&mut world).len(), 8, "a new name has its turn at once");
    }
    let remembered = format!("{:?}", world.listening).matches("taken").count();
    assert!(remembered <= (1 << 14) + 8, "{remembered}");
    world.connect([named]);
    assert!(!world.look().ask.contains(&named), "it waits as before");
}

/// What a node does in its turns.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Shows everything within so many seconds.
    Honest(u64),
    /// Says nothing, and stays.
    Dawdles,
    /// Breaks off after so many seconds.
    BreaksOff(u64),
    /// Shows one thing more every so many seconds, for ever.
    Drips(u64),
    /// Shows everything at once, and comes again by another connection.
    ComesAgain,
}

fn any_way() -> impl Strategy<Value = Way> {
    prop_oneof![
        3 => (5..400_u64).prop_map(Way::Honest),
        1 => Just(Way::Dawdles),
        1 => (5..600_u64).prop_map(Way::BreaksOff),
        1 => (5..600_u64).prop_map(Way::Drips),
        1 => Just(Way::ComesAgain),
    ]
}

/// What a node does after having been asked for so long: is there news, and does its turn end?
fn behaves(way: Way, asked_for: u64) -> (bool, Option<TurnEnd>) {
    let is_at =
        |seconds: u64| asked_for > 0 && asked_for / STEP.as_secs() >= seconds.div_ceil(STEP.as_secs());
    match way {
        Way::Honest(seconds) => (is_at(seconds), is_at(seconds).then_some(TurnEnd::Complete)),
        Way::Dawdles => (false, None),
        Way::BreaksOff(seconds) => (false, is_at(seconds).then_some(TurnEnd::BrokenOff)),
        Way::Drips(seconds) => (asked_for > 0 && asked_for % seconds < STEP.as_secs(), None),
        Way::ComesAgain => (false, is_at(5).then_some(TurnEnd::Complete)),
    }
}

#[test]
fn listening_does_not_end_by_itself_before_anybody_is_named() {
    let mut world = World::new();
    world.connect([node_id(1)]);
    for node in world.look().ask {
        world.end(node, TurnEnd::BrokenOff);
    }
    world.connected.clear();
    world.pass(100 * 3_600);
    assert!(!world.look().has_ended);
    world.named.insert(node_id(2));
    assert!(world.look().has_ended);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Strangers are renewed all the time, under names that come before all others.
    #[test]
    fn listening_ends_whatever_nodes_do_and_not_before_every_honest_one_was_heard(
        ways in proptest::collection::vec(any_way(), 1..40),
        strangers in 0..40_u16,
        strangers_dawdle in any::<bool>(),
        names_come_late in any::<bool>(),
    ) {
        let mut world = World::new();
        let named: Vec<NodeId> = (0..ways.len()).map(|number| node_id(u32::try_from(number).unwrap())).collect();
        // The ledger comes first in an honest node's turn, and names them all.
        let names_come_late = names_come_late && ways.iter().any(|way| matches!(way, Way::Honest(_)));
        if !names_come_late {
            world.named = named.iter().copied().collect();
        }
        world.connect(named.clone());
        let way_of: BTreeMap<NodeId, Way> = named.iter().copied().zip(ways.iter().copied()).collect();
        let mut under_way: BTreeMap<NodeId, u64> = BTreeMap::new();
        let (mut heard, mut next_stranger) = (BTreeSet::new(), 0_u16);
        // Three turns of each in one of eight places, the waits between them, and an hour of quiet.
        let turns = 3 * 610 * u64::try_from(ways.len()).unwrap();
        // The lot draws one of at most 80 for one of eight places each minute.
        let until_named = if names_come_late { 6 * 3_600 } else { 0 };
        let end = world.now.after(Duration::from_secs(turns + 600 + 100 + until_named) + QUIET);
        loop {
            prop_assert!(world.now <= end, "listening does not end");
            let there = world.connected.keys().filter(|node| !world.named.contains(node)).count();
            for _ in there..usize::from(strangers) {
                world.connect([extreme(0, next_stranger)]);
                next_stranger = next_stranger.wrapping_add(1);
            }
            let plan = world.look();
            if plan.has_ended {
                break;
            }
            under_way.extend(plan.ask.iter().map(|node| (*node, 0)));
            let of_strangers = under_way.keys().filter(|node| !world.named.contains(node)).count();
            prop_assert!(under_way.len() <= 16 && of_strangers <= 8);
            let stranger = if strangers_dawdle { Way::Dawdles } else { Way::BreaksOff(5) };
            for (node, asked_for) in under_way.clone() {
                let is_cut = plan.break_off.contains(&node);
                let (has_news, end) = match is_cut {
                    true => (false, Some(TurnEnd::BrokenOff)),
                    false => behaves(way_of.get(&node).copied().unwrap_or(stranger), asked_for),
                };
                if asked_for > 0 && matches!(way_of.get(&node), Some(Way::Honest(_))) {
                    world.named = named.iter().copied().collect();
                }
                if has_news || !way_of.contains_key(&node) {
                    world.listening.hear_news(node, &world.named, world.now);
                }
                under_way.insert(node, asked_for + STEP.as_secs());
                if let Some(end) = end {
                    under_way.remove(&node);
                    world.end(node, end);
                    if end == TurnEnd::Complete {
                        heard.insert(node);
                    }
                    match way_of.get(&node) {
                        None => drop(world.connected.remove(&node)),
                        Some(Way::ComesAgain) => *world.connected.get_mut(&node).unwrap() += 1,
                        Some(_) => {}
                    }
                }
            }
            world.now = world.now.after(STEP);
        }
        for (node, way) in &way_of {
            prop_assert!(!matches!(way, Way::Honest(_)) || heard.contains(node), "an honest node was not heard");
        }
    }
}
