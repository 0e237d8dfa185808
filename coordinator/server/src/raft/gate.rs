//! Whether this member may still act as a leader.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use super::types::Metrics;

/// Looks at the library's metrics once they are there. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct QuorumGate {
    metrics: Arc<OnceLock<watch::Receiver<Metrics>>>,
}

impl QuorumGate {
    /// Begins to look.
    pub(crate) fn open(&self, metrics: watch::Receiver<Metrics>) {
        // Only the first opener counts, and there is only one.
        let _ = self.metrics.set(metrics);
    }

    /// Whether this member leads, but no majority answered it for longer than `limit`.
    pub(crate) fn is_stale(&self, limit: Duration) -> bool {
        self.metrics.get().is_some_and(|metrics| is_stale(&metrics.borrow(), limit))
    }

    /// Whether this member leads and a majority answered it within `limit`.
    pub(crate) fn leads(&self, limit: Duration) -> bool {
        self.metrics.get().is_some_and(|metrics| {
            let metrics = metrics.borrow();
            metrics.state.is_leader() && !is_stale(&metrics, limit)
        })
    }
}

fn is_stale(metrics: &Metrics, limit: Duration) -> bool {
    let silence = Duration::from_millis(metrics.millis_since_quorum_ack.unwrap_or(0));
    metrics.state.is_leader() && silence > limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_without_a_majority_is_stale_and_leads_no_more() {
        let gate = QuorumGate::default();
        let limit = Duration::from_secs(1);
        assert!(!gate.is_stale(limit) && !gate.leads(limit));
        let mut metrics = Metrics::new_initial(1);
        let (sender, receiver) = watch::channel(metrics.clone());
        gate.open(receiver);
        assert!(!gate.is_stale(limit) && !gate.leads(limit));
        metrics.state = openraft::ServerState::Leader;
        metrics.millis_since_quorum_ack = Some(1000);
        sender.send_replace(metrics.clone());
        assert!(!gate.is_stale(limit) && gate.leads(limit));
        metrics.millis_since_quorum_ack = Some(1001);
        sender.send_replace(metrics);
        assert!(gate.is_stale(limit) && !gate.leads(limit));
    }
}
