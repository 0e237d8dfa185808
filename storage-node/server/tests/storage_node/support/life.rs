//! A store's life in which everything happens that changes its disk, and what must be true wherever it is cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use firn_base::{ByteCount, Timestamp};
use firn_storage_node::{Disk, ShardName, ShardStore};
use firn_wire::DeleteReason;

use super::CodedBundle;

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const WEEK: Duration = Duration::from_secs(7 * 86_400);
const ROOMY: ByteCount = ByteCount(1 << 30);

/// What a store has said of its shards.
#[derive(Debug, Default)]
pub(crate) struct Said {
    shards: Mutex<Shards>,
}

#[derive(Debug, Default, Clone)]
struct Shards {
    /// Whether each is here.
    here: BTreeMap<ShardName, bool>,
    /// Of this one nothing was said yet: its call was cut off.
    in_doubt: Option<ShardName>,
}

impl Said {
    /// How many shards have to be here.
    pub(crate) fn here(&self) -> u64 {
        let Shards { here, in_doubt } = self.shards.lock().unwrap().clone();
        here.iter().filter(|(name, here)| **here && in_doubt != Some(**name)).count() as u64
    }

    /// Does something about a shard, and notes what the store says. None once the disk does nothing any more.
    fn done<E>(&self, name: ShardName, here: bool, act: impl FnOnce() -> Result<(), E>) -> Option<()> {
        self.shards.lock().unwrap().in_doubt = Some(name);
        act().ok()?;
        let mut shards = self.shards.lock().unwrap();
        shards.here.insert(name, here);
        shards.in_doubt = None;
        Some(())
    }
}

fn open(disk: &Arc<dyn Disk>) -> Option<Arc<ShardStore>> {
    ShardStore::open(Arc::clone(disk), ROOMY, NOW).ok().map(|(store, _)| store)
}

fn put(store: &Arc<ShardStore>, bundle: &CodedBundle, index: u8, said: &Said) -> Option<()> {
    said.done(bundle.name(index), true, || {
        let mut writer = store.begin(&bundle.header(index), NOW)?;
        writer.write(bundle.shard(index))?;
        writer.finish().map(|_| ())
    })
}

/// A life. None once the disk does nothing any more.
pub(crate) fn live(disk: &Arc<dyn Disk>, bundles: &[CodedBundle; 5], said: &Said) -> Option<()> {
    let [trashed, kept, erased, late, last] = bundles;
    let store = open(disk)?;
    put(&store, trashed, 0, said)?;
    put(&store, kept, 0, said)?;
    put(&store, kept, 1, said)?;
    put(&store, erased, 0, said)?;
    store.keep_index().ok()?;
    let name = trashed.name(0);
    said.done(name, false, || store.trash(name, DeleteReason::Surplus, NOW).map(|_| ()))?;
    let bundle = BTreeSet::from([erased.content.bundle_id()]);
    said.done(erased.name(0), false, || store.erase(&bundle).map(|_| ()))?;
    put(&store, late, 2, said)?;
    store.empty_trash(NOW.after(WEEK)).ok()?;
    // Something is written over a part of the index.
    disk.open_writable("shards/index").and_then(|file| file.write_at(3, &[0xa5; 9])).ok()?;
    let store = open(disk)?;
    store.keep_index().ok()?;
    put(&store, last, 0, said)
}

/// Bytes of all files by their names: a name that was to go and one that was to come may both be there, for one file.
fn named_bytes(disk: &dyn Disk, directory: &str) -> u64 {
    let entries = disk.list(directory).unwrap();
    let below = |name: &str| named_bytes(disk, &format!("{directory}/{name}"));
    entries.iter().map(|entry| if entry.is_directory { below(&entry.name) } else { entry.bytes }).sum()
}

fn held(store: &ShardStore) -> BTreeSet<ShardName> {
    store.inventory(None, 10_000).0.into_iter().collect()
}

/// Goes on with what is left on `disk`. `when` names the case.
pub(crate) fn check(disk: &Arc<dyn Disk>, said: &Said, when: &str) {
    let Shards { here, in_doubt } = said.shards.lock().unwrap().clone();
    let used = || ByteCount(named_bytes(disk.as_ref(), "shards"));
    let (store, report) = ShardStore::open(Arc::clone(disk), ROOMY, NOW).unwrap();
    assert_eq!((report.damaged, report.unreadable), (0, 0), "{when}");
    assert_eq!(store.used(), used(), "{when}: every byte is counted");
    let listed = held(&store);
    for name in &listed {
        store.verify(*name, NOW).unwrap_or_else(|error| panic!("{when}: {name}: {error}"));
    }
    for (name, here) in here.iter().filter(|(name, _)| in_doubt != Some(**name)) {
        assert_eq!(listed.contains(name), *here, "{when}: {name} is not as it was said to be");
    }
    let unknown = |name: &&ShardName| !here.contains_key(name) && in_doubt != Some(**name);
    assert_eq!(listed.iter().find(unknown), None, "{when}");
    store.keep_index().unwrap();
    assert_eq!(store.used(), used(), "{when}: the index is counted");
    let (again, report) = ShardStore::open(Arc::clone(disk), ROOMY, NOW).unwrap();
    assert_eq!(report.headers_read, 0, "{when}: the index is mended");
    assert_eq!((held(&again), again.used()), (listed, store.used()), "{when}");
}
