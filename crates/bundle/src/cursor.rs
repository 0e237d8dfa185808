//! Reading fixed-width fields from foreign bytes, front to back.
//!
//! Owns: the position in a slice. Always holds: no read passes the end and none panics.
//! Leaves to others: what the fields mean.

/// There were fewer bytes than the structure needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Truncated;

/// A slice and how much of it is still unread.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Truncated> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, tail) = self.rest.split_first_chunk().ok_or(Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Truncated> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_le_bytes)
    }

    /// A LEB128 number of at most 10 bytes in its shortest form; none if it is neither.
    pub(crate) fn leb128(&mut self) -> Result<Option<u64>, Truncated> {
        let mut value = 0u64;
        for position in 0..10 {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if position == 9 && bits > 1 {
                return Ok(None);
            }
            value |= bits << (7 * position);
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || position == 0;
                return Ok(shortest.then_some(value));
            }
        }
        Ok(None)
    }
}

/// Appends `value` as LEB128.
pub(crate) fn put_leb128(target: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        target.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    target.push((value & 0x7f) as u8);
}

/// How many bytes `value` has as LEB128.
pub(crate) fn leb128_bytes(value: u64) -> u64 {
    // Zero has a byte too.
    let bits = (u64::BITS - value.leading_zeros()).max(1);
    bits.div_ceil(7).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leb128_numbers_read_back_and_have_one_form() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_leb128(&mut bytes, value);
            assert_eq!(Cursor::new(&bytes).leb128(), Ok(Some(value)));
            assert_eq!(leb128_bytes(value), bytes.len() as u64);
        }
        assert_eq!(Cursor::new(&[0x80, 0]).leb128(), Ok(None));
        assert_eq!(Cursor::new(&[0xff; 10]).leb128(), Ok(None));
        assert_eq!(Cursor::new(&[0x80]).leb128(), Err(Truncated));
    }

    #[test]
    fn a_read_past_the_end_takes_nothing() {
        let mut cursor = Cursor::new(&[1, 2, 3]);
        assert_eq!(cursor.u32(), Err(Truncated));
        assert_eq!(cursor.u16(), Ok(0x0201));
        assert_eq!(cursor.remaining(), 1);
    }
}
