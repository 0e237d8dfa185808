//! The connections that nodes keep to this coordinator, by node: on these it opens streams for orders.
//!
//! Always holds: the newest connection of a node is the one in use. Leaves to others: what is said on them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use firn_base::NodeId;
use firn_transport::Connection;

/// Connections by node.
#[derive(Debug, Default)]
pub(crate) struct Links {
    connections: Mutex<BTreeMap<NodeId, Connection>>,
}

impl Links {
    /// A node was heard on `connection`.
    pub(crate) fn keep(&self, connection: &Connection) {
        let mut connections = self.lock();
        let known = connections.get(&connection.peer_node());
        if known.is_none_or(|known| known.number() != connection.number()) {
            connections.insert(connection.peer_node(), connection.clone());
        }
        connections.retain(|_, connection| !connection.is_closed());
    }

    /// The living connection of a node.
    pub(crate) fn get(&self, node: NodeId) -> Option<Connection> {
        self.lock().get(&node).filter(|connection| !connection.is_closed()).cloned()
    }

    /// All living connections.
    pub(crate) fn all(&self) -> Vec<(NodeId, Connection)> {
        let connections = self.lock();
        let living = connections.iter().filter(|(_, connection)| !connection.is_closed());
        living.map(|(node, connection)| (*node, connection.clone())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
