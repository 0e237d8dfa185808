//! Storage nodes in a list.

use std::collections::BTreeMap;

use firn_base::{AsNumber, ByteCount, NodeId, Timestamp};
use firn_wire::{DrainBacklog, NodeSummary, RestingNode};
use serde::Serialize;

use super::counted;
use crate::table::{Align, Table};

/// [`NodeSummary`] as it is printed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeReport {
    node: String,
    operator: String,
    failure_domain: String,
    /// Whether an operator's token gave it its failure domain.
    vouched: bool,
    address: String,
    /// The address prefix that it was seen at for most of the last 7 days; null before it was seen.
    seen_at: Option<String>,
    /// The network that announces it; null if that is unknown or was not looked up.
    network: Option<u32>,
    country: Option<String>,
    state: String,
    online: bool,
    proved: bool,
    last_seen: Option<u64>,
    /// The part of the time that it is there, between 0 and 1.
    availability: f64,
    shards: u64,
    assigned: u64,
    quota: u64,
    /// What a draining node still holds; null in other states and before it was measured.
    drain: Option<DrainBacklog>,
    /// Delete orders that it refused within a day, because they went beyond what it deletes.
    refused_deletions: u64,
    /// When its join token was used up; null if that is not known.
    joined_at: Option<u64>,
    /// Why it does less than others; null if it does not, and where the coordinators do not say.
    rest: Option<RestReport>,
}

/// Why a node does less than others.
#[derive(Debug, Clone, Serialize)]
struct RestReport {
    cause: String,
    /// Until when, as far as the node has said.
    until: Option<u64>,
}

impl From<&RestingNode> for RestReport {
    fn from(resting: &RestingNode) -> Self {
        Self { cause: resting.cause.to_string(), until: resting.until.map(Timestamp::as_millis) }
    }
}

impl NodeReport {
    /// The report of a node that joined when `joined` says, and rests if it is among `resting`.
    pub(crate) fn new(
        node: &NodeSummary,
        joined: &BTreeMap<NodeId, Timestamp>,
        resting: &BTreeMap<NodeId, RestingNode>,
    ) -> Self {
        let origin = node.seen_at.and_then(|place| place.origin).unwrap_or_default();
        Self {
            node: node.node.to_string(),
            operator: node.operator.clone(),
            failure_domain: node.failure_domain.clone(),
            vouched: node.vouched,
            address: node.address.clone(),
            seen_at: node.seen_at.map(|place| place.prefix.to_string()),
            network: origin.asn.map(|asn| asn.0),
            country: origin.country.map(|country| country.to_string()),
            state: node.state.to_string(),
            online: node.online,
            proved: node.proved,
            last_seen: node.last_seen.map(Timestamp::as_millis),
            availability: node.availability.fraction(),
            shards: node.shards,
            assigned: node.assigned.0,
            quota: node.quota.0,
            drain: node.drain,
            refused_deletions: node.refused_deletions,
            joined_at: joined.get(&node.node).map(|at| at.as_millis()),
            rest: resting.get(&node.node).map(RestReport::from),
        }
    }
}

/// The nodes as a table, and under it what keeps those that drain, and who refuses to delete.
pub(crate) fn node_table(nodes: &[NodeReport]) -> String {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new(&[
        ("node", left),
        ("domain", left),
        ("seen at", left),
        ("network", left),
        ("state", left),
        ("online", left),
        ("proved", left),
        ("there", right),
        ("shards", right),
        ("assigned", right),
        ("quota", right),
        ("rests", left),
    ]);
    let yes = |truth: bool| if truth { "yes" } else { "no" }.to_owned();
    for node in nodes {
        table.row(vec![
            node.node.chars().take(NODE_DIGITS).collect(),
            node.failure_domain.clone(),
            node.seen_at.clone().unwrap_or_default(),
            network(node),
            node.state.clone(),
            yes(node.online),
            yes(node.proved),
            format!("{:.1} %", node.availability * 100.0),
            node.shards.to_string(),
            ByteCount(node.assigned).to_string(),
            ByteCount(node.quota).to_string(),
            rest(node),
        ]);
    }
    let mut text = table.to_string();
    for node in nodes {
        if let (Some(backlog), Some(id)) = (node.drain, node.node.get(..NODE_DIGITS)) {
            text.push_str(&format!("\nnode {id} is draining: {backlog}"));
            // Repair and tidying see to those of a node that was away for long, or is not their only home.
            if backlog.to_move == 0 && node.shards > 0 {
                let left = node.shards;
                text.push_str(&format!(
                    "; shards still recorded on it ({left}) count as lost or lie elsewhere too"
                ));
            }
        }
        if let (1.., Some(id)) = (node.refused_deletions, node.node.get(..NODE_DIGITS)) {
            text.push_str(&format!(
                "\nnode {id} was ordered to delete more than it does in a day and refused ({}): {REFUSED_DELETIONS}",
                counted(node.refused_deletions, "order")
            ));
        }
    }
    text
}

/// Why a node rests, and until when.
fn rest(node: &NodeReport) -> String {
    let Some(RestReport { cause, until }) = &node.rest else { return String::new() };
    let until = until.map(|millis| format!(" until {}", Timestamp::from_millis(millis)));
    format!("{cause}{}", until.unwrap_or_default())
}

/// Network and country, as far as they are known.
fn network(node: &NodeReport) -> String {
    let asn = node.network.map(|asn| AsNumber(asn).to_string());
    asn.into_iter().chain(node.country.clone()).collect::<Vec<_>>().join(" ")
}

/// What a refusal means for whoever runs the archive.
pub(super) const REFUSED_DELETIONS: &str =
    "coordinators ask for no more than nodes say they would, so one of them errs, or its key is stolen";

// Forty bits tell the nodes of any archive apart.
const NODE_DIGITS: usize = 10;

#[cfg(test)]
mod tests {
    use firn_base::{AddressPrefix, Availability, Country, Origin};
    use firn_wire::{NodePlace, NodeState, RestCause};

    use super::*;

    fn nodes() -> Vec<NodeReport> {
        let node = NodeSummary {
            node: NodeId::from_bytes([0xcd; 32]),
            operator: "alice".to_owned(),
            failure_domain: "attic".to_owned(),
            vouched: false,
            address: "127.0.0.1:9".to_owned(),
            seen_at: Some(NodePlace {
                prefix: AddressPrefix::V4([127, 1, 2]),
                origin: Some(Origin { asn: Some(AsNumber(64_500)), country: Country::try_from(*b"CH").ok() }),
            }),
            state: NodeState::Draining,
            online: true,
            proved: false,
            last_seen: Some(Timestamp::from_millis(7)),
            availability: Availability::UNKNOWN,
            quota: ByteCount(50_000_000_000),
            assigned: ByteCount(1_500_000),
            shards: 12,
            drain: Some(DrainBacklog { to_move: 12, without_home: 12, home_unavailable: 0 }),
            refused_deletions: 0,
        };
        let joined = BTreeMap::from([(node.node, Timestamp::from_millis(5))]);
        let active = NodeSummary { state: NodeState::Active, drain: None, seen_at: None, ..node.clone() };
        let resting = RestingNode {
            node: node.node,
            cause: RestCause::OutsideHours,
            until: Some(Timestamp::from_millis(0)),
        };
        let resting = BTreeMap::from([(node.node, resting)]);
        vec![
            NodeReport::new(&node, &joined, &resting),
            NodeReport::new(&active, &BTreeMap::new(), &BTreeMap::new()),
        ]
    }

    #[test]
    fn people_see_a_table_and_what_keeps_a_draining_node() {
        let expected = "\
node        domain  seen at       network     state     online  proved   there  shards  assigned    quota  rests
cdcdcdcdcd  attic   127.1.2.0/24  AS64500 CH  draining  yes     no      50.0 %      12    1.5 MB  50.0 GB  outside its hours until 1970-01-01T00:00:00Z
cdcdcdcdcd  attic                             active    yes     no      50.0 %      12    1.5 MB  50.0 GB
node cdcdcdcdcd is draining: 12 shards to move; 12 of them have no other home, because every failure domain with an \
active node holds a shard of their bundle already: add a node in another failure domain";
        assert_eq!(node_table(&nodes()), expected);
    }

    #[test]
    fn shards_that_stay_recorded_without_a_move_are_explained() {
        let mut nodes = nodes();
        nodes[0].drain = Some(DrainBacklog::default());
        assert!(node_table(&nodes).ends_with(
            "no shard left to move; shards still recorded on it (12) count as lost or lie elsewhere too"
        ));
        nodes[0].shards = 0;
        assert!(node_table(&nodes).ends_with("no shard left to move"));
    }

    #[test]
    fn a_node_that_refuses_to_delete_is_named() {
        let mut nodes = nodes();
        nodes[1].refused_deletions = 2;
        let text = node_table(&nodes);
        let sentence =
            "\nnode cdcdcdcdcd was ordered to delete more than it does in a day and refused (2 orders): ";
        assert!(text.contains(sentence) && text.ends_with("or its key is stolen"), "{text}");
    }

    #[test]
    fn the_fields_of_the_json_are_pinned() {
        let expected = format!(
            concat!(
                r#"{{"node":"{}","operator":"alice","failure_domain":"attic","vouched":false,"address":"127.0.0.1:9","#,
                r#""seen_at":"127.1.2.0/24","network":64500,"country":"CH","#,
                r#""state":"draining","online":true,"proved":false,"last_seen":7,"availability":0.5,"shards":12,"#,
                r#""assigned":1500000,"quota":50000000000,"#,
                r#""drain":{{"to_move":12,"without_home":12,"home_unavailable":0}},"refused_deletions":0,"joined_at":5,"#,
                r#""rest":{{"cause":"outside its hours","until":0}}}}"#
            ),
            "cd".repeat(32)
        );
        assert_eq!(serde_json::to_string(&nodes()[0]).unwrap(), expected);
        let other = serde_json::to_value(&nodes()[1]).unwrap();
        assert!(other["rest"].is_null() && other["joined_at"].is_null() && other["drain"].is_null());
    }
}
