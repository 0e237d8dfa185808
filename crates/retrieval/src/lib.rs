//! Verified reads of what an archive holds: ranges of shards, payloads, path infos and NARs.
//!
//! Owns: which node is asked for which bytes, reading around nodes that are away, slow or lying, and the checks
//! between a node's answer and a NAR. Always holds: no byte leaves here that was not checked against a hash
//! that the archive committed to; memory is bounded whatever the size of an object; dropping a future cancels
//! its requests. Leaves to others: connections (`transport`), formats (`bundle`), serving (`gateway`).
//!
//! From the bottom up: [`read_range`] asks one node. A [`PayloadReader`] gives ranges of payloads, whether from
//! the swarm ([`SwarmReader`] with a [`Directory`]), from bare shard files ([`FileReader`]) or from a
//! publisher's spool ([`SpoolReader`]). A [`ManifestReader`] finds records in payloads, and an [`ObjectReader`]
//! streams what they describe.

mod ahead_budget;
mod cached_directory;
mod checked_frame;
mod content_stream;
mod decoded_stream;
mod directory;
mod directory_source;
mod file_reader;
mod frame_reader;
mod hedge_budget;
mod latency;
mod manifest_reader;
mod node_health;
mod object;
mod payload;
mod piece_race;
mod proven_compositions;
mod race_plan;
mod range;
mod read_error;
mod shard_collection;
mod shard_source;
mod single_flight;
mod spool_reader;
mod swarm_reader;
mod verified_stream;
mod visit_planner;
mod weighted_cache;

pub use cached_directory::{CachedDirectory, DirectoryOptions};
pub use directory::{BundleFacts, Directory, DirectoryError, NodeBook};
pub use directory_source::{CoordinatorSource, DirectorySource};
pub use file_reader::{FileReader, FoundShards};
pub use manifest_reader::{CHUNK_LIST_BYTES_MAX, ManifestHead, ManifestOptions, ManifestReader};
pub use object::{ByteStream, ObjectOptions, ObjectPlan, ObjectReader};
pub use payload::PayloadReader;
pub use range::{RANGE_STALL_MAX, ReadRangeError, read_range};
pub use read_error::ReadError;
pub use shard_collection::DamagedShardFile;
pub use shard_source::{NodeSource, ShardRange, ShardSource};
pub use single_flight::SingleFlight;
pub use spool_reader::SpoolReader;
pub use swarm_reader::{SwarmCounts, SwarmOptions, SwarmReader};
