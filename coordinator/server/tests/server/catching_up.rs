//! A member that was away for too long gets the state of another, over real connections and RocksDB.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{Cluster, PATIENCE, timing};
use firn_base::Timestamp;
use firn_coordinator::Timing;
use firn_coordinator_logic::Scan;
use firn_wire::{Command, CommandOutcome, LedgerAct, TimedCommand};
use tokio::time::{sleep, timeout};

const LARGE: u64 = 120;
// Two digits of noise are one byte of it: what the state takes in files, and a little more.
const NOISE_BYTES: usize = 100_000;
const STATE_BYTES: u64 = LARGE * 100_000;
/// What one message carries of a file.
const PIECE_BYTES: u64 = 1 << 20;

/// A command that takes much room, and does not compress well.
fn large(number: u64) -> TimedCommand {
    let mut noise = vec![0; NOISE_BYTES];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut noise);
    let name = noise.iter().map(|byte| format!("{byte:02x}")).collect();
    let command = Command::Govern(LedgerAct::RemovePublisher { name });
    TimedCommand::of_coordinators(Timestamp::from_millis(number), command)
}

/// Three members with some megabytes of state, whose logs no longer reach back to the beginning. One of the two
/// that follow was away all the time: which.
async fn one_was_away() -> (Cluster, u64) {
    let timing = Timing { snapshot_every: 20, entries_kept: 5, ..timing() };
    let mut cluster = Cluster::start_on_disk(3, timing).await;
    let leader = cluster.leader().await;
    let away = cluster.running().into_iter().find(|number| *number != leader).unwrap();
    cluster.kill(away, false).await;
    for number in 0..LARGE {
        assert_eq!(cluster.write(large(number)).await, CommandOutcome::Applied);
    }
    let leader = cluster.leader().await;
    tables_at_rest(cluster.machines[&leader].files.as_ref().unwrap().path()).await;
    (cluster, away)
}

/// The tables of the state in `directory`: name → bytes. A table that is written anew has another name.
fn tables(directory: &Path) -> BTreeMap<OsString, u64> {
    let state = directory.join("state");
    let pointer = std::fs::read_to_string(state.join("current")).unwrap();
    let store = state.join(pointer.trim_end().rsplit(' ').next().unwrap());
    let files = std::fs::read_dir(store).unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        let is_table = entry.file_name().to_string_lossy().ends_with(".sst");
        // One that has just gone counts no more.
        is_table.then(|| Some((entry.file_name(), entry.metadata().ok()?.len())))?
    });
    files.collect()
}

/// Waits until nothing seems to rewrite the tables of a state: what has arrived of them then mostly stays of use.
async fn tables_at_rest(directory: &Path) {
    let mut before = tables(directory);
    let rested = async {
        loop {
            sleep(Duration::from_millis(300)).await;
            let now = tables(directory);
            if !now.is_empty() && now == before {
                return;
            }
            before = now;
        }
    };
    timeout(PATIENCE, rested).await.expect("the tables come to rest")
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{what}"));
}

fn has_all(cluster: &Cluster, number: u64) -> bool {
    let ledger = cluster.consensus(number).facts().ledger_from(0, usize::MAX).unwrap();
    ledger.len() >= usize::try_from(LARGE).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_broke_goes_on_where_it_was_also_after_a_kill() {
    let (mut cluster, away) = one_was_away().await;
    let leader = cluster.leader().await;
    let sent_from = cluster.machines[&leader].files.as_ref().unwrap().path().to_owned();
    let (tables_before, term_before) = (tables(&sent_from), cluster.consensus(leader).term());
    let valve = std::sync::Arc::clone(&cluster.machines[&away].valve);
    let before = valve.passed.load(Ordering::Relaxed);
    let passed = || valve.passed.load(Ordering::Relaxed) - before;
    valve.cut_at.store(before + STATE_BYTES / 2, Ordering::Relaxed);
    cluster.run(away).await;
    until("half of the state arrives", || passed() >= STATE_BYTES / 2).await;
    cluster.kill(away, false).await;
    valve.cut_at.store(before + STATE_BYTES * 3 / 4, Ordering::Relaxed);
    cluster.run(away).await;
    until("a quarter more arrives", || passed() >= STATE_BYTES * 3 / 4).await;
    valve.cut_at.store(u64::MAX, Ordering::Relaxed);
    until("it has caught up", || has_all(&cluster, away)).await;
    cluster.settled().await;
    // Begun anew once it would have been half as much again, or more. The piece that was on its way at a cut comes
    // twice, and so does what the sender has rewritten meanwhile. Each further leader, as a machine too busy for the
    // short times of this test brings forth, has files of its own.
    let leaders = 1 + cluster.consensus(leader).term() - term_before;
    let rewritten: u64 = tables(&sent_from)
        .iter()
        .filter_map(|(name, bytes)| (!tables_before.contains_key(name)).then_some(bytes))
        .sum();
    println!(
        "{} bytes of parts arrived for {STATE_BYTES} bytes of state, {rewritten} of it rewritten, {leaders} leaders",
        passed()
    );
    let once = STATE_BYTES + STATE_BYTES / 10 + 2 * PIECE_BYTES;
    assert!(passed() < leaders * once + rewritten, "{}", passed());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_that_flips_on_the_way_is_found_and_its_file_comes_again() {
    let (mut cluster, away) = one_was_away().await;
    let valve = std::sync::Arc::clone(&cluster.machines[&away].valve);
    let before = valve.passed.load(Ordering::Relaxed);
    valve.flip.store(true, Ordering::Relaxed);
    cluster.run(away).await;
    until("it has caught up", || has_all(&cluster, away)).await;
    cluster.settled().await;
    assert!(!valve.flip.load(Ordering::Relaxed));
    let passed = valve.passed.load(Ordering::Relaxed) - before;
    println!("{passed} bytes of parts arrived for {STATE_BYTES} bytes of state");
    assert!(passed > STATE_BYTES);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_dies_in_the_middle_is_succeeded_and_commits_go_on() {
    let (mut cluster, away) = one_was_away().await;
    let valve = std::sync::Arc::clone(&cluster.machines[&away].valve);
    let before = valve.passed.load(Ordering::Relaxed);
    valve.cut_at.store(before + STATE_BYTES / 2, Ordering::Relaxed);
    cluster.run(away).await;
    let passed = || valve.passed.load(Ordering::Relaxed) - before;
    until("half of the state arrives", || passed() >= STATE_BYTES / 2).await;
    // The leader goes and comes back: meanwhile the third one and the one that was away are a majority, and the one that
    // leads then sends its own files, which are others.
    let leader = cluster.leader().await;
    cluster.kill(leader, false).await;
    valve.cut_at.store(u64::MAX, Ordering::Relaxed);
    cluster.run(leader).await;
    for number in 0..30 {
        assert_eq!(cluster.write(crate::support::add_uploader(number)).await, CommandOutcome::Applied);
    }
    until("it has caught up", || has_all(&cluster, away)).await;
    cluster.settled().await;
    cluster.stop().await;
}
