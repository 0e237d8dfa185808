//! A disk in memory that fails as disks do, by seed.
//!
//! Owns: the model of what a power cut leaves: an unsynced file is old, new or torn block by block, an
//! unsynced name is there or not; rot; a full disk; reads and writes that fail. Always holds: what was synced,
//! content and name, survives every [`MemoryDisk::crash`]; the same calls with the same seeds give the same
//! disk. Leaves to others: when to crash.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskEntry, DiskFile};

// Disks write sectors of 4 KiB whole or not at all.
const BLOCK_BYTES: usize = 4096;

/// A disk in memory. Clones are the same disk, which outlives the program that uses it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    world: Arc<Mutex<World>>,
}

/// Which calls fail from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskFaults {
    /// Of a million reads so many fail (EIO).
    pub read_errors_per_million: u32,
    /// Of a million writes, syncs and renames so many fail (EIO).
    pub write_errors_per_million: u32,
    /// Draws which.
    pub seed: u64,
}

#[derive(Debug, Default, Clone)]
struct World {
    files: BTreeMap<u64, Content>,
    next_file: u64,
    names: BTreeMap<String, Node>,
    synced_names: BTreeMap<String, Node>,
    capacity: Option<u64>,
    unmounted: bool,
    faults: DiskFaults,
    // Files that no read gets through to.
    unreadable: BTreeSet<u64>,
    random: u64,
    // Calls that change something until the power is cut.
    steps_left: Option<u64>,
    is_stopped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(u64),
}

#[derive(Debug, Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    // What a power cut surely leaves; none if that is `bytes`.
    synced: Option<Vec<u8>>,
}

impl MemoryDisk {
    /// An empty disk without limits or faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another disk with the same on it.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { world: Arc::new(Mutex::new(self.world().clone())) }
    }

    /// From now on the files hold at most `bytes` together; none: no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world().capacity = bytes;
    }

    /// Which calls fail from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        let mut world = self.world();
        world.random = faults.seed;
        world.faults = faults;
    }

    /// From now on every read of this file fails (EIO), or none for that any more. Says whether there is such a file.
    pub fn set_readable(&self, path: &str, readable: bool) -> bool {
        let mut world = self.world();
        let Some(Node::File(file)) = world.names.get(path).copied() else { return false };
        if readable {
            world.unreadable.remove(&file);
        } else {
            world.unreadable.insert(file);
        }
        true
    }

    /// Unmounts the disk: nothing is found there any more. Or mounts it again, with all that lay there.
    pub fn set_mounted(&self, mounted: bool) {
        self.world().unmounted = !mounted;
    }

    /// After so many more calls that change something no call does any more, as when the power is cut there: for
    /// [`Self::crash`] to follow.
    pub fn stop_after(&self, steps: u64) {
        self.world().steps_left = Some(steps);
    }

    /// Whether a call has failed since [`Self::stop_after`] because there was none left.
    pub fn has_stopped(&self) -> bool {
        self.world().is_stopped
    }

    /// Cuts the power: of what was not synced, `seed` draws what is left.
    pub fn crash(&self, seed: u64) {
        let mut world = self.world();
        (world.steps_left, world.is_stopped) = (None, false);
        let mut random = seed;
        let all: Vec<String> = world.names.keys().chain(world.synced_names.keys()).cloned().collect();
        for name in all {
            let (now, synced) = (world.names.get(&name).copied(), world.synced_names.get(&name).copied());
            if now != synced && draw(&mut random).is_multiple_of(2) {
                match synced {
                    Some(node) => world.names.insert(name, node),
                    None => world.names.remove(&name),
                };
            }
        }
        world.synced_names = world.names.clone();
        let named: BTreeSet<u64> = world
            .names
            .values()
            .filter_map(|node| if let Node::File(file) = node { Some(*file) } else { None })
            .collect();
        world.files.retain(|file, _| named.contains(file));
        for content in world.files.values_mut() {
            if let Some(synced) = content.synced.take() {
                content.bytes = after_power_cut(&synced, &content.bytes, &mut random);
            }
        }
    }

    /// Flips bits of one byte of a file, as rot does, and says whether there was such a byte.
    pub fn flip(&self, path: &str, offset: usize, mask: u8) -> bool {
        let mut world = self.world();
        let Some(Node::File(file)) = world.names.get(path).copied() else { return false };
        let byte = world.files.get_mut(&file).and_then(|content| content.bytes.get_mut(offset));
        byte.map(|byte| *byte ^= mask).is_some()
    }

    /// Paths of all files, in order.
    pub fn paths(&self) -> Vec<String> {
        let world = self.world();
        let files = world.names.iter().filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    /// Bytes of all files together.
    pub fn used_bytes(&self) -> u64 {
        self.world().used()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // Nothing panics while it holds the lock with the world half changed.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    fn used(&self) -> u64 {
        self.files.values().map(|content| content.bytes.len() as u64).sum()
    }

    fn fail_read(&mut self) -> io::Result<()> {
        let share = self.faults.read_errors_per_million;
        self.fail(share)
    }

    fn take_step(&mut self) -> io::Result<()> {
        match &mut self.steps_left {
            None => Ok(()),
            Some(0) => {
                self.is_stopped = true;
                Err(io::Error::other("the power is cut (simulated)"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn fail_write(&mut self) -> io::Result<()> {
        self.take_step()?;
        let share = self.faults.write_errors_per_million;
        self.fail(share)
    }

    fn fail(&mut self, per_million: u32) -> io::Result<()> {
        if per_million > 0 && draw(&mut self.random) % 1_000_000 < u64::from(per_million) {
            // EIO, of the kind that a real disk's has.
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }

    fn file(&self, path: &str) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Node::File(file)) if !self.unmounted => Ok(*file),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn check_parent(&self, path: &str) -> io::Result<()> {
        let parent = parent_of(path);
        if self.unmounted {
            return Err(io::ErrorKind::NotFound.into());
        }
        if parent.is_empty() || self.names.get(parent) == Some(&Node::Directory) {
            return Ok(());
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn forget_unnamed(&mut self, file: u64) {
        let named = |names: &BTreeMap<String, Node>| names.values().any(|node| *node == Node::File(file));
        if !named(&self.names) && !named(&self.synced_names) {
            self.files.remove(&file);
        }
    }
}

impl Disk for MemoryDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut world = self.world();
        world.fail_write()?;
        world.check_parent(path)?;
        let file = world.next_file;
        world.next_file += 1;
        world.files.insert(file, Content::default());
        world.names.insert(path.to_owned(), Node::File(file));
        Ok(Box::new(MemoryFile { disk: self.clone(), file }))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = self.world().file(path)?;
        Ok(Box::new(MemoryFile { disk: self.clone(), file }))
    }

    fn open_writable(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(path),
            opened => opened,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world();
        world.fail_write()?;
        world.check_parent(to)?;
        let file = world.file(from)?;
        world.names.remove(from);
        world.names.insert(to.to_owned(), Node::File(file));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut world = self.world();
        world.fail_write()?;
        let file = world.file(path)?;
        world.names.remove(path);
        world.forget_unnamed(file);
        Ok(())
    }

    fn make_directory(&self, path: &str) -> io::Result<()> {
        let mut world = self.world();
        world.take_step()?;
        world.check_parent(path)?;
        if let Some(Node::File(_)) = world.names.insert(path.to_owned(), Node::Directory) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(())
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        let mut world = self.world();
        world.fail_write()?;
        let World { names, synced_names, .. } = &mut *world;
        let dropped: Vec<Node> = synced_names
            .iter()
            .filter(|(name, node)| parent_of(name) == path && names.get(*name) != Some(node))
            .map(|(_, node)| *node)
            .collect();
        synced_names.retain(|name, _| parent_of(name) != path);
        let here = names.iter().filter(|(name, _)| parent_of(name) == path);
        synced_names.extend(here.map(|(name, node)| (name.clone(), *node)));
        for node in dropped {
            if let Node::File(file) = node {
                world.forget_unnamed(file);
            }
        }
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<DiskEntry>> {
        let mut world = self.world();
        world.fail_read()?;
        if world.unmounted || (!path.is_empty() && world.names.get(path) != Some(&Node::Directory)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let here = world.names.iter().filter(|(name, _)| parent_of(name) == path);
        Ok(here
            .map(|(name, node)| DiskEntry {
                name: name.rsplit('/').next().unwrap_or(name).to_owned(),
                bytes: match node {
                    Node::File(file) => world.files.get(file).map_or(0, |content| content.bytes.len() as u64),
                    Node::Directory => 0,
                },
                is_directory: *node == Node::Directory,
            })
            .collect())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let world = self.world();
        Ok(world.capacity.map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(world.used())))
    }

    fn check_presence(&self) -> io::Result<()> {
        if self.world().unmounted { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    file: u64,
}

impl DiskFile for MemoryFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.disk.world();
        world.fail_write()?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        let length = world.files.get(&self.file).map_or(0, |content| content.bytes.len());
        let grown = end.saturating_sub(length) as u64;
        if world.capacity.is_some_and(|capacity| world.used().saturating_add(grown) > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let content = world.files.entry(self.file).or_default();
        if content.synced.is_none() {
            content.synced = Some(content.bytes.clone());
        }
        content.bytes.resize(length.max(end), 0);
        content.bytes[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.disk.world();
        world.fail_read()?;
        if world.unreadable.contains(&self.file) {
            return Err(io::Error::other("input/output error (simulated)"));
        }
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let content = world.files.get(&self.file).ok_or(io::ErrorKind::NotFound)?;
        let rest = content.bytes.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        world.fail_write()?;
        if let Some(content) = world.files.get_mut(&self.file) {
            content.synced = None;
        }
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        let world = self.disk.world();
        let content = world.files.get(&self.file).ok_or(io::ErrorKind::NotFound)?;
        Ok(content.bytes.len() as u64)
    }
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// What a power cut makes of a file: the old content, the new, or block by block one of them or zeros.
fn after_power_cut(old: &[u8], new: &[u8], random: &mut u64) -> Vec<u8> {
    match draw(random) % 3 {
        0 => old.to_vec(),
        1 => new.to_vec(),
        _ => {
            let shortest = old.len().min(new.len());
            let spread = (old.len().max(new.len()) - shortest) as u64 + 1;
            let cut = usize::try_from(draw(random) % spread).unwrap_or(0);
            let mut torn = vec![0; shortest + cut];
            for (number, block) in torn.chunks_mut(BLOCK_BYTES).enumerate() {
                let source = match draw(random) % 3 {
                    0 => old,
                    1 => new,
                    _ => &[],
                };
                let bytes = source.get(number * BLOCK_BYTES..).unwrap_or_default();
                let count = bytes.len().min(block.len());
                block[..count].copy_from_slice(&bytes[..count]);
            }
            torn
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
const fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
