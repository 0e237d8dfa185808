//! The erasure code: any k shards of a coding give every other one.
//!
//! Owns: the coefficient matrix of each k of the ladder, encoding, verifying, rebuilding, the kernels and the
//! choice among them for the processor at hand, tiles that stay in its caches.
//! Always holds: Reed–Solomon over GF(2^8) with the systematic Vandermonde matrix of the
//! `reed-solomon-erasure` crate, byte for byte, whatever kernel computes it; a row depends on k and its
//! index only, never on n, so a coding can gain parity later; k = 1 makes plain copies; foreign indexes,
//! counts and lengths end in errors, not in panics; coding allocates nothing once a plan is made.
//! Leaves to others: padding and cutting a payload (`bundle`), files and columns (the publisher and the
//! repair worker, who hold one slice of every shard at a time), whether a shard is the right one (its root).

mod backend;
mod coder;
mod columns;
mod field;
mod matrix;
mod portable;
mod rebuild;
mod rows;
mod simd;

pub use backend::Backend;
pub use coder::{Coder, CoderError, EncodeError};
pub use columns::ColumnBuffers;
pub use rebuild::{RebuildError, RebuildPlan};
pub use rows::TILE_BYTES;
