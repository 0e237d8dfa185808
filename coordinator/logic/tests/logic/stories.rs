//! Stories of fleets: what happens to them, and what the leader decides upon it.
//!
//! Each story is a text. Lines that begin with `>` are events; below each stands what the leader decides from then on
//! until nothing is left to do, as if everything that it orders succeeded at once, and how the bundles are then.
//!
//! `join 0-5`, `publish 1 4/6 on 0-5`, `silent 3`, `back 3`, `lost 3`, `drain 3`, `pass 71h`, `count-lost-after 20m`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use firn_base::{BundleNumber, CodingId, Scheme, ShardIndex, Timestamp, parse_duration};
use firn_coordinator_logic::{
    BrakeFacts, BrakeState, BuildPlan, Catalogue, FleetView, HealthIndex, LossWatch, NodeNumber, PassPlan,
    PlanningView, RecodeStep, RecodeWork, Scan, SteadyWidth, brake, classify, default_policy, plan_pass,
};
use firn_wire::{Command, CommandOutcome, LedgerAct, NodeState, PlacementChange, Policy};

use crate::support::{Archive, bundle_id, headers, node_id, trashed};

const SEED: [u8; 32] = [7; 32];
const RECODE_AFTER: Duration = Duration::from_secs(3600);
/// Looks after one event: a plan that never comes to rest is a fault.
const LOOKS_MAX: usize = 60;

/// A fleet, and the leader's memory of it.
struct Story {
    archive: Archive,
    began: Timestamp,
    silent: BTreeSet<u32>,
    health: HealthIndex,
    losses: LossWatch,
    steady: SteadyWidth,
}

impl Story {
    fn new() -> Self {
        let archive = Archive::of(0);
        Self {
            began: archive.now,
            archive,
            silent: BTreeSet::new(),
            health: HealthIndex::new(),
            losses: LossWatch::new(),
            steady: SteadyWidth::new(RECODE_AFTER),
        }
    }

    /// Lets an event happen.
    fn happen(&mut self, event: &str) {
        let words: Vec<&str> = event.split_whitespace().collect();
        match words[..] {
            ["join", ref nodes @ ..] => {
                for node in numbers(nodes) {
                    let joined = self.archive.join(node, &format!("house-{node}"));
                    assert_eq!(joined, CommandOutcome::Applied);
                    self.archive.hear(node);
                }
            }
            ["publish", tag, scheme, "on", ref nodes @ ..] => {
                let (k, n) = scheme.split_once('/').unwrap();
                let scheme = (k.parse().unwrap(), n.parse().unwrap());
                self.archive.publish(tag.parse().unwrap(), scheme, &numbers(nodes));
            }
            ["silent", ref nodes @ ..] => self.silent.extend(numbers(nodes)),
            ["back", ref nodes @ ..] => {
                for node in numbers(nodes) {
                    self.silent.remove(&node);
                    self.archive.hear(node);
                }
            }
            ["lost", ref nodes @ ..] => {
                for node in numbers(nodes) {
                    assert_eq!(self.archive.set_state(node, NodeState::Lost), CommandOutcome::Applied);
                }
            }
            ["drain", ref nodes @ ..] => {
                for node in numbers(nodes) {
                    assert_eq!(self.archive.set_state(node, NodeState::Draining), CommandOutcome::Applied);
                }
            }
            ["count-lost-after", time] => {
                let count_lost_after = parse_duration(time).unwrap();
                let policy = Policy {
                    count_lost_after_millis: u64::try_from(count_lost_after.as_millis()).unwrap(),
                    ..default_policy()
                };
                self.archive.run(Command::Govern(LedgerAct::SetPolicy(policy)));
            }
            ["pass", time] => {
                let time = parse_duration(time).unwrap();
                self.archive.wait(u64::try_from(time.as_millis()).unwrap());
                let silent: Vec<u32> = self.silent.iter().copied().collect();
                self.archive.hear_all_but(&silent);
            }
            _ => panic!("this is no event: {event}"),
        }
    }

    /// Looks at the fleet and decides until nothing is left to do; tells it.
    fn tell(&mut self) -> String {
        let (mut told, mut idle) = (String::new(), 0);
        for _ in 0..LOOKS_MAX {
            let (state, plan) = self.look();
            let mut lines = self.describe(&plan);
            self.carry_out(plan);
            idle = if lines.is_empty() { idle + 1 } else { 0 };
            // What one look sees counts for the next.
            if idle == 2 {
                if let Some(wait) = state.wait() {
                    let seconds = wait.until.since(self.archive.now).as_secs();
                    lines = format!("repair that is not urgent waits: {:?}, {seconds} s\n", wait.reason);
                }
                return told + &lines + &self.bundles();
            }
            told.push_str(&lines);
        }
        panic!("the leader never comes to rest:\n{told}");
    }

    fn look(&mut self) -> (BrakeState, PassPlan) {
        let archive = &self.archive;
        let now = archive.now;
        let Ok(catalogue) = Catalogue::load(&archive.state);
        let fleet = FleetView::new(&catalogue, &archive.watch, &archive.orders, now);
        let all = catalogue.bundles().map(|bundle| bundle.number).collect();
        self.health.update(&catalogue, &fleet, &all, now);
        self.losses.observe(&fleet, now);
        let (members, members_online, capacity) = fleet.members();
        let brake = brake(&BrakeFacts {
            now,
            leader_since: self.began,
            enabled: catalogue.policy().brake,
            members,
            members_online,
            capacity,
            departures: fleet.departures(now),
            losses_settled_at: self.losses.settled_at(),
            disk_windows: None,
        });
        let (health, orders) = (&self.health, &archive.orders);
        let view = PlanningView { catalogue: &catalogue, fleet: &fleet, health, orders, brake, now };
        let plan = plan_pass(&view, self.steady.least(now), SEED);
        self.steady.observe(plan.width, now);
        (brake, plan)
    }

    fn describe(&self, plan: &PassPlan) -> String {
        let mut lines = String::new();
        for change in &plan.tidying.changes {
            writeln!(lines, "{}", self.describe_change(change)).unwrap();
        }
        for deletion in &plan.tidying.trash {
            let (node, coding, index) = deletion.copy;
            let bundle = self.bundle_of(coding);
            writeln!(
                lines,
                "bundle {bundle}: {node} trashes shard {index}, {:?}",
                deletion.reason,
                node = node.0
            )
            .unwrap();
        }
        for build in &plan.repairs.builds {
            writeln!(lines, "repair ({:?}) {}", build.cause, describe_build(build)).unwrap();
        }
        for build in &plan.moves.builds {
            writeln!(lines, "move {}", describe_build(build)).unwrap();
        }
        for step in &plan.recoding.steps {
            writeln!(lines, "re-code {}", describe_step(step)).unwrap();
        }
        for (bundle, _) in &plan.recoding.drops {
            writeln!(lines, "re-code bundle {}: given up", tag(*bundle)).unwrap();
        }
        for node in &plan.drained {
            let record = self.archive.nodes().into_iter().find(|record| record.id == *node).unwrap();
            writeln!(lines, "{} is gone: nothing counts on it any more", record.number.0).unwrap();
        }
        lines
    }

    fn describe_change(&self, change: &PlacementChange) -> String {
        let (what, coding, index, node) = match change {
            PlacementChange::Placed { coding, index, node } => ("counts again", coding, index, node),
            PlacementChange::Retired { coding, index, node } => ("is surplus", coding, index, node),
            PlacementChange::Missing { coding, index, node } => ("is struck off", coding, index, node),
            PlacementChange::Trashed { coding, index, node } => ("is forgotten", coding, index, node),
            other => return format!("{other:?}"),
        };
        let holder = self.archive.nodes().into_iter().find(|record| record.id == *node).unwrap();
        format!("bundle {}: shard {index} on {} {what}", self.bundle_of(*coding), holder.number.0)
    }

    /// Everything ordered succeeds.
    fn carry_out(&mut self, plan: PassPlan) {
        let archive = &mut self.archive;
        let mut changes = plan.tidying.changes;
        changes.extend(trashed(&plan.tidying.trash));
        for build in plan.repairs.builds.into_iter().chain(plan.moves.builds) {
            changes.extend(placed(&build));
            changes.extend(build.retire.iter().map(|(index, node)| PlacementChange::Retired {
                coding: build.coding,
                index: *index,
                node: node_id(node.0),
            }));
        }
        if !changes.is_empty() {
            assert_eq!(archive.run(Command::RecordPlacements(changes)), CommandOutcome::Applied);
        }
        for step in plan.recoding.steps {
            let bundle = bundle_id(tag(step.order.bundle));
            let command = match step.work {
                RecodeWork::Roots { other, scheme } => Command::BeginRecoding {
                    bundle,
                    coding_header: headers(tag(step.order.bundle), scheme.k(), Vec::new()).1.to_bytes(),
                    n: scheme.n(),
                    workers: [step.order.worker, other].map(|node| node_id(node.0)),
                },
                RecodeWork::Shards => Command::RecordPlacements(placed(&step.order)),
                RecodeWork::Decode => {
                    let (coding, decoder) = (step.order.coding, node_id(step.order.worker.0));
                    Command::FinishRecoding { bundle, coding, decoder }
                }
            };
            assert_eq!(archive.run(command), CommandOutcome::Applied);
        }
        for (bundle, coding) in plan.recoding.drops {
            let bundle = bundle_id(tag(bundle));
            assert_eq!(archive.run(Command::DropRecoding { bundle, coding }), CommandOutcome::Applied);
        }
        for node in plan.drained {
            let command = Command::SetNodeState { node, state: NodeState::Gone };
            assert_eq!(archive.run(command), CommandOutcome::Applied);
        }
    }

    /// How the bundles are: those alike in one line.
    fn bundles(&self) -> String {
        let mut kinds: Vec<(String, Vec<u8>)> = Vec::new();
        self.archive.planning(|view| {
            for bundle in view.catalogue.bundles() {
                let health = classify(bundle, view.fleet);
                let kind = format!(
                    "{} {:?}, {} durable, {} online",
                    bundle.scheme, health.class, health.durable, health.online
                );
                match kinds.iter_mut().find(|(own, _)| *own == kind) {
                    Some((_, tags)) => tags.push(tag(bundle.number)),
                    None => kinds.push((kind, vec![tag(bundle.number)])),
                }
            }
        });
        let line = |(kind, tags): &(String, Vec<u8>)| {
            let tags: Vec<String> = tags.iter().map(u8::to_string).collect();
            format!("= bundle {}: {kind}\n", tags.join(" "))
        };
        kinds.iter().map(line).collect()
    }

    fn bundle_of(&self, coding: CodingId) -> u8 {
        let Ok(bundles) = self.archive.state.bundles_from(BundleNumber(0), usize::MAX);
        let schemes = [1, 2, 4, 8, 16];
        let is_of = |number: BundleNumber| {
            schemes.iter().any(|k| headers(tag(number), *k, Vec::new()).1.coding_id() == coding)
        };
        tag(bundles.iter().map(|bundle| bundle.number).find(|number| is_of(*number)).unwrap())
    }
}

/// Bundles are published in the order of their tags, which begin at 1.
fn tag(bundle: BundleNumber) -> u8 {
    u8::try_from(bundle.0 + 1).unwrap()
}

/// `0-3 7` are 0 1 2 3 7.
fn numbers(words: &[&str]) -> Vec<u32> {
    let range = |word: &&str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        first.parse().unwrap()..=last.parse().unwrap()
    };
    words.iter().flat_map(range).collect()
}

/// 0 1 2 3 7 are `0-3 7`.
fn ranges(numbers: impl Iterator<Item = u32>) -> String {
    let sorted: BTreeSet<u32> = numbers.collect();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in sorted {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let range = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(" ")
}

fn nodes(copies: &[(ShardIndex, NodeNumber)]) -> String {
    ranges(copies.iter().map(|(_, node)| node.0))
}

fn shards(copies: &[(ShardIndex, NodeNumber)]) -> String {
    ranges(copies.iter().map(|(index, _)| u32::from(index.0)))
}

fn describe_build(build: &BuildPlan) -> String {
    let retired = match build.retire.as_slice() {
        [] => String::new(),
        copies => format!(", in place of {}", nodes(copies)),
    };
    format!(
        "bundle {}: {} makes shards {} for {}{retired}",
        tag(build.bundle),
        build.worker.0,
        shards(&build.targets),
        nodes(&build.targets)
    )
}

fn describe_step(step: &RecodeStep) -> String {
    let (bundle, worker) = (tag(step.order.bundle), step.order.worker.0);
    match step.work {
        RecodeWork::Roots { other, scheme } => {
            format!("bundle {bundle} for {}: {worker} and {} compute the roots", describe(scheme), other.0)
        }
        RecodeWork::Shards => format!(
            "bundle {bundle}: {worker} makes shards {} for {}",
            shards(&step.order.targets),
            nodes(&step.order.targets)
        ),
        RecodeWork::Decode => format!("bundle {bundle}: {worker} decodes the payload from parity"),
    }
}

fn describe(scheme: Scheme) -> String {
    scheme.to_string()
}

fn placed(build: &BuildPlan) -> Vec<PlacementChange> {
    let placed = build.targets.iter().map(|(index, node)| PlacementChange::Placed {
        coding: build.coding,
        index: *index,
        node: node_id(node.0),
    });
    placed.collect()
}

/// Tells the story of `text` anew, and compares.
#[track_caller]
fn retell(text: &str) {
    let mut story = Story::new();
    let mut told = String::new();
    for line in text.lines() {
        if let Some(event) = line.strip_prefix("> ") {
            story.happen(event);
            told.push_str(&format!("{line}\n{}", story.tell()));
        } else if line.is_empty() || line.starts_with('#') {
            told.push_str(&format!("{line}\n"));
        }
    }
    assert!(told == text, "the story is now:\n{told}");
}

#[test]
fn a_small_fleet_loses_a_node_finds_another_again_and_lets_one_go() {
    retell(include_str!("stories/small.txt"));
}

#[test]
fn a_third_of_a_large_fleet_is_away_for_two_hours_and_nothing_moves() {
    retell(include_str!("stories/away.txt"));
}

#[test]
fn an_archive_that_soon_counts_silent_nodes_as_lost_counts_each_once() {
    retell(include_str!("stories/impatient.txt"));
}

#[test]
fn a_fleet_grows_until_its_bundles_are_coded_anew() {
    retell(include_str!("stories/growth.txt"));
}
