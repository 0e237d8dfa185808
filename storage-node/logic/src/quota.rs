//! The quota: how many bytes a node may have on its disk, and how many it has.
//!
//! Always holds: shards, files being written, trash, the index of shards and what lies beside all that together never exceed
//! the quota through an admission, however many there are at a time; every byte is in exactly one of the five, and counts as what
//! the disk gives for it: whole blocks. A quota that was made smaller than what is there refuses new bytes and removes nothing.
//! Leaves to others: what is to be trashed or emptied (`trash`), and how much a disk really has free.

use firn_base::ByteCount;

/// What the index of shards grows by with a shard, at most.
pub const INDEX_RECORD_BYTES: u64 = 80;

/// Bytes on disk by what they are. A shard file counts whole: header, shard, outboard tree and trailer.
#[derive(Debug)]
pub struct Account {
    quota: u64,
    // What a disk gives at least.
    block: u64,
    stored: u64,
    // The same by the lengths of the files.
    stored_file_bytes: u64,
    pending: u64,
    trash: u64,
    index: u64,
    beside: u64,
}

/// Bytes set aside for a file that is being written, and for what comes with it. Goes back to its account by [`Account::keep`] or
/// [`Account::release`]; not `Clone`, so that no byte is given back twice.
#[derive(Debug)]
#[must_use = "bytes that are set aside stay so until they are kept or released"]
pub struct Admitted {
    // The length of the file.
    file_bytes: u64,
    set_aside: u64,
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
        Self {
            quota: quota.0,
            block: 1,
            stored: 0,
            stored_file_bytes: 0,
            pending: 0,
            trash: 0,
            index: 0,
            beside: 0,
        }
    }

    /// The same on a disk that gives files and directories room in whole blocks of so many bytes; 1 where lengths count.
    pub const fn in_blocks_of(mut self, bytes: u64) -> Self {
        self.block = if bytes == 0 { 1 } else { bytes };
        self
    }

    /// What a file of `bytes` takes on the disk.
    pub const fn on_disk(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.block).saturating_mul(self.block)
    }

    /// Sets `bytes` aside for a file about to be written, and what comes with it.
    ///
    /// # Errors
    ///
    /// The quota has fewer left; nothing is set aside.
    pub const fn admit(&mut self, bytes: u64) -> Result<Admitted, QuotaExceeded> {
        let QuotaExceeded { wanted: set_aside, free } = self.refusal(bytes);
        if set_aside > free {
            return Err(QuotaExceeded { wanted: set_aside, free });
        }
        self.pending += set_aside;
        Ok(Admitted { file_bytes: bytes, set_aside })
    }

    /// What is said where there is no room for a file of `bytes`.
    pub const fn refusal(&self, bytes: u64) -> QuotaExceeded {
        QuotaExceeded { wanted: self.wanted_for(bytes), free: self.free_bytes() }
    }

    /// What has to be free for a file of `bytes`: that, its record in the index, and the block that this may begin, and a directory.
    const fn wanted_for(&self, bytes: u64) -> u64 {
        let blocks = if self.block > 1 { 2 * self.block } else { 0 };
        self.on_disk(bytes).saturating_add(INDEX_RECORD_BYTES + blocks)
    }

    /// How many bytes have to go before a file of `bytes` more fits.
    pub const fn missing(&self, bytes: u64) -> u64 {
        self.used_bytes().saturating_add(self.wanted_for(bytes)).saturating_sub(self.quota)
    }

    /// The file is complete and has what was set aside for it. Its record, if it has one, is in the index, and its directory is
    /// counted.
    pub const fn keep(&mut self, admitted: Admitted) {
        self.pending -= admitted.set_aside;
        self.stored += self.on_disk(admitted.file_bytes);
        self.stored_file_bytes += admitted.file_bytes;
    }

    /// The file was not written, or is gone.
    pub const fn release(&mut self, admitted: Admitted) {
        self.pending -= admitted.set_aside;
    }

    /// The index has `bytes` now.
    pub const fn set_index(&mut self, bytes: u64) {
        self.index = bytes;
    }

    /// What lies beside shards, trash and index takes `bytes` of the disk now.
    pub const fn set_beside(&mut self, bytes: u64) {
        self.beside = bytes;
    }

    /// A directory was made.
    pub const fn made_directory(&mut self) {
        if self.block > 1 {
            self.beside = self.beside.saturating_add(self.block);
        }
    }

    /// A file of `bytes` was found at start.
    pub const fn found_stored(&mut self, bytes: u64) {
        self.stored = self.stored.saturating_add(self.on_disk(bytes));
        self.stored_file_bytes = self.stored_file_bytes.saturating_add(bytes);
    }

    /// Trash of `bytes` was found at start.
    pub const fn found_trash(&mut self, bytes: u64) {
        self.trash = self.trash.saturating_add(self.on_disk(bytes));
    }

    /// A stored file of `bytes` was moved to trash.
    pub const fn moved_to_trash(&mut self, bytes: u64) {
        self.stored -= self.on_disk(bytes);
        self.stored_file_bytes -= bytes;
        self.trash += self.on_disk(bytes);
    }

    /// Trash of `bytes` was removed.
    pub const fn emptied(&mut self, bytes: u64) {
        self.trash -= self.on_disk(bytes);
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

    /// How many bytes the index may have.
    pub const fn index_bytes_max(&self) -> u64 {
        let room = self.on_disk(self.index).saturating_add(self.free_bytes());
        room - room % self.block
    }

    /// Bytes that lie beside shards, trash and index.
    pub const fn beside(&self) -> ByteCount {
        ByteCount(self.beside)
    }

    /// Bytes of the quota that are not in use.
    pub const fn free_bytes(&self) -> u64 {
        self.quota.saturating_sub(self.used_bytes())
    }

    /// Bytes in use: shards, files being written, trash, the index and what lies beside them.
    pub const fn used(&self) -> ByteCount {
        ByteCount(self.used_bytes())
    }

    /// The lengths of the files of shards, as whoever orders their deletion reckons them.
    pub const fn stored_file_bytes(&self) -> u64 {
        self.stored_file_bytes
    }

    /// Bytes set aside for files that are being written.
    pub const fn pending(&self) -> ByteCount {
        ByteCount(self.pending)
    }

    /// Bytes of trash.
    pub const fn trash(&self) -> ByteCount {
        ByteCount(self.trash)
    }

    const fn used_bytes(&self) -> u64 {
        let files = self.stored.saturating_add(self.pending).saturating_add(self.trash);
        files.saturating_add(self.on_disk(self.index)).saturating_add(self.beside)
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
    fn on_a_disk_with_blocks_every_file_counts_as_whole_ones_and_the_quota_holds_all_the_same() {
        let mut account = Account::new(ByteCount(100_000)).in_blocks_of(4_096);
        account.set_beside(8_192);
        // The second record from here on begins a block.
        let index = |records: u64| (50 + records) * INDEX_RECORD_BYTES;
        account.set_index(index(0));
        let mut records = 0;
        while let Ok(admitted) = account.admit(5_000) {
            // Each is the first of its directory.
            account.made_directory();
            records += 1;
            account.set_index(index(records));
            account.keep(admitted);
            assert!(account.used() <= account.quota(), "{account:?}");
        }
        assert_eq!((account.stored, account.stored_file_bytes()), (records * 8_192, records * 5_000));
        assert_eq!(account.beside(), ByteCount((2 + records) * 4_096));
        assert!(records >= 5 && account.missing(5_000) > 0);
        assert_eq!(account.on_disk(account.index_bytes_max()), account.index_bytes_max());
        account.moved_to_trash(5_000);
        assert_eq!(account.trash(), ByteCount(8_192));
        account.emptied(5_000);
        assert_eq!(account.stored_file_bytes(), (records - 1) * 5_000);
        account.set_index(0);
        assert_eq!(account.used(), ByteCount((records - 1) * 8_192 + (2 + records) * 4_096));
    }

    #[test]
    fn files_that_are_written_at_a_time_do_not_share_the_blocks_that_come_with_them() {
        let mut account = Account::new(ByteCount(100_000)).in_blocks_of(4_096);
        // The next record begins a block.
        let index = |records: u64| (51 + records) * INDEX_RECORD_BYTES;
        account.set_index(index(0));
        let admitted: Vec<Admitted> = std::iter::from_fn(|| account.admit(5_000).ok()).collect();
        assert!(admitted.len() >= 5);
        assert_eq!(account.pending(), ByteCount(account.used().0 - 4_096), "all but the index");
        for (records, admitted) in (1..).zip(admitted) {
            account.made_directory();
            account.set_index(index(records));
            account.keep(admitted);
            assert!(account.used() <= account.quota(), "{account:?}");
        }
        assert_eq!(account.pending(), ByteCount(0));
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
