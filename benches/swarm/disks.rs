//! What lies on the nodes' disks, by the file system's own account.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::Failure;
use crate::archive::Archive;
use crate::snapshot::{Copy, Snapshot};

/// The files of the nodes that were looked at.
pub(crate) struct Disks {
    // Coding, index and node, with the file's length.
    shards: BTreeMap<Copy, u64>,
    placed: BTreeSet<Copy>,
    trash_bytes: u64,
    other_bytes: u64,
}

impl Disks {
    /// Looks at all nodes of `snapshot` but those `absent`.
    pub(crate) fn measure(
        archive: &Archive,
        snapshot: &Snapshot,
        absent: &[String],
    ) -> Result<Self, Failure> {
        let mut disks =
            Self { shards: BTreeMap::new(), placed: snapshot.placements(), trash_bytes: 0, other_bytes: 0 };
        for node in snapshot.nodes.iter().filter(|node| !absent.contains(&node.failure_domain)) {
            disks.look(&archive.shards(&node.failure_domain), &node.node)?;
        }
        Ok(disks)
    }

    fn look(&mut self, directory: &Path, node: &str) -> Result<(), Failure> {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                self.look(&entry.path(), node)?;
                continue;
            }
            let bytes = entry.metadata()?.len();
            let shard = name.strip_suffix(".shard").and_then(|name| name.split_once('.'));
            match shard.and_then(|(coding, index)| Some((coding.to_owned(), index.parse().ok()?))) {
                Some((coding, index)) if !directory.ends_with("temp") => {
                    self.shards.insert((coding, index, node.to_owned()), bytes);
                }
                _ if directory.ends_with("trash") => self.trash_bytes += bytes,
                // It says whose disk this is, and is there from the first start on.
                _ if name == "marker" => {}
                _ => self.other_bytes += bytes,
            }
        }
        Ok(())
    }

    /// Bytes of all shard files outside trash.
    pub(crate) fn shards_bytes(&self) -> u64 {
        self.shards.values().sum()
    }

    /// Bytes of shard files that are placements.
    pub(crate) fn placed_bytes(&self) -> u64 {
        self.shards.iter().filter(|(copy, _)| self.placed.contains(*copy)).map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of shard files that are none.
    pub(crate) fn surplus_bytes(&self) -> u64 {
        self.shards_bytes() - self.placed_bytes()
    }

    /// Bytes in trash.
    pub(crate) const fn trash_bytes(&self) -> u64 {
        self.trash_bytes
    }

    /// Bytes of anything else, as of files that were left torn.
    pub(crate) const fn other_bytes(&self) -> u64 {
        self.other_bytes
    }

    /// Bytes of everything.
    pub(crate) fn all_bytes(&self) -> u64 {
        self.shards_bytes() + self.trash_bytes + self.other_bytes
    }

    /// Placements without a file.
    pub(crate) fn missing(&self, snapshot: &Snapshot) -> usize {
        snapshot.placements().iter().filter(|copy| !self.shards.contains_key(*copy)).count()
    }

    /// Roles of active nodes whose assigned bytes are not those of their shard files.
    pub(crate) fn wrong_accounts(&self, snapshot: &Snapshot) -> Vec<String> {
        let mut on_disk: BTreeMap<&str, u64> = BTreeMap::new();
        for ((_, _, node), bytes) in &self.shards {
            *on_disk.entry(node).or_default() += bytes;
        }
        let active = snapshot.nodes.iter().filter(|node| node.state == "active");
        let wrong =
            active.filter(|node| on_disk.get(&*node.node).copied().unwrap_or_default() != node.assigned);
        wrong.map(|node| node.failure_domain.clone()).collect()
    }

    /// Bytes that each node keeps by the placements of `snapshot`: files of one coding are equally long, and these
    /// disks know a file of each.
    pub(crate) fn kept(&self, snapshot: &Snapshot) -> BTreeMap<String, u64> {
        let lengths = self.lengths();
        let mut kept = BTreeMap::new();
        for (coding, _, node) in snapshot.placements() {
            *kept.entry(node).or_default() += lengths.get(coding.as_str()).copied().unwrap_or_default();
        }
        kept
    }

    /// Bytes of the copies of `after` that were no copies in `before`.
    pub(crate) fn moved_bytes(&self, before: &Snapshot, after: &Snapshot) -> u64 {
        let (lengths, before) = (self.lengths(), before.placements());
        let after = after.placements();
        let moved = after.difference(&before);
        moved.map(|(coding, _, _)| lengths.get(coding.as_str()).copied().unwrap_or_default()).sum()
    }

    fn lengths(&self) -> BTreeMap<&str, u64> {
        self.shards.iter().map(|((coding, _, _), bytes)| (coding.as_str(), *bytes)).collect()
    }
}
