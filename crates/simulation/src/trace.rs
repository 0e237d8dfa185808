//! The hash over everything that happened: two runs are the same run if and only if their traces are.
//!
//! Owns: what is hashed: time, kind, peer and bytes of every datagram, faults, and the states at the end.

use std::cell::RefCell;

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::new(Trace::default());
}

/// What one run left behind.
#[derive(Debug, Clone, Default)]
struct Trace {
    hasher: blake3::Hasher,
    datagrams: u64,
    bytes: u64,
}

/// The sum of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceSum {
    /// The hash.
    pub hash: [u8; 32],
    /// Datagrams sent.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Begins a trace on this thread.
pub(crate) fn begin() {
    TRACE.with(|trace| *trace.borrow_mut() = Trace::default());
}

/// Notes that something happened now.
pub(crate) fn note(kind: &str, bytes: &[u8]) {
    let at = turmoil::sim_elapsed().unwrap_or_default();
    TRACE.with(|trace| {
        let hasher = &mut trace.borrow_mut().hasher;
        hasher.update(&at.as_nanos().to_le_bytes());
        hasher.update(&(kind.len() as u64).to_le_bytes()).update(kind.as_bytes());
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    });
}

/// Counts a datagram that was sent.
pub(crate) fn count_sent(bytes: usize) {
    TRACE.with(|trace| {
        let mut trace = trace.borrow_mut();
        trace.datagrams += 1;
        trace.bytes += bytes as u64;
    });
}

/// The trace so far.
pub(crate) fn sum() -> TraceSum {
    TRACE.with(|trace| {
        let trace = trace.borrow();
        let hash = *trace.hasher.finalize().as_bytes();
        TraceSum { hash, datagrams: trace.datagrams, bytes: trace.bytes }
    })
}
