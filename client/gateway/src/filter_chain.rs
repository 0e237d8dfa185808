//! The filters that a gateway asks, one behind the other from the beginning of the feed.
//!
//! Always holds: each is what its entry says, and goes on where the one before it ends, by the feed's digest too; none
//! holds more than 1 % of random keys. Leaves to others: which filters there are (`filter_agreement`), fetching them.

use std::sync::Arc;

use bytes::Bytes;
use firn_base::{ArchiveId, Digest, FilterId, ObjectKey};
use firn_filter::{FormatError, MembershipFilter};
use firn_wire::FilterEntry;

/// A filter, and what coordinators say of it.
#[derive(Debug)]
pub(crate) struct HeldFilter {
    pub(crate) entry: FilterEntry,
    pub(crate) bytes: Bytes,
    filter: MembershipFilter<Bytes>,
}

/// Filters of a feed from its beginning on. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct FilterChain {
    filters: Arc<[Arc<HeldFilter>]>,
}

/// Why a filter is not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnfitFilter {
    /// Its bytes are none.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Its bytes have another hash than the one that it is named by.
    #[error("its bytes are not those that it is named by")]
    OtherBytes,
    /// It is not what the coordinators say.
    #[error("it is not what the coordinators list")]
    NotAsListed,
    /// Whoever asks it asks coordinators about keys that nobody archived.
    #[error("it claims more than 1 % of random keys")]
    TooDense,
}

impl HeldFilter {
    /// The filter that `bytes` are, if they are those of `entry`. The seed must be one that nobody else knows.
    pub(crate) fn open(
        archive: ArchiveId,
        entry: FilterEntry,
        bytes: Bytes,
        seed: &[u8; 32],
    ) -> Result<Self, UnfitFilter> {
        if *blake3::hash(&bytes).as_bytes() != *entry.id.as_bytes() {
            return Err(UnfitFilter::OtherBytes);
        }
        let filter = MembershipFilter::open(bytes.clone())?;
        let header = filter.header();
        let as_listed = header.archive == archive
            && header.range == entry.range
            && header.digest_behind == entry.feed_digest
            && filter.keys() == entry.keys
            && bytes.len() as u64 == entry.bytes;
        if !as_listed {
            return Err(UnfitFilter::NotAsListed);
        }
        if filter.is_too_dense(seed) {
            return Err(UnfitFilter::TooDense);
        }
        Ok(Self { entry, bytes, filter })
    }

    fn digest_before(&self) -> Digest {
        self.filter.header().digest_before
    }
}

impl FilterChain {
    /// Those of `filters` that go on from the beginning of the feed.
    pub(crate) fn new(filters: impl IntoIterator<Item = Arc<HeldFilter>>) -> Self {
        let (mut end, mut digest) = (0, Digest::from_bytes([0; 32]));
        let goes_on = |filter: &Arc<HeldFilter>| {
            let fits = filter.entry.range.first == end && filter.digest_before() == digest;
            (end, digest) = (filter.entry.range.end, filter.entry.feed_digest);
            fits
        };
        Self { filters: filters.into_iter().take_while(goes_on).collect() }
    }

    /// The position behind the last of them.
    pub(crate) fn end(&self) -> u64 {
        self.filters.last().map_or(0, |last| last.entry.range.end)
    }

    /// Whether `key` may have become visible before the end. No is certain.
    pub(crate) fn may_contain(&self, key: &ObjectKey) -> bool {
        self.filters.iter().any(|filter| filter.filter.may_contain(key))
    }

    pub(crate) fn filters(&self) -> &[Arc<HeldFilter>] {
        &self.filters
    }

    pub(crate) fn entries(&self) -> Vec<FilterEntry> {
        self.filters.iter().map(|filter| filter.entry).collect()
    }

    pub(crate) fn find(&self, id: FilterId) -> Option<&Arc<HeldFilter>> {
        self.filters.iter().find(|filter| filter.entry.id == id)
    }

    /// Keys that were put in, withdrawn ones included.
    pub(crate) fn keys(&self) -> u64 {
        self.filters.iter().map(|filter| filter.entry.keys).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.filters.iter().map(|filter| filter.entry.bytes).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use firn_base::FeedRange;
    use firn_filter::{FilterDraft, FilterHeader};

    use super::*;

    pub(crate) const ARCHIVE: ArchiveId = ArchiveId::from_bytes([1; 32]);
    pub(crate) const SEED: [u8; 32] = [9; 32];

    pub(crate) fn filter_of(range: (u64, u64), keys: &[ObjectKey]) -> (FilterEntry, Bytes) {
        filter_in(ARCHIVE, range, keys)
    }

    /// A filter of `keys` over `range`, whose digests are made of its ends.
    pub(crate) fn filter_in(
        archive: ArchiveId,
        range: (u64, u64),
        keys: &[ObjectKey],
    ) -> (FilterEntry, Bytes) {
        let digest = |position: u64| match position {
            0 => Digest::from_bytes([0; 32]),
            _ => Digest::from_bytes(*blake3::hash(&position.to_le_bytes()).as_bytes()),
        };
        let range = FeedRange { first: range.0, end: range.1 };
        let header = FilterHeader {
            archive,
            range,
            digest_before: digest(range.first),
            digest_behind: digest(range.end),
            parts_log2: 0,
        };
        let draft = FilterDraft::new(header).unwrap();
        let mut hashes = keys.iter().map(|key| draft.hasher().hash(key).value).collect();
        let part = draft.part(&mut hashes).unwrap();
        let bytes = Bytes::from([draft.head(), part.bytes, draft.tail(part.keys.into())].concat());
        let entry = FilterEntry {
            range,
            id: FilterId::from_bytes(*blake3::hash(&bytes).as_bytes()),
            bytes: bytes.len() as u64,
            keys: part.keys.into(),
            feed_digest: header.digest_behind,
        };
        (entry, bytes)
    }

    pub(crate) fn held(range: (u64, u64), keys: &[ObjectKey]) -> Arc<HeldFilter> {
        let (entry, bytes) = filter_of(range, keys);
        Arc::new(HeldFilter::open(ARCHIVE, entry, bytes, &SEED).unwrap())
    }

    fn key(number: u8) -> ObjectKey {
        ObjectKey::store_path([number; 20])
    }

    #[test]
    fn a_chain_ends_before_a_filter_that_does_not_go_on() {
        let (one, two, three) =
            (held((0, 8), &[key(1)]), held((8, 12), &[key(2)]), held((13, 14), &[key(3)]));
        let chain = FilterChain::new([one, Arc::clone(&two), three]);
        assert_eq!((chain.end(), chain.keys(), chain.filters().len()), (12, 2, 2));
        assert!(chain.may_contain(&key(1)) && chain.may_contain(&key(2)) && !chain.may_contain(&key(3)));
        assert_eq!(FilterChain::new([two]).end(), 0, "the beginning of the feed is not in it");
    }

    #[test]
    fn what_is_not_the_filter_that_was_listed_is_refused() {
        let (entry, bytes) = filter_of((0, 8), &[key(1), key(2)]);
        let open =
            |archive, entry, bytes: &Bytes| HeldFilter::open(archive, entry, bytes.clone(), &SEED).err();
        assert_eq!(open(ARCHIVE, entry, &bytes), None);
        assert_eq!(open(ArchiveId::from_bytes([2; 32]), entry, &bytes), Some(UnfitFilter::NotAsListed));
        assert_eq!(open(ARCHIVE, FilterEntry { keys: 1, ..entry }, &bytes), Some(UnfitFilter::NotAsListed));
        let range = FeedRange { first: 0, end: 9 };
        assert_eq!(open(ARCHIVE, FilterEntry { range, ..entry }, &bytes), Some(UnfitFilter::NotAsListed));
        let mut damaged = bytes.to_vec();
        damaged[140] ^= 1;
        assert_eq!(open(ARCHIVE, entry, &damaged.into()), Some(UnfitFilter::OtherBytes));
    }

    /// A filter whose fingerprints cancel what they are compared with, as far as its places tell: its maker knows the
    /// format, and no key at all.
    pub(crate) fn greedy(archive: ArchiveId) -> (FilterEntry, Bytes) {
        const SEGMENT: u32 = 1 << 18;
        let (listed, _) = filter_in(archive, (0, 1 << 20), &[]);
        let header = FilterHeader {
            archive,
            range: listed.range,
            digest_before: Digest::from_bytes([0; 32]),
            digest_behind: listed.feed_digest,
            parts_log2: 0,
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(SEGMENT.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend([18, 0, 0, 0]);
        bytes.extend(0_u64.to_le_bytes());
        let (low, middle) =
            (|place: u32| place.to_le_bytes()[0], |place: u32| (place >> 14).to_le_bytes()[0]);
        bytes.extend((0..SEGMENT).map(|place| low(place) ^ middle(place)));
        bytes.extend((0..SEGMENT).map(middle));
        bytes.extend((0..SEGMENT).map(low));
        bytes.extend(u64::from(SEGMENT).to_le_bytes());
        bytes.extend(b"firn-end");
        let id = FilterId::from_bytes(*blake3::hash(&bytes).as_bytes());
        let entry = FilterEntry { id, bytes: bytes.len() as u64, keys: SEGMENT.into(), ..listed };
        (entry, bytes.into())
    }

    #[test]
    fn a_filter_that_claims_more_than_one_percent_of_random_keys_is_refused() {
        let (entry, bytes) = greedy(ARCHIVE);
        let refused = HeldFilter::open(ARCHIVE, entry, bytes, &SEED).err();
        assert_eq!(refused, Some(UnfitFilter::TooDense));
    }
}
