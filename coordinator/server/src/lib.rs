//! The coordinator: the archive's state, kept alike on three or five machines.
//!
//! Owns: the stores, the consensus over them, and the program around both. Leaves to others: every decision
//! (`coordinator/logic`), the messages (`wire`), the connections (`transport`).

mod address_file;
mod clock_watch;
mod comparison;
pub mod consensus;
mod control;
mod coordinator;
mod deed;
mod driver;
mod evidence_store;
mod filters;
mod founding;
mod home;
mod http;
mod ledger_heads;
mod links;
mod member_watch;
mod picture;
mod raft;
mod rebuild;
mod refounding;
mod repair_at;
mod serve;
mod shared;
mod snapshot_file;
mod standing;
pub mod storage;

pub use address_file::{AddressFileError, read_address_table};
pub use consensus::{
    ChangeError, Consensus, ConsensusOptions, ConsensusStatus, ConsensusWatch, ProposeError, StartError,
};
pub use control::{CONTROL_SOCKET, ControlError, ask_control, ask_ledger, serve_control};
pub use coordinator::{
    Administration, Coordinator, CoordinatorError, CoordinatorOptions, DescriptorWatch, ERASE_AFTER,
    RECODE_AFTER,
};
pub use deed::{act_name, act_subject, describe_act};
pub use evidence_store::EvidencePlace;
pub use filters::{FilterOptions, FilterStore, FilterWriter};
pub use founding::{Joined, ParsePeerError, Peer, RetiredError, ask_back, ask_peers, found_archive};
pub use home::{Home, HomeError, Resync};
pub use http::{bind_http, serve_http};
pub use raft::{ROUND_TRIP_MAX, StateFacts, Timing};
pub use rebuild::RebuildOptions;
pub use refounding::{NextRosterError, next_descriptor, refound};
pub use repair_at::{ParseRepairAtError, RepairAt};
pub use snapshot_file::{SnapshotContents, SnapshotFile, SnapshotFileError};
pub use standing::StandingError;
