//! A bit flips somewhere in what a node keeps: shards, index, ledger, certificates, descriptor, its small files.
//!
//! `FIRN_TEST_FLIPS` says in how many places, one after the other (default 100).

use std::sync::Arc;

use crate::support::CodedBundle;
use crate::support::world::{World, read};
use firn_retrieval::ReadRangeError;
use firn_storage_node::{Disk, MemoryDisk, StorageNode};
use firn_transport::Environment;

// Without these a node would have to guess whose it is and whom it may follow. Whatever else is damaged begins anew, is
// fetched again, or is a shard.
const NEEDED_TO_START: [&str; 2] = ["archive", "orders"];

/// A number by lot, the same in every run.
fn lot(seed: u64, part: u8) -> u64 {
    let drawn = blake3::Hasher::new().update(&seed.to_le_bytes()).update(&[part]).finalize();
    u64::from_le_bytes(*drawn.as_bytes().first_chunk().unwrap())
}

/// Flips a bit of `disk`: of all its bits, or of any of its files, however short. Names the file.
fn flip(disk: &MemoryDisk, seed: u64) -> String {
    let files: Vec<(String, u64)> = disk
        .paths()
        .into_iter()
        .map(|path| {
            let bytes = disk.open(&path).unwrap().bytes().unwrap();
            (path, bytes)
        })
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    let all: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let mut at = lot(seed, 0) % all;
    let drawn = if seed.is_multiple_of(2) {
        files.iter().find(|(_, bytes)| {
            at < *bytes || {
                at -= bytes;
                false
            }
        })
    } else {
        files.get(usize::try_from(lot(seed, 1)).unwrap() % files.len())
    };
    let (path, bytes) = drawn.unwrap();
    assert!(disk.flip(path, usize::try_from(at % bytes).unwrap(), 1 << (lot(seed, 2) % 8)));
    path.clone()
}

#[tokio::test]
async fn a_bit_that_flips_anywhere_in_what_a_node_keeps_gives_the_right_answer_or_a_clear_refusal() {
    let flips: u64 = std::env::var("FIRN_TEST_FLIPS").map_or(100, |count| count.parse().unwrap());
    let world = World::new().await;
    let disk = MemoryDisk::new();
    let node = world.start(1, Arc::new(disk.clone())).await;
    let bundles = [CodedBundle::new(1, 50_000, 1), CodedBundle::new(2, 100_000, 4)];
    for bundle in &bundles {
        world.bring(&node, bundle, 0).await.unwrap();
    }
    let certified =
        |disk: &MemoryDisk| disk.paths().iter().filter(|path| path.starts_with("certificates/")).count();
    world.wait("certificates are kept", |_| certified(&disk) == bundles.len()).await;
    let id = node.id();
    node.shutdown().await;
    let pass = world.pass(world.client.public());
    let (mut not_started, mut refused) = (0, 0);
    for seed in 0..flips {
        let rotten = disk.duplicate();
        let path = flip(&rotten, seed);
        world.pool.forget(id);
        let options = world.options(1, Arc::new(rotten));
        let node = match StorageNode::start(Environment::real(), options).await {
            Ok(node) => node,
            Err(error) => {
                let is_needed = NEEDED_TO_START.contains(&path.as_str());
                assert!(is_needed, "seed {seed}: {path} costs something, not the node: {error}");
                not_started += 1;
                continue;
            }
        };
        for bundle in &bundles {
            match read(&world, &node, bundle, 0, Some(&pass)).await {
                Ok(found) => assert!(found == bundle.shard(0), "seed {seed}: a wrong byte, {path}"),
                Err(ReadRangeError::Refused { .. }) if path.contains(&bundle.id().to_string()) => {
                    refused += 1
                }
                Err(error) => panic!("seed {seed}: {path} costs {}: {error}", bundle.id()),
            }
        }
        node.shutdown().await;
    }
    println!(
        "{flips} flips: {not_started} nodes did not start, {refused} reads were refused, none was wrong"
    );
    assert!(refused > 0, "most bits are those of shards");
}
