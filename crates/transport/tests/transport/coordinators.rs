//! Asking an archive's coordinators: who is passed over, who is believed.

mod ledger;
mod news;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use firn_base::{
    ArchiveId, BundleNumber, Digest, FeedRange, FilterId, KeyPrefix, Location, ObjectKey, PublicKey,
    Timestamp,
};
use firn_transport::{
    AskError, Connection, ConnectionPool, CoordinatorClient, Endpoint, FeedNews, Handler, Stream, serve,
};
use firn_wire::{
    AdminRequest, COMMIT_BYTES_MAX, CommitRequest, CoordinatorEntry, CoordinatorReply, CoordinatorRequest,
    Descriptor, FILTER_PIECE_BYTES_MAX, FeedBatch, FeedEvent, FilterEntry, FilterList, Identity,
    IndexRangePage, IndexRangeRequest, IndexedKey, Pass, PassPurpose, RefusalKind, RefusedRequest, Roster,
    Signed, VerifiedRoster,
};
use tokio::time::{Instant, sleep, timeout};

use self::news::news;
use crate::world::{CountedWay, LOOPBACK, address, endpoint, identity};

const ARCHIVE_KEY: u8 = 100;
const READER: u8 = 50;

fn archive() -> ArchiveId {
    identity(ARCHIVE_KEY).public().into()
}

type Answer = Box<dyn Fn(&Connection, &CoordinatorRequest) -> Option<CoordinatorReply> + Send + Sync>;

/// A coordinator that answers as it is told; no answer breaks the stream off.
struct Fake {
    answer: Mutex<Answer>,
    hangs: AtomicBool,
    /// Whether it shows signs of life all the same.
    shows_signs: AtomicBool,
    /// Questions that came.
    received: AtomicUsize,
    /// How long each answer takes.
    takes: Mutex<Duration>,
    /// Questions that were answered.
    asked: AtomicUsize,
    /// Those who wait for an answer gave it up, so many times.
    given_up: Arc<AtomicUsize>,
}

impl Handler for Fake {
    async fn handle(&self, connection: &Connection, mut stream: Stream) {
        let Ok(request) = stream.receive::<CoordinatorRequest>(COMMIT_BYTES_MAX).await else { return };
        self.received.fetch_add(1, Ordering::SeqCst);
        let is_sign = matches!(request, CoordinatorRequest::GetMembers);
        if self.hangs.load(Ordering::Relaxed) && !(is_sign && self.shows_signs.load(Ordering::Relaxed)) {
            // Nothing is ever sent: what is awaited is that the other end lets go.
            let _ = stream.drained().await;
            self.given_up.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let takes = *self.takes.lock().unwrap();
        sleep(takes).await;
        let reply = (self.answer.lock().unwrap())(connection, &request);
        self.asked.fetch_add(1, Ordering::SeqCst);
        match reply {
            Some(reply) => {
                let _ = stream.send(&reply).await;
                stream.finish();
            }
            None => stream.abort(),
        }
    }
}

/// Coordinators 1, 2, … with their answers, and a client of them. It begins with the first.
struct Fleet {
    client: CoordinatorClient,
    fakes: Vec<Arc<Fake>>,
    endpoints: Vec<Endpoint>,
    reader: Identity,
}

fn roster(entries: Vec<CoordinatorEntry>, generation: u64) -> Descriptor {
    let issued = Timestamp::from_millis(generation);
    let roster = Roster { archive: archive(), generation, issued, coordinators: entries, retired: vec![] };
    Descriptor { archive: archive(), roster: Signed::seal(&identity(ARCHIVE_KEY), archive(), &roster) }
}

fn entry(number: u8, address: String) -> CoordinatorEntry {
    CoordinatorEntry { id: identity(number).node_id(), raft_id: u64::from(number), address }
}

async fn fleet(answers: Vec<Answer>) -> Fleet {
    let (mut entries, mut endpoints, mut fakes) = (Vec::new(), Vec::new(), Vec::new());
    for (number, answer) in (1..).zip(answers) {
        let (endpoint, fake) = (
            endpoint(number).await,
            Arc::new(Fake {
                answer: Mutex::new(answer),
                hangs: AtomicBool::new(false),
                shows_signs: AtomicBool::new(false),
                received: AtomicUsize::new(0),
                takes: Mutex::default(),
                asked: AtomicUsize::new(0),
                given_up: Arc::default(),
            }),
        );
        entries.push(entry(number, address(&endpoint)));
        let (serving, handler) = (endpoint.clone(), fake.clone());
        tokio::spawn(async move { serve(&serving, handler).await });
        endpoints.push(endpoint);
        fakes.push(fake);
    }
    // A reader whose key makes it begin with the first coordinator.
    let starts_first = |seed: &u8| usize::from(identity(*seed).public().as_bytes()[0]) % entries.len() == 0;
    let seed = (READER..200).find(starts_first).unwrap();
    let reader = crate::world::endpoint_at(seed, LOOPBACK, Default::default()).await;
    let verified = roster(entries, 1).verify().unwrap();
    let client = CoordinatorClient::new(ConnectionPool::new(reader), verified);
    Fleet { client, fakes, endpoints, reader: identity(seed) }
}

fn answers(reply: CoordinatorReply) -> Answer {
    Box::new(move |_, _| Some(reply.clone()))
}

fn refuses(kind: RefusalKind) -> Answer {
    answers(CoordinatorReply::Refused(RefusedRequest::new(kind, "not today")))
}

fn key(number: u8) -> ObjectKey {
    ObjectKey::store_path([number; 20])
}

#[tokio::test]
async fn a_coordinator_that_is_not_able_is_passed_over_and_a_refusal_is_told_at_once() {
    let fleet = fleet(vec![
        refuses(RefusalKind::Unavailable),
        refuses(RefusalKind::Disk),
        answers(CoordinatorReply::Nodes(Vec::new())),
    ])
    .await;
    assert!(fleet.client.nodes().await.unwrap().is_empty());
    *fleet.fakes[0].answer.lock().unwrap() = answers(CoordinatorReply::Nodes(Vec::new()));
    *fleet.fakes[2].answer.lock().unwrap() = refuses(RefusalKind::NotAllowed);
    // The one that answered last is asked first.
    let error = fleet.client.nodes().await.unwrap_err();
    assert!(matches!(&error, AskError::Refused(refusal) if refusal.kind == RefusalKind::NotAllowed));
    assert_eq!(error.to_string(), "not today");
}

#[tokio::test]
async fn an_election_is_waited_for() {
    let begun = Instant::now();
    let fleet = fleet(vec![Box::new(move |_, _| {
        Some(if begun.elapsed() < Duration::from_millis(900) {
            CoordinatorReply::Refused(RefusedRequest::new(RefusalKind::Unavailable, "no leader"))
        } else {
            CoordinatorReply::Nodes(Vec::new())
        })
    })])
    .await;
    assert!(fleet.client.nodes().await.unwrap().is_empty());
}

/// Answers each question with no nodes; counts the questions, and what `at_each` gives when one comes.
fn counting(at_each: impl Fn() -> usize + Send + Sync + 'static) -> (Answer, Arc<Mutex<Vec<usize>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let count = Arc::clone(&seen);
    let answer = move |_: &Connection, _: &CoordinatorRequest| {
        count.lock().unwrap().push(at_each());
        Some(CoordinatorReply::Nodes(Vec::new()))
    };
    (Box::new(answer), seen)
}

#[tokio::test]
async fn a_coordinator_that_is_gone_is_dialled_once_for_all_readers() {
    const READERS: usize = 8;
    let (answer, asked) = counting(|| 0);
    let fleet = fleet(vec![answer]).await;
    let silent = CountedWay::nowhere().await;
    let entries = vec![entry(2, silent.address.clone()), entry(1, address(&fleet.endpoints[0]))];
    // It begins with the first of two.
    let seed = (READER..200).find(|seed| identity(*seed).public().as_bytes()[0].is_multiple_of(2)).unwrap();
    let reader = crate::world::endpoint_at(seed, LOOPBACK, Default::default()).await;
    let (pool, roster) = (ConnectionPool::new(reader), roster(entries, 1).verify().unwrap());
    let readers = (0..READERS).map(|_| async {
        // Each begins with the one that is gone: what another found out is not known to it.
        CoordinatorClient::new(pool.clone(), roster.clone()).nodes().await.unwrap();
        tokio::select! {
            biased;
            _ = pool.get(identity(2).node_id(), &silent.address) => panic!("it was waited for"),
            () = std::future::ready(()) => {}
        }
    });
    futures::future::join_all(readers).await;
    assert_eq!(asked.lock().unwrap().len(), READERS, "the one that is there is asked once for each");
    assert_eq!(silent.dials(), 1);
}

#[tokio::test]
async fn a_coordinator_that_says_nothing_is_not_waited_for_until_its_turn_is_over() {
    let fleet = fleet(vec![answers(CoordinatorReply::Nodes(Vec::new())), refuses(RefusalKind::Disk)]).await;
    let given_up = Arc::clone(&fleet.fakes[0].given_up);
    let (answer, asked) = counting(move || given_up.load(Ordering::SeqCst));
    // Both are connected.
    fleet.client.nodes().await.unwrap();
    *fleet.fakes[0].answer.lock().unwrap() = refuses(RefusalKind::Disk);
    *fleet.fakes[1].answer.lock().unwrap() = answers(CoordinatorReply::Nodes(Vec::new()));
    fleet.client.nodes().await.unwrap();
    *fleet.fakes[0].answer.lock().unwrap() = answers(CoordinatorReply::Nodes(Vec::new()));
    *fleet.fakes[1].answer.lock().unwrap() = refuses(RefusalKind::Disk);
    fleet.client.nodes().await.unwrap();
    fleet.fakes[0].hangs.store(true, Ordering::SeqCst);
    *fleet.fakes[1].answer.lock().unwrap() = answer;
    fleet.client.nodes().await.unwrap();
    assert_eq!(*asked.lock().unwrap(), [0], "it is asked while the first one is still waited for");
}

#[tokio::test]
async fn whoever_cannot_be_asked_is_named_with_the_reason() {
    let fleet = fleet(vec![answers(CoordinatorReply::ReceiptsTaken)]).await;
    let coordinator = identity(1).node_id();
    let soon = Duration::from_secs(2);
    let asked = fleet.client.ask_coordinator(coordinator, &CoordinatorRequest::Nodes, soon).await;
    let text = asked.unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("no coordinator of archive {} answers: ", archive().short())),
        "{text}"
    );
    assert!(text.ends_with("is not believed: it answered another question"), "{text}");
    let stranger = identity(9).node_id();
    let asked = fleet.client.ask_coordinator(stranger, &CoordinatorRequest::Nodes, soon).await;
    assert!(matches!(asked, Err(AskError::NotACoordinator(_))));
}

#[tokio::test]
async fn signatures_of_strangers_and_passes_of_others_are_not_believed() {
    let seal = |signer: u8, batch: &FeedBatch| {
        let batch = Signed::seal(&identity(signer), archive(), batch);
        answers(CoordinatorReply::News { batch, stale_millis: None })
    };
    let batch = |first| FeedBatch { first, events: vec![FeedEvent::Visible(key(1))], head: 9 };
    let fleet = fleet(vec![seal(7, &batch(4)), seal(2, &batch(3)), seal(2, &batch(4))]).await;
    // The first is signed by a stranger, the second goes on elsewhere; a coordinator may serve another's word.
    let news = FeedNews { batch: batch(4), stale: None };
    assert_eq!(fleet.client.news(4, Duration::ZERO).await.unwrap(), news);

    let pass = |signer: u8, reader: PublicKey| {
        let pass = Pass { reader, expires: Timestamp::from_millis(5), purpose: PassPurpose::Reading };
        answers(CoordinatorReply::Pass(Signed::seal(&identity(signer), archive(), &pass)))
    };
    *fleet.fakes[0].answer.lock().unwrap() = pass(1, identity(8).public());
    *fleet.fakes[1].answer.lock().unwrap() = pass(1, fleet.reader.public());
    *fleet.fakes[2].answer.lock().unwrap() = pass(9, fleet.reader.public());
    let pass = fleet.client.pass().await.unwrap();
    assert_eq!((pass.signer(), pass.peek().unwrap().reader), (identity(1).public(), fleet.reader.public()));
}

#[tokio::test]
async fn filters_and_index_ranges_that_contradict_themselves_are_not_believed() {
    let list = |first: u64, signer: u8| {
        let filter = FilterEntry {
            range: FeedRange { first, end: 8 },
            id: FilterId::from_bytes([1; 32]),
            bytes: 200,
            keys: 5,
            feed_digest: Digest::from_bytes([2; 32]),
        };
        let list = FilterList { filters: vec![filter], head: 9 };
        answers(CoordinatorReply::Filters(Signed::seal(&identity(signer), archive(), &list)))
    };
    // One that leaves out the beginning of the feed, one of a stranger, a good one.
    let fleet = fleet(vec![list(1, 1), list(0, 7), list(0, 3)]).await;
    let CoordinatorReply::Filters(list) = fleet.client.ask(&CoordinatorRequest::ListFilters).await.unwrap()
    else {
        panic!("no filters")
    };
    assert_eq!(list.peek().unwrap().covered(), 8);

    let piece = |bytes: usize| answers(CoordinatorReply::FilterPiece(vec![0; bytes]));
    *fleet.fakes[2].answer.lock().unwrap() = piece(FILTER_PIECE_BYTES_MAX + 1);
    *fleet.fakes[0].answer.lock().unwrap() = piece(3);
    let request = CoordinatorRequest::FilterPiece { filter: FilterId::from_bytes([1; 32]), offset: 0 };
    let asked = fleet.client.ask(&request).await.unwrap();
    assert!(matches!(&asked, CoordinatorReply::FilterPiece(bytes) if bytes.len() == 3), "{asked:?}");

    let page = |names: &[u8]| {
        let place = Location { bundle: BundleNumber(1), block: 0, entry: 0 };
        let entry = |name: &u8| IndexedKey { key: key(*name), locations: vec![place] };
        let keys = names.iter().map(entry).collect();
        answers(CoordinatorReply::IndexRange(IndexRangePage { position: 9, keys, more: false }))
    };
    // The first names another key beside the one that was looked for.
    *fleet.fakes[0].answer.lock().unwrap() = page(&[5, 6]);
    *fleet.fakes[1].answer.lock().unwrap() = page(&[5]);
    let request = IndexRangeRequest { prefix: KeyPrefix::of(&key(5), 24).unwrap(), after: None };
    assert_eq!(fleet.client.index_range(request).await.unwrap().keys.len(), 1);
}

#[tokio::test]
async fn long_lists_are_split_and_answers_are_as_many_as_questions() {
    let fleet = fleet(vec![
        answers(CoordinatorReply::Presence(vec![true])),
        Box::new(|_, request| match request {
            CoordinatorRequest::Presence(keys) => Some(CoordinatorReply::Presence(vec![true; keys.len()])),
            _ => None,
        }),
    ])
    .await;
    let keys = vec![key(1); 25_000];
    assert_eq!(fleet.client.presence(&keys).await.unwrap(), vec![true; 25_000]);
    assert!(fleet.client.lookup(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_act_of_administration_is_not_done_twice() {
    let fleet = fleet(vec![Box::new(|_, _| None), answers(CoordinatorReply::Nodes(Vec::new()))]).await;
    let error = fleet.client.administer(AdminRequest::Members).await.unwrap_err();
    assert!(matches!(error, AskError::Uncertain { .. }), "{error}");
    // A commit is: the coordinators know what is done already.
    *fleet.fakes[1].answer.lock().unwrap() =
        answers(CoordinatorReply::Committed { bundles: vec![BundleNumber(3)], visible: 1, held: Vec::new() });
    let request = CommitRequest { bundles: Vec::new(), externals: Vec::new(), replaces: None };
    assert_eq!(fleet.client.commit(request).await.unwrap().bundles, [BundleNumber(3)]);
}

#[tokio::test]
async fn an_act_is_not_waited_for_when_its_coordinator_has_gone_and_the_next_goes_to_another() {
    let act = || AdminRequest::Nodes;
    let there = answers(CoordinatorReply::Admin(firn_wire::AdminReply::Nodes(Vec::new())));
    let fleet = fleet(vec![there, answers(CoordinatorReply::Admin(firn_wire::AdminReply::Done))]).await;
    assert!(matches!(fleet.client.administer(act()).await, Ok(firn_wire::AdminReply::Nodes(_))));
    // As after kill -9: nobody tells the client that the connection is dead.
    fleet.fakes[0].hangs.store(true, Ordering::Relaxed);
    let error = fleet.client.administer(act()).await.unwrap_err();
    assert!(
        matches!(&error, AskError::Uncertain { reason } if reason.contains("has stopped answering")),
        "{error}"
    );
    assert_eq!(fleet.client.administer(act()).await.unwrap(), firn_wire::AdminReply::Done);
}

#[tokio::test]
async fn what_is_waited_for_is_asked_of_another_one_when_its_coordinator_has_gone() {
    let committed = || CoordinatorReply::Committed { bundles: Vec::new(), visible: 0, held: Vec::new() };
    let commit = CommitRequest { bundles: Vec::new(), externals: Vec::new(), replaces: None };
    let wait = Duration::from_secs(20);
    // One that was killed answers nothing, and its connection looks alive.
    let waiting = fleet(vec![news(1, 9, None), news(2, 9, None)]).await;
    waiting.fakes[0].hangs.store(true, Ordering::SeqCst);
    let told = timeout(wait, waiting.client.news(9, wait)).await.expect("sooner than the wait is over");
    assert_eq!(told.unwrap().stale, None);
    let committing = fleet(vec![answers(committed()), answers(committed())]).await;
    committing.fakes[0].hangs.store(true, Ordering::SeqCst);
    timeout(wait, committing.client.commit(commit)).await.expect("sooner than a commit may take").unwrap();
}

#[tokio::test]
async fn whoever_waits_turns_away_with_another_question_that_somebody_else_has_answered() {
    let tells = |signer| -> Answer {
        let told = news(signer, 9, None);
        Box::new(move |connection, request| match request {
            CoordinatorRequest::News { .. } => told(connection, request),
            _ => Some(CoordinatorReply::Nodes(Vec::new())),
        })
    };
    let fleet = fleet(vec![tells(1), tells(2)]).await;
    let first = &fleet.fakes[0];
    fleet.client.nodes().await.unwrap();
    // It seems to be there, and nothing else can be had from it: for as long as it does it would be waited for.
    first.shows_signs.store(true, Ordering::SeqCst);
    first.hangs.store(true, Ordering::SeqCst);
    let (client, wait) = (fleet.client.clone(), Duration::from_secs(20));
    let waiting = tokio::spawn(async move { client.news(9, wait).await });
    while first.received.load(Ordering::SeqCst) < 2 {
        sleep(Duration::from_millis(5)).await;
    }
    fleet.client.nodes().await.unwrap();
    let told = timeout(wait, waiting).await.expect("sooner than the wait is over").unwrap().unwrap();
    assert_eq!(told.stale, None);
}

#[tokio::test]
async fn an_act_of_which_nobody_knows_whether_it_was_done_is_not_done_again() {
    let fleet =
        fleet(vec![refuses(RefusalKind::Uncertain), answers(CoordinatorReply::Nodes(Vec::new()))]).await;
    let error = fleet.client.administer(AdminRequest::Nodes).await.unwrap_err();
    assert!(matches!(&error, AskError::Uncertain { reason } if reason == "not today"), "{error}");
    // What may be done twice is.
    assert!(fleet.client.nodes().await.unwrap().is_empty());
}

#[tokio::test]
async fn only_a_newer_roster_of_the_same_archive_is_taken() {
    let fleet = fleet(vec![answers(CoordinatorReply::Descriptor(roster(Vec::new(), 0)))]).await;
    let entries = fleet.client.roster().roster().coordinators.clone();
    assert_eq!(fleet.client.refresh_roster().await.unwrap().roster().generation, 1);
    *fleet.fakes[0].answer.lock().unwrap() = answers(CoordinatorReply::Descriptor(roster(entries, 2)));
    assert_eq!(fleet.client.refresh_roster().await.unwrap().roster().generation, 2);
    let other = Roster {
        archive: identity(3).public().into(),
        generation: 9,
        issued: Timestamp::from_millis(1),
        coordinators: Vec::new(),
        retired: Vec::new(),
    };
    let other = Signed::seal(&identity(3), other.archive, &other);
    let other = VerifiedRoster::open(&other, identity(3).public().into()).unwrap();
    assert!(!fleet.client.adopt_roster(&other));
}
