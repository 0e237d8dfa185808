//! How much an object takes of a bundle.
//!
//! Leaves to others: which chunks a bundle has already, how well something compresses.

/// What is known of an object before it is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ObjectSize {
    /// Its chunks, as often as they come.
    pub chunks: u64,
    /// Those of them that are stored, once each.
    pub new_chunks: u64,
    /// Their bytes, raw.
    pub new_bytes: u64,
    /// What they are expected to take compressed; `new_bytes` if they must fit in any case.
    pub packed_bytes: u64,
    /// Those that were offered and will be used, once each.
    pub foreign_chunks: u64,
}
