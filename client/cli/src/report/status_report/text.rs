//! The archive at a glance, as people read it.

use std::fmt;

use firn_base::{ByteCount, Timestamp};
use firn_wire::{BundleFill, NodeState, PurgeSummary, RecodeProgress, SpareCount};

use super::{SchemeReport, StatusReport};
use crate::report::caps_report::CapsLines;
use crate::report::node_report::REFUSED_DELETIONS;
use crate::report::{counted, redundancy};
use crate::table::{Align, Table};

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
pub(super) fn spare_of_the_weakest(by_spare: &[SpareCount]) -> String {
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
