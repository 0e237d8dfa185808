//! The index of all bundles' health, and what is done about shards that are away.

use std::collections::BTreeSet;
use std::time::Duration;

use firn_base::{AddressHistory, AsNumber, Availability, BundleNumber, Country, Origin, ShardIndex};
use firn_coordinator_logic::{
    BRINK_ONLINE_FOR, BrakeState, BuildCause, BuildPlan, Catalogue, FEW_ONLINE_FOR, FleetView, HealthIndex,
    PlanningBudget, PlanningView, default_policy, plan_repairs, survey,
};
use firn_wire::{
    Command, CommandOutcome, DomainRule, LedgerAct, NodePlace, NodeSighting, NodeState, PlacementChange,
    Policy,
};
use proptest::prelude::*;

use crate::support::{Archive, BUDGET, bundle_id, commit_of, entry, headers, node_id, place};

const MINUTE_MILLIS: u64 = 60_000;

fn wide_archive(nodes: u32) -> Archive {
    let mut archive = Archive::of(nodes);
    archive.publish(1, (16, 40), &(0..40).collect::<Vec<_>>());
    archive
}

fn planned(archive: &Archive, health: &mut HealthIndex) -> Vec<BuildPlan> {
    archive.planning_with(health, |view| plan_repairs(view, &BUDGET, [1; 32]).builds)
}

/// Lets time pass minute by minute, nodes below `silent` being away; gives what was planned in the last minute.
fn pass(archive: &mut Archive, health: &mut HealthIndex, silent: u32, minutes: u64) -> Vec<BuildPlan> {
    let silent: Vec<u32> = (0..silent).collect();
    let mut last = Vec::new();
    for _ in 0..minutes {
        archive.wait(MINUTE_MILLIS);
        archive.hear_all_but(&silent);
        last = planned(archive, health);
    }
    last
}

fn minutes(duration: Duration) -> u64 {
    duration.as_secs() / 60
}

#[test]
fn shards_that_are_away_are_made_anew_after_four_hours_with_few_online_and_not_before() {
    let (mut archive, mut health) = (wide_archive(80), HealthIndex::new());
    assert_eq!(pass(&mut archive, &mut health, 19, minutes(FEW_ONLINE_FOR)), []);
    let builds = pass(&mut archive, &mut health, 19, 1);
    assert_eq!(builds.len(), 1);
    // 21 of 40 are online: up to 26, a fifth of parity above the urgent threshold.
    assert_eq!((builds[0].cause, builds[0].targets.len()), (BuildCause::Away, 5));
    assert!(builds[0].targets.iter().all(|(index, node)| index.0 < 19 && node.0 >= 40));
    assert_eq!(builds[0].retire, [], "the copies that are away still count");
    assert_eq!(archive.planning_with(&mut health, survey).health.degraded, 0);
}

#[test]
fn at_the_brink_half_an_hour_is_enough() {
    let (mut archive, mut health) = (wide_archive(80), HealthIndex::new());
    assert_eq!(pass(&mut archive, &mut health, 23, minutes(BRINK_ONLINE_FOR)), []);
    let builds = pass(&mut archive, &mut health, 23, 1);
    assert_eq!(builds.iter().map(|build| build.cause).collect::<Vec<_>>(), [BuildCause::Away]);
    // One more is away, and nothing can be read to make it from.
    assert_eq!(pass(&mut archive, &mut health, 25, 1), []);
}

#[test]
fn nodes_that_return_end_it_and_the_time_begins_anew() {
    let (mut archive, mut health) = (wide_archive(80), HealthIndex::new());
    assert_eq!(pass(&mut archive, &mut health, 19, minutes(FEW_ONLINE_FOR) + 1).len(), 1);
    assert_eq!(pass(&mut archive, &mut health, 18, 1), []);
    assert_eq!(pass(&mut archive, &mut health, 19, minutes(FEW_ONLINE_FOR)), []);
    assert_eq!(pass(&mut archive, &mut health, 19, 1).len(), 1);
}

#[test]
fn what_is_away_takes_its_part_of_the_budget_only_and_waits_for_a_new_leader() {
    let (mut archive, mut health) = (wide_archive(80), HealthIndex::new());
    archive.publish(2, (16, 40), &(0..40).rev().collect::<Vec<_>>());
    assert_eq!(pass(&mut archive, &mut health, 20, minutes(FEW_ONLINE_FOR) + 1).len(), 2);
    let plan = |health: &mut HealthIndex, away_builds_max, brake| {
        let budget = PlanningBudget { away_builds_max, ..BUDGET };
        archive.planning_with(health, |view| {
            plan_repairs(&PlanningView { brake, ..*view }, &budget, [1; 32]).builds.len()
        })
    };
    assert_eq!(plan(&mut health, 1, BrakeState::Free), 1);
    assert_eq!(plan(&mut health, 0, BrakeState::Free), 0);
    assert_eq!(plan(&mut health, 9, BrakeState::NewLeader { until: archive.now }), 0);
    assert_eq!(plan(&mut health, 9, BrakeState::FleetVanished { until: archive.now }), 2);
}

#[test]
fn a_third_of_the_fleet_away_for_two_hours_moves_less_than_a_hundredth() {
    let (mut archive, mut health) = (Archive::of(100), HealthIndex::new());
    for tag in 0..100 {
        let nodes: Vec<u32> = (0..40).map(|shard| (u32::from(tag) * 37 + shard * 7) % 100).collect();
        archive.publish(tag, (16, 40), &nodes);
    }
    let held = 100 * 40;
    let mut made = 0;
    let silent: Vec<u32> = (0..30).map(|node| node * 3).collect();
    for _ in 0..120 {
        archive.wait(MINUTE_MILLIS);
        archive.hear_all_but(&silent);
        for build in planned(&archive, &mut health) {
            for (index, node) in build.targets {
                made += 1;
                let change = PlacementChange::Placed { coding: build.coding, index, node: node_id(node.0) };
                archive.run(Command::RecordPlacements(vec![change]));
            }
        }
    }
    assert!(made * 100 < held, "{made} of {held} shards were made anew");
}

#[test]
fn of_two_bundles_in_equal_danger_the_one_that_others_need_comes_first() {
    let nodes: Vec<u32> = (0..12).collect();
    let mut archive = Archive::of(20);
    archive.publish(1, (4, 12), &nodes);
    archive.publish(2, (4, 12), &nodes);
    let of_needed = headers(3, 4, vec![bundle_id(2)]);
    assert_eq!(archive.reserve_as(3, &of_needed, 12, &nodes), CommandOutcome::Applied);
    let head = commit_of(3, &nodes, vec![entry(3, &[])]);
    let outcome = archive.run(Command::Commit { bundles: vec![head], externals: Vec::new() });
    assert!(matches!(outcome, CommandOutcome::Committed { .. }), "{outcome:?}");
    archive.set_state(0, NodeState::Lost);
    let first = |archive: &Archive| planned(archive, &mut HealthIndex::new())[0].bundle;
    assert_eq!(first(&archive), BundleNumber(1));
}

#[test]
fn a_bundle_without_a_home_for_its_repair_is_put_off_and_holds_up_nobody() {
    let mut archive = Archive::of(12);
    let nodes: Vec<u32> = (0..12).collect();
    archive.publish(1, (4, 12), &nodes);
    archive.join_with(12, "domain-12", 1);
    archive.hear(12);
    archive.set_state(0, NodeState::Lost);
    let plan = archive.planning(|view| plan_repairs(view, &BUDGET, [1; 32]));
    assert_eq!((plan.builds.len(), plan.put_off.clone(), plan.at_risk.len()), (0, vec![BundleNumber(0)], 0));
    archive.orders.put_off(BundleNumber(0), archive.now.after(Duration::from_secs(5)));
    let plan = archive.planning(|view| plan_repairs(view, &BUDGET, [1; 32]));
    assert_eq!((plan.builds.len(), plan.put_off, plan.backlog_shards), (0, vec![], 1));
    archive.wait(5_000);
    archive.orders.expire(archive.now);
    archive.hear_all_but(&[]);
    let plan = archive.planning(|view| plan_repairs(view, &BUDGET, [1; 32]));
    assert_eq!(plan.put_off, [BundleNumber(0)]);
}

#[test]
fn bundles_are_counted_by_how_many_more_shards_they_may_lose() {
    let mut archive = Archive::of(20);
    archive.publish(1, (4, 12), &(0..12).collect::<Vec<_>>());
    archive.publish(2, (4, 12), &(8..20).collect::<Vec<_>>());
    for node in 0..9 {
        archive.set_state(node, NodeState::Lost);
    }
    let plan = archive.planning(survey);
    let by_spare: Vec<_> = plan.by_spare.iter().map(|count| (count.spare, count.bundles)).collect();
    assert_eq!((by_spare, plan.health.lost), (vec![(7, 1)], 1));
}

/// What may befall a fleet, as far as it concerns health.
#[derive(Debug, Clone)]
enum Event {
    State(u32, NodeState),
    Unproved(u32),
    Proved(u32),
    Domain(u32, u32),
    Place(u32, NodePlace),
    Placement(PlacementChange),
}

const NODES: u32 = 8;

fn any_event() -> impl Strategy<Value = Event> {
    let state = prop_oneof![
        Just(NodeState::Active),
        Just(NodeState::Suspended),
        Just(NodeState::Draining),
        Just(NodeState::Lost)
    ];
    let placement = (0_u8..4, 0_u8..6, 0..NODES, any::<bool>()).prop_map(|(tag, index, node, placed)| {
        let coding = crate::support::coding_id(tag, 2);
        let (index, node) = (ShardIndex(index), node_id(node));
        match placed {
            true => PlacementChange::Placed { coding, index, node },
            false => PlacementChange::Missing { coding, index, node },
        }
    });
    prop_oneof![
        1 => (0..NODES, state).prop_map(|(node, state)| Event::State(node, state)),
        2 => (0..NODES).prop_map(Event::Unproved),
        2 => (0..NODES).prop_map(Event::Proved),
        1 => (0..NODES, 0..NODES).prop_map(|(node, domain)| Event::Domain(node, domain)),
        2 => (0..NODES, any_place()).prop_map(|(node, place)| Event::Place(node, place)),
        4 => placement.prop_map(Event::Placement),
    ]
}

/// One of few prefixes, networks and countries.
fn any_place() -> impl Strategy<Value = NodePlace> {
    (0..NODES, prop::option::of((0_u32..4, b'A'..b'F'))).prop_map(|(prefix, origin)| {
        let origin = origin.map(|(network, country)| Origin {
            asn: (network > 0).then_some(AsNumber(network)),
            country: Country::try_from([b'X', country]).ok(),
        });
        place(prefix, origin)
    })
}

/// The nodes count as being there.
fn see(archive: &mut Archive, places: &[(u32, NodePlace)]) {
    let sighting = |(node, place): &(u32, NodePlace)| NodeSighting {
        node: node_id(*node),
        last_seen: Some(archive.now),
        availability: Availability::UNKNOWN,
        addresses: AddressHistory::first_seen_at(place.prefix),
        origin: place.origin,
    };
    let nodes = places.iter().map(sighting).collect();
    archive.run(Command::Summary { nodes });
}

/// Somewhere by itself.
fn own_place(node: u32) -> NodePlace {
    let country = Country::try_from([b'Y', b'A' + u8::try_from(node % 26).unwrap()]).ok();
    place(100 + node, Some(Origin { asn: Some(AsNumber(100 + node)), country }))
}

fn befall(archive: &mut Archive, event: Event) {
    match event {
        Event::State(node, state) => drop(archive.set_state(node, state)),
        Event::Unproved(node) => archive.watch.want_inventory(archive.number(node), archive.now),
        Event::Proved(node) => archive.hear(node),
        Event::Domain(node, domain) => drop(archive.join(node, &format!("domain-{domain}"))),
        Event::Place(node, place) => see(archive, &[(node, place)]),
        Event::Placement(change) => drop(archive.run(Command::RecordPlacements(vec![change]))),
    }
}

proptest! {
    #[test]
    fn an_index_that_followed_every_event_equals_one_made_anew(
        events in prop::collection::vec(any_event(), 1..40),
        is_public: bool,
    ) {
        // The others keep the width, and with it the rules by which all bundles are judged.
        let mut archive = Archive::of(NODES + 60);
        for tag in 0..4 {
            let first = u32::from(tag);
            archive.publish(tag, (2, 4), &[first, first + 1, first + 2, first + 3]);
        }
        if is_public {
            let policy = Policy { domains: DomainRule::Public, ..default_policy() };
            archive.run(Command::Govern(LedgerAct::SetPolicy(policy)));
            see(&mut archive, &(0..NODES + 60).map(|node| (node, own_place(node))).collect::<Vec<_>>());
        }
        let Ok(mut catalogue) = Catalogue::load(&archive.state);
        let mut followed = HealthIndex::new();
        for event in events {
            let seen = archive.log.len();
            let before = archive.state.clone();
            befall(&mut archive, event);
            let mut state = before;
            let mut changed = BTreeSet::new();
            for command in &archive.log[seen..] {
                let Ok(applied) = firn_coordinator_logic::apply(&state, command);
                changed.extend(catalogue.absorb(&applied.changes, archive.now));
                state.absorb(applied.changes);
            }
            let fleet = FleetView::new(&catalogue, &archive.watch, &archive.orders, archive.now,
            );
            followed.update(&catalogue, &fleet, &changed, archive.now);
            let mut anew = HealthIndex::new();
            anew.update(&catalogue, &fleet, &BTreeSet::new(), archive.now);
            prop_assert_eq!(format!("{followed:?}"), format!("{anew:?}"));
        }
    }
}

#[test]
fn what_befalls_one_node_touches_only_the_bundles_it_holds_shards_of() {
    let mut archive = Archive::of(60);
    for tag in 0..30 {
        archive.publish(tag, (4, 12), &(u32::from(tag)..u32::from(tag) + 12).collect::<Vec<_>>());
    }
    let Ok(catalogue) = Catalogue::load(&archive.state);
    let mut health = HealthIndex::new();
    let mut judged = |archive: &Archive, changed: &[u32]| {
        let fleet = FleetView::new(&catalogue, &archive.watch, &archive.orders, archive.now);
        let changed = changed.iter().copied().map(BundleNumber).collect();
        health.update(&catalogue, &fleet, &changed, archive.now)
    };
    assert_eq!(judged(&archive, &[]), 30);
    assert_eq!(judged(&archive, &[]), 0);
    archive.watch.want_inventory(archive.number(3), archive.now);
    assert_eq!(judged(&archive, &[]), 4, "bundles 0 to 3");
    assert_eq!(judged(&archive, &[17]), 1);
    archive.hear(3);
    assert_eq!(judged(&archive, &[2, 9]), 5, "each once");
}
