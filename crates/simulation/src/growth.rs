//! A fleet on lines of all kinds that grows, while nodes fall silent and return.
//!
//! Owns: the order of events of [`Story::Growth`], and how long each may take once the faults are over. Always holds:
//! whatever does not come about in time is a violation. Leaves to others: faults (`faults`), the final look
//! (`oracle`), what both stories do (`scenario`).
//!
//! [`Story::Growth`]: crate::Story::Growth

use std::rc::Rc;
use std::time::Duration;

use firn_base::Scheme;
use tokio::time::{Instant, sleep};

use crate::cache::Cache;
use crate::cast::{self, COUNT_LOST_AFTER, Cast};
use crate::chance::Chance;
use crate::machines::Machine;
use crate::operator::{Operator, Seen};
use crate::scenario::{PUBLISHER, Trouble, open, publish_wave, read_everything, wait_for_calm};
use crate::stage::{Stage, Wish};

const STORM: Duration = Duration::from_secs(30);
const LATE_STORM: Duration = Duration::from_secs(15);

// Until then a publisher that went away may come back, and its bundles are not repaired.
const RESERVED_FOR: Duration = Duration::from_secs(125 * 60);

// Replaced copies are kept for ten minutes. And who comes back after it counted as lost may find that its neighbour holds a
// shard of a bundle of which it holds one: in a fleet as young as this one they are moved apart after three days.
const SETTLED_AFTER: Duration = Duration::from_secs(3 * 86_400 + 11 * 60);

/// The publisher and operator: drives the run from beginning to end.
pub(crate) async fn direct_growth(cast: Rc<Cast>, stage: Rc<Stage>, cache: Rc<Cache>) -> turmoil::Result {
    if let Err(what) = act(&cast, &stage, &cache).await {
        stage.violated(what);
    }
    stage.finished.set(true);
    Ok(())
}

async fn act(cast: &Cast, stage: &Rc<Stage>, cache: &Cache) -> Result<(), String> {
    let mut chance = cast.chance("growth");
    let uploader = open(cast, PUBLISHER, "uploader").await?;
    let archive = open(cast, PUBLISHER, "operator").await?;
    let operator = Operator::new(archive, Rc::clone(stage));
    let seconds = Duration::from_secs;

    let first = cast.first_nodes;
    operator.until("the first nodes are there", seconds(120), |seen| seen.proved() == first).await?;
    publish_wave(stage, &uploader, cache, 0, &Trouble::default()).await?;
    fall_silent(stage, first, &mut chance);
    stage.wish(Wish::Rage(STORM));
    let trouble = Trouble { crash_leader: true, interrupt_after: None };
    publish_wave(stage, &uploader, cache, 1, &trouble).await?;
    wait_for_calm(stage).await?;
    stage.wish(Wish::Sleep(RESERVED_FOR));
    wait_for_calm(stage).await?;
    let whole = |seen: &Seen| seen.is_whole() && seen.proved() == first;
    operator.until("the archive is whole after the storm", seconds(300), whole).await?;

    stage.joining.set(cast.nodes - first);
    operator.until("the new nodes are heard", seconds(120), |seen| seen.online() == cast.nodes).await?;
    // Anywhere between the first and the last step of re-coding.
    sleep(Duration::from_millis(chance.below(40_000))).await;
    fall_silent(stage, first, &mut chance);
    stage.wish(if chance.per_mille(500) { Wish::CrashLeader } else { Wish::Rage(LATE_STORM) });
    wait_for_calm(stage).await?;
    let grown = Scheme::new(8, 24).map_err(|error| error.to_string())?;
    let recoded = |seen: &Seen| seen.is_recoded() && seen.is_at_rest_as(grown) && seen.proved() == cast.nodes;
    operator.until("every bundle is coded anew and nothing is left to do", seconds(600), recoded).await?;

    be_away(cast, stage, &operator, &mut chance).await?;
    operator.until("who was away is back with everything", seconds(240), recoded).await?;

    stage.wish(Wish::Sleep(SETTLED_AFTER));
    wait_for_calm(stage).await?;
    operator.until("machines that slept are whole again", seconds(240), recoded).await?;
    stage.wish(Wish::RestartNodes);
    wait_for_calm(stage).await?;
    sleep(seconds(5)).await;
    operator.until("restarted nodes count again", seconds(240), recoded).await?;
    read_everything(cast, stage).await
}

/// A node of the first fleet says that it will be away, and is for longer than one may be that has not said so, while
/// the leader goes at times: what it holds counts all the while.
async fn be_away(cast: &Cast, stage: &Stage, operator: &Operator, chance: &mut Chance) -> Result<(), String> {
    let number = chance.position(cast.first_nodes);
    let long = COUNT_LOST_AFTER + Duration::from_secs(20 + chance.below(60));
    let node = open(cast, PUBLISHER, &cast::node(number)).await?;
    let begun = Instant::now();
    // A new leader is elected, at most.
    while let Err(error) = node.coordinators().declare_absence(long + Duration::from_secs(60)).await {
        if begun.elapsed() > Duration::from_secs(60) {
            return Err(format!("an absence cannot be declared: {error}"));
        }
        sleep(Duration::from_millis(500)).await;
    }
    let durable = |seen: &Seen| seen.full_bundles();
    let before =
        operator.until("the leader has measured", Duration::from_secs(60), |seen| durable(seen).is_some());
    let before = durable(&before.await?);
    stage.wish(Wish::CrashFor(Machine::Node(number), long));
    if chance.per_mille(500) {
        stage.wish(Wish::CrashLeader);
    }
    let begun = Instant::now();
    // Looks at a time when it would count as lost had nothing been declared.
    let mut looks = 0;
    // Until just before it is back.
    while begun.elapsed() + Duration::from_secs(5) < long {
        sleep(Duration::from_secs(1)).await;
        let now = operator.look().await.and_then(|seen| durable(&seen));
        if now.is_some_and(|now| Some(now) < before) {
            return Err(format!(
                "a node that said it would be away counts as lost after {:?}",
                begun.elapsed()
            ));
        }
        looks += u32::from(now.is_some() && begun.elapsed() > COUNT_LOST_AFTER + Duration::from_secs(5));
    }
    if looks == 0 {
        return Err("nobody said how things stand while a node was away that had declared it".to_owned());
    }
    wait_for_calm(stage).await
}

/// Two nodes of the first fleet fall silent: one is back in time, the other after it counted as lost.
fn fall_silent(stage: &Stage, first_nodes: usize, chance: &mut Chance) {
    let one = chance.position(first_nodes);
    let other = (one + 1 + chance.position(first_nodes - 1)) % first_nodes;
    let drawn = |chance: &mut Chance, most: u64| Duration::from_secs(5 + chance.below(most));
    let (short, long) = (drawn(chance, 25), COUNT_LOST_AFTER + drawn(chance, 40));
    stage.wish(Wish::CrashFor(Machine::Node(one), short));
    stage.wish(Wish::CrashFor(Machine::Node(other), long));
}
