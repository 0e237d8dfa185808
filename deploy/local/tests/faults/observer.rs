//! Whoever follows the feeds of all coordinators, each for itself, and asks each for the presence of what any has shown.
//!
//! It has to be where the coordinators are heard, so it is a process of its own: this test program, started on their network
//! for the one test `observe`. Always holds: what a replica says is written down in the order in which it said it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use firn_base::{NodeId, ObjectKey};
use firn_transport::{ConnectionPool, CoordinatorClient, Endpoint, EndpointOptions, Environment};
use firn_wire::{CoordinatorReply, CoordinatorRequest, Descriptor, FeedEvent, Identity};
use tokio::time::sleep;

use crate::history::{Key, Read, Shown};
use crate::network::Host;

const DESCRIPTOR: &str = "FIRN_TEST_OBSERVE";
const NOTES: &str = "FIRN_TEST_OBSERVED";

const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(40);
/// So many are asked for at one look, and those behind them at the next one.
const PRESENCE_MAX: usize = 32;

/// The observer of the archive of `descriptor` as a command, which writes what it is told into `notes`.
pub(crate) fn command(host: &Host, home: &Path, descriptor: &Path, notes: &Path) -> Command {
    let this = std::env::current_exe().expect("a running program has a file");
    let mut command = host.command(&this, home);
    command.args(["--exact", "observer::observe", "--ignored"]).env(DESCRIPTOR, descriptor).env(NOTES, notes);
    command
}

/// What was written down so far.
pub(crate) fn read(notes: &Path) -> (Vec<Read>, Vec<Shown>) {
    let (mut reads, mut shown) = (Vec::new(), Vec::new());
    let notes = std::fs::read_to_string(notes).unwrap_or_default();
    // Behind the last line break it may be about to write.
    for line in notes.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, replica, rest @ ..] = &words[..] else { panic!("{line}") };
        let replica = replica.parse().unwrap();
        match *kind {
            "feed" => {
                let entries: Vec<Key> = rest[1..].iter().map(|name| key_named(name)).collect();
                shown.extend(entries.iter().map(|key| Shown { replica, key: *key, there: true }));
                reads.push(Read { replica, from: rest[0].parse().unwrap(), entries });
            }
            _ => shown.push(Shown { replica, key: key_named(rest[0]), there: *kind == "there" }),
        }
    }
    (reads, shown)
}

/// How the history calls what is archived under a key.
pub(crate) fn history_key(key: &ObjectKey) -> Key {
    let mut name = *blake3::hash(&key.to_bytes()).as_bytes();
    // Never what acts of others end with.
    name[31] = 0;
    name
}

fn key_named(name: &str) -> Key {
    *blake3::Hash::from_hex(name).expect("it was written as such").as_bytes()
}

fn name(key: &ObjectKey) -> String {
    blake3::Hash::from_bytes(history_key(key)).to_hex().to_string()
}

/// What all followers share.
struct Notes {
    file: RefCell<File>,
    shown: RefCell<BTreeSet<ObjectKey>>,
}

impl Notes {
    fn line(&self, line: &str) {
        self.file.borrow_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// At most [`PRESENCE_MAX`] of `keys`: those behind `last`, then from the least one on.
fn go_round(keys: &BTreeSet<ObjectKey>, last: Option<ObjectKey>) -> Vec<ObjectKey> {
    let behind = keys.iter().filter(|key| Some(**key) > last);
    let before = keys.iter().filter(|key| Some(**key) <= last);
    behind.chain(before).copied().take(PRESENCE_MAX).collect()
}

#[test]
fn every_path_that_was_shown_is_asked_for_again_and_again() {
    let key = |number: u8| ObjectKey::store_path([number; 20]);
    let keys: BTreeSet<ObjectKey> = (0..100).map(key).collect();
    let (mut last, mut asked) = (None, Vec::new());
    for _ in 0..25 {
        let some = go_round(&keys, last);
        assert_eq!(some.len(), PRESENCE_MAX);
        last = some.last().copied();
        asked.extend(some);
    }
    let expected: Vec<ObjectKey> = (0..8).flat_map(|_| 0..100).map(key).collect();
    assert_eq!(asked, expected);
    // Few are asked for once at each look.
    let few: BTreeSet<ObjectKey> = (0..3).map(key).collect();
    assert_eq!(go_round(&few, Some(key(1))), [key(2), key(0), key(1)]);
    assert!(go_round(&BTreeSet::new(), Some(key(1))).is_empty());
}

#[test]
#[ignore = "a process that another test starts"]
fn observe() {
    let (Ok(descriptor), Some(notes)) = (std::env::var(DESCRIPTOR), std::env::var_os(NOTES)) else { return };
    let descriptor: Descriptor = std::fs::read_to_string(descriptor).unwrap().parse().unwrap();
    let roster = descriptor.verify().unwrap();
    let notes = Notes { file: RefCell::new(File::create(notes).unwrap()), shown: RefCell::default() };
    let notes = Rc::new(notes);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let followers = tokio::task::LocalSet::new();
    followers.block_on(&runtime, async {
        let identity = Identity::from_seed(&[78; 32]);
        let (anywhere, options) = ((Ipv4Addr::UNSPECIFIED, 0).into(), EndpointOptions::default());
        let endpoint = Endpoint::bind(&Environment::real(), &identity, anywhere, options).await.unwrap();
        let client = CoordinatorClient::new(ConnectionPool::new(endpoint), roster.clone());
        let coordinators = roster.roster().coordinators.iter().enumerate();
        let followers = coordinators.map(|(replica, entry)| {
            tokio::task::spawn_local(follow(client.clone(), replica, entry.id, Rc::clone(&notes)))
        });
        for follower in followers.collect::<Vec<_>>() {
            follower.await.unwrap();
        }
    });
}

/// Follows one coordinator for as long as the process lives.
async fn follow(client: CoordinatorClient, replica: usize, id: NodeId, notes: Rc<Notes>) {
    let mut seen: u64 = 0;
    let mut last = None;
    loop {
        // With the last one that was there: a replica that went back would not have it.
        let from = seen.saturating_sub(1);
        let request = CoordinatorRequest::News { from, wait_millis: 0 };
        match client.ask_coordinator(id, &request, PATIENCE).await {
            Ok(CoordinatorReply::News { batch, .. }) => {
                let events = batch.peek().unwrap().events;
                let mut line = format!("feed {replica} {from}");
                for event in &events {
                    let FeedEvent::Visible(key) = event else { panic!("nobody withdraws anything") };
                    line += &format!(" {}", name(key));
                    notes.shown.borrow_mut().insert(*key);
                }
                notes.line(&line);
                seen = seen.max(from + u64::try_from(events.len()).unwrap());
            }
            // One that was killed looks alive for ten seconds.
            _ => client.pool().forget(id),
        }
        let keys = go_round(&notes.shown.borrow(), last);
        let asked = client.ask_coordinator(id, &CoordinatorRequest::Presence(keys.clone()), PATIENCE).await;
        if let Ok(CoordinatorReply::Presence(told)) = asked {
            last = keys.last().copied();
            for (key, there) in keys.iter().zip(told) {
                notes.line(&format!("{} {replica} {}", if there { "there" } else { "absent" }, name(key)));
            }
        }
        sleep(PAUSE).await;
    }
}
