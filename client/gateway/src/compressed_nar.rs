//! A NAR as zstd frames, made while they are served.
//!
//! Always holds: the same NAR gives the same bytes, however it arrives in pieces and with whichever frame one begins (a
//! changed encoder changes [`FORM`]); a last frame ends only after its NAR came without an error, and none before it ends
//! in a piece of its own, so that what was broken off is not whole; compressing keeps no thread of the runtime busy.
//! Leaves to others: reading and checking the NAR, what is known of frames (`frame_book`).

use std::io::{self, Write};

use bytes::Bytes;
use firn_retrieval::{ByteStream, ReadError};
use firn_transport::Environment;
use futures::StreamExt;
use futures::future::join;
use futures::stream::{self, BoxStream};
use zstd::stream::write::Encoder;

use crate::download_places::DownloadPlace;
use crate::frame_lengths::{FRAME_BYTES, FrameDiffers, MadeFrame};

/// Names these parameters together with what the library makes of them: part of the ETag.
pub(crate) const FORM: &str = "zst2";

// 217 MB/s on one core, and a third smaller than what level 1 makes: more costs more time than a line of 1 Gbit/s saves.
const LEVEL: i32 = 3;

// What one turn on another thread compresses: a millisecond. Pieces of a NAR can be a few bytes long.
const TURN_BYTES: usize = 256 << 10;

// A connection keeps about three windows. Matches farther apart are rare in single NARs.
const WINDOW_LOG: u32 = 20;

/// Why a compressed NAR ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompressError {
    /// The NAR cannot be read to its end.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is longer or shorter than announced, or memory is short.
    #[error("it cannot be compressed: {0}")]
    Encode(#[from] io::Error),
    /// It is not what was compressed before, or not compressed in the same way.
    #[error("it is compressed into other bytes than before: {0}")]
    Differs(#[from] FrameDiffers),
}

/// Frames on their way.
pub(crate) type FrameStream = BoxStream<'static, Result<Bytes, CompressError>>;

/// Hears of each frame before its end is given out.
pub(crate) trait FrameListener: Send {
    /// The next one was made; its end is given out only if it is as it was before.
    fn made(&mut self, frame: MadeFrame) -> Result<(), FrameDiffers>;

    /// All were made, of a NAR that came to its end without an error.
    fn ended(&mut self);
}

/// Compresses the part of a NAR that `nar` gives, all of whose `bytes` bytes, which begin with a frame. Keeps `place` until
/// it has ended.
///
/// # Errors
/// There is no memory for an encoder.
pub(crate) fn compressed(
    nar: ByteStream,
    bytes: u64,
    environment: Environment,
    listener: Box<dyn FrameListener>,
    place: DownloadPlace,
) -> io::Result<FrameStream> {
    let maker = FrameMaker::new(bytes, place)?;
    let state = Some(State { maker, nar: gathered(nar), ahead: None, listener });
    Ok(stream::try_unfold(state, move |state| next_piece(state, environment.clone())).boxed())
}

/// The `bytes` bytes of `frames` behind the first `skipped`.
pub(crate) fn cut(frames: FrameStream, skipped: u64, bytes: u64) -> FrameStream {
    stream::try_unfold((frames, skipped, bytes), async move |(mut frames, mut skipped, left)| {
        if left == 0 {
            return Ok(None);
        }
        while let Some(mut piece) = frames.next().await.transpose()? {
            let passed = usize::try_from(skipped).unwrap_or(usize::MAX).min(piece.len());
            skipped -= passed as u64;
            drop(piece.split_to(passed));
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            if !piece.is_empty() {
                let left = left - piece.len() as u64;
                return Ok(Some((piece, (frames, skipped, left))));
            }
        }
        Ok(None)
    })
    .boxed()
}

type Gathered = BoxStream<'static, Result<Vec<Bytes>, ReadError>>;

/// The pieces of `nar`, as many together as one turn compresses.
fn gathered(nar: ByteStream) -> Gathered {
    stream::try_unfold((nar.fuse(), None), async |(mut nar, failed)| {
        if let Some(error) = failed {
            return Err(error);
        }
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        while bytes < TURN_BYTES {
            match nar.next().await {
                Some(Ok(piece)) => {
                    bytes += piece.len();
                    pieces.push(piece);
                }
                Some(Err(error)) if pieces.is_empty() => return Err(error),
                Some(Err(error)) => return Ok(Some((pieces, (nar, Some(error))))),
                None => break,
            }
        }
        Ok((!pieces.is_empty()).then_some((pieces, (nar, None))))
    })
    .boxed()
}

struct State {
    maker: FrameMaker,
    nar: Gathered,
    /// What comes next, if it was read already.
    ahead: Option<Option<Result<Vec<Bytes>, ReadError>>>,
    listener: Box<dyn FrameListener>,
}

/// One frame after the other.
struct FrameMaker {
    encoder: Encoder<'static, Vec<u8>>,
    /// Bytes of the NAR that the frame under way lacks, and that there are behind it.
    lacking: u64,
    behind: u64,
    /// Bytes of the frame under way that were taken out.
    taken: u64,
    /// Where in the encoder's bytes the frame under way begins.
    begin: usize,
    /// Of what was taken out of it.
    hasher: blake3::Hasher,
    /// Frames of which nobody heard yet.
    ended: Vec<MadeFrame>,
    /// Here, for the encoder may be at work on another thread when its client has left.
    place: DownloadPlace,
}

/// An encoder of the next frame of `bytes`, behind those that are in `made`.
fn encoder(made: Vec<u8>, bytes: u64) -> io::Result<Encoder<'static, Vec<u8>>> {
    let mut encoder = Encoder::new(made, LEVEL)?;
    encoder.window_log(WINDOW_LOG)?;
    encoder.include_checksum(true)?;
    // The frame says how long its part of the NAR is, and the encoder refuses to end one of another length.
    encoder.set_pledged_src_size(Some(bytes))?;
    Ok(encoder)
}

impl FrameMaker {
    fn new(bytes: u64, place: DownloadPlace) -> io::Result<Self> {
        let lacking = bytes.min(FRAME_BYTES);
        let encoder = encoder(Vec::new(), lacking)?;
        let behind = bytes - lacking;
        let hasher = blake3::Hasher::new();
        Ok(Self { encoder, lacking, behind, taken: 0, begin: 0, hasher, ended: Vec::new(), place })
    }

    fn push(mut self, mut piece: Bytes) -> io::Result<Self> {
        while !piece.is_empty() {
            if self.lacking == 0 && self.behind > 0 {
                self = self.next_frame()?;
            }
            let here = usize::try_from(self.lacking).unwrap_or(usize::MAX).min(piece.len());
            // Of what is too much the encoder says so at the end.
            let here = if self.lacking == 0 { piece.len() } else { here };
            self.encoder.write_all(&piece.split_to(here))?;
            self.lacking = self.lacking.saturating_sub(here as u64);
        }
        Ok(self)
    }

    fn next_frame(mut self) -> io::Result<Self> {
        let made = self.encoder.finish()?;
        self.ended.push(ended(self.taken, self.hasher, &made[self.begin..])?);
        let lacking = self.behind.min(FRAME_BYTES);
        let begin = made.len();
        let encoder = encoder(made, lacking)?;
        let behind = self.behind - lacking;
        let hasher = blake3::Hasher::new();
        Ok(Self { encoder, lacking, behind, taken: 0, begin, hasher, ended: self.ended, place: self.place })
    }

    /// What was made, but for a frame's end as long as nothing follows it.
    fn take(&mut self) -> Vec<u8> {
        let made = self.encoder.get_mut();
        if made.len() == self.begin {
            return Vec::new();
        }
        self.taken += (made.len() - self.begin) as u64;
        self.hasher.update(&made[self.begin..]);
        self.begin = 0;
        std::mem::take(made)
    }

    fn finish(mut self) -> io::Result<(Vec<u8>, Vec<MadeFrame>)> {
        if self.behind > 0 {
            return Err(io::Error::other("whole frames of it are missing"));
        }
        let made = self.encoder.finish()?;
        self.ended.push(ended(self.taken, self.hasher, &made[self.begin..])?);
        Ok((made, self.ended))
    }
}

/// The frame of which so many bytes were taken and hashed before these last ones.
fn ended(taken: u64, mut hasher: blake3::Hasher, rest: &[u8]) -> io::Result<MadeFrame> {
    let bytes = u32::try_from(taken + rest.len() as u64).map_err(io::Error::other)?;
    Ok(MadeFrame::new(bytes, &hasher.update(rest).finalize()))
}

/// The next bytes of the frames, and what is left; nothing is left behind the end of the last one.
async fn next_piece(
    state: Option<State>,
    environment: Environment,
) -> Result<Option<(Bytes, Option<State>)>, CompressError> {
    let Some(State { mut maker, mut nar, mut ahead, mut listener }) = state else { return Ok(None) };
    loop {
        let pieces = match ahead.take() {
            Some(pieces) => pieces,
            None => nar.next().await,
        };
        let Some(pieces) = pieces.transpose()? else {
            let (end, ended) = environment.blocking(move || maker.finish()).await?;
            ended.into_iter().try_for_each(|frame| listener.made(frame))?;
            listener.ended();
            return Ok(Some((end.into(), None)));
        };
        let work = move || {
            let mut maker = pieces.into_iter().try_fold(maker, FrameMaker::push)?;
            let made = maker.take();
            Ok::<_, io::Error>((maker, made))
        };
        // Reading goes on meanwhile.
        let (compressed, next) = join(environment.blocking(work), nar.next()).await;
        ahead = Some(next);
        let made;
        (maker, made) = compressed?;
        maker.ended.drain(..).try_for_each(|frame| listener.made(frame))?;
        if !made.is_empty() {
            return Ok(Some((made.into(), Some(State { maker, nar, ahead, listener }))));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use futures::TryStreamExt;

    use super::*;
    use crate::download_places::DownloadPlaces;
    use crate::frame_lengths::{FrameLengths, tests::frames};

    const FRAME: usize = 16 << 20;
    const _: () = assert!(FRAME as u64 == FRAME_BYTES);
    // Two frames and a bit.
    const LARGE: usize = 2 * FRAME + 300_000;

    /// Text that compresses a little, in which nothing repeats exactly.
    fn nar(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise.iter().map(|byte| b'a' + byte % 16).collect()
    }

    /// Keeps lengths, and compares with what was made before where there is something.
    #[derive(Clone, Default)]
    struct Heard {
        lengths: Arc<Mutex<Vec<u32>>>,
        before: Option<FrameLengths>,
        ended: Arc<AtomicBool>,
    }

    impl FrameListener for Heard {
        fn made(&mut self, frame: MadeFrame) -> Result<(), FrameDiffers> {
            let mut lengths = self.lengths.lock().unwrap();
            self.before.as_ref().map_or(Ok(()), |before| before.check(lengths.len(), frame))?;
            lengths.push(u32::try_from(frame.bytes()).unwrap());
            Ok(())
        }

        fn ended(&mut self) {
            self.ended.store(true, Ordering::Relaxed);
        }
    }

    /// What `nar` is compressed into when it comes in such pieces, and the lengths of its frames.
    async fn frames_of(nar: &[u8], piece: usize, bytes: u64) -> Result<(Vec<u8>, Vec<u32>), CompressError> {
        let pieces: Vec<_> = nar.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let heard = Heard::default();
        let listener = Box::new(heard.clone());
        let place = DownloadPlaces::default().encoder(None).await.unwrap();
        let made = compressed(stream::iter(pieces).boxed(), bytes, Environment::real(), listener, place)?;
        let made = made.try_collect::<Vec<_>>().await;
        assert_eq!(heard.ended.load(Ordering::Relaxed), made.is_ok());
        let made = made?.concat();
        let lengths = heard.lengths.lock().unwrap().clone();
        Ok((made, lengths))
    }

    #[tokio::test]
    async fn the_pieces_that_a_nar_comes_in_do_not_show_in_its_frames() {
        let nar = nar(LARGE);
        let (made, lengths) = frames_of(&nar, LARGE, LARGE as u64).await.unwrap();
        assert!(zstd::stream::decode_all(&made[..]).unwrap() == nar);
        assert_eq!(lengths.len(), 3);
        for piece in [99_999, 1 << 20, FRAME] {
            let again = frames_of(&nar, piece, LARGE as u64).await.unwrap();
            assert!(again.0 == made && again.1 == lengths, "pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn small_pieces_are_compressed_many_at_a_turn_and_an_error_comes_behind_those_before_it() {
        let failure = ReadError::UnknownBundle { bundle: firn_base::BundleId::from_bytes([1; 32]) };
        let pieces = (0..20_000).map(|_| Ok(Bytes::from_static(&[7; 32]))).chain([Err(failure)]);
        let mut turns = gathered(stream::iter(pieces).boxed());
        for pieces in [8192, 8192, 20_000 - 2 * 8192] {
            assert_eq!(turns.next().await.unwrap().unwrap().len(), pieces);
        }
        assert!(turns.next().await.unwrap().is_err());
        let mut all = gathered(stream::iter([Ok(Bytes::from(vec![7; 9 << 20]))]).boxed());
        assert_eq!(all.next().await.unwrap().unwrap().len(), 1);
        assert!(all.next().await.is_none());
    }

    #[tokio::test]
    async fn who_begins_with_a_later_frame_makes_the_same_bytes() {
        let nar = nar(LARGE);
        let (made, lengths) = frames_of(&nar, 1 << 20, LARGE as u64).await.unwrap();
        let mut start = 0;
        for (frame, length) in lengths.iter().enumerate() {
            let part = &nar[frame * FRAME..];
            let (rest, of_rest) = frames_of(part, 70_000, part.len() as u64).await.unwrap();
            assert!(rest == made[start..] && of_rest == lengths[frame..], "frame {frame}");
            start += usize::try_from(*length).unwrap();
        }
        assert_eq!(start, made.len());
    }

    #[tokio::test]
    async fn a_form_has_these_bytes_for_ever() {
        let (made, lengths) = frames_of(&nar(LARGE), 50_000, LARGE as u64).await.unwrap();
        let digest = blake3::hash(&made).to_hex();
        // Other bytes need another name: caches may hold half of a file that is made of these.
        assert_eq!(
            (FORM, &lengths[..], &digest[..16]),
            ("zst2", &[8_728_695, 8_727_023, 153_929][..], "ffff2b001869f168")
        );
    }

    #[tokio::test]
    async fn a_nar_of_another_length_than_announced_ends_in_an_error() {
        for bytes in [300_000, FRAME, LARGE] {
            let nar = nar(bytes);
            for announced in [bytes as u64 - 1, bytes as u64 + 1, (bytes + FRAME) as u64] {
                let error = frames_of(&nar, 100_000, announced).await.unwrap_err();
                assert!(matches!(error, CompressError::Encode(_)), "{error}");
            }
        }
    }

    /// What is made of `nar` before it breaks off.
    async fn made_before_failure(nar: &[u8], announced: u64) -> Vec<u8> {
        let failure = ReadError::UnknownBundle { bundle: firn_base::BundleId::from_bytes([1; 32]) };
        let pieces = nar.chunks(1 << 20).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        let pieces: Vec<_> = pieces.chain([Err(failure)]).collect();
        let heard = Heard::default();
        let listener = Box::new(heard.clone());
        let place = DownloadPlaces::default().encoder(None).await.unwrap();
        let made = compressed(stream::iter(pieces).boxed(), announced, Environment::real(), listener, place);
        let (mut made, mut sent) = (made.unwrap(), Vec::new());
        let error = loop {
            match made.next().await.expect("the error comes before the end") {
                Ok(piece) => sent.extend_from_slice(&piece),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, CompressError::Read(_)), "{error}");
        assert!(!heard.ended.load(Ordering::Relaxed));
        sent
    }

    #[tokio::test]
    async fn a_nar_that_breaks_off_gives_nothing_that_looks_whole() {
        // Amid a frame, at its end, and so little behind it that nothing of the next one was made.
        for bytes in [3_000_000, FRAME, FRAME + 10] {
            let sent = made_before_failure(&nar(bytes), 2 * FRAME as u64).await;
            assert!(!sent.is_empty() && zstd::stream::decode_all(&sent[..]).is_err(), "{bytes}");
        }
    }

    #[tokio::test]
    async fn a_cut_has_the_bytes_that_are_wanted() {
        let whole: Vec<u8> = (0..100).collect();
        for (skipped, bytes) in [(0, 100), (0, 1), (9, 2), (10, 10), (99, 1), (50, 0)] {
            let pieces: Vec<_> = whole.chunks(10).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let cut = cut(stream::iter(pieces).boxed(), skipped as u64, bytes as u64)
                .try_collect::<Vec<_>>()
                .await
                .unwrap();
            assert_eq!(cut.concat(), whole[skipped..skipped + bytes], "{bytes} behind {skipped}");
        }
    }

    #[tokio::test]
    async fn a_frame_that_is_not_the_one_from_before_ends_the_stream_before_its_end() {
        let before = FrameLengths::new(frames(&[7]), 1000);
        let heard = Heard { before, ..Heard::default() };
        let nar = stream::iter([Ok(Bytes::from(nar(1000)))]).boxed();
        let place = DownloadPlaces::default().encoder(None).await.unwrap();
        let mut made = compressed(nar, 1000, Environment::real(), Box::new(heard), place).unwrap();
        assert!(matches!(made.next().await, Some(Err(CompressError::Differs(_)))));
    }
}
