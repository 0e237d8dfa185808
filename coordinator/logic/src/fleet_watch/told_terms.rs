//! What nodes say of their terms.
//!
//! Owns: what each said last, and what had been assigned to it by then. Always holds: what was said too long ago counts
//! as not said. Leaves to others: what terms there are (`wire`), what follows from them (`fleet`, `survival`).

use std::time::Duration;

use firn_base::Timestamp;
use firn_wire::NodeTerms;

use super::FleetWatch;
use crate::state::{NodeNumber, NodeRecord};

// A node says once a minute what its terms are. One that is run by an older program now never does.
const TERMS_KEPT_FOR: Duration = Duration::from_secs(300);

/// What a node said of its terms.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToldTerms {
    at: Timestamp,
    terms: NodeTerms,
    /// Bytes that were assigned to it by then.
    assigned_bytes: u64,
}

impl FleetWatch {
    /// A node that was heard says at `now` what its terms are; this is its record.
    pub fn tell_terms(&mut self, record: &NodeRecord, terms: NodeTerms, now: Timestamp) {
        if let Some(watched) = self.nodes.get_mut(&record.number) {
            watched.terms = Some(ToldTerms { at: now, terms, assigned_bytes: record.assigned_bytes });
        }
    }

    /// What a node said of its terms last; none if it has said nothing of late.
    pub fn terms(&self, node: NodeNumber, now: Timestamp) -> Option<NodeTerms> {
        self.told_terms(node, now).map(|told| told.terms)
    }

    /// What still goes over a node's line this month, by what it said last and less what was assigned to it since: it may be
    /// under way, and the node has not counted it. None if it names no bound, or has said nothing of late.
    pub(crate) fn month_left_bytes(&self, record: &NodeRecord, now: Timestamp) -> Option<u64> {
        let told = self.told_terms(record.number, now)?;
        let assigned_since = record.assigned_bytes.saturating_sub(told.assigned_bytes);
        told.terms.month_left.map(|left| left.0.saturating_sub(assigned_since))
    }

    fn told_terms(&self, node: NodeNumber, now: Timestamp) -> Option<ToldTerms> {
        self.nodes.get(&node)?.terms.filter(|told| now.since(told.at) <= TERMS_KEPT_FOR)
    }
}
