//! Coefficient matrices over GF(2^8), row-major in a flat vector.
//!
//! Always holds: the encoding matrix is the one `reed-solomon-erasure` encodes with, learnt by encoding
//! unit vectors, so it cannot drift from the crate.
//! Leaves to others: applying rows to shards (`kernel`).

use reed_solomon_erasure::galois_8::{ReedSolomon, div, mul};

/// The `n_max` × `k` encoding matrix: row i holds the coefficients of shard i, the first k rows are the
/// identity.
pub(crate) fn encoding_matrix(k: usize, n_max: usize) -> Vec<u8> {
    let code = ReedSolomon::new(k, n_max - k).expect("every k of the ladder has parity and at most 40 rows");
    let mut matrix = vec![0; n_max * k];
    for column in 0..k {
        // One byte per shard: the unit vector of this column, whose parity is the column itself.
        let mut shards = vec![[0_u8; 1]; n_max];
        shards[column] = [1];
        code.encode(&mut shards).expect("n_max shards of one byte each");
        for (row, [coefficient]) in shards.into_iter().enumerate() {
            matrix[row * k + column] = coefficient;
        }
    }
    matrix
}

/// The inverse of the `k` × `k` matrix; none if it is singular.
pub(crate) fn invert(mut matrix: Vec<u8>, k: usize) -> Option<Vec<u8>> {
    let mut inverse = vec![0; k * k];
    (0..k).for_each(|i| inverse[i * k + i] = 1);
    // Gauss–Jordan: what turns the matrix into the identity turns the identity into the inverse.
    for column in 0..k {
        let pivot = (column..k).find(|row| matrix[row * k + column] != 0)?;
        let scale = div(1, matrix[pivot * k + column]);
        for half in [&mut matrix, &mut inverse] {
            for i in 0..k {
                half.swap(column * k + i, pivot * k + i);
                half[column * k + i] = mul(scale, half[column * k + i]);
            }
        }
        for row in (0..k).filter(|row| *row != column) {
            let factor = matrix[row * k + column];
            for half in [&mut matrix, &mut inverse] {
                for i in 0..k {
                    half[row * k + i] ^= mul(factor, half[column * k + i]);
                }
            }
        }
    }
    Some(inverse)
}

/// The row vector `row` times the `k` × `k` matrix, where k is the row's length.
pub(crate) fn row_times(row: &[u8], matrix: &[u8]) -> Vec<u8> {
    let k = row.len();
    let entry = |column| (0..k).fold(0, |sum, i| sum ^ mul(row[i], matrix[i * k + column]));
    (0..k).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rows_are_the_identity() {
        let matrix = encoding_matrix(4, 12);
        for (row, coefficients) in matrix.chunks(4).take(4).enumerate() {
            assert!((0..4).all(|i| coefficients[i] == u8::from(i == row)));
        }
    }

    #[test]
    fn a_matrix_times_its_inverse_is_the_identity() {
        let matrix = encoding_matrix(8, 24)[5 * 8..13 * 8].to_vec();
        let inverse = invert(matrix.clone(), 8).unwrap();
        for (row, coefficients) in matrix.chunks(8).enumerate() {
            let product = row_times(coefficients, &inverse);
            assert!((0..8).all(|i| product[i] == u8::from(i == row)));
        }
    }

    #[test]
    fn a_singular_matrix_has_no_inverse() {
        assert_eq!(invert(vec![1, 2, 1, 2], 2), None);
        assert_eq!(invert(vec![0; 16], 4), None);
    }
}
