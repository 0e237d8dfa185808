//! One range of one data shard: from its holder, or, when that fails or dawdles, from any k other shards.
//!
//! Always holds: what `race_plan` decides is done, and nothing else; the first sufficient set of answers ends the race
//! and drops the rest; a liar is logged by name. Leaves to others: fresh facts after a lost race.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_base::ShardIndex;
use firn_erasure::Coder;
use firn_wire::{NodeAddress, Pass, Signed};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use crate::node_health::Strike;
use crate::race_plan::{Around, Candidate, RacePlan, RaceTerms, Step};
use crate::swarm_reader::{Shared, count};
use crate::{ReadError, ReadRangeError, ShardRange};

/// Too few holders answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shortage {
    pub(crate) have: usize,
    pub(crate) need: usize,
}

/// What becomes of a request.
enum Event<'a> {
    /// It is its turn.
    Turn { place: usize, turn: Option<SemaphorePermit<'a>> },
    /// The node answered, or did not.
    Answer { place: usize, begun: Instant, result: Result<Bytes, ReadRangeError> },
}

/// A trial asks for one group: it shall show that a node answers, and cost little.
const TRIAL_BYTES: u64 = 16 << 10;

pub(crate) struct PieceRace<'a> {
    shared: &'a Arc<Shared>,
    coder: &'a Coder,
    wanted: &'a ShardRange,
    pass: Option<Arc<Signed<Pass>>>,
    begun: Instant,
    nodes: Vec<NodeAddress>,
    candidates: Vec<Candidate>,
    plan: RacePlan,
    running: FuturesUnordered<BoxFuture<'a, Event<'a>>>,
    // When those under way were asked, by place; not those that wait for their turn.
    asked: BTreeMap<usize, Instant>,
    done: BTreeMap<ShardIndex, Bytes>,
}

impl<'a> PieceRace<'a> {
    /// Runs the race. `forgiving` asks avoided nodes too, from the start.
    pub(crate) async fn run(
        shared: &'a Arc<Shared>,
        coder: &'a Coder,
        wanted: &'a ShardRange,
        forgiving: bool,
    ) -> Result<Result<Bytes, Shortage>, ReadError> {
        let id = wanted.bundle.id;
        let book = shared.directory.nodes().await.map_err(|error| error.into_read_error(id))?;
        let pass = shared.directory.pass().await.map_err(|error| error.into_read_error(id))?;
        let bytes = wanted.range.end.saturating_sub(wanted.range.start);
        let (mut nodes, mut candidates) = (Vec::new(), Vec::new());
        for (index, holders) in (0..).map(ShardIndex).zip(&wanted.bundle.holders) {
            for node in holders.iter().filter_map(|holder| book.get(holder)) {
                let outlook = shared.health.outlook(node.node, bytes, shared.options.patience());
                let promising = node.online && (forgiving || !outlook.avoided);
                let (expected, patience) = (outlook.expected, outlook.patience);
                candidates.push(Candidate { index, promising, expected, patience });
                if node.online && index == wanted.index && outlook.avoided {
                    try_again(shared, node, pass.clone(), wanted);
                }
                nodes.push(node.clone());
            }
        }
        let terms = RaceTerms {
            wanted: wanted.index,
            need: coder.k(),
            surplus: shared.options.surplus,
            give_up_after: shared.options.give_up_after,
        };
        let race = Self {
            shared,
            coder,
            wanted,
            pass,
            begun: Instant::now(),
            nodes,
            plan: RacePlan::new(terms, candidates.clone()),
            candidates,
            running: FuturesUnordered::new(),
            asked: BTreeMap::new(),
            done: BTreeMap::new(),
        };
        Ok(race.race().await)
    }

    async fn race(mut self) -> Result<Bytes, Shortage> {
        let counters = &self.shared.counters;
        loop {
            let before = self.plan.around();
            let step = self.plan.next(self.begun.elapsed(), || self.shared.may_hedge());
            match (before, self.plan.around()) {
                (None, Some(Around::Away)) => count(&counters.degraded),
                (None, Some(Around::Late)) => count(&counters.hedged),
                _ => {}
            }
            match step {
                Step::Ask(place) => self.ask(place).await,
                Step::Wait(until) => {
                    tokio::select! {
                        Some(event) = self.running.next() => match event {
                            Event::Turn { place, turn } => self.begin(place, turn),
                            Event::Answer { place, begun, result } => self.take(place, begun, result),
                        },
                        () = tokio::time::sleep_until(self.begun + until) => {}
                    }
                }
                Step::Enough => return Ok(self.finish()),
                Step::Short(have) => return Err(Shortage { have, need: self.coder.k() }),
            }
        }
    }

    /// Asks a candidate when it is its turn: patience is for the node, not for our own queue. The race of the holder of
    /// the wanted shard begins then; where others are asked, it goes on meanwhile.
    async fn ask(&mut self, place: usize) {
        let shared = self.shared;
        if self.plan.around().is_none() {
            let waited = Instant::now();
            let turn = shared.permits.acquire().await.ok();
            self.begun += waited.elapsed();
            self.begin(place, turn);
        } else {
            let turn = async move { Event::Turn { place, turn: shared.permits.acquire().await.ok() } };
            self.running.push(turn.boxed());
        }
    }

    /// Sends the request to a candidate whose turn it is.
    fn begin(&mut self, place: usize, turn: Option<SemaphorePermit<'a>>) {
        let (shared, pass, node) = (self.shared, self.pass.clone(), self.nodes[place].clone());
        let range = ShardRange { index: self.candidates[place].index, ..self.wanted.clone() };
        count(&shared.counters.requests);
        let begun = Instant::now();
        self.asked.insert(place, begun);
        self.plan.began(place, begun.saturating_duration_since(self.begun));
        let read = async move {
            let _turn = turn;
            let result = shared.source.read(&node, pass, &range).await;
            Event::Answer { place, begun, result }
        };
        self.running.push(read.boxed());
    }

    fn take(&mut self, place: usize, begun: Instant, result: Result<Bytes, ReadRangeError>) {
        self.asked.remove(&place);
        let index = self.candidates[place].index;
        let judged = self.shared.judge(&self.nodes[place], index, self.wanted, begun, result);
        self.plan.answered(index, judged.is_some());
        if let Some(bytes) = judged {
            self.done.insert(index, bytes);
        }
    }

    /// The wanted range: as it came, or from k others.
    fn finish(mut self) -> Bytes {
        let counters = &self.shared.counters;
        if let Some(bytes) = self.done.remove(&self.wanted.index) {
            return bytes;
        }
        // Others were faster: the next reads need not wait for these again.
        let now = self.begun.elapsed();
        for (place, asked) in &self.asked {
            if self.plan.is_late(*place, now) {
                self.shared.health.strike(self.nodes[*place].node, Strike::Slow, *asked, Instant::now());
            }
        }
        count(&counters.rebuilt);
        if self.plan.around() == Some(Around::Late) {
            count(&counters.hedges_won);
        }
        let length = self.done.values().next().map_or(0, Bytes::len);
        let present: Vec<(ShardIndex, &[u8])> =
            self.done.iter().map(|(index, bytes)| (*index, &bytes[..])).collect();
        let mut bytes = vec![0; length];
        let rebuilt = self.coder.rebuild(&present, &mut [(self.wanted.index, &mut bytes)]);
        rebuilt.expect("k ranges of one length, each of an index of the coding");
        bytes.into()
    }
}

/// Tries a node that is read around, beside the read that goes without it; nobody waits for that.
fn try_again(shared: &Arc<Shared>, node: &NodeAddress, pass: Option<Arc<Signed<Pass>>>, wanted: &ShardRange) {
    let begun = Instant::now();
    if !shared.health.take_trial(node.node, begun) {
        return;
    }
    count(&shared.counters.trials);
    let end = wanted.range.end.min(wanted.range.start.saturating_add(TRIAL_BYTES));
    let range = ShardRange { range: wanted.range.start..end, ..wanted.clone() };
    let (shared, node) = (Arc::clone(shared), node.clone());
    tokio::spawn(async move {
        let patience = trial_patience(&shared, &node, &range);
        match tokio::time::timeout(patience, shared.source.read(&node, pass, &range)).await {
            Ok(result) => drop(shared.judge(&node, range.index, &range, begun, result)),
            Err(_) => shared.health.strike(node.node, Strike::Slow, Instant::now(), Instant::now()),
        }
    });
}

/// A node that takes longer than this is no help to anybody.
fn trial_patience(shared: &Shared, node: &NodeAddress, range: &ShardRange) -> Duration {
    let bytes = range.range.end.saturating_sub(range.range.start);
    let bounds = shared.options.patience();
    shared.health.outlook(node.node, bytes, bounds).patience.max(bounds.most)
}
