//! The kernels: rows of coefficients times columns of bytes, one function for each instruction set.
//!
//! Owns: all unsafe code of this crate. Always holds: [`multiply`] checks counts, lengths, and that the processor
//! has the instruction set, before a pointer is made; a kernel reads the same range of every source and writes
//! that range of every output, nothing else.
//! Leaves to others: which rows go together, tiles, ends shorter than [`BLOCK_BYTES`] (`rows`).

#![allow(unsafe_code, reason = "vectors are loaded and stored through pointers; each block says why it may")]

use std::ops::Range;

use crate::backend::Backend;

/// Kernels work on a multiple of this many bytes: two of the widest vectors.
pub(crate) const BLOCK_BYTES: usize = 128;

/// A store past the caches needs its output aligned so: the widest vector.
pub(crate) const STREAM_ALIGNMENT: usize = 64;

/// The most sources there are: the ladder's largest k.
pub(crate) const SOURCES_MAX: usize = 16;

/// How outputs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stores {
    /// Into the caches: whoever reads the output next finds it there.
    Cached,
    /// Past the caches, without first reading what is overwritten. Needs [`STREAM_ALIGNMENT`].
    Streaming,
}

/// Tables of coefficients in the order in which a kernel reads them: source by source, in each row by row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tables<'a> {
    /// For the GFNI backends, of `field::AFFINE`.
    Affine(&'a [u64]),
    /// For the backends that shuffle, of `field::HALF_BYTES`.
    HalfBytes(&'a [[u8; 32]]),
}

/// The most rows that one call of [`multiply`] computes: as many sums as fit the registers.
pub(crate) const fn rows_max(backend: Backend) -> usize {
    match backend {
        Backend::Portable => 1,
        Backend::Avx2 => 4,
        Backend::GfniAvx2 => 6,
        Backend::GfniAvx512 => 12,
        Backend::Neon => 4,
    }
}

/// Sets `range` of each output to the sum of its row's coefficients times `range` of the sources.
///
/// # Panics
///
/// The backend is not available or has no kernel, the range is no multiple of [`BLOCK_BYTES`] or exceeds a slice,
/// there are no rows or more than [`rows_max`], an odd number of sources or more than [`SOURCES_MAX`], tables of
/// another size or kind, or [`Stores::Streaming`] into an output that is not aligned.
pub(crate) fn multiply(
    backend: Backend,
    tables: Tables<'_>,
    sources: &[&[u8]],
    outputs: &mut [&mut [u8]],
    range: Range<usize>,
    stores: Stores,
) {
    assert!(backend.is_available());
    assert!(range.len().is_multiple_of(BLOCK_BYTES));
    assert!(sources.len() <= SOURCES_MAX && sources.len().is_multiple_of(2));
    let table_count = match tables {
        Tables::Affine(tables) => tables.len(),
        Tables::HalfBytes(tables) => tables.len(),
    };
    assert_eq!(table_count, sources.len() * outputs.len());
    let mut from = [std::ptr::null::<u8>(); SOURCES_MAX];
    for (pointer, source) in from.iter_mut().zip(sources) {
        *pointer = source[range.clone()].as_ptr();
    }
    let columns = Columns { from: &from[..sources.len()], bytes: range.len() };
    macro_rules! by_rows {
        // `$wide`: vectors at a time where there is one row, so that a table that was loaded is used as often.
        ($set:ident, $tables:expr, wide $wide:literal, $($rows:literal)*) => {
            match outputs.len() {
                1 if range.len().is_multiple_of($wide * size_of::<$set::Vector>()) => {
                    by_rows!($set, $tables, 1, $wide);
                }
                $($rows => by_rows!($set, $tables, $rows, 2),)*
                rows => unreachable!("{rows} rows at once: not more than rows_max, and at least one"),
            }
        };
        ($set:ident, $tables:expr, $rows:literal, $vectors:literal) => {{
            let to: [*mut u8; $rows] = std::array::from_fn(|row| outputs[row][range.clone()].as_mut_ptr());
            match stores {
                // SAFETY: the instruction set is there (first assertion). All pointers are of slices of
                // `columns.bytes` bytes that outlive this call, a multiple of these vectors: of BLOCK_BYTES, or
                // asked for above; the outputs are borrowed mutably, so no two slices overlap.
                Stores::Cached => unsafe { $set::kernel::<$rows, $vectors, false>($tables, columns, to) },
                Stores::Streaming => {
                    assert!(to.iter().all(|output| output.addr().is_multiple_of(STREAM_ALIGNMENT)));
                    // SAFETY: as above, and every output is aligned.
                    unsafe { $set::kernel::<$rows, $vectors, true>($tables, columns, to) }
                }
            }
        }};
    }
    match (backend, tables) {
        #[cfg(target_arch = "x86_64")]
        (Backend::GfniAvx512, Tables::Affine(tables)) => {
            by_rows!(gfni_avx512, tables, wide 8, 1 2 3 4 5 6 7 8 9 10 11 12);
        }
        #[cfg(target_arch = "x86_64")]
        (Backend::GfniAvx2, Tables::Affine(tables)) => by_rows!(gfni_avx2, tables, wide 4, 1 2 3 4 5 6),
        #[cfg(target_arch = "x86_64")]
        (Backend::Avx2, Tables::HalfBytes(tables)) => by_rows!(avx2, tables, wide 2, 1 2 3 4),
        #[cfg(target_arch = "aarch64")]
        (Backend::Neon, Tables::HalfBytes(tables)) => by_rows!(neon, tables, wide 2, 1 2 3 4),
        (backend, _) => unreachable!("no kernel of {backend} takes these tables"),
    }
}

/// Makes what was written with [`Stores::Streaming`] visible to other threads that synchronise with this one.
pub(crate) fn end_streaming() {
    // SAFETY: SSE, and so the fence, belongs to every x86-64 processor. Elsewhere nothing streams past the
    // memory model.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// The sources of one call, each with `bytes` bytes from its pointer on.
#[derive(Clone, Copy)]
struct Columns<'a> {
    from: &'a [*const u8],
    bytes: usize,
}

/// The loop that all kernels share. `VECTORS` vectors of each row are summed up in registers over all sources, two
/// sources at a time; then they are stored, and the next follow.
///
/// The module around it defines, for its instruction set: `Vector`, `Input` (a source's vector made ready),
/// `Table`, and the functions `zero`, `load`, `add_products` and `store`.
macro_rules! kernel {
    ($features:literal) => {
        /// # Safety
        ///
        /// The processor has the instruction set; `from` and `to` point to `bytes` bytes each, a multiple of
        /// `VECTORS` vectors, which nobody else writes, nor reads where they are outputs; outputs are aligned
        /// to a vector if `STREAM`. There is one table for each source and row.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn kernel<const ROWS: usize, const VECTORS: usize, const STREAM: bool>(
            tables: &[Table],
            columns: super::Columns<'_>,
            to: [*mut u8; ROWS],
        ) {
            const VECTOR_BYTES: usize = size_of::<Vector>();
            for at in (0..columns.bytes).step_by(VECTORS * VECTOR_BYTES) {
                let mut sums = [[zero(); VECTORS]; ROWS];
                for (from, tables) in columns.from.chunks_exact(2).zip(tables.chunks_exact(2 * ROWS)) {
                    // SAFETY: `at` plus all vectors is at most `bytes`.
                    let (first, second) = unsafe {
                        let (first, second) = (from[0].add(at), from[1].add(at));
                        (
                            std::array::from_fn(|vector| load(first.add(vector * VECTOR_BYTES))),
                            std::array::from_fn(|vector| load(second.add(vector * VECTOR_BYTES))),
                        )
                    };
                    for row in 0..ROWS {
                        sums[row] = add_products(sums[row], first, &tables[row], second, &tables[ROWS + row]);
                    }
                }
                for (to, sums) in to.iter().zip(sums) {
                    for (vector, sum) in sums.into_iter().enumerate() {
                        // SAFETY: as for the loads, and aligned if `STREAM`.
                        unsafe { store::<STREAM>(to.add(at + vector * VECTOR_BYTES), sum) };
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod gfni_avx512 {
    use std::arch::x86_64::*;

    pub(super) type Vector = __m512i;
    type Input = __m512i;
    type Table = u64;

    // The truth table of a ^ b ^ c.
    const XOR_OF_THREE: i32 = 0x96;

    kernel!("avx512f,avx512bw,gfni");

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> Vector {
        _mm512_setzero_si512()
    }

    /// # Safety
    ///
    /// 64 bytes can be read at `from`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(from: *const u8) -> Input {
        // SAFETY: the caller's promise; the load needs no alignment.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn add_products<const VECTORS: usize>(
        sums: [Vector; VECTORS],
        first: [Input; VECTORS],
        first_table: &Table,
        second: [Input; VECTORS],
        second_table: &Table,
    ) -> [Vector; VECTORS] {
        let one = _mm512_set1_epi64(first_table.cast_signed());
        let other = _mm512_set1_epi64(second_table.cast_signed());
        std::array::from_fn(|half| {
            let product = _mm512_gf2p8affine_epi64_epi8::<0>(first[half], one);
            let other = _mm512_gf2p8affine_epi64_epi8::<0>(second[half], other);
            _mm512_ternarylogic_epi64::<XOR_OF_THREE>(sums[half], product, other)
        })
    }

    /// # Safety
    ///
    /// 64 bytes can be written at `to`, which is aligned to them if `STREAM`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store<const STREAM: bool>(to: *mut u8, vector: Vector) {
        // SAFETY: the caller's promise.
        unsafe {
            if STREAM {
                _mm512_stream_si512(to.cast(), vector);
            } else {
                _mm512_storeu_si512(to.cast(), vector);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod gfni_avx2 {
    use std::arch::x86_64::*;

    use super::avx2::{store, zero};

    pub(super) type Vector = __m256i;
    type Input = __m256i;
    type Table = u64;

    kernel!("avx2,gfni");

    /// # Safety
    ///
    /// 32 bytes can be read at `from`.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(from: *const u8) -> Input {
        // SAFETY: the caller's promise; the load needs no alignment.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn add_products<const VECTORS: usize>(
        sums: [Vector; VECTORS],
        first: [Input; VECTORS],
        first_table: &Table,
        second: [Input; VECTORS],
        second_table: &Table,
    ) -> [Vector; VECTORS] {
        let one = _mm256_set1_epi64x(first_table.cast_signed());
        let other = _mm256_set1_epi64x(second_table.cast_signed());
        std::array::from_fn(|half| {
            let product = _mm256_gf2p8affine_epi64_epi8::<0>(first[half], one);
            let other = _mm256_gf2p8affine_epi64_epi8::<0>(second[half], other);
            _mm256_xor_si256(_mm256_xor_si256(sums[half], product), other)
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    pub(super) type Vector = __m256i;
    // Low and high half bytes, each in a byte of its own.
    type Input = [__m256i; 2];
    type Table = [u8; 32];

    kernel!("avx2");

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn zero() -> Vector {
        _mm256_setzero_si256()
    }

    /// # Safety
    ///
    /// 32 bytes can be read at `from`.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(from: *const u8) -> Input {
        // SAFETY: the caller's promise; the load needs no alignment.
        let bytes = unsafe { _mm256_loadu_si256(from.cast()) };
        let low = _mm256_set1_epi8(15);
        [_mm256_and_si256(bytes, low), _mm256_and_si256(_mm256_srli_epi64::<4>(bytes), low)]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add_products<const VECTORS: usize>(
        sums: [Vector; VECTORS],
        first: [Input; VECTORS],
        first_table: &Table,
        second: [Input; VECTORS],
        second_table: &Table,
    ) -> [Vector; VECTORS] {
        let sums = add_product(sums, first, first_table);
        add_product(sums, second, second_table)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add_product<const VECTORS: usize>(
        sums: [Vector; VECTORS],
        input: [Input; VECTORS],
        table: &Table,
    ) -> [Vector; VECTORS] {
        // SAFETY: 16 bytes can be read at both halves of a table of 32; the loads need no alignment.
        let [low, high] = unsafe {
            let halves = table.as_ptr().cast::<__m128i>();
            [_mm_loadu_si128(halves), _mm_loadu_si128(halves.add(1))]
        }
        .map(|half| _mm256_broadcastsi128_si256(half));
        std::array::from_fn(|half| {
            let [low_input, high_input] = input[half];
            let product =
                _mm256_xor_si256(_mm256_shuffle_epi8(low, low_input), _mm256_shuffle_epi8(high, high_input));
            _mm256_xor_si256(sums[half], product)
        })
    }

    /// # Safety
    ///
    /// 32 bytes can be written at `to`, which is aligned to them if `STREAM`.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn store<const STREAM: bool>(to: *mut u8, vector: Vector) {
        // SAFETY: the caller's promise.
        unsafe {
            if STREAM {
                _mm256_stream_si256(to.cast(), vector);
            } else {
                _mm256_storeu_si256(to.cast(), vector);
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    pub(super) type Vector = uint8x16_t;
    // Low and high half bytes, each in a byte of its own.
    type Input = [uint8x16_t; 2];
    type Table = [u8; 32];

    kernel!("neon");

    #[inline]
    #[target_feature(enable = "neon")]
    fn zero() -> Vector {
        vdupq_n_u8(0)
    }

    /// # Safety
    ///
    /// 16 bytes can be read at `from`.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const u8) -> Input {
        // SAFETY: the caller's promise; the load needs no alignment.
        let bytes = unsafe { vld1q_u8(from) };
        [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn add_products<const VECTORS: usize>(
        sums: [Vector; VECTORS],
        first: [Input; VECTORS],
        first_table: &Table,
        second: [Input; VECTORS],
        second_table: &Table,
    ) -> [Vector; VECTORS] {
        let sums = add_product(sums, first, first_table);
        add_product(sums, second, second_table)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn add_product<const VECTORS: usize>(
        sums: [Vector; VECTORS],
        input: [Input; VECTORS],
        table: &Table,
    ) -> [Vector; VECTORS] {
        // SAFETY: 16 bytes can be read at both halves of a table of 32.
        let (low, high) = unsafe { (vld1q_u8(table.as_ptr()), vld1q_u8(table.as_ptr().add(16))) };
        std::array::from_fn(|half| {
            let [low_input, high_input] = input[half];
            let product = veorq_u8(vqtbl1q_u8(low, low_input), vqtbl1q_u8(high, high_input));
            veorq_u8(sums[half], product)
        })
    }

    /// # Safety
    ///
    /// 16 bytes can be written at `to`.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store<const STREAM: bool>(to: *mut u8, vector: Vector) {
        // SAFETY: the caller's promise. Rust has no non-temporal store for this architecture, and its processors
        // notice by themselves when whole lines are overwritten.
        unsafe { vst1q_u8(to, vector) }
    }
}
