//! Bundles in a list, and one bundle in full.

use std::collections::BTreeMap;
use std::fmt;

use firn_base::{ByteCount, NodeId};
use firn_bundle::{BundleRole, ContentHeader};
use firn_wire::{BundleSummary, NodeSummary};
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
        let placements = bundle.placements.iter().map(|(index, nodes)| PlacementReport {
            index: index.0,
            nodes: nodes.iter().map(NodeId::to_string).collect(),
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
            placements: placements.collect(),
        }
    }
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
        for dependency in &self.dependencies {
            writeln!(formatter, "needs    {dependency}")?;
        }
        let left = Align::Left;
        let mut table =
            Table::new(&[("shard", Align::Right), ("node", left), ("domain", left), ("state", left)]);
        for placement in &bundle.placements {
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
        write!(formatter, "\n{table}")
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{BundleId, BundleNumber, CodingId, ManifestRoot, PayloadRoot, Scheme, ShardIndex};
    use firn_wire::NodeState;

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
            address: "127.0.0.1:9".to_owned(),
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
    fn the_fields_of_the_json_are_pinned() {
        let expected = format!(
            concat!(
                r#"{{"number":3,"id":"{}","coding":"{}","scheme":{{"k":2,"n":4}},"payload":100000,"#,
                r#""shard_bytes":65536,"keys":9,"durable":3,"online":2,"spare":1,"#,
                r#""placements":[{{"index":0,"nodes":["{}"]}},{{"index":3,"nodes":[]}}],"#,
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
