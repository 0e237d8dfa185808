//! Where keys lie: the index of positions, and the feed's pages that they point to.
//!
//! A visible key is kept once, in the feed. The index names it by its kind and the first 5 bytes of its name, and says at
//! which position of the feed it stands: a place in the feed's page decides whether it is that key, and gives its
//! location. Of 300 million keys some 41,000 pairs share such a name.
//!
//! | table | key | value |
//! |---|---|---|
//! | index | kind, 5 bytes of the name | up to 8 positions of 5 bytes each |
//! | index | kind, all 20 bytes | position: of a key whose short name had 8 when it came |
//! | feed | number of the page, big-endian | page |
//!
//! Always holds: a short name whose list is empty stays, since whole names may stand behind it; a key stands under one
//! name only. Names of build logs are chosen by uploaders, so lists are bounded. Leaves to others: the bytes of a page
//! (`feed_page`), the order of changes (`coordinator/logic`).

use std::collections::BTreeMap;

use firn_base::{KEY_BYTES, Location, ObjectKey};
use firn_coordinator_logic::FeedRecord;

use super::feed_page::{FeedPage, PAGE_RECORDS};
use super::keys;
use crate::storage::{Batch, KeyRange, Read, ScanLimit, StorageError, Table};

/// Bytes of a short name.
const SHORT_BYTES: usize = 6;
const POSITION_BYTES: usize = 5;
const POSITIONS_MAX: usize = 8;
const SCAN: usize = 4096;

type ShortName = [u8; SHORT_BYTES];

/// What one position says.
#[derive(Debug, Clone, Copy)]
struct Found {
    location: Location,
    position: u64,
    under_whole_name: bool,
}

fn short(key: ObjectKey) -> ShortName {
    let bytes: [u8; KEY_BYTES] = key.to_bytes();
    let mut name = [0; SHORT_BYTES];
    name.copy_from_slice(&bytes[..SHORT_BYTES]);
    name
}

fn page_of(position: u64) -> u64 {
    position / PAGE_RECORDS as u64
}

fn slot_of(position: u64) -> usize {
    usize::try_from(position % PAGE_RECORDS as u64).expect("less than 64")
}

fn write_positions(positions: &[u64]) -> Vec<u8> {
    positions
        .iter()
        .flat_map(|position| position.to_be_bytes().into_iter().skip(8 - POSITION_BYTES))
        .collect()
}

fn read_positions(bytes: &[u8]) -> Result<Vec<u64>, StorageError> {
    if !bytes.len().is_multiple_of(POSITION_BYTES) || bytes.len() > POSITIONS_MAX * POSITION_BYTES {
        return Err(StorageError::corrupted("positions of the index"));
    }
    let position = |bytes: &[u8]| bytes.iter().fold(0, |position, byte| position << 8 | u64::from(*byte));
    Ok(bytes.chunks(POSITION_BYTES).map(position).collect())
}

/// The first place of each of `keys`, in their order; none for a key that is not visible.
pub(super) fn locate(store: &dyn Read, keys: &[ObjectKey]) -> Result<Vec<Option<Location>>, StorageError> {
    Ok(find(store, keys)?.into_iter().map(|found| found.map(|found| found.location)).collect())
}

fn find(store: &dyn Read, keys: &[ObjectKey]) -> Result<Vec<Option<Found>>, StorageError> {
    let names: Vec<ShortName> = keys.iter().map(|key| short(*key)).collect();
    let mut all = vec![None; keys.len()];
    let lists = get_all(store, Table::Index, &names)?;
    let mut wanted = Vec::new();
    for (slot, list) in lists.iter().enumerate() {
        if let Some(bytes) = list {
            wanted.extend(read_positions(bytes)?.into_iter().map(|position| (slot, position)));
        }
    }
    resolve(store, keys, &wanted, false, &mut all)?;
    // A list that names other keys only, or none: the key may stand under its whole name.
    let whole: Vec<usize> =
        (0..keys.len()).filter(|slot| lists[*slot].is_some() && all[*slot].is_none()).collect();
    if !whole.is_empty() {
        let names: Vec<_> = whole.iter().map(|slot| keys[*slot].to_bytes()).collect();
        let mut wanted = Vec::new();
        for (slot, bytes) in whole.iter().zip(get_all(store, Table::Index, &names)?) {
            if let Some(bytes) = bytes {
                wanted.extend(read_positions(&bytes)?.into_iter().map(|position| (*slot, position)));
            }
        }
        resolve(store, keys, &wanted, true, &mut all)?;
    }
    Ok(all)
}

/// Reads the wanted positions, each for one of `keys`, and enters those that are about it.
fn resolve(
    store: &dyn Read,
    keys: &[ObjectKey],
    wanted: &[(usize, u64)],
    under_whole_name: bool,
    all: &mut [Option<Found>],
) -> Result<(), StorageError> {
    let positions: Vec<u64> = wanted.iter().map(|(_, position)| *position).collect();
    for ((slot, position), record) in wanted.iter().zip(records(store, &positions)?) {
        let (key, location) = visible(record)?;
        if key == keys[*slot] {
            all[*slot] = Some(Found { location, position: *position, under_whole_name });
        }
    }
    Ok(())
}

fn visible(record: FeedRecord) -> Result<(ObjectKey, Location), StorageError> {
    match record {
        FeedRecord::Visible { key, location } => Ok((key, location)),
        FeedRecord::Withdrawn { .. } => Err(StorageError::corrupted("a position of the index")),
    }
}

fn get_all<const N: usize>(
    store: &dyn Read,
    table: Table,
    names: &[[u8; N]],
) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
    match names {
        // The store's batched read costs as much as two single ones.
        [name] => Ok(vec![store.get(table, name)?]),
        names => store.multi_get(table, &names.iter().map(<[u8; N]>::as_slice).collect::<Vec<_>>()),
    }
}

/// The records at `positions`, each of which the index names.
fn records(store: &dyn Read, positions: &[u64]) -> Result<Vec<FeedRecord>, StorageError> {
    let pages: Vec<_> = positions.iter().map(|position| keys::position(page_of(*position))).collect();
    let pages = get_all(store, Table::Feed, &pages)?;
    let record = |(position, page): (&u64, Option<Vec<u8>>)| {
        let missing = || StorageError::corrupted("the index names a position that the feed has not");
        FeedPage::record(&page.ok_or_else(missing)?, slot_of(*position))
    };
    positions.iter().zip(pages).map(record).collect()
}

/// Visible keys behind `after` with their first places, in order of keys.
pub(super) fn keys_after(
    store: &dyn Read,
    after: Option<ObjectKey>,
    limit: usize,
) -> Result<Vec<(ObjectKey, Location)>, StorageError> {
    let mut range = after.map_or_else(KeyRange::all, |key| KeyRange::starting_at(short(key)));
    let mut found: Vec<(ObjectKey, Location)> = Vec::new();
    loop {
        let entries = store.scan(Table::Index, &range, ScanLimit::entries(SCAN))?;
        let mut positions = Vec::new();
        for (_, value) in &entries {
            positions.extend(read_positions(value)?);
        }
        for record in records(store, &positions)? {
            found.push(visible(record)?);
        }
        found.retain(|(key, _)| after.is_none_or(|after| *key > after));
        let Some((last, _)) = entries.last().filter(|_| entries.len() == SCAN) else { break };
        // Keys of the last short name may still come.
        let complete = found.iter().filter(|(key, _)| *last.as_slice() > short(*key)[..]).count();
        if complete > limit {
            break;
        }
        range = KeyRange::starting_at(keys::behind(last));
    }
    found.sort_unstable_by_key(|(key, _)| *key);
    found.truncate(limit);
    Ok(found)
}

/// The feed from a position on, at most `limit` records.
pub(super) fn feed_from(
    store: &dyn Read,
    position: u64,
    limit: usize,
) -> Result<Vec<FeedRecord>, StorageError> {
    let mut found = Vec::new();
    let mut skip = slot_of(position);
    let mut range = KeyRange::starting_at(keys::position(page_of(position)));
    while found.len() < limit {
        let pages = (limit - found.len()).div_ceil(PAGE_RECORDS).saturating_add(1).min(SCAN);
        let entries = store.scan(Table::Feed, &range, ScanLimit::entries(pages))?;
        for (_, bytes) in &entries {
            let page = FeedPage::from_bytes(bytes)?;
            found.extend(page.records().iter().skip(skip).copied());
            skip = 0;
        }
        let Some((last, _)) = entries.last().filter(|_| entries.len() == pages) else { break };
        range = KeyRange::starting_at(keys::behind(last));
    }
    found.truncate(limit);
    Ok(found)
}

/// Adds to `batch` what the feed's records, in order of their positions, change in both tables.
pub(super) fn write(
    store: &dyn Read,
    batch: &mut Batch,
    records: &[(u64, FeedRecord)],
) -> Result<(), StorageError> {
    write_pages(store, batch, records)?;
    let names: Vec<_> = records.iter().map(|(_, record)| short(record.key())).collect();
    let mut lists = BTreeMap::new();
    for (name, bytes) in names.iter().zip(get_all(store, Table::Index, &names)?) {
        lists.insert(*name, bytes.as_deref().map(read_positions).transpose()?.unwrap_or_default());
    }
    // Keys that this batch itself makes visible, for those that it also withdraws.
    let mut fresh = BTreeMap::new();
    for (position, record) in records {
        let key = record.key();
        let name = short(key);
        match record {
            FeedRecord::Visible { .. } => {
                let list = lists.entry(name).or_default();
                let under_whole_name = list.len() >= POSITIONS_MAX;
                fresh.insert(key, (*position, under_whole_name));
                if under_whole_name {
                    batch.put(Table::Index, key.to_bytes(), write_positions(&[*position]));
                } else {
                    list.push(*position);
                    batch.put(Table::Index, name, write_positions(list));
                }
            }
            FeedRecord::Withdrawn { .. } => {
                let known = match fresh.remove(&key) {
                    Some(known) => Some(known),
                    None => find(store, &[key])?
                        .pop()
                        .flatten()
                        .map(|found| (found.position, found.under_whole_name)),
                };
                let Some((known, under_whole_name)) = known else { continue };
                if under_whole_name {
                    batch.delete(Table::Index, key.to_bytes());
                    continue;
                }
                let list = lists.entry(name).or_default();
                list.retain(|position| *position != known);
                batch.put(Table::Index, name, write_positions(list));
            }
        }
    }
    Ok(())
}

fn write_pages(
    store: &dyn Read,
    batch: &mut Batch,
    records: &[(u64, FeedRecord)],
) -> Result<(), StorageError> {
    for some in records.chunk_by(|(one, _), (next, _)| page_of(*one) == page_of(*next)) {
        let Some((first, _)) = some.first() else { continue };
        let name = keys::position(page_of(*first));
        let mut page = match slot_of(*first) {
            0 => FeedPage::default(),
            _ => store
                .get(Table::Feed, &name)?
                .map_or_else(|| Ok(FeedPage::default()), |bytes| FeedPage::from_bytes(&bytes))?,
        };
        for (position, record) in some {
            page.append(slot_of(*position), *record)?;
        }
        batch.put(Table::Feed, name, page.to_bytes());
    }
    Ok(())
}

#[cfg(test)]
#[path = "key_index_tests.rs"]
mod tests;
