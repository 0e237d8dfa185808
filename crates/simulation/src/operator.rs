//! The operator of the simulated archive: looks at it through its leader, waits, and moves nodes on.

use std::cell::RefCell;
use std::fmt::Debug;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use firn_base::{NodeId, Scheme};
use firn_client::Archive;
use firn_wire::{AdminRequest, ArchiveStatus, CoordinatorReply, CoordinatorRequest, NodeState, NodeSummary};
use tokio::time::{Instant, sleep};

use crate::stage::Stage;

// A leader that is about to be replaced does not answer.
const LEADER_WITHIN: Duration = Duration::from_secs(5);

/// What the leader says of the archive at a moment.
#[derive(Debug)]
pub(crate) struct Seen {
    status: ArchiveStatus,
    nodes: Vec<NodeSummary>,
}

impl Seen {
    /// Nodes that take part and whose shards count.
    pub(crate) fn proved(&self) -> usize {
        let counts = |node: &&NodeSummary| node.state == NodeState::Active && node.online && node.proved;
        self.nodes.iter().filter(counts).count()
    }

    fn describe(&self) -> String {
        let status = &self.status;
        let nodes = self.nodes.iter().map(|node| {
            let how = if node.proved { "proved" } else { "not proved" };
            let how = if node.online { how } else { "away" };
            format!("{} {} {how} {} shards", node.address, node.state, node.shards)
        });
        format!(
            "{:?}, {:?} to repair, {:?} to move; {}",
            status.health,
            status.repair_backlog,
            status.move_backlog,
            nodes.collect::<Vec<_>>().join(", ")
        )
    }

    pub(crate) fn state(&self, node: NodeId) -> Option<NodeState> {
        self.nodes.iter().find(|summary| summary.node == node).map(|summary| summary.state)
    }

    /// Whether no bundle is left that could have a larger k, and none is being coded anew.
    pub(crate) fn is_recoded(&self) -> bool {
        self.status.recoding.is_some_and(|recoding| recoding.older == 0 && recoding.under_way == 0)
    }

    /// Bundles of which every shard is durable; none if the leader has not measured.
    pub(crate) fn full_bundles(&self) -> Option<u64> {
        self.status.health.map(|health| health.full)
    }

    /// Nodes that are heard.
    pub(crate) fn online(&self) -> usize {
        self.nodes.iter().filter(|node| node.state == NodeState::Active && node.online).count()
    }

    /// Whether every bundle has all its shards and nothing is left to do.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_at_rest() && self.status.health.is_some_and(|health| health.full == self.status.bundles)
    }

    /// Whether nothing is left to do, and every bundle has more shards than at which it would be repaired. One of a
    /// large k may lack a few then: a home was away when it was coded anew, and repair of such bundles waits for more
    /// to be missing.
    pub(crate) fn is_at_rest_as(&self, scheme: Scheme) -> bool {
        let least = shards_at_rest(scheme).saturating_sub(scheme.k());
        let spares = self.status.by_spare.as_deref().unwrap_or_default();
        let counted: u64 = spares.iter().map(|count| count.bundles).sum();
        self.is_at_rest() && counted == self.status.bundles && spares.iter().all(|count| count.spare >= least)
    }

    fn is_at_rest(&self) -> bool {
        self.status.health.is_some_and(|health| health.urgent + health.lost + health.unreadable == 0)
            && self.status.repair_backlog == Some(0)
            && self.status.move_backlog == Some(0)
    }
}

/// So many shards of a bundle are there at least while nothing is to be repaired: all of them up to k = 4.
pub(crate) fn shards_at_rest(scheme: Scheme) -> u8 {
    if scheme.k() <= 4 { scheme.n() } else { scheme.repair_threshold().saturating_add(1) }
}

/// Whoever may administer.
pub(crate) struct Operator {
    archive: Archive,
    stage: Rc<Stage>,
    last: RefCell<String>,
}

impl Operator {
    pub(crate) fn new(archive: Archive, stage: Rc<Stage>) -> Self {
        Self { archive, stage, last: RefCell::default() }
    }

    /// Looks until `condition` holds.
    pub(crate) async fn until(
        &self,
        what: &str,
        within: Duration,
        condition: impl Fn(&Seen) -> bool,
    ) -> Result<Seen, String> {
        let begun = Instant::now();
        loop {
            if let Some(seen) = self.look().await {
                if seen.status.nodes_refusing_deletions > 0 {
                    self.stage.violated("a node was asked to delete more than it said it would");
                }
                // Each leader counts from its beginning.
                let moved = seen.status.repair_traffic.map_or(0, |bytes| bytes.0);
                self.stage.repaired_bytes.set(self.stage.repaired_bytes.get().max(moved));
                if condition(&seen) {
                    return Ok(seen);
                }
                *self.last.borrow_mut() = seen.describe();
            }
            if begun.elapsed() > within {
                return Err(format!("after {within:?} it does not hold that {what}: {}", self.last.borrow()));
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// What the leader says, if one answers.
    pub(crate) async fn look(&self) -> Option<Seen> {
        let coordinators = self.archive.coordinators();
        let status = self.said(coordinators.status()).await?;
        let leader = status.coordinators.iter().find(|coordinator| coordinator.leader)?.id;
        let ask =
            async |request| self.said(coordinators.ask_coordinator(leader, &request, LEADER_WITHIN)).await;
        match (ask(CoordinatorRequest::Status).await?, ask(CoordinatorRequest::ListNodes).await?) {
            (CoordinatorReply::Status(status), CoordinatorReply::NodeList(nodes)) => {
                Some(Seen { status: *status, nodes })
            }
            _ => None,
        }
    }

    /// Moves a node to `state`, until it is in one of `good`.
    pub(crate) async fn set_state(
        &self,
        node: NodeId,
        state: NodeState,
        good: &[NodeState],
    ) -> Result<(), String> {
        let coordinators = self.archive.coordinators();
        let request = AdminRequest::SetNodeState { node, state };
        // Whether an act was done whose answer was lost, the list of nodes tells.
        let _ = self.said(coordinators.administer(request.clone())).await;
        let begun = Instant::now();
        loop {
            if let Some(seen) = self.look().await {
                if seen.state(node).is_some_and(|state| good.contains(&state)) {
                    return Ok(());
                }
                let _ = self.said(coordinators.administer(request.clone())).await;
            }
            if begun.elapsed() > Duration::from_secs(120) {
                return Err(format!("node {} does not become {state}: {}", node.short(), self.last.borrow()));
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn said<T, E: Debug>(&self, asking: impl Future<Output = Result<T, E>>) -> Option<T> {
        asking.await.map_err(|error| self.remember(&error)).ok()
    }

    fn remember(&self, what: &impl Debug) {
        *self.last.borrow_mut() = format!("{what:?}");
    }
}
