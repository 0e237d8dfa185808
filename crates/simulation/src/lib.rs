//! The real programs' code in a seeded world: coordinators, storage nodes, publisher and readers over real QUIC,
//! with simulated time, network, disks and chance.
//!
//! Owns: [`run`]: one seed, one world, one outcome; [`run_quorum`]: coordinators alone, under one trouble;
//! [`run_succession`]: coordinators alone, of whom most are replaced. Always holds: the same seed gives the same trace
//! hash in every fresh process; whatever the programs do by the real clock, network, disk or randomness would show as
//! two hashes.
//! Leaves to others: everything that is simulated is the crates' own code; RocksDB and real disks have their own
//! conformance suites.

mod cache;
mod cast;
mod chance;
mod clock;
mod content;
mod council;
mod disaster;
mod entropy;
mod faults;
mod growth;
mod lying_disk;
mod machines;
mod operator;
mod oracle;
mod purging;
mod quorum;
mod reading;
mod rebuilding;
mod rot;
mod scenario;
mod slow_disk;
mod sockets;
mod stage;
mod succession;
mod successors;
mod trace;
mod world;

pub use cast::Story;
pub use council::writer_waits;
pub use quorum::{QuorumOptions, QuorumOutcome, QuorumTrouble, run_quorum};
pub use succession::{SuccessionOutcome, run_succession};
pub use trace::TraceSum;
pub use world::{Outcome, RunOptions, run};
