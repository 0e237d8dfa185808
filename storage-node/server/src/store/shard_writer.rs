//! A shard on its way to the disk.
//!
//! Always holds: the bytes are set aside within the quota, and within what the disk has free where that is told, before the first
//! is written; the shard appears in the
//! store only after its root was found right and file, name and directories are synced; a writer that is
//! dropped before that leaves nothing.

use std::sync::Arc;

use firn_base::{BundleId, ByteCount, ShardRoot, Timestamp};
use firn_bundle::{ShardFileHeader, ShardFileLayout, ShardTreeBuilder, shard_file_trailer};
use firn_storage_node_logic::Admitted;

use super::disk::DiskFile;
use super::index::IndexRecord;
use super::name::ShardName;
use super::shard_store::{HeldShard, ShardStore, StoreShardError};

/// Takes the bytes of one shard, in order.
#[derive(Debug)]
#[must_use = "a writer that is dropped unfinished keeps nothing"]
pub struct ShardWriter {
    store: Arc<ShardStore>,
    name: ShardName,
    bundle: BundleId,
    root: ShardRoot,
    layout: ShardFileLayout,
    header: Vec<u8>,
    file: Option<Box<dyn DiskFile>>,
    tree: Option<ShardTreeBuilder>,
    written: u64,
    // None once the account has it back.
    admitted: Option<Admitted>,
    // Where the bytes lie now.
    path: String,
}

impl ShardStore {
    /// Begins to take the shard that `header` describes, whatever the disk has free. Room within the quota is made at the cost of
    /// trash of more than a day, if need be.
    ///
    /// # Errors
    ///
    /// The shard is here or being written, there is no room, or the disk fails.
    pub fn begin(
        self: &Arc<Self>,
        header: &ShardFileHeader,
        now: Timestamp,
    ) -> Result<ShardWriter, StoreShardError> {
        self.begin_within(header, || ByteCount(u64::MAX), now)
    }

    /// The same on a disk that has left what `disk_free` says each time it is asked, of which the node keeps a part free: room is
    /// made there, too.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn begin_within(
        self: &Arc<Self>,
        header: &ShardFileHeader,
        disk_free: impl FnMut() -> ByteCount,
        now: Timestamp,
    ) -> Result<ShardWriter, StoreShardError> {
        let name = ShardName::new(header.coding().coding_id(), header.index());
        let layout = header.layout();
        let bundle = header.content().bundle_id();
        let admitted = self.admit(name, bundle, layout.file_bytes, disk_free, now)?;
        let path = name.temporary_path();
        let mut writer = ShardWriter {
            store: Arc::clone(self),
            name,
            bundle,
            root: header.root(),
            layout,
            header: header.to_bytes(),
            file: None,
            tree: Some(ShardTreeBuilder::new(layout.shard_bytes)),
            written: 0,
            admitted: Some(admitted),
            path,
        };
        // From here on an error drops the writer, and that cleans up.
        let file = writer.file.insert(self.disk.create(&writer.path)?);
        file.write_at(0, &writer.header)?;
        Ok(writer)
    }

    fn admit(
        &self,
        name: ShardName,
        bundle: BundleId,
        bytes: u64,
        mut disk_free: impl FnMut() -> ByteCount,
        now: Timestamp,
    ) -> Result<Admitted, StoreShardError> {
        let mut free_at_least = ByteCount(0);
        // Each turn takes files out of trash, or is the last.
        loop {
            // Others take and give meanwhile. Without the lock, for nobody waits with that for a disk.
            let free = disk_free().max(free_at_least);
            let going = {
                let mut shelf = self.shelf();
                if shelf.erased.contains(&bundle) {
                    return Err(StoreShardError::Erased);
                }
                if shelf.shards.contains_key(&name) {
                    return Err(StoreShardError::AlreadyHere);
                }
                if shelf.writing.contains(&name) {
                    return Err(StoreShardError::InProgress);
                }
                // Under the lock that sets bytes aside, so that two shards do not share what is free.
                let room = shelf.figures(now).disk_room(free);
                room.check(bytes)?;
                let missing_bytes = shelf.account.missing(bytes).max(room.missing_bytes(bytes));
                if missing_bytes == 0 {
                    let admitted = shelf.account.admit(bytes)?;
                    shelf.writing.insert(name);
                    return Ok(admitted);
                }
                let going = shelf.trash_to_go(now, missing_bytes);
                going.ok_or_else(|| shelf.account.refusal(bytes))?
            };
            let freed_bytes = self.remove_trash(going)?;
            // Some file systems say late what they have got back: no more of trash is to go for that.
            free_at_least = ByteCount(free.0.saturating_add(freed_bytes));
        }
    }
}

impl ShardWriter {
    /// Takes the next bytes of the shard.
    ///
    /// # Errors
    ///
    /// They are more than the shard has, or the disk fails; drop the writer then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreShardError> {
        let (Some(file), Some(tree)) = (&self.file, &mut self.tree) else {
            return Err(StoreShardError::WrongBytes);
        };
        tree.update(bytes).map_err(|_| StoreShardError::WrongBytes)?;
        file.write_at(self.layout.shard_offset + self.written, bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Bytes taken so far.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Checks the shard's root and makes it durable. Once this returns `Ok`, the shard survives a power cut.
    ///
    /// # Errors
    ///
    /// Bytes are missing or wrong, or the disk fails: then nothing is kept.
    pub fn finish(mut self) -> Result<ShardRoot, StoreShardError> {
        let (Some(file), Some(tree)) = (self.file.take(), self.tree.take()) else {
            return Err(StoreShardError::WrongBytes);
        };
        let tree = tree.finish().map_err(|_| StoreShardError::WrongBytes)?;
        if tree.root != self.root {
            return Err(StoreShardError::WrongBytes);
        }
        file.write_at(self.layout.outboard_offset, &tree.outboard)?;
        file.write_at(self.layout.trailer_offset, &shard_file_trailer(&self.header, &tree.outboard))?;
        file.sync()?;
        drop(file);
        self.store.ensure_directory(self.name)?;
        self.store.disk.rename(&self.path, &self.name.path())?;
        self.path = self.name.path();
        let is_in_its_place = self.store.shelf().replace_unlisted(self.name);
        if is_in_its_place {
            // Its coding may have a record again, also where others of its shards are here.
            self.store.unnoted().insert(self.name.coding);
        }
        self.store.disk.sync_directory(&self.name.directory())?;
        let (coding, bundle, file_bytes) = (self.name.coding, self.bundle, self.layout.file_bytes);
        self.store.note_in_index(IndexRecord { coding, bundle, file_bytes });
        let mut shelf = self.store.shelf();
        if shelf.erased.contains(&self.bundle) {
            // The file goes with the writer, which needs the lock for it.
            drop(shelf);
            return Err(StoreShardError::Erased);
        }
        if let Some(admitted) = self.admitted.take() {
            shelf.account.keep(admitted);
        }
        shelf.shards.insert(self.name, HeldShard { bytes: self.layout.file_bytes, bundle: self.bundle });
        Ok(self.root)
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        self.file = None;
        let admitted = self.admitted.take();
        let removed = admitted.is_none() || {
            let removed = self.store.disk.remove(&self.path);
            matches!(&removed, Err(error) if error.kind() == std::io::ErrorKind::NotFound) || removed.is_ok()
        };
        let mut shelf = self.store.shelf();
        shelf.writing.remove(&self.name);
        match admitted {
            Some(admitted) if removed => shelf.account.release(admitted),
            // What could not be removed takes up room until the next start.
            Some(admitted) => drop(admitted),
            None => {}
        }
    }
}
