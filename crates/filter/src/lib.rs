//! Membership filters: which keys may have become visible in a range of the feed, at about nine bits a key.
//!
//! Owns: the bytes of a filter, how a key is asked for in it, and the making of its parts. Always holds: a key that was
//! put in is found; a random other key is found in 1 of 256 cases; equal keys of an equal range give equal bytes, so
//! that BLAKE3 of them is the filter's name on every replica; what was opened has extents that fit, so that asking
//! cannot fail. A filter says "maybe" or "no": a key that was withdrawn later stays in it.
//! Leaves to others: which filters there are and which keys go into them (`coordinator/logic`), files, who signs.
//!
//! Keys are names of the publishers' and uploaders' choosing. What a filter works with is a hash of them, keyed with
//! what stands for everything in the feed up to the end of the range: nobody knows it before the last key is chosen.

mod draft;
mod header;
mod key_hash;
mod membership;

pub use draft::{DraftError, FilterDraft, FilterPart};
pub use header::{FILTER_TRAILER_BYTES, FilterHeader, FormatError, HEADER_BYTES, read_trailer};
pub use key_hash::{KeyHash, KeyHasher};
pub use membership::MembershipFilter;
