//! Trash on the disk: files that are no shards of this node any more, each under the time and the reason it went.
//!
//! Always holds: a file gets into trash by one rename and out of it by rule only; an order is followed only within the
//! day's allowances, which are counted from what lies here; no file in trash takes the place of another; nobody waits for the files
//! that are removed or dated anew, however many there are.
//! Leaves to others: the rules (`storage-node/logic`), who may order (`admission`).

use std::io;

use firn_base::Timestamp;
use firn_storage_node_logic::{TooManyDeletes, TrashEntry, YoungTrash, expired_trash, trash_for_room};
use firn_wire::DeleteReason;

use super::name::{ShardName, TRASH, TrashName, TrashReason};
use super::shard_store::{ShardStore, Shelf};

/// Why an ordered deletion was not done.
#[derive(Debug, thiserror::Error)]
pub enum TrashShardError {
    /// It goes beyond what the node deletes within a day.
    #[error(transparent)]
    TooMany(#[from] TooManyDeletes),
    /// The disk failed.
    #[error("the node's disk failed: {0}")]
    Disk(#[from] io::Error),
}

impl Shelf {
    /// What lies in trash, oldest first.
    pub(super) fn trash_entries(&self) -> impl DoubleEndedIterator<Item = TrashEntry> {
        self.trash.iter().map(|(name, bytes)| TrashEntry {
            since: name.since,
            file_bytes: *bytes,
            disk_bytes: self.account.on_disk(*bytes),
            ordered: name.reason.ordered(),
        })
    }

    /// The oldest trash, of which so many bytes have to go; none if what may go is not enough.
    pub(super) fn trash_to_go(&self, now: Timestamp, needed_bytes: u64) -> Option<Vec<TrashName>> {
        let count = trash_for_room(self.trash_entries(), now, needed_bytes)?;
        Some(self.trash.keys().take(count).copied().collect())
    }

    pub(super) fn young_trash(&self, now: Timestamp) -> YoungTrash {
        YoungTrash::sum(self.trash_entries().rev(), now)
    }

    /// A shard was named: a file that is not listed and had its name is no more. Says whether there was one.
    pub(super) fn replace_unlisted(&mut self, name: ShardName) -> bool {
        let Some(bytes) = self.unlisted.remove(&name) else { return false };
        self.account.moved_to_trash(bytes);
        self.account.emptied(bytes);
        true
    }

    /// A name in trash that no file bears: two files of one shard may go within a millisecond.
    fn free_trash_name(&self, mut since: Timestamp, shard: ShardName, reason: TrashReason) -> TrashName {
        loop {
            let name = TrashName { since, shard, reason };
            if !self.trash.contains_key(&name) {
                return name;
            }
            since = Timestamp::from_millis(since.as_millis().saturating_add(1));
        }
    }
}

impl ShardStore {
    /// Moves a shard to trash because that was ordered, and says whether it was here.
    ///
    /// # Errors
    ///
    /// It is more than the node deletes within a day, or the disk fails.
    pub fn trash(
        &self,
        name: ShardName,
        reason: DeleteReason,
        now: Timestamp,
    ) -> Result<bool, TrashShardError> {
        let mut shelf = self.shelf();
        let Some(bytes) = shelf.shards.get(&name).map(|held| held.bytes) else { return Ok(false) };
        // Under the same lock as the move, so that two orders at a time do not share an allowance.
        let room = shelf.limits.room(shelf.account.stored_file_bytes(), &shelf.young_trash(now));
        // By its length, as the leader takes it off the room that it was told.
        if room.after(reason, bytes).is_none() {
            return Err(TooManyDeletes { left: room.of(reason).0, wanted: bytes }.into());
        }
        let moved = self.move_to_trash(&mut shelf, name, TrashReason::Ordered(reason), now)?;
        drop(shelf);
        self.settle_trash(name)?;
        Ok(moved)
    }

    /// Removes what has lain in trash for its time, and gives the number of files removed. What seems to come from
    /// the future, because the clock was wrong then, counts as having come now: else it would never go.
    pub fn empty_trash(&self, now: Timestamp) -> io::Result<usize> {
        let future: Vec<TrashName> = {
            let shelf = self.shelf();
            shelf.trash.keys().rev().take_while(|name| name.since > now).copied().collect()
        };
        for name in &future {
            self.date_anew(*name, now)?;
        }
        if !future.is_empty() {
            self.disk.sync_directory(TRASH)?;
        }
        let shelf = self.shelf();
        let count = expired_trash(shelf.trash_entries(), now);
        let expired = shelf.trash.keys().take(count).copied().collect();
        drop(shelf);
        self.remove_trash(expired)?;
        Ok(count)
    }

    /// Lets a file in trash have come at `now`. Others have the shelf between two of them, and may have removed it.
    fn date_anew(&self, name: TrashName, now: Timestamp) -> io::Result<()> {
        let mut shelf = self.shelf();
        let Some(bytes) = shelf.trash.get(&name).copied() else { return Ok(()) };
        let dated = shelf.free_trash_name(now, name.shard, name.reason);
        let is_there = match self.disk.rename(&name.path(), &dated.path()) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        shelf.trash.remove(&name);
        if is_there {
            shelf.trash.insert(dated, bytes);
        } else {
            shelf.account.emptied(bytes);
        }
        Ok(())
    }

    /// Sets a shard aside that does not match its root.
    pub(super) fn set_aside(&self, name: ShardName, now: Timestamp) {
        let mut shelf = self.shelf();
        let moved = self.move_to_trash(&mut shelf, name, TrashReason::Damaged, now);
        drop(shelf);
        match moved.and_then(|moved| self.settle_trash(name).map(|()| moved)) {
            Ok(true) => {
                tracing::error!(shard = %name, "the shard is damaged: it is set aside and reported missing");
            }
            Ok(false) => return,
            Err(error) => {
                // It cannot be moved, but must not be served or counted on.
                tracing::error!(shard = %name, %error, "the shard is damaged and cannot be set aside");
                return self.unlist(name);
            }
        }
        self.count_loss();
    }

    /// Serves and counts a shard no more whose file stays where it is. The index leaves its coding out from here on, so that
    /// the next start asks the file again instead of listing it.
    pub(super) fn unlist(&self, name: ShardName) {
        let mut shelf = self.shelf();
        let Some(held) = shelf.shards.remove(&name) else { return };
        shelf.unlisted.insert(name, held.bytes);
        drop(shelf);
        self.forget_open(name);
        self.count_loss();
        self.distrust_index();
    }

    fn move_to_trash(
        &self,
        shelf: &mut Shelf,
        name: ShardName,
        reason: TrashReason,
        now: Timestamp,
    ) -> io::Result<bool> {
        let Some(bytes) = shelf.shards.get(&name).map(|held| held.bytes) else { return Ok(false) };
        let trash = shelf.free_trash_name(now, name, reason);
        self.disk.rename(&name.path(), &trash.path())?;
        shelf.shards.remove(&name);
        shelf.trash.insert(trash, bytes);
        shelf.account.moved_to_trash(bytes);
        Ok(true)
    }

    /// Makes the move of a shard survive a power cut.
    fn settle_trash(&self, name: ShardName) -> io::Result<()> {
        self.forget_open(name);
        self.disk.sync_directory(TRASH)?;
        self.disk.sync_directory(&name.directory())
    }

    /// Removes files from trash, and gives the bytes that the disk has got back for them. The shelf is everybody's, and nobody
    /// waits with it for the disk: each file counts until it is gone, and another one may have removed it by then.
    ///
    /// # Errors
    ///
    /// One cannot be removed; those before it are gone.
    pub(super) fn remove_trash(&self, names: Vec<TrashName>) -> io::Result<u64> {
        let mut freed_bytes = 0_u64;
        for name in names {
            let is_removed = match self.disk.remove(&name.path()) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            let mut shelf = self.shelf();
            let Some(bytes) = shelf.trash.remove(&name) else { continue };
            shelf.account.emptied(bytes);
            if is_removed {
                freed_bytes = freed_bytes.saturating_add(shelf.account.on_disk(bytes));
            }
        }
        Ok(freed_bytes)
    }
}
