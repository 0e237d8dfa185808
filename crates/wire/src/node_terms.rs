//! What a node says of its terms beside its heartbeats, and where it stands with the archive.
//!
//! Always holds: terms are a node's own word, and soft: each coordinator keeps what it heard last. A declared absence is the
//! archive's, in its state.
//! Leaves to others: how much absence a node has (`coordinator/logic`).

use std::fmt;

use firn_base::{ByteCount, NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::DrainBacklog;

/// What a node says of its terms: once a minute, and when they change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeTerms {
    /// When its rest ends by itself, by its own clock; none while it works, and where nobody knows.
    pub rest_until: Option<Timestamp>,
    /// What it will still serve and build with this month; none if its owner set no limit.
    pub month_left: Option<ByteCount>,
}

/// Where a node stands, as a coordinator tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeStanding {
    /// What it still holds that is to move, if it is draining and the answering coordinator leads and has measured it.
    pub drain: Option<DrainBacklog>,
    /// Until when it may be away; none if it has declared no absence, or that is over.
    pub absent_until: Option<Timestamp>,
    /// For how long it may declare to be away beyond that.
    pub absence_left_millis: u64,
}

/// Why a node does less than others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RestCause {
    /// Its owner has paused it.
    Paused,
    /// The traffic that its owner lends for a month is used up.
    TrafficSpent,
    /// These are not the hours in which it works.
    OutsideHours,
    /// Its owner has declared that it is away.
    Absent,
}

impl fmt::Display for RestCause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Paused => "paused",
            Self::TrafficSpent => "month used up",
            Self::OutsideHours => "outside its hours",
            Self::Absent => "declared away",
        })
    }
}

/// A node that rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestingNode {
    /// The node.
    pub node: NodeId,
    /// Why.
    pub cause: RestCause,
    /// Until when, as far as it has said.
    pub until: Option<Timestamp>,
}
