//! Chance from a seed: what plans are drawn with, and the entropy of simulated programs.

use std::sync::{Mutex, PoisonError};

use firn_transport::Entropy;

/// A stream of numbers that follow from a seed.
#[derive(Debug, Clone)]
pub(crate) struct Chance {
    state: u64,
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub(crate) const fn step(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Chance {
    /// The stream of `seed` that is called `name`: equal names give equal streams.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
        let state =
            u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("32 bytes begin with 8"));
        Self { state }
    }

    /// Any number.
    pub(crate) const fn number(&mut self) -> u64 {
        step(&mut self.state)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// A position in a list of `length`, which is not 0.
    pub(crate) fn position(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("a position fits where the length did")
    }

    /// True so many times in a thousand.
    pub(crate) const fn per_mille(&mut self, share: u64) -> bool {
        self.below(1000) < share
    }

    /// Bytes that do not compress.
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&self.number().to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }
}

/// The entropy of one run of one program.
#[derive(Debug)]
pub(crate) struct SeededEntropy(Mutex<Chance>);

impl SeededEntropy {
    pub(crate) const fn new(chance: Chance) -> Self {
        Self(Mutex::new(chance))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut chance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&chance.number().to_le_bytes()[..part.len()]);
        }
    }
}
