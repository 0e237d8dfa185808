//! How long the frames of one compressed NAR are.
//!
//! Always holds: lengths are known from the first frame on, without a gap. Leaves to others: making frames
//! (`compressed_nar`), remembering (`frame_book`).

use std::ops::Range;

/// Bytes of a NAR in one frame; the last one has what is left.
// Before its first byte a part costs the compression of so much at most, 80 ms. Each frame begins without a window: of a
// program of 100 MB these are 0.04 % larger than one frame, and frames of a quarter of that 0.2 %.
pub(crate) const FRAME_BYTES: u64 = 16 << 20;

/// Lengths of the first frames of a NAR, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FrameLengths(Vec<u32>);

/// A frame is not as long as it was made before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("frame {frame} has {length} bytes now and had {before} before")]
pub(crate) struct FrameDiffers {
    frame: usize,
    length: u32,
    before: u32,
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

impl FrameLengths {
    /// Frames that are known.
    pub(crate) fn known(&self) -> usize {
        self.0.len()
    }

    /// Bytes of the whole NAR compressed, if all frames of its `nar_bytes` are known.
    pub(crate) fn total(&self, nar_bytes: u64) -> Option<u64> {
        let frames = nar_bytes.div_ceil(FRAME_BYTES).max(1);
        (self.0.len() as u64 == frames).then(|| self.0.iter().copied().map(u64::from).sum())
    }

    /// The NAR's byte at which the first frame begins that is not known.
    pub(crate) const fn known_to(&self) -> u64 {
        (self.0.len() as u64).saturating_mul(FRAME_BYTES)
    }

    /// Frame number `frame` has `length` bytes. Whether that was news; what is behind a gap is not kept.
    pub(crate) fn learn(&mut self, frame: usize, length: u32) -> Result<bool, FrameDiffers> {
        match self.0.get(frame) {
            Some(before) if *before == length => Ok(false),
            Some(before) => Err(FrameDiffers { frame, length, before: *before }),
            None if frame == self.0.len() => {
                self.0.push(length);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Which frames hold `wanted`, a range within [`Self::total`] that is not empty.
    pub(crate) fn range(&self, wanted: Range<u64>, nar_bytes: u64) -> FrameRange {
        let (mut first, mut skipped) = (0, wanted.start);
        while let Some(length) = self.0.get(first).copied().map(u64::from).filter(|length| *length <= skipped)
        {
            skipped -= length;
            first += 1;
        }
        let bytes = wanted.end.saturating_sub(wanted.start);
        let (mut behind, mut made) = (first, 0);
        while made < skipped.saturating_add(bytes)
            && let Some(length) = self.0.get(behind)
        {
            made += u64::from(*length);
            behind += 1;
        }
        let start = |frame: usize| (frame as u64).saturating_mul(FRAME_BYTES).min(nar_bytes);
        FrameRange { first, nar: start(first)..start(behind), skipped, bytes }
    }

    /// As the disk keeps them: 4 bytes each, little-endian.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|length| length.to_le_bytes()).collect()
    }

    /// What the disk kept.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (lengths, rest) = bytes.as_chunks::<4>();
        rest.is_empty().then(|| Self(lengths.iter().copied().map(u32::from_le_bytes).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_length_is_known_once_all_frames_are() {
        let mut lengths = FrameLengths::default();
        assert_eq!(lengths.total(40 * MIB), None);
        assert_eq!(lengths.learn(1, 7), Ok(false), "the one before is not known");
        for (frame, length) in [(0, 5), (1, 6), (2, 7)] {
            assert_eq!(lengths.known_to(), frame as u64 * FRAME_BYTES);
            assert_eq!(lengths.learn(frame, length), Ok(true));
        }
        assert_eq!((lengths.total(40 * MIB), lengths.total(50 * MIB)), (Some(18), None));
        assert_eq!(lengths.learn(2, 7), Ok(false));
        assert_eq!(lengths.learn(2, 8), Err(FrameDiffers { frame: 2, length: 8, before: 7 }));
        assert_eq!(FrameLengths::from_bytes(&lengths.to_bytes()), Some(lengths));
        assert_eq!(FrameLengths::from_bytes(&[1, 2, 3]), None);
    }

    #[test]
    fn an_empty_object_is_one_frame() {
        let mut lengths = FrameLengths::default();
        lengths.learn(0, 13).unwrap();
        assert_eq!(lengths.total(0), Some(13));
        assert_eq!(lengths.range(2..13, 0), FrameRange { first: 0, nar: 0..0, skipped: 2, bytes: 11 });
    }

    proptest! {
        #[test]
        fn a_range_is_made_from_the_frames_that_hold_it_and_no_others(
            parts in prop::collection::vec(1..50u32, 1..9),
            (from, to) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
            last in 1..=FRAME_BYTES,
        ) {
            let lengths = FrameLengths(parts.clone());
            let nar_bytes = (parts.len() as u64 - 1) * FRAME_BYTES + last;
            let total = lengths.total(nar_bytes).unwrap();
            // The number of its frame, for each byte of the whole.
            let numbered = (0u64..).zip(&parts).flat_map(|(frame, length)| (0..*length).map(move |_| frame));
            let frames: Vec<_> = numbered.collect();
            prop_assert_eq!(total, frames.len() as u64);
            let (from, to) = (from.index(frames.len()), to.index(frames.len()));
            let (from, to) = (from.min(to), from.max(to));
            let wanted = from as u64..to as u64 + 1;
            let range = lengths.range(wanted.clone(), nar_bytes);
            prop_assert_eq!(range.first as u64, frames[from]);
            prop_assert_eq!(range.nar, frames[from] * FRAME_BYTES..((frames[to] + 1) * FRAME_BYTES).min(nar_bytes));
            let before: u64 = parts[..range.first].iter().copied().map(u64::from).sum();
            prop_assert_eq!((before + range.skipped, range.bytes), (wanted.start, wanted.end - wanted.start));
        }
    }
}
