//! Nix's own base32: the alphabet without e, o, t and u, the last group of bits first.
//!
//! Always holds: a text decodes to at most one array, and that array encodes to the same text.

/// The 32 digits in the order of their values.
pub const DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// What [`VALUES`] holds for a byte that is no digit.
const NO_DIGIT: u8 = 0xff;

/// The value of each byte as a digit.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value: u8 = 0;
    while value < 32 {
        values[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    values
};

/// Why a text is not Nix's base32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseNixBase32Error {
    /// The text has the wrong length.
    #[error("it has {actual} characters instead of {expected}")]
    Length {
        /// Characters that the wanted bytes take.
        expected: usize,
        /// Bytes of the given text.
        actual: usize,
    },
    /// A character is not in the alphabet, which has no e, o, t or u.
    #[error("it holds a character that is not in Nix's base32 alphabet")]
    Digit,
    /// The first digit holds bits beyond the last byte.
    #[error("its first digit is too large")]
    Overflow,
}

/// How many digits `bytes` bytes take: 32 for the 20 of a store path, 52 for the 32 of a SHA-256.
pub const fn encoded_length(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Encodes bytes.
pub fn encode(bytes: &[u8]) -> String {
    let digit = |index: usize| {
        let (byte, shift) = (index * 5 / 8, index * 5 % 8);
        let low = u16::from(bytes[byte]);
        let high = bytes.get(byte + 1).map_or(0, |next| u16::from(*next));
        char::from(DIGITS[usize::from((low | high << 8) >> shift & 0x1f)])
    };
    (0..encoded_length(bytes.len())).rev().map(digit).collect()
}

/// Decodes exactly `N` bytes: `decode::<20>` for the hash part of a store path, `decode::<32>` for a SHA-256.
pub fn decode<const N: usize>(text: &str) -> Result<[u8; N], ParseNixBase32Error> {
    let expected = encoded_length(N);
    if text.len() != expected {
        return Err(ParseNixBase32Error::Length { expected, actual: text.len() });
    }
    let mut bytes = [0; N];
    for (index, character) in text.bytes().rev().enumerate() {
        let value = VALUES[usize::from(character)];
        if value == NO_DIGIT {
            return Err(ParseNixBase32Error::Digit);
        }
        let (byte, shift) = (index * 5 / 8, index * 5 % 8);
        let [low, high] = (u16::from(value) << shift).to_le_bytes();
        bytes[byte] |= low;
        match bytes.get_mut(byte + 1) {
            Some(next) => *next |= high,
            None if high != 0 => return Err(ParseNixBase32Error::Overflow),
            None => {}
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_of_nothing_is_written_as_nix_writes_it() {
        let digest = crate::Sha256::of(b"");
        assert_eq!(encode(digest.as_bytes()), "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
    }

    #[test]
    fn a_text_of_the_wrong_length_alphabet_or_value_is_refused() {
        assert_eq!(decode::<20>("abc"), Err(ParseNixBase32Error::Length { expected: 32, actual: 3 }));
        assert_eq!(decode::<20>(&"e".repeat(32)), Err(ParseNixBase32Error::Digit));
        assert_eq!(decode::<20>(&"é".repeat(16)), Err(ParseNixBase32Error::Digit));
        assert_eq!(decode::<32>(&"z".repeat(52)), Err(ParseNixBase32Error::Overflow));
        assert_eq!(decode::<32>(&format!("1{}", "z".repeat(51))), Ok([0xff; 32]));
    }

    proptest! {
        #[test]
        fn every_array_decodes_from_what_it_encodes_to(long: [u8; 32], short: [u8; 20]) {
            prop_assert_eq!(decode::<32>(&encode(&long)), Ok(long));
            prop_assert_eq!(decode::<20>(&encode(&short)), Ok(short));
        }

        #[test]
        fn every_text_that_decodes_is_the_encoding_of_its_bytes(text in "[0-9a-z]{52}") {
            if let Ok(bytes) = decode::<32>(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
