//! The shards of one reserved bundle on their way to their nodes.
//!
//! Owns: what became of each, and when a bundle is ready to commit. Always holds: a shard counts once, with
//! the receipt of this reservation.
//! Leaves to others: which bundle's turn it is (`upload`), whether a receipt is genuine (the client library).

use firn_base::{ReservationId, Scheme, ShardIndex, Timestamp};
use firn_wire::{NodeAddress, Receipt, ReservationGrant, Signed, Ticket};

use crate::UploadPolicy;

/// Why a shard did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendFailure {
    /// Whether the same node may take it if asked again.
    pub retry: bool,
    /// What happened, for people.
    pub sentence: String,
}

/// The shards of one reservation.
#[derive(Debug, Clone)]
pub(crate) struct ShardProgress {
    reservation: ReservationId,
    scheme: Scheme,
    shards: Vec<Shard>,
    // When enough shards were durable to commit.
    enough_since: Option<Timestamp>,
    // Receipts up to this many were part of a commit.
    committed: Vec<ShardIndex>,
}

#[derive(Debug, Clone)]
struct Shard {
    index: ShardIndex,
    address: NodeAddress,
    ticket: Signed<Ticket>,
    attempts: u32,
    state: ShardState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ShardState {
    Waiting { not_before: Timestamp },
    Sending,
    Stored(Box<Signed<Receipt>>),
    Failed { sentence: String },
}

impl ShardProgress {
    /// The shards of `grant`; none if its tickets cannot be read or name a shard twice.
    pub(crate) fn new(grant: ReservationGrant, now: Timestamp) -> Option<Self> {
        let mut shards: Vec<Shard> = Vec::with_capacity(grant.targets.len());
        for (address, ticket) in grant.targets {
            let index = ticket.peek().ok()?.index;
            if shards.iter().any(|shard| shard.index == index) {
                return None;
            }
            let state = ShardState::Waiting { not_before: now };
            shards.push(Shard { index, address, ticket, attempts: 0, state });
        }
        let (reservation, scheme) = (grant.reservation, grant.scheme);
        Some(Self { reservation, scheme, shards, enough_since: None, committed: Vec::new() })
    }

    pub(crate) const fn reservation(&self) -> ReservationId {
        self.reservation
    }

    /// The next shard to send, marked as on its way.
    pub(crate) fn take_next(&mut self, now: Timestamp) -> Option<(ShardIndex, NodeAddress, Signed<Ticket>)> {
        let due =
            |state: &ShardState| matches!(state, ShardState::Waiting { not_before } if *not_before <= now);
        let shard = self.shards.iter_mut().find(|shard| due(&shard.state))?;
        shard.attempts += 1;
        shard.state = ShardState::Sending;
        Some((shard.index, shard.address.clone(), shard.ticket.clone()))
    }

    pub(crate) fn stored(&mut self, index: ShardIndex, receipt: Signed<Receipt>, now: Timestamp) {
        if let Some(shard) = self.shards.iter_mut().find(|shard| shard.index == index) {
            shard.state = ShardState::Stored(Box::new(receipt));
        }
        if self.enough_since.is_none() && self.has_enough() {
            self.enough_since = Some(now);
        }
    }

    pub(crate) fn failed(
        &mut self,
        index: ShardIndex,
        failure: SendFailure,
        policy: &UploadPolicy,
        now: Timestamp,
    ) {
        let Some(shard) = self.shards.iter_mut().find(|shard| shard.index == index) else { return };
        shard.state = if failure.retry && shard.attempts < policy.attempts_max {
            ShardState::Waiting { not_before: now.after(policy.pause(shard.attempts - 1)) }
        } else {
            ShardState::Failed { sentence: failure.sentence }
        };
    }

    /// Whether no shard will change any more.
    pub(crate) fn is_settled(&self) -> bool {
        self.shards.iter().all(|s| matches!(s.state, ShardState::Stored(_) | ShardState::Failed { .. }))
    }

    pub(crate) fn has_enough(&self) -> bool {
        self.stored_count() >= usize::from(self.scheme.commit_threshold())
    }

    pub(crate) fn stored_count(&self) -> usize {
        self.shards.iter().filter(|shard| matches!(shard.state, ShardState::Stored(_))).count()
    }

    pub(crate) const fn needed(&self) -> u8 {
        self.scheme.commit_threshold()
    }

    /// Whether the bundle may commit now: enough shards are durable, and all others have answered or were
    /// waited for.
    pub(crate) fn is_ready(&self, policy: &UploadPolicy, now: Timestamp) -> bool {
        self.has_enough() && (self.is_settled() || self.grace_end(policy).is_some_and(|end| end <= now))
    }

    pub(crate) fn grace_end(&self, policy: &UploadPolicy) -> Option<Timestamp> {
        self.enough_since.map(|since| since.after(policy.grace))
    }

    /// When the next retry is due.
    pub(crate) fn next_retry(&self) -> Option<Timestamp> {
        let times = self.shards.iter().filter_map(|shard| match shard.state {
            ShardState::Waiting { not_before } => Some(not_before),
            _ => None,
        });
        times.min()
    }

    /// The receipts so far; those given here are never late.
    pub(crate) fn receipts_to_commit(&mut self) -> Vec<Signed<Receipt>> {
        let stored = self.stored_shards();
        self.committed = stored.iter().map(|(index, _)| *index).collect();
        stored.into_iter().map(|(_, receipt)| receipt).collect()
    }

    /// Receipts that came after those that were committed.
    pub(crate) fn late_receipts(&self) -> Vec<Signed<Receipt>> {
        let late = self.stored_shards().into_iter().filter(|(index, _)| !self.committed.contains(index));
        late.map(|(_, receipt)| receipt).collect()
    }

    fn stored_shards(&self) -> Vec<(ShardIndex, Signed<Receipt>)> {
        let stored = self.shards.iter().filter_map(|shard| match &shard.state {
            ShardState::Stored(receipt) => Some((shard.index, (**receipt).clone())),
            _ => None,
        });
        stored.collect()
    }

    /// Why shards failed, each reason once.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut sentences: Vec<String> = Vec::new();
        for shard in &self.shards {
            if let ShardState::Failed { sentence } = &shard.state
                && !sentences.contains(sentence)
            {
                sentences.push(sentence.clone());
            }
        }
        sentences
    }
}
