//! Payloads and objects from bare shard files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{Coded, code, nar_record, noise, objects, pack};
use firn_base::ShardIndex;
use firn_bundle::{ShardFileHeader, shard_file_trailer};
use firn_retrieval::{FileReader, PayloadReader, ReadError, SpoolReader};
use firn_transport::Environment;
use proptest::prelude::*;

fn write(directory: &Path, coded: &Coded, index: usize) -> PathBuf {
    let shard = ShardIndex(u8::try_from(index).unwrap());
    let header = ShardFileHeader::new(coded.content.clone(), coded.coding.clone(), shard).unwrap().to_bytes();
    let outboard = &coded.trees[index].outboard;
    let trailer = shard_file_trailer(&header, outboard);
    let place = directory.join(format!("fan-{}", index % 3));
    std::fs::create_dir_all(&place).unwrap();
    let path = place.join(format!("{index}.shard"));
    std::fs::write(&path, [&header, &coded.shards[index], outboard, &trailer[..]].concat()).unwrap();
    path
}

fn coded(k: u8) -> (Coded, Vec<u8>) {
    let nar = noise(500_000, 4);
    (code(&pack(&[(nar_record(1, &nar), nar.clone())]), k), nar)
}

async fn scan(directory: &Path) -> FileReader {
    FileReader::scan(Environment::real(), vec![directory.to_owned()]).await.unwrap()
}

async fn read_all(reader: &FileReader, coded: &Coded) -> Result<Vec<u8>, ReadError> {
    let whole = 0..coded.content.payload_bytes();
    reader.read(coded.content.bundle_id(), whole).await.map(|bytes| bytes.to_vec())
}

fn flip(path: &Path, place: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[place] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_k_files_restore_the_object(
        (k, order) in prop::sample::select(vec![1u8, 2, 4, 8]).prop_flat_map(|k| {
            let n = usize::from(firn_base::Scheme::n_max(k).unwrap());
            (Just(k), Just((0..n).collect::<Vec<_>>()).prop_shuffle())
        }),
    ) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let (coded, nar) = coded(k);
            for index in order.into_iter().take(usize::from(k)) {
                write(directory.path(), &coded, index);
            }
            std::fs::write(directory.path().join("notes.txt"), "no shard").unwrap();
            let reader = scan(directory.path()).await;
            assert_eq!(reader.bundles().len(), 1);
            assert!(read_all(&reader, &coded).await.unwrap() == coded.payload);
            let objects = objects(Arc::new(reader.clone()), Environment::real());
            let id = coded.content.bundle_id();
            let records = objects.manifests().block(id, 0).await.unwrap();
            let plan = objects.open(id, Arc::clone(&records[0])).await.unwrap();
            assert!(plan.read_all(1 << 20).await.unwrap() == nar);
            assert_eq!(reader.damaged_files(), []);
        });
    }
}

#[tokio::test]
async fn a_mixture_of_two_codings_restores_what_either_has_enough_of() {
    let ((old, _), (new, _)) = (coded(4), coded(8));
    for (olds, news, enough) in
        [(vec![1, 5, 6, 9], 0..7, true), (vec![0, 2, 3], 9..17, true), (vec![0, 2, 3], 9..16, false)]
    {
        let directory = tempfile::tempdir().unwrap();
        for index in olds {
            write(&directory.path().join("old"), &old, index);
        }
        for index in news {
            write(&directory.path().join("new"), &new, index);
        }
        let reader = scan(directory.path()).await;
        let found = reader.bundles()[0].2;
        assert_eq!(found.have >= found.need, enough, "{found:?}");
        assert_eq!(read_all(&reader, &old).await.ok().as_deref(), enough.then_some(old.payload.as_slice()));
    }
}

#[tokio::test]
async fn a_damaged_file_is_named_and_read_around() {
    let directory = tempfile::tempdir().unwrap();
    let (coded, _) = coded(4);
    let paths: Vec<PathBuf> = [0, 1, 2, 3, 7].map(|index| write(directory.path(), &coded, index)).into();
    flip(&paths[1], 4096 + 70_000);
    let reader = scan(directory.path()).await;
    assert!(read_all(&reader, &coded).await.unwrap() == coded.payload);
    let damaged = reader.damaged_files();
    assert_eq!(damaged.len(), 1);
    assert_eq!((damaged[0].path.as_path(), damaged[0].usable), (paths[1].as_path(), false));
    assert!(damaged[0].what.contains("root"), "{}", damaged[0].what);
}

#[tokio::test]
async fn a_rotten_tree_or_header_does_not_cost_the_shard() {
    let directory = tempfile::tempdir().unwrap();
    let (coded, _) = coded(2);
    let paths: Vec<PathBuf> = [0, 3, 4].map(|index| write(directory.path(), &coded, index)).into();
    let length = std::fs::read(&paths[1]).unwrap().len();
    // The tree of one file, a root of another shard in the header of another, the tail of the third.
    flip(&paths[0], length - 100);
    flip(&paths[1], 24 + coded.content.to_bytes().len() + 56 + 32 * 5);
    let third = std::fs::read(&paths[2]).unwrap();
    std::fs::write(&paths[2], &third[..length - 20]).unwrap();
    std::fs::remove_file(&paths[0]).unwrap();
    let reader = scan(directory.path()).await;
    assert!(read_all(&reader, &coded).await.unwrap() == coded.payload);
    let damaged = reader.damaged_files();
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    assert!(damaged.iter().all(|file| file.usable));
}

#[tokio::test]
async fn one_file_too_few_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (coded, _) = coded(4);
    for index in [1, 5, 9] {
        write(directory.path(), &coded, index);
    }
    let reader = scan(directory.path()).await;
    let error = read_all(&reader, &coded).await.unwrap_err();
    assert_eq!(error, ReadError::Unreadable { bundle: coded.content.bundle_id(), have: 3, need: 4 });
    let (_, _, found) = reader.bundles().remove(0);
    assert_eq!((found.have, found.need), (3, 4));
}

#[tokio::test]
async fn a_file_whose_header_is_cut_off_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (coded, _) = coded(1);
    let path = write(directory.path(), &coded, 0);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..100]).unwrap();
    let reader = scan(directory.path()).await;
    assert!(reader.bundles().is_empty());
    assert_eq!(reader.damaged_files().len(), 1);
}

#[tokio::test]
async fn a_spooled_payload_is_restored() {
    let directory = tempfile::tempdir().unwrap();
    let nar = noise(300_000, 6);
    let packed = pack(&[(nar_record(1, &nar), nar.clone())]);
    let path = directory.path().join("payload");
    std::fs::write(&path, &packed.payload).unwrap();
    let spool = SpoolReader::new(Environment::real(), None).with_payload(packed.content.clone(), &path);
    let objects = objects(Arc::new(spool), Environment::real());
    let position = packed.positions[0];
    let record = objects.manifests().record(packed.id(), position.block, position.entry, &position.key);
    let plan = objects.open(packed.id(), record.await.unwrap()).await.unwrap();
    assert!(plan.read_all(1 << 20).await.unwrap() == nar);

    flip(&path, 1000);
    let spool = SpoolReader::new(Environment::real(), None).with_payload(packed.content.clone(), &path);
    let objects = crate::common::objects(Arc::new(spool), Environment::real());
    let plan = objects.open(packed.id(), Arc::clone(plan.record())).await.unwrap();
    assert!(matches!(plan.read_all(1 << 20).await, Err(ReadError::Damaged { .. })));
}
