//! Buffers for the same range of every shard.
//!
//! Always holds: each buffer begins at a cache line, and no two at the same offset of a page. Buffers that an
//! allocator aligns to pages compete for the same lines of the first-level cache, and a load waits for an
//! earlier store to another address with the same low 12 bits.
//! Leaves to others: what is in them.

use crate::simd::STREAM_ALIGNMENT;

// Three cache lines from one buffer to the next, measured by the prototype of the kernels: at k = 40, one row
// went from 28 to 71 GB/s.
const STAGGER_BYTES: usize = 192;

// From the second page on offsets repeat, so that a distance is taken modulo a page.
const PAGE_BYTES: usize = 4096;

/// `count` buffers of one size, for a coder's sources or outputs: one allocation, aligned and staggered.
#[derive(Debug)]
pub struct ColumnBuffers {
    memory: Vec<u8>,
    first: usize,
    count: usize,
    column_bytes: usize,
    stride: usize,
}

impl ColumnBuffers {
    /// `count` buffers of `column_bytes` zeros each.
    ///
    /// # Panics
    ///
    /// The whole exceeds the address space.
    pub fn new(count: usize, column_bytes: usize) -> Self {
        let stride = column_bytes.next_multiple_of(PAGE_BYTES) + STAGGER_BYTES;
        let bytes = stride.checked_mul(count).and_then(|bytes| bytes.checked_add(STREAM_ALIGNMENT));
        let memory = vec![0; bytes.expect("columns of a few MiB")];
        let first = memory.as_ptr().align_offset(STREAM_ALIGNMENT);
        Self { memory, first, count, column_bytes, stride }
    }

    /// The buffers, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let strides = self.memory[self.first..].chunks_exact(self.stride);
        strides.take(self.count).map(|column| &column[..self.column_bytes])
    }

    /// The buffers, in order, to be written.
    pub fn slices_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let strides = self.memory[self.first..].chunks_exact_mut(self.stride);
        strides.take(self.count).map(|column| &mut column[..self.column_bytes])
    }

    /// The memory of all of them, and where in it each one lies: for who hands the buffers on without a copy.
    pub fn into_memory(self) -> (Vec<u8>, impl Iterator<Item = std::ops::Range<usize>>) {
        let starts = (0..self.count).map(move |column| self.first + column * self.stride);
        (self.memory, starts.map(move |start| start..start + self.column_bytes))
    }
}
