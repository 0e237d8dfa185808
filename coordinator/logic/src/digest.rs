//! A digest of the whole state that is kept up with every change, so that replicas and rebuilt archives can be compared
//! at any moment.
//!
//! Owns: what is compared, in three parts, each the sum of its facts ([`SetSum`]), so that neither the order in which
//! facts came nor how commands were batched matters.
//!
//! - *content*: bundles with their codings, where keys lie, what is held back, external references, withdrawals. It names
//!   bundles by id, never by number, and knows no time: shard files and ledgers restore it, an archive that is rebuilt
//!   from them in another order has the same.
//! - *governance*: the ledger, used tokens, the policy.
//! - *rest*: everything else, by number and to the last field: nodes, placements, reservations, surplus copies, which
//!   place of a key is the first, features (which depend on the order of commits), counters, and with them the feed, whose digest is chained as the ledger's is.
//!
//! Always holds: [`advance`] over any changes gives what [`full_digest`] of the changed state gives; equal log position
//! means equal digest (invariant 7). Tables of names, of waiters and of reservations by coding repeat what records say and
//! are not counted. Leaves to others: when to compare and whom to tell (the shell).

mod advance;
mod fact;
mod scan;
mod set_sum;

use firn_base::Digest;
use firn_wire::StateDigests;

pub use advance::advance;
pub use scan::full_digest;
pub use set_sum::{SUM_BYTES, SetSum};

use fact::{Entry, Part};

/// Bytes of a [`StateDigest`].
pub const STATE_DIGEST_BYTES: usize = 3 * SUM_BYTES;

/// The sums of a state's facts, by part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateDigest {
    content: SetSum,
    governance: SetSum,
    rest: SetSum,
}

impl StateDigest {
    /// The three parts, one behind the other.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.content, &self.governance, &self.rest].into_iter().flat_map(SetSum::to_bytes).collect()
    }

    /// Reads what [`Self::to_bytes`] wrote; none if there are more or fewer bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (content, rest) = bytes.split_at_checked(SUM_BYTES)?;
        let (governance, rest) = rest.split_at_checked(SUM_BYTES)?;
        Some(Self {
            content: SetSum::from_bytes(content)?,
            governance: SetSum::from_bytes(governance)?,
            rest: SetSum::from_bytes(rest)?,
        })
    }

    /// What is compared: a short digest of each part, with the index of the last applied entry.
    pub fn at(&self, applied: u64) -> StateDigests {
        StateDigests {
            applied,
            content: self.content.digest(),
            governance: self.governance.digest(),
            rest: self.rest.digest(),
        }
    }

    /// Of content and governance together: what a rebuilt archive must agree with.
    pub fn restorable(&self) -> (Digest, Digest) {
        (self.content.digest(), self.governance.digest())
    }

    fn add(&mut self, entry: &Entry<'_>) {
        entry.facts(|part, fact| self.part(part).add(&fact.expand()));
    }

    fn remove(&mut self, entry: &Entry<'_>) {
        entry.facts(|part, fact| self.part(part).remove(&fact.expand()));
    }

    const fn part(&mut self, part: Part) -> &mut SetSum {
        match part {
            Part::Content => &mut self.content,
            Part::Governance => &mut self.governance,
            Part::Rest => &mut self.rest,
        }
    }
}
