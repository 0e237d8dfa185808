//! What filters promise: every key is found, few strangers are, equal keys give equal bytes, and bytes from anywhere can
//! be opened.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use firn_base::{ArchiveId, Digest, FeedRange, ObjectKey};
use firn_filter::{
    FILTER_TRAILER_BYTES, FilterDraft, FilterHeader, FormatError, HEADER_BYTES, MembershipFilter,
};

const SEED: [u8; 32] = [77; 32];

fn header(events: u64, parts_log2: u8) -> FilterHeader {
    FilterHeader {
        archive: ArchiveId::from_bytes([1; 32]),
        range: FeedRange { first: 5, end: 5 + events },
        digest_before: Digest::from_bytes([2; 32]),
        digest_behind: Digest::from_bytes([3; 32]),
        parts_log2,
    }
}

fn make(header: FilterHeader, keys: &[ObjectKey]) -> Vec<u8> {
    let draft = FilterDraft::new(header).unwrap();
    let hasher = draft.hasher();
    let mut parts = vec![Vec::new(); usize::try_from(header.parts()).unwrap()];
    for key in keys {
        let hash = hasher.hash(key);
        parts[usize::try_from(hash.part).unwrap()].push(hash.value);
    }
    let (mut bytes, mut count) = (draft.head(), 0);
    for mut hashes in parts {
        let part = draft.part(&mut hashes).unwrap();
        count += u64::from(part.keys);
        bytes.extend(part.bytes);
    }
    bytes.extend(draft.tail(count));
    bytes
}

/// A key of somebody's choosing: they differ in the last bytes only.
fn chosen(number: u64) -> ObjectKey {
    let mut name = [0; 20];
    name[12..].copy_from_slice(&number.to_be_bytes());
    ObjectKey::store_path(name)
}

fn strangers(filter: &MembershipFilter<Vec<u8>>, numbers: std::ops::Range<u64>) -> usize {
    numbers.filter(|number| filter.may_contain(&chosen(*number))).count()
}

#[test]
fn every_key_that_was_put_in_is_found_and_one_stranger_in_256() {
    for (count, parts_log2) in [(1_000, 0), (100_000, 0), (100_000, 3)] {
        let keys: Vec<_> = (0..count).map(chosen).collect();
        let filter = MembershipFilter::open(make(header(count, parts_log2), &keys)).unwrap();
        assert_eq!(filter.keys(), count);
        assert!(keys.iter().all(|key| filter.may_contain(key)));
        // 390.6 of 100,000 are expected, with a deviation of 20.
        let found = strangers(&filter, count..count + 100_000);
        assert!((250..550).contains(&found), "{found} of 100,000 with {count} keys in 2^{parts_log2} parts");
        assert!(!filter.is_too_dense(&SEED));
    }
}

#[test]
fn a_filter_takes_between_nine_and_ten_bits_for_each_key() {
    let keys: Vec<_> = (0..200_000).map(chosen).collect();
    let bytes = make(header(200_000, 0), &keys);
    let bits = bytes.len() * 8;
    assert!((9 * keys.len()..10 * keys.len()).contains(&bits), "{bits} bits");
}

#[test]
fn the_bytes_depend_on_keys_and_header_not_on_order_or_repetition() {
    let keys: Vec<_> = (0..5_000).map(chosen).collect();
    let bytes = make(header(20_000, 2), &keys);
    let mut other: Vec<_> = keys.iter().rev().copied().collect();
    other.extend(&keys[..100]);
    assert_eq!(make(header(20_000, 2), &other), bytes);
    let later = FilterHeader { digest_behind: Digest::from_bytes([4; 32]), ..header(20_000, 2) };
    assert_ne!(
        make(later, &keys)[HEADER_BYTES..],
        bytes[HEADER_BYTES..],
        "the digest is the key of the hash"
    );
}

#[test]
fn a_stranger_that_one_filter_holds_is_not_held_by_the_next() {
    let keys: Vec<_> = (0..50_000).map(chosen).collect();
    let first = MembershipFilter::open(make(header(50_000, 0), &keys)).unwrap();
    let later = FilterHeader { digest_behind: Digest::from_bytes([4; 32]), ..header(50_000, 0) };
    let second = MembershipFilter::open(make(later, &keys)).unwrap();
    let held = (100_000..400_000).map(chosen).filter(|key| first.may_contain(key));
    let (mut once, mut twice) = (0, 0);
    for key in held {
        once += 1;
        twice += u64::from(second.may_contain(&key));
    }
    // Of about 1,172 strangers of the first, about 5.
    assert!(once > 900 && twice < 30, "{twice} of {once}");
}

#[test]
fn empty_and_tiny_filters_hold_what_they_hold() {
    for count in 0..40 {
        for parts_log2 in 0..3 {
            let keys: Vec<_> = (0..count).map(chosen).collect();
            let filter = MembershipFilter::open(make(header(64, parts_log2), &keys)).unwrap();
            assert_eq!(filter.keys(), count);
            assert!(keys.iter().all(|key| filter.may_contain(key)));
            assert!(!filter.is_too_dense(&SEED), "{count} keys in 2^{parts_log2} parts");
        }
    }
}

#[test]
fn sizes_at_which_most_seeds_fail_are_made_all_the_same() {
    for count in [11_190, 11_300, 11_400, 11_480, 11_500, 11_504, 11_511, 11_515, 11_521] {
        for set in 0..8 {
            let keys: Vec<_> = (0..count).map(|number| chosen(set << 32 | number)).collect();
            let filter = MembershipFilter::open(make(header(count, 0), &keys)).unwrap();
            assert_eq!(filter.keys(), count);
        }
    }
}

#[test]
fn damaged_bytes_are_refused_or_answer_something() {
    let keys: Vec<_> = (0..300).map(chosen).collect();
    let good = make(header(300, 2), &keys);
    for cut in 0..good.len() {
        assert!(MembershipFilter::open(&good[..cut]).is_err(), "cut at {cut}");
    }
    assert!(MembershipFilter::open([&good[..], &[0]].concat()).is_err());
    for at in 0..good.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            if let Ok(filter) = MembershipFilter::open(bad) {
                // Asking a filter cannot fail, whatever its bytes are.
                strangers(&filter, 0..600);
            }
        }
    }
}

#[test]
fn a_filter_of_later_years_says_so() {
    let mut later = make(header(4, 0), &[chosen(1)]);
    later[8] = 2;
    assert_eq!(MembershipFilter::open(later).unwrap_err(), FormatError::Newer(2));
}

#[test]
fn headers_that_no_filter_has_make_no_draft() {
    for bad in [header(0, 0), header(3, 2), header(1 << 40, 21)] {
        assert!(FilterDraft::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_claim_of_more_or_fewer_keys_than_there_is_room_for_is_refused() {
    let good = make(header(100_000, 0), &(0..10_000).map(chosen).collect::<Vec<_>>());
    for claim in [2_000_u32, 50_000] {
        let mut bad = good.clone();
        bad[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&claim.to_le_bytes());
        let trailer = bad.len() - FILTER_TRAILER_BYTES;
        bad[trailer..trailer + 8].copy_from_slice(&u64::from(claim).to_le_bytes());
        let refused = MembershipFilter::open(bad).unwrap_err();
        assert_eq!(refused, FormatError::Damaged("a part's fingerprints do not fit its keys"));
    }
}

/// One part of three segments whose fingerprints take the low bits of the hash from where they lie: of the eight bits
/// that must agree, four do for every key.
fn dense() -> Vec<u8> {
    const SEGMENT_LOG2: u8 = 18;
    let segment = 1_usize << SEGMENT_LOG2;
    let bits = |place: usize| u8::try_from(place & 0xff).unwrap() ^ u8::try_from(place >> 14 & 0xf).unwrap();
    let first = (0..segment).map(bits);
    let second = (0..segment).map(|place| u8::try_from(place >> 14 & 0xf).unwrap());
    let third = (0..segment).map(|place| u8::try_from(place & 0xff).unwrap());
    let keys = 600_000_u32;
    let mut bytes = header(1 << 20, 0).to_bytes().to_vec();
    bytes.extend(keys.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend([SEGMENT_LOG2, 0, 0, 0]);
    bytes.extend(9_u64.to_le_bytes());
    bytes.extend(first.chain(second).chain(third));
    bytes.extend(u64::from(keys).to_le_bytes());
    bytes.extend(b"firn-end");
    bytes
}

#[test]
fn a_filter_that_holds_too_many_strangers_is_told_apart() {
    let filter = MembershipFilter::open(dense()).unwrap();
    let found = strangers(&filter, 0..16_000);
    assert!(found > 800, "a sixteenth of all keys: {found}");
    assert!(filter.is_too_dense(&SEED));
}

/// Asks a filter of one part as `docs/formats.md` says, without the library.
fn documented(bytes: &[u8], header: &FilterHeader, key: &ObjectKey) -> bool {
    let number = |at: usize, length: usize| {
        bytes[at..at + length].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"firn/filter/1\0").update(header.archive.as_bytes()).update(&bytes[48..64]);
    hasher.update(header.digest_behind.as_bytes());
    let hash = blake3::keyed_hash(hasher.finalize().as_bytes(), &key.to_bytes());
    let value = u64::from_le_bytes(*hash.as_bytes()[8..16].first_chunk().unwrap());
    let (segments, log2, seed) =
        (number(HEADER_BYTES + 4, 4), number(HEADER_BYTES + 8, 1), number(HEADER_BYTES + 12, 8));
    let mut x = value.wrapping_add(seed);
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^= x >> 33;
    let (length, mask) = (1 << log2, (1 << log2) - 1);
    let first = u64::try_from((u128::from(x) * u128::from(segments << log2)) >> 64).unwrap();
    let places = [first, (first + length) ^ (x >> 18 & mask), (first + 2 * length) ^ (x & mask)];
    let found = places.iter().fold(x ^ x >> 32, |found, place| {
        found ^ number(HEADER_BYTES + 20 + usize::try_from(*place).unwrap(), 1)
    });
    found & 0xff == 0
}

#[test]
fn the_document_says_how_a_filter_is_asked() {
    let header = header(3_000, 0);
    let bytes = make(header, &(0..3_000).map(chosen).collect::<Vec<_>>());
    let filter = MembershipFilter::open(bytes.clone()).unwrap();
    for number in 0..20_000 {
        let key = chosen(number);
        assert_eq!(documented(&bytes, &header, &key), filter.may_contain(&key), "{number}");
    }
}

#[test]
fn the_bytes_of_a_filter_are_pinned() {
    let keys: Vec<_> = (0..20).map(chosen).chain([ObjectKey::build_log([9; 20])]).collect();
    let bytes = make(header(32, 1), &keys);
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    assert!(text == include_str!("golden/filter.hex"), "the bytes are now:\n{text}");
}
