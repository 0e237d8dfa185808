//! Rows of coefficients made ready for a backend, and their product with columns of shards.
//!
//! Owns: tables in the order that a kernel reads them, rows in groups that fit its registers, tiles that fit the
//! caches, ends shorter than a kernel's block, the choice of stores, columns shared out over threads.
//! Always holds: a product allocates nothing; every output byte is written once; bytes depend on coefficients and
//! sources alone.
//! Leaves to others: one tile of one group (`simd`, `portable`), and checking counts and lengths (`coder`,
//! `rebuild`).

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;

use crate::backend::Backend;
use crate::field::{AFFINE, HALF_BYTES};
use crate::portable::combine;
use crate::simd::{
    BLOCK_BYTES, SOURCES_MAX, STREAM_ALIGNMENT, Stores, Tables, end_streaming, multiply, rows_max,
};

/// Bytes of each shard that are worked on before going on to the next ones.
///
/// Every group of rows reads the tiles of all sources again, so that these should lie in the second-level cache
/// together, as well as the tiles of outputs that are passed over more than once.
pub const TILE_BYTES: usize = 32 * 1024;

/// From so many bytes of sources and outputs on, outputs are written past the caches, which could not keep them
/// anyway.
pub(crate) const STREAMING_BYTES_MIN: usize = 64 << 20;

/// The most outputs there are: the ladder's largest n.
pub(crate) const OUTPUTS_MAX: usize = 40;

/// A matrix of `count` × k coefficients, ready to be multiplied with k shards.
pub(crate) struct Rows {
    backend: Backend,
    k: usize,
    count: usize,
    prepared: Prepared,
}

enum Prepared {
    // Row by row.
    Plain(Vec<u8>),
    // Group by group, in each source by source, in each row by row.
    Affine(Vec<u64>),
    HalfBytes(Vec<[u8; 32]>),
}

impl fmt::Debug for Rows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Rows({} of {}, {})", self.count, self.k, self.backend)
    }
}

impl Rows {
    /// Prepares `coefficients`, row-major with `k` columns, for a `backend` that is available.
    pub(crate) fn new(backend: Backend, k: usize, coefficients: &[u8]) -> Self {
        let count = coefficients.len() / k;
        let in_order = || {
            groups(backend, count).flat_map(move |group| {
                (0..k).flat_map(move |column| {
                    group.clone().map(move |row| usize::from(coefficients[row * k + column]))
                })
            })
        };
        let prepared = match backend {
            // An odd number of sources is that of k = 1, whose rows are plain copies.
            _ if !k.is_multiple_of(2) => Prepared::Plain(coefficients.to_vec()),
            Backend::Portable => Prepared::Plain(coefficients.to_vec()),
            Backend::GfniAvx2 | Backend::GfniAvx512 => {
                Prepared::Affine(in_order().map(|coefficient| AFFINE[coefficient]).collect())
            }
            Backend::Avx2 | Backend::Neon => {
                Prepared::HalfBytes(in_order().map(|coefficient| HALF_BYTES[coefficient]).collect())
            }
        };
        Self { backend, k, count, prepared }
    }

    /// How many rows there are.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// Sets each output to its row's sum over the sources. All slices are of one length; there are k sources and
    /// an output for each row.
    pub(crate) fn product(&self, sources: &[&[u8]], outputs: &mut [&mut [u8]]) {
        let length = sources.first().map_or(0, |source| source.len());
        let bulk = match &self.prepared {
            Prepared::Plain(_) => length,
            _ => length - length % BLOCK_BYTES,
        };
        let stores = stores(sources.len() * length, outputs);
        for tile in tiles(bulk) {
            self.tile(sources, outputs, tile, stores);
        }
        if stores == Stores::Streaming {
            end_streaming();
        }
        if bulk < length {
            self.end(sources, outputs, bulk..length);
        }
    }

    /// As [`Rows::product`], on up to `threads` threads that share out the columns.
    pub(crate) fn product_on(&self, threads: NonZeroUsize, sources: &[&[u8]], outputs: &mut [&mut [u8]]) {
        let length = sources.first().map_or(0, |source| source.len());
        let tile_count = length.div_ceil(TILE_BYTES);
        if threads.get() == 1 || tile_count < 2 {
            return self.product(sources, outputs);
        }
        // Whole tiles, in proportion to the threads on either side.
        let left_threads = threads.get() / 2;
        let cut = (tile_count * left_threads / threads.get()).max(1) * TILE_BYTES;
        let mut left_sources: [&[u8]; SOURCES_MAX] = [&[]; SOURCES_MAX];
        let mut right_sources = left_sources;
        for (i, source) in sources.iter().enumerate() {
            (left_sources[i], right_sources[i]) = source.split_at(cut);
        }
        let (left_sources, right_sources) = (&left_sources[..sources.len()], &right_sources[..sources.len()]);
        let mut left_outputs: [&mut [u8]; OUTPUTS_MAX] = std::array::from_fn(|_| Default::default());
        let mut right_outputs: [&mut [u8]; OUTPUTS_MAX] = std::array::from_fn(|_| Default::default());
        let count = outputs.len();
        for (i, output) in outputs.iter_mut().enumerate() {
            (left_outputs[i], right_outputs[i]) = output.split_at_mut(cut);
        }
        let (left_outputs, right_outputs) = (&mut left_outputs[..count], &mut right_outputs[..count]);
        let budget = |count: usize| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                self.product_on(budget(threads.get() - left_threads), right_sources, right_outputs);
            });
            self.product_on(budget(left_threads), left_sources, left_outputs);
        });
    }

    fn tile(&self, sources: &[&[u8]], outputs: &mut [&mut [u8]], tile: Range<usize>, stores: Stores) {
        if let Prepared::Plain(coefficients) = &self.prepared {
            for (row, output) in coefficients.chunks_exact(self.k).zip(outputs) {
                combine(row, sources, &tile, &mut output[tile.clone()]);
            }
            return;
        }
        for group in groups(self.backend, self.count) {
            let tables = group.start * self.k..group.end * self.k;
            let tables = match &self.prepared {
                Prepared::Affine(all) => Tables::Affine(&all[tables]),
                Prepared::HalfBytes(all) => Tables::HalfBytes(&all[tables]),
                Prepared::Plain(_) => unreachable!("returned above"),
            };
            multiply(self.backend, tables, sources, &mut outputs[group], tile.clone(), stores);
        }
    }

    /// The bytes after the last whole block, by way of whole blocks of our own.
    fn end(&self, sources: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>) {
        let mut padded_sources = [[0; BLOCK_BYTES]; SOURCES_MAX];
        let mut padded_outputs = [[0; BLOCK_BYTES]; OUTPUTS_MAX];
        for (padded, source) in padded_sources.iter_mut().zip(sources) {
            padded[..range.len()].copy_from_slice(&source[range.clone()]);
        }
        let padded_sources = padded_sources.each_ref().map(|padded| &padded[..]);
        let mut to = padded_outputs.each_mut().map(|padded| &mut padded[..]);
        let (padded_sources, to) = (&padded_sources[..sources.len()], &mut to[..outputs.len()]);
        self.tile(padded_sources, to, 0..BLOCK_BYTES, Stores::Cached);
        for (output, padded) in outputs.iter_mut().zip(&padded_outputs) {
            output[range.clone()].copy_from_slice(&padded[..range.len()]);
        }
    }
}

/// The ranges that cut `count` rows into groups of about one size that fit the backend's registers.
fn groups(backend: Backend, count: usize) -> impl Iterator<Item = Range<usize>> {
    let groups = count.div_ceil(rows_max(backend));
    (0..groups).map(move |group| count * group / groups..count * (group + 1) / groups)
}

/// The ranges that cut `shard_bytes` into tiles; none for empty shards.
fn tiles(shard_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    (0..shard_bytes).step_by(TILE_BYTES).map(move |start| start..start + TILE_BYTES.min(shard_bytes - start))
}

fn stores(source_bytes: usize, outputs: &[&mut [u8]]) -> Stores {
    let output_bytes: usize = outputs.iter().map(|output| output.len()).sum();
    let aligned = |output: &&mut [u8]| output.as_ptr().addr().is_multiple_of(STREAM_ALIGNMENT);
    if source_bytes + output_bytes >= STREAMING_BYTES_MIN && outputs.iter().all(aligned) {
        Stores::Streaming
    } else {
        Stores::Cached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_a_shard_without_gap_or_overlap() {
        for shard_bytes in [0, 1, TILE_BYTES - 1, TILE_BYTES, TILE_BYTES + 1, 3 * TILE_BYTES + 7] {
            let mut end = 0;
            for tile in tiles(shard_bytes) {
                assert_eq!(tile.start, end);
                assert!(!tile.is_empty() && tile.len() <= TILE_BYTES);
                end = tile.end;
            }
            assert_eq!(end, shard_bytes);
        }
    }

    #[test]
    fn groups_cover_all_rows_and_fit_the_registers() {
        for backend in Backend::ALL {
            for count in 0..=OUTPUTS_MAX {
                let mut end = 0;
                for group in groups(backend, count) {
                    assert_eq!(group.start, end);
                    assert!(!group.is_empty() && group.len() <= rows_max(backend));
                    end = group.end;
                }
                assert_eq!(end, count);
            }
        }
    }
}
