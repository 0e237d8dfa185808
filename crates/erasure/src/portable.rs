//! The portable backend: rows of coefficients applied to shards with the tables of `reed-solomon-erasure`.
//!
//! Always holds: an empty slice never reaches the crate's kernels, which index its first byte.
//! Leaves to others: checking that all slices are of one length (`coder`, `rebuild`).

use std::ops::Range;

use reed_solomon_erasure::galois_8::{mul_slice, mul_slice_xor};

/// Sets `output` to the sum of `coefficients[i]` × `sources[i][range]`.
pub(crate) fn combine(coefficients: &[u8], sources: &[&[u8]], range: &Range<usize>, output: &mut [u8]) {
    assert!(!output.is_empty(), "ranges are never empty");
    let terms = coefficients.iter().zip(sources).filter(|(coefficient, _)| **coefficient != 0);
    let mut started = false;
    for (coefficient, source) in terms {
        let input = &source[range.clone()];
        match (started, *coefficient) {
            (false, 1) => output.copy_from_slice(input),
            (false, coefficient) => mul_slice(coefficient, input, output),
            (true, coefficient) => mul_slice_xor(coefficient, input, output),
        }
        started = true;
    }
    if !started {
        output.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_coefficients_alone_give_zeros() {
        let mut output = [7; 3];
        combine(&[0, 0], &[&[1, 2, 3], &[4, 5, 6]], &(0..3), &mut output);
        assert_eq!(output, [0; 3]);
    }
}
