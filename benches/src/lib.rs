//! What the benchmarks have in common: their inputs, and the programs that they run.
//!
//! Owns: made-up inputs, alike in every run, and the losses that rebuilding is measured with. The
//! benchmarks stand in `benches/`, one file per crate measured.
//! Always holds: a rate is in bytes of data, k × shard bytes per pass, however many bytes come out, so
//! that rates of one k compare.
//! Leaves to others: the recorded figures (`RESULTS.md`), right answers (each crate's own tests).

pub mod process;

use firn_base::ShardIndex;
use firn_erasure::{Coder, ColumnBuffers};

/// `count` bytes that do not compress, alike for one `seed`.
pub fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..count).map(|_| byte()).collect()
}

/// All shards of `shard_bytes` each that `coder` makes of some data: k of data, then all parity.
pub fn all_shards(coder: &Coder, shard_bytes: usize) -> ColumnBuffers {
    let mut shards = ColumnBuffers::new(coder.n_max(), shard_bytes);
    let mut slices: Vec<_> = shards.slices_mut().collect();
    let (data, parity) = slices.split_at_mut(coder.k());
    for (seed, shard) in (1..).zip(&mut *data) {
        shard.copy_from_slice(&noise(seed, shard_bytes));
    }
    let data: Vec<_> = data.iter().map(|shard| &**shard).collect();
    coder.encode(&data, parity).expect("k slices and their parity, all of one length");
    shards
}

/// Which shards are lost in a benchmark of rebuilding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The first data shard.
    OneData,
    /// The first parity shard.
    OneParity,
    /// Half as many shards as there is parity, every second one from the first on: data and parity.
    HalfOfParity,
    /// As many shards as there is parity, from the first on: all data and some parity.
    AsMuchAsParity,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::OneData, Self::OneParity, Self::HalfOfParity, Self::AsMuchAsParity];

    /// The loss's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneData => "one-data",
            Self::OneParity => "one-parity",
            Self::HalfOfParity => "half-of-parity",
            Self::AsMuchAsParity => "as-much-as-parity",
        }
    }

    /// The lost shards of a code with `coder`'s k.
    pub fn indexes(self, coder: &Coder) -> Vec<ShardIndex> {
        let (k, n_max) = (coder.k(), coder.n_max());
        let indexes = (0..n_max).zip((0..).map(ShardIndex));
        let lost = |position: usize| match self {
            Self::OneData => position == 0,
            Self::OneParity => position == k,
            Self::HalfOfParity => position.is_multiple_of(2) && position < n_max - k,
            Self::AsMuchAsParity => position < n_max - k,
        };
        indexes.filter(|(position, _)| lost(*position)).map(|(_, index)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_as_large_as_their_names_say() {
        for (k, parity) in [(4, 8), (8, 16), (16, 24)] {
            let coder = Coder::new(k).unwrap();
            assert_eq!(Loss::OneData.indexes(&coder), [ShardIndex(0)]);
            assert_eq!(Loss::OneParity.indexes(&coder), [ShardIndex(k)]);
            assert_eq!(Loss::HalfOfParity.indexes(&coder).len(), parity / 2);
            assert_eq!(Loss::AsMuchAsParity.indexes(&coder).len(), parity);
        }
    }
}
