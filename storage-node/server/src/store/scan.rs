//! What is on the disk when the node starts.
//!
//! Always holds: a file counts as a shard only if its name and its length agree with its header, which is read unless the
//! index says what it said; what was being written when the node died is removed; nothing else is removed, and what cannot
//! be read stays where it is. Leaves to others: what has rotted since a file was read last (`shard_reader`, the scrub).

use std::io;

use firn_base::{CodingId, Timestamp};

use super::disk::{Disk, DiskEntry};
use super::index::{FoundIndex, Index};
use super::name::{SHARDS, ShardName, TEMPORARY, TRASH, TrashName, TrashReason};
use super::shard_file::{OpenShard, OpenShardError};
use super::shard_store::{HeldShard, Shelf};

// One report names at most so many files: a whole disk may be damaged.
const NAMED_MAX: usize = 100;

/// What was found at start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// Shards that are here.
    pub shards: u64,
    /// Files of which the header was read, because the index does not say what it says, or something else.
    pub headers_read: u64,
    /// Files that were being written when the node died; removed.
    pub torn: u64,
    /// Damaged files, set aside. Their shards are reported missing.
    pub damaged: u64,
    /// Files that could not be read or are of a newer version. They stay where they are and are not served.
    pub unreadable: u64,
    /// One sentence for each damaged or unreadable file, the first 100.
    pub sentences: Vec<String>,
}

impl ScanReport {
    fn tell(&mut self, sentence: String) {
        if self.sentences.len() < NAMED_MAX {
            self.sentences.push(sentence);
        }
    }
}

/// Fills an empty `shelf` with what lies on `disk`.
pub(super) fn scan(disk: &dyn Disk, shelf: &mut Shelf, now: Timestamp) -> io::Result<(ScanReport, Index)> {
    for directory in [SHARDS, TEMPORARY, TRASH] {
        disk.make_directory(directory)?;
    }
    disk.sync_directory("")?;
    disk.sync_directory(SHARDS)?;
    let mut report = ScanReport::default();
    for entry in disk.list(TEMPORARY)? {
        disk.remove(&format!("{TEMPORARY}/{}", entry.name))?;
        report.torn += 1;
    }
    for entry in disk.list(TRASH)? {
        // What bears another name is none of ours: it stays, and counts for nothing.
        if let Some(name) = TrashName::parse_file_name(&entry.name).filter(|_| !entry.is_directory) {
            shelf.account.found_trash(entry.bytes);
            shelf.trash.insert(name, entry.bytes);
        }
    }
    let mut files: Vec<(ShardName, u64)> = Vec::new();
    for entry in disk.list(SHARDS)? {
        let Some(fan) = fan_of(&entry) else { continue };
        // Synced with SHARDS above, even if the node died before it did so.
        shelf.directories.insert(fan);
        let directory = format!("{SHARDS}/{}", entry.name);
        for file in disk.list(&directory)? {
            let name = ShardName::parse_file_name(&file.name).filter(|name| name.directory() == directory);
            // Files of other names are none of ours: they stay, and count for nothing.
            let Some(name) = name.filter(|_| !file.is_directory) else { continue };
            files.push((name, file.bytes));
        }
        // A name whose directory was not synced before the node died would not survive a power cut now.
        disk.sync_directory(&directory)?;
    }
    // So does a move to trash: the shard would come back, and with it a part of the day's allowance.
    disk.sync_directory(TRASH)?;
    files.sort_unstable();
    let mut codings: Vec<CodingId> = files.iter().map(|(name, _)| name.coding).collect();
    codings.dedup();
    let mut found = FoundIndex::read(disk, codings);
    shelf.account.set_index(found.bytes);
    for (name, bytes) in files {
        match found.of(name.coding).filter(|record| record.file_bytes == bytes) {
            Some(record) => {
                shelf.account.found_stored(bytes);
                shelf.shards.insert(name, HeldShard { bytes, bundle: record.bundle });
                report.shards += 1;
            }
            None if take_up(disk, shelf, &mut report, name, bytes, now) => found.correct(name.coding),
            None => {}
        }
    }
    Ok((report, found.index))
}

/// Which directory of shards it is.
pub(super) fn fan_of(entry: &DiskEntry) -> Option<u8> {
    let fan = (entry.name.len() == 2).then(|| u8::from_str_radix(&entry.name, 16).ok()).flatten()?;
    (entry.is_directory && format!("{fan:02x}") == entry.name).then_some(fan)
}

/// Reads the header of a file, and says whether it is a shard.
fn take_up(
    disk: &dyn Disk,
    shelf: &mut Shelf,
    report: &mut ScanReport,
    name: ShardName,
    bytes: u64,
    now: Timestamp,
) -> bool {
    report.headers_read += 1;
    match OpenShard::open(disk, name) {
        Ok(shard) => {
            let bundle = shard.header().content().bundle_id();
            shelf.account.found_stored(bytes);
            shelf.shards.insert(name, HeldShard { bytes, bundle });
            // Of others of its coding the index may have said something else.
            shelf.learn_bundle(name.coding, bundle);
            report.shards += 1;
            return true;
        }
        Err(OpenShardError::Damaged(what)) => {
            report.tell(format!("shard {name} is damaged ({what}): it is set aside and reported missing"));
            report.damaged += 1;
            let trash = TrashName { since: now, shard: name, reason: TrashReason::Damaged };
            match disk.rename(&name.path(), &trash.path()) {
                Ok(()) => {
                    shelf.account.found_trash(bytes);
                    shelf.trash.insert(trash, bytes);
                }
                // It stays where it is, unlisted, and takes up room.
                Err(_) => leave(shelf, name, bytes),
            }
        }
        Err(OpenShardError::TooNew(sentence)) => {
            report.tell(format!("shard {name} is not served: {sentence}"));
            report.unreadable += 1;
            leave(shelf, name, bytes);
        }
        Err(OpenShardError::Disk(error)) => {
            report.tell(format!("shard {name} cannot be read and is not served: {error}"));
            report.unreadable += 1;
            leave(shelf, name, bytes);
        }
    }
    false
}

/// Leaves a file where it is that is not listed.
fn leave(shelf: &mut Shelf, name: ShardName, bytes: u64) {
    shelf.account.found_stored(bytes);
    shelf.unlisted.insert(name, bytes);
}
