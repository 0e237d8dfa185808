//! Keeping the filters that two coordinators agree on.
//!
//! Owns: when lists are asked for, and what is fetched. Always holds: a filter is asked only once it is here whole, is the
//! one that was listed, and claims no more than it may; the old ones are asked until all new ones are here, and their files
//! stay as long as the saved view may name them. Leaves to others: where bytes come from (`coordinators`), the feed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use firn_base::FilterId;
use firn_transport::Environment;
use firn_wire::{FILTER_PIECE_BYTES_MAX, FilterEntry, FilterList, Signed, VerifiedRoster};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::coordinators::{CoordinatorsAway, FilterSource};
use crate::filter_agreement::{AgreedFilters, agreed_filters, witnesses_needed};
use crate::filter_chain::{FilterChain, HeldFilter, UnfitFilter};
use crate::filter_files::FilterFiles;
use crate::shared_keys::SharedKeys;

/// Filters change once in days, or in a minute where an archive is loaded.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After something new came, or did not come, the next look is so soon, then twice as late each time: coordinators that
/// make many filters have them one after the other.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Pieces under way: enough for a line of 100 Mbit/s and a tenth of a second.
const PIECES_AT_ONCE: usize = 4;
/// A filter is tried from each source twice before the next look.
const TURNS: usize = 6;

/// Why filters are not as they should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Away(#[from] CoordinatorsAway),
    #[error("the disk: {0}")]
    Disk(#[from] io::Error),
    #[error("none of those that list the filter {0} gave its bytes")]
    NotGiven(FilterId),
}

/// What a keeper has met with.
#[derive(Debug, Default)]
pub(crate) struct KeeperCounts {
    pub(crate) refused: AtomicU64,
    pub(crate) fetched_bytes: AtomicU64,
}

/// The lists of the filters that are asked, as coordinators signed them: what mirrors hand on.
#[derive(Debug, Default)]
pub(crate) struct FilterLists {
    text: RwLock<Option<Bytes>>,
}

impl FilterLists {
    /// One line for each list, and what is in them for people; none before the filters are here.
    pub(crate) fn text(&self) -> Option<Bytes> {
        self.text.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, chain: &FilterChain, lists: &[Signed<FilterList>]) {
        let mut text =
            String::from("# Filters over the feed of a Firn archive, as its coordinators list them.\n");
        for entry in chain.entries() {
            text += &format!("# {} {}: {} keys, {} bytes\n", entry.range, entry.id, entry.keys, entry.bytes);
        }
        for list in lists {
            text += &list.to_text();
            text.push('\n');
        }
        *self.text.write().unwrap_or_else(PoisonError::into_inner) = Some(text.into());
    }
}

/// Keeps filters for one gateway.
#[derive(Debug)]
pub(crate) struct FilterKeeper {
    pub(crate) keys: Arc<SharedKeys>,
    pub(crate) source: Arc<dyn FilterSource>,
    pub(crate) files: FilterFiles,
    pub(crate) environment: Environment,
    pub(crate) counts: Arc<KeeperCounts>,
    pub(crate) lists: Arc<FilterLists>,
}

/// Filters that are not to be fetched again: others would give the same bytes.
type Refused = BTreeSet<FilterId>;

/// What those of `lists` that coordinators of `roster` signed agree on.
pub(crate) fn agreed(roster: &VerifiedRoster, lists: &[Signed<FilterList>]) -> AgreedFilters {
    let opened = lists.iter().filter(|list| roster.has_coordinator(list.signer())).filter_map(|list| {
        let list = list.open(roster.archive()).ok()?;
        let signer = list.signer();
        Some((signer, list.into_statement())).filter(|(_, list)| list.check().is_ok())
    });
    let opened: BTreeMap<_, _> = opened.collect();
    agreed_filters(&opened, witnesses_needed(roster.roster().coordinators.len()))
}

impl FilterKeeper {
    /// Keeps filters until `stop` says true.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.keep() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn keep(&self) {
        let (mut pause, mut failing) = (PAUSE_MIN, false);
        let mut refused = Refused::new();
        loop {
            let before = self.keys.filters().end();
            let looked = self.look(&mut refused).await;
            let (fails, is_new) = (looked.is_err(), self.keys.filters().end() > before);
            if let Err(error) = looked {
                if failing {
                    tracing::debug!("the archive's filters are not renewed: {error}");
                } else {
                    tracing::warn!("the archive's filters are not renewed: {error}; trying again");
                }
            }
            pause = if is_new || fails != failing { PAUSE_MIN } else { (pause * 2).min(LOOK_EVERY) };
            failing = fails;
            sleep(pause).await;
        }
    }

    /// Goes on with what the coordinators agree on now.
    async fn look(&self, refused: &mut Refused) -> Result<(), KeepError> {
        let lists = self.source.lists().await?;
        let agreed = agreed(&self.source.roster(), &lists);
        let current = self.keys.filters();
        let mut filters = Vec::with_capacity(agreed.filters.len());
        // A list that covers less is one of replicas that are behind.
        let end = agreed.filters.last().map_or(0, |last| last.range.end);
        if end <= current.end() {
            if end == current.end() {
                self.lists.set(&current, &lists);
            }
            return Ok(());
        }
        for entry in agreed.filters {
            if refused.contains(&entry.id) {
                break;
            }
            match current.find(entry.id) {
                Some(filter) => filters.push(Arc::clone(filter)),
                None => match self.get(entry).await? {
                    Ok(filter) => filters.push(Arc::new(filter)),
                    Err(why) => {
                        tracing::error!(
                            "the filter {} is refused: {why}; coordinators are asked for what it should tell",
                            entry.id
                        );
                        self.counts.refused.fetch_add(1, Ordering::Relaxed);
                        refused.insert(entry.id);
                        break;
                    }
                },
            }
        }
        let chain = FilterChain::new(filters);
        if chain.end() <= current.end() {
            return Ok(());
        }
        tracing::info!(
            filters = chain.filters().len(),
            keys = chain.keys(),
            bytes = chain.bytes(),
            position = chain.end(),
            "the archive's filters were renewed"
        );
        // The saved view names those of before until it is saved again.
        let keep = chain.entries().iter().chain(&current.entries()).map(|entry| entry.id).collect();
        self.lists.set(&chain, &lists);
        self.keys.install(chain);
        let files = self.files.clone();
        self.environment.blocking(move || files.retain(&keep)).await?;
        Ok(())
    }

    /// The filter of `entry`, from disk or from its source, or why it is none to be asked.
    async fn get(&self, entry: FilterEntry) -> Result<Result<HeldFilter, UnfitFilter>, KeepError> {
        let files = self.files.clone();
        let found = self.environment.blocking(move || files.read(&entry)).await?;
        if let Some(bytes) = found {
            let opened = self.open(entry, bytes).await;
            // A file that rotted is fetched anew.
            if opened.as_ref().err() != Some(&UnfitFilter::OtherBytes) {
                return Ok(opened);
            }
        }
        let bytes = self.fetch(entry).await?;
        Ok(self.open(entry, bytes).await)
    }

    async fn open(&self, entry: FilterEntry, bytes: Bytes) -> Result<HeldFilter, UnfitFilter> {
        let (archive, seed) = (self.source.roster().archive(), self.environment.seed());
        self.environment.blocking(move || HeldFilter::open(archive, entry, bytes, &seed)).await
    }

    /// The bytes of a filter: from one source as far as it goes, then from the next. What turns out to be something else
    /// is fetched anew from one source alone, so that no liar spoils what others give.
    async fn fetch(&self, entry: FilterEntry) -> Result<Bytes, KeepError> {
        let mut failure = KeepError::NotGiven(entry.id);
        for turn in 0..TURNS {
            let files = self.files.clone();
            let mut part = self.environment.blocking(move || files.resume(&entry)).await?;
            let offset = part.len();
            let mut pieces = stream::iter((offset..entry.bytes).step_by(FILTER_PIECE_BYTES_MAX))
                .map(|offset| self.piece(entry, offset, turn))
                .buffered(PIECES_AT_ONCE);
            let pulled = async {
                while let Some(piece) = pieces.try_next().await? {
                    self.counts.fetched_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    part = self.environment.blocking(move || part.push(&piece).map(|()| part)).await?;
                }
                Ok::<_, KeepError>(part)
            };
            match pulled.await {
                Ok(part) => {
                    let finished = self.environment.blocking(move || part.finish(entry.id)).await?;
                    if let Some(bytes) = finished {
                        return Ok(bytes);
                    }
                    tracing::warn!("the bytes that were given for the filter {} are not its own", entry.id);
                }
                Err(KeepError::Disk(error)) => return Err(error.into()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The piece of a filter from `offset` on, as long as a piece is there.
    async fn piece(&self, entry: FilterEntry, offset: u64, turn: usize) -> Result<Bytes, KeepError> {
        let bytes = self.source.piece(entry.id, offset, turn).await?;
        let expected = (entry.bytes - offset).min(FILTER_PIECE_BYTES_MAX as u64);
        if bytes.len() as u64 == expected { Ok(bytes) } else { Err(KeepError::NotGiven(entry.id)) }
    }
}

#[cfg(test)]
mod tests {
    use firn_base::ObjectKey;

    use super::*;
    use crate::filter_chain::tests::{filter_in, greedy};
    use crate::test_archive::TestArchive;

    fn key(number: u8) -> ObjectKey {
        ObjectKey::store_path([number; 20])
    }

    fn archive() -> (Arc<TestArchive>, firn_base::ArchiveId) {
        let archive = Arc::new(TestArchive::new(100));
        let id = FilterSource::roster(&*archive).archive();
        (archive, id)
    }

    fn keeper(archive: &Arc<TestArchive>, files: FilterFiles) -> FilterKeeper {
        let keys = Arc::new(SharedKeys::new(1000));
        keys.begin_at(0);
        let source = Arc::clone(archive) as Arc<dyn FilterSource>;
        let environment = Environment::real();
        FilterKeeper { keys, source, files, environment, counts: Arc::default(), lists: Arc::default() }
    }

    async fn look(keeper: &FilterKeeper) -> Result<u64, KeepError> {
        keeper.look(&mut Refused::new()).await.map(|()| keeper.keys.filters().end())
    }

    #[tokio::test]
    async fn filters_are_fetched_once_and_found_again_on_disk() {
        let (archive, id) = archive();
        let place = tempfile::tempdir().unwrap();
        let files = FilterFiles::new(Some(place.path().to_owned()));
        archive.list(&[filter_in(id, (0, 8), &[key(1)]), filter_in(id, (8, 12), &[key(2)])]);
        let first = keeper(&archive, files.clone());
        assert_eq!(look(&first).await.unwrap(), 12);
        assert!(first.keys.filters().may_contain(&key(2)));
        assert_eq!(archive.pieces.lock().unwrap().len(), 2);
        assert_eq!(look(&keeper(&archive, files)).await.unwrap(), 12);
        assert_eq!(archive.pieces.lock().unwrap().len(), 2, "nothing was fetched again");
    }

    #[tokio::test]
    async fn a_fetch_that_was_broken_off_goes_on_where_it_stopped() {
        let (archive, id) = archive();
        let place = tempfile::tempdir().unwrap();
        let files = FilterFiles::new(Some(place.path().to_owned()));
        let (entry, bytes) = filter_in(id, (0, 8), &[key(1)]);
        archive.list(&[(entry, bytes.clone())]);
        files.resume(&entry).unwrap().push(&bytes[..100]).unwrap();
        assert_eq!(look(&keeper(&archive, files)).await.unwrap(), 8);
        assert_eq!(*archive.pieces.lock().unwrap(), [100]);
    }

    #[tokio::test]
    async fn a_coordinator_that_gives_other_bytes_is_passed_over() {
        let (archive, id) = archive();
        archive.list(&[filter_in(id, (0, 8), &[key(1)])]);
        *archive.spoilers.lock().unwrap() = vec![0, 1];
        assert_eq!(look(&keeper(&archive, FilterFiles::new(None))).await.unwrap(), 8);
        *archive.spoilers.lock().unwrap() = vec![0, 1, 2];
        assert!(matches!(look(&keeper(&archive, FilterFiles::new(None))).await, Err(KeepError::NotGiven(_))));
    }

    #[tokio::test]
    async fn a_filter_that_one_coordinator_alone_lists_is_not_asked() {
        let (archive, id) = archive();
        archive.list(&[filter_in(id, (0, 8), &[key(1)])]);
        let (forged, bytes) = filter_in(id, (0, 8), &[]);
        archive.coordinators.lock().unwrap()[0].filters = vec![forged];
        archive.filters.lock().unwrap().insert(forged.id, bytes);
        let keeper = keeper(&archive, FilterFiles::new(None));
        assert_eq!(look(&keeper).await.unwrap(), 8);
        assert!(keeper.keys.filters().may_contain(&key(1)), "the forged one lacks it");
    }

    #[tokio::test]
    async fn a_filter_that_claims_too_much_is_refused_and_not_fetched_again() {
        let (archive, id) = archive();
        archive.list(&[greedy(id)]);
        let keeper = keeper(&archive, FilterFiles::new(None));
        let mut refused = Refused::new();
        for _ in 0..3 {
            keeper.look(&mut refused).await.unwrap();
        }
        assert_eq!(keeper.keys.filters().end(), 0);
        assert_eq!(keeper.counts.refused.load(Ordering::Relaxed), 1);
        assert_eq!(archive.pieces.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn filters_that_joined_take_the_place_of_their_parts_and_files_go_a_look_later() {
        let (archive, id) = archive();
        let place = tempfile::tempdir().unwrap();
        let keeper = keeper(&archive, FilterFiles::new(Some(place.path().to_owned())));
        let mut refused = Refused::new();
        let files = || std::fs::read_dir(place.path()).unwrap().count();
        archive.list(&[filter_in(id, (0, 8), &[key(1)]), filter_in(id, (8, 12), &[key(2)])]);
        keeper.look(&mut refused).await.unwrap();
        assert_eq!(files(), 2);
        archive.list(&[filter_in(id, (0, 16), &[key(1), key(2), key(3)])]);
        keeper.look(&mut refused).await.unwrap();
        assert_eq!((keeper.keys.filters().end(), files()), (16, 3), "the saved view names the elder ones");
        archive.list(&[filter_in(id, (0, 16), &[key(1), key(2), key(3)]), filter_in(id, (16, 20), &[])]);
        keeper.look(&mut refused).await.unwrap();
        assert_eq!((keeper.keys.filters().end(), files()), (20, 2));
        archive.list(&[filter_in(id, (0, 8), &[key(1)])]);
        keeper.look(&mut refused).await.unwrap();
        assert_eq!(keeper.keys.filters().end(), 20, "a list that covers less changes nothing");
    }
}
