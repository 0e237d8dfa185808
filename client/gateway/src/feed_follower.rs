//! Following the end of the archive's feed.
//!
//! Owns: when the feed is pulled and from where, and when what is known is saved. Always holds: events are applied in
//! order and once; what became visible is known as soon as a coordinator tells it; while no coordinator answers what is
//! known stays as it was; one that is cut off from the others is believed what it tells, and not that there is nothing
//! more; whether they are away is tried here and nowhere else. Leaves to others: signatures (`firn-transport` checks
//! them), filters (`filter_keeper`).

use std::sync::Arc;
use std::time::Duration;

use firn_transport::{Environment, FeedNews};
use firn_wire::FEED_EVENTS_MAX;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::coordinators::{FeedError, FeedSource, FilterSource};
use crate::feed_tail::{FeedTail, POSITION_MAX};
use crate::filter_agreement::AgreedFilters;
use crate::filter_keeper::agreed;
use crate::reach::Reach;
use crate::shared_keys::SharedKeys;
use crate::view_file::ViewFile;

/// How long a coordinator may hold back its answer until something happens.
const LONG_POLL: Duration = Duration::from_secs(20);

/// Long enough for several coordinators to be tried; a source that hangs longer is asked anew.
const PULL_TIMEOUT: Duration = Duration::from_secs(60);

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A replica may lag; an archive whose feed is shorter than ours for so long was rebuilt, and is followed anew.
const SHORTER_FEED_FOR: Duration = Duration::from_secs(600);

/// A tail of a million keys is a file of 30 MB: saved every minute it would wear out a disk.
const SAVE_EVERY: Duration = Duration::from_secs(60);
const SAVE_LARGE_EVERY: Duration = Duration::from_secs(600);
const LARGE_TAIL: usize = 1 << 16;

/// Follows one feed.
#[derive(Debug)]
pub(crate) struct FeedFollower {
    pub(crate) keys: Arc<SharedKeys>,
    pub(crate) source: Arc<dyn FeedSource>,
    /// Who says how long the feed is, and how much of it filters tell.
    pub(crate) lists: Arc<dyn FilterSource>,
    /// Whether filters are kept: otherwise what was told before this gateway began is nobody's concern here.
    pub(crate) keeps_filters: bool,
    pub(crate) reach: Arc<Reach>,
    pub(crate) file: Option<ViewFile>,
    pub(crate) environment: Environment,
}

/// What a batch came to.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// The feed holds nothing newer.
    AtHead,
    /// More is to be had at once.
    More,
    /// The coordinator knows less than we do.
    Behind,
    /// Those that answer have not known for so long whether the feed holds anything newer.
    Stale(Duration),
}

/// What was saved last, and when.
struct Saved {
    at: Instant,
    position: u64,
    changes: u64,
}

/// Where to begin with a feed whose filters and head are as coordinators agree: behind the filters, unless more follows
/// than a tail may hold.
fn beginning(agreed: &AgreedFilters, keeps_filters: bool, tail_max: usize) -> u64 {
    let covered = agreed.filters.last().map_or(0, |last| last.range.end);
    if keeps_filters && agreed.head.saturating_sub(covered) <= tail_max as u64 {
        covered.min(POSITION_MAX)
    } else {
        agreed.head.min(POSITION_MAX)
    }
}

impl FeedFollower {
    /// Follows until `stop` says true, then saves what is known a last time.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut saved =
            Saved { at: Instant::now(), position: self.keys.position(), changes: self.keys.changes() };
        self.follow(&mut saved, &mut stop).await;
        if self.is_news(&saved) {
            self.save(&mut saved).await;
        }
    }

    /// Follows until `stop` says true. Saving is never broken off: the next one writes the same file.
    async fn follow(&self, saved: &mut Saved, stop: &mut watch::Receiver<bool>) {
        let mut pause = PAUSE_MIN;
        let mut behind_since = None;
        let (mut failing, mut stale) = (false, false);
        loop {
            let (began, before) = (Instant::now(), self.keys.position());
            let pulled = tokio::select! {
                pulled = self.pull(stale) => pulled,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            if self.is_due(saved) {
                self.save(saved).await;
            }
            let was_stale = stale;
            stale = matches!(pulled, Ok(Progress::Stale(_)));
            let rest = match pulled {
                Ok(Progress::AtHead | Progress::More) => {
                    if failing {
                        tracing::info!("the archive's feed is followed again");
                    }
                    (pause, behind_since, failing) = (PAUSE_MIN, None, false);
                    // Where it did not hold back its answer it is not asked in a tight loop.
                    let at_once = self.keys.position() == before && began.elapsed() < PAUSE_MIN;
                    if at_once { PAUSE_MIN } else { Duration::ZERO }
                }
                Ok(Progress::Behind) => {
                    let since = *behind_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= SHORTER_FEED_FOR {
                        tracing::warn!("the archive's feed is shorter than before: it is followed anew");
                        self.forget_all().await;
                        behind_since = None;
                    }
                    pause
                }
                Ok(Progress::Stale(age)) => {
                    if !failing {
                        let seconds = age.as_secs();
                        tracing::warn!(
                            "the coordinators that answer have heard no majority for {seconds} s: what they know is answered from"
                        );
                    }
                    (behind_since, failing) = (None, true);
                    // Another one may know more.
                    if was_stale { pause } else { Duration::ZERO }
                }
                Err(why) => {
                    if !failing {
                        tracing::warn!("the archive's feed cannot be followed: {why}; trying again");
                    }
                    (behind_since, failing) = (None, true);
                    pause
                }
            };
            if !rest.is_zero() {
                tokio::select! {
                    () = sleep(rest) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Takes what there is. Behind a stale answer nobody is to hold back his.
    async fn pull(&self, was_stale: bool) -> Result<Progress, String> {
        if !self.keys.has_begun() {
            self.keys.begin_at(self.find_beginning().await?);
        }
        if let Some(covered) = self.keys.gap()
            && self.keeps_filters
            // Before filters are here the whole feed would be read in their place.
            && covered > 0
            && self.fits_tail(covered, self.keys.position())
        {
            self.close_gap(covered).await?;
        }
        let news = self.pull_news(was_stale).await?;
        // After a long sleep what filters tell by now is not read from the feed.
        if !self.fits_tail(self.keys.position(), news.batch.head) {
            let beginning = self.find_beginning().await?;
            if beginning > self.keys.position() {
                self.keys.begin_at(beginning);
                return Ok(Progress::More);
            }
        }
        self.take(&news)
    }

    /// What follows. Waits for it only while coordinators seem to be there: what is there already comes without waiting, the
    /// head is heard of before anything else, and whoever doubts that they are there is told soon.
    async fn pull_news(&self, was_stale: bool) -> Result<FeedNews, String> {
        let position = self.keys.position();
        if !was_stale && self.keys.age().is_some() && self.reach.is_there() {
            tokio::select! {
                news = self.pull_from(position, LONG_POLL) => return news,
                () = self.reach.doubted() => {}
            }
        }
        self.pull_from(position, Duration::ZERO).await
    }

    fn fits_tail(&self, first: u64, position: u64) -> bool {
        position.saturating_sub(first) <= self.keys.tail_keys_max() as u64
    }

    async fn find_beginning(&self) -> Result<u64, String> {
        let lists = self.lists.lists().await.map_err(|error| error.to_string())?;
        let agreed = agreed(&self.lists.roster(), &lists);
        Ok(beginning(&agreed, self.keeps_filters, self.keys.tail_keys_max()))
    }

    /// Reads what follows the filters into another tail, as far as this one goes, and goes on with that one.
    async fn close_gap(&self, covered: u64) -> Result<(), String> {
        let mut tail = FeedTail::at(covered);
        while tail.position() < self.keys.position() {
            let batch = self.pull_from(tail.position(), Duration::ZERO).await?.batch;
            tail.apply(batch.first, &batch.events).map_err(|error| error.to_string())?;
            if batch.events.is_empty() {
                return Err("the coordinators that answer lag behind".to_owned());
            }
        }
        self.keys.replace_tail(tail);
        Ok(())
    }

    async fn pull_from(&self, from: u64, wait: Duration) -> Result<FeedNews, String> {
        let pulled = timeout(PULL_TIMEOUT, self.source.pull(from, wait)).await;
        // Who tells nonsense, or nothing, is there: others may be asked, and other things of these.
        match &pulled {
            Ok(Ok(_) | Err(FeedError::Untold { .. })) => self.reach.answered(),
            Ok(Err(FeedError::Away(_))) | Err(_) => self.reach.lost(),
        }
        let news = pulled.map_err(|_| "no coordinator answered in time".to_owned())?;
        news.map_err(|error| error.to_string())
    }

    fn take(&self, FeedNews { batch, stale }: &FeedNews) -> Result<Progress, String> {
        let from = self.keys.position();
        if batch.head < from {
            let Some(stale) = stale else { return Ok(Progress::Behind) };
            // One that is cut off says nothing of how long the feed is by now.
            self.keys.mark_told();
            return Ok(Progress::Stale(*stale));
        }
        let end = batch.first.saturating_add(batch.events.len() as u64);
        if batch.events.len() > FEED_EVENTS_MAX || end > batch.head {
            return Err("a coordinator's feed contradicts itself".to_owned());
        }
        if !batch.events.is_empty() {
            self.keys.apply(batch.first, &batch.events).map_err(|error| error.to_string())?;
        }
        if end >= batch.head && self.keys.position() >= batch.head {
            self.keys.mark_followed(stale.unwrap_or_default());
            return Ok(stale.map_or(Progress::AtHead, Progress::Stale));
        }
        // A coordinator that says there is more and gives nothing is not asked in a tight loop.
        if batch.events.is_empty() { Ok(Progress::Behind) } else { Ok(Progress::More) }
    }

    fn is_news(&self, saved: &Saved) -> bool {
        self.keys.is_usable()
            && (saved.position, saved.changes) != (self.keys.position(), self.keys.changes())
    }

    /// Filters that changed are saved at once: files of those before them go.
    fn is_due(&self, saved: &Saved) -> bool {
        let every = if self.keys.tail_len() > LARGE_TAIL { SAVE_LARGE_EVERY } else { SAVE_EVERY };
        self.is_news(saved) && (saved.changes != self.keys.changes() || saved.at.elapsed() >= every)
    }

    /// Forgets what is known, and what lives before this one saved of it: the next would begin with the longer feed.
    async fn forget_all(&self) {
        self.keys.forget_all();
        let Some(file) = self.file.clone() else { return };
        if let Err(error) = self.environment.blocking(move || file.remove_all()).await {
            tracing::warn!("{error}");
        }
    }

    async fn save(&self, saved: &mut Saved) {
        let Some(file) = self.file.clone() else { return };
        // Before the snapshot: what changes meanwhile is saved again.
        *saved = Saved { at: Instant::now(), position: self.keys.position(), changes: self.keys.changes() };
        let view = self.keys.snapshot();
        if let Err(error) = self.environment.blocking(move || file.save(&view)).await {
            tracing::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_base::ObjectKey;
    use firn_wire::{FeedBatch, FeedEvent};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::filter_chain::FilterChain;
    use crate::filter_chain::tests::{filter_in, held};
    use crate::key_view::Presence;
    use crate::test_archive::TestArchive;

    fn key(number: u8) -> ObjectKey {
        ObjectKey::store_path([number; 20])
    }

    fn follower(archive: &Arc<TestArchive>, tail_max: usize, file: Option<ViewFile>) -> FeedFollower {
        FeedFollower {
            keys: Arc::new(SharedKeys::new(tail_max)),
            source: Arc::clone(archive) as Arc<dyn FeedSource>,
            lists: Arc::clone(archive) as Arc<dyn FilterSource>,
            keeps_filters: true,
            reach: Arc::default(),
            file,
            environment: Environment::real(),
        }
    }

    fn follow(follower: FeedFollower) -> (Arc<SharedKeys>, watch::Sender<bool>, JoinHandle<()>) {
        let keys = Arc::clone(&follower.keys);
        let (stop, stopped) = watch::channel(false);
        (keys, stop, tokio::spawn(follower.run(stopped)))
    }

    fn shown(keys: &SharedKeys, number: u8) -> bool {
        matches!(keys.presence(&key(number)), Some(Presence::Visible { .. }))
    }

    #[tokio::test(start_paused = true)]
    async fn fresh_paths_are_known_at_once_and_after_coordinators_were_away() {
        let archive = Arc::new(TestArchive::new(2));
        (0..5).for_each(|number| archive.show(number));
        let (keys, _stop, _task) = follow(follower(&archive, 1000, None));
        sleep(Duration::from_millis(50)).await;
        assert!(keys.is_usable() && shown(&keys, 4));
        assert_eq!(keys.presence(&key(99)), Some(Presence::Absent), "the feed was read from its beginning");
        archive.show(10);
        sleep(Duration::from_millis(50)).await;
        assert!(shown(&keys, 10));
        archive.all_away(true);
        sleep(Duration::from_secs(30)).await;
        archive.show(11);
        sleep(Duration::from_secs(100)).await;
        assert!(!shown(&keys, 11) && shown(&keys, 10));
        archive.all_away(false);
        sleep(Duration::from_secs(6)).await;
        assert!(shown(&keys, 11));
        assert_eq!((keys.position(), keys.position_header()), (7, "7".parse().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_feed_is_followed_from_where_filters_end_or_from_its_head_where_a_tail_is_too_short() {
        let archive = Arc::new(TestArchive::new(100));
        (0..20).for_each(|number| archive.show(number));
        let id = FilterSource::roster(&*archive).archive();
        archive.list(&[filter_in(id, (0, 16), &[])]);
        let (keys, _stop, _task) = follow(follower(&archive, 100, None));
        sleep(Duration::from_millis(50)).await;
        assert_eq!((keys.gap(), keys.position(), shown(&keys, 17)), (Some(0), 20, true));
        assert_eq!(
            keys.presence(&key(1)),
            Some(Presence::Unsettled { as_of: 16 }),
            "filters are not here yet"
        );

        let (keys, _stop, _task) = follow(follower(&archive, 3, None));
        sleep(Duration::from_millis(50)).await;
        assert_eq!((keys.gap(), keys.position()), (Some(0), 20));

        let none = FeedFollower { keeps_filters: false, ..follower(&archive, 1000, None) };
        let (keys, _stop, _task) = follow(none);
        sleep(Duration::from_millis(50)).await;
        archive.show(30);
        sleep(Duration::from_millis(50)).await;
        assert_eq!((keys.gap(), shown(&keys, 30)), (Some(0), true));
        assert_eq!(keys.presence(&key(99)), Some(Presence::Unsettled { as_of: 20 }));
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_between_filters_and_tail_is_read_when_the_filters_are_here() {
        let archive = Arc::new(TestArchive::new(100));
        (0..20).for_each(|number| archive.show(number));
        // Nobody lists filters yet, and the tail would be too long without them.
        let (keys, _stop, _task) = follow(follower(&archive, 12, None));
        sleep(Duration::from_millis(50)).await;
        assert_eq!(keys.gap(), Some(0));
        keys.install(FilterChain::new([held((0, 16), &[key(1)])]));
        archive.show(40);
        sleep(Duration::from_secs(25)).await;
        assert_eq!((keys.gap(), keys.position()), (None, 21));
        assert!(shown(&keys, 17) && shown(&keys, 40));
        assert_eq!(keys.presence(&key(1)), Some(Presence::Unsettled { as_of: 16 }));
    }

    #[tokio::test]
    async fn a_follower_that_stops_saves_what_it_knows() {
        let directory = tempfile::tempdir().unwrap();
        let file =
            ViewFile::in_directory(directory.path(), firn_base::ArchiveId::from_bytes([1; 32])).unwrap();
        let archive = Arc::new(TestArchive::new(100));
        (0..5).for_each(|number| archive.show(number));
        let (keys, stop, task) = follow(follower(&archive, 1000, Some(file.clone())));
        while !keys.is_usable() {
            sleep(Duration::from_millis(1)).await;
        }
        stop.send(true).unwrap();
        task.await.unwrap();
        let saved = file.load().unwrap().unwrap().tail;
        assert_eq!((saved.len(), saved.position()), (5, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_that_is_cut_off_tells_counts_and_not_that_there_is_nothing_more() {
        let archive = Arc::new(TestArchive::new(2));
        (0..5).for_each(|number| archive.show(number));
        archive.cut_off(true);
        archive.show(5);
        sleep(Duration::from_secs(40)).await;
        let (keys, _stop, _task) = follow(follower(&archive, 1000, None));
        sleep(Duration::from_secs(60)).await;
        assert!(keys.is_usable() && shown(&keys, 4) && !shown(&keys, 5));
        assert_eq!(keys.age().map(|age| age.as_secs()), Some(100), "so long nobody knows of anything newer");
        let is_heard = keys.silence().is_some_and(|silence| silence <= PAUSE_MAX);
        assert!(is_heard, "it answers: who serves what it tells is ready");
        // It is asked again and again, and not to wait.
        let pulls = std::mem::take(&mut *archive.pulls.lock().unwrap());
        assert!((10..30).contains(&pulls.len()) && pulls.iter().filter(|wait| !wait.is_zero()).count() == 0);
        archive.cut_off(false);
        sleep(PAUSE_MAX).await;
        assert!(shown(&keys, 5) && keys.age() <= Some(LONG_POLL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_feed_of_one_that_is_cut_off_does_not_count() {
        let archive = Arc::new(TestArchive::new(100));
        archive.show(0);
        archive.cut_off(true);
        let cut_off = follower(&archive, 1000, None);
        cut_off.keys.begin_at(0);
        let event = |number| FeedEvent::Visible(key(number));
        cut_off.keys.apply(0, &[event(0), event(1)]).unwrap();
        cut_off.keys.mark_followed(Duration::ZERO);
        let (keys, _stop, _task) = follow(cut_off);
        sleep(SHORTER_FEED_FOR * 3).await;
        assert!(shown(&keys, 1), "it lags, and the archive was not rebuilt");
        assert!(keys.silence() <= Some(PAUSE_MAX) && keys.age() >= Some(SHORTER_FEED_FOR * 3));
        archive.all_away(true);
        sleep(PULL_TIMEOUT * 2).await;
        assert!(keys.silence() > Some(PULL_TIMEOUT), "nobody answers");
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_feed_that_was_followed_anew_nothing_is_left_in_any_file() {
        let directory = tempfile::tempdir().unwrap();
        let id = firn_base::ArchiveId::from_bytes([1; 32]);
        let file = ViewFile::in_directory(directory.path(), id).unwrap();
        let archive = Arc::new(TestArchive::new(100));
        archive.show(0);
        let rebuilt = follower(&archive, 1000, Some(file.clone()));
        let mut longer = FeedTail::at(0);
        longer.apply(0, &[0, 1, 2].map(|number| FeedEvent::Visible(key(number)))).unwrap();
        rebuilt.keys.resume(longer.clone().into());
        for file in [&file, &file.without_filters()] {
            file.save(&longer.clone().into()).unwrap();
        }
        let (keys, stop, task) = follow(rebuilt);
        sleep(SHORTER_FEED_FOR * 2).await;
        assert_eq!((keys.position(), shown(&keys, 0), shown(&keys, 1)), (1, true, false));
        stop.send(true).unwrap();
        task.await.unwrap();
        assert_eq!(file.load().unwrap().map(|saved| saved.tail.position()), Some(1));
        assert_eq!(file.without_filters().load().unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_doubts_that_coordinators_are_there_learns_it_before_news_come() {
        let archive = Arc::new(TestArchive::new(2));
        archive.show(1);
        let follower = follower(&archive, 100, None);
        let reach = Arc::clone(&follower.reach);
        let (keys, _stop, _task) = follow(follower);
        while keys.age().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(PAUSE_MAX).await;
        let began = Instant::now();
        reach.doubt();
        while !reach.is_there() {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(began.elapsed() < PAUSE_MIN, "it was not waited for the end of a long poll");
        archive.all_away(true);
        reach.doubt();
        sleep(LONG_POLL * 10).await;
        assert!(!reach.is_there());
        archive.all_away(false);
        sleep(PAUSE_MAX).await;
        assert!(reach.is_there(), "the follower tries on");
    }

    fn news(first: u64, events: &[FeedEvent], head: u64) -> FeedNews {
        FeedNews { batch: FeedBatch { first, events: events.to_vec(), head }, stale: None }
    }

    #[test]
    fn a_batch_that_does_not_fit_changes_nothing() {
        let follower = follower(&Arc::new(TestArchive::new(1)), 100, None);
        let keys = Arc::clone(&follower.keys);
        let events = vec![FeedEvent::Visible(key(1))];
        assert!(follower.take(&news(1, &events, 2)).is_err());
        assert!(follower.take(&news(0, &events, 0)).is_err());
        assert!(!keys.is_usable() && keys.tail_len() == 0);
        assert_eq!(follower.take(&news(0, &events, 1)), Ok(Progress::AtHead));
        assert_eq!(follower.take(&news(0, &[], 0)), Ok(Progress::Behind));
    }
}
