//! The erasure code: any k shards of a coding give every other one.
//!
//! Owns: the coefficient matrix of each k of the ladder, encoding, rebuilding, and the choice of tiles
//! that stay in the processor's cache.
//! Always holds: Reed–Solomon over GF(2^8) with the systematic Vandermonde matrix of the
//! `reed-solomon-erasure` crate, byte for byte, whatever kernel computes it; a row depends on k and its
//! index only, never on n, so a coding can gain parity later; k = 1 makes plain copies; foreign indexes,
//! counts and lengths end in errors, not in panics.
//! Leaves to others: padding and cutting a payload (`bundle`), files and columns (the publisher and the
//! repair worker, who hold one slice of every shard at a time), whether a shard is the right one (its root).

mod coder;
mod kernel;
mod matrix;
mod processor;
mod rebuild;

pub use coder::{Coder, CoderError, EncodeError};
pub use kernel::TILE_BYTES;
pub use processor::{UnsupportedProcessor, check_processor};
pub use rebuild::{RebuildError, RebuildPlan};
