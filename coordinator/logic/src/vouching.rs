//! What two workers' answers come to.
//!
//! Owns: whether a bundle gets a second coding on their word. Always holds: only what both answered, each by itself, is
//! believed, and only if it is a coding of this bundle for the k that was asked. Leaves to others: asking them and the
//! decoder (the shell), whether the nodes are apart (`recode`, and `apply` once more).

use firn_base::{NodeId, Scheme};
use firn_wire::Command;

use crate::headers::{CodedBundle, CodedBundleError};
use crate::state::BundleRecord;

/// A worker with the coding header that it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootsAnswer {
    /// The worker.
    pub worker: NodeId,
    /// Its answer, not checked yet.
    pub coding_header: Vec<u8>,
}

/// Why two answers begin nothing. Others are asked later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// One of them is wrong, and nobody knows which.
    #[error("workers {one} and {other} found different roots: neither is believed")]
    Disagree {
        /// The first digits of one.
        one: String,
        /// The first digits of the other.
        other: String,
    },
    /// Both are wrong in the same way.
    #[error("workers {one} and {other} answered no coding of this bundle: {cause}")]
    NoCoding {
        /// The first digits of one.
        one: String,
        /// The first digits of the other.
        other: String,
        /// What does not fit.
        cause: CodedBundleError,
    },
    /// Both coded for another k.
    #[error("workers {one} and {other} coded for another k than the one asked for")]
    OtherK {
        /// The first digits of one.
        one: String,
        /// The first digits of the other.
        other: String,
    },
}

/// The command that gives `bundle` a second coding of `scheme`, if both answers allow it.
pub fn judge_roots(
    bundle: &BundleRecord,
    scheme: Scheme,
    answers: [RootsAnswer; 2],
) -> Result<Command, RootsError> {
    let [first, second] = answers;
    let (one, other) = (first.worker.short(), second.worker.short());
    if first.coding_header != second.coding_header {
        return Err(RootsError::Disagree { one, other });
    }
    let coded = match CodedBundle::read(&bundle.content_header, &first.coding_header, scheme.n()) {
        Ok(coded) => coded,
        Err(cause) => return Err(RootsError::NoCoding { one, other, cause }),
    };
    if coded.scheme != scheme {
        return Err(RootsError::OtherK { one, other });
    }
    Ok(Command::BeginRecoding {
        bundle: bundle.id,
        coding_header: first.coding_header,
        n: scheme.n(),
        workers: [first.worker, second.worker],
    })
}
