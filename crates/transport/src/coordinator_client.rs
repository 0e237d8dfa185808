//! An archive's coordinators as one thing to ask.
//!
//! Always holds: an answer comes from a coordinator of the roster and was checked (`reply_check`); whoever is slow,
//! gone, unable or caught lying is passed over for the others until the deadline; a stale answer, or that a question is
//! not known, counts only if none that is better comes soon; the roster is never replaced by an older one; whoever
//! waits for news by a coordinator learns when another question had to be answered by somebody else in its place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use firn_base::NodeId;
use firn_wire::{
    CONTROL_BYTES_MAX, CoordinatorEntry, CoordinatorReply, CoordinatorRequest, RefusalKind, RefusedRequest,
    VerifiedRoster, encode,
};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::ask::{Pace, SignsOfLife, Turn, is_quick};
use crate::reply_check::check_reply;
use crate::{AskError, BoxFuture, Connection, ConnectionPool};

// An election takes one to two seconds: several rounds fit into it without flooding anybody.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(1);
// It has just answered.
const ROSTER_WITHIN: Duration = Duration::from_secs(2);

// Whoever hears the others answers sooner, if it is not known to be further away; an election of theirs is not waited for.
const BETTER_WITHIN: Duration = Duration::from_millis(700);

// One of which nothing is known may be as far as coordinators are from each other at most, 2 s there and back, and is
// dialled before it is asked.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// An archive's coordinators as one thing to ask. Clones share the roster and the connections.
#[derive(Debug, Clone)]
pub struct CoordinatorClient {
    pool: ConnectionPool,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug)]
struct Known {
    roster: VerifiedRoster,
    /// Who answered last: asked first.
    preferred: NodeId,
    /// How long each took last for an answer that it did not hold back; none if it was waited for in vain, or its turn
    /// was lost.
    took: BTreeMap<NodeId, Option<Duration>>,
    /// Tells those who wait by a coordinator that somebody else has answered what it left unanswered.
    passed_over: BTreeMap<NodeId, Arc<Notify>>,
}

/// That a coordinator is of a version before the question.
struct NotUnderstood {
    refusal: RefusedRequest,
    /// When the first one said so.
    since: Instant,
}

/// What a coordinator's last turn came to, if to nothing useful.
struct Failure {
    sentence: String,
    /// It answered that it cannot do it now.
    refused: bool,
}

impl CoordinatorClient {
    /// The coordinators of `roster`, reached through `pool`. No connection is made before the first question.
    pub fn new(pool: ConnectionPool, roster: VerifiedRoster) -> Self {
        let coordinators = &roster.roster().coordinators;
        // Askers begin with different coordinators, so that the first in the roster does not serve all.
        let own = usize::from(pool.endpoint().public().as_bytes()[0]);
        let first = coordinators.get(own % coordinators.len().max(1));
        let preferred = first.map_or(NodeId::from_bytes([0; 32]), |entry| entry.id);
        let known = Known { roster, preferred, took: BTreeMap::new(), passed_over: BTreeMap::new() };
        Self { pool, known: Arc::new(Mutex::new(known)) }
    }

    /// The roster in use.
    pub fn roster(&self) -> VerifiedRoster {
        self.known().roster.clone()
    }

    /// The connections it asks through.
    pub fn pool(&self) -> &ConnectionPool {
        &self.pool
    }

    /// Takes a newer roster into use. Says whether it was newer.
    pub fn adopt_roster(&self, roster: &VerifiedRoster) -> bool {
        let mut known = self.known();
        let newer = roster.archive() == known.roster.archive()
            && roster.roster().generation > known.roster.roster().generation;
        if newer {
            known.roster = roster.clone();
            let entries = &roster.roster().coordinators;
            let is_among = |id: &NodeId| entries.iter().any(|entry| entry.id == *id);
            known.took.retain(|id, _| is_among(id));
            known.passed_over.retain(|id, _| is_among(id));
        }
        newer
    }

    /// Asks until one of the coordinators answers. Tells of a refusal at once, unless it says that another
    /// coordinator or a later moment may do.
    pub fn ask<'a>(
        &'a self,
        request: &'a CoordinatorRequest,
    ) -> BoxFuture<'a, Result<CoordinatorReply, AskError>> {
        Box::pin(self.ask_all(request))
    }

    async fn ask_all(&self, request: &CoordinatorRequest) -> Result<CoordinatorReply, AskError> {
        let pace = Pace::of(request);
        let encoded = Bytes::from(encode(request));
        let deadline = Instant::now() + pace.total;
        let mut failures = BTreeMap::new();
        let mut not_understood = None;
        let mut pause = PAUSE_FIRST;
        loop {
            let so_far = (&mut failures, &mut not_understood);
            let round = self.ask_round(request, &encoded, pace, deadline, so_far).await;
            if let Some(result) = round {
                return result;
            }
            let until = not_understood.as_ref().map_or(deadline, |said: &NotUnderstood| said.until(deadline));
            if Instant::now() + pause >= until {
                if let Some(said) = not_understood {
                    return Err(AskError::Refused(said.refusal));
                }
                let archive = self.known().roster.archive();
                let refused = failures.values().any(|failure: &Failure| failure.refused);
                let tried = failures.into_values().map(|failure| failure.sentence).collect();
                return Err(AskError::NoAnswer { archive, tried, refused });
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks one coordinator, once.
    pub fn ask_coordinator<'a>(
        &'a self,
        coordinator: NodeId,
        request: &'a CoordinatorRequest,
        within: Duration,
    ) -> BoxFuture<'a, Result<CoordinatorReply, AskError>> {
        Box::pin(self.ask_one(coordinator, request, within))
    }

    async fn ask_one(
        &self,
        coordinator: NodeId,
        request: &CoordinatorRequest,
        within: Duration,
    ) -> Result<CoordinatorReply, AskError> {
        let entry = {
            let known = self.known();
            let mut entries = known.roster.roster().coordinators.iter();
            let entry = entries.find(|entry| entry.id == coordinator);
            entry.cloned().ok_or(AskError::NotACoordinator(coordinator))?
        };
        let begun = Instant::now();
        let turn = self.turn(&entry, request, Bytes::from(encode(request)), within).await;
        self.note_time(coordinator, &turn, is_quick(request).then(|| begun.elapsed()));
        match turn {
            Turn::Answered(CoordinatorReply::Refused(refusal)) => Err(AskError::Refused(refusal)),
            Turn::Answered(reply) => Ok(reply),
            Turn::NotReached(reason) | Turn::Lost(reason) => {
                let archive = self.known().roster.archive();
                Err(AskError::NoAnswer { archive, tried: vec![reason], refused: false })
            }
        }
    }

    /// Every coordinator gets one turn, one after another or side by side where the first is slow. None means
    /// that another round may help.
    async fn ask_round(
        &self,
        request: &CoordinatorRequest,
        encoded: &Bytes,
        pace: Pace,
        deadline: Instant,
        (failures, not_understood): (&mut BTreeMap<NodeId, Failure>, &mut Option<NotUnderstood>),
    ) -> Option<Result<CoordinatorReply, AskError>> {
        let mut waiting = self.in_order();
        let all: Vec<NodeId> = waiting.iter().map(|entry| entry.id).collect();
        // Whose turns are over, and who has let the next one be asked as well.
        let (mut ended, mut silent) = (BTreeSet::new(), BTreeSet::new());
        let mut turns = FuturesUnordered::new();
        let begin = |entry: CoordinatorEntry| async move {
            let begun = Instant::now();
            let turn = self.turn(&entry, request, encoded.clone(), pace.turn);
            let turn = match pace.signs {
                Some(signs) => self.while_alive(entry.id, turn, signs).await,
                None => turn.await,
            };
            self.note_time(entry.id, &turn, is_quick(request).then(|| begun.elapsed()));
            (entry.id, turn)
        };
        turns.push(begin(waiting.pop_front()?));
        let mut stale: Option<CoordinatorReply> = None;
        let mut has_failed = false;
        let mut until = deadline;
        loop {
            let hedge = pace.hedge.filter(|_| !waiting.is_empty());
            let slow = async {
                match hedge {
                    Some(after) => sleep(after).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((coordinator, turn)) = turns.next() => {
                    ended.insert(coordinator);
                    match turn {
                        Turn::Answered(CoordinatorReply::Refused(refusal)) => match refusal.kind {
                            RefusalKind::Uncertain if pace.once => {
                                return Some(Err(AskError::Uncertain { reason: refusal.sentence }));
                            }
                            RefusalKind::Unavailable | RefusalKind::Disk | RefusalKind::Uncertain => {
                                let sentence = format!("{}: {refusal}", coordinator.short());
                                failures.insert(coordinator, Failure { sentence, refused: true });
                                has_failed = true;
                            }
                            // One of a version before this question reads none in it; others may, and know more.
                            RefusalKind::Malformed if matches!(request, CoordinatorRequest::News { .. }) => {
                                self.turn_away_from(coordinator);
                                let since = Instant::now();
                                let said =
                                    not_understood.get_or_insert_with(|| NotUnderstood { refusal, since });
                                // Whoever waits for news is not hurried: one that has none yet answers late.
                                if pace.hedge.is_some() {
                                    until = until.min(said.until(deadline));
                                }
                            }
                            _ => return Some(Err(AskError::Refused(refusal))),
                        },
                        Turn::Answered(reply) => match nothing_newer_since(&reply) {
                            None => {
                                self.answers_instead(coordinator, silent.difference(&ended));
                                return Some(Ok(reply));
                            }
                            Some(since) => {
                                self.turn_away_from(coordinator);
                                // The others would hold back theirs.
                                if pace.hedge.is_none() {
                                    return Some(Ok(reply));
                                }
                                until = until.min(Instant::now() + self.better_within(coordinator, pace));
                                let before = stale.as_ref().and_then(nothing_newer_since);
                                if before.is_none_or(|before| since < before) {
                                    stale = Some(reply);
                                }
                                turns.extend(waiting.drain(..).map(&begin));
                            }
                        },
                        Turn::Lost(reason) if pace.once => {
                            self.turn_away_from(coordinator);
                            return Some(Err(AskError::Uncertain { reason }));
                        }
                        Turn::Lost(sentence) | Turn::NotReached(sentence) => {
                            failures.insert(coordinator, Failure { sentence, refused: false });
                            has_failed = true;
                        }
                    }
                    match waiting.pop_front() {
                        Some(entry) => turns.push(begin(entry)),
                        None if turns.is_empty() => {
                            // Where some could not be asked now, the next round may find one that understands.
                            let said = not_understood.take_if(|_| !has_failed && stale.is_none());
                            let refused = said.map(|said| Err(AskError::Refused(said.refusal)));
                            return stale.map(Ok).or(refused);
                        }
                        None => {}
                    }
                }
                () = slow => {
                    let is_asked = |id: &&NodeId| waiting.iter().all(|entry| entry.id != **id);
                    silent.extend(all.iter().filter(is_asked).copied());
                    turns.extend(waiting.pop_front().map(&begin));
                }
                () = sleep_until(until) => {
                    self.note_silent();
                    return stale.map(Ok);
                }
            }
        }
    }

    /// `turn`, for as long as the coordinator shows signs of life meanwhile.
    async fn while_alive(
        &self,
        coordinator: NodeId,
        turn: impl Future<Output = Turn>,
        signs: SignsOfLife,
    ) -> Turn {
        let passed_over = Arc::clone(self.known().passed_over.entry(coordinator).or_default());
        // Whatever is told from here on is heard.
        let told = passed_over.notified();
        let told = async {
            if !signs.heeds_others {
                std::future::pending::<()>().await;
            }
            told.await;
        };
        let is_alive = || async {
            // While it is dialled there is no connection, and a dial ends by itself.
            let Some(connection) = self.pool.existing(coordinator) else { return true };
            let within = signs.within + connection.round_trip() * 2;
            let request = CoordinatorRequest::GetMembers;
            let is_there =
                connection.call::<_, CoordinatorReply>(&request, CONTROL_BYTES_MAX, within).await.is_ok();
            if !is_there {
                self.pool.forget(coordinator);
            }
            is_there
        };
        match unless_gone(turn, told, signs.every, is_alive).await {
            Ok(turn) => turn,
            Err(gone) => Turn::Lost(format!("{} {gone}", coordinator.short())),
        }
    }

    /// Who has answered, and who was silent until then: the next question goes to the one, and nobody waits by the others.
    fn answers_instead<'a>(&self, coordinator: NodeId, silent: impl Iterator<Item = &'a NodeId>) {
        let mut known = self.known();
        known.preferred = coordinator;
        for waiters in silent.filter_map(|id| known.passed_over.get(id)) {
            waiters.notify_waiters();
        }
    }

    /// How long an answer is waited for that is better than that of `coordinator`.
    fn better_within(&self, coordinator: NodeId, pace: Pace) -> Duration {
        let known = self.known();
        let others = known.roster.roster().coordinators.iter().filter(|entry| entry.id != coordinator);
        let patience = others.map(|other| match known.took.get(&other.id) {
            None => FIRST_ANSWER_WITHIN,
            Some(took) => {
                let connection = self.pool.existing(other.id);
                may_take(*took, connection.map(|connection| connection.round_trip()))
            }
        });
        patience.max().unwrap_or_default().max(BETTER_WITHIN).min(pace.turn)
    }

    /// Those of which nothing is known were waited for in vain.
    fn note_silent(&self) {
        let mut known = self.known();
        let all: Vec<NodeId> = known.roster.roster().coordinators.iter().map(|entry| entry.id).collect();
        for id in all {
            known.took.entry(id).or_insert(None);
        }
    }

    /// Notes how long a turn took, where that says how far away a coordinator is.
    fn note_time(&self, coordinator: NodeId, turn: &Turn, took: Option<Duration>) {
        let mut known = self.known();
        match (turn, took) {
            (Turn::Answered(_), Some(took)) => drop(known.took.insert(coordinator, Some(took))),
            (Turn::Answered(_), None) => {}
            (Turn::NotReached(_) | Turn::Lost(_), _) => drop(known.took.insert(coordinator, None)),
        }
    }

    /// The next question goes to another one first.
    fn turn_away_from(&self, coordinator: NodeId) {
        let next = self.in_order().into_iter().find(|entry| entry.id != coordinator);
        let mut known = self.known();
        if let Some(next) = next.filter(|_| known.preferred == coordinator) {
            known.preferred = next.id;
        }
    }

    async fn turn(
        &self,
        entry: &CoordinatorEntry,
        request: &CoordinatorRequest,
        encoded: Bytes,
        within: Duration,
    ) -> Turn {
        let begun = Instant::now();
        let connection = match timeout(within, self.pool.get(entry.id, &entry.address)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Turn::NotReached(error.to_string()),
            Err(_) => {
                return Turn::NotReached(format!(
                    "{} does not answer at {} within {} ms",
                    entry.id.short(),
                    entry.address,
                    within.as_millis()
                ));
            }
        };
        let rest = within.saturating_sub(begun.elapsed());
        let reply = match connection.call_encoded(encoded, CONTROL_BYTES_MAX, rest).await {
            Ok(reply) => reply,
            Err(error) => return Turn::Lost(error.to_string()),
        };
        let own = self.pool.endpoint().public();
        let mut checked = check_reply(&self.roster(), own, request, &reply);
        // A signer that is not known here may be one of a newer roster.
        if checked.is_err() && self.renew_roster(&connection).await {
            checked = check_reply(&self.roster(), own, request, &reply);
        }
        match checked {
            Ok(()) => Turn::Answered(reply),
            Err(fault) => {
                tracing::warn!(coordinator = %entry.id, fault, "a coordinator's answer was not believed");
                Turn::Lost(format!("{} is not believed: {fault}", entry.id.short()))
            }
        }
    }

    /// Goes on with the roster of whoever is at the end of `connection`, if it is newer. Says whether it was.
    async fn renew_roster(&self, connection: &Connection) -> bool {
        let asked =
            connection.call(&CoordinatorRequest::GetDescriptor, CONTROL_BYTES_MAX, ROSTER_WITHIN).await;
        let Ok(CoordinatorReply::Descriptor(descriptor)) = asked else { return false };
        let opened = VerifiedRoster::open(&descriptor.roster, self.roster().archive());
        opened.is_ok_and(|roster| self.adopt_roster(&roster))
    }

    /// The coordinators, the preferred one first, the others in the roster's order from there.
    fn in_order(&self) -> VecDeque<CoordinatorEntry> {
        let known = self.known();
        let mut order: VecDeque<_> = known.roster.roster().coordinators.iter().cloned().collect();
        let first = order.iter().position(|entry| entry.id == known.preferred).unwrap_or(0);
        order.rotate_left(first);
        order
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NotUnderstood {
    /// Until when one is looked for that knows the question. One that is dead for good must not cost each question its whole
    /// time: whoever is there can be asked the older one.
    fn until(&self, deadline: Instant) -> Instant {
        deadline.min(self.since + FIRST_ANSWER_WITHIN)
    }
}

/// How long a coordinator may take whose last turn took so long, none if nothing came of it, and that is so far away,
/// there and back, if it is connected. One turn that was lost makes nobody near.
fn may_take(took: Option<Duration>, way: Option<Duration>) -> Duration {
    // It may be as late again.
    took.unwrap_or_default().max(way.unwrap_or_default()) * 2
}

/// Why a coordinator is waited for no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Gone {
    #[error("has stopped answering")]
    ShowsNoSign,
    #[error("has not answered another question, which somebody else has")]
    PassedOver,
}

/// `turn`, unless it is told first that its coordinator was `passed_over`, or found that it is not there: so often that
/// is asked.
async fn unless_gone<T, F: Future<Output = bool>>(
    turn: impl Future<Output = T>,
    passed_over: impl Future<Output = ()>,
    every: Duration,
    is_alive: impl Fn() -> F,
) -> Result<T, Gone> {
    let (mut turn, mut passed_over) = (pin!(turn), pin!(passed_over));
    loop {
        let look = async {
            sleep(every).await;
            is_alive().await
        };
        tokio::select! {
            biased;
            turn = &mut turn => return Ok(turn),
            () = &mut passed_over => return Err(Gone::PassedOver),
            is_there = look => {
                if !is_there {
                    return Err(Gone::ShowsNoSign);
                }
            }
        }
    }
}

/// For how many milliseconds whoever gave `reply` does not know what it says in it: that nothing is newer. None for any
/// other reply, events included.
fn nothing_newer_since(reply: &CoordinatorReply) -> Option<u64> {
    let CoordinatorReply::News { batch, stale_millis: Some(since) } = reply else { return None };
    batch.peek().is_ok_and(|batch| batch.events.is_empty()).then_some(*since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_far_is_waited_for_when_its_last_turn_was_lost() {
        let [none, near, far] = [0, 5, 1000].map(Duration::from_millis);
        assert_eq!(may_take(None, Some(far)), far * 2);
        assert_eq!(may_take(Some(near), Some(far)), far * 2);
        assert_eq!(may_take(Some(far), Some(near)), far * 2);
        assert_eq!(may_take(Some(far), None), far * 2);
        // One that is gone is not.
        assert_eq!(may_take(None, None), none);
    }

    const SECOND: Duration = Duration::from_secs(1);

    async fn for_ever<T>() -> T {
        std::future::pending().await
    }

    /// After how long a turn that lasts for `takes` has ended, in which way, and how often it was asked meanwhile
    /// whether its coordinator is there. It was passed over after so long, if ever, and is there until then.
    async fn ended(
        takes: Duration,
        passed_over_after: Option<Duration>,
        there_until: Duration,
    ) -> (Result<(), Gone>, Duration, usize) {
        let (began, asked) = (Instant::now(), std::cell::Cell::new(0));
        let passed_over = async {
            match passed_over_after {
                Some(after) => sleep(after).await,
                None => for_ever().await,
            }
        };
        let is_alive = || async {
            asked.set(asked.get() + 1);
            let is_there = began.elapsed() < there_until;
            if !is_there {
                sleep(4 * SECOND).await;
            }
            is_there
        };
        let came_of_it = unless_gone(sleep(takes), passed_over, 2 * SECOND, is_alive).await;
        (came_of_it, began.elapsed(), asked.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_once_where_another_question_was_answered_by_somebody_else() {
        let wait = 20 * SECOND;
        let gone = ended(wait, Some(SECOND * 7 / 10), Duration::ZERO).await;
        assert_eq!(gone, (Err(Gone::PassedOver), SECOND * 7 / 10, 0), "nothing is asked for it");
        // Also while a sign of life is waited for.
        let gone = ended(wait, Some(3 * SECOND), Duration::ZERO).await;
        assert_eq!(gone, (Err(Gone::PassedOver), 3 * SECOND, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_without_other_questions_ends_with_the_signs_of_life() {
        let wait = 20 * SECOND;
        assert_eq!(ended(wait, None, Duration::ZERO).await, (Err(Gone::ShowsNoSign), 6 * SECOND, 1));
        assert_eq!(ended(wait, None, 9 * SECOND).await, (Err(Gone::ShowsNoSign), 14 * SECOND, 5));
        assert_eq!(ended(wait, None, wait).await, (Ok(()), wait, 9));
    }
}
