//! The storage node: shards on a disk, served and kept by order of the coordinators.
//!
//! Owns: the shard store, answering requests, carrying out build orders, the links to the coordinators, the
//! node's data directory, control socket, the owner's page and notices, and monitoring.
//! Always holds: what was acknowledged is on disk, synced; nothing unproved leaves; the quota is never
//! exceeded; nothing is deleted but by the rules of `storage-node/logic`.
//! Leaves to others: decisions (`storage-node/logic`), formats (`bundle`), the network (`transport`).

mod authority;
mod build;
mod build_sources;
mod build_targets;
mod certificates;
mod control;
mod data_directory;
mod fair_gate;
mod governance;
mod lent;
mod line_part;
mod link;
mod monitoring;
mod node;
mod notify_command;
mod owner;
mod owner_sentence;
mod page;
mod payload_columns;
mod recode;
mod report;
mod scrub;
mod serve;
mod shared;
mod store;
mod storing;
mod terms;
mod week;

pub use control::{CONTROL_SOCKET, ControlError, ControlReply, ControlRequest, ask_control, serve_control};
pub use firn_storage_node_logic::{ActiveHours, DeletionLimits, INDEX_RECORD_BYTES, LineTerms, ScrubPlan};

pub use data_directory::{DataDirectory, OpenDataError};
pub use governance::{ArchiveFileError, kept_descriptor};
pub use monitoring::serve_monitoring;
pub use node::{NodeHandle, QUOTA_DEFAULT, StartNodeError, StorageNode, StorageNodeOptions, has_left};
pub use owner::{OwnerNotifier, keep_notifying};
pub use report::{AttentionReport, LeaveReport, LinkReport, NodeReport, WorkReport};
pub use store::{
    Disk, DiskEntry, DiskFaults, DiskFile, FileDisk, InspectError, MemoryDisk, ReadShardError, ScanReport,
    ShardName, ShardStore, ShardWriter, StoreFigures, StoreShardError, TrashShardError, verify_file,
};
