//! Shards from other shards: a plan per set of indexes, then any number of columns.
//!
//! Always holds: only the wanted rows are computed, each from k sources in one pass; running a plan allocates
//! nothing; nothing is written unless all counts and lengths are right.
//! Leaves to others: which shards to read and in which order (`retrieval`, the repair worker).

use std::num::NonZeroUsize;
use std::sync::Arc;

use firn_base::ShardIndex;

use crate::coder::Coder;
use crate::matrix::{invert, row_times};
use crate::rows::{OUTPUTS_MAX, Rows};

/// How to make certain shards from certain others, see [`Coder::plan_rebuild`]. Clones share the matrix.
#[derive(Debug, Clone)]
pub struct RebuildPlan {
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    k: usize,
    losses: Losses,
    // For each wanted shard the position of that shard among those present, or none if it is computed.
    copied_from: Vec<Option<usize>>,
    // A row for each wanted shard that is computed, in order.
    rows: Rows,
}

/// Which shards are present and which are wanted, in the caller's order; every index known, none twice in a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Losses {
    present: Indexes,
    wanted: Indexes,
}

// Indexes of one code, without an allocation; those after `count` are all 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Indexes {
    listed: [ShardIndex; OUTPUTS_MAX],
    count: usize,
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

impl Losses {
    pub(crate) fn new(
        coder: &Coder,
        present: impl Iterator<Item = ShardIndex>,
        wanted: impl Iterator<Item = ShardIndex>,
    ) -> Result<Self, RebuildError> {
        let (present, wanted) = (Indexes::new(coder, present)?, Indexes::new(coder, wanted)?);
        if present.count < coder.k() {
            return Err(RebuildError::TooFew { present: present.count, k: coder.k() });
        }
        Ok(Self { present, wanted })
    }
}

impl Indexes {
    fn new(coder: &Coder, given: impl Iterator<Item = ShardIndex>) -> Result<Self, RebuildError> {
        let mut indexes = Self { listed: [ShardIndex(0); OUTPUTS_MAX], count: 0 };
        for index in given {
            if coder.coefficients(index).is_none() {
                return Err(RebuildError::UnknownIndex { index, n_max: coder.n_max() });
            }
            if indexes.as_slice().contains(&index) {
                return Err(RebuildError::Repeated { index });
            }
            // There is room: a code has no more indexes.
            indexes.listed[indexes.count] = index;
            indexes.count += 1;
        }
        Ok(indexes)
    }

    fn as_slice(&self) -> &[ShardIndex] {
        &self.listed[..self.count]
    }
}

impl RebuildPlan {
    pub(crate) fn new(coder: &Coder, losses: &Losses) -> Self {
        let present = losses.present.as_slice();
        let decoding = Decoding::new(coder, &present[..coder.k()]);
        let mut coefficients = Vec::new();
        let mut copied_from = Vec::new();
        for index in losses.wanted.as_slice() {
            let position = present.iter().position(|own| own == index);
            if position.is_none() {
                coefficients.extend(decoding.coefficients(*index));
            }
            copied_from.push(position);
        }
        let rows = Rows::new(coder.backend(), coder.k(), &coefficients);
        Self { plan: Arc::new(Plan { k: coder.k(), losses: losses.clone(), copied_from, rows }) }
    }

    /// The shards that are read: the first k of those present, in order, and those merely copied.
    pub fn sources(&self) -> impl Iterator<Item = ShardIndex> {
        let Plan { k, losses, copied_from, rows } = &*self.plan;
        let read = move |position: usize| {
            (rows.count() > 0 && position < *k) || copied_from.contains(&Some(position))
        };
        let present = losses.present.as_slice().iter().enumerate();
        present.filter(move |(position, _)| read(*position)).map(|(_, index)| *index)
    }

    /// Makes the wanted shards, or the same range of each, in the order of the plan's lists.
    ///
    /// # Errors
    ///
    /// Other counts than planned, or slices of several lengths; then nothing is written.
    pub fn run(&self, present: &[&[u8]], wanted: &mut [&mut [u8]]) -> Result<(), RebuildError> {
        self.run_on(NonZeroUsize::MIN, present, wanted)
    }

    /// As [`RebuildPlan::run`], on up to `threads` threads that share out the columns and end with the call.
    ///
    /// # Errors
    ///
    /// Other counts than planned, or slices of several lengths; then nothing is written.
    pub fn run_on(
        &self,
        threads: NonZeroUsize,
        present: &[&[u8]],
        wanted: &mut [&mut [u8]],
    ) -> Result<(), RebuildError> {
        let Plan { k, losses, copied_from, rows } = &*self.plan;
        check_count(present.len(), losses.present.count)?;
        check_count(wanted.len(), losses.wanted.count)?;
        let inputs = losses.present.as_slice().iter().zip(present.iter().map(|slice| slice.len()));
        let outputs = losses.wanted.as_slice().iter().zip(wanted.iter().map(|slice| slice.len()));
        check_lengths(inputs.chain(outputs), present[0].len())?;
        let mut computed: [&mut [u8]; OUTPUTS_MAX] = std::array::from_fn(|_| Default::default());
        let mut places = computed.iter_mut();
        for (from, output) in copied_from.iter().zip(wanted) {
            match from {
                Some(position) => output.copy_from_slice(present[*position]),
                None => *places.next().expect("a code has at most so many shards") = &mut **output,
            }
        }
        rows.product_on(threads, &present[..*k], &mut computed[..rows.count()]);
        Ok(())
    }
}

/// Whether the shards after the first k are what those k make of them.
pub(crate) fn verify(coder: &Coder, shards: &[(ShardIndex, &[u8])]) -> Result<bool, RebuildError> {
    // A little of every shard at a time, on the stack.
    const PART_BYTES: usize = 1024;
    let indexes = Indexes::new(coder, shards.iter().map(|(index, _)| *index))?;
    let (sources, others) = shards
        .split_at_checked(coder.k())
        .ok_or(RebuildError::TooFew { present: shards.len(), k: coder.k() })?;
    let first = sources[0].1.len();
    check_lengths(indexes.as_slice().iter().zip(shards.iter().map(|(_, slice)| slice.len())), first)?;
    let plan =
        coder.plan_rebuild(&indexes.as_slice()[..sources.len()], &indexes.as_slice()[sources.len()..])?;
    let mut made = [[0; PART_BYTES]; OUTPUTS_MAX];
    for start in (0..first).step_by(PART_BYTES) {
        let end = first.min(start + PART_BYTES);
        let mut slices = [&[][..]; OUTPUTS_MAX];
        for (slice, (_, source)) in slices.iter_mut().zip(sources) {
            *slice = &source[start..end];
        }
        let mut outputs = made.each_mut().map(|made| &mut made[..end - start]);
        plan.run(&slices[..sources.len()], &mut outputs[..others.len()])?;
        if others.iter().zip(outputs).any(|((_, given), made)| given[start..end] != *made) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What turns k shards into any other.
struct Decoding<'a> {
    coder: &'a Coder,
    // The inverse of the sources' rows: data from sources.
    inverse: Vec<u8>,
}

impl<'a> Decoding<'a> {
    fn new(coder: &'a Coder, sources: &[ShardIndex]) -> Self {
        let rows = sources.iter().flat_map(|index| row(coder, *index)).copied().collect();
        let inverse = invert(rows, coder.k()).expect("any k different rows of this matrix are independent");
        Self { coder, inverse }
    }

    fn coefficients(&self, index: ShardIndex) -> Vec<u8> {
        row_times(row(self.coder, index), &self.inverse)
    }
}

fn row(coder: &Coder, index: ShardIndex) -> &[u8] {
    coder.coefficients(index).expect("indexes were checked")
}

const fn check_count(given: usize, planned: usize) -> Result<(), RebuildError> {
    if given == planned { Ok(()) } else { Err(RebuildError::SliceCount { given, planned }) }
}

fn check_lengths<'a>(
    mut shards: impl Iterator<Item = (&'a ShardIndex, usize)>,
    first: usize,
) -> Result<(), RebuildError> {
    match shards.find(|(_, given)| *given != first) {
        Some((index, given)) => Err(RebuildError::Length { index: *index, given, first }),
        None => Ok(()),
    }
}
