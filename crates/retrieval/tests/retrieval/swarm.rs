//! Payloads from nodes that serve, lie, dawdle or are gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::{Behaviour, Coded, FakeDirectory, FakeNodes, code, nar_record, node, noise, pack};
use firn_retrieval::{PayloadReader, ReadError, SwarmOptions, SwarmReader};
use firn_wire::{RefusalKind, ShardReport};
use proptest::prelude::*;
use tokio::time::Instant;

fn coded(bytes: usize, k: u8) -> Coded {
    let nar = noise(bytes, 9);
    code(&pack(&[(nar_record(1, &nar), nar)]), k)
}

fn swarm(coded: &Coded, n: u8, options: SwarmOptions) -> (Arc<FakeNodes>, Arc<FakeDirectory>, SwarmReader) {
    let (nodes, directory) = (FakeNodes::new(coded.clone()), FakeDirectory::new(coded, n));
    let reader = SwarmReader::new(Arc::clone(&directory) as _, Arc::clone(&nodes) as _, options);
    (nodes, directory, reader)
}

fn slice(coded: &Coded, range: std::ops::Range<u64>) -> &[u8] {
    &coded.payload[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
}

#[tokio::test(start_paused = true)]
async fn a_healthy_swarm_is_asked_once_for_each_data_shard() {
    let coded = coded(700_000, 4);
    let (nodes, _, reader) = swarm(&coded, 12, SwarmOptions::default());
    let id = coded.content.bundle_id();
    assert_eq!(reader.read(id, 1000..2000).await.unwrap(), slice(&coded, 1000..2000));
    assert_eq!(nodes.take_asked(), [node(0)]);
    let whole = 0..coded.content.payload_bytes();
    assert_eq!(reader.read(id, whole.clone()).await.unwrap(), slice(&coded, whole));
    assert_eq!(nodes.take_asked(), [node(0), node(1), node(2), node(3)]);
    assert_eq!(reader.counts().degraded, 0);
    let behind = reader.read(id, 0..coded.content.payload_bytes() + 1).await;
    assert!(matches!(behind, Err(ReadError::OutOfRange { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_liar_is_read_around_counted_reported_and_not_asked_again() {
    let coded = coded(300_000, 4);
    let (nodes, directory, reader) = swarm(&coded, 12, SwarmOptions::default());
    nodes.behave(0, Behaviour::Liar);
    let id = coded.content.bundle_id();
    assert_eq!(reader.read(id, 10..5000).await.unwrap(), slice(&coded, 10..5000));
    assert_eq!(reader.counts().lies, 1);
    let report = ShardReport {
        node: node(0),
        coding: coded.coding.coding_id(),
        index: firn_base::ShardIndex(0),
        offset: 10,
        bytes: 4990,
    };
    assert_eq!(*directory.reported.lock().unwrap(), [report]);
    assert!(nodes.take_asked().contains(&node(0)));
    assert_eq!(reader.read(id, 10..5000).await.unwrap(), slice(&coded, 10..5000));
    assert!(!nodes.take_asked().contains(&node(0)));
    assert_eq!(reader.counts().lies, 1);
}

#[tokio::test(start_paused = true)]
async fn lies_among_the_others_do_not_reach_the_rebuilt_bytes() {
    let coded = coded(300_000, 4);
    let (nodes, directory, reader) = swarm(&coded, 12, SwarmOptions::default());
    directory.set_online(0, false);
    for index in 1..8 {
        nodes.behave(index, Behaviour::Liar);
    }
    let id = coded.content.bundle_id();
    assert_eq!(reader.read(id, 0..5000).await.unwrap(), slice(&coded, 0..5000));
    assert_eq!(reader.counts().lies, 7);
}

#[tokio::test(start_paused = true)]
async fn a_slow_holder_is_hedged_with_k_and_three_others() {
    let coded = coded(300_000, 4);
    let (nodes, _, reader) = swarm(&coded, 12, SwarmOptions::default());
    nodes.behave(0, Behaviour::Silent);
    let id = coded.content.bundle_id();
    let begun = Instant::now();
    assert_eq!(reader.read(id, 0..1000).await.unwrap(), slice(&coded, 0..1000));
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    assert_eq!(nodes.take_asked().len(), 1 + 4 + 3);
    assert_eq!(reader.counts().hedged, 1);
    // The next read does not wait for it.
    let begun = Instant::now();
    reader.read(id, 0..1000).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(100));
    assert!(!nodes.take_asked().contains(&node(0)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_holder_that_still_comes_first_is_enough() {
    let coded = coded(300_000, 4);
    let (nodes, _, reader) = swarm(&coded, 5, SwarmOptions::default());
    nodes.behave(0, Behaviour::Honest(Duration::from_millis(500)));
    for index in 1..5 {
        nodes.behave(index, Behaviour::Honest(Duration::from_secs(3)));
    }
    let begun = Instant::now();
    let read = reader.read(coded.content.bundle_id(), 0..1000).await.unwrap();
    assert_eq!(read, slice(&coded, 0..1000));
    assert!(begun.elapsed() < Duration::from_millis(600));
    tokio::task::yield_now().await;
    assert_eq!(nodes.under_way.load(Ordering::SeqCst), 0, "the losers are cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_stalled_is_tried_beside_the_reads_and_trusted_again_when_it_answers() {
    let coded = coded(300_000, 4);
    let (nodes, _, reader) = swarm(&coded, 12, SwarmOptions::default());
    let id = coded.content.bundle_id();
    for shard in 0..4u64 {
        let start = shard * coded.coding.shard_bytes();
        reader.read(id, start..start + 1000).await.unwrap();
    }
    nodes.behave(0, Behaviour::Silent);
    let mut slow = 0;
    for _ in 0..200 {
        let begun = Instant::now();
        assert_eq!(reader.read(id, 0..1000).await.unwrap(), slice(&coded, 0..1000));
        slow += u32::from(begun.elapsed() > Duration::from_millis(10));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(slow, 1, "one read finds out, and no later one waits for it");
    let counts = reader.counts();
    assert!((counts.hedged, counts.hedges_won) == (1, 1) && counts.trials >= 5, "{counts:?}");
    nodes.behave(0, Behaviour::Honest(Duration::from_millis(5)));
    for _ in 0..70 {
        reader.read(id, 0..1000).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    nodes.take_asked();
    reader.read(id, 0..1000).await.unwrap();
    assert_eq!(nodes.take_asked(), [node(0)]);
}

#[tokio::test(start_paused = true)]
async fn a_holder_at_its_limit_is_read_around_by_parity_for_a_moment() {
    let coded = coded(300_000, 4);
    let (nodes, _, reader) = swarm(&coded, 12, SwarmOptions::default());
    let id = coded.content.bundle_id();
    nodes.behave(0, Behaviour::Refuses(RefusalKind::Unavailable));
    assert_eq!(reader.read(id, 0..1000).await.unwrap(), slice(&coded, 0..1000));
    nodes.take_asked();
    assert_eq!(reader.read(id, 0..1000).await.unwrap(), slice(&coded, 0..1000));
    assert!(!nodes.take_asked().contains(&node(0)));
    let counts = reader.counts();
    assert_eq!((counts.busy, counts.rebuilt, counts.unreadable), (1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_late_holder_waits_for_what_holders_of_its_kind_need_and_not_for_a_guess() {
    let coded = coded(300_000, 4);
    let (nodes, _, reader) = swarm(&coded, 12, SwarmOptions::default());
    let id = coded.content.bundle_id();
    // Three holders were heard and took 5 ms; of the fourth nothing is known but that.
    for shard in 1..4u64 {
        let start = shard * coded.coding.shard_bytes();
        reader.read(id, start..start + 1000).await.unwrap();
    }
    nodes.behave(0, Behaviour::Silent);
    let begun = Instant::now();
    reader.read(id, 0..1000).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(40), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_holder_known_to_be_away_is_read_around_at_once() {
    let coded = coded(300_000, 4);
    let (nodes, directory, reader) = swarm(&coded, 12, SwarmOptions::default());
    directory.set_online(0, false);
    nodes.behave(0, Behaviour::Silent);
    let begun = Instant::now();
    let read = reader.read(coded.content.bundle_id(), 0..1000).await.unwrap();
    assert_eq!(read, slice(&coded, 0..1000));
    assert!(begun.elapsed() < Duration::from_millis(50));
    assert_eq!(nodes.take_asked().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn too_few_holders_are_told_with_how_many_there_were() {
    let coded = coded(300_000, 4);
    let (nodes, directory, reader) = swarm(&coded, 6, SwarmOptions::default());
    for index in [0, 2, 4] {
        nodes.behave(index, Behaviour::Gone);
    }
    let error = reader.read(coded.content.bundle_id(), 0..1000).await.unwrap_err();
    assert_eq!(error, ReadError::Unreadable { bundle: coded.content.bundle_id(), have: 3, need: 4 });
    assert!(error.is_temporary());
    assert_eq!(directory.refreshed.load(Ordering::SeqCst), 1);
    assert_eq!(reader.counts().unreadable, 1);
}

#[tokio::test(start_paused = true)]
async fn silent_holders_are_given_up_within_the_stated_time() {
    let coded = coded(300_000, 4);
    let (nodes, _, reader) = swarm(&coded, 6, SwarmOptions::default());
    for index in 0..3 {
        nodes.behave(index, Behaviour::Silent);
    }
    let begun = Instant::now();
    let error = reader.read(coded.content.bundle_id(), 0..1000).await.unwrap_err();
    assert!(matches!(error, ReadError::Unreadable { have: 3, need: 4, .. }), "{error:?}");
    assert!(begun.elapsed() <= Duration::from_secs(41));
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_moved_is_found_after_a_refresh() {
    let coded = coded(300_000, 4);
    let (nodes, directory, reader) = swarm(&coded, 4, SwarmOptions::default());
    // Node 0 has handed its shard to node 9, which only a refresh reveals.
    nodes.behave(0, Behaviour::Refuses(RefusalKind::NotFound));
    let mut fresh = firn_retrieval::BundleFacts::clone(&directory.facts.lock().unwrap());
    fresh.holders[0] = vec![node(9)];
    *directory.fresh.lock().unwrap() = Some(Arc::new(fresh));
    let read = reader.read(coded.content.bundle_id(), 0..1000).await.unwrap();
    assert_eq!(read, slice(&coded, 0..1000));
    assert!(directory.doubted.load(Ordering::SeqCst) >= 1);
}

/// A reader that knows a bundle by its coding for 4, when that for 8 has replaced it.
fn recoded() -> (Coded, Arc<FakeNodes>, Arc<FakeDirectory>, SwarmReader) {
    let (old, new) = (coded(700_000, 4), coded(700_000, 8));
    let (nodes, directory, reader) = swarm(&old, 12, SwarmOptions::default());
    *nodes.replaced_by.lock().unwrap() = Some(new.clone());
    *directory.fresh.lock().unwrap() = Some(Arc::clone(&FakeDirectory::new(&new, 24).facts.lock().unwrap()));
    *directory.book.lock().unwrap() = Arc::clone(&FakeDirectory::new(&new, 24).book.lock().unwrap());
    (old, nodes, directory, reader)
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_was_coded_anew_is_read_by_a_reader_that_knows_only_its_old_coding() {
    let (old, _, directory, reader) = recoded();
    let id = old.content.bundle_id();
    // Over borders of shards of either coding, and once more with the facts as they are now.
    for range in [0..700_000, 10..20, 87_000..180_000] {
        assert_eq!(reader.read(id, range.clone()).await.unwrap(), slice(&old, range));
    }
    assert!(directory.doubted.load(Ordering::SeqCst) >= 1);
    assert_eq!(reader.counts().unreadable, 0);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_goes_back_to_an_older_coding_ends_in_an_error() {
    let (old, nodes, directory, reader) = recoded();
    let younger = FakeDirectory::new(&coded(700_000, 2), 6).facts.lock().unwrap().clone();
    *directory.fresh.lock().unwrap() = Some(younger);
    *nodes.replaced_by.lock().unwrap() = Some(coded(700_000, 16));
    let error = reader.read(old.content.bundle_id(), 0..1000).await.unwrap_err();
    assert!(error.is_temporary(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn nodes_that_coordinators_call_away_are_tried_when_nothing_else_is_left() {
    let coded = coded(300_000, 2);
    let (_, directory, reader) = swarm(&coded, 2, SwarmOptions::default());
    directory.set_online(0, false);
    directory.set_online(1, false);
    let read = reader.read(coded.content.bundle_id(), 0..1000).await.unwrap();
    assert_eq!(read, slice(&coded, 0..1000));
}

#[tokio::test(start_paused = true)]
async fn requests_under_way_are_bounded_over_all_reads() {
    let coded = coded(600_000, 4);
    let options = SwarmOptions { requests_max: 5, ..SwarmOptions::default() };
    let (nodes, directory, reader) = swarm(&coded, 12, options);
    directory.set_online(2, false);
    let id = coded.content.bundle_id();
    let reads = (0..40u64).map(|read| reader.read(id, read * 10_000..read * 10_000 + 70_000));
    for (read, bytes) in (0..).zip(futures::future::join_all(reads).await) {
        assert_eq!(bytes.unwrap(), slice(&coded, read * 10_000..read * 10_000 + 70_000));
    }
    assert_eq!(nodes.most_under_way.load(Ordering::SeqCst), 5);
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_ours_is_held_against_no_node() {
    let coded = coded(600_000, 4);
    let options = SwarmOptions { requests_max: 7, ..SwarmOptions::default() };
    let (nodes, directory, reader) = swarm(&coded, 8, options);
    let id = coded.content.bundle_id();
    let of_shard = |shard: usize| {
        let start = shard as u64 * coded.coding.shard_bytes();
        start..start + 900
    };
    // What is read around the first node is had from the last four; these three are the surplus.
    for holder in 1..4 {
        nodes.behave(holder, Behaviour::Honest(Duration::from_millis(15)));
        reader.read(id, of_shard(holder)).await.unwrap();
    }
    directory.set_online(0, false);
    let reads = (0..80).map(|_| reader.read(id, of_shard(0)));
    for bytes in futures::future::join_all(reads).await {
        assert_eq!(bytes.unwrap(), slice(&coded, of_shard(0)));
    }
    // They took no longer than ever once they were asked, and are trusted with what they hold.
    nodes.take_asked();
    for holder in 1..4 {
        reader.read(id, of_shard(holder)).await.unwrap();
        assert_eq!(nodes.take_asked(), [node(holder)]);
    }
    let counts = reader.counts();
    assert_eq!((counts.degraded, counts.trials), (80, 0), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_read_cancels_its_requests() {
    let coded = coded(300_000, 4);
    let (nodes, _, reader) = swarm(&coded, 12, SwarmOptions::default());
    for index in 0..12 {
        nodes.behave(index, Behaviour::Silent);
    }
    let read = reader.read(coded.content.bundle_id(), 0..1000);
    let mut read = Box::pin(read);
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut read).await.is_err());
    assert!(reader.counts().under_way >= 8);
    drop(read);
    assert_eq!(reader.counts().under_way, 0);
    assert_eq!(nodes.under_way.load(Ordering::SeqCst), 0);
    assert!(nodes.take_asked().len() >= 8);
}

fn any_swarm() -> impl Strategy<Value = (u8, BTreeSet<usize>, BTreeSet<usize>, (u64, u64))> {
    (prop::sample::select(vec![1u8, 2, 4, 8]), any::<(u64, u64)>()).prop_flat_map(|(k, cut)| {
        let n = usize::from(firn_base::Scheme::n_max(k).unwrap());
        let spare = n - usize::from(k);
        let bad = prop::collection::btree_set(0..n, 0..=spare);
        (Just(k), bad.clone(), bad, Just(cut))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_k_honest_nodes_give_any_range((k, gone, liars, cut) in any_swarm()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let coded = coded(700_000, k);
            let n = u8::try_from(coded.shards.len()).unwrap();
            let (nodes, _, reader) = swarm(&coded, n, SwarmOptions::default());
            // No more bad ones together than there are to spare.
            for (count, index) in (0..usize::from(n - k)).zip(gone.into_iter().chain(liars)) {
                nodes.behave(index, if count % 2 == 0 { Behaviour::Gone } else { Behaviour::Liar });
            }
            let bytes = coded.content.payload_bytes();
            let start = cut.0 % bytes;
            let range = start..start + cut.1 % (bytes - start + 1);
            let read = reader.read(coded.content.bundle_id(), range.clone()).await.unwrap();
            assert!(read == slice(&coded, range));
        });
    }
}
