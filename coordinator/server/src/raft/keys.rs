//! The keys of the state's tables: numbers big-endian, so that their order is the order of bytes.

use firn_base::{BundleNumber, CodingId, KEY_BYTES, Location, ObjectKey, ReservationId, ShardIndex};
use firn_coordinator_logic::NodeNumber;

use super::bytes::Reader;
use crate::storage::StorageError;

/// Position, membership and the singletons in the meta table.
pub(super) const FORMAT: &[u8] = b"format";
pub(super) const APPLIED: &[u8] = b"applied";
pub(super) const MEMBERSHIP: &[u8] = b"membership";
pub(super) const COUNTERS: &[u8] = b"counters";
pub(super) const POLICY: &[u8] = b"policy";
pub(super) const DIGEST: &[u8] = b"digest";

pub(super) const LOCATION_BYTES: usize = 8;

pub(super) const fn node(number: NodeNumber) -> [u8; 4] {
    number.0.to_be_bytes()
}

pub(super) const fn bundle(number: BundleNumber) -> [u8; 4] {
    number.0.to_be_bytes()
}

pub(super) fn reservation_of(coding: CodingId, id: ReservationId) -> Vec<u8> {
    [coding.as_bytes().as_slice(), id.as_bytes()].concat()
}

pub(super) fn surplus(owner: NodeNumber, coding: CodingId, index: ShardIndex) -> Vec<u8> {
    [node(owner).as_slice(), coding.as_bytes(), &[index.0]].concat()
}

/// A location as it sorts: bundle, block, entry.
pub(super) fn location(location: Location) -> [u8; LOCATION_BYTES] {
    let mut bytes = [0; LOCATION_BYTES];
    bytes[..4].copy_from_slice(&location.bundle.0.to_be_bytes());
    bytes[4..6].copy_from_slice(&location.block.to_be_bytes());
    bytes[6..].copy_from_slice(&location.entry.to_be_bytes());
    bytes
}

/// Locations one behind the other, without their number: they are all of a value.
pub(super) fn locations(locations: &[Location]) -> Vec<u8> {
    locations.iter().flat_map(|place| location(*place)).collect()
}

pub(super) fn placed(key: ObjectKey, place: Location) -> Vec<u8> {
    [key.to_bytes().as_slice(), &location(place)].concat()
}

pub(super) fn waiter(awaited: ObjectKey, key: ObjectKey, place: Location) -> Vec<u8> {
    [awaited.to_bytes().as_slice(), &key.to_bytes(), &location(place)].concat()
}

/// Ledger and feed.
pub(super) const fn position(position: u64) -> [u8; 8] {
    position.to_be_bytes()
}

pub(super) fn read_key(reader: &mut Reader<'_>) -> Result<ObjectKey, StorageError> {
    let bytes: [u8; KEY_BYTES] = reader.array()?;
    ObjectKey::from_bytes(&bytes).map_err(|_| reader.damaged())
}

pub(super) fn read_location(reader: &mut Reader<'_>) -> Result<Location, StorageError> {
    let bundle = BundleNumber(u32::from_be_bytes(reader.array()?));
    let block = u16::from_be_bytes(reader.array()?);
    let entry = u16::from_be_bytes(reader.array()?);
    Ok(Location { bundle, block, entry })
}

/// Reads what [`locations`] wrote.
pub(super) fn read_locations(table: &'static str, bytes: &[u8]) -> Result<Vec<Location>, StorageError> {
    let (places, rest) = bytes.as_chunks::<LOCATION_BYTES>();
    if !rest.is_empty() || places.is_empty() {
        return Err(Reader::bare(table, bytes).damaged());
    }
    places.iter().map(|place| read_location(&mut Reader::bare(table, place))).collect()
}

/// The key that comes right behind `key`.
pub(super) fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_feature_are_eight_bytes_each_and_at_least_one() {
        let place = |number| Location { bundle: BundleNumber(number), block: 2, entry: 3 };
        let bytes = locations(&[place(9), place(1)]);
        assert_eq!(bytes, [0, 0, 0, 9, 0, 2, 0, 3, 0, 0, 0, 1, 0, 2, 0, 3]);
        assert_eq!(read_locations("features", &bytes).unwrap(), [place(9), place(1)]);
        assert!(read_locations("features", &bytes[1..]).is_err());
        assert!(read_locations("features", &[]).is_err());
    }

    #[test]
    fn locations_sort_as_their_bytes_do() {
        let place = |bundle, block, entry| Location { bundle: BundleNumber(bundle), block, entry };
        let places = [place(0, 0, 1), place(0, 1, 0), place(0, 256, 3), place(1, 0, 0), place(256, 0, 0)];
        assert!(places.windows(2).all(|pair| location(pair[0]) < location(pair[1])));
        for place in places {
            let bytes = location(place);
            assert_eq!(read_location(&mut Reader::bare("place", &bytes)).unwrap(), place);
        }
    }
}
