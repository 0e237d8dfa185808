//! When the archive is up: every coordinator knows a leader, every node is heard and proved, the gateway answers.
//!
//! Owns: looking, as any client would. Always holds: a look ends. Leaves to others: what is done about it (`up`).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use firn_base::NodeId;
use firn_client::{Archive, OpenArchiveError};
use firn_transport::{EndpointOptions, Environment};
use firn_wire::{CoordinatorReply, CoordinatorRequest, Descriptor, Identity, NodeSummary};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const LOOK_EVERY: Duration = Duration::from_millis(50);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

// A status line is all that is read.
const STATUS_LINE_BYTES: usize = 12;

/// Looks at the archive from outside.
#[derive(Debug)]
pub(crate) struct Watcher {
    archive: Archive,
}

impl Watcher {
    /// A client of the archive, whom nobody knows. Dials nobody yet.
    pub(crate) async fn new(descriptor: &Descriptor) -> Result<Self, OpenArchiveError> {
        let environment = Environment::real();
        let identity = Identity::from_seed(&environment.seed());
        let options = EndpointOptions::default();
        Ok(Self { archive: Archive::with_descriptor(descriptor, identity, options, &environment).await? })
    }

    /// Waits until each of `coordinators` knows a leader, and names it.
    pub(crate) async fn led(&self, coordinators: &[NodeId]) -> NodeId {
        loop {
            let mut leaders = BTreeSet::new();
            for coordinator in coordinators {
                leaders.insert(self.leader_of(*coordinator).await);
            }
            // While they differ an election is going on.
            if let (Some(Some(leader)), 1) = (leaders.first(), leaders.len()) {
                return *leader;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn leader_of(&self, coordinator: NodeId) -> Option<NodeId> {
        let asked = self.archive.coordinators();
        match asked.ask_coordinator(coordinator, &CoordinatorRequest::Status, ANSWER_WITHIN).await {
            Ok(CoordinatorReply::Status(status)) => {
                status.coordinators.iter().find(|member| member.leader).map(|member| member.id)
            }
            _ => None,
        }
    }

    /// Waits until the leader hears each of `nodes` and has seen proof of what it holds.
    pub(crate) async fn proved(&self, nodes: &BTreeSet<NodeId>) {
        while !self.is_proved(nodes).await {
            sleep(LOOK_EVERY).await;
        }
    }

    async fn is_proved(&self, nodes: &BTreeSet<NodeId>) -> bool {
        let asked = self.archive.coordinators();
        let Ok(status) = asked.status().await else { return false };
        let Some(leader) = status.coordinators.iter().find(|member| member.leader) else { return false };
        // The others know nobody's proofs.
        match asked.ask_coordinator(leader.id, &CoordinatorRequest::ListNodes, ANSWER_WITHIN).await {
            Ok(CoordinatorReply::NodeList(list)) => nodes.iter().all(|node| is_ready(&list, *node)),
            _ => false,
        }
    }

    /// Ends its connections.
    pub(crate) async fn close(&self) {
        self.archive.close().await;
    }
}

fn is_ready(list: &[NodeSummary], node: NodeId) -> bool {
    use firn_wire::NodeState::{Gone, Lost};
    let known = list.iter().find(|summary| summary.node == node);
    // A node that was removed is never heard again, and nobody waits for it.
    known.is_some_and(|summary| (summary.online && summary.proved) || matches!(summary.state, Gone | Lost))
}

/// Waits until the gateway at `address` says that it is ready.
pub(crate) async fn answered(address: SocketAddr) {
    while !matches!(timeout(ANSWER_WITHIN, is_answered(address)).await, Ok(Ok(true))) {
        sleep(LOOK_EVERY).await;
    }
}

async fn is_answered(address: SocketAddr) -> std::io::Result<bool> {
    let address = if address.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    } else {
        address
    };
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut line = [0; STATUS_LINE_BYTES];
    stream.read_exact(&mut line).await?;
    Ok(&line == b"HTTP/1.1 200")
}
