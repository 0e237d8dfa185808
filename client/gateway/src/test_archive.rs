//! An archive of three coordinators in memory, as a gateway's tasks ask it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use firn_base::{BundleId, BundleNumber, FilterId, Location, NodeId, ObjectKey, Timestamp};
use firn_transport::FeedNews;
use firn_wire::{
    CoordinatorEntry, FeedBatch, FeedEvent, FilterEntry, FilterList, Identity, IndexRangePage,
    IndexRangeRequest, IndexedKey, Roster, Signed, VerifiedRoster,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use crate::coordinators::{
    BundleStanding, CoordinatorsAway, FeedError, FeedSource, FilterSource, KeyIndex, RecordPlace,
};

/// What one coordinator shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    pub(crate) filters: Vec<FilterEntry>,
    /// Another feed than the archive's, if it lies.
    pub(crate) keys: Option<Vec<ObjectKey>>,
    /// How much of the feed it has heard; all of it, if nothing is said.
    pub(crate) position: Option<u64>,
    pub(crate) away: bool,
}

/// Everything that can be asked.
#[derive(Debug)]
pub(crate) struct TestArchive {
    identities: Vec<Identity>,
    roster: VerifiedRoster,
    pub(crate) coordinators: Mutex<[Shown; 3]>,
    pub(crate) events: Mutex<Vec<FeedEvent>>,
    pub(crate) filters: Mutex<BTreeMap<FilterId, Bytes>>,
    /// Coordinators that give other bytes than those of a filter.
    pub(crate) spoilers: Mutex<Vec<usize>>,
    /// Events in a batch of the feed.
    pub(crate) page: usize,
    /// Ranges that were asked for.
    pub(crate) asked: Mutex<Vec<IndexRangeRequest>>,
    /// Pieces of filters that were asked for.
    pub(crate) pieces: Mutex<Vec<u64>>,
    /// How long pulls of the feed were to wait.
    pub(crate) pulls: Mutex<Vec<Duration>>,
    /// How many events whoever is there has, and since when it hears no majority, if it hears none.
    cut_off: Mutex<Option<(usize, Instant)>>,
}

impl TestArchive {
    pub(crate) fn new(page: usize) -> Self {
        let key = Identity::from_seed(&[100; 32]);
        let archive = firn_base::ArchiveId::from(key.public());
        let identities: Vec<_> = (1..4).map(|seed| Identity::from_seed(&[seed; 32])).collect();
        let coordinators = identities.iter().zip(1..).map(|(identity, raft_id)| CoordinatorEntry {
            id: NodeId::from(identity.public()),
            raft_id,
            address: "192.0.2.1:4433".to_owned(),
        });
        let roster = Roster {
            archive,
            generation: 1,
            issued: Timestamp::from_millis(0),
            coordinators: coordinators.collect(),
            retired: Vec::new(),
        };
        let roster = VerifiedRoster::open(&Signed::seal(&key, archive, &roster), archive).unwrap();
        Self {
            identities,
            roster,
            coordinators: Mutex::default(),
            events: Mutex::default(),
            filters: Mutex::default(),
            spoilers: Mutex::default(),
            page,
            asked: Mutex::default(),
            pieces: Mutex::default(),
            pulls: Mutex::default(),
            cut_off: Mutex::default(),
        }
    }

    pub(crate) fn show(&self, number: u8) {
        self.events.lock().unwrap().push(FeedEvent::Visible(ObjectKey::store_path([number; 20])));
    }

    /// Every coordinator lists these filters, and gives their bytes.
    pub(crate) fn list(&self, filters: &[(FilterEntry, Bytes)]) {
        for coordinator in self.coordinators.lock().unwrap().iter_mut() {
            coordinator.filters = filters.iter().map(|(entry, _)| *entry).collect();
        }
        self.filters.lock().unwrap().extend(filters.iter().map(|(entry, bytes)| (entry.id, bytes.clone())));
    }

    pub(crate) fn all_away(&self, away: bool) {
        self.coordinators.lock().unwrap().iter_mut().for_each(|coordinator| coordinator.away = away);
    }

    /// From now on whoever is there hears of nothing new, or does again.
    pub(crate) fn cut_off(&self, cut_off: bool) {
        let events = self.events.lock().unwrap().len();
        *self.cut_off.lock().unwrap() = cut_off.then(|| (events, Instant::now()));
    }

    pub(crate) fn head(&self) -> u64 {
        self.events.lock().unwrap().len() as u64
    }

    fn shown(&self, coordinator: usize) -> Result<Shown, CoordinatorsAway> {
        let shown = self.coordinators.lock().unwrap()[coordinator].clone();
        if shown.away { Err(CoordinatorsAway { cause: "it is away".to_owned() }) } else { Ok(shown) }
    }

    fn anybody(&self) -> Result<Shown, CoordinatorsAway> {
        (0..3)
            .find_map(|one| self.shown(one).ok())
            .ok_or_else(|| CoordinatorsAway { cause: "all are away".to_owned() })
    }

    fn visible(&self, until: u64) -> Vec<ObjectKey> {
        let mut keys = BTreeMap::new();
        for event in self.events.lock().unwrap().iter().take(usize::try_from(until).unwrap()) {
            match event {
                FeedEvent::Visible(key) => keys.insert(*key, ()),
                FeedEvent::Withdrawn(key) => keys.remove(key),
            };
        }
        keys.into_keys().collect()
    }
}

impl FeedSource for TestArchive {
    fn pull(&self, from: u64, wait: Duration) -> BoxFuture<'_, Result<FeedNews, FeedError>> {
        async move {
            self.pulls.lock().unwrap().push(wait);
            self.anybody()?;
            let deadline = Instant::now() + wait;
            loop {
                let (cut_off, mut events) =
                    (*self.cut_off.lock().unwrap(), self.events.lock().unwrap().clone());
                events.truncate(cut_off.map_or(usize::MAX, |(head, _)| head));
                let first = usize::try_from(from).unwrap();
                let stale = cut_off.map(|(_, since)| since.elapsed());
                if events.len() > first || stale.is_some() || Instant::now() >= deadline {
                    let head = events.len() as u64;
                    let events = events.into_iter().skip(first).take(self.page).collect();
                    return Ok(FeedNews { batch: FeedBatch { first: from, events, head }, stale });
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
        .boxed()
    }
}

impl FilterSource for TestArchive {
    fn roster(&self) -> VerifiedRoster {
        self.roster.clone()
    }

    fn lists(&self) -> BoxFuture<'_, Result<Vec<Signed<FilterList>>, CoordinatorsAway>> {
        async move {
            self.anybody()?;
            let lists = self.identities.iter().enumerate().filter_map(|(number, identity)| {
                let filters = self.shown(number).ok()?.filters;
                let covered = filters.last().map_or(0, |last| last.range.end);
                let list = FilterList { filters, head: self.head().max(covered) };
                Some(Signed::seal(identity, self.roster.archive(), &list))
            });
            Ok(lists.collect())
        }
        .boxed()
    }

    fn piece(
        &self,
        filter: FilterId,
        offset: u64,
        turn: usize,
    ) -> BoxFuture<'_, Result<Bytes, CoordinatorsAway>> {
        async move {
            self.shown(turn % 3)?;
            self.pieces.lock().unwrap().push(offset);
            let bytes = self.filters.lock().unwrap()[&filter].slice(usize::try_from(offset).unwrap()..);
            let piece = bytes.slice(..bytes.len().min(firn_wire::FILTER_PIECE_BYTES_MAX));
            if self.spoilers.lock().unwrap().contains(&(turn % 3)) {
                return Ok(piece.iter().map(|byte| byte ^ 1).collect());
            }
            Ok(piece)
        }
        .boxed()
    }
}

impl KeyIndex for TestArchive {
    fn coordinators(&self) -> Vec<NodeId> {
        self.roster.roster().coordinators.iter().map(|entry| entry.id).collect()
    }

    fn page(
        &self,
        coordinator: Option<NodeId>,
        request: IndexRangeRequest,
    ) -> BoxFuture<'_, Result<IndexRangePage, CoordinatorsAway>> {
        async move {
            let shown = match coordinator {
                None => self.anybody()?,
                Some(one) => self.shown(self.coordinators().iter().position(|id| *id == one).unwrap())?,
            };
            self.asked.lock().unwrap().push(request);
            let position = shown.position.unwrap_or_else(|| self.head());
            let keys = shown.keys.unwrap_or_else(|| self.visible(position));
            let keys = keys.into_iter().filter(|key| request.prefix.covers(key)).map(|key| IndexedKey {
                key,
                locations: vec![Location { bundle: BundleNumber(1), block: 0, entry: 0 }],
            });
            Ok(IndexRangePage { position, keys: keys.collect(), more: false })
        }
        .boxed()
    }

    fn standing(&self, _: BundleId) -> BoxFuture<'_, Result<BundleStanding, CoordinatorsAway>> {
        async { Err(CoordinatorsAway { cause: "there are no bundles".to_owned() }) }.boxed()
    }

    fn places(&self, _: Vec<Location>) -> BoxFuture<'_, Result<Vec<RecordPlace>, CoordinatorsAway>> {
        async { Err(CoordinatorsAway { cause: "there are no bundles".to_owned() }) }.boxed()
    }
}
