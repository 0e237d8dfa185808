//! Settling by coordinators whether a key is served, without naming it.
//!
//! Owns: ranges of the index that were fetched lately. Always holds: of a key nothing leaves but its kind and the first 20
//! to 24 bits of its name; absence is believed when two coordinators say so, or all that answer (one cannot hide a path
//! that another one shows); an answer is as new as the asker wants it; waiting and memory are bounded. Leaves to others:
//! what is known without asking (`key_view`), records (`gateway_core`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use firn_base::{KeyPrefix, Location, NodeId, ObjectKey};
use firn_retrieval::SingleFlight;
use firn_wire::IndexRangeRequest;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::bounded_cache::BoundedCache;
use crate::coordinators::{CoordinatorsAway, KeyIndex};
use crate::filter_agreement::witnesses_needed;
use crate::reach::Reach;

/// Nix waits meanwhile; who does not answer within this is taken to be away.
const ASK_WAIT: Duration = Duration::from_secs(3);

// A further publisher's record of a known key shows in no feed: places that are older are asked for again.
const PLACES_FRESH: Duration = Duration::from_secs(300);

/// Ranges under way at once.
const ASKED_AT_ONCE: usize = 256;

// 65,536 keys that begin alike are somebody's doing: 24 bits have 18 of 300 million.
const PAGES_MAX: usize = 16;

// A replica that was asked may lag behind the one that told of the key.
const BEHIND_TRIES: u32 = 4;
const BEHIND_PAUSE: Duration = Duration::from_millis(150);

/// Keys of a range that a prefix is chosen for, at least: the more there are, the less is known of the one that is meant.
const RANGE_KEYS: u64 = 32;

// Key, list of places, links.
const KEY_WEIGHT_BYTES: usize = 96;

/// What came of asking for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It is not served.
    Absent,
    /// It lies here, in the order of the index, as of this position of the feed.
    Here { locations: Vec<Location>, position: u64 },
}

/// Why nothing came of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskRangeError {
    /// Nobody answers.
    #[error(transparent)]
    Away(#[from] CoordinatorsAway),
    /// None was asked, for none has answered lately.
    #[error("no coordinator has answered lately")]
    AwayLately,
    /// The coordinators that answer are not as far as the feed that was heard.
    #[error("the coordinators that answer lag behind the feed")]
    Behind,
    /// Too many keys begin like this one.
    #[error("too many keys begin like this one")]
    Crowded,
}

/// All visible keys that begin alike.
#[derive(Debug)]
struct KeyRange {
    /// What the feed told before is in it.
    position: u64,
    keys: BTreeMap<ObjectKey, Vec<Location>>,
    /// Whether as many coordinators as are needed showed it.
    witnessed: bool,
    at: Instant,
}

type Flight = Result<Arc<KeyRange>, AskRangeError>;

/// Ranges of the index, asked for when they are needed.
#[derive(Debug)]
pub(crate) struct KeyRanges {
    index: Arc<dyn KeyIndex>,
    /// None where nobody follows the feed: each question finds out for itself then.
    reach: Option<Arc<Reach>>,
    cache: BoundedCache<KeyPrefix, Arc<KeyRange>>,
    flights: SingleFlight<(KeyPrefix, bool), Flight>,
    permits: Semaphore,
    asked: AtomicU64,
    strangers: AtomicU64,
}

impl KeyRange {
    fn settles(&self, key: &ObjectKey, as_of: u64) -> Option<Settled> {
        if self.position < as_of {
            return None;
        }
        match self.keys.get(key) {
            Some(_) if self.at.elapsed() >= PLACES_FRESH => None,
            Some(locations) => Some(Settled::Here { locations: locations.clone(), position: self.position }),
            None => self.witnessed.then_some(Settled::Absent),
        }
    }

    /// What both show; as old as the elder.
    fn merge(mut self, other: Self) -> Self {
        self.position = self.position.min(other.position);
        for (key, locations) in other.keys {
            self.keys.entry(key).or_insert(locations);
        }
        self
    }

    fn weight(&self) -> usize {
        self.keys.values().map(|locations| KEY_WEIGHT_BYTES + size_of_val(&**locations)).sum()
    }
}

/// How many bits of a key's name to tell in an archive whose feed has `position` events.
fn prefix_bits(position: u64) -> u8 {
    let with_least_bits = position >> KeyPrefix::BITS_MIN;
    let more = (with_least_bits / RANGE_KEYS).checked_ilog2().and_then(|more| u8::try_from(more).ok());
    (KeyPrefix::BITS_MIN + more.unwrap_or(0)).min(KeyPrefix::BITS_MAX)
}

impl KeyRanges {
    /// Asks `index` while `reach` says that it is there, and remembers ranges of `cache_bytes` together.
    pub(crate) fn new(index: Arc<dyn KeyIndex>, reach: Option<Arc<Reach>>, cache_bytes: usize) -> Self {
        Self {
            index,
            reach,
            cache: BoundedCache::new(cache_bytes),
            flights: SingleFlight::default(),
            permits: Semaphore::new(ASKED_AT_ONCE),
            asked: AtomicU64::new(0),
            strangers: AtomicU64::new(0),
        }
    }

    /// Ranges that coordinators were asked for.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Keys that turned out not to be served.
    pub(crate) fn strangers(&self) -> u64 {
        self.strangers.load(Ordering::Relaxed)
    }

    /// Ranges with `key` are asked for anew: it does not lie where they say.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        for bits in KeyPrefix::BITS_MIN..=KeyPrefix::BITS_MAX {
            if let Ok(prefix) = KeyPrefix::of(key, bits) {
                self.cache.remove(&prefix);
            }
        }
    }

    /// Whether `key` is served, and where it lies, as of `as_of` or later.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        key: &ObjectKey,
        as_of: u64,
    ) -> Result<Settled, AskRangeError> {
        let prefix = KeyPrefix::of(key, prefix_bits(as_of)).expect("a number of bits that prefixes have");
        if let Some(settled) = self.cache.get(&prefix).and_then(|range| range.settles(key, as_of)) {
            return Ok(self.count(settled));
        }
        if self.reach.as_ref().is_some_and(|reach| !reach.is_there()) {
            return Err(AskRangeError::AwayLately);
        }
        let asked = timeout(ASK_WAIT, self.ask(prefix, key, as_of)).await;
        let asked = asked.unwrap_or_else(|_| {
            let cause = "none answered in time".to_owned();
            Err(CoordinatorsAway { cause }.into())
        });
        if let Some(reach) = &self.reach {
            match &asked {
                Err(AskRangeError::Away(_)) => reach.doubt(),
                _ => reach.answered(),
            }
        }
        asked.map(|settled| self.count(settled))
    }

    fn count(&self, settled: Settled) -> Settled {
        if settled == Settled::Absent {
            self.strangers.fetch_add(1, Ordering::Relaxed);
        }
        settled
    }

    async fn ask(
        self: &Arc<Self>,
        prefix: KeyPrefix,
        key: &ObjectKey,
        as_of: u64,
    ) -> Result<Settled, AskRangeError> {
        for _ in 0..BEHIND_TRIES {
            for of_all in [false, true] {
                let range = self.fetch(prefix, of_all, as_of).await?;
                if let Some(settled) = range.settles(key, as_of) {
                    return Ok(settled);
                }
            }
            sleep(BEHIND_PAUSE).await;
        }
        Err(AskRangeError::Behind)
    }

    /// A range, from whoever answers first or from as many as are needed to believe in absence.
    async fn fetch(self: &Arc<Self>, prefix: KeyPrefix, of_all: bool, as_of: u64) -> Flight {
        let this = Arc::clone(self);
        let ask = move || {
            async move {
                let _permit =
                    this.permits.acquire().await.map_err(|error| CoordinatorsAway::because(&error))?;
                let mut range = match of_all {
                    true => this.of_all(prefix, as_of).await?,
                    false => this.of(None, prefix).await?,
                };
                range.witnessed = of_all || witnesses_needed(this.index.coordinators().len()) < 2;
                let range = Arc::new(range);
                this.cache.insert(prefix, Arc::clone(&range), range.weight());
                Ok(range)
            }
            .boxed()
        };
        self.flights.run((prefix, of_all), ask).await
    }

    /// What two coordinators show together, or all that answer.
    async fn of_all(&self, prefix: KeyPrefix, as_of: u64) -> Result<KeyRange, AskRangeError> {
        let coordinators = self.index.coordinators();
        let needed = witnesses_needed(coordinators.len());
        let mut asked: FuturesUnordered<_> =
            coordinators.into_iter().map(|one| self.of(Some(one), prefix)).collect();
        let (mut shown, mut witnesses, mut failure) = (None::<KeyRange>, 0, AskRangeError::Behind);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(range) if range.position >= as_of => {
                    witnesses += 1;
                    shown = Some(match shown {
                        Some(before) => before.merge(range),
                        None => range,
                    });
                }
                Ok(_) => {}
                Err(error) => failure = error,
            }
            if witnesses >= needed {
                break;
            }
        }
        shown.ok_or(failure)
    }

    async fn of(&self, coordinator: Option<NodeId>, prefix: KeyPrefix) -> Result<KeyRange, AskRangeError> {
        let mut range =
            KeyRange { position: u64::MAX, keys: BTreeMap::new(), witnessed: false, at: Instant::now() };
        let mut after = None;
        for _ in 0..PAGES_MAX {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let page = self.index.page(coordinator, IndexRangeRequest { prefix, after }).await?;
            range.position = range.position.min(page.position);
            after = page.keys.last().map(|entry| entry.key);
            range.keys.extend(page.keys.into_iter().map(|entry| (entry.key, entry.locations)));
            if !page.more {
                return Ok(range);
            }
        }
        Err(AskRangeError::Crowded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_archive::TestArchive;

    fn key(number: u8) -> ObjectKey {
        ObjectKey::store_path([number; 20])
    }

    fn ranges(archive: &Arc<TestArchive>) -> Arc<KeyRanges> {
        let index = Arc::clone(archive) as Arc<dyn KeyIndex>;
        Arc::new(KeyRanges::new(index, Some(Arc::default()), 1 << 20))
    }

    fn archive(keys: u8) -> Arc<TestArchive> {
        let archive = Arc::new(TestArchive::new(100));
        (0..keys).for_each(|number| archive.show(number));
        archive
    }

    fn asked(archive: &TestArchive) -> usize {
        std::mem::take(&mut *archive.asked.lock().unwrap()).len()
    }

    #[tokio::test]
    async fn a_range_settles_a_key_and_is_remembered() {
        let archive = archive(5);
        let ranges = ranges(&archive);
        let here = ranges.settle(&key(3), 5).await;
        assert!(matches!(here, Ok(Settled::Here { position: 5, .. })), "{here:?}");
        assert_eq!(asked(&archive), 1);
        assert_eq!(ranges.settle(&key(99), 5).await, Ok(Settled::Absent));
        assert_eq!(asked(&archive), 3, "one coordinator alone is not believed: two more are asked");
        assert_eq!(ranges.settle(&key(99), 5).await, Ok(Settled::Absent));
        assert!(matches!(ranges.settle(&key(3), 5).await, Ok(Settled::Here { .. })));
        assert_eq!((asked(&archive), ranges.strangers()), (0, 2));
    }

    #[tokio::test]
    async fn no_question_names_the_key() {
        let archive = archive(1);
        let ranges = ranges(&archive);
        for number in 100..110 {
            ranges.settle(&key(number), 1).await.unwrap();
        }
        for request in archive.asked.lock().unwrap().iter() {
            assert_eq!((request.prefix.bits(), request.after), (20, None));
        }
    }

    #[tokio::test]
    async fn one_coordinator_cannot_hide_a_path() {
        let archive = archive(5);
        archive.coordinators.lock().unwrap()[0].keys = Some(Vec::new());
        assert!(matches!(ranges(&archive).settle(&key(3), 5).await, Ok(Settled::Here { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_lags_is_passed_over() {
        let archive = archive(5);
        archive.coordinators.lock().unwrap()[0].position = Some(2);
        assert!(matches!(ranges(&archive).settle(&key(3), 4).await, Ok(Settled::Here { position: 5, .. })));
        for coordinator in archive.coordinators.lock().unwrap().iter_mut() {
            coordinator.position = Some(3);
        }
        let asking = ranges(&archive);
        assert_eq!(asking.settle(&key(3), 4).await, Err(AskRangeError::Behind));
    }

    #[tokio::test]
    async fn a_range_that_is_older_than_the_filters_is_asked_for_anew() {
        let archive = archive(5);
        let ranges = ranges(&archive);
        assert_eq!(ranges.settle(&key(99), 5).await, Ok(Settled::Absent));
        archive.show(99);
        assert!(matches!(ranges.settle(&key(99), 6).await, Ok(Settled::Here { position: 6, .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn while_coordinators_are_away_no_question_waits_for_them_again() {
        let archive = archive(5);
        archive.all_away(true);
        let ranges = ranges(&archive);
        assert!(matches!(ranges.settle(&key(1), 5).await, Err(AskRangeError::Away(_))));
        archive.all_away(false);
        let asked = ranges.asked();
        for _ in 0..20 {
            assert_eq!(ranges.settle(&key(2), 5).await, Err(AskRangeError::AwayLately));
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        assert_eq!(ranges.asked(), asked, "the feed's follower tries, and nobody else");
        ranges.reach.as_ref().unwrap().answered();
        assert!(ranges.settle(&key(2), 5).await.is_ok());
        assert!(ranges.settle(&key(1), 5).await.is_ok());
    }

    #[test]
    fn the_more_keys_there_are_the_more_bits_are_told() {
        assert_eq!(prefix_bits(0), 20);
        assert_eq!(prefix_bits(1 << 25), 20);
        assert_eq!(prefix_bits(1 << 26), 21);
        assert_eq!(prefix_bits(300_000_000), 23);
        assert_eq!(prefix_bits(u64::MAX), 24);
    }
}
