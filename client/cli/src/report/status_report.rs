//! The archive at a glance.

use std::collections::BTreeMap;
use std::fmt;

use firn_base::{ByteCount, Scheme, Timestamp};
use firn_wire::{
    ArchiveStatus, BundleFill, BundleHealthCounts, CapsStatus, DrainBacklog, NodeState, PurgeSummary,
    RecodeProgress, RepairWait, ReserveLevel, ReserveRoom, RestingNode, SpareCount,
};
use serde::Serialize;

use super::caps_report::CapsLines;
use super::coordinator_alarm::{ClockReport, DifferenceReport};
use super::node_report::REFUSED_DELETIONS;
use super::{counted, redundancy};
use crate::table::{Align, Table};

/// `k` of `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct SchemeReport {
    k: u8,
    n: u8,
}

impl From<Scheme> for SchemeReport {
    fn from(scheme: Scheme) -> Self {
        Self { k: scheme.k(), n: scheme.n() }
    }
}

impl fmt::Display for SchemeReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.k, self.n)
    }
}

#[derive(Debug, Serialize)]
struct CoordinatorReport {
    id: String,
    address: String,
    online: bool,
    leader: bool,
    votes: bool,
    lag: Option<u64>,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
struct NodesInState {
    all: u64,
    online: u64,
}

#[derive(Debug, Serialize)]
struct HealthReport {
    full: u64,
    degraded: u64,
    urgent: u64,
    lost: u64,
    unreadable: u64,
    at_risk: u64,
}

/// With a sentence for people where there is something to do.
#[derive(Debug, Serialize)]
struct ReserveReport {
    #[serde(flatten)]
    room: ReserveRoom,
    warning: Option<String>,
}

/// With a sentence for people.
#[derive(Debug, Serialize)]
struct WaitReport {
    #[serde(flatten)]
    wait: RepairWait,
    sentence: String,
}

/// [`ArchiveStatus`] as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct StatusReport {
    archive: String,
    at: u64,
    generation: u64,
    term: u64,
    applied: u64,
    coordinators: Vec<CoordinatorReport>,
    /// What to sign, where the roster does not name exactly the coordinators.
    roster: Option<String>,
    nodes: BTreeMap<String, NodesInState>,
    nodes_refusing_deletions: u64,
    scheme: Option<SchemeReport>,
    visible_keys: u64,
    held_keys: u64,
    external_references: u64,
    bundles: u64,
    payload: u64,
    stored: u64,
    capacity: u64,
    free: u64,
    reserve: Option<ReserveReport>,
    health: Option<HealthReport>,
    by_spare: Option<Vec<SpareCount>>,
    repair_backlog: Option<u64>,
    move_backlog: Option<u64>,
    drain_backlog: Option<DrainBacklog>,
    repair_wait: Option<WaitReport>,
    repair_traffic: Option<u64>,
    recoding: Option<RecodeProgress>,
    caps: Option<CapsStatus>,
    feed_head: u64,
    differing: Vec<DifferenceReport>,
    clocks_apart: Vec<ClockReport>,
    purges: PurgeSummary,
    fill: BundleFill,
    /// How many nodes rest for which reason; null where the coordinators do not say.
    resting: Option<BTreeMap<String, u64>>,
}

const STATES: [NodeState; 5] =
    [NodeState::Active, NodeState::Suspended, NodeState::Draining, NodeState::Gone, NodeState::Lost];

impl From<&ArchiveStatus> for StatusReport {
    fn from(status: &ArchiveStatus) -> Self {
        let coordinators = status.coordinators.iter().map(|coordinator| CoordinatorReport {
            id: coordinator.id.to_string(),
            address: coordinator.address.clone(),
            online: coordinator.online,
            leader: coordinator.leader,
            votes: coordinator.votes,
            lag: coordinator.lag,
        });
        // Every state is named, so that nobody has to ask whether it is there.
        let mut nodes: BTreeMap<_, _> =
            STATES.map(|state| (state.to_string(), NodesInState::default())).into();
        for (state, all, online) in &status.nodes {
            nodes.insert(state.to_string(), NodesInState { all: *all, online: *online });
        }
        let health = |counts: BundleHealthCounts| HealthReport {
            full: counts.full,
            degraded: counts.degraded,
            urgent: counts.urgent,
            lost: counts.lost,
            unreadable: counts.unreadable,
            at_risk: counts.at_risk,
        };
        let reserve = |room: ReserveRoom| ReserveReport {
            room,
            warning: (room.level != ReserveLevel::Enough).then(|| room.to_string()),
        };
        Self {
            archive: status.archive.to_string(),
            at: status.at.as_millis(),
            generation: status.generation,
            term: status.term,
            applied: status.applied,
            coordinators: coordinators.collect(),
            roster: (!status.roster_gap.is_closed()).then(|| status.roster_gap.to_string()),
            nodes,
            nodes_refusing_deletions: status.nodes_refusing_deletions,
            scheme: status.scheme.map(SchemeReport::from),
            visible_keys: status.visible_keys,
            held_keys: status.held_keys,
            external_references: status.external_references,
            bundles: status.bundles,
            payload: status.payload.0,
            stored: status.stored.0,
            capacity: status.capacity.0,
            free: status.free.0,
            reserve: status.reserve.map(reserve),
            health: status.health.map(health),
            by_spare: status.by_spare.clone(),
            repair_backlog: status.repair_backlog,
            move_backlog: status.move_backlog,
            drain_backlog: status.drain_backlog,
            repair_wait: status
                .repair_wait
                .map(|wait| WaitReport { wait, sentence: wait.sentence(status.at) }),
            repair_traffic: status.repair_traffic.map(|bytes| bytes.0),
            recoding: status.recoding,
            caps: status.caps.clone(),
            feed_head: status.feed_head,
            differing: status.differing.iter().map(DifferenceReport::from).collect(),
            clocks_apart: status.clocks_apart.iter().map(ClockReport::from).collect(),
            purges: status.purges,
            fill: status.fill,
            resting: None,
        }
    }
}

impl StatusReport {
    /// The same with the nodes that rest, if they are known.
    pub(crate) fn with_resting(self, nodes: Option<&[RestingNode]>) -> Self {
        let count = |nodes: &[RestingNode]| {
            let mut counts = BTreeMap::new();
            for node in nodes {
                *counts.entry(node.cause.to_string()).or_default() += 1;
            }
            counts
        };
        Self { resting: nodes.map(count), ..self }
    }
}

impl fmt::Display for StatusReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = Align::Left;
        let mut table = Table::new(&[("coordinator", left), ("address", left), ("state", left)]);
        for own in &self.coordinators {
            let id = own.id.chars().take(10).collect();
            let lag = match own.lag {
                Some(lag @ 1..) if !own.leader => format!(", {} behind", counted(lag, "command")),
                _ => String::new(),
            };
            let state = match (own.online, own.leader, own.votes) {
                (_, true, _) => "leads",
                (true, false, true) => "follows",
                (true, false, false) => "learns",
                (false, false, _) => "away",
            };
            table.row(vec![id, own.address.clone(), format!("{state}{lag}")]);
        }
        writeln!(formatter, "archive      {}", self.archive)?;
        writeln!(formatter, "{table}\n")?;
        if let Some(sentence) = &self.roster {
            writeln!(formatter, "attention    {sentence}")?;
        }
        for difference in &self.differing {
            writeln!(formatter, "attention    {}", difference.sentence)?;
        }
        for clock in &self.clocks_apart {
            writeln!(formatter, "attention    {}", clock.sentence)?;
        }
        let present = self.nodes.iter().filter(|(_, nodes)| nodes.all > 0);
        let nodes: Vec<String> = present
            .map(|(state, nodes)| format!("{} {state} ({} online)", nodes.all, nodes.online))
            .collect();
        let nodes = if nodes.is_empty() { "none".to_owned() } else { nodes.join(", ") };
        let scheme = match self.scheme {
            Some(SchemeReport { k, n }) => format!("any {k} of {n} shards restore a bundle"),
            None => "none: no node is active".to_owned(),
        };
        writeln!(formatter, "nodes        {nodes}")?;
        if let Some(resting) = self.resting.as_ref().filter(|resting| !resting.is_empty()) {
            let causes = resting.iter().map(|(cause, nodes)| format!("{nodes} {cause}"));
            writeln!(formatter, "rest         {}", causes.collect::<Vec<_>>().join(", "))?;
        }
        if self.nodes_refusing_deletions > 0 {
            writeln!(
                formatter,
                "attention    {} ordered to delete more than in a day and refused: {REFUSED_DELETIONS}",
                match self.nodes_refusing_deletions {
                    1 => "1 node was".to_owned(),
                    several => format!("{several} nodes were"),
                }
            )?;
        }
        writeln!(formatter, "scheme       {scheme}")?;
        writeln!(
            formatter,
            "objects      {} readable, {} waiting for a reference; {}",
            self.visible_keys,
            self.held_keys,
            counted(self.external_references, "external reference")
        )?;
        let bundles = match &self.health {
            None => "their health is not known: the leader does not answer".to_owned(),
            Some(health) => format!(
                "{} full, {} degraded, {} urgent, {} lost; {} unreadable now, {} at risk",
                health.full, health.degraded, health.urgent, health.lost, health.unreadable, health.at_risk
            ),
        };
        writeln!(formatter, "bundles      {}: {bundles}", self.bundles)?;
        if let Some(by_spare) = self.by_spare.as_deref().filter(|by_spare| !by_spare.is_empty()) {
            writeln!(formatter, "to spare     {}", spare_of_the_weakest(by_spare))?;
        }
        if self.fill.bundles > 0 {
            writeln!(formatter, "small        {}", small_sentence(self.fill))?;
        }
        let times =
            redundancy(self.stored, self.payload).map_or_else(String::new, |it| format!(" ({it:.2}x)"));
        writeln!(
            formatter,
            "bytes        {} of payload, {} stored{times}; {} free of {}",
            ByteCount(self.payload),
            ByteCount(self.stored),
            ByteCount(self.free),
            ByteCount(self.capacity)
        )?;
        if let Some(reserve) = &self.reserve {
            writeln!(formatter, "reserve      {}", reserve.room)?;
        }
        let work = match (self.repair_backlog, self.move_backlog, self.repair_traffic) {
            (Some(repairs), Some(moves), Some(traffic)) => format!(
                "{} to make, {} to move; {} read and sent so far",
                counted(repairs, "shard"),
                counted(moves, "shard"),
                ByteCount(traffic)
            ),
            _ => "not known: the leader does not answer".to_owned(),
        };
        write!(formatter, "repair       {work}")?;
        if let Some(wait) = &self.repair_wait {
            write!(formatter, "\nwait         {}", wait.sentence)?;
        }
        if let Some(RecodeProgress { older, under_way }) = self.recoding.filter(|recoding| recoding.older > 0)
        {
            let bundles = counted(older, "bundle");
            write!(
                formatter,
                "\nre-coding    {bundles} in a smaller k than the fleet allows, {under_way} under way"
            )?;
        }
        let drains = self.nodes.get(&NodeState::Draining.to_string()).is_some_and(|nodes| nodes.all > 0);
        if let Some(backlog) = self.drain_backlog.filter(|_| drains) {
            write!(formatter, "\ndrain        {backlog}")?;
        }
        if self.purges.under_way > 0 {
            write!(formatter, "\npurges       {}", purges_sentence(self.purges))?;
        }
        let at_risk = self.health.as_ref().map_or(0, |health| health.at_risk);
        let now = Timestamp::from_millis(self.at);
        match &self.caps {
            Some(caps) => CapsLines { caps, at_risk, now }.fmt(formatter),
            None => Ok(()),
        }
    }
}

/// How much lies in small bundles, and what to do about it.
fn small_sentence(fill: BundleFill) -> String {
    let BundleFill { bundles, payload, small_bundles, small_payload } = fill;
    let per_mille = u128::from(small_payload.0) * 1000 / u128::from(payload.0.max(1));
    let share = format!("{}.{} %", per_mille / 10, per_mille % 10);
    let more = if small_bundles > 1 && fill.exceeds(SMALL_PER_CENT) { ": see `firn compact`" } else { "" };
    format!(
        "{small_bundles} of {} under a quarter full, with {share} of the payload{more}",
        counted(bundles, "bundle")
    )
}

// More than this is worth packing anew, by the coordinators' rule.
const SMALL_PER_CENT: u8 = 5;

/// What is left to do of purges, and where to read more.
fn purges_sentence(purges: PurgeSummary) -> String {
    let PurgeSummary { under_way, to_repack, holders, waiting } = purges;
    let mut said = Vec::new();
    if to_repack > 0 {
        said.push(format!("{} to be packed anew by `firn repack`", counted(to_repack, "bundle")));
    }
    if holders > 0 {
        let gone = holders.saturating_sub(waiting);
        said.push(format!("gone from {gone} of {}", counted(holders, "holder")));
    }
    if said.is_empty() {
        said.push("shards go once readers know, and their replacements are whole".to_owned());
    }
    format!("{under_way} under way: {}; more by `firn-coordinator path purges`", said.join(", "))
}

// The weakest matter: of a large archive nobody reads on to the strongest.
const SPARES_SHOWN: usize = 4;

/// How many more shards the weakest bundles may lose.
fn spare_of_the_weakest(by_spare: &[SpareCount]) -> String {
    let (shown, others) = by_spare.split_at(by_spare.len().min(SPARES_SHOWN));
    let mut said: Vec<String> = shown
        .iter()
        .map(|count| {
            let shards = if count.spare == 1 { "shard" } else { "shards" };
            format!("{} can lose {} more {shards}", counted(count.bundles, "bundle"), count.spare)
        })
        .collect();
    let others: u64 = others.iter().map(|count| count.bundles).sum();
    if others > 0 {
        said.push(format!("{} even more", counted(others, "bundle")));
    }
    said.join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use firn_base::{ArchiveId, NodeId};
    use firn_wire::{
        BreachCount, ClockDifference, CoordinatorStatus, RepairWaitReason, RestCause, RosterGap,
        StateDifference,
    };

    use super::*;

    pub(crate) fn status() -> ArchiveStatus {
        let coordinator = |id, leader, online| CoordinatorStatus {
            id: NodeId::from_bytes([id; 32]),
            address: format!("127.0.0.1:{id}"),
            online,
            leader,
            votes: true,
            lag: Some(if leader { 0 } else { 2 }),
        };
        ArchiveStatus {
            archive: ArchiveId::from_bytes([0xab; 32]),
            at: Timestamp::from_millis(1_795_383_909_000),
            generation: 1,
            term: 2,
            applied: 30,
            coordinators: vec![coordinator(1, true, true), coordinator(2, false, false)],
            roster_gap: RosterGap { generation: 1, ..RosterGap::default() },
            nodes: vec![(NodeState::Active, 16, 15), (NodeState::Draining, 1, 1)],
            nodes_refusing_deletions: 0,
            scheme: Scheme::new(4, 12).ok(),
            visible_keys: 57,
            held_keys: 1,
            external_references: 2,
            bundles: 3,
            payload: ByteCount(1_000_000),
            stored: ByteCount(3_000_000),
            capacity: ByteCount(800_000_000_000),
            free: ByteCount(799_000_000_000),
            reserve: Some(ReserveRoom {
                capacity: ByteCount(800_000_000_000),
                free: ByteCount(799_000_000_000),
                kept: ByteCount(100_000_000_000),
                awaited: ByteCount(0),
                domains: 2,
                missing: ByteCount(0),
                level: ReserveLevel::Enough,
            }),
            health: Some(BundleHealthCounts { full: 2, degraded: 1, ..BundleHealthCounts::default() }),
            by_spare: Some(vec![SpareCount { spare: 7, bundles: 1 }, SpareCount { spare: 8, bundles: 2 }]),
            repair_backlog: Some(4),
            move_backlog: Some(1),
            drain_backlog: Some(DrainBacklog { to_move: 1, without_home: 0, home_unavailable: 1 }),
            repair_wait: None,
            repair_traffic: Some(ByteCount(12_000)),
            recoding: Some(RecodeProgress { older: 2, under_way: 1 }),
            caps: Some(CapsStatus {
                public: false,
                per_network: None,
                networks: 0,
                countries: 0,
                unknown: 0,
                width: 16,
                breaches: BreachCount::default(),
                at_risk_by: Vec::new(),
            }),
            feed_head: 60,
            differing: Vec::new(),
            clocks_apart: Vec::new(),
            purges: PurgeSummary::default(),
            fill: BundleFill {
                bundles: 3,
                payload: ByteCount(1_000_000),
                small_bundles: 2,
                small_payload: ByteCount(51_999),
            },
        }
    }

    const WAIT: RepairWait = RepairWait {
        reason: RepairWaitReason::FleetVanished,
        until: Timestamp::from_millis(1_795_387_509_001),
    };

    #[test]
    fn people_see_the_archive_at_a_glance() {
        let expected = format!(
            "archive      {}\n\
             coordinator  address      state\n\
             0101010101   127.0.0.1:1  leads\n\
             0202020202   127.0.0.1:2  away, 2 commands behind\n\
             \n\
             nodes        16 active (15 online), 1 draining (1 online)\n\
             scheme       any 4 of 12 shards restore a bundle\n\
             objects      57 readable, 1 waiting for a reference; 2 external references\n\
             bundles      3: 2 full, 1 degraded, 0 urgent, 0 lost; 0 unreadable now, 0 at risk\n\
             to spare     1 bundle can lose 7 more shards, 2 bundles can lose 8 more shards\n\
             small        2 of 3 bundles under a quarter full, with 5.1 % of the payload: see `firn compact`\n\
             bytes        1.0 MB of payload, 3.0 MB stored (3.00x); 799.0 GB free of 800.0 GB\n\
             reserve      100.0 GB of what is free is kept for repairs\n\
             repair       4 shards to make, 1 shard to move; 12.0 kB read and sent so far\n\
             re-coding    2 bundles in a smaller k than the fleet allows, 1 under way\n\
             drain        1 shard to move; it has no other home now, because the nodes that could be it are offline \
             or full: start them, or add a node in another failure domain",
            "ab".repeat(32)
        );
        assert_eq!(StatusReport::from(&status()).to_string(), expected);
    }

    #[test]
    fn a_roster_that_lacks_a_coordinator_is_a_sentence_and_learners_are_told_apart() {
        let mut status = status();
        status.coordinators[1].online = true;
        status.coordinators[1].votes = false;
        status.roster_gap.lacks.push(status.coordinators[1].id);
        let report = StatusReport::from(&status).to_string();
        assert!(report.contains("learns, 2 commands behind"), "{report}");
        let sentence = "\nattention    roster generation 1 lacks 0202020202: sign the next with `firn-coordinator roster sign`\n";
        assert!(report.contains(sentence), "{report}");
    }

    #[test]
    fn of_many_spares_the_smallest_are_told_and_the_others_summed() {
        let by_spare: Vec<_> = (1..8).map(|spare| SpareCount { spare, bundles: 10 }).collect();
        let said = spare_of_the_weakest(&by_spare);
        assert!(
            said.starts_with("10 bundles can lose 1 more shard, ") && said.ends_with("30 bundles even more")
        );
    }

    #[test]
    fn nothing_is_said_of_drains_while_no_node_drains() {
        let mut status = ArchiveStatus { drain_backlog: Some(DrainBacklog::default()), ..status() };
        assert!(StatusReport::from(&status).to_string().ends_with("\ndrain        no shard left to move"));
        status.nodes.retain(|(state, _, _)| *state != NodeState::Draining);
        assert!(!StatusReport::from(&status).to_string().contains("\ndrain "));
    }

    #[test]
    fn purges_under_way_are_a_line_and_done_ones_are_none() {
        let say = |purges| StatusReport::from(&ArchiveStatus { purges, ..status() }).to_string();
        assert!(
            !say(PurgeSummary { under_way: 0, to_repack: 0, holders: 40, waiting: 0 }).contains("purges")
        );
        let line = |purges| say(purges).lines().find(|line| line.starts_with("purges ")).unwrap().to_owned();
        assert_eq!(
            line(PurgeSummary { under_way: 2, to_repack: 0, holders: 40, waiting: 1 }),
            "purges       2 under way: gone from 39 of 40 holders; more by `firn-coordinator path purges`"
        );
        assert!(
            line(PurgeSummary { under_way: 1, to_repack: 1, ..PurgeSummary::default() })
                .contains("1 under way: 1 bundle to be packed anew by `firn repack`;")
        );
        let json = serde_json::to_value(StatusReport::from(&status())).unwrap();
        assert_eq!(json["purges"]["under_way"], 0);
    }

    #[test]
    fn what_lies_in_small_bundles_is_a_line_and_worth_a_hint_beyond_five_per_cent() {
        let say = |small_bundles, bytes| {
            let small_payload = ByteCount(bytes);
            let fill = BundleFill { small_bundles, small_payload, ..status().fill };
            let text = StatusReport::from(&ArchiveStatus { fill, ..status() }).to_string();
            text.lines().find(|line| line.starts_with("small ")).unwrap().to_owned()
        };
        assert_eq!(
            say(2, 50_000),
            "small        2 of 3 bundles under a quarter full, with 5.0 % of the payload"
        );
        assert!(say(2, 50_001).ends_with("with 5.0 % of the payload: see `firn compact`"));
        assert!(say(1, 999_999).ends_with("with 99.9 % of the payload"), "one alone has no other to go to");
        let none = ArchiveStatus { fill: BundleFill::default(), ..status() };
        assert!(!StatusReport::from(&none).to_string().contains("small "));
    }

    #[test]
    fn nodes_that_refuse_to_delete_are_a_sentence() {
        let say = |nodes| {
            StatusReport::from(&ArchiveStatus { nodes_refusing_deletions: nodes, ..status() }).to_string()
        };
        assert!(!say(0).contains("attention"));
        assert!(say(1).contains("\nattention    1 node was ordered to delete more"));
        assert!(say(2).contains("\nattention    2 nodes were ordered to delete more"));
    }

    #[test]
    fn a_reserve_that_runs_out_is_a_sentence_for_people_and_programs() {
        let full = ReserveRoom {
            free: ByteCount(70_000_000_000),
            missing: ByteCount(30_000_000_000),
            level: ReserveLevel::Exhausted,
            ..status().reserve.unwrap()
        };
        let report = StatusReport::from(&ArchiveStatus { reserve: Some(full), ..status() });
        let sentence = "publishing has stopped: the archive has 70.0 GB of space free and keeps 100.0 GB for repairs, \
                        in case its two largest failure domains vanish: add at least 30.0 GB of quota on storage nodes \
                        in other failure domains";
        assert!(report.to_string().contains(&format!("\nreserve      {sentence}\n")), "{report}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&json["reserve"]["level"], &json["reserve"]["warning"]),
            (&"exhausted".into(), &sentence.into())
        );
    }

    #[test]
    fn a_wait_of_repair_is_a_line_of_its_own() {
        let status = ArchiveStatus { repair_wait: Some(WAIT), ..status() };
        let report = StatusReport::from(&status).to_string();
        assert!(report.contains(&format!("so far\nwait         {}\n", WAIT.sentence(status.at))), "{report}");
    }

    #[test]
    fn a_coordinator_whose_state_differs_asks_for_attention() {
        let difference = StateDifference {
            coordinator: NodeId::from_bytes([2; 32]),
            applied: 29,
            content: true,
            governance: false,
            rest: true,
        };
        let report = StatusReport::from(&ArchiveStatus { differing: vec![difference], ..status() });
        let sentence = "attention    coordinator 0202020202 and the one that answers have different states (content, \
                        the rest at entry 29): one of them errs";
        assert!(report.to_string().contains(sentence), "{report}");
        assert!(!StatusReport::from(&status()).to_string().contains("attention"));
    }

    #[test]
    fn a_coordinator_whose_clock_is_wrong_asks_for_attention() {
        let difference =
            ClockDifference { coordinator: NodeId::from_bytes([2; 32]), ahead_millis: 31_536_000_000 };
        let report = StatusReport::from(&ArchiveStatus { clocks_apart: vec![difference], ..status() });
        let sentence = "attention    the clock of coordinator 0202020202 is 365.0 days ahead of the others: set it right, \
                        until then it does not lead";
        assert!(report.to_string().contains(sentence), "{report}");
    }

    #[test]
    fn the_fields_of_the_json_are_pinned() {
        let expected = format!(
            concat!(
                r#"{{"archive":"{archive}","at":1795383909000,"generation":1,"term":2,"applied":30,"#,
                r#""coordinators":[{{"id":"{one}","address":"127.0.0.1:1","online":true,"leader":true,"votes":true,"lag":0}},"#,
                r#"{{"id":"{two}","address":"127.0.0.1:2","online":false,"leader":false,"votes":true,"lag":2}}],"roster":null,"#,
                r#""nodes":{{"active":{{"all":16,"online":15}},"draining":{{"all":1,"online":1}},"#,
                r#""gone":{{"all":0,"online":0}},"lost":{{"all":0,"online":0}},"suspended":{{"all":0,"online":0}}}},"nodes_refusing_deletions":0,"#,
                r#""scheme":{{"k":4,"n":12}},"visible_keys":57,"held_keys":1,"external_references":2,"bundles":3,"#,
                r#""payload":1000000,"stored":3000000,"capacity":800000000000,"free":799000000000,"#,
                r#""reserve":{{"capacity":800000000000,"free":799000000000,"kept":100000000000,"awaited":0,"#,
                r#""domains":2,"missing":0,"level":"enough","warning":null}},"#,
                r#""health":{{"full":2,"degraded":1,"urgent":0,"lost":0,"unreadable":0,"at_risk":0}},"#,
                r#""by_spare":[{{"spare":7,"bundles":1}},{{"spare":8,"bundles":2}}],"#,
                r#""repair_backlog":4,"move_backlog":1,"#,
                r#""drain_backlog":{{"to_move":1,"without_home":0,"home_unavailable":1}},"#,
                r#""repair_wait":{{"reason":"fleet_vanished","until":1795387509001,"sentence":"{sentence}"}},"#,
                r#""repair_traffic":12000,"recoding":{{"older":2,"under_way":1}},"#,
                r#""caps":{{"public":false,"per_network":null,"networks":0,"countries":0,"unknown":0,"width":16,"#,
                r#""breaches":{{"bundles":0,"due":0,"next_due":null}},"at_risk_by":[]}},"feed_head":60,"differing":[],"clocks_apart":[],"#,
                r#""purges":{{"under_way":0,"to_repack":0,"holders":0,"waiting":0}},"#,
                r#""fill":{{"bundles":3,"payload":1000000,"small_bundles":2,"small_payload":51999}},"resting":null}}"#
            ),
            archive = "ab".repeat(32),
            one = "01".repeat(32),
            two = "02".repeat(32),
            sentence = WAIT.sentence(status().at),
        );
        let status = ArchiveStatus { repair_wait: Some(WAIT), ..status() };
        assert_eq!(serde_json::to_string(&StatusReport::from(&status)).unwrap(), expected);
    }

    #[test]
    fn nodes_that_rest_are_counted_by_the_reason_and_nothing_is_said_of_none() {
        let resting = |cause| RestingNode { node: NodeId::from_bytes([1; 32]), cause, until: None };
        let report = |nodes| StatusReport::from(&status()).with_resting(nodes);
        let nodes = [RestCause::Paused, RestCause::Absent, RestCause::Paused].map(resting);
        let text = report(Some(&nodes[..])).to_string();
        assert!(text.contains("\nrest         1 declared away, 2 paused\n"), "{text}");
        assert_eq!(serde_json::to_value(report(Some(&nodes))).unwrap()["resting"]["paused"], 2);
        for none in [None, Some(&[][..])] {
            assert!(!report(none).to_string().contains("\nrest "));
        }
    }

    #[test]
    fn a_follower_leaves_open_what_it_does_not_know() {
        let from_follower = ArchiveStatus { health: None, repair_backlog: None, scheme: None, ..status() };
        let report = StatusReport::from(&from_follower);
        assert!(report.to_string().contains("the leader does not answer"));
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["health"].is_null() && json["repair_backlog"].is_null() && json["scheme"].is_null());
    }
}
