//! Pages of the feed: the bytes of 64 successive records.
//!
//! The feed holds every key of the archive, so a record of its own for each (9 bytes of position, 22 of value, and what
//! the store adds) would cost half as much again. A page says what its records have in common once:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | records, at most 64 |
//! | 1 | runs of kinds |
//! | 1 | runs of places |
//! | 2 each | run of kinds: kind of key, with 128 added if withdrawn, 64 if moved; records |
//! | 9 each | run of places, of records that became visible or moved: bundle, block, entry of the first; records; each has the next entry |
//! | 20 each | names |
//!
//! Always holds: what was read has as many kinds, places and names as it says, and no index within it can fail.
//! Leaves to others: which page a position lies in (`key_index`).

use firn_base::{BundleNumber, KEY_BYTES, Location, ObjectKey};
use firn_coordinator_logic::FeedRecord;

use super::bytes::{Reader, Writer};
use super::keys::{self, LOCATION_BYTES};
use crate::storage::StorageError;

/// Records of a full page: 1.3 kB. At 128 a page costs 0.1 bytes less for each record.
pub(super) const PAGE_RECORDS: usize = 64;

const WHAT: &str = "page of the feed";
const NAME_BYTES: usize = KEY_BYTES - 1;
const KIND_RUN_BYTES: usize = 2;
const PLACE_RUN_BYTES: usize = LOCATION_BYTES + 1;
const WITHDRAWN: u8 = 128;
const MOVED: u8 = 64;

/// The records of a page, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FeedPage {
    records: Vec<FeedRecord>,
}

/// Records that follow each other in kind, or in place.
struct Runs<T> {
    runs: Vec<(T, u8)>,
}

impl<T> Runs<T> {
    fn add(&mut self, item: T, continues: impl FnOnce(&T, u8) -> bool) {
        match self.runs.last_mut() {
            Some((first, count)) if continues(first, *count) => *count += 1,
            _ => self.runs.push((item, 1)),
        }
    }

    fn count(&self) -> u8 {
        u8::try_from(self.runs.len()).expect("a page has at most 64 records, hence runs")
    }
}

impl FeedPage {
    /// The records.
    pub(super) fn records(&self) -> &[FeedRecord] {
        &self.records
    }

    /// Adds a record, as the one at `slot`: the first free one.
    pub(super) fn append(&mut self, slot: usize, record: FeedRecord) -> Result<(), StorageError> {
        if slot != self.records.len() || slot >= PAGE_RECORDS {
            return Err(StorageError::corrupted("the feed has a gap"));
        }
        self.records.push(record);
        Ok(())
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut kinds = Runs { runs: Vec::new() };
        let mut places: Runs<Location> = Runs { runs: Vec::new() };
        for record in &self.records {
            let event = match record {
                FeedRecord::Visible { .. } => 0,
                FeedRecord::Withdrawn { .. } => WITHDRAWN,
                FeedRecord::Moved { .. } => MOVED,
            };
            kinds.add(record.key().kind() as u8 | event, |first, _| {
                *first == record.key().kind() as u8 | event
            });
            if let FeedRecord::Visible { location, .. } | FeedRecord::Moved { location, .. } = record {
                places.add(*location, |first, count| following(*first, count) == Some(*location));
            }
        }
        let count = u8::try_from(self.records.len()).expect("a page has at most 64 records");
        let writer = Writer::record().u8(count).u8(kinds.count()).u8(places.count());
        let writer = kinds.runs.iter().fold(writer, |writer, (kind, count)| writer.u8(*kind).u8(*count));
        let writer = places
            .runs
            .iter()
            .fold(writer, |writer, (first, count)| writer.raw(&keys::location(*first)).u8(*count));
        self.records.iter().fold(writer, |writer, record| writer.raw(record.key().name())).finish()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let layout = Layout::read(bytes)?;
        let records: Result<_, _> = (0..layout.count).map(|slot| layout.record(slot)).collect();
        Ok(Self { records: records? })
    }

    /// The one record at `slot`, without the others.
    pub(super) fn record(bytes: &[u8], slot: usize) -> Result<FeedRecord, StorageError> {
        Layout::read(bytes)?.record(slot)
    }
}

/// A page's parts, which fit each other.
struct Layout<'a> {
    count: usize,
    kinds: &'a [[u8; KIND_RUN_BYTES]],
    places: &'a [[u8; PLACE_RUN_BYTES]],
    names: &'a [[u8; NAME_BYTES]],
}

impl<'a> Layout<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, StorageError> {
        let mut reader = Reader::record(WHAT, bytes)?;
        let [count, kind_runs, place_runs] = reader.array()?;
        let [kind_runs, place_runs, count] = [kind_runs, place_runs, count].map(usize::from);
        let kinds = reader.raw(kind_runs * KIND_RUN_BYTES)?.as_chunks().0;
        let places = reader.raw(place_runs * PLACE_RUN_BYTES)?.as_chunks().0;
        let names = reader.raw(count * NAME_BYTES)?.as_chunks().0;
        reader.finish()?;
        let layout = Self { count, kinds, places, names };
        let visible = kinds.iter().filter(|[kind, _]| kind & WITHDRAWN == 0);
        let sum = |counts: &mut dyn Iterator<Item = u8>| counts.map(usize::from).sum::<usize>();
        let fits = count <= PAGE_RECORDS
            && sum(&mut kinds.iter().map(|[_, times]| *times)) == count
            && sum(&mut visible.map(|[_, times]| *times))
                == sum(&mut places.iter().map(|run| run[LOCATION_BYTES]));
        if fits { Ok(layout) } else { Err(damaged()) }
    }

    fn record(&self, slot: usize) -> Result<FeedRecord, StorageError> {
        let name = self.names.get(slot).ok_or_else(damaged)?;
        // Runs before the slot's, and how many records that became visible are in them.
        let (mut left, mut shown) = (slot, 0);
        let mut runs = self.kinds.iter().map(|[kind, times]| (*kind, usize::from(*times)));
        let kind = loop {
            let (kind, times) = runs.next().ok_or_else(damaged)?;
            let passed = left.min(times);
            shown += if kind & WITHDRAWN == 0 { passed } else { 0 };
            if left < times {
                break kind;
            }
            left -= passed;
        };
        let mut key = [kind & !WITHDRAWN & !MOVED; KEY_BYTES];
        key[1..].copy_from_slice(name);
        let key = ObjectKey::from_bytes(&key).map_err(|_| damaged())?;
        match kind & (WITHDRAWN | MOVED) {
            WITHDRAWN => return Ok(FeedRecord::Withdrawn { key }),
            0 | MOVED => {}
            _ => return Err(damaged()),
        }
        for run in self.places {
            let times = usize::from(run[LOCATION_BYTES]);
            if shown < times {
                let first = keys::read_location(&mut Reader::bare(WHAT, &run[..LOCATION_BYTES]))?;
                let number = u8::try_from(shown).map_err(|_| damaged())?;
                let location = following(first, number).ok_or_else(damaged)?;
                return Ok(match kind & MOVED {
                    0 => FeedRecord::Visible { key, location },
                    _ => FeedRecord::Moved { key, location },
                });
            }
            shown -= times;
        }
        Err(damaged())
    }
}

fn damaged() -> StorageError {
    StorageError::corrupted("a page of the feed is malformed")
}

/// The place `number` entries behind `first`, in the same block.
fn following(first: Location, number: u8) -> Option<Location> {
    let entry = first.entry.checked_add(number.into())?;
    Some(Location { bundle: BundleNumber(first.bundle.0), block: first.block, entry })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(bundle: u32, block: u16, entry: u16) -> Location {
        Location { bundle: BundleNumber(bundle), block, entry }
    }

    fn page(records: impl IntoIterator<Item = FeedRecord>) -> FeedPage {
        let mut page = FeedPage::default();
        for (slot, record) in records.into_iter().enumerate() {
            page.append(slot, record).unwrap();
        }
        page
    }

    fn mixed() -> FeedPage {
        let visible =
            |name, location| FeedRecord::Visible { key: ObjectKey::store_path([name; 20]), location };
        page([
            visible(1, place(7, 0, 0)),
            visible(2, place(7, 0, 1)),
            visible(3, place(7, 0, 3)),
            FeedRecord::Withdrawn { key: ObjectKey::build_log([4; 20]) },
            FeedRecord::Visible { key: ObjectKey::build_log([5; 20]), location: place(7, 0, 4) },
            visible(6, place(7, 0, u16::MAX)),
            visible(7, place(u32::MAX, 1, 0)),
        ])
    }

    #[test]
    fn a_page_reads_back_as_it_was_written() {
        for page in [FeedPage::default(), mixed()] {
            let bytes = page.to_bytes();
            assert_eq!(FeedPage::from_bytes(&bytes).unwrap(), page);
            for (slot, record) in page.records().iter().enumerate() {
                assert_eq!(FeedPage::record(&bytes, slot).unwrap(), *record);
            }
            assert!(FeedPage::record(&bytes, page.records().len()).is_err());
        }
    }

    #[test]
    fn a_key_that_moved_is_told_apart_from_one_that_came() {
        let key = ObjectKey::store_path([1; 20]);
        let records = [
            FeedRecord::Visible { key, location: place(7, 0, 0) },
            FeedRecord::Moved { key, location: place(7, 0, 1) },
        ];
        let bytes = page(records).to_bytes();
        assert_eq!(FeedPage::from_bytes(&bytes).unwrap().records(), records);
        assert_eq!(data(&bytes[..8]), "0102020101014101");
        let mut both = bytes.clone();
        both[6] |= WITHDRAWN;
        assert!(FeedPage::from_bytes(&both).is_err());
    }

    #[test]
    fn the_bytes_of_a_page_are_pinned() {
        let found = data(&mixed().to_bytes());
        assert_eq!(found, GOLDEN);
    }

    const GOLDEN: &str = concat!(
        "01",
        "070404",
        "0103820102010102",
        "000000070000000002000000070000000302000000070000ffff01ffffffff0001000001",
        "0101010101010101010101010101010101010101",
        "0202020202020202020202020202020202020202",
        "0303030303030303030303030303030303030303",
        "0404040404040404040404040404040404040404",
        "0505050505050505050505050505050505050505",
        "0606060606060606060606060606060606060606",
        "0707070707070707070707070707070707070707",
    );

    fn data(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_full_page_of_one_bundle_takes_twenty_bytes_for_each_key_and_seventeen_more() {
        let records = (0..64).map(|entry| FeedRecord::Visible {
            key: ObjectKey::store_path([u8::try_from(entry).unwrap(); 20]),
            location: place(9, 3, entry),
        });
        assert_eq!(page(records).to_bytes().len(), 64 * 20 + 4 + 2 + 9);
    }

    #[test]
    fn a_page_with_a_gap_or_too_many_records_is_refused() {
        let record = FeedRecord::Withdrawn { key: ObjectKey::store_path([1; 20]) };
        let mut full = page(std::iter::repeat_n(record, PAGE_RECORDS));
        assert!(matches!(full.append(PAGE_RECORDS, record), Err(StorageError::Corrupted(_))));
        assert!(matches!(FeedPage::default().append(1, record), Err(StorageError::Corrupted(_))));
    }

    #[test]
    fn damaged_pages_are_refused_whatever_is_damaged() {
        let good = mixed().to_bytes();
        for cut in 0..good.len() {
            assert!(FeedPage::from_bytes(&good[..cut]).is_err(), "cut at {cut}");
        }
        // Counts and runs: everything before the names, but the first places, whose values are free.
        for position in [1, 2, 3, 5, 7, 9, 11] {
            for value in 0..=u8::MAX {
                let mut bad = good.clone();
                bad[position] = value;
                let read = FeedPage::from_bytes(&bad);
                assert!(value == good[position] || read.is_err(), "{value} at {position}");
            }
        }
    }
}
