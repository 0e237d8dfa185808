//! What computes: the instruction sets there are kernels for, and the best of them that this processor has.
//!
//! Always holds: every backend makes the same bytes; a backend that the processor lacks is never run, because a
//! [`Coder`](crate::Coder) can only be had for one that [is available](Backend::is_available).
//! Leaves to others: the kernels (`simd`, `portable`).

use std::fmt;

/// An instruction set that coding can be computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// The `reed-solomon-erasure` crate's tables: every processor, and the oracle of the others.
    Portable,
    /// x86-64 with byte shuffles of 32 (Intel since 2013, AMD since 2015).
    Avx2,
    /// x86-64 with bit-matrix products of 32 bytes (Intel Alder Lake and Gracemont, AMD Zen 4, and later).
    GfniAvx2,
    /// x86-64 with bit-matrix products of 64 bytes (Intel Ice Lake, AMD Zen 4, and later servers).
    GfniAvx512,
    /// 64-bit Arm with byte shuffles of 16: all of them.
    Neon,
}

impl Backend {
    /// All of them, whatever the processor: those further behind are faster where they run.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::GfniAvx2, Self::GfniAvx512, Self::Neon];

    /// The fastest that this processor runs.
    pub fn detected() -> Self {
        Self::ALL.into_iter().rev().find(|backend| backend.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this processor and this operating system run it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::is_x86_feature_detected as has;
            match self {
                Self::Portable => true,
                Self::Avx2 => has!("avx2"),
                Self::GfniAvx2 => has!("avx2") && has!("gfni"),
                Self::GfniAvx512 => has!("avx512f") && has!("avx512bw") && has!("gfni"),
                Self::Neon => false,
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            match self {
                Self::Portable => true,
                Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
                Self::Avx2 | Self::GfniAvx2 | Self::GfniAvx512 => false,
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            self == Self::Portable
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::GfniAvx2 => "GFNI with AVX2",
            Self::GfniAvx512 => "GFNI with AVX-512",
            Self::Neon => "NEON",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detected_backend_is_available_and_the_portable_one_always_is() {
        assert!(Backend::detected().is_available());
        assert!(Backend::Portable.is_available());
    }

    #[test]
    fn no_processor_has_kernels_of_two_architectures() {
        assert!(!(Backend::Avx2.is_available() && Backend::Neon.is_available()));
    }
}
