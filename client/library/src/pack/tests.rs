//! Bundles of noise and of what compresses: where they end, and what becomes of an object that does not fit.

use firn_bundle::{Blob, BundleRole, Encoding, Manifest};
use firn_nix_format::{Compression, Sha256};

use super::*;
use crate::content::ContentWriter;
use crate::restore::check_restores;

fn noise(bytes: usize, seed: u8) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
    noise
}

fn object(spool: &SpoolDir, bytes: &[u8], name: u8) -> VerifiedObject {
    let mut content = ContentWriter::new(spool, bytes.len() as u64).unwrap();
    content.push(bytes).unwrap();
    let blob = Blob {
        url: format!("log/{name}"),
        compression: Compression::None,
        bytes: bytes.len() as u64,
        sha256: Sha256::of(bytes),
    };
    let key = firn_base::ObjectKey::build_log([name; 20]);
    let record = NewRecord::blob(key, blob, Encoding::Chunked);
    VerifiedObject {
        record,
        content: content.finish().unwrap(),
        source_bytes: 1,
        recipe_tried: false,
        earlier: Vec::new(),
    }
}

fn packer(spool: &SpoolDir, bundle_bytes: u64) -> Packer {
    let options = BuilderOptions { payload_bytes_max: bundle_bytes, ..BuilderOptions::default() };
    Packer::new(Environment::real(), spool.clone(), options, 2)
}

#[tokio::test]
async fn small_objects_share_a_bundle_until_it_is_full() {
    let spool = SpoolDir::open(None).unwrap();
    let mut packer = packer(&spool, 8 << 20);
    let mut sets = Vec::new();
    for name in 0..8 {
        let pushed = packer.push(object(&spool, &noise(1 << 20, name), name)).await.unwrap();
        assert!(pushed.refused.is_none());
        sets.extend(pushed.sealed);
    }
    sets.extend(packer.finish().await.unwrap());
    assert!(sets.len() > 1 && sets.len() < 5, "{}", sets.len());
    let keys: Vec<_> = sets.iter().flat_map(|set| &set.objects).map(|object| object.key.name()[0]).collect();
    assert_eq!(keys, [0, 1, 2, 3, 4, 5, 6, 7]);
    for set in &sets {
        assert_eq!(set.bundles.len(), 1);
        assert_eq!(set.bundles[0].sealed.content.role(), BundleRole::Ordinary);
    }
}

#[tokio::test]
async fn what_is_used_of_earlier_bundles_parts_objects_at_the_limit_and_not_where_there_is_none() {
    let spool = SpoolDir::open(None).unwrap();
    let earlier = [8, 9].map(|number| BundleId::from_bytes([number; 32]));
    for (bounded, bundles) in [(true, 2), (false, 1)] {
        let packer = packer(&spool, 64 << 20).counting_on(earlier.into());
        let mut packer = match bounded {
            true => Packer { foreign_bytes_max: 3 << 19, ..packer },
            false => packer.using_all_that_is_earlier(),
        };
        let mut sets = Vec::new();
        for (name, bundle) in (0..).zip(earlier) {
            let mut object = object(&spool, &noise(1 << 20, name), name);
            let chunk = |(number, (hash, length))| (bundle, PartChunk { number, length, hash });
            object.earlier = (0..).zip(object.content.chunks()).map(chunk).collect();
            let pushed = packer.push(object).await.unwrap();
            assert!(pushed.refused.is_none(), "{pushed:?}");
            sets.extend(pushed.sealed);
        }
        sets.extend(packer.finish().await.unwrap());
        assert_eq!(sets.len(), bundles, "bounded: {bounded}");
        let foreign: u64 = sets.iter().flat_map(|set| &set.bundles).map(|own| own.foreign_bytes()).sum();
        assert_eq!(foreign, 2 << 20, "all of it lies in earlier ones");
    }
}

#[tokio::test]
async fn what_comes_together_and_uses_more_than_eight_others_parts_where_a_bundle_is_a_quarter_full() {
    let spool = SpoolDir::open(None).unwrap();
    let others: Vec<BundleId> = (0..10).map(|number| BundleId::from_bytes([number; 32])).collect();
    let mut packer =
        packer(&spool, 256 << 20).counting_on(others.iter().copied().collect()).using_all_that_is_earlier();
    let mut sets = Vec::new();
    for (name, bundle) in (0..).zip(&others) {
        let mut object = object(&spool, &noise(10 << 20, name), name);
        let chunk = |(number, (hash, length))| (*bundle, PartChunk { number, length, hash });
        object.earlier = (0..).zip(object.content.chunks()).map(chunk).take(8).collect();
        let pushed = packer.push_expecting(object, 10 << 20).await.unwrap();
        assert!(pushed.refused.is_none(), "{pushed:?}");
        sets.extend(pushed.sealed);
    }
    sets.extend(packer.finish().await.unwrap());
    let used: Vec<&[BundleId]> =
        sets.iter().flat_map(|set| &set.bundles).map(|bundle| bundle.sealed.content.dependencies()).collect();
    assert_eq!(used, [&others[..8], &others[8..]], "nothing of the ninth is stored again");
}

#[tokio::test]
async fn a_large_object_becomes_parts_and_a_head_and_leaves_others_alone() {
    let spool = SpoolDir::open(None).unwrap();
    let mut packer = packer(&spool, 4 << 20);
    assert!(packer.push(object(&spool, &noise(1000, 1), 1)).await.unwrap().sealed.is_empty());
    let pushed = packer.push(object(&spool, &noise(10 << 20, 2), 2)).await.unwrap();
    assert!(pushed.refused.is_none());
    let [small, large] = &pushed.sealed[..] else { panic!("{pushed:?}") };
    assert_eq!(small.objects.len(), 1);
    let (head, parts) = large.bundles.split_last().unwrap();
    assert_eq!(head.sealed.content.role(), BundleRole::Head);
    assert!(parts.len() >= 2);
    let part_ids: Vec<_> = parts.iter().map(|part| part.sealed.content.bundle_id()).collect();
    assert_eq!(head.sealed.content.dependencies(), part_ids);
    assert!(packer.finish().await.unwrap().is_none());
}

/// Whether the objects of a set can be restored, and whether each chunk in its bundles is named by some record.
fn check_whole(set: &BundleSet) {
    check_restores(set).unwrap();
    for bundle in &set.bundles {
        let content = &bundle.sealed.content;
        let manifest = Manifest::parse_whole(content, bundle.sealed.manifest.clone()).unwrap();
        let mut named = BTreeSet::new();
        for located in manifest.records() {
            let list = manifest.chunk_list(&located.unwrap().record).unwrap();
            named.extend(list.chunks().map(|chunk| format!("{chunk:?}")));
        }
        // What lies in a part is named by its head.
        if content.role() != BundleRole::Part {
            let header = manifest.header();
            assert_eq!(named.len(), (header.chunk_count() + header.foreign_count()) as usize);
        }
    }
}

/// Packs objects that are expected to take so many bytes each.
async fn pack(mut packer: Packer, spool: &SpoolDir, objects: &[Vec<u8>], expected: u64) -> Vec<BundleSet> {
    let mut sets = Vec::new();
    for (name, bytes) in (0..).zip(objects) {
        let pushed = packer.push_expecting(object(spool, bytes, name), expected).await.unwrap();
        assert!(pushed.refused.is_none(), "{pushed:?}");
        sets.extend(pushed.sealed);
    }
    sets.extend(packer.finish().await.unwrap());
    sets.iter().for_each(check_whole);
    sets
}

#[tokio::test]
async fn objects_that_compress_share_a_bundle_that_has_no_room_for_all_of_their_bytes() {
    let spool = SpoolDir::open(None).unwrap();
    // Each is different, and hardly any of it is new.
    let texts = [1_u8, 2, 3, 4].map(|name| [noise(20_000, name), noise(2_000, name).repeat(1_700)].concat());
    assert_eq!(pack(packer(&spool, 4 << 20), &spool, &texts, 200_000).await.len(), 1);
    let badly = pack(packer(&spool, 4 << 20), &spool, &texts, u64::MAX).await;
    assert!(badly.len() > 1, "however badly they compress");
}

#[tokio::test]
async fn an_object_that_takes_more_than_was_expected_is_taken_back_and_begun_in_the_next_bundle() {
    let spool = SpoolDir::open(None).unwrap();
    for (second, bundles) in [(3 << 20, 1), (9 << 20, 3)] {
        let objects = [noise(3 << 20, 1), noise(second, 2)];
        let sets = pack(packer(&spool, 4 << 20), &spool, &objects, 10).await;
        let [one, other] = &sets[..] else { panic!("{sets:?}") };
        assert_eq!((one.objects.len(), other.objects.len()), (1, 1));
        assert!(other.bundles.len() >= bundles, "{}", other.bundles.len());
    }
}

#[tokio::test]
async fn an_object_that_does_not_fit_with_chunks_of_earlier_bundles_is_packed_without() {
    let spool = SpoolDir::open(None).unwrap();
    let earlier = BundleId::from_bytes([8; 32]);
    let mut packer = packer(&spool, 4 << 20).counting_on([earlier].into());
    let mut large = object(&spool, &noise(9 << 20, 2), 2);
    let chunk = |(number, (hash, length))| (earlier, PartChunk { number, length, hash });
    large.earlier = (0..).zip(large.content.chunks()).take(3).map(chunk).collect();
    let pushed = packer.push_expecting(large, 10).await.unwrap();
    let [set] = &pushed.sealed[..] else { panic!("{pushed:?}") };
    assert!(set.bundles.len() >= 3);
    check_whole(set);
}

#[tokio::test]
async fn a_refused_object_leaves_nothing_in_the_bundle_of_others() {
    let spool = SpoolDir::open(None).unwrap();
    let mut packer = packer(&spool, 16 << 20);
    packer.push(object(&spool, &noise(100_000, 1), 1)).await.unwrap();
    let mut wrong = object(&spool, &noise(3 << 20, 2), 2);
    if let firn_bundle::RecordBody::Blob(blob) = &mut wrong.record.body {
        blob.bytes = 7;
    }
    assert!(packer.push(wrong).await.unwrap().refused.is_some());
    packer.push(object(&spool, &noise(100_000, 3), 3)).await.unwrap();
    let set = packer.finish().await.unwrap().unwrap();
    assert_eq!(set.objects.len(), 2);
    check_whole(&set);
    assert!(set.bundles[0].sealed.content.payload_bytes() < 300_000);
}

#[tokio::test]
async fn what_was_found_of_a_refused_object_makes_no_dependency_for_the_next() {
    let spool = SpoolDir::open(None).unwrap();
    let earlier = BundleId::from_bytes([8; 32]);
    let mut packer = packer(&spool, 16 << 20);
    packer.push(object(&spool, &noise(100_000, 1), 1)).await.unwrap();
    let bytes = noise(1 << 20, 2);
    let mut wrong = object(&spool, &bytes, 2);
    let chunk = |(number, (hash, length))| (earlier, PartChunk { number, length, hash });
    wrong.earlier = (0..).zip(wrong.content.chunks()).map(chunk).collect();
    let first = wrong.earlier[0];
    if let firn_bundle::RecordBody::Blob(blob) = &mut wrong.record.body {
        blob.bytes = 7;
    }
    assert!(packer.push(wrong).await.unwrap().refused.is_some());
    // A single chunk of it, which alone is not worth one.
    let mut next = object(&spool, &bytes[..first.1.length as usize], 3);
    assert_eq!(next.content.chunks().collect::<Vec<_>>(), [(first.1.hash, first.1.length)]);
    next.earlier = vec![first];
    packer.push(next).await.unwrap();
    let set = packer.finish().await.unwrap().unwrap();
    assert_eq!(set.objects.len(), 2);
    check_whole(&set);
    assert!(set.bundles[0].sealed.content.dependencies().is_empty());
}

#[tokio::test]
async fn bundles_are_alike_however_many_frames_are_compressed_at_once() {
    let spool = SpoolDir::open(None).unwrap();
    let objects: Vec<Vec<u8>> =
        (0..40).map(|name| [noise(300_000, name), noise(1_000, name).repeat(700)].concat()).collect();
    let ids = async |threads| {
        let packer = Packer { threads, ..packer(&spool, 4 << 20) };
        let sets = pack(packer, &spool, &objects, 320_000).await;
        let bundles = sets.iter().flat_map(|set| &set.bundles);
        bundles.map(|bundle| bundle.sealed.content.bundle_id()).collect::<Vec<_>>()
    };
    let alone = ids(1).await;
    assert!(alone.len() > 2);
    assert_eq!(ids(7).await, alone);
}

#[tokio::test]
async fn an_object_that_does_not_fit_its_record_is_refused_and_the_next_is_packed() {
    let spool = SpoolDir::open(None).unwrap();
    let mut packer = packer(&spool, 8 << 20);
    let mut wrong = object(&spool, &noise(1000, 1), 1);
    if let firn_bundle::RecordBody::Blob(blob) = &mut wrong.record.body {
        blob.bytes = 7;
    }
    let pushed = packer.push(wrong).await.unwrap();
    assert!(matches!(pushed.refused, Some(BuildError::Contradiction(_))));
    packer.push(object(&spool, &noise(1000, 2), 2)).await.unwrap();
    let set = packer.finish().await.unwrap().unwrap();
    assert_eq!(set.objects.len(), 1);
    assert_eq!(set.objects[0].key.name()[0], 2);
}
