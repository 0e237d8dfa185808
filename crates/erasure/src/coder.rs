//! The coder of one k: its matrix, and parity from data.
//!
//! Always holds: the matrix has a row for every index that k may ever use ([`Scheme::n_max`]), whatever n
//! a coding has today.
//! Leaves to others: shards from other shards (`rebuild`).

use std::fmt;
use std::sync::Arc;

use firn_base::{Scheme, ShardIndex};

use crate::kernel::{combine, tiles};
use crate::matrix::encoding_matrix;
use crate::processor::{UnsupportedProcessor, check_processor};
use crate::rebuild::{RebuildError, RebuildPlan, agree};

/// Encodes and rebuilds shards of every coding with one data count k. Clones share the matrix.
#[derive(Clone)]
pub struct Coder {
    k: usize,
    // n_max rows of k coefficients.
    matrix: Arc<[u8]>,
}

/// Why there is no coder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoderError {
    /// The ladder has no such k.
    #[error("no archive uses {k} data shards: k is 1, 2, 4, 8 or 16")]
    UnknownK {
        /// The data count that was asked for.
        k: u8,
    },
    /// The kernels of this build would crash here.
    #[error(transparent)]
    Processor(#[from] UnsupportedProcessor),
}

/// Why nothing was encoded. The parity buffers are untouched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Not exactly k data shards.
    #[error("{given} data shards were given to a code of {k}: give each of the {k} once, in order")]
    DataCount {
        /// How many were given.
        given: usize,
        /// How many the code has.
        k: usize,
    },
    /// More parity buffers than the code has parity shards.
    #[error("{given} parity shards were asked of a code that has {most}: ask for at most {most}")]
    ParityCount {
        /// How many buffers were given.
        given: usize,
        /// How many parity shards the code has.
        most: usize,
    },
    /// A data or parity slice differs in length from the first data shard.
    #[error("shard {index} is {given} bytes long but shard 0 is {first}: give slices of one length")]
    Length {
        /// Which shard.
        index: ShardIndex,
        /// Its bytes.
        given: usize,
        /// The bytes of shard 0.
        first: usize,
    },
}

impl Coder {
    /// The coder for `k` data shards.
    ///
    /// # Errors
    ///
    /// `k` is none of the ladder's, or this processor cannot run this build (see [`check_processor`]).
    pub fn new(k: u8) -> Result<Self, CoderError> {
        let n_max = Scheme::n_max(k).ok_or(CoderError::UnknownK { k })?;
        check_processor()?;
        let k = usize::from(k);
        Ok(Self { k, matrix: encoding_matrix(k, usize::from(n_max)).into() })
    }

    /// How many shards are enough, and how many hold data.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// How many shards there are at most, data and parity.
    pub fn n_max(&self) -> usize {
        self.matrix.len() / self.k
    }

    /// The k coefficients with which shard `index` is summed up from the data shards; none for an index
    /// that this code does not have.
    pub fn coefficients(&self, index: ShardIndex) -> Option<&[u8]> {
        self.matrix.chunks_exact(self.k).nth(index.position())
    }

    /// Computes parity shards k, k + 1, … of the k `data` shards, as many as `parity` has buffers.
    ///
    /// All slices are of one length, which may be any, zero too. Encoding works byte by byte, so the same
    /// range of every shard may be encoded alone.
    ///
    /// # Errors
    ///
    /// Wrong counts or lengths; then nothing is written.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), EncodeError> {
        let most = self.n_max() - self.k;
        if data.len() != self.k {
            return Err(EncodeError::DataCount { given: data.len(), k: self.k });
        }
        if parity.len() > most {
            return Err(EncodeError::ParityCount { given: parity.len(), most });
        }
        let first = data[0].len();
        let lengths = data.iter().map(|shard| shard.len()).chain(parity.iter().map(|shard| shard.len()));
        if let Some((index, given)) = (0..).map(ShardIndex).zip(lengths).find(|(_, given)| *given != first) {
            return Err(EncodeError::Length { index, given, first });
        }
        let rows = &self.matrix[self.k * self.k..];
        for tile in tiles(first) {
            for (row, output) in rows.chunks_exact(self.k).zip(parity.iter_mut()) {
                combine(row, data, &tile, &mut output[tile.clone()]);
            }
        }
        Ok(())
    }

    /// Works out once how to make the `wanted` shards from the `present` ones, for use on many columns.
    ///
    /// The first k of `present` are the sources; a wanted shard that is present anywhere is copied.
    ///
    /// # Errors
    ///
    /// Fewer than k shards are present, an index is unknown, or one stands twice in either list.
    pub fn plan_rebuild(
        &self,
        present: &[ShardIndex],
        wanted: &[ShardIndex],
    ) -> Result<RebuildPlan, RebuildError> {
        RebuildPlan::new(self, present, wanted)
    }

    /// Computes the `wanted` shards, data or parity, from at least k `present` ones: one
    /// [`Coder::plan_rebuild`] and one [`RebuildPlan::run`].
    ///
    /// # Errors
    ///
    /// Those of both; then nothing is written.
    pub fn rebuild(
        &self,
        present: &[(ShardIndex, &[u8])],
        wanted: &mut [(ShardIndex, &mut [u8])],
    ) -> Result<(), RebuildError> {
        let (present_indexes, sources): (Vec<_>, Vec<_>) = present.iter().copied().unzip();
        let (wanted_indexes, mut outputs): (Vec<_>, Vec<&mut [u8]>) =
            wanted.iter_mut().map(|(index, output)| (*index, &mut **output)).unzip();
        self.plan_rebuild(&present_indexes, &wanted_indexes)?.run(&sources, &mut outputs)
    }

    /// Whether all `shards` belong to one and the same data. With only k of them the answer is always yes.
    ///
    /// # Errors
    ///
    /// Fewer than k shards, an unknown index, an index twice, or slices of several lengths.
    pub fn agree(&self, shards: &[(ShardIndex, &[u8])]) -> Result<bool, RebuildError> {
        agree(self, shards)
    }
}

impl fmt::Debug for Coder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Coder({} of up to {})", self.k, self.n_max())
    }
}
