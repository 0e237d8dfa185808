//! Stories of a `public` fleet whose nodes move: a script of events, and what the leader does after each.
//!
//! A story is a text in `tests/stories`: a line that begins with `>` is an event, the lines below it are what followed.
//! On a mismatch the test prints the whole story as it goes now. Events:
//!
//! - `fleet NODES networks N countries C`: nodes 0, 1, … each of an operator, failure domain and prefix of its own,
//!   node i in network i mod N and country i mod C; without `networks` there is no table;
//! - `join NODE in NETWORK COUNTRY`: one more node;
//! - `table networks N countries C`: from now on there is a table that says so of all nodes;
//! - `publish TAG`: a bundle, placed as the leader places it;
//! - `move NODE to OTHER`: the node is seen at the prefix of another from now on; `move NODE home`: at its own;
//! - `wait DAYS`: so many days pass, with a summary every ten minutes, and all builds that are planned are carried out;
//! - `leader`: another coordinator leads, and has heard nobody yet;
//! - `caps`: the caps and how they are kept; `where TAG`: who holds which shard.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use firn_base::{AddressPrefix, Timestamp, TokenId};
use firn_coordinator_logic::{
    AddressTable, BuildCause, FleetWatch, HealthIndex, PlacementRequest, WidthMemory, caps_status,
    choose_scheme, place_of, plan_moves, plan_placement, plan_repairs, plan_tidying,
};
use firn_wire::{Command, CommandOutcome, DomainRule, LedgerAct, PlacementChange, Policy};

use crate::support::{Archive, BUDGET, QUOTA_BYTES, entry, headers, node_id};

const SUMMARY_MILLIS: u64 = 600_000;
const DAY_MILLIS: u64 = 86_400_000;

/// An archive, and where its nodes are.
struct Story {
    archive: Archive,
    /// Network and country at the home of each node, by the table.
    ranges: BTreeMap<u32, (u32, u32)>,
    /// Where each node is seen now.
    at: BTreeMap<u32, AddressPrefix>,
    began: Timestamp,
    told: String,
}

fn home(node: u32) -> AddressPrefix {
    let [_, _, high, low] = node.to_be_bytes();
    AddressPrefix::V4([10, high, low])
}

impl Story {
    fn new() -> Self {
        let mut archive = Archive::of(0);
        let policy = Policy { domains: DomainRule::Public, ..firn_coordinator_logic::default_policy() };
        archive.run(Command::Govern(LedgerAct::SetPolicy(policy)));
        let began = archive.now;
        Self { archive, ranges: BTreeMap::new(), at: BTreeMap::new(), began, told: String::new() }
    }

    /// Puts node i in network i mod `networks` and country i mod `countries`.
    fn spread(&mut self, nodes: u32, (networks, countries): (&str, &str)) {
        let (networks, countries): (u32, u32) = (networks.parse().unwrap(), countries.parse().unwrap());
        self.ranges = (0..nodes).map(|node| (node, (100 + node % networks, node % countries))).collect();
    }

    fn table(&self) -> Option<AddressTable> {
        let line = |(node, (network, country)): (&u32, &(u32, u32))| {
            let letter = char::from(b'A' + u8::try_from(*country).unwrap());
            let (first, last) = (home(*node).first(), home(*node).last());
            format!("{first}\t{last}\t{network}\tX{letter}\tname\n")
        };
        let text: String = self.ranges.iter().map(line).collect();
        (!text.is_empty()).then(|| AddressTable::parse(&text).unwrap())
    }

    fn tell(&mut self, line: impl AsRef<str>) {
        writeln!(self.told, "  {}", line.as_ref()).unwrap();
    }

    /// Days since the beginning, by tenths.
    fn day(&self) -> String {
        let tenths = (self.archive.now.as_millis() - self.began.as_millis()) / (DAY_MILLIS / 10);
        format!("day {}.{}", tenths / 10, tenths % 10)
    }

    fn join(&mut self, node: u32, prefix: AddressPrefix) {
        let mut token = [0; 32];
        token[..4].copy_from_slice(&node.to_le_bytes());
        let outcome = self.archive.run(Command::JoinNode {
            node: node_id(node),
            operator: format!("operator-{node}"),
            failure_domain: format!("domain-{node}"),
            vouched: false,
            seen_at: Some(place_of(prefix, self.table().as_ref())),
            address: format!("h:{node}"),
            quota_bytes: QUOTA_BYTES,
            token: Some(TokenId::from_bytes(token)),
        });
        assert_eq!(outcome, CommandOutcome::Applied);
        self.at.insert(node, prefix);
        self.hear();
    }

    fn hear(&mut self) {
        for (node, prefix) in &self.at {
            self.archive.hear(*node);
            self.archive.watch.seen_at(self.archive.number(*node), *prefix);
        }
    }

    fn publish(&mut self, tag: u8) {
        let planned = self.archive.planning(|view| {
            let scheme = choose_scheme(view.fleet, &WidthMemory::new())?;
            let request = PlacementRequest { scheme, file_bytes: 70_000, avoid: &BTreeSet::new() };
            Some((scheme, plan_placement(view.fleet, &request, [tag; 32])))
        });
        let Some((scheme, placed)) = planned else { return self.tell("nobody can take a shard") };
        let placed = match placed {
            Ok(placed) => placed,
            Err(error) => return self.tell(error.to_string()),
        };
        let numbers: Vec<u32> = placed
            .iter()
            .map(|(_, id)| self.at.keys().copied().find(|node| node_id(*node) == *id).unwrap())
            .collect();
        let outcome = self.archive.reserve_as(tag, &headers(tag, scheme.k(), vec![]), scheme.n(), &numbers);
        assert_eq!(outcome, CommandOutcome::Applied);
        self.archive.commit(tag, &numbers, vec![entry(tag, &[])]);
        self.archive.run(Command::ExpireReservations(vec![crate::support::reservation_id(tag)]));
        self.tell(format!("{scheme}: {} shards placed", numbers.len()));
    }

    fn wait(&mut self, days: &str) {
        let (whole, tenths) = days.split_once('.').unwrap_or((days, "0"));
        let millis =
            whole.parse::<u64>().unwrap() * DAY_MILLIS + tenths.parse::<u64>().unwrap() * (DAY_MILLIS / 10);
        let (mut health, table) = (HealthIndex::new(), self.table());
        for _ in 0..millis / SUMMARY_MILLIS {
            self.archive.watch.measure_from(self.archive.now);
            // As seldom as a node may be heard and is online all the time.
            for _ in 0..SUMMARY_MILLIS / 10_000 {
                self.archive.wait(10_000);
                self.hear();
            }
            let records = self.archive.nodes();
            let nodes = self.archive.watch.summary(records.iter(), table.as_ref(), self.archive.now);
            self.archive.run(Command::Summary { nodes });
            self.mend(&mut health);
        }
    }

    /// Carries out whatever is planned, as the swarm would.
    fn mend(&mut self, health: &mut HealthIndex) {
        let (builds, tidied) = self.archive.planning_with(health, |view| {
            let mut builds = plan_repairs(view, &BUDGET, [1; 32]).builds;
            builds.extend(plan_moves(view, &BUDGET, [1; 32]).builds);
            (builds, plan_tidying(view, 100).changes)
        });
        let day = self.day();
        for build in builds {
            let verb = if build.cause == BuildCause::Move { "moves" } else { "is made" };
            for (index, to) in &build.targets {
                let from: Vec<_> =
                    build.retire.iter().map(|(_, node)| format!(" from node {}", node.0)).collect();
                let bundle = build.bundle.0;
                self.tell(format!(
                    "{day}: shard {index} of bundle {bundle} {verb}{} to node {}",
                    from.concat(),
                    to.0
                ));
            }
            let coding = build.coding;
            let placed = build.targets.iter().map(|(index, node)| PlacementChange::Placed {
                coding,
                index: *index,
                node: node_id(node.0),
            });
            let retired = build.retire.iter().map(|(index, node)| PlacementChange::Retired {
                coding,
                index: *index,
                node: node_id(node.0),
            });
            self.archive.run(Command::RecordPlacements(placed.chain(retired).collect()));
        }
        if !tidied.is_empty() {
            self.archive.run(Command::RecordPlacements(tidied));
        }
    }

    fn caps(&mut self) {
        let (caps, at_risk) = self.archive.planning(|view| {
            let repairs = plan_repairs(view, &BUDGET, [1; 32]);
            (caps_status(view, &repairs), repairs.health.at_risk)
        });
        let per_network = caps.per_network.map_or("not looked at".to_owned(), |most| format!("{most} each"));
        self.tell(format!(
            "width {}; {} networks, {per_network}; {} countries; {} unknown",
            caps.width, caps.networks, caps.countries, caps.unknown
        ));
        let next = caps.breaches.next_due.map(|due| {
            let tenths = due.since(self.began).as_millis() / u128::from(DAY_MILLIS / 10);
            format!(", due on day {}.{}", tenths / 10, tenths % 10)
        });
        let why: Vec<_> = caps.at_risk_by.iter().map(|count| count.cap.to_string()).collect();
        self.tell(format!(
            "together: {} bundles{}; at risk: {at_risk} {}",
            caps.breaches.bundles,
            next.unwrap_or_default(),
            why.join(", ")
        ));
    }

    fn carry_out(&mut self, event: &str) {
        let words: Vec<&str> = event.split_whitespace().collect();
        let number = |word: &str| word.parse::<u32>().unwrap();
        match words.as_slice() {
            ["fleet", nodes, rest @ ..] => {
                if let ["networks", networks, "countries", countries] = rest {
                    self.spread(number(nodes), (networks, countries));
                }
                (0..number(nodes)).for_each(|node| self.join(node, home(node)));
            }
            ["join", node, "in", network, country] => {
                self.ranges.insert(number(node), (number(network), number(country)));
                self.join(number(node), home(number(node)));
            }
            ["table", "networks", networks, "countries", countries] => {
                self.spread(u32::try_from(self.at.len()).unwrap(), (networks, countries));
            }
            ["publish", tag] => self.publish(tag.parse().unwrap()),
            ["move", node, "to", other] => drop(self.at.insert(number(node), home(number(other)))),
            ["move", node, "home"] => drop(self.at.insert(number(node), home(number(node)))),
            ["wait", days] => self.wait(days),
            ["leader"] => {
                self.archive.watch = FleetWatch::new(self.archive.now);
                self.hear();
            }
            ["caps"] => self.caps(),
            ["where", tag] => {
                let placed = self.archive.placements(tag.parse().unwrap());
                let placed: Vec<_> = placed.iter().map(|(index, node)| format!("{index}@{node}")).collect();
                self.tell(placed.join(" "));
            }
            _ => panic!("no event: {event}"),
        }
    }
}

#[track_caller]
fn told(text: &str) {
    let mut story = Story::new();
    for line in text.lines() {
        match line.strip_prefix("> ") {
            Some(event) => {
                writeln!(story.told, "{line}").unwrap();
                story.carry_out(event);
            }
            None if line.starts_with("  ") => {}
            None => writeln!(story.told, "{line}").unwrap(),
        }
    }
    assert!(story.told == text, "the story goes otherwise now:\n{}", story.told);
}

#[test]
fn the_story_of_a_node_that_moves() {
    told(include_str!("../stories/a_node_that_moves.txt"));
}

#[test]
fn the_story_of_an_archive_in_few_countries() {
    told(include_str!("../stories/few_countries.txt"));
}

#[test]
fn the_story_of_the_sixtieth_network() {
    told(include_str!("../stories/the_sixtieth_network.txt"));
}

#[test]
fn the_story_of_an_archive_that_gets_a_table() {
    told(include_str!("../stories/a_table_comes.txt"));
}
