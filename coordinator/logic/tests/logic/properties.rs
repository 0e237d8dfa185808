//! Properties over random logs.

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleNumber, ShardIndex, TokenId};
use firn_coordinator_logic::{
    Facts, MemoryState, Overlay, Scan, StateDigest, advance, apply, full_digest, plan_moves, plan_repairs,
    plan_tidying,
};
use firn_wire::{
    Command, CommandOutcome, FeedEvent, IndexEntry, LedgerAct, NodeState, PlacementChange, TimedCommand,
};
use proptest::prelude::*;

use crate::support::{Archive, BUDGET, coding_id, commit_of, entry, headers, key, node_id, reservation_id};

const NODES: u32 = 8;

fn any_state() -> impl Strategy<Value = NodeState> {
    prop_oneof![
        4 => Just(NodeState::Active),
        1 => Just(NodeState::Suspended),
        1 => Just(NodeState::Draining),
        1 => Just(NodeState::Gone),
        1 => Just(NodeState::Lost),
    ]
}

fn any_nodes() -> impl Strategy<Value = Vec<u32>> {
    Just((0..NODES).collect::<Vec<_>>())
        .prop_shuffle()
        .prop_flat_map(|nodes| (Just(nodes), 3_usize..=4))
        .prop_map(|(nodes, count)| nodes[..count].to_vec())
}

fn any_placement() -> impl Strategy<Value = PlacementChange> {
    (0_u8..6, 0..2, 0_u8..7, 0..NODES, 0..4).prop_map(|(tag, second, index, node, what)| {
        let coding = coding_id(tag, if second == 1 { 4 } else { 2 });
        let (index, node) = (ShardIndex(index), node_id(node));
        match what {
            0 => PlacementChange::Placed { coding, index, node },
            1 => PlacementChange::Missing { coding, index, node },
            2 => PlacementChange::Retired { coding, index, node },
            _ => PlacementChange::Trashed { coding, index, node },
        }
    })
}

fn any_recoding() -> impl Strategy<Value = Command> {
    (0_u8..6, 4_u8..7, 0..NODES, 0..NODES, 0..4).prop_map(|(tag, n, node, other, what)| {
        let (content, coding) = headers(tag, 4, vec![]);
        let (bundle, decoder) = (content.bundle_id(), node_id(node));
        match what {
            0 | 1 => {
                let coding_header = coding.to_bytes();
                Command::BeginRecoding { bundle, coding_header, n, workers: [node_id(node), node_id(other)] }
            }
            2 => Command::FinishRecoding { bundle, coding: coding.coding_id(), decoder },
            _ => Command::DropRecoding { bundle, coding: coding.coding_id() },
        }
    })
}

fn any_command() -> impl Strategy<Value = Command> {
    let reserve = (0_u8..6, 0_u8..6, any_nodes()).prop_map(|(reservation, tag, nodes)| {
        let (content, coding) = headers(tag, 2, vec![]);
        Command::Reserve {
            reservation: reservation_id(reservation),
            uploader: crate::support::uploader(),
            content_header: content.to_bytes(),
            coding_header: coding.to_bytes(),
            n: 4,
            assignments: (0..).map(ShardIndex).zip(nodes.into_iter().map(node_id)).collect(),
            expires: firn_base::Timestamp::from_millis(u64::MAX),
        }
    });
    let entries = prop::collection::vec((0_u8..12, prop::collection::vec(0_u8..12, 0..3)), 0..4);
    let commit = (0_u8..6, entries, prop::collection::vec(0_u8..12, 0..2), any_nodes()).prop_map(
        |(reservation, entries, externals, _)| {
            let placed = |(place, (name, waits)): (u16, &(u8, Vec<u8>))| IndexEntry {
                entry: place,
                ..entry(*name, waits)
            };
            let entries = (0..).zip(&entries).map(placed).collect();
            let mut bundle = commit_of(reservation, &[], entries);
            // Receipts of everybody for everything: those that were assigned count.
            for index in 0..4 {
                bundle.receipts.extend((0..NODES).map(|node| (ShardIndex(index), node_id(node))));
            }
            let externals = externals.into_iter().map(key).collect();
            Command::Commit { bundles: vec![bundle], externals }
        },
    );
    prop_oneof![
        2 => (0..NODES, 0_u32..5).prop_map(|(node, domain)| Command::JoinNode {
            node: node_id(node),
            operator: "o".into(),
            failure_domain: format!("domain-{}", node % 7 + domain / 4),
            vouched: false,
            seen_at: None,
            address: "a".into(),
            quota_bytes: 1 << 20,
            token: Some(TokenId::from_bytes([u8::try_from(node).unwrap(); 32])),
        }),
        1 => (0..NODES, any_state())
            .prop_map(|(node, state)| Command::SetNodeState { node: node_id(node), state }),
        4 => reserve,
        4 => commit,
        1 => prop::collection::vec((0_u8..6).prop_map(reservation_id), 1..3)
            .prop_map(Command::ExpireReservations),
        4 => prop::collection::vec(any_placement(), 1..5).prop_map(Command::RecordPlacements),
        3 => any_recoding(),
        1 => (0_u8..12).prop_map(|name| {
            Command::Govern(LedgerAct::Withdraw { key: key(name), reason: String::new() })
        }),
        1 => (0_u8..12).prop_map(|name| {
            Command::Govern(LedgerAct::Reinstate { key: key(name), reason: String::new() })
        }),
    ]
}

fn log() -> impl Strategy<Value = Vec<TimedCommand>> {
    let joined = (0..NODES).map(|node| Command::JoinNode {
        node: node_id(node),
        operator: "o".into(),
        failure_domain: format!("domain-{node}"),
        vouched: false,
        seen_at: None,
        address: "a".into(),
        quota_bytes: 1 << 20,
        token: Some(TokenId::from_bytes([u8::try_from(node).unwrap(); 32])),
    });
    let joined: Vec<_> = joined.collect();
    prop::collection::vec(any_command(), 0..60).prop_map(move |commands| {
        let all = joined.iter().cloned().chain(commands);
        let time = |step: usize| firn_base::Timestamp::from_millis(1000 + step as u64);
        all.enumerate().map(|(step, command)| TimedCommand::of_coordinators(time(step), command)).collect()
    })
}

fn replay(log: &[TimedCommand]) -> (Archive, Vec<CommandOutcome>) {
    let mut archive = Archive::of(0);
    let mut outcomes = Vec::new();
    for command in log {
        let Ok(applied) = apply(&archive.state, command);
        archive.state.absorb(applied.changes);
        outcomes.push(applied.outcome);
    }
    // Late enough for all that lies together to be taken apart.
    archive.now = firn_base::Timestamp::from_millis(4 * 86_400_000);
    archive.hear_all_but(&[]);
    (archive, outcomes)
}

fn bundles(state: &MemoryState) -> Vec<firn_coordinator_logic::BundleRecord> {
    let Ok(bundles) = state.bundles_from(BundleNumber(0), usize::MAX);
    bundles
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn replicas_that_apply_one_log_agree_however_it_is_batched(log in log(), batch in 1_usize..7) {
        let (archive, outcomes) = replay(&log);
        let mut batched = MemoryState::new();
        let mut kept = StateDigest::default();
        let mut seen = Vec::new();
        for commands in log.chunks(batch) {
            let Ok(mut overlay) = Overlay::new(&batched);
            for command in commands {
                let Ok(applied) = apply(&overlay, command);
                overlay.absorb(applied.changes);
                seen.push(applied.outcome);
            }
            let changes = overlay.into_changes();
            let Ok(()) = advance(&mut kept, &batched, &changes);
            prop_assert_eq!(&kept, &StateDigest::from_bytes(&kept.to_bytes()).unwrap());
            batched.absorb(changes);
        }
        prop_assert_eq!(seen, outcomes);
        prop_assert_eq!(&batched, &archive.state);
        prop_assert_eq!(full_digest(&batched), Ok(kept));
    }

    #[test]
    fn the_account_of_bytes_and_the_counters_always_add_up(log in log()) {
        let (archive, _) = replay(&log);
        let by_records = archive.assigned_by_records();
        let mut shards: BTreeMap<_, u64> = BTreeMap::new();
        let mut stored = 0;
        for coding in bundles(&archive.state).iter().flat_map(|bundle| &bundle.codings) {
            stored += coding.file_bytes * coding.placements.len() as u64;
            coding.placements.iter().for_each(|(_, node)| *shards.entry(*node).or_default() += 1);
        }
        for node in archive.nodes() {
            prop_assert_eq!(node.assigned_bytes, by_records.get(&node.number).copied().unwrap_or_default());
            prop_assert_eq!(node.shards, shards.get(&node.number).copied().unwrap_or_default());
        }
        let Ok(counters) = archive.state.counters();
        let Ok(keys) = archive.state.keys_after(None, usize::MAX);
        let Ok(held) = archive.state.held_after(None, usize::MAX);
        prop_assert_eq!(counters.stored_bytes, stored);
        prop_assert_eq!(counters.visible_keys, keys.len() as u64);
        prop_assert_eq!(counters.held_records, held.len() as u64);
    }

    #[test]
    fn what_is_held_waits_for_something_and_the_feed_tells_what_is_visible(log in log()) {
        let (archive, _) = replay(&log);
        let Ok(held) = archive.state.held_after(None, usize::MAX);
        for record in &held {
            prop_assert!(!record.waits.is_empty());
            for awaited in &record.waits {
                let Ok(satisfied) = archive.state.is_satisfied(*awaited);
                prop_assert!(!satisfied);
                let Ok(waiters) = archive.state.waiters(*awaited);
                prop_assert!(waiters.contains(&(record.key, record.location)));
            }
        }
        let Ok(feed) = archive.state.feed_from(0, usize::MAX);
        let mut told = BTreeSet::new();
        for event in feed {
            match event {
                FeedEvent::Visible(key) => prop_assert!(told.insert(key)),
                FeedEvent::Withdrawn(key) => prop_assert!(told.remove(&key)),
            }
        }
        let Ok(keys) = archive.state.keys_after(None, usize::MAX);
        prop_assert_eq!(told, keys.into_iter().map(|(key, _)| key).collect::<BTreeSet<_>>());
    }

    #[test]
    fn plans_never_put_two_shards_of_a_bundle_into_one_domain(log in log(), seed: [u8; 32]) {
        let (archive, _) = replay(&log);
        let nodes = archive.nodes();
        let domain = |number: firn_coordinator_logic::NodeNumber| {
            nodes.iter().find(|node| node.number == number).unwrap().failure_domain.clone()
        };
        let builds = archive.planning(|view| {
            let mut builds = plan_repairs(view, &BUDGET, seed).builds;
            builds.extend(plan_moves(view, &BUDGET, seed).builds);
            builds
        });
        for build in builds {
            let Ok(Some(bundle)) = archive.state.bundle(build.bundle) else { panic!("a bundle of a plan") };
            let mut taken = BTreeSet::new();
            for copy in bundle.codings[0].placements.iter().filter(|copy| !build.retire.contains(copy)) {
                if nodes.iter().any(|node| node.number == copy.1 && node.is_member()) {
                    taken.insert(domain(copy.1));
                }
            }
            for (_, target) in &build.targets {
                prop_assert!(taken.insert(domain(*target)));
                let state = nodes.iter().find(|node| node.number == *target).unwrap().state;
                prop_assert_eq!(state, NodeState::Active);
            }
        }
    }

    #[test]
    fn carrying_out_plans_comes_to_rest_without_losing_a_readable_bundle(log in log(), seed: [u8; 32]) {
        let (mut archive, _) = replay(&log);
        archive.run(Command::ExpireReservations((0..6).map(reservation_id).collect()));
        let distinct = |archive: &Archive| -> Vec<usize> {
            archive.planning(|view| view.catalogue.bundles().map(|bundle| {
                usize::from(firn_coordinator_logic::classify(bundle, view.fleet).durable)
            }).collect())
        };
        for round in 0..60 {
            let before = distinct(&archive);
            let changes = archive.planning(|view| {
                let mut builds = plan_repairs(view, &BUDGET, seed).builds;
                let repaired: BTreeSet<_> = builds.iter().map(|build| build.bundle).collect();
                let moved = plan_moves(view, &BUDGET, seed).builds;
                builds.extend(moved.into_iter().filter(|build| !repaired.contains(&build.bundle)));
                let id = |number| view.catalogue.node(number).unwrap().id;
                let mut changes = Vec::new();
                for build in builds {
                    let coding = build.coding;
                    changes.extend(build.targets.iter().map(|(index, node)| {
                        PlacementChange::Placed { coding, index: *index, node: id(*node) }
                    }));
                    changes.extend(build.retire.iter().map(|(index, node)| {
                        PlacementChange::Retired { coding, index: *index, node: id(*node) }
                    }));
                }
                let tidying = plan_tidying(view, 100);
                changes.extend(tidying.changes);
                changes.extend(tidying.trash.into_iter().map(|deletion| {
                    let (node, coding, index) = deletion.copy;
                    PlacementChange::Trashed { coding, index, node: id(node) }
                }));
                changes
            });
            if changes.is_empty() {
                // Whatever draining nodes still hold then is what they are said not to get rid of.
                let rest = archive.planning(|view| {
                    let moves = plan_moves(view, &BUDGET, seed);
                    (plan_repairs(view, &BUDGET, seed).backlog_shards, moves.drains)
                });
                for drain in rest.1.values().filter(|_| rest.0 == 0) {
                    prop_assert_eq!(drain.to_move, drain.without_home + drain.home_unavailable);
                }
                break;
            }
            archive.run(Command::RecordPlacements(changes));
            for (was, is) in before.into_iter().zip(distinct(&archive)) {
                prop_assert!(is >= was, "a plan cost a shard");
            }
            prop_assert!(round < 59, "plans never end");
        }
    }
}
