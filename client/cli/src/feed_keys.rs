//! The keys that an archive's feed says are visible, a page at a time.
//!
//! Always holds: memory is one page and the keys that were ever withdrawn; each visible key comes once; the feed
//! is followed to where its head was when it began.

use std::collections::BTreeMap;
use std::time::Duration;

use firn_base::ObjectKey;
use firn_transport::{AskError, CoordinatorClient};
use firn_wire::FeedEvent;
use tokio::time::sleep;

/// Why the feed cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    /// Nobody tells it.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// A coordinator tells something that cannot be.
    #[error("a coordinator's feed contradicts itself at position {0}: ask its operator")]
    Contradiction(u64),
    /// A replica that lags does not catch up.
    #[error("no coordinator tells the feed from position {0} on: try again later")]
    Behind(u64),
}

/// Where in the feed a reader is, and how far it goes.
#[derive(Debug)]
pub(crate) struct FeedKeys {
    coordinators: CoordinatorClient,
    position: u64,
    head: u64,
    stale: Option<Duration>,
    // Keys that were withdrawn at some time, and whether they are visible and still to be told.
    withdrawn: BTreeMap<ObjectKey, bool>,
}

// A replica behind the one that was asked before catches up within a second or two.
const BEHIND_TRIES: u32 = 20;
const BEHIND_PAUSE: Duration = Duration::from_millis(250);

impl FeedKeys {
    /// Reads the feed once for what was withdrawn.
    pub(crate) async fn open(coordinators: &CoordinatorClient) -> Result<Self, FeedError> {
        let (head, stale) = coordinators.head().await?;
        let mut feed =
            Self { coordinators: coordinators.clone(), position: 0, head, stale, withdrawn: BTreeMap::new() };
        while let Some(events) = feed.next_events().await? {
            note_withdrawals(&mut feed.withdrawn, &events);
        }
        feed.position = 0;
        Ok(feed)
    }

    /// Events that will be looked at; an upper bound of the keys.
    pub(crate) const fn events(&self) -> u64 {
        self.head
    }

    /// For how long those that answer have not known whether there is more; none if they know that this is all.
    pub(crate) const fn stale(&self) -> Option<Duration> {
        self.stale
    }

    /// The visible keys of the next page; none at the end.
    pub(crate) async fn next_page(&mut self) -> Result<Option<Vec<ObjectKey>>, FeedError> {
        let events = self.next_events().await?;
        Ok(events.map(|events| visible(&mut self.withdrawn, &events)))
    }

    async fn next_events(&mut self) -> Result<Option<Vec<FeedEvent>>, FeedError> {
        for _ in 0..BEHIND_TRIES {
            if self.position >= self.head {
                return Ok(None);
            }
            let batch = self.coordinators.news(self.position, Duration::ZERO).await?.batch;
            let (first, mut events) = (batch.first, batch.events);
            if events.is_empty() {
                sleep(BEHIND_PAUSE).await;
                continue;
            }
            if first != self.position {
                return Err(FeedError::Contradiction(self.position));
            }
            // What comes after the head that was first seen is not this reader's.
            let left = usize::try_from(self.head - self.position).unwrap_or(usize::MAX);
            events.truncate(left);
            self.position = self.position.saturating_add(u64::try_from(events.len()).unwrap_or(u64::MAX));
            return Ok(Some(events));
        }
        Err(FeedError::Behind(self.position))
    }
}

/// That there may be more than what was looked at, as a sentence.
pub(crate) fn may_be_more(stale: Duration) -> String {
    format!(
        "the coordinators that answer have heard no majority of them for {} s: what became visible since is left out; run \
         the command again once they are back",
        stale.as_secs()
    )
}

fn note_withdrawals(withdrawn: &mut BTreeMap<ObjectKey, bool>, events: &[FeedEvent]) {
    for event in events {
        match event {
            FeedEvent::Withdrawn(key) => {
                withdrawn.insert(*key, false);
            }
            FeedEvent::Visible(key) => {
                withdrawn.entry(*key).and_modify(|visible| *visible = true);
            }
        }
    }
}

/// The keys of `events` that are visible in the end and were not told before.
fn visible(withdrawn: &mut BTreeMap<ObjectKey, bool>, events: &[FeedEvent]) -> Vec<ObjectKey> {
    let keys = events.iter().filter_map(|event| match event {
        FeedEvent::Visible(key) => Some(*key),
        FeedEvent::Withdrawn(_) => None,
    });
    keys.filter(|key| match withdrawn.get_mut(key) {
        None => true,
        Some(untold) => std::mem::replace(untold, false),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_have_missed_something_is_told_since_when() {
        let sentence = may_be_more(Duration::from_secs(604_800));
        assert!(
            sentence.contains("for 604800 s: what became visible since is left out; run the"),
            "{sentence}"
        );
    }

    #[test]
    fn a_withdrawn_key_is_left_out_and_one_that_came_back_is_told_once() {
        let key = |number| ObjectKey::store_path([number; 20]);
        let (shown, gone) =
            (|number| FeedEvent::Visible(key(number)), |number| FeedEvent::Withdrawn(key(number)));
        let events = [shown(1), shown(2), gone(2), shown(3), gone(3), shown(3), shown(4)];
        let mut withdrawn = BTreeMap::new();
        note_withdrawals(&mut withdrawn, &events);
        assert_eq!(visible(&mut withdrawn, &events[..2]), [key(1)]);
        assert_eq!(visible(&mut withdrawn, &events[2..]), [key(3), key(4)]);
    }
}
