//! Ranges of shards with their proofs.
//!
//! Always holds: what does not match its root is not served, and its shard is set aside at once.

use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use firn_base::Timestamp;
use firn_bundle::{ProofError, ShardFileHeader};

use super::name::ShardName;
use super::shard_file::{OpenShard, OpenShardError};
use super::shard_store::ShardStore;

/// Why a range was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadShardError {
    /// The shard is not here.
    #[error("this node does not hold the shard: look up its present home")]
    NotHere,
    /// The range is not within the shard.
    #[error("{0}")]
    Range(ProofError),
    /// The shard was found damaged and is set aside.
    #[error("the shard is damaged on this node: read it elsewhere")]
    Damaged,
    /// The disk failed.
    #[error("the node's disk failed: {0}")]
    Disk(io::Error),
}

impl ShardStore {
    /// The bytes of `range` of a shard in bao's combined encoding, every one checked. A damaged shard is set
    /// aside, under the time `now`.
    pub fn read(
        &self,
        name: ShardName,
        range: &Range<u64>,
        now: Timestamp,
    ) -> Result<Vec<u8>, ReadShardError> {
        let shard = self.open_shard(name, now)?;
        match shard.prove(range) {
            // Read once more: a bit that flipped on its way through memory costs no shard.
            Err(ProofError::Damaged { .. }) => {}
            Err(ProofError::Io(error)) => return Err(ReadShardError::Disk(error)),
            Err(error) => return Err(ReadShardError::Range(error)),
            Ok(encoded) => return Ok(encoded),
        }
        shard.prove(range).map_err(|error| match error {
            ProofError::Io(error) => ReadShardError::Disk(error),
            _ => {
                self.set_aside(name, now);
                ReadShardError::Damaged
            }
        })
    }

    /// The header of a shard file.
    pub fn header(&self, name: ShardName, now: Timestamp) -> Result<ShardFileHeader, ReadShardError> {
        Ok(self.open_shard(name, now)?.header().clone())
    }

    /// Reads a whole shard and checks it; a damaged one is set aside.
    pub fn verify(&self, name: ShardName, now: Timestamp) -> Result<(), ReadShardError> {
        use super::shard_file::InspectError;
        match self.open_shard(name, now)?.verify() {
            Ok(()) => Ok(()),
            Err(InspectError::Disk(error)) => Err(ReadShardError::Disk(error)),
            Err(_) => {
                self.set_aside(name, now);
                Err(ReadShardError::Damaged)
            }
        }
    }

    fn open_shard(&self, name: ShardName, now: Timestamp) -> Result<Arc<OpenShard>, ReadShardError> {
        let cached = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(shard) = cached {
            return Ok(shard);
        }
        if !self.holds(name) {
            return Err(ReadShardError::NotHere);
        }
        match OpenShard::open(self.disk.as_ref(), name) {
            Ok(shard) => {
                let shard = Arc::new(shard);
                self.keep_open(name, &shard)?;
                Ok(shard)
            }
            Err(OpenShardError::Disk(error))
                if error.kind() == io::ErrorKind::NotFound && !self.holds(name) =>
            {
                Err(ReadShardError::NotHere)
            }
            Err(OpenShardError::Disk(error)) if error.kind() == io::ErrorKind::NotFound => {
                // The file is not lost with the disk that it is on: the disk may be mounted again.
                self.disk.check_presence().map_err(|error| {
                    self.doubts.notify_one();
                    ReadShardError::Disk(error)
                })?;
                // Somebody removed the file under us.
                self.set_aside(name, now);
                Err(ReadShardError::Damaged)
            }
            Err(OpenShardError::Disk(error)) => Err(ReadShardError::Disk(error)),
            Err(OpenShardError::Damaged(_)) => {
                self.set_aside(name, now);
                Err(ReadShardError::Damaged)
            }
            Err(OpenShardError::TooNew(sentence)) => {
                // It is whole for the program that wrote it: it stays for that.
                tracing::error!(shard = %name, "the shard is not served: {sentence}");
                self.unlist(name);
                Err(ReadShardError::Damaged)
            }
        }
    }

    /// Keeps a shard open for the next reader, and holds its header against what was known of it.
    fn keep_open(&self, name: ShardName, shard: &Arc<OpenShard>) -> Result<(), ReadShardError> {
        let bundle = shard.header().content().bundle_id();
        // The lock that trashing takes, so that no file stays open that was moved meanwhile.
        let mut shelf = self.shelf();
        if !shelf.shards.contains_key(&name) {
            return Ok(());
        }
        let is_new = shelf.learn_bundle(name.coding, bundle);
        let is_erased = shelf.erased.contains(&bundle);
        if !is_erased {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).put(name, Arc::clone(shard));
        }
        drop(shelf);
        if is_new {
            self.distrust_index();
        }
        if is_erased {
            // With the others of its coding: nobody looks for shards of what was erased before.
            for index in self.indexes_of(name.coding) {
                self.erase_shard(ShardName::new(name.coding, index)).map_err(ReadShardError::Disk)?;
            }
            return Err(ReadShardError::NotHere);
        }
        Ok(())
    }
}
