//! One run: the archive, its clients, and a script of faults.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use firn_coordinator::StateFacts;
use firn_coordinator::storage::{RocksDb, StoreKind};
use firn_wire::StateDigests;

use crate::clients::{Clients, add_uploader_once, ledger, ledger_times};
use crate::history::{Answer, History, Key, Violation, Write, check, check_shown, check_times};
use crate::members::Members;
use crate::outside::Outside;
use crate::script::{Event, Fault, Script, Who, cut_ways};
use crate::support::wait_for;

const TICK: Duration = Duration::from_millis(10);

// A slow disk works for one tick and waits for so many.
const SLOW_DISK_WAITS: u32 = 25;

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) acknowledged: usize,
    pub(crate) unknown: usize,
    pub(crate) refused: usize,
    pub(crate) reads: usize,
    /// The longest time in which nothing was acknowledged.
    pub(crate) longest_gap: Duration,
    /// Paths that a publisher was told are archived, and those of publishers that were told nothing of the kind.
    pub(crate) published: usize,
    pub(crate) unknown_published: usize,
    pub(crate) feed_reads: usize,
    pub(crate) presence_reads: usize,
    pub(crate) violations: Vec<Violation>,
}

struct Active {
    ends: Duration,
    fault: Fault,
    who: Option<usize>,
    ways: BTreeSet<(usize, usize)>,
}

/// Plays `script` on `members`, and judges what clients were told.
pub(crate) fn play(mut members: Members<'_>, outside: Outside, script: &Script) -> Outcome {
    let directories: Vec<_> = (0..members.count()).map(|number| members.directory(number)).collect();
    let founding =
        wait_for("the coordinators run", || ledger(&directories[0]).filter(|all| !all.is_empty())).len();
    let clients = Clients::start(directories.clone());
    wait_for("the first acts are acknowledged", || (clients.acknowledged() > 0).then_some(()));
    wait_for("the first bundle is acknowledged", || (outside.published() > 0).then_some(()));
    storm(&mut members, script);
    members.heal();
    let before = clients.acknowledged();
    wait_for("acts are acknowledged again", || (clients.acknowledged() > before + 20).then_some(()));
    let published = outside.published();
    wait_for("bundles are acknowledged again", || (outside.published() > published).then_some(()));
    let bundles = outside.end(members.count());
    let mut history = clients.stop();
    let mut probes = Vec::new();
    // Each of them finds a leader and hands acts on to it.
    for directory in &directories {
        wait_for("a coordinator takes acts again", || {
            let write = add_uploader_once(directory, probe(probes.len()));
            let answer = write.answer;
            probes.push(write);
            (answer == Answer::Acknowledged).then_some(())
        });
    }
    members.assert_alive();
    history.writes.append(&mut probes);
    let last = same_ledgers(&directories);
    let times = wait_for("a coordinator shows its ledger", || ledger_times(&directories[0]));
    members.assert_alive();
    let left = members.end();
    let digests: Vec<StateDigests> = left.iter().map(|place| digests(&place.join("data"))).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "states differ: {digests:?}");
    left.iter().for_each(|place| std::fs::remove_dir_all(place).unwrap());
    let mut outcome = judge(&history, &last, founding);
    outcome.violations.extend(check_times(&history, &times));
    // The feed is a ledger of its own, of what was published.
    outcome.violations.extend(check(&bundles.history, &bundles.feeds, 0));
    outcome.violations.extend(check_shown(&bundles.shown));
    let acknowledged = |write: &&Write| write.answer == Answer::Acknowledged;
    outcome.published = bundles.history.writes.iter().filter(acknowledged).count();
    outcome.unknown_published = bundles.history.writes.len() - outcome.published;
    outcome.feed_reads = bundles.history.reads.len();
    outcome.presence_reads = bundles.shown.len();
    outcome
}

/// The ledgers of all coordinators, once none has more entries than another. Nobody writes any more.
pub(crate) fn same_ledgers(directories: &[PathBuf]) -> Vec<Vec<Key>> {
    wait_for("all coordinators have the same ledger", || {
        let all: Vec<_> = directories.iter().map(|directory| ledger(directory)).collect::<Option<_>>()?;
        all.iter().all(|other| other.len() == all[0].len()).then_some(all)
    })
}

fn judge(history: &History, last: &[Vec<Key>], founding: usize) -> Outcome {
    let count = |answer| history.writes.iter().filter(|write| write.answer == answer).count();
    let acknowledged = history.writes.iter().filter(|write| write.answer == Answer::Acknowledged);
    let mut times: Vec<u64> = acknowledged.map(|write| write.answered).collect();
    times.sort_unstable();
    let gaps = times.windows(2).filter(|pair| pair[1] != u64::MAX).map(|pair| pair[1] - pair[0]);
    Outcome {
        acknowledged: count(Answer::Acknowledged),
        unknown: count(Answer::Unknown),
        refused: count(Answer::Refused),
        reads: history.reads.len(),
        longest_gap: Duration::from_nanos(gaps.max().unwrap_or(0)),
        published: 0,
        unknown_published: 0,
        feed_reads: 0,
        presence_reads: 0,
        violations: check(history, last, founding),
    }
}

fn probe(number: usize) -> Key {
    let mut key = [0xfb; 32];
    key[..8].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
    key
}

/// What a state that nobody has open contains, in short.
fn digests(directory: &Path) -> StateDigests {
    let state = RocksDb::open(&directory.join("state"), StoreKind::State).unwrap();
    // Not as of any position: whoever ended last may have an entry more, one that says who leads.
    StateFacts::new(Arc::new(state)).kept_digest().unwrap().at(0)
}

fn storm(members: &mut Members<'_>, script: &Script) {
    let began = Instant::now();
    let mut to_come = script.events.iter().peekable();
    let mut active: Vec<Active> = Vec::new();
    for tick in 0_u32.. {
        let now = began.elapsed();
        let (over, on): (Vec<_>, Vec<_>) = active.drain(..).partition(|fault| fault.ends <= now);
        active = on;
        for fault in &over {
            end(members, fault);
        }
        let is_due = |event: &&Event| event.begins <= now;
        let before = active.len();
        while let Some(event) = to_come.next_if(is_due) {
            active.push(begin(members, event));
        }
        if !over.is_empty() || active.len() > before {
            let ways = active.iter().flat_map(|fault| &fault.ways).copied().collect();
            members.network().cut_exactly(&ways);
        }
        for fault in &active {
            if let (Fault::DiskIsSlow(_), Some(who)) = (&fault.fault, fault.who) {
                match tick % (SLOW_DISK_WAITS + 1) {
                    0 => members.disk(who).go_on(),
                    1 => members.disk(who).stall(),
                    _ => {}
                }
            }
        }
        if active.is_empty() && to_come.peek().is_none() {
            return;
        }
        members.assert_alive();
        std::thread::sleep(TICK);
    }
}

fn begin(members: &mut Members<'_>, event: &Event) -> Active {
    let fault = event.fault.clone();
    let who = match &fault {
        Fault::Isolated(who)
        | Fault::Deaf(who)
        | Fault::Mute(who)
        | Fault::Killed(who)
        | Fault::Paused(who)
        | Fault::DiskStalls(who)
        | Fault::DiskIsSlow(who)
        | Fault::ClockIsOff(who, _) => Some(match who {
            Who::Leader => members.leader().unwrap_or(0),
            Who::Number(number) => *number,
        }),
        Fault::Split(_) | Fault::Bridge(_) | Fault::AllKilled | Fault::RollingRestart => None,
    };
    println!("  {:>5} ms {fault:?} (coordinator {who:?})", event.begins.as_millis());
    match (&fault, who) {
        (Fault::Killed(_), Some(who)) => members.kill(who),
        (Fault::Paused(_), Some(who)) => members.pause(who),
        (Fault::DiskStalls(_), Some(who)) => members.disk(who).stall(),
        (Fault::ClockIsOff(_, seconds), Some(who)) => members.set_clock(who, *seconds),
        (Fault::AllKilled, _) => (0..members.count()).for_each(|number| members.kill(number)),
        (Fault::RollingRestart, _) => {
            for number in 0..members.count() {
                members.terminate(number);
                members.begin(number);
                let directory = members.directory(number);
                wait_for("a coordinator runs again", || ledger(&directory));
            }
        }
        _ => {}
    }
    let ways = cut_ways(&fault, who, members.count());
    Active { ends: event.ends, fault, who, ways }
}

fn end(members: &mut Members<'_>, active: &Active) {
    match (&active.fault, active.who) {
        (Fault::Killed(_), Some(who)) => members.begin(who),
        (Fault::AllKilled, _) => (0..members.count()).for_each(|number| members.begin(number)),
        (Fault::Paused(_), Some(who)) => members.resume(who),
        (Fault::DiskStalls(_) | Fault::DiskIsSlow(_), Some(who)) => members.disk(who).go_on(),
        (Fault::ClockIsOff(..), Some(who)) => members.set_clock(who, 0),
        _ => {}
    }
}
