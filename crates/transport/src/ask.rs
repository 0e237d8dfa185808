//! How long a question to the coordinators may take, and how it can fail.
//!
//! Always holds: every question has a deadline; only what may be done twice is sent twice.

use std::time::Duration;

use firn_base::{ArchiveId, NodeId};
use firn_wire::{CoordinatorRequest, DescriptorError, RefusedRequest};

use crate::LedgerError;

/// Why the coordinators gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// They answered, and refuse.
    #[error(transparent)]
    Refused(#[from] RefusedRequest),
    /// None of them answers usefully.
    #[error("no coordinator of archive {} answers: {}", archive.short(), list(tried))]
    NoAnswer {
        /// The archive.
        archive: ArchiveId,
        /// One sentence for each that was tried.
        tried: Vec<String>,
        /// Whether one of them is there all the same, and could not do it now.
        refused: bool,
    },
    /// The connection was lost before the answer to what must not be done twice.
    #[error("it is not known whether this was done, look before you try again: {reason}")]
    Uncertain {
        /// What happened.
        reason: String,
    },
    /// The answer is no answer to the question.
    #[error(
        "a coordinator gave an answer that does not fit the question: update the older of the two programs"
    )]
    UnexpectedReply,
    /// It is not in the roster.
    #[error("{0} is not a coordinator of this archive")]
    NotACoordinator(NodeId),
    /// The descriptor that they gave is not to be trusted.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// The ledger is not vouched for.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

fn list(tried: &[String]) -> String {
    if tried.is_empty() { "its roster names none".to_owned() } else { tried.join("; ") }
}

/// What one coordinator's turn came to.
pub(crate) enum Turn {
    /// A checked answer, maybe a refusal.
    Answered(firn_wire::CoordinatorReply),
    /// The request did not leave this machine.
    NotReached(String),
    /// The request may have arrived; there is no usable answer.
    Lost(String),
}

/// How long a question may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// One coordinator's time.
    pub(crate) turn: Duration,
    /// All turns together, pauses included.
    pub(crate) total: Duration,
    /// After so long without an answer the next coordinator is asked as well.
    pub(crate) hedge: Option<Duration>,
    /// Whether it must not be done twice.
    pub(crate) once: bool,
    /// How it is seen meanwhile that the coordinator is still there; none where the next one is asked soon in any case.
    pub(crate) signs: Option<SignsOfLife>,
}

/// Signs of life that are asked for while an answer is waited for: a connection to a coordinator that was killed looks
/// alive for ten seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SignsOfLife {
    /// So often.
    pub(crate) every: Duration,
    /// None for so long, beside what the way takes there and back, and nobody is there.
    pub(crate) within: Duration,
    /// Whether another question is one, too: once somebody else answered what this coordinator left unanswered, it is
    /// taken to be gone, and nothing more is asked of it for that.
    pub(crate) heeds_others: bool,
}

const SIGNS: SignsOfLife =
    SignsOfLife { every: Duration::from_millis(500), within: seconds(1), heeds_others: false };

// Each of ten thousand gateways waits for news all the time, so a coordinator is asked seldom; and one that stood still
// for a moment must not be left by all of them at once, for the next one would stand still then. Those of whom
// something was asked meanwhile have turned to the next one with that already, and lose nothing by waiting there.
const SIGNS_TO_WAITERS: SignsOfLife =
    SignsOfLife { every: seconds(2), within: seconds(4), heeds_others: true };

// What is asked stands behind megabytes that the same line takes up; so does any other question.
const SIGNS_BESIDE_UPLOADS: SignsOfLife =
    SignsOfLife { every: seconds(1), within: seconds(4), heeds_others: false };

// A coordinator that was killed answers nothing until the idle timeout ends its connection; readers should not notice.
const HEDGE: Duration = Duration::from_millis(700);

/// Whether nothing but the way takes long: then the time for an answer says how far away a coordinator is. Lists and
/// figures of the whole archive take as long as it is large.
pub(crate) const fn is_quick(request: &CoordinatorRequest) -> bool {
    matches!(
        request,
        CoordinatorRequest::News { wait_millis: 0, .. }
            | CoordinatorRequest::GetMembers
            | CoordinatorRequest::Presence(_)
            | CoordinatorRequest::Lookup(_)
    )
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Pace {
    pub(crate) fn of(request: &CoordinatorRequest) -> Self {
        let read =
            Self { turn: seconds(5), total: seconds(15), hedge: Some(HEDGE), once: false, signs: None };
        match request {
            CoordinatorRequest::Feed { wait_millis, .. } | CoordinatorRequest::News { wait_millis, .. } => {
                let wait = Duration::from_millis((*wait_millis).into()).min(seconds(30));
                // Who does not want to wait for events waits for no coordinator either.
                let hedge = read.hedge.filter(|_| wait.is_zero());
                let signs = hedge.is_none().then_some(SIGNS_TO_WAITERS);
                Self { turn: wait + seconds(5), total: wait + seconds(15), hedge, once: false, signs }
            }
            // A piece of 1 MiB takes 5 s over 2 Mbit/s; whoever asks a second coordinator sooner gets it twice.
            CoordinatorRequest::FilterPiece { .. } => {
                Self { turn: seconds(30), total: seconds(90), hedge: Some(seconds(10)), ..read }
            }
            // 80 MiB of manifests over a home line of 10 Mbit/s take 70 s. Committing twice is refused as done
            // already, reserving twice leaves a reservation that expires.
            CoordinatorRequest::Commit(_) | CoordinatorRequest::Compact(_) => {
                let signs = Some(SIGNS_BESIDE_UPLOADS);
                Self { turn: seconds(120), total: seconds(240), hedge: None, once: false, signs }
            }
            CoordinatorRequest::Reserve(_)
            | CoordinatorRequest::LateReceipts(_)
            | CoordinatorRequest::Release(_) => {
                Self { turn: seconds(10), total: seconds(30), hedge: None, once: false, signs: Some(SIGNS) }
            }
            CoordinatorRequest::Admin(_) => {
                Self { turn: seconds(10), total: seconds(20), hedge: None, once: true, signs: Some(SIGNS) }
            }
            CoordinatorRequest::Join(_)
            | CoordinatorRequest::Heartbeat(_)
            | CoordinatorRequest::Inventory { .. }
            | CoordinatorRequest::CompareInventory(_)
            | CoordinatorRequest::Raft(_)
            | CoordinatorRequest::OfferRoster(_)
            | CoordinatorRequest::Forward { .. }
            | CoordinatorRequest::GetCertificates(_)
            | CoordinatorRequest::ReportShard(_)
            | CoordinatorRequest::TellTerms(_)
            | CoordinatorRequest::DeclareAbsence { .. }
            | CoordinatorRequest::GetSuspension
            | CoordinatorRequest::StateDigests => Self { hedge: None, ..read },
            CoordinatorRequest::GetDescriptor
            | CoordinatorRequest::GetMembers
            | CoordinatorRequest::GetLedger { .. }
            | CoordinatorRequest::GetLedgerHeads
            | CoordinatorRequest::GetPass
            | CoordinatorRequest::GetScheme
            | CoordinatorRequest::Presence(_)
            | CoordinatorRequest::Lookup(_)
            | CoordinatorRequest::Similar(_)
            | CoordinatorRequest::Bundles(_)
            | CoordinatorRequest::Nodes
            | CoordinatorRequest::Status
            | CoordinatorRequest::ListNodes
            | CoordinatorRequest::ListResting
            | CoordinatorRequest::ListBundles { .. }
            | CoordinatorRequest::ListHeld
            | CoordinatorRequest::ListExternals
            | CoordinatorRequest::ListFilters
            | CoordinatorRequest::IndexRange(_) => read,
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{KeyPrefix, ObjectKey};
    use firn_wire::IndexRangeRequest;

    use super::*;

    #[test]
    fn a_second_coordinator_is_asked_in_less_than_a_second_for_what_readers_wait_for() {
        let key = ObjectKey::store_path([1; 20]);
        let prefix = KeyPrefix::of(&key, KeyPrefix::BITS_MAX).unwrap();
        let questions = [
            CoordinatorRequest::Presence(vec![key]),
            CoordinatorRequest::Lookup(vec![key]),
            CoordinatorRequest::IndexRange(IndexRangeRequest { prefix, after: None }),
        ];
        for question in questions {
            let hedge = Pace::of(&question).hedge;
            assert!(hedge.is_some_and(|after| after < seconds(1)), "{question:?}: {hedge:?}");
        }
    }
}
