//! What `firn` says of the archive at one moment.

use std::collections::BTreeSet;

use firn_base::ByteCount;
use serde::Deserialize;

use crate::Failure;
use crate::archive::Archive;

/// Status, nodes and bundles, asked one after the other.
pub(crate) struct Snapshot {
    status: Status,
    /// All nodes that ever joined.
    pub(crate) nodes: Vec<Node>,
    /// All bundles.
    pub(crate) bundles: Vec<Bundle>,
}

#[derive(Debug, Deserialize)]
struct Status {
    coordinators: Vec<Coordinator>,
    bundles: u64,
    health: Option<Health>,
    repair_backlog: Option<u64>,
    move_backlog: Option<u64>,
    repair_traffic: Option<u64>,
    recoding: Option<Recoding>,
    payload: u64,
    stored: u64,
}

#[derive(Debug, Deserialize)]
struct Recoding {
    older: u64,
    under_way: u64,
}

#[derive(Debug, Deserialize)]
struct Coordinator {
    leader: bool,
}

#[derive(Debug, Deserialize)]
struct Health {
    full: u64,
}

/// A storage node.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    /// Its id.
    pub(crate) node: String,
    /// Its failure domain, which is its role's name.
    pub(crate) failure_domain: String,
    /// Its state.
    pub(crate) state: String,
    /// Whether it is heard.
    pub(crate) online: bool,
    /// Whether its inventory was compared.
    pub(crate) proved: bool,
    /// Bytes that it is counted for.
    pub(crate) assigned: u64,
    /// Its quota in bytes.
    pub(crate) quota: u64,
}

/// A bundle.
#[derive(Debug, Deserialize)]
pub(crate) struct Bundle {
    /// Its coding.
    pub(crate) coding: String,
    /// k and n.
    pub(crate) scheme: Scheme,
    /// Bytes of each shard.
    pub(crate) shard_bytes: u64,
    placements: Vec<Placement>,
}

/// k of n.
#[derive(Debug, Deserialize)]
pub(crate) struct Scheme {
    /// Shards that restore it.
    pub(crate) k: u64,
    /// Shards that it has.
    pub(crate) n: u64,
}

#[derive(Debug, Deserialize)]
struct Placement {
    index: u8,
    nodes: Vec<String>,
}

/// A shard on a node: coding, index, node.
pub(crate) type Copy = (String, u8, String);

impl Snapshot {
    /// Asks the archive.
    pub(crate) fn take(archive: &Archive) -> Result<Self, Failure> {
        Ok(Self {
            status: serde_json::from_str(&archive.firn(&["status", "--json"])?)?,
            nodes: serde_json::from_str(&archive.firn(&["node", "list", "--json"])?)?,
            bundles: serde_json::from_str(&archive.firn(&["bundle", "list", "--json"])?)?,
        })
    }

    /// Nodes that are active, heard and proved.
    pub(crate) fn online(&self) -> u64 {
        self.nodes.iter().filter(|node| node.state == "active" && node.online && node.proved).map(|_| 1).sum()
    }

    /// Roles of the nodes that are not active.
    pub(crate) fn absent(&self) -> Vec<String> {
        let absent = self.nodes.iter().filter(|node| node.state != "active");
        absent.map(|node| node.failure_domain.clone()).collect()
    }

    /// Bundles with all their shards; none while no leader answers.
    pub(crate) fn full(&self) -> Option<u64> {
        self.status.health.as_ref().map(|health| health.full)
    }

    /// The role of the leading coordinator; none if nobody leads.
    pub(crate) fn leader(&self) -> Option<String> {
        let position = self.status.coordinators.iter().position(|coordinator| coordinator.leader)?;
        Some(format!("coordinator-{}", position + 1))
    }

    /// Whether the leader says that every bundle is full and nothing is left to make or move.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.full() == Some(self.status.bundles)
            && self.status.repair_backlog == Some(0)
            && self.status.move_backlog == Some(0)
    }

    /// Whether every bundle is coded for `k`, and nothing is left of another coding but surplus.
    pub(crate) fn is_coded_for(&self, k: u64) -> bool {
        let recoding = self.status.recoding.as_ref();
        recoding.is_some_and(|recoding| recoding.older == 0 && recoding.under_way == 0)
            && self.bundles.iter().all(|bundle| bundle.scheme.k == k)
    }

    /// Bytes of what bundles hold.
    pub(crate) const fn payload(&self) -> u64 {
        self.status.payload
    }

    /// Bytes of the files of all placed shards.
    pub(crate) const fn stored(&self) -> u64 {
        self.status.stored
    }

    /// Bytes that repairs and moves have read and sent.
    pub(crate) fn traffic(&self) -> u64 {
        self.status.repair_traffic.unwrap_or_default()
    }

    /// All copies that count.
    pub(crate) fn placements(&self) -> BTreeSet<Copy> {
        self.bundles.iter().flat_map(Bundle::copies).collect()
    }

    /// A line for whoever watches.
    pub(crate) fn progress(&self) -> String {
        let figure = |figure: Option<u64>| figure.map_or("?".to_owned(), |figure| figure.to_string());
        format!(
            "{} nodes online, {} of {} bundles full, {} shards to make, {} to move, {} read and sent",
            self.online(),
            figure(self.full()),
            self.status.bundles,
            figure(self.status.repair_backlog),
            figure(self.status.move_backlog),
            ByteCount(self.traffic()),
        )
    }
}

impl Bundle {
    /// Its copies that count.
    pub(crate) fn copies(&self) -> impl Iterator<Item = Copy> + '_ {
        self.placements.iter().flat_map(|placement| {
            placement.nodes.iter().map(|node| (self.coding.clone(), placement.index, node.clone()))
        })
    }
}
