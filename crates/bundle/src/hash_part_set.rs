//! The hash parts of one object: which 32 letters are one of them, and what number it has.
//!
//! Always holds: a hash part that is given twice has its first number; a lookup costs no more than a binary search,
//! whatever hash parts and bytes a stranger chose.
//! Leaves to others: where in an object to look (`patch_finder`).

/// Letters of a hash part.
pub(crate) const HASH_PART_LETTERS: usize = 32;

// With 16 bits of filter for each hash part one lookup in 16 goes beyond the filter.
const FILTER_BITS_PER_HASH_PART: usize = 16;

// 512 bytes: what an object with few references needs at least, so that hardly a lookup goes beyond it.
const FILTER_BITS_MIN: usize = 4096;

/// Hash parts, to be looked up.
#[derive(Debug, Clone)]
pub(crate) struct HashPartSet {
    sorted: Vec<([u8; HASH_PART_LETTERS], u32)>,
    // A bit for each value of the key's upper bits.
    filter: Vec<u64>,
    shift: u32,
}

impl HashPartSet {
    /// The set of `hash_parts`, numbered in this order.
    pub(crate) fn new(hash_parts: &[[u8; HASH_PART_LETTERS]]) -> Self {
        let mut sorted: Vec<_> = hash_parts.iter().copied().zip(0u32..).collect();
        sorted.sort_unstable();
        sorted.dedup_by_key(|(hash_part, _)| *hash_part);
        let bits = (sorted.len() * FILTER_BITS_PER_HASH_PART).next_power_of_two().max(FILTER_BITS_MIN);
        let mut set = Self { sorted, filter: vec![0; bits / 64], shift: 64 - bits.ilog2() };
        for position in 0..set.sorted.len() {
            let (word, bit) = set.place(&set.sorted[position].0);
            set.filter[word] |= bit;
        }
        set
    }

    /// The number of a hash part.
    pub(crate) fn number(&self, letters: &[u8; HASH_PART_LETTERS]) -> Option<u32> {
        let (word, bit) = self.place(letters);
        if self.filter[word] & bit == 0 {
            return None;
        }
        let found = self.sorted.binary_search_by(|(hash_part, _)| hash_part.cmp(letters)).ok()?;
        Some(self.sorted[found].1)
    }

    fn place(&self, letters: &[u8; HASH_PART_LETTERS]) -> (usize, u64) {
        let first = u64::from_le_bytes(*letters.first_chunk().expect("8 of 32"));
        // The odd number nearest to 2^64 divided by the golden ratio: spreads texts that differ in few bits.
        let key = first.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift;
        let word = usize::try_from(key / 64).expect("the filter fits in memory");
        (word, 1 << (key % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hash_part_has_its_first_number_and_nothing_else_has_one() {
        let part = |number: u32| {
            let mut letters = [b'0'; HASH_PART_LETTERS];
            letters[..10].copy_from_slice(format!("{number:010}").as_bytes());
            letters
        };
        let mut parts: Vec<_> = (0..20_000).map(part).collect();
        parts.push(part(7));
        let set = HashPartSet::new(&parts);
        for number in 0..20_000 {
            assert_eq!(set.number(&part(number)), Some(number));
            assert_eq!(set.number(&part(number + 20_000)), None);
        }
        assert_eq!(HashPartSet::new(&[]).number(&part(0)), None);
    }

    #[test]
    fn hash_parts_that_differ_in_their_last_letter_only_are_told_apart() {
        let [mut one, mut other, mut neither] = [[b'a'; HASH_PART_LETTERS]; 3];
        (one[31], other[31], neither[31]) = (b'1', b'2', b'3');
        let set = HashPartSet::new(&[one, other]);
        assert_eq!((set.number(&one), set.number(&other), set.number(&neither)), (Some(0), Some(1), None));
    }
}
