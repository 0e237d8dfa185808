//! Re-coding: a fleet grows, bundles follow, and what may go wrong on the way.

use std::collections::BTreeSet;
use std::time::Duration;

use firn_base::{BundleNumber, Scheme, ShardIndex};
use firn_coordinator_logic::{
    BrakeState, NodeNumber, PlanningView, RecodePlan, RecodeTerms, RecodeWork, RootsAnswer, RootsError, Scan,
    compare_inventory, full_digest, judge_roots, plan_recoding, plan_repairs, plan_tidying,
    replaced_file_bytes,
};
use firn_wire::{Command, CommandOutcome, NodeState, PlacementChange, RejectReason};

use crate::support::{Archive, BUDGET, bundle_id, coding_id, headers, node_id};

const SEED: [u8; 32] = [3; 32];

fn terms(steady_width: usize) -> RecodeTerms {
    RecodeTerms {
        steady_width,
        repairs_are_due: false,
        awaited_bytes: 0,
        bundles_max: 4,
        builds_per_worker_max: 2,
    }
}

fn plan(archive: &Archive, terms: &RecodeTerms) -> RecodePlan {
    archive.planning(|view| plan_recoding(view, terms, &BTreeSet::new(), SEED))
}

fn grow(archive: &mut Archive, nodes: std::ops::Range<u32>) {
    for node in nodes {
        assert_eq!(archive.join(node, &format!("domain-{node}")), CommandOutcome::Applied);
        archive.hear(node);
    }
}

/// Bundles are published in the order of their tags, which begin at 1.
fn tag(bundle: BundleNumber) -> u8 {
    u8::try_from(bundle.0 + 1).unwrap()
}

fn id(node: NodeNumber) -> firn_base::NodeId {
    node_id(node.0)
}

fn begin(archive: &mut Archive, tag: u8, (k, n): (u8, u8), workers: [u32; 2]) -> CommandOutcome {
    archive.run(Command::BeginRecoding {
        bundle: bundle_id(tag),
        coding_header: headers(tag, k, Vec::new()).1.to_bytes(),
        n,
        workers: workers.map(node_id),
    })
}

fn finish(archive: &mut Archive, tag: u8, k: u8, decoder: u32) -> CommandOutcome {
    let (bundle, coding) = (bundle_id(tag), coding_id(tag, k));
    archive.run(Command::FinishRecoding { bundle, coding, decoder: node_id(decoder) })
}

fn place(archive: &mut Archive, tag: u8, k: u8, nodes: &[u32]) {
    let placed = (0..).map(ShardIndex).zip(nodes).map(|(index, node)| PlacementChange::Placed {
        coding: coding_id(tag, k),
        index,
        node: node_id(*node),
    });
    archive.run(Command::RecordPlacements(placed.collect()));
}

/// Carries a plan out as honest nodes would. Says whether there was anything to do.
fn carry_out(archive: &mut Archive, plan: RecodePlan) -> bool {
    let is_idle = plan.steps.is_empty() && plan.drops.is_empty();
    for step in plan.steps {
        let tag = tag(step.order.bundle);
        match step.work {
            RecodeWork::Roots { other, scheme } => {
                let workers = [step.order.worker.0, other.0];
                let begun = begin(archive, tag, (scheme.k(), scheme.n()), workers);
                assert_eq!(begun, CommandOutcome::Applied);
            }
            RecodeWork::Shards => {
                let targets = step.order.targets.iter().map(|(index, node)| PlacementChange::Placed {
                    coding: step.order.coding,
                    index: *index,
                    node: id(*node),
                });
                let targets = targets.collect();
                archive.run(Command::RecordPlacements(targets));
            }
            RecodeWork::Decode => {
                let (bundle, coding) = (bundle_id(tag), step.order.coding);
                let decoder = id(step.order.worker);
                let finished = archive.run(Command::FinishRecoding { bundle, coding, decoder });
                assert_eq!(finished, CommandOutcome::Applied);
            }
        }
    }
    for (bundle, coding) in plan.drops {
        let bundle = bundle_id(tag(bundle));
        assert_eq!(archive.run(Command::DropRecoding { bundle, coding }), CommandOutcome::Applied);
    }
    !is_idle
}

fn settle(archive: &mut Archive, terms: &RecodeTerms) {
    for _ in 0..100 {
        let next = plan(archive, terms);
        if !carry_out(archive, next) {
            return;
        }
        let by_records = archive.assigned_by_records();
        for node in archive.nodes() {
            assert_eq!(node.assigned_bytes, by_records.get(&node.number).copied().unwrap_or_default());
        }
    }
    panic!("re-coding never comes to rest");
}

fn scheme(archive: &Archive, tag: u8) -> (u8, u8, usize) {
    let bundle = archive.bundle(tag);
    (bundle.codings[0].scheme.k(), bundle.codings[0].scheme.n(), bundle.codings.len())
}

/// A second coding of bundle 1 on the nodes from 0 on, of which all but the last `missing` shards are placed.
fn in_transition(missing: usize) -> Archive {
    let mut archive = Archive::of(27);
    archive.publish(1, (4, 12), &(0..12).collect::<Vec<_>>());
    assert_eq!(begin(&mut archive, 1, (8, 24), [24, 25]), CommandOutcome::Applied);
    place(&mut archive, 1, 8, &(0..24 - u32::try_from(missing).unwrap()).collect::<Vec<_>>());
    archive
}

#[test]
fn an_archive_that_grows_from_6_nodes_to_60_codes_its_bundles_for_8_and_then_16() {
    let mut archive = Archive::of(6);
    for tag in 1..=9 {
        archive.publish(tag, (4, 6), &[0, 1, 2, 3, 4, 5]);
    }
    assert_eq!(plan(&archive, &terms(6)), RecodePlan::default());
    grow(&mut archive, 6..24);
    assert_eq!(plan(&archive, &terms(24)).progress.older, 9);
    settle(&mut archive, &terms(24));
    for tag in 1..=9 {
        assert_eq!(scheme(&archive, tag), (8, 24, 1));
        assert_eq!(archive.bundle(tag).codings[0].placements.len(), 24);
    }
    assert_eq!(plan(&archive, &terms(24)).progress.older, 0);
    grow(&mut archive, 24..60);
    settle(&mut archive, &terms(60));
    for tag in 1..=9 {
        assert_eq!(scheme(&archive, tag), (16, 40, 1));
    }
    // What was replaced stays until readers have learnt of it, and then goes.
    let surplus = archive.surplus().len();
    assert_eq!(surplus, 9 * (6 + 24));
    let trash = |archive: &Archive| archive.planning(|view| plan_tidying(view, 10_000).trash.len());
    assert_eq!(trash(&archive), 0);
    archive.wait(601_000);
    archive.hear_all_but(&[]);
    assert_eq!(trash(&archive), surplus);
}

#[test]
fn a_few_bundles_are_coded_anew_at_a_time_the_smallest_k_and_the_oldest_first() {
    let mut archive = Archive::of(24);
    for tag in 1..=5 {
        archive.publish(tag, (4, 12), &(0..12).collect::<Vec<_>>());
    }
    archive.publish(6, (2, 6), &[0, 1, 2, 3, 4, 5]);
    let bundles: Vec<u32> = plan(&archive, &terms(24)).steps.iter().map(|step| step.order.bundle.0).collect();
    assert_eq!(bundles, [5, 0, 1, 2]);
}

#[test]
fn nothing_is_begun_for_a_width_that_has_not_held_nor_while_repairs_are_due() {
    let mut archive = Archive::of(24);
    archive.publish(1, (4, 12), &(0..12).collect::<Vec<_>>());
    assert_eq!(plan(&archive, &terms(12)).steps, []);
    assert_eq!(plan(&archive, &terms(12)).progress.older, 1, "it is shown all the same");
    assert_eq!(plan(&archive, &RecodeTerms { repairs_are_due: true, ..terms(24) }).steps, []);
    assert_eq!(plan(&archive, &terms(24)).steps.len(), 1);
    let braked = archive.planning(|view| {
        let view = PlanningView { brake: BrakeState::NewLeader { until: view.now }, ..*view };
        plan_recoding(&view, &terms(24), &BTreeSet::new(), SEED)
    });
    assert_eq!(braked.steps, []);
}

#[test]
fn while_disks_rest_none_is_begun_and_what_was_begun_goes_on() {
    let resting = |archive: &Archive, terms: &RecodeTerms| {
        archive.planning(|view| {
            let view = PlanningView { brake: BrakeState::DisksRest { until: view.now }, ..*view };
            plan_recoding(&view, terms, &BTreeSet::new(), SEED)
        })
    };
    let mut archive = Archive::of(24);
    archive.publish(1, (4, 12), &(0..12).collect::<Vec<_>>());
    assert_eq!(resting(&archive, &terms(24)).steps, []);
    // Else it might be given up before the second window.
    let archive = in_transition(5);
    let next = resting(&archive, &terms(0));
    assert_eq!((next.steps.len(), next.drops.len()), (1, 0));
}

#[test]
fn a_bundle_that_is_touched_or_not_well_waits() {
    let mut archive = Archive::of(24);
    archive.publish(1, (4, 12), &(0..12).collect::<Vec<_>>());
    let taken = BTreeSet::from([BundleNumber(0)]);
    let touched = archive.planning(|view| plan_recoding(view, &terms(24), &taken, SEED));
    assert_eq!(touched.steps, []);
    let missing =
        PlacementChange::Missing { coding: coding_id(1, 4), index: ShardIndex(3), node: node_id(3) };
    archive.run(Command::RecordPlacements(vec![missing]));
    assert_eq!(plan(&archive, &terms(24)).steps, []);
}

#[test]
fn a_k_whose_parity_could_not_restore_the_payload_alone_waits_for_a_wider_fleet() {
    let mut archive = Archive::of(7);
    archive.publish(1, (2, 5), &[0, 1, 2, 3, 4]);
    assert_eq!(plan(&archive, &terms(7)), RecodePlan::default());
    grow(&mut archive, 7..8);
    settle(&mut archive, &terms(8));
    assert_eq!(scheme(&archive, 1), (4, 8, 1));
}

#[test]
fn nothing_is_begun_that_would_take_the_room_kept_for_repairs() {
    let mut archive = Archive::of(0);
    for node in 0..24 {
        assert_eq!(archive.join_with(node, &format!("domain-{node}"), 90_000), CommandOutcome::Applied);
        archive.hear(node);
    }
    archive.publish(1, (4, 12), &(0..12).collect::<Vec<_>>());
    assert_eq!(plan(&archive, &terms(24)).steps, []);
    assert_eq!(plan(&archive, &terms(24)).progress.older, 1);
}

#[test]
fn workers_and_decoder_are_of_different_operators_and_domains() {
    let mut archive = in_transition(0);
    let [first, other] = archive.bundle(1).recoding.unwrap().workers;
    let step = plan(&archive, &terms(24)).steps.remove(0);
    assert_eq!(step.work, RecodeWork::Decode);
    assert!(step.order.worker != first && step.order.worker != other);
    assert!(step.order.sources.len() >= 8 && step.order.sources.iter().all(|(index, _)| index.0 >= 8));
    // Whatever the leader says, apply takes no worker's word for its own work, nor two of one domain.
    for worker in [24, 25] {
        assert!(matches!(
            finish(&mut archive, 1, 8, worker),
            CommandOutcome::Rejected(RejectReason::Malformed(_))
        ));
    }
    assert_eq!(scheme(&archive, 1), (4, 12, 2));
    archive.publish(2, (4, 12), &(0..12).collect::<Vec<_>>());
    archive.join(25, "domain-24");
    for workers in [[24, 25], [24, 24]] {
        let refused = begin(&mut archive, 2, (8, 24), workers);
        assert!(matches!(refused, CommandOutcome::Rejected(RejectReason::Malformed(_))), "{refused:?}");
    }
    assert_eq!(
        begin(&mut archive, 2, (8, 24), [24, 99]),
        CommandOutcome::Rejected(RejectReason::UnknownNode)
    );
}

#[test]
fn a_worker_that_lies_is_contradicted_and_neither_is_believed() {
    let mut archive = Archive::of(24);
    archive.publish(1, (4, 12), &(0..12).collect::<Vec<_>>());
    let (bundle, scheme) = (archive.bundle(1), Scheme::new(8, 24).unwrap());
    let answer = |node, coding_header: &[u8]| RootsAnswer {
        worker: node_id(node),
        coding_header: coding_header.to_vec(),
    };
    let truth = headers(1, 8, Vec::new()).1.to_bytes();
    let mut lie = truth.clone();
    *lie.last_mut().unwrap() ^= 1;
    for headers in [[&truth, &lie], [&lie, &truth]] {
        let judged = judge_roots(&bundle, scheme, [answer(1, headers[0]), answer(2, headers[1])]);
        let (one, other) = (node_id(1).short(), node_id(2).short());
        assert_eq!(judged, Err(RootsError::Disagree { one, other }));
    }
    let both = |header: &[u8]| judge_roots(&bundle, scheme, [answer(1, header), answer(2, header)]);
    assert!(matches!(both(b"nonsense"), Err(RootsError::NoCoding { .. })));
    assert!(matches!(both(&headers(2, 8, Vec::new()).1.to_bytes()), Err(RootsError::NoCoding { .. })));
    let sixteen = headers(1, 16, Vec::new()).1.to_bytes();
    assert!(matches!(both(&sixteen), Err(RootsError::OtherK { .. })));
    let begin = both(&truth).unwrap();
    assert_eq!(archive.run(begin), CommandOutcome::Applied);
    assert_eq!(archive.bundle(1).codings[1].id, coding_id(1, 8));
}

#[test]
fn a_second_coding_counts_only_with_as_many_receipts_as_a_commit_needs() {
    let mut archive = in_transition(9);
    let few = finish(&mut archive, 1, 8, 26);
    assert_eq!(few, CommandOutcome::Rejected(RejectReason::TooFewReceipts { found: 15, needed: 16 }));
    place(&mut archive, 1, 8, &(0..16).collect::<Vec<_>>());
    assert_eq!(finish(&mut archive, 1, 8, 26), CommandOutcome::Applied);
    assert_eq!(scheme(&archive, 1), (8, 24, 1));
    assert_eq!(archive.surplus().len(), 12);
}

#[test]
fn no_coding_is_begun_twice_nor_for_a_smaller_k_nor_under_an_upload() {
    let mut archive = in_transition(0);
    let changed = |outcome| matches!(outcome, CommandOutcome::Rejected(RejectReason::BundleChanged(_)));
    assert!(changed(begin(&mut archive, 1, (8, 24), [24, 25])));
    assert_eq!(finish(&mut archive, 1, 8, 26), CommandOutcome::Applied);
    assert!(changed(finish(&mut archive, 1, 8, 26)), "it is done");
    assert!(changed(begin(&mut archive, 1, (4, 12), [24, 25])));
    assert_eq!(
        begin(&mut archive, 9, (8, 24), [24, 25]),
        CommandOutcome::Rejected(RejectReason::UnknownBundle)
    );
    archive.reserve(2, (4, 12), &(0..12).collect::<Vec<_>>());
    archive.commit(2, &(0..11).collect::<Vec<_>>(), Vec::new());
    assert!(changed(begin(&mut archive, 2, (8, 24), [24, 25])), "a late receipt may come");
}

#[test]
fn a_new_leader_goes_on_where_the_one_before_stopped() {
    // Orders are the leader's alone; what is committed tells the next step.
    let archive = in_transition(5);
    let step = plan(&archive, &terms(0)).steps.remove(0);
    assert_eq!(step.work, RecodeWork::Shards);
    assert_eq!(step.order.made_of, Some(coding_id(1, 4)));
    let made: Vec<u8> = step.order.targets.iter().map(|(index, _)| index.0).collect();
    assert_eq!(made, [19, 20, 21, 22, 23]);
    assert!(step.order.targets.iter().all(|(_, node)| node.0 >= 19), "{:?}", step.order.targets);
}

#[test]
fn what_has_no_home_for_now_does_not_hold_up_a_coding_that_could_wait_for_repair() {
    let mut archive = in_transition(3);
    archive.wait(11_000);
    archive.hear_all_but(&[21, 22, 23, 24, 25]);
    // One node of those that hold none is left: it gets a shard, then the rest waits.
    let step = plan(&archive, &terms(0)).steps.remove(0);
    assert_eq!((step.work, step.order.targets.len()), (RecodeWork::Shards, 1));
    place(&mut archive, 1, 8, &[(0..21).collect::<Vec<_>>(), vec![26]].concat());
    let step = plan(&archive, &terms(0)).steps.remove(0);
    assert_eq!(step.work, RecodeWork::Decode);
}

#[test]
fn a_second_coding_is_given_up_when_the_fleet_shrinks_or_a_day_has_passed() {
    let mut archive = in_transition(5);
    for node in 20..24 {
        archive.set_state(node, NodeState::Lost);
    }
    let next = plan(&archive, &terms(0));
    assert_eq!((next.steps.len(), &next.drops), (0, &vec![(BundleNumber(0), coding_id(1, 8))]));
    carry_out(&mut archive, next);
    assert_eq!(scheme(&archive, 1), (4, 12, 1));
    assert_eq!(archive.surplus().len(), 19);
    assert_eq!(archive.bundle(1).recoding, None);

    let mut archive = in_transition(5);
    archive.wait(24 * 3_600_000 + 1);
    archive.hear_all_but(&[]);
    assert_eq!(plan(&archive, &terms(24)).drops.len(), 1);
    // Begun again, the same copies count once they are placed, and only once against quotas.
    archive.run(Command::DropRecoding { bundle: bundle_id(1), coding: coding_id(1, 8) });
    settle(&mut archive, &terms(24));
    assert_eq!(scheme(&archive, 1), (8, 24, 1));
}

#[test]
fn a_coding_whose_decoder_refuses_is_dropped_and_the_old_one_stays_whole() {
    let mut archive = in_transition(0);
    let before = archive.placements(1);
    let dropped = archive.run(Command::DropRecoding { bundle: bundle_id(1), coding: coding_id(1, 8) });
    assert_eq!(dropped, CommandOutcome::Applied);
    assert_eq!(archive.placements(1), before);
    let repairs = archive.planning(|view| plan_repairs(view, &BUDGET, SEED));
    assert_eq!((repairs.builds.len(), repairs.health.full), (0, 1));
}

#[test]
fn a_bundle_in_transition_is_repaired_by_its_old_coding() {
    let mut archive = in_transition(0);
    archive.set_state(3, NodeState::Lost);
    let repairs = archive.planning(|view| plan_repairs(view, &BUDGET, SEED));
    assert_eq!(repairs.builds[0].coding, coding_id(1, 4));
    assert_eq!(repairs.builds[0].targets[0].0, ShardIndex(3));
}

#[test]
fn an_inventory_is_held_against_shards_of_both_codings() {
    let mut archive = in_transition(0);
    archive.wait(1000);
    let inventory = firn_coordinator_logic::Inventory {
        shards: vec![(coding_id(1, 4), ShardIndex(0))],
        wanted_since: archive.now,
    };
    let findings = archive.planning(|view| compare_inventory(view, NodeNumber(0), &inventory, |_| None));
    let missing =
        PlacementChange::Missing { coding: coding_id(1, 8), index: ShardIndex(0), node: node_id(0) };
    assert_eq!(findings.missing, [missing]);
    // A shard of the second coding that nobody else has is taken in.
    let coding = coding_id(1, 8);
    let lost = PlacementChange::Missing { coding, index: ShardIndex(0), node: node_id(0) };
    archive.run(Command::RecordPlacements(vec![lost]));
    let mut shards = vec![(coding_id(1, 4), ShardIndex(0)), (coding, ShardIndex(0))];
    shards.sort_unstable();
    let inventory = firn_coordinator_logic::Inventory { shards, wanted_since: archive.now };
    let findings = archive.planning(|view| compare_inventory(view, NodeNumber(0), &inventory, |_| None));
    assert_eq!((findings.adopt, findings.unknown), (vec![(coding, ShardIndex(0))], 0));
}

#[test]
fn what_a_build_left_behind_of_a_coding_that_was_given_up_is_trashed_and_unknown_shards_are_kept() {
    let mut archive = in_transition(24);
    archive.run(Command::DropRecoding { bundle: bundle_id(1), coding: coding_id(1, 8) });
    // Its receipt came too late to be recorded.
    place(&mut archive, 1, 8, &[20]);
    assert_eq!(archive.node(20).assigned_bytes, 0);
    let mut shards = vec![(coding_id(1, 8), ShardIndex(0)), (coding_id(9, 8), ShardIndex(0))];
    shards.sort_unstable();
    let inventory = firn_coordinator_logic::Inventory { shards, wanted_since: archive.now };
    let compare = |archive: &Archive| {
        let file_bytes = |coding| {
            let Ok(bytes) = replaced_file_bytes(&archive.state, coding);
            bytes
        };
        archive.planning(|view| compare_inventory(view, NodeNumber(20), &inventory, file_bytes))
    };
    let findings = compare(&archive);
    assert_eq!((findings.replaced, findings.unknown), (vec![(coding_id(1, 8), ShardIndex(0))], 1));
    assert!(!findings.postponed);
    for own in [coding_id(1, 4), coding_id(9, 4)] {
        assert_eq!(replaced_file_bytes(&archive.state, own), Ok(None));
    }
    // A node is not asked for more than it says it would delete: it would refuse, and raise an alarm.
    archive.hear_room(20, 1, 1);
    let findings = compare(&archive);
    assert_eq!((findings.replaced, findings.unknown, findings.postponed), (Vec::new(), 1, true));
}

#[test]
fn a_removed_holder_of_the_old_coding_leaves_nothing_to_trash() {
    let mut archive = in_transition(0);
    archive.set_state(3, NodeState::Lost);
    assert_eq!(finish(&mut archive, 1, 8, 26), CommandOutcome::Applied);
    assert!(archive.surplus().iter().all(|(node, _)| *node != 3));
    assert_eq!(archive.surplus().len(), 11);
}

#[test]
fn states_that_differ_in_who_vouched_for_a_coding_have_different_digests() {
    let one = in_transition(0);
    let mut other = Archive::of(27);
    other.publish(1, (4, 12), &(0..12).collect::<Vec<_>>());
    begin(&mut other, 1, (8, 24), [24, 26]);
    place(&mut other, 1, 8, &(0..24).collect::<Vec<_>>());
    assert_ne!(full_digest(&one.state), full_digest(&other.state));
    let Ok(bundles) = other.state.bundles_from(BundleNumber(0), 10);
    assert_eq!(bundles[0].codings[1].scheme, Scheme::new(8, 24).unwrap());
    assert_eq!(Duration::from_millis(bundles[0].recoding.unwrap().begun.as_millis()).as_secs(), 1000);
}
