//! Erasing: every file of a bundle goes at once, from its place and from trash.
//!
//! Always holds: once a bundle is erased no shard that is known to be of it is listed, lies in trash or is taken, whatever was
//! on its way; what cannot be removed is an error, and nothing counts as erased then. A file that fails keeps no other one
//! here: a shard whose header the disk does not give, or a newer program wrote, is served and counted no more, and looked at
//! again by the next start. One that the index calls another bundle's is known, and goes, when a header of its coding is read:
//! by the scrub at the latest.
//! Leaves to others: which bundles (`storage-node/logic`).

use std::collections::BTreeSet;
use std::io;

use firn_base::BundleId;

use super::name::{ShardName, TRASH, TrashName, TrashReason};
use super::shard_file::{OpenShard, OpenShardError, bundle_of_file};
use super::shard_store::ShardStore;

impl ShardStore {
    /// Removes every shard of `bundles` and takes none of them from now on. Gives the number of files removed. Calling it
    /// again does no harm.
    ///
    /// # Errors
    ///
    /// The disk fails, for the first time with this; every other file is gone.
    pub fn erase(&self, bundles: &BTreeSet<BundleId>) -> io::Result<u64> {
        if bundles.is_empty() {
            return Ok(0);
        }
        let shards: Vec<ShardName> = {
            let mut shelf = self.shelf();
            // First of all, so that nothing comes behind the look.
            shelf.erased.extend(bundles);
            let own = shelf.shards.iter().filter(|(_, held)| bundles.contains(&held.bundle));
            own.map(|(name, _)| *name).collect()
        };
        let mut removed = 0;
        // One bad sector must not keep here what lies behind it.
        let mut failed = None;
        let mut count = |erased: io::Result<bool>| match erased {
            Ok(is_gone) => removed += u64::from(is_gone),
            Err(error) => {
                failed.get_or_insert(error);
            }
        };
        for name in shards {
            count(self.erase_shard_of(name, bundles));
        }
        // Behind the shards: one that was trashed meanwhile is found here.
        let trash: Vec<TrashName> = self.shelf().trash.keys().copied().collect();
        for name in trash {
            count(self.erase_trash_of(name, bundles));
        }
        failed.map_or(Ok(removed), Err)
    }

    fn erase_shard_of(&self, name: ShardName, bundles: &BTreeSet<BundleId>) -> io::Result<bool> {
        Ok(self.is_still_of(name, bundles)? && self.erase_shard(name)?)
    }

    fn erase_trash_of(&self, name: TrashName, bundles: &BTreeSet<BundleId>) -> io::Result<bool> {
        Ok(self.is_unwanted_trash(name, bundles)? && self.erase_trash(name)?)
    }

    pub(super) fn erase_shard(&self, name: ShardName) -> io::Result<bool> {
        let mut shelf = self.shelf();
        let Some(held) = shelf.shards.get(&name).copied() else { return Ok(false) };
        self.remove_file(&name.path())?;
        shelf.shards.remove(&name);
        shelf.account.moved_to_trash(held.bytes);
        shelf.account.emptied(held.bytes);
        drop(shelf);
        self.forget_open(name);
        self.disk.sync_directory(&name.directory())?;
        Ok(true)
    }

    fn erase_trash(&self, name: TrashName) -> io::Result<bool> {
        let mut shelf = self.shelf();
        let Some(bytes) = shelf.trash.get(&name).copied() else { return Ok(false) };
        self.remove_file(&name.path())?;
        shelf.trash.remove(&name);
        shelf.account.emptied(bytes);
        drop(shelf);
        self.disk.sync_directory(TRASH)?;
        Ok(true)
    }

    /// Whether a shard is of one of `bundles`. Nothing goes on the word of the index alone: the header has the last one.
    fn is_still_of(&self, name: ShardName, bundles: &BTreeSet<BundleId>) -> io::Result<bool> {
        match OpenShard::open(self.disk.as_ref(), name) {
            Ok(shard) => {
                let bundle = shard.header().content().bundle_id();
                let is_new = self.shelf().learn_bundle(name.coding, bundle);
                if is_new {
                    self.distrust_index();
                }
                Ok(bundles.contains(&bundle))
            }
            // It is no shard, whatever it was: of no use to anybody.
            Err(OpenShardError::Damaged(_)) => Ok(true),
            Err(OpenShardError::TooNew(sentence)) => {
                // Whole for the program that wrote it, which knows of which bundle it is.
                tracing::error!(shard = %name, "the shard is not erased, nor served: {sentence}");
                self.unlist(name);
                Ok(false)
            }
            Err(OpenShardError::Disk(error)) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(OpenShardError::Disk(error)) => {
                // That says nothing of a shard whose disk is gone.
                self.disk.check_presence()?;
                // Of whatever bundle it is: nobody can read it.
                tracing::error!(shard = %name, %error, "the header of a shard cannot be read: it is served no more");
                self.unlist(name);
                Ok(false)
            }
        }
    }

    /// Whether a file in trash is of one of `bundles`. One that was set aside as damaged and does not even say what it is
    /// may be: it is of no use to anybody.
    fn is_unwanted_trash(&self, name: TrashName, bundles: &BTreeSet<BundleId>) -> io::Result<bool> {
        match bundle_of_file(self.disk.as_ref(), &name.path()) {
            Ok(Some(bundle)) => Ok(bundles.contains(&bundle)),
            Ok(None) => Ok(name.reason == TrashReason::Damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
