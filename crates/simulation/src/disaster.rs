//! Paths are withdrawn, one is purged, and all coordinators are lost: what was published comes back, and what is gone
//! stays so.
//!
//! Owns: the order of events of [`Story::Disaster`], how long each may take, and its claims. Always holds: whatever does not
//! come about in time is a violation; so are other digests of content or governance after the rebuild than before, a
//! withdrawn path that is shown, and bytes of a purged one on any disk in the end. Leaves to others: faults (`faults`), the
//! books (`oracle`), what an operator does for a purge (`purging`), the rebuild itself (`rebuilding`).
//!
//! [`Story::Disaster`]: crate::Story::Disaster

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use firn_base::{BundleId, BundleNumber, Digest};
use firn_client::Archive;
use firn_coordinator_logic::full_digest;
use firn_storage_node::Disk;
use tokio::time::sleep;

use crate::cache::{Cache, CachedPath};
use crate::cast::Cast;
use crate::chance::Chance;
use crate::content::{content_of, differences};
use crate::machines::Machine;
use crate::operator::{Operator, Seen};
use crate::purging::Purger;
use crate::rebuilding::{
    Away, Rebuilder, bundle_of, bundles_there, latest, suspend, take_coordinator_away, until_agreed,
};
use crate::scenario::{PUBLISHER, Trouble, open, publish_wave, read_everything, wait_for_calm};
use crate::stage::{Stage, Wish};

const STORM: Duration = Duration::from_secs(30);
const LATE_STORM: Duration = Duration::from_secs(15);
/// Until then what somebody had reserved is kept for it, and readers have learnt of replaced bundles.
const SETTLED_AFTER: Duration = Duration::from_secs(125 * 60);

/// Twice that is longer than an archive waits for nodes that may have declared an absence, or count as lost.
const WAITED_FOR: Duration = Duration::from_secs(8 * 86_400);

/// Certificates and entries of the ledger reach the nodes within seconds; those of a node that was away within a minute.
const HEARD_BY_NODES: Duration = Duration::from_secs(60);

/// Longer than the shards of a replaced bundle stay, and not as long as nodes are waited for that may have what uses it.
const AWAY_FOR: Duration = Duration::from_secs(20 * 60);

/// What follows from a command that was due while all slept.
const CARRIED_OUT: Duration = Duration::from_secs(60);

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
    let away = Away::draw(&mut chance);
    stage.away.set(away.sentence());
    let uploader = open(cast, PUBLISHER, "uploader").await?;
    let archive = open(cast, PUBLISHER, "operator").await?;
    let (operator, purger) = operators(&archive, stage);
    let (first, seconds) = (cast.first_nodes, Duration::from_secs);

    let all_there = |seen: &Seen| seen.proved() == first;
    operator.until("the first nodes are there", seconds(120), all_there).await?;
    // Before, nobody remembers what is like what.
    until_agreed(cast, stage).await?;
    for wave in 0..2 {
        publish_wave(stage, &uploader, cache, wave, &Trouble::default()).await?;
    }
    let mut taking_part = first;
    if away.hides_bundles() {
        // From here on a node gets nothing: it is not among those without whom the others cannot be read.
        suspend(cast, stage, &operator, 2 + chance.position(first - 2)).await?;
        taking_part -= 1;
    }
    let last = cache.waves[2].last().ok_or("there is a last path")?;
    publish_wave(stage, &uploader, cache, 2, &Trouble::default()).await?;
    if !away.hides_bundles() {
        // With a node suspended the last bundle may lack a home.
        operator.until("the archive is whole", seconds(240), Seen::is_whole).await?;
    }
    // The last one is to stay where it is.
    let may_go = |path: &CachedPath| path.key != last.key;
    let in_first_bundle = |path: &CachedPath| path.name.contains("-package-0-");
    let [purged, purged_later] = [(); 2].map(|()| choose(stage, &mut chance, in_first_bundle));
    let [withdrawn, reinstated] = [(); 2].map(|()| choose(stage, &mut chance, may_go));
    let needle = cache.noise_of(&purged, NEEDLE_BYTES)?;
    if disks_with(stage, &needle) == 0 {
        return Err("what is looked for in the end is nowhere from the beginning".to_owned());
    }

    // Somebody is away while bytes are to go from every disk, and everything else happens, too.
    let breaks = Duration::from_secs(20 + chance.below(60));
    stage.wish(Wish::CrashFor(Machine::Node(chance.position(first)), breaks));
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
    sleep_on(stage, &operator, taking_part, SETTLED_AFTER).await?;
    purger.until_done().await?;
    sleep(HEARD_BY_NODES).await;

    let before = Told::of(cast, stage)?;
    let (first_hidden, all) = (bundle_of(cast, stage, last)?, bundles_there(cast, stage));
    let absent = away.nodes((cast, stage), first_hidden, &mut chance)?;
    for number in &absent {
        stage.wish(Wish::CrashForGood(Machine::Node(*number)));
    }
    let archive = lose_coordinators(cast, stage, away, &mut chance).await?;
    let (operator, purger) = operators(&archive, stage);
    let rebuilder = Rebuilder { archive: &archive, cast, stage };
    rebuilder.until_in_service(away.lacks_a_coordinator()).await?;
    wait_for_calm(stage).await?;
    // Of a bundle that cannot be read its manifest may be, and with that it comes back.
    let is_readable = |number: &BundleNumber| !away.hides_bundles() || *number < first_hidden;
    let readable = all.iter().filter(|(_, number)| is_readable(number)).map(|(id, _)| *id);
    compare_bundles(cast, stage, &readable.collect(), &all.keys().copied().collect())?;
    if !away.hides_bundles() {
        compare(stage, &before, &Told::of(cast, stage)?);
    }
    until_agreed(cast, stage).await?;
    let mut gone = vec![(purged, needle)];
    if away == Away::Nodes {
        // Those who are away have to hear of it when they are back.
        gone.push((purged_later.clone(), cache.noise_of(&purged_later, NEEDLE_BYTES)?));
        purger.set_withdrawn(purged_later.key, true).await?;
        purger.begin(purged_later.key).await?;
        purger.carry_out().await?;
    } else {
        stage.committed.borrow_mut().push(purged_later);
    }
    stage.wish(Wish::Sleep(AWAY_FOR));
    wait_for_calm(stage).await?;
    sleep(CARRIED_OUT).await;
    for number in &absent {
        stage.wish(Wish::Return(Machine::Node(*number)));
    }
    operator.until("all nodes are there after the disaster", seconds(240), all_there).await?;
    if away.hides_bundles() {
        rebuilder.reopen().await?;
        rebuilder.until_in_service(false).await?;
        let all = all.into_keys().collect();
        compare_bundles(cast, stage, &all, &all)?;
        compare(stage, &before, &Told::of(cast, stage)?);
        operator.until("all nodes are there again", seconds(240), all_there).await?;
    }
    sleep_on(stage, &operator, first, SETTLED_AFTER).await?;
    purger.carry_out().await?;
    // What came back emptied goes once those count as lost that may have had what uses it.
    for _ in 0..2 {
        sleep_on(stage, &operator, first, WAITED_FOR).await?;
    }
    purger.until_done().await?;
    let whole = |seen: &Seen| seen.is_whole() && seen.proved() == first;
    operator.until("the archive is whole without what was purged", seconds(300), whole).await?;
    for (path, needle) in &gone {
        match disks_with(stage, needle) {
            0 => {}
            disks => stage.violated(format!("{} was purged, and its bytes are on {disks} disks", path.name)),
        }
    }
    for path in gone.iter().map(|(path, _)| path).chain([&withdrawn]) {
        if purger.is_visible(path.key).await != Some(false) {
            stage.violated(format!("{} was withdrawn and is shown", path.name));
        }
    }
    read_everything(cast, stage).await
}

/// All machines sleep for so long, and are there again.
async fn sleep_on(stage: &Stage, operator: &Operator, nodes: usize, time: Duration) -> Result<(), String> {
    stage.wish(Wish::Sleep(time));
    wait_for_calm(stage).await?;
    let within = Duration::from_secs(240);
    operator.until("all nodes are there after a sleep", within, |seen| seen.proved() == nodes).await?;
    Ok(())
}

/// Whether at least these bundles are there, and no others than those of `all`.
fn compare_bundles(
    cast: &Cast,
    stage: &Stage,
    least: &BTreeSet<BundleId>,
    all: &BTreeSet<BundleId>,
) -> Result<(), String> {
    let there: BTreeSet<BundleId> = bundles_there(cast, stage).into_keys().collect();
    if least.is_subset(&there) && there.is_subset(all) {
        return Ok(());
    }
    let names = |one: &BTreeSet<BundleId>, other| {
        one.difference(other).map(BundleId::short).collect::<Vec<_>>().join(", ")
    };
    Err(format!(
        "after the rebuild bundles are missing: {}; and there are others: {}",
        names(least, &there),
        names(&there, all)
    ))
}

fn compare(stage: &Stage, before: &Told, after: &Told) {
    if before.digests != after.digests {
        stage.violated(format!(
            "digests of content and governance are {:?} after the rebuild, and were {:?}; {}",
            after.digests,
            before.digests,
            differences(&before.content, &after.content)
        ));
    }
}

fn operators(archive: &Archive, stage: &Rc<Stage>) -> (Operator, Purger) {
    (Operator::new(archive.clone(), Rc::clone(stage)), Purger::new(archive.clone(), Rc::clone(stage)))
}

/// All coordinators are lost; others begin, nodes are told of them, and something goes wrong meanwhile.
async fn lose_coordinators(
    cast: &Cast,
    stage: &Rc<Stage>,
    away: Away,
    chance: &mut Chance,
) -> Result<Archive, String> {
    stage.wish(Wish::LoseCoordinators);
    if away.lacks_a_coordinator() {
        take_coordinator_away(stage);
    }
    wait_for_calm(stage).await?;
    stage.wish(Wish::RestartNodes);
    sleep(Duration::from_millis(chance.below(20_000))).await;
    // Where a coordinator is away its leader is not taken as well.
    let takes_leader = chance.per_mille(500) && !away.lacks_a_coordinator();
    stage.wish(if takes_leader { Wish::CrashLeader } else { Wish::Rage(LATE_STORM) });
    open(cast, PUBLISHER, "operator").await
}

/// What a rebuild has to bring back.
struct Told {
    /// Of content and governance.
    digests: (Digest, Digest),
    /// The content, in words.
    content: BTreeSet<String>,
}

impl Told {
    /// Of the coordinator in force that has applied most.
    fn of(cast: &Cast, stage: &Stage) -> Result<Self, String> {
        let state = latest(cast, stage);
        let digest = full_digest(&state).map_err(|error| error.to_string())?;
        Ok(Self { digests: digest.restorable(), content: content_of(&state)? })
    }
}

/// Which of some paths something is to happen to. It is read no more from now on.
fn choose(stage: &Stage, chance: &mut Chance, may_be: impl Fn(&CachedPath) -> bool) -> CachedPath {
    let mut committed = stage.committed.borrow_mut();
    let places: Vec<usize> = (0..committed.len()).filter(|place| may_be(&committed[*place])).collect();
    committed.remove(places[chance.position(places.len())])
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
