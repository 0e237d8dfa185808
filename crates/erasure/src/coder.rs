//! The coder of one k: its matrix, and parity from data.
//!
//! Always holds: the matrix has a row for every index that k may ever use ([`Scheme::n_max`]), whatever n
//! a coding has today; its backend runs on this processor; what was prepared once (parity rows, plans of recent
//! losses) is kept for the next call.
//! Leaves to others: shards from other shards (`rebuild`), the arithmetic (`rows`).

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use firn_base::{Scheme, ShardIndex};
use lru::LruCache;

use crate::backend::Backend;
use crate::matrix::encoding_matrix;
use crate::rebuild::{Losses, RebuildError, RebuildPlan, verify};
use crate::rows::{OUTPUTS_MAX, Rows};
use crate::simd::SOURCES_MAX;

// A repair meets few patterns of loss at a time, each for many columns and many bundles; 64 plans of 16/40 are
// at most 800 KiB.
const PLANS_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// Encodes and rebuilds shards of every coding with one data count k. Clones share all that was prepared.
#[derive(Clone)]
pub struct Coder {
    code: Arc<Code>,
}

struct Code {
    backend: Backend,
    k: usize,
    // n_max rows of k coefficients.
    matrix: Vec<u8>,
    // At position i the first i parity rows.
    parity: Vec<OnceLock<Rows>>,
    plans: Mutex<LruCache<Losses, RebuildPlan>>,
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
    /// There is no such instruction set here.
    #[error("this processor does not have {backend}: take the backend that is detected")]
    Backend {
        /// The backend that was asked for.
        backend: Backend,
    },
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
    /// The coder for `k` data shards, with the fastest backend that this processor runs. All coders of one k in
    /// a process share what they prepare.
    ///
    /// # Errors
    ///
    /// `k` is none of the ladder's.
    pub fn new(k: u8) -> Result<Self, CoderError> {
        static CODERS: [OnceLock<Coder>; 5] = [const { OnceLock::new() }; 5];
        if Scheme::n_max(k).is_none() {
            return Err(CoderError::UnknownK { k });
        }
        // k is a power of two up to 16.
        let place = &CODERS[k.trailing_zeros() as usize];
        if let Some(coder) = place.get() {
            return Ok(coder.clone());
        }
        let coder = Self::with_backend(k, Backend::detected())?;
        Ok(place.get_or_init(|| coder).clone())
    }

    /// A coder for `k` data shards that computes with `backend`: for comparing backends.
    ///
    /// # Errors
    ///
    /// `k` is none of the ladder's, or this processor does not run `backend`.
    pub fn with_backend(k: u8, backend: Backend) -> Result<Self, CoderError> {
        let n_max = Scheme::n_max(k).ok_or(CoderError::UnknownK { k })?;
        if !backend.is_available() {
            return Err(CoderError::Backend { backend });
        }
        let (k, n_max) = (usize::from(k), usize::from(n_max));
        const { assert!(SOURCES_MAX == 16 && OUTPUTS_MAX == 40, "the bounds are those of the ladder") }
        assert!(k <= SOURCES_MAX && n_max <= OUTPUTS_MAX);
        let code = Code {
            backend,
            k,
            matrix: encoding_matrix(k, n_max),
            parity: (k..=n_max).map(|_| OnceLock::new()).collect(),
            plans: Mutex::new(LruCache::new(PLANS_MAX)),
        };
        Ok(Self { code: Arc::new(code) })
    }

    /// What it computes with.
    pub fn backend(&self) -> Backend {
        self.code.backend
    }

    /// How many shards are enough, and how many hold data.
    pub fn k(&self) -> usize {
        self.code.k
    }

    /// How many shards there are at most, data and parity.
    pub fn n_max(&self) -> usize {
        self.code.matrix.len() / self.code.k
    }

    /// The k coefficients with which shard `index` is summed up from the data shards; none for an index
    /// that this code does not have.
    pub fn coefficients(&self, index: ShardIndex) -> Option<&[u8]> {
        self.code.matrix.chunks_exact(self.code.k).nth(index.position())
    }

    /// Computes parity shards k, k + 1, … of the k `data` shards, as many as `parity` has buffers.
    ///
    /// All slices are of one length, which may be any, zero too. Encoding works byte by byte, so the same
    /// range of every shard may be encoded alone. It is fastest in the buffers of
    /// [`ColumnBuffers`](crate::ColumnBuffers).
    ///
    /// # Errors
    ///
    /// Wrong counts or lengths; then nothing is written.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), EncodeError> {
        self.encode_on(NonZeroUsize::MIN, data, parity)
    }

    /// As [`Coder::encode`], on up to `threads` threads that share out the columns and end with the call.
    ///
    /// # Errors
    ///
    /// Wrong counts or lengths; then nothing is written.
    pub fn encode_on(
        &self,
        threads: NonZeroUsize,
        data: &[&[u8]],
        parity: &mut [&mut [u8]],
    ) -> Result<(), EncodeError> {
        let Code { k, .. } = *self.code;
        let most = self.n_max() - k;
        if data.len() != k {
            return Err(EncodeError::DataCount { given: data.len(), k });
        }
        if parity.len() > most {
            return Err(EncodeError::ParityCount { given: parity.len(), most });
        }
        let first = data[0].len();
        let lengths = data.iter().map(|shard| shard.len()).chain(parity.iter().map(|shard| shard.len()));
        if let Some((index, given)) = (0..).map(ShardIndex).zip(lengths).find(|(_, given)| *given != first) {
            return Err(EncodeError::Length { index, given, first });
        }
        let coefficients = &self.code.matrix[k * k..][..k * parity.len()];
        let rows =
            self.code.parity[parity.len()].get_or_init(|| Rows::new(self.code.backend, k, coefficients));
        rows.product_on(threads, data, parity);
        Ok(())
    }

    /// Works out how to make the `wanted` shards from the `present` ones, for use on many columns.
    ///
    /// The first k of `present` are the sources; a wanted shard that is present anywhere is copied. Plans of
    /// recent losses are remembered.
    ///
    /// # Errors
    ///
    /// Fewer than k shards are present, an index is unknown, or one stands twice in either list.
    pub fn plan_rebuild(
        &self,
        present: &[ShardIndex],
        wanted: &[ShardIndex],
    ) -> Result<RebuildPlan, RebuildError> {
        Ok(self.plan(Losses::new(self, present.iter().copied(), wanted.iter().copied())?))
    }

    fn plan(&self, losses: Losses) -> RebuildPlan {
        let plans = || self.code.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let known = plans().get(&losses).cloned();
        known.unwrap_or_else(|| {
            let plan = RebuildPlan::new(self, &losses);
            plans().put(losses, plan.clone());
            plan
        })
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
        let wanted_indexes = wanted.iter().map(|(index, _)| *index);
        let plan = self.plan(Losses::new(self, present.iter().map(|(index, _)| *index), wanted_indexes)?);
        // No list is longer: an index that stands twice was refused.
        let (present_count, wanted_count) = (present.len(), wanted.len());
        let mut sources = [&[][..]; OUTPUTS_MAX];
        let mut outputs: [&mut [u8]; OUTPUTS_MAX] = std::array::from_fn(|_| Default::default());
        for (source, (_, slice)) in sources.iter_mut().zip(present) {
            *source = slice;
        }
        for (output, (_, slice)) in outputs.iter_mut().zip(wanted) {
            *output = slice;
        }
        plan.run(&sources[..present_count], &mut outputs[..wanted_count])
    }

    /// Whether all `shards` belong to one and the same data. With only k of them the answer is always yes.
    ///
    /// # Errors
    ///
    /// Fewer than k shards, an unknown index, an index twice, or slices of several lengths.
    pub fn verify(&self, shards: &[(ShardIndex, &[u8])]) -> Result<bool, RebuildError> {
        verify(self, shards)
    }
}

impl fmt::Debug for Coder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Coder({} of up to {}, {})", self.k(), self.n_max(), self.backend())
    }
}
