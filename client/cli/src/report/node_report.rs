//! Storage nodes in a list.

use std::collections::BTreeMap;

use firn_base::{ByteCount, NodeId, Timestamp};
use firn_wire::NodeSummary;
use serde::Serialize;

use crate::table::{Align, Table};

/// [`NodeSummary`] as it is printed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeReport {
    node: String,
    operator: String,
    failure_domain: String,
    address: String,
    state: String,
    online: bool,
    proved: bool,
    last_seen: Option<u64>,
    shards: u64,
    assigned: u64,
    quota: u64,
    /// When its join token was used up; null if that is not known.
    joined_at: Option<u64>,
}

impl NodeReport {
    /// The report of a node that joined when `joined` says.
    pub(crate) fn new(node: &NodeSummary, joined: &BTreeMap<NodeId, Timestamp>) -> Self {
        Self {
            node: node.node.to_string(),
            operator: node.operator.clone(),
            failure_domain: node.failure_domain.clone(),
            address: node.address.clone(),
            state: node.state.to_string(),
            online: node.online,
            proved: node.proved,
            last_seen: node.last_seen.map(Timestamp::as_millis),
            shards: node.shards,
            assigned: node.assigned.0,
            quota: node.quota.0,
            joined_at: joined.get(&node.node).map(|at| at.as_millis()),
        }
    }
}

/// The nodes as a table.
pub(crate) fn node_table(nodes: &[NodeReport]) -> String {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new(&[
        ("node", left),
        ("domain", left),
        ("state", left),
        ("online", left),
        ("proved", left),
        ("shards", right),
        ("assigned", right),
        ("quota", right),
    ]);
    let yes = |truth: bool| if truth { "yes" } else { "no" }.to_owned();
    for node in nodes {
        table.row(vec![
            node.node.chars().take(10).collect(),
            node.failure_domain.clone(),
            node.state.clone(),
            yes(node.online),
            yes(node.proved),
            node.shards.to_string(),
            ByteCount(node.assigned).to_string(),
            ByteCount(node.quota).to_string(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use firn_wire::NodeState;

    use super::*;

    fn nodes() -> Vec<NodeReport> {
        let node = NodeSummary {
            node: NodeId::from_bytes([0xcd; 32]),
            operator: "alice".to_owned(),
            failure_domain: "attic".to_owned(),
            address: "127.0.0.1:9".to_owned(),
            state: NodeState::Draining,
            online: true,
            proved: false,
            last_seen: Some(Timestamp::from_millis(7)),
            quota: ByteCount(50_000_000_000),
            assigned: ByteCount(1_500_000),
            shards: 12,
        };
        let joined = BTreeMap::from([(node.node, Timestamp::from_millis(5))]);
        vec![NodeReport::new(&node, &joined), NodeReport::new(&node, &BTreeMap::new())]
    }

    #[test]
    fn people_see_a_table() {
        let expected = "\
node        domain  state     online  proved  shards  assigned    quota
cdcdcdcdcd  attic   draining  yes     no          12    1.5 MB  50.0 GB";
        assert_eq!(node_table(&nodes()[..1]), expected);
    }

    #[test]
    fn the_fields_of_the_json_are_pinned() {
        let expected = format!(
            concat!(
                r#"{{"node":"{}","operator":"alice","failure_domain":"attic","address":"127.0.0.1:9","#,
                r#""state":"draining","online":true,"proved":false,"last_seen":7,"shards":12,"#,
                r#""assigned":1500000,"quota":50000000000,"joined_at":5}}"#
            ),
            "cd".repeat(32)
        );
        assert_eq!(serde_json::to_string(&nodes()[0]).unwrap(), expected);
        assert!(serde_json::to_value(&nodes()[1]).unwrap()["joined_at"].is_null());
    }
}
