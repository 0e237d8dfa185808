//! Shards from other shards: a plan per set of indexes, then any number of columns.
//!
//! Always holds: only the wanted rows are computed, each from k sources in one pass; nothing is written
//! unless all counts and lengths are right.
//! Leaves to others: which shards to read and in which order (`retrieval`, the repair worker).

use std::collections::BTreeSet;

use firn_base::ShardIndex;

use crate::coder::Coder;
use crate::kernel::{TILE_BYTES, combine, tiles};
use crate::matrix::{invert, row_times};

/// How to make certain shards from certain others, see [`Coder::plan_rebuild`].
#[derive(Debug, Clone)]
pub struct RebuildPlan {
    k: usize,
    present: Vec<ShardIndex>,
    wanted: Vec<(ShardIndex, Making)>,
}

#[derive(Debug, Clone)]
enum Making {
    // The present shard at this position is the wanted one.
    Copy(usize),
    // One coefficient for each of the k sources.
    Combine(Vec<u8>),
}

/// Why nothing was rebuilt. The buffers are untouched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RebuildError {
    /// Fewer shards than are needed.
    #[error("{present} shards cannot rebuild anything: fetch {k} different ones")]
    TooFew {
        /// How many are present.
        present: usize,
        /// How many are enough.
        k: usize,
    },
    /// An index beyond the code's last shard.
    #[error("there is no shard {index}: this code has {n_max}, counted from 0")]
    UnknownIndex {
        /// The index.
        index: ShardIndex,
        /// How many shards the code has.
        n_max: usize,
    },
    /// An index that stands twice in one list.
    #[error("shard {index} is listed twice: list each shard once")]
    Repeated {
        /// The index.
        index: ShardIndex,
    },
    /// Another number of slices than the plan has indexes.
    #[error("{given} slices were given to a plan of {planned}: give them in the plan's order")]
    SliceCount {
        /// How many slices were given.
        given: usize,
        /// How many indexes were planned.
        planned: usize,
    },
    /// A slice differs in length from the first present one.
    #[error("shard {index} is {given} bytes long but the first is {first}: give slices of one length")]
    Length {
        /// Which shard.
        index: ShardIndex,
        /// Its bytes.
        given: usize,
        /// The bytes of the first present shard.
        first: usize,
    },
}

impl RebuildPlan {
    pub(crate) fn new(
        coder: &Coder,
        present: &[ShardIndex],
        wanted: &[ShardIndex],
    ) -> Result<Self, RebuildError> {
        check_indexes(coder, present)?;
        check_indexes(coder, wanted)?;
        let decoding = Decoding::new(coder, present)?;
        let making = |index: &ShardIndex| match present.iter().position(|own| own == index) {
            Some(position) => Making::Copy(position),
            None => Making::Combine(decoding.coefficients(*index)),
        };
        let wanted = wanted.iter().map(|index| (*index, making(index))).collect();
        Ok(Self { k: coder.k(), present: present.to_vec(), wanted })
    }

    /// The shards that are read: the first k of those present, in order, and those merely copied.
    pub fn sources(&self) -> impl Iterator<Item = ShardIndex> {
        let copied = |position: usize| {
            self.wanted.iter().any(|(_, making)| matches!(making, Making::Copy(own) if *own == position))
        };
        let combined = self.wanted.iter().any(|(_, making)| matches!(making, Making::Combine(_)));
        let read = move |position: usize| (combined && position < self.k) || copied(position);
        self.present.iter().enumerate().filter(move |(position, _)| read(*position)).map(|(_, index)| *index)
    }

    /// Makes the wanted shards, or the same range of each, in the order of the plan's lists.
    ///
    /// # Errors
    ///
    /// Other counts than planned, or slices of several lengths; then nothing is written.
    pub fn run(&self, present: &[&[u8]], wanted: &mut [&mut [u8]]) -> Result<(), RebuildError> {
        check_count(present.len(), self.present.len())?;
        check_count(wanted.len(), self.wanted.len())?;
        let first = present[0].len();
        let inputs = self.present.iter().copied().zip(present.iter().map(|slice| slice.len()));
        let outputs = self.wanted.iter().map(|(index, _)| *index).zip(wanted.iter().map(|slice| slice.len()));
        check_lengths(inputs.chain(outputs), first)?;
        for tile in tiles(first) {
            for ((_, making), output) in self.wanted.iter().zip(wanted.iter_mut()) {
                let output = &mut output[tile.clone()];
                match making {
                    Making::Copy(position) => output.copy_from_slice(&present[*position][tile.clone()]),
                    Making::Combine(coefficients) => combine(coefficients, present, &tile, output),
                }
            }
        }
        Ok(())
    }
}

/// Whether the shards after the first k are what those k make of them.
pub(crate) fn agree(coder: &Coder, shards: &[(ShardIndex, &[u8])]) -> Result<bool, RebuildError> {
    let (indexes, slices): (Vec<_>, Vec<_>) = shards.iter().copied().unzip();
    check_indexes(coder, &indexes)?;
    let decoding = Decoding::new(coder, &indexes)?;
    let first = slices[0].len();
    check_lengths(indexes.iter().copied().zip(slices.iter().map(|slice| slice.len())), first)?;
    let mut made = vec![0; TILE_BYTES.min(first)];
    for (index, given) in shards.iter().skip(coder.k()) {
        let coefficients = decoding.coefficients(*index);
        for tile in tiles(first) {
            let made = &mut made[..tile.len()];
            combine(&coefficients, &slices, &tile, made);
            if *made != given[tile] {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// What turns the first k present shards into any other.
struct Decoding<'a> {
    coder: &'a Coder,
    // The inverse of the sources' rows: data from sources.
    inverse: Vec<u8>,
}

impl<'a> Decoding<'a> {
    fn new(coder: &'a Coder, present: &[ShardIndex]) -> Result<Self, RebuildError> {
        let k = coder.k();
        let sources = present.get(..k).ok_or(RebuildError::TooFew { present: present.len(), k })?;
        let rows = sources.iter().flat_map(|index| row(coder, *index)).copied().collect();
        let inverse = invert(rows, k).expect("any k different rows of this matrix are independent");
        Ok(Self { coder, inverse })
    }

    fn coefficients(&self, index: ShardIndex) -> Vec<u8> {
        row_times(row(self.coder, index), &self.inverse)
    }
}

fn row(coder: &Coder, index: ShardIndex) -> &[u8] {
    coder.coefficients(index).expect("indexes were checked")
}

fn check_indexes(coder: &Coder, indexes: &[ShardIndex]) -> Result<(), RebuildError> {
    let mut seen = BTreeSet::new();
    for index in indexes.iter().copied() {
        if coder.coefficients(index).is_none() {
            return Err(RebuildError::UnknownIndex { index, n_max: coder.n_max() });
        }
        if !seen.insert(index) {
            return Err(RebuildError::Repeated { index });
        }
    }
    Ok(())
}

const fn check_count(given: usize, planned: usize) -> Result<(), RebuildError> {
    if given == planned { Ok(()) } else { Err(RebuildError::SliceCount { given, planned }) }
}

fn check_lengths(
    mut shards: impl Iterator<Item = (ShardIndex, usize)>,
    first: usize,
) -> Result<(), RebuildError> {
    match shards.find(|(_, given)| *given != first) {
        Some((index, given)) => Err(RebuildError::Length { index, given, first }),
        None => Ok(()),
    }
}
