//! Which copies of which shards are asked for one range, and when: decided from what is expected of their holders, from
//! time and from what came. Nothing here waits, asks or knows a clock.
//!
//! Always holds: of each shard at most one copy is asked at a time, and none twice; while its holder is in time nobody
//! else is asked; what waits for its turn with us is not late; a plan ends, with enough or without.
//! Leaves to others: asking (`piece_race`), what is expected (`node_health`), fresh facts after a plan that ended without.
//!
//! Times are counted from the beginning of the race. [`RacePlan::next`] says what to do now; whoever carries it out tells
//! by [`RacePlan::began`] when a request left, by [`RacePlan::answered`] what came of it, and asks again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firn_base::ShardIndex;

/// Where there are too many hedges already, a late holder gets so many times its patience on top: enough to spread the
/// load, and a range is still had where its holder says nothing.
const PATIENCE_WITHOUT_HEDGES: u32 = 4;

/// A copy of a shard that may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) index: ShardIndex,
    /// Neither away nor to be read around.
    pub(crate) promising: bool,
    /// It should have answered after this long.
    pub(crate) expected: Duration,
    /// After this long it is late.
    pub(crate) patience: Duration,
}

/// What a race is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RaceTerms {
    /// The shard whose range is wanted.
    pub(crate) wanted: ShardIndex,
    /// How many other shards do as well.
    pub(crate) need: usize,
    /// How many more than these are asked.
    pub(crate) surplus: usize,
    /// When the race is given up.
    pub(crate) give_up_after: Duration,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask this candidate, by its place in the list that the plan was made of, and tell when the request left; then see
    /// what else there is to do.
    Ask(usize),
    /// Wait for an answer, but no longer than until then.
    Wait(Duration),
    /// The wanted range is there, or as many others as give it.
    Enough,
    /// So many are there, and no more will be.
    Short(usize),
}

/// Why a range is read around its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Around {
    /// Nobody promising holds it, or who does has failed.
    Away,
    /// Its holder is late.
    Late,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    candidate: usize,
    // None while the request waits for its turn: only what the node takes is counted against it, and another node would
    // wait for the same turn.
    late_at: Option<Duration>,
}

impl Asked {
    fn is_late(&self, now: Duration) -> bool {
        self.late_at.is_some_and(|at| at <= now)
    }
}

/// One race for one range of one shard.
#[derive(Debug)]
pub(crate) struct RacePlan {
    terms: RaceTerms,
    candidates: Vec<Candidate>,
    // Places of candidates that were not asked yet, the best first.
    waiting: Vec<usize>,
    asked: BTreeMap<ShardIndex, Asked>,
    done: BTreeSet<ShardIndex>,
    around: Option<Around>,
    // The holder was late and no hedge was left.
    refused: bool,
}

impl RacePlan {
    pub(crate) fn new(terms: RaceTerms, candidates: Vec<Candidate>) -> Self {
        let mut waiting: Vec<usize> = (0..candidates.len()).collect();
        waiting.sort_by_key(|place| {
            let candidate = &candidates[*place];
            (!candidate.promising, candidate.expected, candidate.index)
        });
        let (asked, done) = (BTreeMap::new(), BTreeSet::new());
        Self { terms, candidates, waiting, asked, done, around: None, refused: false }
    }

    /// Why the range is read around its holder; none while that has its chance.
    pub(crate) const fn around(&self) -> Option<Around> {
        self.around
    }

    /// Whether the copy is under way and late.
    pub(crate) fn is_late(&self, place: usize, now: Duration) -> bool {
        self.asked.values().any(|asked| asked.candidate == place && asked.is_late(now))
    }

    /// What to do now. `may_hedge` is asked once the holder is late; if it refuses, that has more time.
    pub(crate) fn next(&mut self, now: Duration, may_hedge: impl FnOnce() -> bool) -> Step {
        let RaceTerms { wanted, need, surplus, give_up_after } = self.terms;
        if self.done.contains(&wanted) || self.done.len() >= need {
            return Step::Enough;
        }
        if now >= give_up_after {
            return Step::Short(self.done.len());
        }
        if self.around.is_none() {
            match self.asked.get_mut(&wanted) {
                Some(holder) if !holder.is_late(now) => {
                    return Step::Wait(holder.late_at.map_or(give_up_after, |at| at.min(give_up_after)));
                }
                Some(_) if self.refused || may_hedge() => self.around = Some(Around::Late),
                Some(holder) => {
                    // There are too many hedges as it is: it gets more time, once.
                    self.refused = true;
                    let more =
                        self.candidates[holder.candidate].patience.saturating_mul(PATIENCE_WITHOUT_HEDGES);
                    let late_at = now.saturating_add(more.max(Duration::from_millis(1)));
                    holder.late_at = Some(late_at);
                    return Step::Wait(late_at.min(give_up_after));
                }
                None => match self.take(|candidate| candidate.index == wanted && candidate.promising) {
                    Some(place) => return self.ask(place),
                    None => self.around = Some(Around::Away),
                },
            }
        }
        // What is late may still come, and is not counted on.
        let in_time = |asked: &&Asked| !asked.is_late(now);
        let under_way =
            self.asked.iter().filter(|(index, _)| **index != wanted).map(|(_, asked)| asked).filter(in_time);
        let hopeful = self.done.len() + under_way.count();
        if hopeful < need + surplus {
            // Of those that promise little only as many are asked as are needed.
            let place = self.take(|candidate| candidate.promising || hopeful < need);
            if let Some(place) = place {
                return self.ask(place);
            }
        }
        if self.asked.is_empty() {
            return Step::Short(self.done.len());
        }
        let next_late = self.asked.values().filter_map(|asked| asked.late_at).filter(|at| *at > now).min();
        Step::Wait(next_late.map_or(give_up_after, |at| at.min(give_up_after)))
    }

    /// The request to this candidate has left: its patience begins.
    pub(crate) fn began(&mut self, place: usize, now: Duration) {
        let candidate = &self.candidates[place];
        if let Some(asked) = self.asked.get_mut(&candidate.index).filter(|asked| asked.candidate == place) {
            asked.late_at = Some(now.saturating_add(candidate.patience));
        }
    }

    /// An answer came for shard `index`: its range, or nothing.
    pub(crate) fn answered(&mut self, index: ShardIndex, came: bool) {
        self.asked.remove(&index);
        if came {
            self.done.insert(index);
        }
    }

    /// Takes the best candidate that fits, of a shard that is neither there nor under way.
    fn take(&mut self, fits: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let at = self.waiting.iter().position(|place| {
            let candidate = &self.candidates[*place];
            let free = !self.asked.contains_key(&candidate.index) && !self.done.contains(&candidate.index);
            free && fits(candidate)
        })?;
        Some(self.waiting.remove(at))
    }

    fn ask(&mut self, place: usize) -> Step {
        let index = self.candidates[place].index;
        self.asked.insert(index, Asked { candidate: place, late_at: None });
        Step::Ask(place)
    }
}

#[cfg(test)]
mod tests;
