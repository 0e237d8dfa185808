//! The quota: how many bytes a node may have on its disk, and how many it has.
//!
//! Always holds: shards, files being written, trash and the index of shards together never exceed the quota through an
//! admission; every byte is in exactly one of the four. A quota that was made smaller than what is there refuses new
//! bytes and removes nothing.
//! Leaves to others: what is to be trashed or emptied (`trash`), and how much a disk really has free.

use firn_base::ByteCount;

/// What the index of shards grows by with a shard, at most.
pub const INDEX_RECORD_BYTES: u64 = 80;

/// Bytes on disk by what they are. A shard file counts whole: header, shard, outboard tree and trailer.
#[derive(Debug)]
pub struct Account {
    quota: u64,
    stored: u64,
    pending: u64,
    trash: u64,
    index: u64,
}

/// Bytes set aside for a file that is being written, and for its record in the index. Goes back to its account by [`Account::keep`] or
/// [`Account::release`]; not `Clone`, so that no byte is given back twice.
#[derive(Debug)]
#[must_use = "bytes that are set aside stay so until they are kept or released"]
pub struct Admitted {
    bytes: u64,
}

/// There is no room within the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node's quota has {} left, {} are needed: choose another node or raise --quota", ByteCount(*free), ByteCount(*wanted))]
pub struct QuotaExceeded {
    /// What was asked for.
    pub wanted: u64,
    /// What the quota has left.
    pub free: u64,
}

impl Account {
    /// An empty account with a quota of `quota` bytes.
    pub const fn new(quota: ByteCount) -> Self {
        Self { quota: quota.0, stored: 0, pending: 0, trash: 0, index: 0 }
    }

    /// Sets `bytes` aside for a file about to be written, and what its record in the index takes.
    ///
    /// # Errors
    ///
    /// The quota has fewer left; nothing is set aside.
    pub const fn admit(&mut self, bytes: u64) -> Result<Admitted, QuotaExceeded> {
        let (wanted, free) = (bytes.saturating_add(INDEX_RECORD_BYTES), self.free_bytes());
        if wanted > free {
            return Err(QuotaExceeded { wanted, free });
        }
        self.pending += wanted;
        Ok(Admitted { bytes })
    }

    /// How many bytes have to go before a file of `bytes` more fits.
    pub const fn missing(&self, bytes: u64) -> u64 {
        let wanted = bytes.saturating_add(INDEX_RECORD_BYTES);
        self.used_bytes().saturating_add(wanted).saturating_sub(self.quota)
    }

    /// The file is complete and holds what was set aside for it. Its record, if it has one, is in the index.
    pub const fn keep(&mut self, admitted: Admitted) {
        self.pending -= admitted.bytes + INDEX_RECORD_BYTES;
        self.stored += admitted.bytes;
    }

    /// The file was not written, or is gone.
    pub const fn release(&mut self, admitted: Admitted) {
        self.pending -= admitted.bytes + INDEX_RECORD_BYTES;
    }

    /// The index has `bytes` now.
    pub const fn set_index(&mut self, bytes: u64) {
        self.index = bytes;
    }

    /// A file of `bytes` was found at start.
    pub const fn found_stored(&mut self, bytes: u64) {
        self.stored = self.stored.saturating_add(bytes);
    }

    /// Trash of `bytes` was found at start.
    pub const fn found_trash(&mut self, bytes: u64) {
        self.trash = self.trash.saturating_add(bytes);
    }

    /// A stored file of `bytes` was moved to trash.
    pub const fn moved_to_trash(&mut self, bytes: u64) {
        self.stored -= bytes;
        self.trash += bytes;
    }

    /// Trash of `bytes` was removed.
    pub const fn emptied(&mut self, bytes: u64) {
        self.trash -= bytes;
    }

    /// Changes the quota.
    pub const fn set_quota(&mut self, quota: ByteCount) {
        self.quota = quota.0;
    }

    /// The quota.
    pub const fn quota(&self) -> ByteCount {
        ByteCount(self.quota)
    }

    /// Bytes of the index.
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Bytes of the quota that are not in use.
    pub const fn free_bytes(&self) -> u64 {
        self.quota.saturating_sub(self.used_bytes())
    }

    /// Bytes in use: shards, files being written, trash and the index.
    pub const fn used(&self) -> ByteCount {
        ByteCount(self.used_bytes())
    }

    /// Bytes of shards.
    pub const fn stored(&self) -> ByteCount {
        ByteCount(self.stored)
    }

    /// Bytes of trash.
    pub const fn trash(&self) -> ByteCount {
        ByteCount(self.trash)
    }

    const fn used_bytes(&self) -> u64 {
        self.stored.saturating_add(self.pending).saturating_add(self.trash).saturating_add(self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_being_written_and_trash_count_against_the_quota() {
        let mut account = Account::new(ByteCount(1_000));
        let first = account.admit(600).unwrap();
        assert_eq!(account.admit(241).unwrap_err(), QuotaExceeded { wanted: 321, free: 320 });
        account.keep(first);
        account.moved_to_trash(600);
        assert!(account.admit(321).is_err());
        assert_eq!((account.missing(320), account.missing(330)), (0, 10));
        account.emptied(600);
        let second = account.admit(920).unwrap();
        account.release(second);
        assert_eq!(account.used(), ByteCount(0));
    }

    #[test]
    fn the_record_of_a_shard_has_its_room_before_its_first_byte() {
        let mut account = Account::new(ByteCount(2 * (100 + INDEX_RECORD_BYTES)));
        for records in 1..=2 {
            let admitted = account.admit(100).unwrap();
            account.set_index(records * INDEX_RECORD_BYTES);
            account.keep(admitted);
        }
        assert_eq!((account.used(), account.free_bytes()), (account.quota(), 0));
        account.set_index(0);
        assert_eq!(account.free_bytes(), 2 * INDEX_RECORD_BYTES);
    }

    #[test]
    fn a_quota_below_what_is_there_refuses_new_bytes() {
        let mut account = Account::new(ByteCount(10));
        account.found_stored(50);
        assert_eq!(account.admit(1).unwrap_err(), QuotaExceeded { wanted: 81, free: 0 });
        assert_eq!(account.missing(1), 121);
        assert_eq!(account.used(), ByteCount(50));
    }
}
