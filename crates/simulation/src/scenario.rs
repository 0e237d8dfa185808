//! What the clients do: publish in calm and in storm, abandon uploads, lose nodes, have them repaired, read everything.
//!
//! Owns: the order of events, and how long each may take once the faults are over. Always holds: whatever does
//! not come about in time is a violation. Leaves to others: faults (`faults`), the final look (`oracle`).

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use firn_base::NodeId;
use firn_client::{Archive, FrameCompression, PublishEvent, PublishEvents, PublishOptions, Source, publish};
use firn_transport::EndpointOptions;
use firn_wire::NodeState;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::cache::{Cache, CachedPath};
use crate::cast::{self, Cast};
use crate::chance::Chance;
use crate::machines::Machine;
use crate::operator::{Operator, Seen};
use crate::reading::{Reader, Reading};
use crate::stage::{Stage, Wish};

/// Waves of publishing: before, during and amid the faults.
pub(crate) const WAVES: usize = 3;

/// Shards of an upload that are stored before its publisher goes away: fewer than a commit needs.
const SHARDS_ABANDONED: u64 = 4;

/// Nodes that are lost for good.
const NODES_LOST: usize = 2;

pub(crate) const PUBLISHER: &str = "publisher";
const STORM: Duration = Duration::from_secs(40);
const LATE_STORM: Duration = Duration::from_secs(15);

/// The publisher and operator: drives the run from beginning to end.
pub(crate) async fn direct(cast: Rc<Cast>, stage: Rc<Stage>, cache: Rc<Cache>) -> turmoil::Result {
    if let Err(what) = act(&cast, &stage, &cache).await {
        stage.violated(what);
    }
    stage.finished.set(true);
    Ok(())
}

async fn act(cast: &Cast, stage: &Rc<Stage>, cache: &Cache) -> Result<(), String> {
    let mut chance = cast.chance("scenario");
    let uploader = open(cast, PUBLISHER, "uploader").await?;
    let archive = open(cast, PUBLISHER, "operator").await?;
    let operator = Operator::new(archive, Rc::clone(stage));
    let seconds = Duration::from_secs;

    operator
        .until("the first nodes are there", seconds(120), |seen| seen.proved() == cast.first_nodes)
        .await?;
    publish_wave(stage, &uploader, cache, 0, &Trouble::default()).await?;
    stage.wish(Wish::Rage(STORM));
    for wave in 1..WAVES {
        let trouble = Trouble::draw(wave, &mut chance);
        publish_wave(stage, &uploader, cache, wave, &trouble).await?;
    }
    wait_for_calm(stage).await?;
    abandon_uploads(&uploader, cache).await?;
    // What a publisher that went away had reserved is kept for it for two hours, and repair waits for it.
    stage.wish(Wish::Sleep(seconds(125 * 60)));
    wait_for_calm(stage).await?;
    operator.until("the archive is whole after the storm", seconds(240), Seen::is_whole).await?;

    let lost = lose_nodes(cast, stage, &mut chance);
    // As many come as went, so that the archive stays as wide as it was.
    stage.joining.set(NODES_LOST);
    for number in &lost {
        let node = cast.identity(&cast::node(*number)).node_id();
        operator.set_state(node, NodeState::Lost, &[NodeState::Lost]).await?;
    }
    // Repair, too, is at times interrupted by its leader's end or by anything else.
    sleep(Duration::from_millis(chance.below(3000))).await;
    stage.wish(if chance.per_mille(500) { Wish::CrashLeader } else { Wish::Rage(LATE_STORM) });
    wait_for_calm(stage).await?;
    let there = cast.first_nodes;
    let repaired = |seen: &Seen| seen.is_whole() && seen.proved() == there;
    operator.until("the lost shards are made anew", seconds(300), repaired).await?;

    let drained = drain_a_node(cast, &operator, &lost, &mut chance).await?;
    // The moved shards need homes where there were none: in a fleet this small every house has one of each.
    stage.joining.set(cast.nodes - cast.first_nodes);
    let there = cast.nodes - NODES_LOST - 1;
    let moved = |seen: &Seen| {
        seen.is_whole() && seen.proved() == there && seen.state(drained) == Some(NodeState::Gone)
    };
    operator.until("the drained node's shards have moved", seconds(240), moved).await?;

    stage.wish(Wish::RestartNodes);
    wait_for_calm(stage).await?;
    sleep(seconds(5)).await;
    operator.until("restarted nodes count again", seconds(240), moved).await?;
    read_everything(cast, stage).await
}

/// A reader that reads all the time, whatever happens.
pub(crate) async fn read_meanwhile(cast: Rc<Cast>, stage: Rc<Stage>) -> turmoil::Result {
    let mut chance = cast.chance("reader");
    let archive = open(&cast, "reader", "reader").await?;
    while !stage.finished.get() {
        sleep(Duration::from_millis(500 + chance.below(2500))).await;
        let path = {
            let committed = stage.committed.borrow();
            if committed.is_empty() {
                continue;
            }
            committed[chance.position(committed.len())].clone()
        };
        // Without memory, so that every read is one from nodes.
        match Reader::new(&archive).read(&path).await {
            Reading::Right => stage.reads.set(stage.reads.get() + 1),
            Reading::NotNow(_) => stage.reads_put_off.set(stage.reads_put_off.get() + 1),
            Reading::Wrong(what) => stage.violated(format!("{} was read wrongly: {what}", path.name)),
        }
    }
    Ok(())
}

pub(crate) async fn open(cast: &Cast, host: &str, who: &str) -> Result<Archive, String> {
    let (environment, descriptor) = (cast.environment(host), cast.in_force());
    let opened =
        Archive::with_descriptor(&descriptor, cast.identity(who), EndpointOptions::default(), &environment);
    opened.await.map_err(|error| format!("{who} cannot open the archive: {error}"))
}

/// What befalls a publisher once its first shard is stored.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// The leader loses its power.
    pub(crate) crash_leader: bool,
    /// The publish is interrupted after so long, to be run again.
    pub(crate) interrupt_after: Option<Duration>,
}

impl Trouble {
    fn draw(wave: usize, chance: &mut Chance) -> Self {
        let crash_leader = wave == 1 || chance.per_mille(500);
        let pause = Duration::from_millis(chance.below(600));
        Self { crash_leader, interrupt_after: chance.per_mille(400).then_some(pause) }
    }
}

/// Begins to publish the paths of the last wave one by one, and goes away from each before it can be committed.
async fn abandon_uploads(uploader: &Archive, cache: &Cache) -> Result<(), String> {
    for path in &cache.waves[WAVES] {
        let mut options = options_for(cache, std::slice::from_ref(path))?;
        options.jobs = 1;
        options.threads = 1;
        let (stored, enough) = (AtomicU64::new(0), Arc::new(Notify::new()));
        let told = Arc::clone(&enough);
        let events = PublishEvents::new(move |event| {
            if matches!(event, PublishEvent::ShardStored { .. })
                && stored.fetch_add(1, Ordering::Relaxed) + 1 == SHARDS_ABANDONED
            {
                told.notify_one();
            }
        });
        tokio::select! {
            biased;
            () = enough.notified() => {}
            // It has refused, or been quicker than we.
            _ = publish(uploader, options, events) => {}
        }
    }
    Ok(())
}

/// How to publish some paths of the cache.
fn options_for(cache: &Cache, paths: &[CachedPath]) -> Result<PublishOptions, String> {
    let source = cache.path().to_str().ok_or("the cache's directory has a plain name")?;
    let mut options = PublishOptions::new(Source::open(source).map_err(|error| error.to_string())?);
    options.paths = Some(paths.iter().map(|path| path.hash_part.clone()).collect::<Vec<_>>().into());
    options.frame_compression = FrameCompression::Zstd(1);
    // As few bytes as there are here never fill a quarter of a bundle, and purges shall meet bundles that use others.
    options.reuse_small_bundles = true;
    Ok(options)
}

/// Publishes a wave until all of it is committed.
pub(crate) async fn publish_wave(
    stage: &Rc<Stage>,
    uploader: &Archive,
    cache: &Cache,
    wave: usize,
    trouble: &Trouble,
) -> Result<(), String> {
    const WITHIN: Duration = Duration::from_secs(600);
    let paths: &[CachedPath] = &cache.waves[wave];
    let stored = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let mut to_come = true;
    loop {
        let mut options = options_for(cache, paths)?;
        options.jobs = 2;
        options.threads = 1;
        let told = Arc::clone(&stored);
        let events = PublishEvents::new(move |event| {
            if matches!(event, PublishEvent::ShardStored { .. }) {
                told.store(true, Ordering::Relaxed);
            }
        });
        let publishing = publish(uploader, options, events);
        let watching = async {
            while !stored.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(10)).await;
            }
            if std::mem::replace(&mut to_come, false) {
                if trouble.crash_leader {
                    stage.wish(Wish::CrashLeader);
                }
                if let Some(pause) = trouble.interrupt_after {
                    return sleep(pause).await;
                }
            }
            std::future::pending::<()>().await;
        };
        let outcome = tokio::select! {
            biased;
            outcome = publishing => outcome,
            () = watching => continue,
        };
        match outcome {
            Ok(summary) if summary.is_complete() => break,
            Ok(summary) => {
                return Err(format!(
                    "wave {wave} was not published whole: {:?} {:?}",
                    summary.refused, summary.waiting
                ));
            }
            Err(stopped) if begun.elapsed() > WITHIN => {
                return Err(format!("wave {wave} was not published within {WITHIN:?}: {stopped}"));
            }
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
    stage.committed.borrow_mut().extend_from_slice(paths);
    Ok(())
}

pub(crate) async fn wait_for_calm(stage: &Stage) -> Result<(), String> {
    let begun = Instant::now();
    while !stage.calm.get() || !stage.wishes.borrow().is_empty() {
        if begun.elapsed() > Duration::from_secs(120) {
            return Err("the faults do not end".to_owned());
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Switches nodes of the first fleet off for good.
fn lose_nodes(cast: &Cast, stage: &Stage, chance: &mut Chance) -> Vec<usize> {
    let mut candidates: Vec<usize> = (0..cast.first_nodes).collect();
    let lost: Vec<usize> =
        (0..NODES_LOST).map(|_| candidates.swap_remove(chance.position(candidates.len()))).collect();
    for number in &lost {
        stage.wish(Wish::CrashForGood(Machine::Node(*number)));
    }
    lost
}

/// Asks for a node's shards to be moved away.
async fn drain_a_node(
    cast: &Cast,
    operator: &Operator,
    lost: &[usize],
    chance: &mut Chance,
) -> Result<NodeId, String> {
    let candidates: Vec<usize> = (0..cast.first_nodes).filter(|number| !lost.contains(number)).collect();
    let number = candidates[chance.position(candidates.len())];
    let node = cast.identity(&cast::node(number)).node_id();
    operator.set_state(node, NodeState::Draining, &[NodeState::Draining, NodeState::Gone]).await?;
    Ok(node)
}

/// Reads every committed path with a reader that remembers nothing.
pub(crate) async fn read_everything(cast: &Cast, stage: &Stage) -> Result<(), String> {
    const TRIES: u32 = 3;
    let reader = Reader::new(&open(cast, PUBLISHER, "last reader").await?);
    let paths = stage.committed.borrow().clone();
    for path in paths {
        let mut tries = 0;
        loop {
            tries += 1;
            match reader.read(&path).await {
                Reading::Right => break,
                Reading::NotNow(_) if tries < TRIES => sleep(Duration::from_secs(2)).await,
                Reading::NotNow(what) | Reading::Wrong(what) => {
                    stage.violated(format!("{} was committed and cannot be read: {what}", path.name));
                    break;
                }
            }
        }
    }
    Ok(())
}
