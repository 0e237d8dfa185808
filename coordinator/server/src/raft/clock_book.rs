//! What the other coordinators' clocks show, and whether this one's agrees with them.
//!
//! Always holds: whoever answers in the consensus says what time it is there, so a leader, which a majority answers all
//! the time, and a candidate, which a majority has just voted for, know a majority's clocks. Readings are kept beside a
//! clock that nobody sets: a jump of the own clock shows at once, before anybody is asked again.
//! Leaves to others: the judgement (`coordinator/logic`), asking while nobody leads (`comparison`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::{NodeId, Timestamp};
use firn_coordinator_logic::{ClockReading, Clocks};
use firn_transport::Environment;
use tokio::time::Instant;

use super::member_book::MemberBook;

/// The book. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct ClockBook {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    own: NodeId,
    began: Instant,
    environment: Environment,
    members: MemberBook,
    readings: Mutex<BTreeMap<NodeId, ClockReading>>,
}

impl ClockBook {
    /// An empty book of coordinator `own` among `members`.
    pub(crate) fn new(own: NodeId, members: MemberBook, environment: Environment) -> Self {
        let inner = Inner { own, began: Instant::now(), environment, members, readings: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Coordinator `id` has just answered a question of the moment `asked`: its clock shows `said`.
    pub(crate) fn note(&self, id: NodeId, asked: Instant, said: Timestamp) {
        let heard = self.steady(Instant::now());
        let reading = ClockReading { said, asked: self.steady(asked), heard };
        if reading.is_good(heard) {
            self.readings().insert(id, reading);
        }
    }

    /// All clocks of those that vote, at this moment.
    pub(crate) fn look(&self) -> Clocks {
        self.look_at(|_| true)
    }

    /// The same, as far as they were heard within `limit`: a clock that was wrong a while ago confirms nobody's.
    pub(crate) fn look_at_late(&self, limit: Duration) -> Clocks {
        let now = self.steady(Instant::now());
        self.look_at(|reading| now.saturating_sub(reading.heard) <= limit)
    }

    fn look_at(&self, counts: impl Fn(&ClockReading) -> bool) -> Clocks {
        let Inner { own, environment, members, .. } = &*self.inner;
        let voters: Vec<NodeId> = members
            .listed()
            .into_iter()
            .filter(|listed| listed.votes)
            .map(|listed| listed.member.id)
            .collect();
        let mut readings = self.readings();
        readings.retain(|id, _| voters.contains(id));
        let others = voters.into_iter().map(|id| (id, readings.get(&id).copied().filter(&counts)));
        Clocks::new((*own, environment.now()), self.steady(Instant::now()), others)
    }

    fn steady(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.inner.began)
    }

    fn readings(&self) -> MutexGuard<'_, BTreeMap<NodeId, ClockReading>> {
        self.inner.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
