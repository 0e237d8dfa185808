//! Starting where no coordinator is reached, from what an earlier life saved.

use std::net::{Ipv4Addr, UdpSocket};

use firn_base::{NodeId, ObjectKey, Timestamp};
use firn_transport::{ConnectionPool, Endpoint, EndpointOptions};
use firn_wire::{CoordinatorEntry, FeedEvent, Identity, Roster, Signed, VerifiedRoster};

use super::*;
use crate::coordinators::Governance;
use crate::feed_tail::{FeedTail, Latest};
use crate::key_view::Presence;

/// Coordinators that take everything and answer nothing, as where packets are dropped; gone when dropped.
struct Silent {
    roster: VerifiedRoster,
    _sockets: Vec<UdpSocket>,
}

impl Silent {
    fn new() -> Self {
        let (key, archive) =
            (Identity::from_seed(&[100; 32]), Identity::from_seed(&[100; 32]).public().into());
        let sockets: Vec<_> = (0..3).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        let coordinators = (1..).zip(&sockets).map(|(number, socket)| CoordinatorEntry {
            id: NodeId::from(Identity::from_seed(&[number; 32]).public()),
            raft_id: number.into(),
            address: socket.local_addr().unwrap().to_string(),
        });
        let roster = Roster {
            archive,
            generation: 1,
            issued: Timestamp::from_millis(0),
            coordinators: coordinators.collect(),
            retired: Vec::new(),
        };
        let roster = VerifiedRoster::open(&Signed::seal(&key, archive, &roster), archive).unwrap();
        Self { roster, _sockets: sockets }
    }

    async fn parts(&self) -> ArchiveParts {
        let environment = Environment::real();
        let (identity, address) = (Identity::from_seed(&[50; 32]), (Ipv4Addr::LOCALHOST, 0).into());
        let endpoint = Endpoint::bind(&environment, &identity, address, EndpointOptions::default()).await;
        let pool = ConnectionPool::new(endpoint.unwrap());
        ArchiveParts { environment, coordinators: CoordinatorClient::new(pool, self.roster.clone()) }
    }
}

fn key(number: u8) -> ObjectKey {
    ObjectKey::store_path([number; 20])
}

/// What a life that began at position 10, and was told of one key since, has left in `directory`.
fn leave_behind(directory: &std::path::Path, archive: ArchiveId) {
    let mut tail = FeedTail::at(10);
    tail.apply(10, &[FeedEvent::Visible(key(1))]).unwrap();
    ViewFile::in_directory(directory, archive).unwrap().save(&KeyView::from(tail)).unwrap();
    GovernanceFile::in_directory(directory, archive).save(&Governance::default()).unwrap();
}

/// What is cached is served again so soon after a start, with every coordinator away.
const SERVES_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn where_no_coordinator_is_reached_a_start_waits_for_one_turn_whoever_it_answers() {
    let silent = Silent::new();
    for when_unreadable in [WhenUnreadable::Retry, WhenUnreadable::Miss] {
        let place = tempfile::tempdir().unwrap();
        leave_behind(place.path(), silent.roster.archive());
        let options = GatewayOptions {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            when_unreadable: Some(when_unreadable),
            cache_dir: Some(place.path().to_owned()),
            ..GatewayOptions::default()
        };
        // The clock stands still but where everybody waits for it.
        let began = Instant::now();
        let gateway = Gateway::start(silent.parts().await, options).await.unwrap();
        assert!(began.elapsed() < SERVES_WITHIN, "{when_unreadable:?}: {:?}", began.elapsed());
        let core = gateway.core();
        assert!(core.is_usable() && core.knows_ranks());
        // Nor does the first question wait once more.
        let asked = Instant::now();
        assert!(core.narinfo([1; 20], crate::NarCompression::None).await.is_err());
        assert!(asked.elapsed() < LOOK_EVERY, "{:?}", asked.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn who_answers_with_retries_and_knows_nothing_keeps_its_port_shut_while_nobody_is_there() {
    let (silent, place) = (Silent::new(), tempfile::tempdir().unwrap());
    // The ranks alone decide nothing about absence.
    GovernanceFile::in_directory(place.path(), silent.roster.archive()).save(&Governance::default()).unwrap();
    for (filter, cache_dir) in
        [(FilterChoice::Full, None), (FilterChoice::None, None), (FilterChoice::Full, Some(place.path()))]
    {
        let port = BoundPort::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = port.address();
        let options = GatewayOptions {
            when_unreadable: Some(WhenUnreadable::Retry),
            filter: filter.clone(),
            cache_dir: cache_dir.map(ToOwned::to_owned),
            ..GatewayOptions::default()
        };
        let mut starting = Box::pin(Gateway::start_at(port, silent.parts().await, options));
        assert!(timeout(FOR_LONG, starting.as_mut()).await.is_err(), "{filter:?}, {cache_dir:?}: it is open");
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{filter:?}, {cache_dir:?}");
    }
}

/// Many times what any wait of a start takes; nobody waits for it, since the clock stands still but for that.
const FOR_LONG: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn without_filters_what_was_told_before_a_restart_is_known_after_it_and_nothing_is_called_absent() {
    let (silent, place) = (Silent::new(), tempfile::tempdir().unwrap());
    leave_behind(place.path(), silent.roster.archive());
    let options = GatewayOptions {
        filter: FilterChoice::None,
        cache_dir: Some(place.path().to_owned()),
        ..GatewayOptions::default()
    };
    let open = Gateway::open(silent.parts().await, &options).await.unwrap();
    let core = open.core();
    assert!(core.is_usable() && core.knows_ranks());
    assert_eq!(core.keys.presence(&key(1)), Some(Presence::Visible { as_of: 11 }));
    assert_eq!(core.keys.presence(&key(2)), Some(Presence::Unsettled { as_of: 10 }));
    open.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_life_without_filters_leaves_what_one_with_filters_saved_as_it_is() {
    let (silent, place) = (Silent::new(), tempfile::tempdir().unwrap());
    leave_behind(place.path(), silent.roster.archive());
    let saved = || std::fs::read(place.path().join("gateway.view")).unwrap();
    let before = saved();
    let options = GatewayOptions {
        filter: FilterChoice::None,
        cache_dir: Some(place.path().to_owned()),
        ..GatewayOptions::default()
    };
    let open = Gateway::open(silent.parts().await, &options).await.unwrap();
    // The follower begins, and sees what is new from now on.
    tokio::task::yield_now().await;
    open.core().keys.apply(11, &[FeedEvent::Visible(key(3))]).unwrap();
    open.close().await;
    assert!(saved() == before, "it was written anew");
    // What it learned is not lost either.
    let open = Gateway::open(silent.parts().await, &options).await.unwrap();
    assert_eq!(open.core().keys.presence(&key(3)), Some(Presence::Visible { as_of: 12 }));
    open.close().await;
}

/// Lives of one gateway that followed the feed so far, with filters and without.
struct Lives {
    silent: Silent,
    place: tempfile::TempDir,
}

impl Lives {
    fn new() -> Self {
        let (silent, place) = (Silent::new(), tempfile::tempdir().unwrap());
        GovernanceFile::in_directory(place.path(), silent.roster.archive())
            .save(&Governance::default())
            .unwrap();
        Self { silent, place }
    }

    /// A life that began at `first` and ended at `position` was told this of keys.
    fn lived(&self, filter: &FilterChoice, (first, position): (u64, u64), told: &[(u8, u64, bool)]) {
        let told = told.iter().map(|(number, at, visible)| (key(*number), Latest::new(*at, *visible)));
        let tail = FeedTail::from_parts(first, position, told.collect()).unwrap();
        let file = ViewFile::in_directory(self.place.path(), self.silent.roster.archive()).unwrap();
        let file = if *filter == FilterChoice::None { file.without_filters() } else { file };
        file.save(&KeyView::from(tail)).unwrap();
    }

    /// What the next life knows of these keys while nobody is there.
    async fn next<const N: usize>(&self, filter: &FilterChoice, numbers: [u8; N]) -> [Option<Presence>; N] {
        let options = GatewayOptions {
            filter: filter.clone(),
            cache_dir: Some(self.place.path().to_owned()),
            ..GatewayOptions::default()
        };
        let open = Gateway::open(self.silent.parts().await, &options).await.unwrap();
        let known = numbers.map(|number| open.core().keys.presence(&key(number)));
        open.close().await;
        known
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_life_knew_to_be_withdrawn_no_later_one_serves_whichever_of_them_kept_filters() {
    for (earlier, later) in
        [(FilterChoice::None, FilterChoice::Full), (FilterChoice::Full, FilterChoice::None)]
    {
        let lives = Lives::new();
        lives.lived(&earlier, (0, 5000), &[(1, 4000, true), (2, 4001, true)]);
        lives.lived(&later, (4500, 9000), &[(1, 8000, false)]);
        let known = lives.next(&earlier, [1]).await;
        assert_eq!(known, [Some(Presence::Absent)], "it was withdrawn at 8000");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_life_without_filters_was_told_is_not_called_absent_by_one_with_filters() {
    let lives = Lives::new();
    lives.lived(&FilterChoice::Full, (0, 1000), &[(1, 500, true)]);
    lives.lived(&FilterChoice::None, (900, 9000), &[(2, 8000, true)]);
    let visible = |at: u64| Some(Presence::Visible { as_of: at + 1 });
    // The one goes on where the other ended.
    assert_eq!(
        lives.next(&FilterChoice::Full, [1, 2, 3]).await,
        [visible(500), visible(8000), Some(Presence::Absent)]
    );
    let lives = Lives::new();
    lives.lived(&FilterChoice::Full, (0, 1000), &[(1, 500, true)]);
    lives.lived(&FilterChoice::None, (7000, 9000), &[(2, 8000, true)]);
    let unsettled = Some(Presence::Unsettled { as_of: 7000 });
    assert_eq!(
        lives.next(&FilterChoice::Full, [1, 2, 3]).await,
        [unsettled, visible(8000), unsettled],
        "what was told between 1000 and 7000 nobody knows"
    );
}
