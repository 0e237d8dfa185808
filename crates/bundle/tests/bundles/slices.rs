//! What one shard alone says of its bundle.

use firn_base::{ObjectKey, Scheme, ShardIndex, ShardRoot};
use firn_bundle::{
    CodingHeader, ContentHeader, Encoding, NewRecord, ShardFileHeader, ShardTree, SliceContents, plain_slice,
    read_slice,
};

use crate::common::{info, log, noise, pack, path};

/// The header of shard `index` of a coding of `content` whose data roots are those of the payload's slices.
fn shard_header(content: &ContentHeader, payload: &[u8], k: u8, index: u8) -> ShardFileHeader {
    let shard_bytes = firn_base::shard_bytes(payload.len() as u64, k);
    let length = usize::try_from(shard_bytes).unwrap();
    let padded = [payload, &vec![0; length * usize::from(k) - payload.len()]].concat();
    let root_of = |place: u8| match padded.chunks(length).nth(usize::from(place)) {
        Some(slice) => ShardTree::of(slice).root,
        // For k = 1 all shards are alike; other parity is as good as noise here.
        None if k == 1 => ShardTree::of(&padded).root,
        None => ShardRoot::from_bytes([place; 32]),
    };
    let roots = (0..Scheme::n_max(k).unwrap()).map(root_of).collect();
    let coding = CodingHeader::new(content.bundle_id(), k, shard_bytes, roots).unwrap();
    ShardFileHeader::new(content.clone(), coding, ShardIndex(index)).unwrap()
}

/// What shard `index` alone says.
fn said(content: &ContentHeader, payload: &[u8], k: u8, index: u8) -> SliceContents {
    let header = shard_header(content, payload, k, index);
    let slice = plain_slice(&header).unwrap_or_default();
    let at = |place: u64| usize::try_from(place).unwrap();
    read_slice(&header, &&payload[at(slice.start)..at(slice.end)]).unwrap()
}

#[test]
fn one_shard_alone_names_what_lies_in_it_as_far_as_it_has_the_manifest() {
    let objects: Vec<_> = (1..=4u8)
        .map(|seed| {
            let nar = noise(100_000, seed);
            (NewRecord::store_path(info(seed, &nar, vec![]), Encoding::Chunked), nar)
        })
        .collect();
    let (sealed, payload) = pack(&objects);
    let content = &sealed.content;
    let name = |seed: u8| path(seed, &format!("package-{seed}")).to_string();
    let all: Vec<String> = (1..=4).map(name).collect();
    let copies = SliceContents::Whole { here: all.clone(), elsewhere: vec![] };
    for index in 0..3 {
        assert_eq!(said(content, &payload, 1, index), copies);
    }
    let SliceContents::Whole { here, elsewhere } = said(content, &payload, 4, 3) else { panic!() };
    assert!(here.contains(&name(4)) && elsewhere.contains(&name(1)), "{here:?}");
    let mut together = [here, elsewhere].concat();
    together.sort_unstable();
    let mut sorted = all;
    sorted.sort_unstable();
    assert_eq!(together, sorted);
    let frames = SliceContents::Frames { manifest_in: ShardIndex(3), mentioned: vec![] };
    assert_eq!(said(content, &payload, 4, 0), frames);
    assert_eq!(said(content, &payload, 4, 4), SliceContents::Parity);
}

#[test]
fn a_slice_with_the_beginning_of_a_long_manifest_names_the_first_of_its_objects() {
    let objects: Vec<_> = (0..2000u32)
        .map(|number| {
            let content = number.to_le_bytes().to_vec();
            let mut record = log(1, &content);
            let mut name = [0; 20];
            name[..4].copy_from_slice(&content);
            record.key = ObjectKey::build_log(name);
            (record, content)
        })
        .collect();
    let (sealed, payload) = pack(&objects);
    let content = &sealed.content;
    let manifest = content.manifest_extent();
    assert!(manifest.start < 60_000 && manifest.end > 131_072, "{manifest:?}");
    let SliceContents::Beginning { names, records } = said(content, &payload, 4, 0) else { panic!() };
    assert_eq!(records, 2000);
    assert!(!names.is_empty() && names.len() <= 2000);
    assert!(names.iter().all(|name| name == "log/1-package.drv"));
    let end = SliceContents::Frames { manifest_in: ShardIndex(0), mentioned: vec![] };
    assert_eq!(said(content, &payload, 4, 1), end);
}
