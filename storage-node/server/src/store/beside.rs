//! What lies in the data directory beside shards, trash and the index of shards.
//!
//! Always holds: it is measured, not remembered: files of others that lie there take up room too. Leaves to others: when it
//! is measured, and shards and trash (`scan`).

use std::io;

use super::disk::DiskEntry;
use super::name::{INDEX, SHARDS};
use super::scan::fan_of;
use super::shard_store::{ShardStore, Shelf};

/// Holds many small files of the node.
pub(crate) const CERTIFICATES: &str = "certificates";

impl ShardStore {
    /// Measures what lies beside shards, trash and index: the node's own files, the copy of the ledger, certificates, directories.
    /// It counts against the quota like a shard. Costs some looks at directories, and reads no file.
    ///
    /// # Errors
    ///
    /// The data directory cannot be listed; what was measured before goes on to count.
    pub fn measure_beside(&self) -> io::Result<()> {
        let disk = self.disk.as_ref();
        let below = disk.list("")?;
        let holds = |name: &str| below.iter().any(|entry| entry.is_directory && entry.name == name);
        let certificates = if holds(CERTIFICATES) { disk.list(CERTIFICATES)? } else { Vec::new() };
        // Files there are shards, or the index, but for those of others.
        let mut shards = disk.list(SHARDS)?;
        shards.retain(|entry| !INDEX.ends_with(&format!("/{}", entry.name)));
        let mut shelf = self.shelf();
        let on_disk = |entry: &DiskEntry| match entry.is_directory {
            true => entry.bytes,
            false => shelf.account.on_disk(entry.bytes),
        };
        let entries: u64 = below.iter().chain(&certificates).chain(&shards).map(on_disk).sum();
        // The directory itself, which nothing lists.
        let own = if disk.block_bytes() > 1 { disk.block_bytes() } else { 0 };
        shelf.account.set_beside(entries.saturating_add(own));
        shelf.counted = shards.iter().filter_map(fan_of).collect();
        // Made since they were listed.
        for fan in shelf.directories.clone() {
            shelf.count_directory(fan);
        }
        Ok(())
    }
}

impl Shelf {
    /// A directory of shards is there: it counts from now on, if it did not.
    pub(super) fn count_directory(&mut self, fan: u8) {
        if self.counted.insert(fan) {
            self.account.made_directory();
        }
    }
}
