//! How long the frames of one compressed NAR are, and which bytes they have.
//!
//! Always holds: there is one for every frame of the NAR. Leaves to others: making frames (`compressed_nar`), remembering
//! (`frame_book`), whether the NAR is the right one.

use std::ops::Range;

/// Bytes of a NAR in one frame; the last one has what is left.
// Before its first byte a part costs the compression of so much at most, 80 ms. Each frame begins without a window: of a
// program of 100 MB these are 0.04 % larger than one frame, and frames of a quarter of that 0.2 %.
pub(crate) const FRAME_BYTES: u64 = 16 << 20;

const DIGEST_BYTES: usize = 16;
const SAVED_BYTES: usize = 4 + DIGEST_BYTES;

/// A frame that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MadeFrame {
    bytes: u32,
    digest: [u8; DIGEST_BYTES],
}

/// All frames of a NAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameLengths(Vec<MadeFrame>);

/// A frame is not the one that was made before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("frame {frame} has other bytes than before")]
pub(crate) struct FrameDiffers {
    frame: usize,
}

/// Where a range of a compressed NAR is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameRange {
    /// The first frame that is needed.
    pub(crate) first: usize,
    /// The bytes of the NAR in the frames that are needed.
    pub(crate) nar: Range<u64>,
    /// Bytes of these frames that go before what is wanted.
    pub(crate) skipped: u64,
    /// Bytes that are wanted.
    pub(crate) bytes: u64,
}

impl MadeFrame {
    /// A frame of so many bytes, which have this BLAKE3.
    pub(crate) fn new(bytes: u32, hash: &blake3::Hash) -> Self {
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&hash.as_bytes()[..DIGEST_BYTES]);
        Self { bytes, digest }
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.into()
    }
}

impl FrameLengths {
    /// Those of a NAR of `nar_bytes`, if they are as many as it has.
    pub(crate) fn new(frames: Vec<MadeFrame>, nar_bytes: u64) -> Option<Self> {
        (frames.len() as u64 == nar_bytes.div_ceil(FRAME_BYTES).max(1)).then_some(Self(frames))
    }

    /// Bytes that they take in memory.
    pub(crate) fn weight(&self) -> usize {
        self.0.len() * SAVED_BYTES
    }

    /// Bytes of the whole NAR compressed.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(MadeFrame::bytes).sum()
    }

    /// Whether frame number `frame` is this one.
    pub(crate) fn check(&self, frame: usize, made: MadeFrame) -> Result<(), FrameDiffers> {
        if self.0.get(frame) == Some(&made) { Ok(()) } else { Err(FrameDiffers { frame }) }
    }

    /// Which frames hold `wanted`, a range within [`Self::total`] that is not empty.
    pub(crate) fn range(&self, wanted: Range<u64>, nar_bytes: u64) -> FrameRange {
        let (mut first, mut skipped) = (0, wanted.start);
        while let Some(length) = self.0.get(first).map(MadeFrame::bytes).filter(|length| *length <= skipped) {
            skipped -= length;
            first += 1;
        }
        let bytes = wanted.end.saturating_sub(wanted.start);
        let (mut behind, mut made) = (first, 0);
        while made < skipped.saturating_add(bytes)
            && let Some(frame) = self.0.get(behind)
        {
            made += frame.bytes();
            behind += 1;
        }
        let start = |frame: usize| (frame as u64).saturating_mul(FRAME_BYTES).min(nar_bytes);
        FrameRange { first, nar: start(first)..start(behind), skipped, bytes }
    }

    /// As the disk keeps them: the length of each, little-endian, and the first half of its BLAKE3.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|frame| frame.bytes.to_le_bytes().into_iter().chain(frame.digest)).collect()
    }

    /// What the disk kept of a NAR of `nar_bytes`.
    pub(crate) fn from_bytes(bytes: &[u8], nar_bytes: u64) -> Option<Self> {
        let (frames, rest) = bytes.as_chunks::<SAVED_BYTES>();
        let frame = |saved: &[u8; SAVED_BYTES]| {
            let (length, digest) = saved.split_first_chunk::<4>()?;
            Some(MadeFrame { bytes: u32::from_le_bytes(*length), digest: digest.try_into().ok()? })
        };
        Self::new(frames.iter().map(frame).collect::<Option<_>>()?, nar_bytes).filter(|_| rest.is_empty())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Frames of these lengths.
    pub(crate) fn frames(lengths: &[u32]) -> Vec<MadeFrame> {
        lengths.iter().map(|length| MadeFrame::new(*length, &blake3::hash(&length.to_le_bytes()))).collect()
    }

    #[test]
    fn a_nar_has_as_many_frames_as_its_bytes_fill() {
        let lengths = FrameLengths::new(frames(&[5, 6, 7]), 40 * MIB).unwrap();
        assert_eq!(lengths.total(), 18);
        assert_eq!(FrameLengths::from_bytes(&lengths.to_bytes(), 40 * MIB), Some(lengths.clone()));
        for other in [0, 30 * MIB, 50 * MIB] {
            assert_eq!(FrameLengths::new(frames(&[5, 6, 7]), other), None);
            assert_eq!(FrameLengths::from_bytes(&lengths.to_bytes(), other), None);
        }
        assert_eq!(FrameLengths::from_bytes(&[&lengths.to_bytes()[..], &[1]].concat(), 40 * MIB), None);
        assert_eq!(FrameLengths::from_bytes(&[], 0), None);
    }

    #[test]
    fn a_frame_of_the_same_length_with_other_bytes_is_another() {
        let lengths = FrameLengths::new(frames(&[5, 6, 7]), 40 * MIB).unwrap();
        assert_eq!(lengths.check(1, frames(&[6])[0]), Ok(()));
        let other = MadeFrame::new(6, &blake3::hash(b"other"));
        assert_eq!(lengths.check(1, other), Err(FrameDiffers { frame: 1 }));
        assert_eq!(lengths.check(3, other), Err(FrameDiffers { frame: 3 }));
    }

    #[test]
    fn an_empty_object_is_one_frame() {
        let lengths = FrameLengths::new(frames(&[13]), 0).unwrap();
        assert_eq!(lengths.total(), 13);
        assert_eq!(lengths.range(2..13, 0), FrameRange { first: 0, nar: 0..0, skipped: 2, bytes: 11 });
    }

    proptest! {
        #[test]
        fn a_range_is_made_from_the_frames_that_hold_it_and_no_others(
            parts in prop::collection::vec(1..50u32, 1..9),
            (from, to) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
            last in 1..=FRAME_BYTES,
        ) {
            let nar_bytes = (parts.len() as u64 - 1) * FRAME_BYTES + last;
            let lengths = FrameLengths::new(frames(&parts), nar_bytes).unwrap();
            let total = lengths.total();
            // The number of its frame, for each byte of the whole.
            let numbered = (0u64..).zip(&parts).flat_map(|(frame, length)| (0..*length).map(move |_| frame));
            let numbers: Vec<_> = numbered.collect();
            prop_assert_eq!(total, numbers.len() as u64);
            let (from, to) = (from.index(numbers.len()), to.index(numbers.len()));
            let (from, to) = (from.min(to), from.max(to));
            let wanted = from as u64..to as u64 + 1;
            let range = lengths.range(wanted.clone(), nar_bytes);
            prop_assert_eq!(range.first as u64, numbers[from]);
            prop_assert_eq!(range.nar, numbers[from] * FRAME_BYTES..((numbers[to] + 1) * FRAME_BYTES).min(nar_bytes));
            let before: u64 = parts[..range.first].iter().copied().map(u64::from).sum();
            prop_assert_eq!((before + range.skipped, range.bytes), (wanted.start, wanted.end - wanted.start));
        }
    }
}
