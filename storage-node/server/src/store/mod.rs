//! Shards on disk: [`ShardStore`] over a [`Disk`], which is a real directory or a simulated one.

mod beside;
mod codings;
mod disk;
mod erasure;
mod files;
mod index;
mod memory;
mod name;
mod scan;
mod shard_file;
mod shard_reader;
mod shard_store;
mod shard_writer;
mod trash;

pub use disk::{Disk, DiskEntry, DiskFile};
pub use files::FileDisk;
pub use memory::{DiskFaults, MemoryDisk};
pub use name::ShardName;
pub use scan::ScanReport;
pub use shard_file::{InspectError, verify_file};
pub use shard_reader::ReadShardError;
pub use shard_store::{ShardStore, StoreFigures, StoreShardError};
pub use shard_writer::ShardWriter;
pub use trash::TrashShardError;

pub(crate) use beside::CERTIFICATES;
pub(crate) use disk::{read_small, replace_small};
