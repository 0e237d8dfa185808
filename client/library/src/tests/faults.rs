//! Archives and nodes that misbehave, and publishes that are interrupted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use firn_base::Scheme;
use firn_client_logic::UploadPolicy;
use firn_nix_format::Compression;
use firn_wire::RefusalKind;

use super::archive::{Faults, TestArchive};
use super::cache::{Cache, noise};
use super::pipeline::{assert_restores, publish, publish_telling, publish_until_packed, publish_with};
use crate::events::{PublishEvent, PublishEvents};
use crate::publish_options::PublishOptions;

fn hasty(cache: &Cache) -> PublishOptions {
    let policy = UploadPolicy {
        grace: Duration::from_millis(20),
        retry_first: Duration::from_millis(5),
        give_up_after: Duration::from_millis(300),
        ..UploadPolicy::default()
    };
    PublishOptions { policy, ..PublishOptions::new(cache.source()) }
}

#[tokio::test]
async fn a_bundle_is_coded_anew_when_the_scheme_changes() {
    let faults = Faults { change_scheme: Scheme::new(8, 24).ok(), ..Faults::default() };
    let (cache, archive) = (Cache::sound(), TestArchive::with_faults(4, 12, faults));
    assert_eq!(publish(&archive, &cache).await.exit_code(), 0);
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn more_parity_is_made_when_the_fleet_has_grown() {
    let faults = Faults { grow_to: Scheme::new(4, 12).ok(), ..Faults::default() };
    let (cache, archive) = (Cache::sound(), TestArchive::with_faults(4, 6, faults));
    let summary = publish(&archive, &cache).await;
    assert_eq!(summary.exit_code(), 0);
    assert!(summary.sent.0 >= summary.payload.0 * 3, "{summary}");
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn a_reservation_that_ended_is_made_again() {
    let faults = Faults { expired_commits: 1, ..Faults::default() };
    let (cache, archive) = (Cache::sound(), TestArchive::with_faults(4, 6, faults));
    let summary = publish_with(&archive, &cache, hasty(&cache)).await.unwrap();
    assert_eq!((summary.paths_published, summary.exit_code()), (6, 0));
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_done_once() {
    let faults = Faults { lost_answers: 1, ..Faults::default() };
    let (cache, archive) = (Cache::sound(), TestArchive::with_faults(4, 6, faults));
    let summary = publish_with(&archive, &cache, hasty(&cache)).await.unwrap();
    assert_eq!((summary.paths_published, summary.exit_code(), archive.commits()), (6, 0, vec![1]));
}

#[tokio::test]
async fn a_few_broken_nodes_do_not_stop_a_publish() {
    let faults = Faults { broken_nodes: [2, 9, 11].into(), ..Faults::default() };
    let (cache, archive) = (Cache::sound(), TestArchive::with_faults(4, 12, faults));
    assert_eq!(publish_with(&archive, &cache, hasty(&cache)).await.unwrap().exit_code(), 0);
    assert_eq!(archive.late_receipts_seen(), 0);
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn too_many_broken_nodes_stop_a_publish_with_their_reason() {
    let faults = Faults { broken_nodes: (3..12).collect(), ..Faults::default() };
    let (cache, archive) = (Cache::sound(), TestArchive::with_faults(4, 12, faults));
    let stopped = publish_with(&archive, &cache, hasty(&cache)).await.unwrap_err();
    assert!(stopped.to_string().contains("3 of the 8 shards"), "{stopped}");
    assert!(stopped.to_string().contains("the disk is full"), "{stopped}");
    assert_eq!(stopped.summary.paths_published, 0);
    archive.heal();
    assert_eq!(publish(&archive, &cache).await.exit_code(), 0);
}

#[tokio::test]
async fn an_archive_that_refuses_for_good_stops_the_publish_with_its_sentence() {
    for kind in [RefusalKind::NotAllowed, RefusalKind::Full] {
        let faults = Faults { refuse_reservations: Some(kind), ..Faults::default() };
        let (cache, archive) = (Cache::sound(), TestArchive::with_faults(4, 6, faults));
        let stopped = publish_with(&archive, &cache, hasty(&cache)).await.unwrap_err();
        assert_eq!(stopped.to_string(), "the archive says no");
    }
}

#[tokio::test]
async fn what_space_was_granted_for_is_committed_before_a_full_archive_stops_the_publish() {
    let faults = Faults { reservations_until_full: Some(3), ..Faults::default() };
    let (mut cache, archive) = (Cache::new(), TestArchive::with_faults(4, 6, faults));
    for number in 0..24 {
        cache.add_path(&format!("part-{number}"), &noise(700_000, number), Compression::None, &[]);
    }
    let options = || PublishOptions { bundle_bytes: 2 << 20, ..hasty(&cache) };
    let stopped = publish_with(&archive, &cache, options()).await.unwrap_err();
    assert_eq!((stopped.to_string().as_str(), stopped.summary.bundles), ("the archive is full", 3));
    archive.heal();
    let summary = publish_with(&archive, &cache, options()).await.unwrap();
    assert_eq!((summary.exit_code(), archive.keys().len()), (0, 24));
}

#[tokio::test]
async fn a_bundle_that_the_archive_refuses_is_listed_path_by_path() {
    let faults = Faults { refuse_reservations: Some(RefusalKind::Malformed), ..Faults::default() };
    let (cache, archive) = (Cache::sound(), TestArchive::with_faults(4, 6, faults));
    let summary = publish_with(&archive, &cache, hasty(&cache)).await.unwrap();
    assert_eq!((summary.refused.len(), summary.exit_code()), (6, 1));
    assert!(summary.refused[0].reason.contains("the archive says no"));
}

#[tokio::test]
async fn a_publish_that_was_cut_off_goes_on_where_it_was() {
    let faults = Faults { commits_until_silence: Some(2), ..Faults::default() };
    let (mut cache, archive) = (Cache::new(), TestArchive::with_faults(4, 6, faults));
    for number in 0..12 {
        cache.add_path(&format!("part-{number}"), &noise(700_000, number), Compression::None, &[]);
    }
    let options = || PublishOptions { bundle_bytes: 4 << 20, ..hasty(&cache) };
    let stopped = publish_with(&archive, &cache, options()).await.unwrap_err();
    assert!(stopped.to_string().contains("nobody answers"), "{stopped}");
    let done = archive.keys().len() as u64;
    assert!(done > 0 && done < 12);
    assert_eq!(stopped.summary.paths_published, done);
    archive.heal();
    let summary = publish_with(&archive, &cache, options()).await.unwrap();
    assert_eq!((summary.paths_skipped, summary.paths_published, summary.exit_code()), (done, 12 - done, 0));
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn a_publish_may_be_dropped_at_any_time() {
    let mut cache = Cache::new();
    for number in 0..12 {
        cache.add_path(&format!("part-{number}"), &noise(700_000, number), Compression::Xz, &[]);
    }
    let archive = TestArchive::new(4, 6);
    for millis in [1, 5, 20, 60, 150] {
        let options = PublishOptions { bundle_bytes: 4 << 20, ..hasty(&cache) };
        let _ = tokio::time::timeout(Duration::from_millis(millis), publish_with(&archive, &cache, options))
            .await;
    }
    assert_eq!(publish(&archive, &cache).await.exit_code(), 0);
    assert_eq!(archive.keys().len(), 12);
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn a_publish_that_is_asked_to_stop_commits_what_it_has_begun() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let options = PublishOptions { jobs: 1, ..PublishOptions::new(cache.source()) };
    let summary = publish_until_packed(&archive, &cache, options).await;
    assert_eq!((summary.paths_published, summary.refused.len()), (1, 0), "{summary}");
    let rest = publish(&archive, &cache).await;
    assert_eq!((rest.paths_published, rest.paths_skipped, rest.exit_code()), (5, 1, 0), "{rest}");
}

#[tokio::test]
async fn no_more_is_packed_ahead_of_slow_nodes_than_a_few_bundles() {
    // Two on their way, one that waits for its turn, and what is in the open one.
    const AHEAD_MAX: u64 = 4;
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    for number in 0..16 {
        cache.add_path(&format!("part-{number}"), &noise(700_000, number), Compression::None, &[]);
    }
    archive.let_stores_wait_for(AHEAD_MAX);
    let (seen, most) = (Arc::clone(&archive), Arc::new(AtomicU64::new(0)));
    let ahead_most = Arc::clone(&most);
    let events = PublishEvents::new(move |event| {
        if matches!(event, PublishEvent::Packed { .. }) {
            let ahead = seen.note_packed().saturating_sub(seen.commits().len() as u64);
            ahead_most.fetch_max(ahead, Ordering::SeqCst);
        }
    });
    let options = PublishOptions { bundle_bytes: 1 << 20, ..PublishOptions::new(cache.source()) };
    publish_telling(&archive, &cache, options, events).await.unwrap();
    assert_eq!(archive.commits().len(), 16, "each has a bundle of its own");
    assert_eq!(most.load(Ordering::SeqCst), AHEAD_MAX);
}
