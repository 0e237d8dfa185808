//! What happens to a coordinator whose files are damaged, while the others go on: it says so and stops, or was not hurt;
//! one command rebuilds it, and its vote counts again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::clients::{Clients, ledger};
use crate::history::{check, is_of_others};
use crate::members::{Founded, Members};
use crate::support::wait_for;
use crate::{equipment_or_skip, run};

/// Who is damaged. It is not the founder, and as likely as any other to lead.
const HURT: usize = 1;

#[derive(Debug, Clone, Copy)]
enum Damage {
    /// The log lost acknowledged entries from its end.
    LogTruncated,
    /// One bit in the middle of the log is another.
    LogFlipped,
    /// One bit of each table of the state is another.
    TablesFlipped,
    /// The tables of the state are gone.
    TablesMissing,
    /// There is no log any more.
    LogGone,
}

/// The files of a store with this ending, the newest last.
fn files(store: &Path, ending: &str) -> Vec<PathBuf> {
    let current = fs::read_to_string(store.join("current")).unwrap();
    let database = store.join(current.trim_end().rsplit_once(' ').unwrap().1);
    let entries = fs::read_dir(database).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == ending)).collect();
    found.sort();
    assert!(!found.is_empty(), "{}: no file ends with {ending}", store.display());
    found
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// The part of a journal that was written; what is behind it was set aside by the database.
fn written(journal: &Path) -> usize {
    fs::read(journal).unwrap().iter().rposition(|byte| *byte != 0).unwrap()
}

impl Damage {
    const ALL: [Self; 5] =
        [Self::LogTruncated, Self::LogFlipped, Self::TablesFlipped, Self::TablesMissing, Self::LogGone];

    fn cause(self, data: &Path) {
        let (log, state) = (data.join("log"), data.join("state"));
        match self {
            Self::LogTruncated => {
                let journal = files(&log, "log").pop().unwrap();
                let file = fs::File::options().write(true).open(&journal).unwrap();
                file.set_len(u64::try_from(written(&journal) / 2).unwrap()).unwrap();
            }
            Self::LogFlipped => {
                let journal = files(&log, "log").pop().unwrap();
                flip(&journal, written(&journal) / 2);
            }
            Self::TablesFlipped => files(&state, "sst").iter().for_each(|table| flip(table, 20)),
            Self::TablesMissing => {
                files(&state, "sst").iter().for_each(|table| fs::remove_file(table).unwrap())
            }
            Self::LogGone => fs::remove_dir_all(&log).unwrap(),
        }
    }
}

/// Waits until it has what another one has now: the others need it for no act, and its journals may be new and empty.
fn keeps_up(directories: &[PathBuf]) {
    let there = wait_for("another one answers", || ledger(&directories[0])).len();
    wait_for("it keeps up", || ledger(&directories[HURT]).filter(|all| all.len() >= there));
}

/// Whether the others know it as a voter again, and it is done with what it had to do.
fn is_whole(members: &Members<'_>) -> bool {
    members.votes(HURT) && !members.directory(HURT).join("resync").exists()
}

#[test]
fn a_damaged_coordinator_says_so_and_is_rebuilt_by_one_command_while_the_others_go_on() {
    let place = tempfile::tempdir().unwrap();
    let Some((mut network, mut disks, clocks)) = equipment_or_skip(place.path()) else { return };
    let founded = Founded::new(place.path(), &network, &clocks, 3);
    let mut members = Members::start(&founded, &mut network, &mut disks, "damage");
    let directories: Vec<_> = (0..members.count()).map(|number| members.directory(number)).collect();
    let founding =
        wait_for("the coordinators run", || ledger(&directories[0]).filter(|all| !all.is_empty())).len();
    let clients = Clients::start(directories.clone());
    let goes_on = |members: &mut Members<'_>| {
        let before = clients.acknowledged();
        wait_for("acts are acknowledged", || (clients.acknowledged() > before + 100).then_some(()));
        members.assert_alive();
    };
    let mut administered = BTreeSet::new();
    for damage in Damage::ALL {
        println!("{damage:?}");
        // A start writes what the journals had into tables, so that there are some.
        goes_on(&mut members);
        members.kill(HURT);
        members.begin(HURT);
        goes_on(&mut members);
        wait_for("it follows", || ledger(&directories[HURT]));
        goes_on(&mut members);
        keeps_up(&directories);
        members.kill(HURT);
        damage.cause(&directories[HURT]);
        members.begin(HURT);
        let sentence = members.ends_by_itself(HURT);
        println!("  {sentence}");
        assert!(sentence.contains("`firn-coordinator resync`"), "{damage:?}: {sentence}");
        goes_on(&mut members);
        let before = ledger(&directories[0]).unwrap().len();
        let said = members.resync(HURT);
        assert!(said.contains("start this coordinator"), "{said}");
        members.begin(HURT);
        wait_for("it has its vote again", || is_whole(&members).then_some(()));
        let all = wait_for("it has what the others have", || {
            ledger(&directories[HURT]).filter(|all| all.len() >= before)
        });
        // Taking it out and in again was entered, and stays so.
        let others = all.into_iter().skip(founding).filter(is_of_others);
        let known = administered.len();
        administered.extend(others);
        assert!(administered.len() > known, "{damage:?}: who it was that was readmitted is in the ledger");
        // Of the other two one is enough now.
        let other = if members.leader() == Some(0) { 0 } else { 2 };
        members.kill(other);
        goes_on(&mut members);
        members.begin(other);
        wait_for("it runs again", || ledger(&directories[other]));
        goes_on(&mut members);
    }
    let history = clients.stop();
    let last = run::same_ledgers(&directories);
    members.end();
    // A replica that is rebuilt may show less than it had shown before it was damaged.
    let mut judged = history;
    judged.reads.retain(|read| read.replica != HURT);
    // It may have asked for its vote once more than it had to.
    administered.extend(last[0].iter().skip(founding).filter(|key| is_of_others(key)));
    judged.administered = administered;
    assert_eq!(check(&judged, &last, founding), []);
}

#[test]
fn a_write_that_a_crash_has_cut_off_hurts_nobody() {
    let place = tempfile::tempdir().unwrap();
    let Some((mut network, mut disks, clocks)) = equipment_or_skip(place.path()) else { return };
    let founded = Founded::new(place.path(), &network, &clocks, 3);
    let mut members = Members::start(&founded, &mut network, &mut disks, "torn");
    let directories: Vec<_> = (0..members.count()).map(|number| members.directory(number)).collect();
    let founding =
        wait_for("the coordinators run", || ledger(&directories[0]).filter(|all| !all.is_empty())).len();
    let clients = Clients::start(directories.clone());
    for part in [3, 7, 60] {
        let before = clients.acknowledged();
        wait_for("acts are acknowledged", || (clients.acknowledged() > before + 50).then_some(()));
        keeps_up(&directories);
        members.kill(HURT);
        for store in ["log", "state"] {
            let journal = files(&directories[HURT].join(store), "log").pop().unwrap();
            let mut bytes = fs::read(&journal).unwrap();
            bytes.truncate(written(&journal) + 1);
            // Checksum, length, kind and the beginning of a record of 1,000 bytes.
            let record: Vec<u8> = [1, 2, 3, 4, 0xe8, 3, 1].into_iter().chain([7; 100]).collect();
            bytes.extend_from_slice(&record[..part]);
            fs::write(&journal, bytes).unwrap();
        }
        members.begin(HURT);
        wait_for("it follows", || ledger(&directories[HURT]));
        members.assert_alive();
    }
    let history = clients.stop();
    let last = run::same_ledgers(&directories);
    members.end();
    assert_eq!(check(&history, &last, founding), []);
}

#[test]
fn a_coordinator_whose_disk_is_full_stops_and_goes_on_once_there_is_room() {
    let place = tempfile::tempdir().unwrap();
    let Some((mut network, mut disks, clocks)) = equipment_or_skip(place.path()) else { return };
    let founded = Founded::new(place.path(), &network, &clocks, 3);
    let mut members = Members::start(&founded, &mut network, &mut disks, "full");
    let directories: Vec<_> = (0..members.count()).map(|number| members.directory(number)).collect();
    let founding =
        wait_for("the coordinators run", || ledger(&directories[0]).filter(|all| !all.is_empty())).len();
    let clients = Clients::start(directories.clone());
    let ballast = directories[HURT].with_file_name("ballast");
    fill(&ballast);
    let sentence = members.ends_by_itself(HURT);
    println!("  {sentence}");
    assert!(sentence.contains("is full: free some space, then start it again"), "{sentence}");
    let before = clients.acknowledged();
    wait_for("the others go on", || (clients.acknowledged() > before + 100).then_some(()));
    // Nothing is better yet, and nothing gets worse.
    members.begin(HURT);
    let sentence = members.ends_by_itself(HURT);
    assert!(sentence.contains("full"), "{sentence}");
    fs::remove_file(&ballast).unwrap();
    members.begin(HURT);
    let history = clients.stop();
    let last = run::same_ledgers(&directories);
    members.end();
    assert_eq!(check(&history, &last, founding), []);
}

/// Takes all the room there is.
fn fill(file: &Path) {
    let mut file = fs::File::create(file).unwrap();
    let mut piece = vec![1; 1 << 20];
    while !piece.is_empty() {
        if std::io::Write::write_all(&mut file, &piece).is_err() {
            piece.truncate(piece.len() / 2);
        }
    }
    drop(file.sync_all());
}
