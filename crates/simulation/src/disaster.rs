//! Paths are withdrawn, one is purged, and all coordinators are lost: what was published comes back, and what is gone stays so.
//!
//! Owns: the order of events of [`Story::Disaster`], how long each may take, and its claims. Always holds: whatever does not
//! come about in time is a violation; so are other digests of content or governance after the rebuild than before, a
//! withdrawn path that is shown, and bytes of the purged one on any disk in the end. Leaves to others: faults (`faults`), the
//! books (`oracle`), what an operator does for a purge (`purging`).
//!
//! [`Story::Disaster`]: crate::Story::Disaster

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use firn_base::Digest;
use firn_client::Archive;
use firn_coordinator::StateFacts;
use firn_coordinator_logic::{Facts, full_digest};
use firn_storage_node::Disk;
use firn_wire::{AdminReply, AdminRequest, RebuildStage};
use tokio::time::{Instant, sleep};

use crate::cache::{Cache, CachedPath};
use crate::cast::Cast;
use crate::chance::Chance;
use crate::machines::Machine;
use crate::operator::{Operator, Seen};
use crate::purging::Purger;
use crate::scenario::{PUBLISHER, Trouble, open, publish_wave, read_everything, wait_for_calm};
use crate::stage::{Stage, Wish};

const STORM: Duration = Duration::from_secs(30);
const LATE_STORM: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Until then what somebody had reserved is kept for it, and readers have learnt of replaced bundles.
const SETTLED_AFTER: Duration = Duration::from_secs(125 * 60);

/// Certificates and entries of the ledger reach the nodes within seconds; those of a node that was away within a minute.
const HEARD_BY_NODES: Duration = Duration::from_secs(60);

const REBUILT_WITHIN: Duration = Duration::from_secs(600);

/// So many bytes of a path's noise are looked for: no other bytes are the same, and zstd leaves them as they are.
const NEEDLE_BYTES: usize = 48;

/// The publisher and operator: drives the run from beginning to end.
pub(crate) async fn direct_disaster(cast: Rc<Cast>, stage: Rc<Stage>, cache: Rc<Cache>) -> turmoil::Result {
    if let Err(what) = act(&cast, &stage, &cache).await {
        stage.violated(what);
    }
    stage.finished.set(true);
    Ok(())
}

async fn act(cast: &Cast, stage: &Rc<Stage>, cache: &Cache) -> Result<(), String> {
    let mut chance = cast.chance("disaster");
    let uploader = open(cast, PUBLISHER, "uploader").await?;
    let archive = open(cast, PUBLISHER, "operator").await?;
    let (operator, purger) = operators(&archive, stage);
    let (first, seconds) = (cast.first_nodes, Duration::from_secs);

    operator.until("the first nodes are there", seconds(120), |seen| seen.proved() == first).await?;
    for wave in 0..2 {
        publish_wave(stage, &uploader, cache, wave, &Trouble::default()).await?;
    }
    operator.until("the archive is whole", seconds(240), Seen::is_whole).await?;
    let [withdrawn, reinstated, purged] = [(); 3].map(|()| choose(stage, &mut chance));
    let needle = cache.noise_of(&purged, NEEDLE_BYTES)?;
    if disks_with(stage, &needle) == 0 {
        return Err("what is looked for in the end is nowhere from the beginning".to_owned());
    }

    // Somebody is away while bytes are to go from every disk, and everything else happens, too.
    let away = Duration::from_secs(20 + chance.below(60));
    stage.wish(Wish::CrashFor(Machine::Node(chance.position(first)), away));
    stage.wish(Wish::Rage(STORM));
    for path in [&withdrawn, &reinstated, &purged] {
        purger.set_withdrawn(path.key, true).await?;
    }
    purger.set_withdrawn(reinstated.key, false).await?;
    stage.committed.borrow_mut().push(reinstated);
    purger.begin(purged.key).await?;
    purger.carry_out().await?;
    wait_for_calm(stage).await?;
    // Of the bundle in whose place others are, the shards stay for ten minutes. An archive that is lost before they are gone
    // comes back with both: nothing is missing, but the purge begins anew.
    stage.wish(Wish::Sleep(SETTLED_AFTER));
    wait_for_calm(stage).await?;
    purger.until_done().await?;
    let all_there = |seen: &Seen| seen.proved() == first;
    operator.until("all nodes are there before the disaster", seconds(240), all_there).await?;
    sleep(HEARD_BY_NODES).await;

    let before = digests(cast, stage)?;
    let (operator, purger) = survive(cast, stage, &mut chance).await?;
    let after = digests(cast, stage)?;
    if before != after {
        stage.violated(format!(
            "digests of content and governance are {after:?} after the rebuild, and were {before:?}"
        ));
    }
    operator.until("all nodes are there after the disaster", seconds(240), all_there).await?;
    stage.wish(Wish::Sleep(SETTLED_AFTER));
    wait_for_calm(stage).await?;
    purger.carry_out().await?;
    purger.until_done().await?;
    let whole = |seen: &Seen| seen.is_whole() && seen.proved() == first;
    operator.until("the archive is whole without what was purged", seconds(300), whole).await?;
    for path in [&withdrawn, &purged] {
        if purger.is_visible(path.key).await != Some(false) {
            stage.violated(format!("{} was withdrawn and is shown", path.name));
        }
    }
    match disks_with(stage, &needle) {
        0 => {}
        disks => stage.violated(format!("{} was purged, and its bytes are on {disks} disks", purged.name)),
    }
    read_everything(cast, stage).await
}

fn operators(archive: &Archive, stage: &Rc<Stage>) -> (Operator, Purger) {
    (Operator::new(archive.clone(), Rc::clone(stage)), Purger::new(archive.clone(), Rc::clone(stage)))
}

/// All coordinators are lost; others begin, nodes are told of them, and something goes wrong meanwhile. Gives those who
/// administer the archive when it is in service again.
async fn survive(cast: &Cast, stage: &Rc<Stage>, chance: &mut Chance) -> Result<(Operator, Purger), String> {
    stage.wish(Wish::LoseCoordinators);
    wait_for_calm(stage).await?;
    stage.wish(Wish::RestartNodes);
    sleep(Duration::from_millis(chance.below(20_000))).await;
    stage.wish(if chance.per_mille(500) { Wish::CrashLeader } else { Wish::Rage(LATE_STORM) });
    let archive = open(cast, PUBLISHER, "operator").await?;
    let begun = Instant::now();
    let mut last = None;
    loop {
        // What it came to is told by the coordinator that led it; a later leader knows only that it has ended.
        if let Ok(AdminReply::Rebuild(progress)) =
            archive.coordinators().administer(AdminRequest::RebuildProgress).await
        {
            if let Some(progress) = &progress {
                stage.restored.set(stage.restored.get().max(progress.bundles_restored));
            }
            let has_ended = progress.as_ref().is_none_or(|progress| progress.stage == RebuildStage::Ended);
            last = progress.or(last);
            if has_ended && is_in_service(cast, stage) {
                break;
            }
        }
        if begun.elapsed() > REBUILT_WITHIN {
            return Err(format!("within {REBUILT_WITHIN:?} the archive is not rebuilt: {last:?}"));
        }
        sleep(LOOK_AGAIN).await;
    }
    wait_for_calm(stage).await?;
    if let Some(unrestored) = last.filter(|progress| progress.bundles_unrestored > 0) {
        return Err(format!("not everything came back: {unrestored:?}"));
    }
    Ok(operators(&archive, stage))
}

fn states(cast: &Cast, stage: &Stage) -> Vec<StateFacts> {
    let all = stage.states.borrow();
    all[cast.coordinators_in_force()].iter().map(|state| StateFacts::new(Arc::new(state.clone()))).collect()
}

/// Whether a majority of the coordinators in force has applied that the rebuild has ended.
fn is_in_service(cast: &Cast, stage: &Stage) -> bool {
    let states = states(cast, stage);
    let has_ended = |state: &&StateFacts| {
        state.counters().is_ok_and(|counters| !counters.rebuilding && counters.next_bundle > 0)
    };
    states.iter().filter(has_ended).count() * 2 > states.len()
}

/// The digests of content and governance of the coordinator in force that has applied most.
fn digests(cast: &Cast, stage: &Stage) -> Result<(Digest, Digest), String> {
    let how_far = |state: &StateFacts| {
        let counters = state.counters().ok();
        counters.map(|counters| (!counters.rebuilding, counters.ledger.entries, counters.feed_head))
    };
    let latest = states(cast, stage).into_iter().max_by_key(how_far).ok_or("there are coordinators")?;
    let digest = full_digest(&latest).map_err(|error| error.to_string())?;
    Ok(digest.restorable())
}

/// Which path something is to happen to. It is read no more from now on.
fn choose(stage: &Stage, chance: &mut Chance) -> CachedPath {
    let mut committed = stage.committed.borrow_mut();
    let place = chance.position(committed.len());
    committed.remove(place)
}

/// On how many disks `needle` is, trash included.
fn disks_with(stage: &Stage, needle: &[u8]) -> usize {
    let holds = |disk: &firn_storage_node::MemoryDisk| {
        disk.paths().iter().filter(|path| path.starts_with("shards/")).any(|path| {
            let contents = disk.open(path).and_then(|file| {
                let bytes = usize::try_from(file.bytes()?).unwrap_or(0);
                let mut contents = vec![0; bytes];
                file.read_at(0, &mut contents)?;
                Ok(contents)
            });
            contents.is_ok_and(|contents| contents.windows(needle.len()).any(|window| window == needle))
        })
    };
    stage.disks.borrow().iter().filter(|disk| holds(disk)).count()
}
