//! The consensus over the archive's state, on the `openraft` library.
//!
//! Owns: the log and the state as the library wants them, the bytes of records, snapshots, and messages between
//! members. Always holds: nothing outside this module and `consensus` names the library.
//! Leaves to others: what commands mean (`coordinator/logic`), where bytes lie (`storage`).

mod applied_changes;
mod bytes;
mod changes;
mod clock_book;
mod contact;
mod continuity;
mod digests;
mod facts;
mod feed_page;
mod freshness_book;
mod gate;
mod inbound;
mod install_gate;
mod key_index;
mod keys;
mod log_store;
mod member_book;
mod message;
mod network;
mod records;
mod refounding;
mod snapshot;
mod state_machine;
mod timing;
mod types;

pub(crate) use applied_changes::AppliedChanges;
pub(crate) use clock_book::ClockBook;
pub(crate) use continuity::check_continuity;
pub(crate) use digests::LateDigests;
pub use facts::StateFacts;
pub(crate) use freshness_book::FreshnessBook;
pub(crate) use gate::QuorumGate;
pub(crate) use inbound::Inbound;
pub(crate) use install_gate::InstallGate;
pub(crate) use log_store::{LogStore, has_log};
pub(crate) use member_book::{ListedMember, MemberBook, NamedMembers};
pub(crate) use network::Network;
pub(crate) use refounding::refound;
pub(crate) use state_machine::{StateMachine, read_position};
pub use timing::{ROUND_TRIP_MAX, Timing};
pub(crate) use types::{Member, Metrics, Raft, Vote};

#[cfg(test)]
mod suite_tests;
