//! Bundles in a list, and one bundle in full.

use std::collections::BTreeMap;
use std::fmt;

use firn_base::{ByteCount, NodeId, ShardIndex, Timestamp};
use firn_bundle::{BundleRole, ContentHeader};
use firn_wire::{BundleSummary, Cap, NodeSummary};
use serde::Serialize;

use super::SchemeReport;
use crate::table::{Align, Table};

#[derive(Debug, Clone, Serialize)]
struct PlacementReport {
    index: u8,
    nodes: Vec<String>,
}

/// [`BundleSummary`] as it is printed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BundleReport {
    number: u32,
    id: String,
    coding: String,
    scheme: SchemeReport,
    payload: u64,
    shard_bytes: u64,
    keys: u64,
    durable: u8,
    online: Option<u8>,
    /// Durable shards beyond k: how many may still be lost.
    spare: i16,
    placements: Vec<PlacementReport>,
    /// Since when more of its shards lie together than caps allow.
    together_since: Option<u64>,
    /// What other nodes share with holders, so that none can take what is missing; null if the bundle is not at risk.
    at_risk_by: Option<Vec<Cap>>,
    /// The coding that is being made beside it, if there is one.
    second: Option<SecondReport>,
}

#[derive(Debug, Clone, Serialize)]
struct SecondReport {
    coding: String,
    scheme: SchemeReport,
    shard_bytes: u64,
    placements: Vec<PlacementReport>,
}

/// One bundle with what its content header says.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BundleDetails {
    #[serde(flatten)]
    bundle: BundleReport,
    role: &'static str,
    dependencies: Vec<String>,
    #[serde(skip)]
    nodes: BTreeMap<String, NodeSummary>,
}

impl From<&BundleSummary> for BundleReport {
    fn from(bundle: &BundleSummary) -> Self {
        let second = bundle.second.as_ref().map(|second| SecondReport {
            coding: second.coding.to_string(),
            scheme: second.scheme.into(),
            shard_bytes: second.shard_bytes,
            placements: placement_reports(&second.placements),
        });
        Self {
            number: bundle.number.0,
            id: bundle.id.to_string(),
            coding: bundle.coding.to_string(),
            scheme: bundle.scheme.into(),
            payload: bundle.payload.0,
            shard_bytes: bundle.shard_bytes,
            keys: bundle.keys,
            durable: bundle.durable,
            online: bundle.online,
            spare: i16::from(bundle.durable) - i16::from(bundle.scheme.k()),
            placements: placement_reports(&bundle.placements),
            together_since: bundle.together_since.map(Timestamp::as_millis),
            at_risk_by: bundle.at_risk_by.clone(),
            second,
        }
    }
}

fn placement_reports(placements: &[(ShardIndex, Vec<NodeId>)]) -> Vec<PlacementReport> {
    let report = |(index, nodes): &(ShardIndex, Vec<NodeId>)| PlacementReport {
        index: index.0,
        nodes: nodes.iter().map(NodeId::to_string).collect(),
    };
    placements.iter().map(report).collect()
}

impl BundleDetails {
    /// `bundle` with its content header and the nodes of the archive.
    pub(crate) fn new(bundle: &BundleSummary, content: &ContentHeader, nodes: Vec<NodeSummary>) -> Self {
        let role = match content.role() {
            BundleRole::Ordinary => "ordinary",
            BundleRole::Part => "part",
            BundleRole::Head => "head",
        };
        Self {
            bundle: bundle.into(),
            role,
            dependencies: content.dependencies().iter().map(ToString::to_string).collect(),
            nodes: nodes.into_iter().map(|node| (node.node.to_string(), node)).collect(),
        }
    }
}

/// The bundles as a table.
pub(crate) fn bundle_table(bundles: &[BundleReport]) -> String {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new(&[
        ("number", right),
        ("bundle", left),
        ("scheme", left),
        ("payload", right),
        ("keys", right),
        ("durable", right),
        ("online", right),
        ("spare", right),
    ]);
    for bundle in bundles {
        table.row(vec![
            bundle.number.to_string(),
            bundle.id.chars().take(10).collect(),
            bundle.scheme.to_string(),
            ByteCount(bundle.payload).to_string(),
            bundle.keys.to_string(),
            bundle.durable.to_string(),
            online(bundle.online),
            bundle.spare.to_string(),
        ]);
    }
    table.to_string()
}

fn online(count: Option<u8>) -> String {
    count.map_or_else(|| "?".to_owned(), |count| count.to_string())
}

impl fmt::Display for BundleDetails {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bundle = &self.bundle;
        writeln!(formatter, "bundle   {} (number {}, {})", bundle.id, bundle.number, self.role)?;
        writeln!(formatter, "coding   {}", bundle.coding)?;
        writeln!(
            formatter,
            "shards   {}: {} durable, {} online, {} to spare; {} each",
            bundle.scheme,
            bundle.durable,
            online(bundle.online),
            bundle.spare,
            ByteCount(bundle.shard_bytes)
        )?;
        writeln!(formatter, "payload  {} with {} keys", ByteCount(bundle.payload), bundle.keys)?;
        if let Some(since) = bundle.together_since {
            let since = Timestamp::from_millis(since);
            writeln!(formatter, "together more shards lie together than caps allow, since {since}")?;
        }
        if let Some(caps) = &bundle.at_risk_by {
            writeln!(formatter, "at risk  {}", why_at_risk(caps))?;
        }
        for dependency in &self.dependencies {
            writeln!(formatter, "needs    {dependency}")?;
        }
        write!(formatter, "\n{}", self.homes(&bundle.placements))?;
        if let Some(second) = &bundle.second {
            writeln!(
                formatter,
                "\n\nis being coded anew: {} of {} shards of {} each are there",
                second.placements.len(),
                second.scheme,
                ByteCount(second.shard_bytes)
            )?;
            writeln!(formatter, "coding   {}", second.coding)?;
            write!(formatter, "\n{}", self.homes(&second.placements))?;
        }
        Ok(())
    }
}

/// Why nobody can take what a bundle lacks.
fn why_at_risk(caps: &[Cap]) -> String {
    if caps.is_empty() {
        return "every node holds a shard of it: add nodes".to_owned();
    }
    let caps: Vec<_> = caps.iter().map(Cap::to_string).collect();
    format!("every other node shares with holders its {}: add nodes elsewhere", caps.join(" or "))
}

impl BundleDetails {
    /// Where shards lie, as a table.
    fn homes(&self, placements: &[PlacementReport]) -> Table {
        let left = Align::Left;
        let mut table =
            Table::new(&[("shard", Align::Right), ("node", left), ("domain", left), ("state", left)]);
        for placement in placements {
            for node in &placement.nodes {
                let known = self.nodes.get(node);
                let away = known.is_some_and(|node| !node.online);
                let state = known.map_or_else(|| "unknown".to_owned(), |node| node.state.to_string());
                table.row(vec![
                    placement.index.to_string(),
                    node.chars().take(10).collect(),
                    known.map_or_else(String::new, |node| node.failure_domain.clone()),
                    if away { format!("{state}, away") } else { state },
                ]);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{BundleId, BundleNumber, CodingId, ManifestRoot, PayloadRoot, Scheme};
    use firn_wire::{NodeState, SecondCoding};

    use super::*;

    fn bundle() -> BundleSummary {
        BundleSummary {
            number: BundleNumber(3),
            id: BundleId::from_bytes([0xab; 32]),
            coding: CodingId::from_bytes([0xcd; 32]),
            scheme: Scheme::new(2, 4).unwrap(),
            payload: ByteCount(100_000),
            shard_bytes: 65_536,
            keys: 9,
            durable: 3,
            online: Some(2),
            placements: vec![(ShardIndex(0), vec![NodeId::from_bytes([1; 32])]), (ShardIndex(3), Vec::new())],
            second: None,
            together_since: None,
            at_risk_by: None,
        }
    }

    fn content() -> ContentHeader {
        let roots = (PayloadRoot::from_bytes([1; 32]), ManifestRoot::from_bytes([2; 32]));
        let dependencies = vec![BundleId::from_bytes([7; 32])];
        ContentHeader::new(BundleRole::Ordinary, (100_000, roots.0), (1_000, roots.1), dependencies).unwrap()
    }

    fn node() -> NodeSummary {
        NodeSummary {
            node: NodeId::from_bytes([1; 32]),
            operator: "alice".to_owned(),
            failure_domain: "attic".to_owned(),
            vouched: false,
            address: "127.0.0.1:9".to_owned(),
            seen_at: None,
            state: NodeState::Active,
            online: false,
            proved: false,
            last_seen: None,
            availability: firn_base::Availability::UNKNOWN,
            quota: ByteCount(0),
            assigned: ByteCount(0),
            shards: 1,
            drain: None,
            refused_deletions: 0,
        }
    }

    #[test]
    fn people_see_a_list() {
        let expected = "\
number  bundle      scheme   payload  keys  durable  online  spare
     3  ababababab  2/4     100.0 kB     9        3       2      1";
        assert_eq!(bundle_table(&[BundleReport::from(&bundle())]), expected);
    }

    #[test]
    fn people_see_one_bundle_with_its_homes() {
        let expected = format!(
            "bundle   {} (number 3, ordinary)\n\
             coding   {}\n\
             shards   2/4: 3 durable, 2 online, 1 to spare; 65.5 kB each\n\
             payload  100.0 kB with 9 keys\n\
             needs    {}\n\
             \n\
             shard  node        domain  state\n    0  0101010101  attic   active, away",
            "ab".repeat(32),
            "cd".repeat(32),
            "07".repeat(32)
        );
        assert_eq!(BundleDetails::new(&bundle(), &content(), vec![node()]).to_string(), expected);
    }

    #[test]
    fn a_bundle_that_breaks_caps_or_is_at_risk_says_so() {
        let bundle = BundleSummary {
            together_since: Some(Timestamp::from_millis(0)),
            at_risk_by: Some(vec![Cap::Operator, Cap::Country]),
            ..bundle()
        };
        let text = BundleDetails::new(&bundle, &content(), vec![node()]).to_string();
        assert!(
            text.contains("\ntogether more shards lie together than caps allow, since 1970-01-01"),
            "{text}"
        );
        let why =
            "\nat risk  every other node shares with holders its operator or country: add nodes elsewhere\n";
        assert!(text.contains(why), "{text}");
        assert!(why_at_risk(&[]).ends_with("add nodes"));
    }

    #[test]
    fn both_codings_of_a_bundle_are_shown_while_there_are_two() {
        let second = SecondCoding {
            coding: CodingId::from_bytes([0xef; 32]),
            scheme: Scheme::new(8, 24).unwrap(),
            shard_bytes: 65_536,
            placements: vec![(ShardIndex(5), vec![NodeId::from_bytes([1; 32])])],
        };
        let bundle = BundleSummary { second: Some(second), ..bundle() };
        let details = BundleDetails::new(&bundle, &content(), vec![node()]);
        let expected = format!(
            "    0  0101010101  attic   active, away\n\n\
             is being coded anew: 1 of 8/24 shards of 65.5 kB each are there\n\
             coding   {}\n\n\
             shard  node        domain  state\n    5  0101010101  attic   active, away",
            "ef".repeat(32)
        );
        assert!(details.to_string().ends_with(&expected), "{details}");
        let json = serde_json::to_value(&details).unwrap();
        assert_eq!(json["second"]["scheme"], serde_json::json!({"k": 8, "n": 24}));
        assert_eq!(json["second"]["placements"][0]["index"], 5);
    }

    #[test]
    fn the_fields_of_the_json_are_pinned() {
        let expected = format!(
            concat!(
                r#"{{"number":3,"id":"{}","coding":"{}","scheme":{{"k":2,"n":4}},"payload":100000,"#,
                r#""shard_bytes":65536,"keys":9,"durable":3,"online":2,"spare":1,"#,
                r#""placements":[{{"index":0,"nodes":["{}"]}},{{"index":3,"nodes":[]}}],"together_since":null,"at_risk_by":null,"second":null,"#,
                r#""role":"ordinary","dependencies":["{}"]}}"#
            ),
            "ab".repeat(32),
            "cd".repeat(32),
            "01".repeat(32),
            "07".repeat(32)
        );
        let details = BundleDetails::new(&bundle(), &content(), vec![node()]);
        assert_eq!(serde_json::to_string(&details).unwrap(), expected);
    }
}
