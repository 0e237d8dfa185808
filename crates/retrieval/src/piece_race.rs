//! One range of one data shard: from its holder, or, when that fails or dawdles, from any k other shards.
//!
//! Always holds: at most one request per shard is under way; the first sufficient set of answers ends the race
//! and drops the rest; a liar is logged by name. Leaves to others: fresh facts after a lost race.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use firn_base::ShardIndex;
use firn_erasure::Coder;
use firn_wire::{NodeAddress, Pass, RefusalKind, Signed};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::swarm_reader::Shared;
use crate::{ReadError, ReadRangeError, ShardRange};

/// Too few holders answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shortage {
    pub(crate) have: usize,
    pub(crate) need: usize,
}

/// A copy of a shard that may be asked.
#[derive(Debug, Clone)]
struct Candidate {
    index: ShardIndex,
    node: NodeAddress,
    // Online by the coordinators and not avoided by us.
    promising: bool,
    expected: Duration,
}

struct Answer {
    candidate: Candidate,
    took: Duration,
    result: Result<Bytes, ReadRangeError>,
}

pub(crate) struct PieceRace<'a> {
    shared: &'a Shared,
    coder: &'a Coder,
    wanted: &'a ShardRange,
    pass: Option<Arc<Signed<Pass>>>,
    // Best first.
    candidates: VecDeque<Candidate>,
    running: FuturesUnordered<BoxFuture<'a, Answer>>,
    asked: BTreeSet<ShardIndex>,
    done: BTreeMap<ShardIndex, Bytes>,
}

impl<'a> PieceRace<'a> {
    /// Runs the race. `forgiving` asks avoided nodes too, from the start.
    pub(crate) async fn run(
        shared: &'a Shared,
        coder: &'a Coder,
        wanted: &'a ShardRange,
        forgiving: bool,
    ) -> Result<Result<Bytes, Shortage>, ReadError> {
        let id = wanted.bundle.id;
        let nodes = shared.directory.nodes().await.map_err(|error| error.into_read_error(id))?;
        let pass = shared.directory.pass().await.map_err(|error| error.into_read_error(id))?;
        let bytes = wanted.range.end.saturating_sub(wanted.range.start);
        let mut candidates = Vec::new();
        for (index, holders) in (0..).map(ShardIndex).zip(&wanted.bundle.holders) {
            for node in holders.iter().filter_map(|holder| nodes.get(holder)) {
                candidates.push(Candidate {
                    index,
                    node: node.clone(),
                    promising: node.online && (forgiving || !shared.health.avoided(node.node)),
                    expected: shared.health.expected(node.node, bytes),
                });
            }
        }
        candidates.sort_by_key(|candidate| (!candidate.promising, candidate.expected, candidate.index));
        let race = Self {
            shared,
            coder,
            wanted,
            pass,
            candidates: candidates.into(),
            running: FuturesUnordered::new(),
            asked: BTreeSet::new(),
            done: BTreeMap::new(),
        };
        Ok(race.race().await)
    }

    async fn race(mut self) -> Result<Bytes, Shortage> {
        let need = self.coder.k();
        // How many of the other shards should be answered or under way; none while the holder has its chance.
        let mut others = 0;
        let mut direct = self.ask_holder().await;
        let mut patience = self.patience(direct.as_ref());
        let deadline = Instant::now() + self.shared.options.give_up_after;
        loop {
            if direct.is_none() && others == 0 {
                self.shared.counters.degraded.fetch_add(1, Ordering::Relaxed);
                others = need + self.shared.options.surplus;
                patience = self.patience(None);
            }
            self.ask_others(others, need);
            if self.running.is_empty() {
                return Err(Shortage { have: self.done.len(), need });
            }
            tokio::select! {
                Some(answer) = self.running.next() => {
                    self.asked.remove(&answer.candidate.index);
                    let was_direct = answer.candidate.index == self.wanted.index;
                    match self.judge(answer) {
                        Some((index, bytes)) if index == self.wanted.index => return Ok(bytes),
                        Some((index, bytes)) => {
                            self.done.insert(index, bytes);
                        }
                        None if was_direct && others == 0 => {
                            direct = self.ask_holder().await;
                            patience = self.patience(direct.as_ref());
                        }
                        None => {}
                    }
                    if let Some(bytes) = self.rebuild() {
                        // Others were faster: the next reads need not wait for this one again.
                        if let Some(slow) = direct.filter(|_| self.asked.contains(&self.wanted.index)) {
                            self.shared.health.failed(slow.node.node);
                        }
                        return Ok(bytes);
                    }
                }
                () = tokio::time::sleep_until(patience.min(deadline)) => {
                    if Instant::now() >= deadline {
                        return Err(Shortage { have: self.done.len(), need });
                    }
                    if others == 0 {
                        self.shared.counters.hedged.fetch_add(1, Ordering::Relaxed);
                        others = need + self.shared.options.surplus;
                    } else {
                        others = others.saturating_add(1);
                    }
                    patience = self.patience(None);
                }
            }
        }
    }

    /// When to stop waiting for `candidate`, or for whoever is asked.
    fn patience(&self, candidate: Option<&Candidate>) -> Instant {
        let options = &self.shared.options;
        let usual = candidate.map_or(Duration::ZERO, |candidate| {
            // A guess already is that of a slow line; only what was measured has a variance to allow for.
            let known = self.shared.health.is_known(candidate.node.node);
            candidate.expected.saturating_mul(if known { options.hedge_factor } else { 1 })
        });
        Instant::now() + options.hedge_after.max(usual).min(options.give_up_after)
    }

    /// Asks a promising holder of the wanted shard itself, if there is one.
    ///
    /// Waits for its turn first: patience is for the node, not for our own queue.
    async fn ask_holder(&mut self) -> Option<Candidate> {
        let wanted = self.wanted.index;
        let place =
            self.candidates.iter().position(|candidate| candidate.index == wanted && candidate.promising)?;
        let candidate = self.candidates.remove(place)?;
        let shared = self.shared;
        let turn = shared.permits.acquire().await.ok();
        self.ask(candidate.clone(), turn);
        Some(candidate)
    }

    /// Asks for shards until `target` of the others are answered or under way; of holders that promise little
    /// only as many as are needed.
    fn ask_others(&mut self, target: usize, need: usize) {
        if target == 0 {
            return;
        }
        loop {
            let wanted = self.wanted.index;
            let under_way = self.asked.iter().filter(|index| **index != wanted).count() + self.done.len();
            let place = self.candidates.iter().position(|candidate| {
                let free =
                    !self.asked.contains(&candidate.index) && !self.done.contains_key(&candidate.index);
                free && (candidate.promising
                    || under_way < need
                    || target > need + self.shared.options.surplus)
            });
            let candidate =
                place.filter(|_| under_way < target).and_then(|place| self.candidates.remove(place));
            match candidate {
                Some(candidate) => self.ask(candidate, None),
                None => return,
            }
        }
    }

    fn ask(&mut self, candidate: Candidate, turn: Option<SemaphorePermit<'a>>) {
        let (shared, wanted, pass) = (self.shared, self.wanted, self.pass.clone());
        self.asked.insert(candidate.index);
        let range = ShardRange { index: candidate.index, ..wanted.clone() };
        self.running.push(
            async move {
                let _turn = match turn {
                    Some(turn) => Some(turn),
                    None => shared.permits.acquire().await.ok(),
                };
                let begun = Instant::now();
                let result = shared.source.read(&candidate.node, pass, &range).await;
                Answer { candidate, took: begun.elapsed(), result }
            }
            .boxed(),
        );
    }

    /// Draws conclusions about the node; the bytes if there are any.
    fn judge(&self, answer: Answer) -> Option<(ShardIndex, Bytes)> {
        let Answer { candidate, took, result } = answer;
        let (health, node) = (&self.shared.health, candidate.node.node);
        let error = match result {
            Ok(bytes) => {
                health.answered(node, bytes.len() as u64, took);
                return Some((candidate.index, bytes));
            }
            Err(error) => error,
        };
        match &error {
            ReadRangeError::Lied { .. } => {
                self.shared.counters.lies.fetch_add(1, Ordering::Relaxed);
                health.lied(node);
                warn!(bundle = %self.wanted.bundle.id, shard = %candidate.index, "{error}");
                return None;
            }
            ReadRangeError::Refused { refused, .. } => match refused.kind {
                RefusalKind::NotFound | RefusalKind::Disk => {
                    self.shared.directory.doubt(self.wanted.bundle.id)
                }
                RefusalKind::Expired | RefusalKind::NotAllowed => self.shared.directory.forget_pass(),
                _ => health.failed(node),
            },
            ReadRangeError::Unreachable { .. } => health.failed(node),
            ReadRangeError::OutOfRange { .. } => {}
        }
        debug!(bundle = %self.wanted.bundle.id, shard = %candidate.index, "{error}");
        None
    }

    /// The wanted range from k others, once they are there.
    fn rebuild(&self) -> Option<Bytes> {
        if self.done.len() < self.coder.k() {
            return None;
        }
        let length = self.done.values().next()?.len();
        let present: Vec<(ShardIndex, &[u8])> =
            self.done.iter().map(|(index, bytes)| (*index, &bytes[..])).collect();
        let mut bytes = vec![0; length];
        let rebuilt = self.coder.rebuild(&present, &mut [(self.wanted.index, &mut bytes)]);
        rebuilt.expect("k ranges of one length, each of an index of the coding");
        Some(bytes.into())
    }
}
