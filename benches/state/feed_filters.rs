//! Filters over the feed of a filled coordinator: making them, starting again with them, and what commits lose beside it.
//!
//! Always holds: a list that does not cover the feed, or is not there again after a start, ends the run. Leaves to others:
//! the state, which is filled before (`filling`).

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use firn_base::Timestamp;
use firn_coordinator::storage::{RocksDb, StoreKind};
use firn_coordinator::{
    Coordinator, CoordinatorOptions, ERASE_AFTER, FilterOptions, Peer, RECODE_AFTER, RebuildOptions, Timing,
    found_archive,
};
use firn_coordinator_logic::{FILTER_UNIT_EVENTS, Facts};
use firn_transport::{Endpoint, EndpointOptions, Environment};
use firn_wire::{CoordinatorReply, CoordinatorRequest, FilterList, Identity};

use crate::Failure;
use crate::filling::publish_bundle;
use crate::generator::Generator;
use crate::machine;
use crate::members::{log_path, state_path};

/// Bundles that are there for commits beside the making, more than can be published in that time.
pub(crate) const BUNDLES_BESIDE: u64 = 1 << 20;

/// What making filters took.
pub(crate) struct Made {
    pub(crate) events: u64,
    pub(crate) filters: usize,
    pub(crate) bytes: u64,
    /// Until the list covered the feed, from the start of the program on, while commits went on.
    pub(crate) seconds: f64,
    pub(crate) beside_per_second: f64,
    /// The same commits, nothing being made, for as long.
    pub(crate) alone_per_second: f64,
    pub(crate) resident_before: String,
    pub(crate) resident_after: String,
    /// From opening the stores to the first list that covers the feed, at a second start.
    pub(crate) again: Duration,
}

/// Makes them beside commits, then starts once more.
pub(crate) async fn measure(dir: &Path, generator: &Generator, uploads: u64) -> Result<Made, Failure> {
    let begun = Instant::now();
    let coordinator = start(dir).await?;
    coordinator.consensus().watch().wait_for(|status| status.is_leader).await;
    let counters = coordinator.consensus().facts().counters()?;
    let events = counters.feed_head;
    let resident_before = machine::resident_megabytes()?;
    // The whole coordinator has a clock: reservations of a time that has passed end at once. Bundles of an earlier run are
    // among those that are there.
    let fresh = Generator::bundle_after(now()?).saturating_add(counters.next_bundle.into());
    let next = Arc::new(AtomicU64::new(generator.bundles().max(fresh)));
    let more = generator.longer(BUNDLES_BESIDE);
    let mut list = None;
    let beside_per_second = commits_during(&coordinator, (&more, uploads), &next, async {
        list = Some(until_covered(&coordinator, events).await?);
        Ok(())
    })
    .await?;
    let list = list.ok_or("no list")?;
    let seconds = begun.elapsed().as_secs_f64();
    let resident_after = machine::resident_megabytes()?;
    let alone_per_second = commits_during(&coordinator, (&more, uploads), &next, async {
        tokio::time::sleep(Duration::from_secs_f64(seconds.min(30.0))).await;
        Ok(())
    })
    .await?;
    coordinator.shutdown().await;
    let begun = Instant::now();
    let coordinator = start(dir).await?;
    until_covered(&coordinator, events).await?;
    let again = begun.elapsed();
    coordinator.shutdown().await;
    Ok(Made {
        events,
        filters: list.filters.len(),
        bytes: list.filters.iter().map(|filter| filter.bytes).sum(),
        seconds,
        beside_per_second,
        alone_per_second,
        resident_before,
        resident_after,
        again,
    })
}

fn now() -> Result<Timestamp, Failure> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(Timestamp::from_millis(u64::try_from(since.as_millis())?))
}

/// The first member as a whole coordinator.
async fn start(dir: &Path) -> Result<Coordinator, Failure> {
    let environment = Environment::real();
    let identity = Identity::from_seed(&[1; 32]);
    let address = (Ipv4Addr::LOCALHOST, 0).into();
    let endpoint = Endpoint::bind(&environment, &identity, address, EndpointOptions::default()).await?;
    let own = Peer { id: identity.node_id(), address: endpoint.local_address().to_string() };
    let (log, state) = (log_path(dir, 1), state_path(dir, 1));
    let options = CoordinatorOptions {
        identity,
        descriptor: found_archive(&Identity::from_seed(&[77; 32]), own, &[], Generator::time(0)),
        named_since: None,
        endpoint,
        log: Arc::new(RocksDb::open(&log, StoreKind::Log)?),
        state: Arc::new(RocksDb::open(&state, StoreKind::State)?),
        founding: None,
        timing: Timing::default(),
        recode_after: RECODE_AFTER,
        erase_after: ERASE_AFTER,
        disk_windows: None,
        address_table: None,
        filters: FilterOptions::in_directory(dir.join("member-1/filters")),
        rebuild: RebuildOptions::default(),
        environment,
    };
    Ok(Coordinator::start(options).await?)
}

/// Waits for a list of filters that covers all whole units of the first `events` events.
async fn until_covered(coordinator: &Coordinator, events: u64) -> Result<FilterList, Failure> {
    let wanted = events / FILTER_UNIT_EVENTS * FILTER_UNIT_EVENTS;
    loop {
        let reply = coordinator.administration().ask(CoordinatorRequest::ListFilters).await;
        let CoordinatorReply::Filters(signed) = reply else { return Err("no list of filters".into()) };
        let list = signed.peek()?;
        if list.filters.last().map_or(0, |filter| filter.range.end) >= wanted {
            return Ok(list);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Bundles published per second until `ended` is.
async fn commits_during(
    coordinator: &Coordinator,
    (generator, uploads): (&Generator, u64),
    next: &Arc<AtomicU64>,
    ended: impl Future<Output = Result<(), Failure>>,
) -> Result<f64, Failure> {
    let (stop, begun, first) =
        (Arc::new(AtomicBool::new(false)), Instant::now(), next.load(Ordering::Relaxed));
    let uploads: Vec<_> = (0..uploads)
        .map(|_| {
            let (leader, generator) = (coordinator.consensus().clone(), generator.clone());
            let (stop, next) = (Arc::clone(&stop), Arc::clone(next));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let bundle = next.fetch_add(1, Ordering::Relaxed);
                    publish_bundle(&leader, &generator, bundle, false).await?;
                }
                Ok::<_, Failure>(())
            })
        })
        .collect();
    ended.await?;
    stop.store(true, Ordering::Relaxed);
    for upload in uploads {
        upload.await??;
    }
    let published = next.load(Ordering::Relaxed) - first;
    Ok(published as f64 / begun.elapsed().as_secs_f64())
}
