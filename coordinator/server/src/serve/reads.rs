//! What any replica answers from its applied state.
//!
//! Always holds: presence is an immutable fact once true; a page never exceeds its bound. Leaves to others:
//! absence that must be current (readers compare feed positions); events are told however long nobody was heard, and what is
//! said of the head is said with its age.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use firn_base::{Feature, ObjectKey};
use firn_coordinator_logic::{Facts, Scan, bundle_info, find_similar};
use firn_wire::{
    BUNDLES_PER_REQUEST_MAX, BundleInfo, BundleName, CoordinatorReply, FEATURES_PER_REQUEST_MAX,
    FEED_EVENTS_MAX, FeedBatch, HeldPath, KEYS_PER_REQUEST_MAX, LedgerPage, NodeAddress, RefusedRequest,
    Signed,
};
use tokio::time::{Instant, timeout_at};

use crate::shared::{Shared, disk, malformed};
use crate::storage::StorageError;

type Reply = Result<CoordinatorReply, RefusedRequest>;

/// The longest that a reader may wait for news: below the idle timeouts of what lies between.
const FEED_WAIT_MAX: Duration = Duration::from_secs(30);
/// Who waits for news learns this soon that nobody is heard who could tell them.
const FRESHNESS_LOOK: Duration = Duration::from_secs(1);
/// Held paths and external references in one answer.
const LIST_MAX: usize = 10_000;
/// Entries of the ledger in one answer: names are bounded, so a page stays within a control message.
pub(super) const LEDGER_PAGE: usize = 2_048;

pub(super) fn ledger(shared: &Shared, from: u64) -> Reply {
    let facts = shared.facts()?;
    let head = facts.counters().map_err(|error| disk(&error))?.ledger;
    let entries = facts.ledger_from(from, LEDGER_PAGE).map_err(|error| disk(&error))?;
    let signed_head = Signed::seal(&shared.identity, shared.archive, &head);
    Ok(CoordinatorReply::Ledger(LedgerPage { entries, signed_head }))
}

/// What a majority signed can be told from it alone, by whoever has the ledger's entries.
pub(super) fn ledger_heads(shared: &Shared) -> Reply {
    let head = shared.facts()?.counters().map_err(|error| disk(&error))?.ledger;
    let in_force = shared.standing.in_force();
    let others = in_force.roster.roster().coordinators.iter().map(|entry| entry.id);
    let mut heads = shared.ledger_heads.of(others.filter(|id| *id != shared.identity.node_id()));
    heads.push(Signed::seal(&shared.identity, shared.archive, &head));
    Ok(CoordinatorReply::LedgerHeads(heads))
}

fn bounded(keys: &[ObjectKey]) -> Result<(), RefusedRequest> {
    if keys.len() > KEYS_PER_REQUEST_MAX {
        return Err(malformed(format!("ask for at most {KEYS_PER_REQUEST_MAX} keys at a time")));
    }
    Ok(())
}

pub(super) fn presence(shared: &Shared, keys: &[ObjectKey]) -> Reply {
    bounded(keys)?;
    let facts = shared.facts()?;
    let found: Result<_, StorageError> = keys.iter().map(|key| facts.is_archived(*key)).collect();
    Ok(CoordinatorReply::Presence(found.map_err(|error| disk(&error))?))
}

pub(super) fn lookup(shared: &Shared, keys: &[ObjectKey]) -> Reply {
    bounded(keys)?;
    Ok(CoordinatorReply::Lookup(shared.facts()?.lookup(keys).map_err(|error| disk(&error))?))
}

pub(super) async fn similar(shared: &Arc<Shared>, features: Vec<Feature>) -> Reply {
    if features.len() > FEATURES_PER_REQUEST_MAX {
        return Err(malformed(format!("ask for at most {FEATURES_PER_REQUEST_MAX} features at a time")));
    }
    let (facts, asked) = (shared.facts()?, Arc::clone(shared));
    // Up to four bundles for each feature are looked up: not on the threads of the network.
    let find = move || find_similar(&facts, &*asked.going(&facts)?, &features);
    let found = shared.environment.blocking(find).await.map_err(|error| disk(&error))?;
    Ok(CoordinatorReply::Similar(found))
}

pub(super) fn bundles(shared: &Shared, names: &[BundleName]) -> Reply {
    if names.len() > BUNDLES_PER_REQUEST_MAX {
        return Err(malformed(format!("ask for at most {BUNDLES_PER_REQUEST_MAX} bundles at a time")));
    }
    let facts = shared.facts()?;
    let find = |name: &BundleName| -> Result<Option<BundleInfo>, StorageError> {
        let record = match name {
            BundleName::Number(number) => facts.bundle(*number)?,
            BundleName::Id(id) => facts.bundle_by_id(*id)?,
        };
        // One that was erased is as good as unknown: readers look its paths up anew.
        let record = record.filter(|record| !record.codings.is_empty());
        record.map(|record| bundle_info(&facts, &record)).transpose()
    };
    let found: Result<_, StorageError> = names.iter().map(find).collect();
    Ok(CoordinatorReply::Bundles(found.map_err(|error| disk(&error))?))
}

pub(super) fn nodes(shared: &Shared) -> Reply {
    let records = shared.facts()?.all_nodes().map_err(|error| disk(&error))?;
    let now = shared.environment.now();
    let soft = shared.soft();
    let addresses = records.iter().filter(|record| record.is_member()).map(|record| NodeAddress {
        node: record.id,
        address: record.address.clone(),
        online: soft.fleet.serves_readers(record.number, now),
    });
    Ok(CoordinatorReply::Nodes(addresses.collect()))
}

/// The answer to those who do not ask how fresh it is: they wait in any case.
pub(super) async fn feed(shared: &Shared, from: u64, wait_millis: u32) -> Reply {
    let (batch, _) = told(shared, from, wait_millis, false).await?;
    Ok(CoordinatorReply::Feed(batch))
}

pub(super) async fn news(shared: &Shared, from: u64, wait_millis: u32) -> Reply {
    // Who is cut off has nothing to wait for.
    let (batch, stale) = told(shared, from, wait_millis, true).await?;
    let stale_millis = stale.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    Ok(CoordinatorReply::News { batch, stale_millis })
}

/// Events, and how stale it is that there are no more. Waits for one, if so told only while somebody is heard.
async fn told(
    shared: &Shared,
    from: u64,
    wait_millis: u32,
    while_heard: bool,
) -> Result<(Signed<FeedBatch>, Option<Duration>), RefusedRequest> {
    let wait = Duration::from_millis(wait_millis.into()).min(FEED_WAIT_MAX);
    let deadline = Instant::now() + wait;
    let mut watch = shared.consensus.watch();
    let mut waits = true;
    loop {
        // Before the state is read: what it has then is at least as new.
        let stale = shared.consensus.stale();
        // Whatever is applied from here on wakes the wait below.
        let applied = watch.status().applied;
        let facts = shared.facts()?;
        let head = facts.counters().map_err(|error| disk(&error))?.feed_head;
        let events = facts.feed_from(from, FEED_EVENTS_MAX).map_err(|error| disk(&error))?;
        waits &= Instant::now() < deadline && !(while_heard && stale.is_some());
        if !waits || !events.is_empty() {
            let batch = FeedBatch { first: from, events, head };
            return Ok((Signed::seal(&shared.identity, shared.archive, &batch), stale));
        }
        let is_cut_off = || while_heard && shared.consensus.stale().is_some();
        // A member that has ended applies nothing more.
        let applies = watch.wait_for(|now| now.applied > applied);
        waits = comes(applies, deadline, is_cut_off).await;
    }
}

/// Whether `news` come with `true` before the deadline, and before it is found that nobody is heard who could tell them.
/// Thousands wait at a time: nothing is read meanwhile.
async fn comes(news: impl Future<Output = bool>, deadline: Instant, is_cut_off: impl Fn() -> bool) -> bool {
    let mut news = pin!(news);
    loop {
        let look = deadline.min(Instant::now() + FRESHNESS_LOOK);
        match timeout_at(look, news.as_mut()).await {
            Ok(come) => return come,
            Err(_) if Instant::now() >= deadline || is_cut_off() => return false,
            Err(_) => {}
        }
    }
}

pub(super) fn held(shared: &Shared) -> Reply {
    let facts = shared.facts()?;
    let mut paths = Vec::new();
    for record in facts.held_after(None, LIST_MAX).map_err(|error| disk(&error))? {
        // One that is withdrawn waits in silence.
        if !facts.is_withdrawn(record.key).map_err(|error| disk(&error))? {
            paths.push(HeldPath { key: record.key, waiting_for: record.waits });
        }
    }
    Ok(CoordinatorReply::Held(paths))
}

pub(super) fn externals(shared: &Shared) -> Reply {
    let keys = shared.facts()?.externals_after(None, LIST_MAX).map_err(|error| disk(&error))?;
    Ok(CoordinatorReply::Externals(keys))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn after(time: Duration) -> bool {
        sleep(time).await;
        true
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_news_has_them_at_once_and_nothing_is_looked_at_meanwhile_but_who_is_heard() {
        let (began, looks) = (Instant::now(), Cell::new(0));
        let deadline = began + SECOND * 30;
        let is_heard = || {
            looks.set(looks.get() + 1);
            false
        };
        assert!(comes(after(SECOND * 10 + SECOND / 2), deadline, is_heard).await);
        assert_eq!((began.elapsed(), looks.get()), (SECOND * 10 + SECOND / 2, 10));
        assert!(!comes(after(SECOND * 30), deadline, is_heard).await);
        assert_eq!(began.elapsed(), SECOND * 30);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_when_nobody_is_heard_any_more() {
        let began = Instant::now();
        let is_cut_off = || began.elapsed() > SECOND * 4;
        assert!(!comes(after(SECOND * 20), began + SECOND * 30, is_cut_off).await);
        assert_eq!(began.elapsed(), SECOND * 5);
    }
}
