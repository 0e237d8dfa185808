//! Asking one member, over whatever connection there is, and remembering when it last answered, and what time it was
//! there.
//!
//! Always holds: a member that stops answering is dialled anew. A connection to a killed process looks alive
//! for seconds, and its successor would ask for votes meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use firn_transport::{ConnectionPool, Environment};
use firn_wire::{CONTROL_BYTES_MAX, CoordinatorReply, CoordinatorRequest, decode, encode};
use tokio::time::Instant;

use super::clock_book::ClockBook;
use super::message::{RaftAnswer, RaftReply, RaftRequest};
use super::types::Member;

/// A member did not answer, in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoAnswer(pub(super) String);

/// The ways to all members. Clones share what is remembered.
#[derive(Debug, Clone)]
pub(super) struct Contacts {
    pool: ConnectionPool,
    environment: Environment,
    // Without an answer for this long the way to a member is found anew, and again after as long.
    redial_after: Duration,
    known: Arc<Mutex<BTreeMap<u64, Contact>>>,
    clocks: ClockBook,
}

#[derive(Debug, Clone, Copy)]
struct Contact {
    answered: Option<Instant>,
    // When it last answered or was let go of.
    dialled: Instant,
}

/// One question under way: counts as unanswered if it is dropped.
#[derive(Debug)]
struct Question<'a> {
    contacts: &'a Contacts,
    number: u64,
    member: &'a Member,
    answered: bool,
}

impl Contacts {
    pub(super) fn new(
        pool: ConnectionPool,
        environment: Environment,
        redial_after: Duration,
        clocks: ClockBook,
    ) -> Self {
        Self { pool, environment, redial_after, known: Arc::default(), clocks }
    }

    /// When member `number` last answered.
    pub(super) fn last_answer(&self, number: u64) -> Option<Instant> {
        self.lock().get(&number).and_then(|contact| contact.answered)
    }

    /// Asks `member`, which has `number`.
    pub(super) async fn ask(
        &self,
        number: u64,
        member: &Member,
        request: RaftRequest,
        within: Duration,
    ) -> Result<RaftReply, NoAnswer> {
        let mut question = Question { contacts: self, number, member, answered: false };
        let is_bulky = request.is_bulky();
        let write = move || Bytes::from(encode(&CoordinatorRequest::Raft(encode(&request))));
        // Commits run to megabytes; what is small must not wait for them.
        let bytes = if is_bulky { self.environment.blocking(write).await } else { write() };
        let connection = self.pool.get(member.id, &member.address).await;
        let connection = connection.map_err(|error| NoAnswer(error.to_string()))?;
        let asked = Instant::now();
        let reply = connection.call_encoded(bytes, CONTROL_BYTES_MAX, within).await;
        let reply = reply.map_err(|error| NoAnswer(error.to_string()))?;
        question.answered = true;
        match reply {
            CoordinatorReply::Raft(bytes) => {
                let answer = decode::<RaftAnswer>(&bytes).map_err(|error| NoAnswer(error.to_string()))?;
                self.clocks.note(member.id, asked, answer.clock);
                Ok(answer.reply)
            }
            CoordinatorReply::Refused(refused) => Err(NoAnswer(refused.sentence)),
            _ => Err(NoAnswer(format!("{member} gave an answer to another question"))),
        }
    }

    fn note(&self, number: u64, member: &Member, answered: bool) {
        let now = Instant::now();
        let mut known = self.lock();
        let contact = known.entry(number).or_insert(Contact { answered: None, dialled: now });
        if answered {
            *contact = Contact { answered: Some(now), dialled: now };
        } else if now.duration_since(contact.dialled) >= self.redial_after {
            contact.dialled = now;
            self.pool.forget(member.id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Contact>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.contacts.note(self.number, self.member, self.answered);
    }
}
