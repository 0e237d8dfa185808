//! The feed: the ordered stream of newly visible and withdrawn keys.

use firn_base::ObjectKey;
use serde::{Deserialize, Serialize};

use crate::Statement;

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FeedEvent {
    /// It can be read from now on.
    Visible(ObjectKey),
    /// It is no longer served.
    Withdrawn(ObjectKey),
}

/// A stretch of the feed, signed by the coordinator that served it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedBatch {
    /// Position of the first event; positions count events from zero.
    pub first: u64,
    /// The events, in order.
    pub events: Vec<FeedEvent>,
    /// The position after the last event known to the coordinator: more may follow this batch.
    pub head: u64,
}

impl Statement for FeedBatch {
    const KIND: &'static str = "feed";
}
