//! The field GF(2^8): products, and the tables from which the kernels multiply.
//!
//! Always holds: the polynomial is x^8 + x^4 + x^3 + x^2 + 1 (0x11d), that of `reed-solomon-erasure`, ISA-L and
//! klauspost/reedsolomon; every table is computed when the crate is compiled.
//! Leaves to others: which products are needed (`matrix`), computing many of them (`simd`, `portable`).

const POLYNOMIAL_LOW: u8 = 0x1d;

/// a × b.
pub(crate) const fn product(mut a: u8, mut b: u8) -> u8 {
    let mut sum = 0;
    while b != 0 {
        if b & 1 == 1 {
            sum ^= a;
        }
        let overflows = a & 0x80 != 0;
        a <<= 1;
        if overflows {
            a ^= POLYNOMIAL_LOW;
        }
        b >>= 1;
    }
    sum
}

/// For each coefficient c, x → c × x as the 8 × 8 bit matrix that `GF2P8AFFINEQB` takes.
///
/// The instruction's own field product has another polynomial (0x11b), but multiplying by a constant is linear
/// over bits in any field. Byte 7 - i holds the row for bit i of the result (Intel's Software Developer's Manual,
/// volume 2, GF2P8AFFINEQB).
pub(crate) const AFFINE: [u64; 256] = {
    let mut tables = [0; 256];
    let mut coefficient = 0;
    while coefficient < 256 {
        let mut matrix = 0_u64;
        let mut input = 0;
        while input < 8 {
            let column = product(BYTES[coefficient], 1 << input);
            let mut output = 0;
            while output < 8 {
                if column >> output & 1 == 1 {
                    matrix |= 1 << (8 * (7 - output) + input);
                }
                output += 1;
            }
            input += 1;
        }
        tables[coefficient] = matrix;
        coefficient += 1;
    }
    tables
};

/// For each coefficient c, c × x for the 16 low half bytes x, then c × 16x for the 16 high ones: the two tables
/// that a byte shuffle looks products up in.
pub(crate) const HALF_BYTES: [[u8; 32]; 256] = {
    let mut tables = [[0; 32]; 256];
    let mut coefficient = 0;
    while coefficient < 256 {
        let mut x = 0;
        while x < 16 {
            tables[coefficient][x] = product(BYTES[coefficient], BYTES[x]);
            tables[coefficient][16 + x] = product(BYTES[coefficient], BYTES[x] << 4);
            x += 1;
        }
        coefficient += 1;
    }
    tables
};

// Position i holds i: a byte from a counter without a cast.
const BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut position = 1;
    while position < 256 {
        bytes[position] = bytes[position - 1] + 1;
        position += 1;
    }
    bytes
};

#[cfg(test)]
mod tests {
    use reed_solomon_erasure::galois_8::mul;

    use super::*;

    #[test]
    fn every_product_and_table_entry_is_the_oracles() {
        for c in 0..=u8::MAX {
            let half_bytes = &HALF_BYTES[usize::from(c)];
            for x in 0..=u8::MAX {
                let expected = mul(c, x);
                assert_eq!(product(c, x), expected);
                let (low, high) = (usize::from(x & 15), usize::from(x >> 4));
                assert_eq!(half_bytes[low] ^ half_bytes[16 + high], expected);
                let bit = |i: u32| {
                    let row = (AFFINE[usize::from(c)] >> (8 * (7 - i))) & 0xff;
                    (row & u64::from(x)).count_ones() & 1
                };
                assert_eq!((0..8).map(|i| bit(i) << i).sum::<u32>(), u32::from(expected));
            }
        }
    }
}
