//! Following the archive's feed into the key set.
//!
//! Owns: when the feed is pulled, and when the set is saved. Always holds: events are applied in order and
//! once; what became visible is known as soon as a coordinator tells it; while no coordinator answers the set
//! stays as it was. Leaves to others: signatures (`firn-transport` checks them), the set itself (`key_set`).

use std::sync::Arc;
use std::time::Duration;

use firn_transport::Environment;
use firn_wire::{FEED_EVENTS_MAX, FeedBatch};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::coordinators::FeedSource;
use crate::key_file::KeyFile;
use crate::key_set::KeySet;
use crate::shared_keys::SharedKeys;

/// How long a coordinator may hold back its answer until something happens.
const LONG_POLL: Duration = Duration::from_secs(20);

/// Long enough for several coordinators to be tried; a source that hangs longer is asked anew.
const PULL_TIMEOUT: Duration = Duration::from_secs(60);

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A replica may lag; an archive whose feed is shorter than ours for so long was rebuilt, and is followed anew.
const SHORTER_FEED_FOR: Duration = Duration::from_secs(600);

const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Follows one feed into one set.
#[derive(Debug)]
pub(crate) struct FeedFollower {
    pub(crate) keys: Arc<SharedKeys>,
    pub(crate) source: Arc<dyn FeedSource>,
    pub(crate) file: Option<KeyFile>,
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
}

impl FeedFollower {
    /// Follows until `stop` says true, then saves the set a last time.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut saved = (Instant::now(), self.keys.position());
        tokio::select! {
            () = self.follow(&mut saved) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        if saved.1 != self.keys.position() {
            self.save().await;
        }
    }

    async fn follow(&self, saved: &mut (Instant, u64)) {
        let mut pause = PAUSE_MIN;
        let mut behind_since = None;
        let mut failing = false;
        loop {
            let (began, before) = (Instant::now(), self.keys.position());
            let pulled = self.pull().await;
            if saved.0.elapsed() >= SAVE_EVERY && saved.1 != self.keys.position() {
                *saved = (Instant::now(), self.keys.position());
                self.save().await;
            }
            match pulled {
                Ok(Progress::AtHead | Progress::More) => {
                    if failing {
                        tracing::info!("the archive's feed is followed again");
                    }
                    (pause, behind_since, failing) = (PAUSE_MIN, None, false);
                    if self.keys.position() == before && began.elapsed() < PAUSE_MIN {
                        // It did not hold back its answer: it is not asked in a tight loop.
                        sleep(PAUSE_MIN).await;
                    }
                    continue;
                }
                Ok(Progress::Behind) => {
                    let since = *behind_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= SHORTER_FEED_FOR && self.begin_anew().await.is_ok() {
                        behind_since = None;
                    }
                }
                Err(why) => {
                    if !failing {
                        tracing::warn!("the archive's feed cannot be followed: {why}; trying again");
                    }
                    (behind_since, failing) = (None, true);
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Follows the feed from its beginning into another set, and goes on with that one.
    async fn begin_anew(&self) -> Result<(), String> {
        tracing::warn!("the archive's feed is shorter than before: it is followed from its beginning");
        let mut set = KeySet::default();
        loop {
            let batch = self.pull_from(set.position(), Duration::ZERO).await?;
            set.apply(batch.first, &batch.events).map_err(|error| error.to_string())?;
            if set.position() >= batch.head || batch.events.is_empty() {
                break;
            }
        }
        self.keys.replace(set);
        Ok(())
    }

    async fn pull_from(&self, from: u64, wait: Duration) -> Result<FeedBatch, String> {
        let batch = timeout(PULL_TIMEOUT, self.source.pull(from, wait)).await;
        batch.map_err(|_| "no coordinator answered in time".to_owned())?.map_err(|error| error.to_string())
    }

    async fn pull(&self) -> Result<Progress, String> {
        // What is there already comes without waiting; the head is heard of before anything else.
        let wait = if self.keys.followed_at().is_some() { LONG_POLL } else { Duration::ZERO };
        self.take(&self.pull_from(self.keys.position(), wait).await?)
    }

    fn take(&self, batch: &FeedBatch) -> Result<Progress, String> {
        let from = self.keys.position();
        if batch.head < from {
            return Ok(Progress::Behind);
        }
        let end = batch.first.saturating_add(batch.events.len() as u64);
        if batch.events.len() > FEED_EVENTS_MAX || end > batch.head {
            return Err("a coordinator's feed contradicts itself".to_owned());
        }
        if !batch.events.is_empty() {
            self.keys.apply(batch.first, &batch.events).map_err(|error| error.to_string())?;
        }
        if end >= batch.head && self.keys.position() >= batch.head {
            self.keys.mark_followed();
            return Ok(Progress::AtHead);
        }
        // A coordinator that says there is more and gives nothing is not asked in a tight loop.
        if batch.events.is_empty() { Ok(Progress::Behind) } else { Ok(Progress::More) }
    }

    async fn save(&self) {
        let Some(file) = self.file.clone() else { return };
        let set = self.keys.snapshot();
        if let Err(error) = self.environment.blocking(move || file.save(&set)).await {
            tracing::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use firn_base::ObjectKey;
    use firn_wire::FeedEvent;
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;
    use crate::coordinators::CoordinatorsAway;

    /// A feed that grows while it is followed, and a coordinator that can be away.
    #[derive(Debug, Default)]
    struct Feed {
        events: Mutex<Vec<FeedEvent>>,
        away: Mutex<bool>,
        page: usize,
    }

    impl Feed {
        fn show(&self, number: u8) {
            self.events.lock().unwrap().push(FeedEvent::Visible(key(number)));
        }
    }

    fn key(number: u8) -> ObjectKey {
        ObjectKey::store_path([number; 20])
    }

    impl FeedSource for Feed {
        fn pull(&self, from: u64, wait: Duration) -> BoxFuture<'_, Result<FeedBatch, CoordinatorsAway>> {
            async move {
                if *self.away.lock().unwrap() {
                    return Err(CoordinatorsAway { cause: "all are away".to_owned() });
                }
                let deadline = Instant::now() + wait;
                loop {
                    let events = self.events.lock().unwrap().clone();
                    let from_index = usize::try_from(from).unwrap();
                    if events.len() > from_index || Instant::now() >= deadline {
                        let head = events.len() as u64;
                        let events = events.into_iter().skip(from_index).take(self.page).collect();
                        return Ok(FeedBatch { first: from, events, head });
                    }
                    sleep(Duration::from_millis(10)).await;
                }
            }
            .boxed()
        }
    }

    fn follow(
        feed: &Arc<Feed>,
        file: Option<KeyFile>,
    ) -> (Arc<SharedKeys>, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
        let keys = Arc::new(SharedKeys::new(KeySet::default(), false));
        let (stop, stopped) = watch::channel(false);
        let source = Arc::clone(feed) as Arc<dyn FeedSource>;
        let follower =
            FeedFollower { keys: Arc::clone(&keys), source, file, environment: Environment::real() };
        (keys, stop, tokio::spawn(follower.run(stopped)))
    }

    #[tokio::test(start_paused = true)]
    async fn fresh_paths_are_known_at_once_and_after_coordinators_were_away() {
        let feed = Arc::new(Feed { page: 2, ..Feed::default() });
        (0..5).for_each(|number| feed.show(number));
        let (keys, _stop, _task) = follow(&feed, None);
        sleep(Duration::from_millis(50)).await;
        assert!(keys.is_usable() && keys.contains(&key(4)));
        feed.show(10);
        sleep(Duration::from_millis(50)).await;
        assert!(keys.contains(&key(10)));
        *feed.away.lock().unwrap() = true;
        sleep(Duration::from_secs(30)).await;
        feed.show(11);
        sleep(Duration::from_secs(100)).await;
        assert!(!keys.contains(&key(11)) && keys.contains(&key(10)));
        *feed.away.lock().unwrap() = false;
        sleep(Duration::from_secs(6)).await;
        assert!(keys.contains(&key(11)));
        assert_eq!((keys.position(), keys.position_header()), (7, "7".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_follower_that_stops_saves_what_it_knows() {
        let directory = tempfile::tempdir().unwrap();
        let file =
            KeyFile::in_directory(directory.path(), firn_base::ArchiveId::from_bytes([1; 32])).unwrap();
        let feed = Arc::new(Feed { page: 100, ..Feed::default() });
        (0..5).for_each(|number| feed.show(number));
        let (keys, stop, task) = follow(&feed, Some(file.clone()));
        while !keys.is_usable() {
            sleep(Duration::from_millis(1)).await;
        }
        stop.send(true).unwrap();
        task.await.unwrap();
        let saved = file.load().unwrap().unwrap();
        assert_eq!((saved.len(), saved.position()), (5, 5));
    }

    #[test]
    fn a_batch_that_does_not_fit_changes_nothing() {
        let keys = Arc::new(SharedKeys::new(KeySet::default(), false));
        let source = Arc::new(Feed::default());
        let environment = Environment::real();
        let follower = FeedFollower { keys: Arc::clone(&keys), source, file: None, environment };
        let events = vec![FeedEvent::Visible(key(1))];
        assert!(follower.take(&FeedBatch { first: 1, events: events.clone(), head: 2 }).is_err());
        assert!(follower.take(&FeedBatch { first: 0, events: events.clone(), head: 0 }).is_err());
        assert!(!keys.is_usable() && keys.len() == 0);
        assert_eq!(follower.take(&FeedBatch { first: 0, events, head: 1 }), Ok(Progress::AtHead));
        assert_eq!(follower.take(&FeedBatch { first: 0, events: Vec::new(), head: 0 }), Ok(Progress::Behind));
    }
}
