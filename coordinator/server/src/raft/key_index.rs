//! Where keys lie: the index of positions, and the feed's pages that they point to.
//!
//! A visible key is kept once, in the feed. The index names it by its kind and the first 5 bytes of its name, and says at
//! which position of the feed it stands: a place in the feed's page decides whether it is that key, and gives its
//! location. Of 300 million keys some 41,000 pairs share such a name.
//!
//! | table | key | value |
//! |---|---|---|
//! | index | kind, 5 bytes of the name | up to 8 positions of 5 bytes each; one byte more if a key of the name has further places |
//! | index | kind, all 20 bytes | position: of a key whose short name had 8 when it came |
//! | feed | number of the page, big-endian | page |
//!
//! Always holds: a short name whose list is empty stays, since whole names may stand behind it; a key stands under one
//! name only. Names of build logs are chosen by uploaders, so lists are bounded. Leaves to others: the bytes of a page
//! (`feed_page`), the order of changes (`coordinator/logic`).

use std::collections::BTreeMap;

use firn_base::{KEY_BYTES, KeyPrefix, Location, ObjectKey};
use firn_coordinator_logic::FeedRecord;

use super::feed_page::{FeedPage, PAGE_RECORDS};
use super::keys;
use crate::storage::{Batch, KeyRange, Read, ScanLimit, StorageError, Table};

/// Bytes of a short name.
const SHORT_BYTES: usize = 6;
const POSITION_BYTES: usize = 5;
const HAS_VARIANTS: u8 = 1;
const POSITIONS_MAX: usize = 8;
const SCAN: usize = 4096;

type ShortName = [u8; SHORT_BYTES];

/// What one position says.
#[derive(Debug, Clone, Copy)]
struct Found {
    place: Place,
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

/// What the index holds under one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    positions: Vec<u64>,
    /// Whether a key of this short name has, or had, further places: most have not, and their lookups ask no further.
    has_variants: bool,
}

impl Row {
    fn to_bytes(&self) -> Vec<u8> {
        let tail = |position: &u64| position.to_be_bytes().into_iter().skip(8 - POSITION_BYTES);
        let positions = self.positions.iter().flat_map(tail);
        positions.chain(self.has_variants.then_some(HAS_VARIANTS)).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let (positions, rest) = bytes.as_chunks::<POSITION_BYTES>();
        if positions.len() > POSITIONS_MAX || !matches!(rest, [] | [HAS_VARIANTS]) {
            return Err(StorageError::corrupted("positions of the index"));
        }
        let position = |bytes: &[u8; POSITION_BYTES]| {
            bytes.iter().fold(0, |position, byte| position << 8 | u64::from(*byte))
        };
        Ok(Self { positions: positions.iter().map(position).collect(), has_variants: !rest.is_empty() })
    }
}

/// Where a visible key lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) first: Location,
    /// Whether it may have further places.
    pub(super) may_have_variants: bool,
}

/// Where each of `keys` lies, in their order; none for a key that is not visible.
pub(super) fn locate(store: &dyn Read, keys: &[ObjectKey]) -> Result<Vec<Option<Place>>, StorageError> {
    Ok(find(store, keys)?.into_iter().map(|found| found.map(|found| found.place)).collect())
}

fn find(store: &dyn Read, keys: &[ObjectKey]) -> Result<Vec<Option<Found>>, StorageError> {
    let names: Vec<ShortName> = keys.iter().map(|key| short(*key)).collect();
    let mut all = vec![None; keys.len()];
    let rows = rows(store, &names)?;
    let slots: Vec<usize> = (0..keys.len()).filter(|slot| rows[*slot].is_some()).collect();
    let listed = slots.iter().flat_map(|slot| {
        let positions = rows[*slot].as_ref().map_or(&[][..], |row| &row.positions);
        positions.iter().map(|position| Wanted { slot: *slot, position: *position, under_whole_name: false })
    });
    resolve(store, keys, &rows, &listed.collect::<Vec<_>>(), &mut all)?;
    // A row that names other keys only, or none: the key may stand under its whole name.
    let rest: Vec<usize> = slots.into_iter().filter(|slot| all[*slot].is_none()).collect();
    if !rest.is_empty() {
        let names: Vec<_> = rest.iter().map(|slot| keys[*slot].to_bytes()).collect();
        let whole = self::rows(store, &names)?;
        let listed = rest.iter().zip(&whole).flat_map(|(slot, row)| {
            let positions = row.as_ref().map_or(&[][..], |row| &row.positions);
            positions.iter().map(|position| Wanted {
                slot: *slot,
                position: *position,
                under_whole_name: true,
            })
        });
        resolve(store, keys, &rows, &listed.collect::<Vec<_>>(), &mut all)?;
    }
    Ok(all)
}

/// A position that may be about the key in a slot.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    slot: usize,
    position: u64,
    under_whole_name: bool,
}

/// Reads the wanted positions, and enters those that are about their keys. `rows` are those of the short names.
fn resolve(
    store: &dyn Read,
    keys: &[ObjectKey],
    rows: &[Option<Row>],
    wanted: &[Wanted],
    all: &mut [Option<Found>],
) -> Result<(), StorageError> {
    let positions: Vec<u64> = wanted.iter().map(|wanted| wanted.position).collect();
    for (wanted, record) in wanted.iter().zip(records(store, &positions)?) {
        let (key, first) = visible(record)?;
        if key == keys[wanted.slot] {
            let may_have_variants = rows[wanted.slot].as_ref().is_some_and(|row| row.has_variants);
            let Wanted { position, under_whole_name, .. } = *wanted;
            all[wanted.slot] =
                Some(Found { place: Place { first, may_have_variants }, position, under_whole_name });
        }
    }
    Ok(())
}

/// The rows of names, in their order.
fn rows<const N: usize>(store: &dyn Read, names: &[[u8; N]]) -> Result<Vec<Option<Row>>, StorageError> {
    look_all(store, Table::Index, names, |_, bytes| Row::from_bytes(bytes))
}

fn visible(record: FeedRecord) -> Result<(ObjectKey, Location), StorageError> {
    match record {
        FeedRecord::Visible { key, location } | FeedRecord::Moved { key, location } => Ok((key, location)),
        FeedRecord::Withdrawn { .. } => Err(StorageError::corrupted("a position of the index")),
    }
}

/// What `read` makes of the values of names, in their order. They are not copied: of a page 20 bytes are wanted.
fn look_all<T, const N: usize>(
    store: &dyn Read,
    table: Table,
    names: &[[u8; N]],
    read: impl Fn(usize, &[u8]) -> Result<T, StorageError>,
) -> Result<Vec<Option<T>>, StorageError> {
    let mut found: Vec<Option<Result<T, StorageError>>> = names.iter().map(|_| None).collect();
    let mut see = |place: usize, value: &[u8]| found[place] = Some(read(place, value));
    match names {
        // The store's batched read costs as much as two single ones.
        [name] => store.look(table, name, &mut |value| see(0, value))?,
        names => {
            store.look_all(table, &names.iter().map(<[u8; N]>::as_slice).collect::<Vec<_>>(), &mut see)?;
        }
    }
    found.into_iter().map(Option::transpose).collect()
}

/// The records at `positions`, each of which the index names.
fn records(store: &dyn Read, positions: &[u64]) -> Result<Vec<FeedRecord>, StorageError> {
    let pages: Vec<_> = positions.iter().map(|position| keys::position(page_of(*position))).collect();
    let found = look_all(store, Table::Feed, &pages, |place, page| {
        FeedPage::record(page, slot_of(positions[place]))
    })?;
    let missing = || StorageError::corrupted("the index names a position that the feed has not");
    found.into_iter().map(|record| record.ok_or_else(missing)).collect()
}

/// Visible keys behind `after` with their first places, in order of keys.
pub(super) fn keys_after(
    store: &dyn Read,
    after: Option<ObjectKey>,
    limit: usize,
) -> Result<Vec<(ObjectKey, Location)>, StorageError> {
    keys_within(store, KeyRange::all(), after, limit)
}

/// Visible keys that begin with `prefix` behind `after`, which does so too, in order.
pub(super) fn keys_with(
    store: &dyn Read,
    prefix: KeyPrefix,
    after: Option<ObjectKey>,
    limit: usize,
) -> Result<Vec<ObjectKey>, StorageError> {
    let range = KeyRange { from: prefix.first().to_vec(), to: Some(prefix.behind().to_vec()) };
    Ok(keys_within(store, range, after, limit)?.into_iter().map(|(key, _)| key).collect())
}

/// Visible keys of a range of names that no short name lies across, behind `after`, which is one of it. Reads hardly more
/// rows than it finds keys, also where many keys share a short name.
fn keys_within(
    store: &dyn Read,
    mut range: KeyRange,
    after: Option<ObjectKey>,
    limit: usize,
) -> Result<Vec<(ObjectKey, Location)>, StorageError> {
    let mut found: Vec<(ObjectKey, Location)> = Vec::new();
    if let Some(after) = after {
        // Keys under the short name of `after` may follow it; those under whole names lie in order.
        let row = rows(store, &[short(after)])?.pop().flatten().unwrap_or_default();
        for record in records(store, &row.positions)? {
            found.push(visible(record)?);
        }
        range.from = keys::behind(&after.to_bytes());
    }
    loop {
        let entries = store.scan(Table::Index, &range, ScanLimit::entries(SCAN))?;
        let mut positions = Vec::new();
        for (_, value) in &entries {
            positions.extend(Row::from_bytes(value)?.positions);
        }
        for record in records(store, &positions)? {
            found.push(visible(record)?);
        }
        found.retain(|(key, _)| after.is_none_or(|after| *key > after));
        let Some((last, _)) = entries.last().filter(|_| entries.len() == SCAN) else { break };
        // Behind a short name more keys of it may come, behind a whole one none that is smaller.
        let is_complete = |key: ObjectKey| match last.len() {
            KEY_BYTES => key.to_bytes()[..] <= last[..],
            _ => short(key)[..] < last[..],
        };
        if found.iter().filter(|(key, _)| is_complete(*key)).count() > limit {
            break;
        }
        range.from = keys::behind(last);
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

/// Adds to `batch` what the feed's records, in order of their positions, change in both tables, and that `variants` have
/// further places.
pub(super) fn write(
    store: &dyn Read,
    batch: &mut Batch,
    records: &[(u64, FeedRecord)],
    variants: &[ObjectKey],
) -> Result<(), StorageError> {
    write_pages(store, batch, records)?;
    let keys = records.iter().map(|(_, record)| record.key()).chain(variants.iter().copied());
    let names: Vec<_> = keys.map(short).collect();
    let before: BTreeMap<_, _> = names.iter().copied().zip(rows(store, &names)?).collect();
    let mut after: BTreeMap<_, Row> = BTreeMap::new();
    let row = |name: ShortName| before.get(&name).cloned().flatten().unwrap_or_default();
    // Keys that this batch itself makes visible, for those that it also withdraws.
    let mut fresh = BTreeMap::new();
    for (position, record) in records {
        let (key, name) = (record.key(), short(record.key()));
        let row = after.entry(name).or_insert_with(|| row(name));
        // Of a key that becomes visible there is no earlier position.
        if !matches!(record, FeedRecord::Visible { .. }) {
            let known = match fresh.remove(&key) {
                Some(known) => Some(known),
                None => {
                    let found = find(store, &[key])?.pop().flatten();
                    found.map(|found| (found.position, found.under_whole_name))
                }
            };
            match known {
                Some((_, true)) => batch.delete(Table::Index, key.to_bytes()),
                Some((known, false)) => row.positions.retain(|position| *position != known),
                None => {}
            }
        }
        if !matches!(record, FeedRecord::Withdrawn { .. }) {
            let under_whole_name = row.positions.len() >= POSITIONS_MAX;
            fresh.insert(key, (*position, under_whole_name));
            if under_whole_name {
                let whole = Row { positions: vec![*position], has_variants: false };
                batch.put(Table::Index, key.to_bytes(), whole.to_bytes());
            } else {
                row.positions.push(*position);
            }
        }
    }
    for name in variants.iter().copied().map(short) {
        after.entry(name).or_insert_with(|| row(name)).has_variants = true;
    }
    for (name, row) in after {
        if before.get(&name).and_then(Option::as_ref) != Some(&row) {
            batch.put(Table::Index, name, row.to_bytes());
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
