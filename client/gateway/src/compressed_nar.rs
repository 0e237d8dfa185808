//! A NAR as one zstd frame, made while it is served.
//!
//! Always holds: the same NAR gives the same bytes, however it arrives in pieces (a changed encoder changes
//! [`FORM`]); the frame ends only after the whole NAR came without an error, so that what was broken off is no frame;
//! compressing keeps no thread of the runtime busy. Leaves to others: reading and checking the NAR.

use std::io::{self, Write};

use bytes::Bytes;
use firn_retrieval::{ByteStream, ReadError};
use firn_transport::Environment;
use futures::StreamExt;
use futures::future::join;
use futures::stream::{self, BoxStream};
use zstd::stream::write::Encoder;

/// Names these parameters together with what the library makes of them: part of the ETag.
pub(crate) const FORM: &str = "zst1";

// 217 MB/s on one core, and a third smaller than what level 1 makes: more costs more time than a line of 1 Gbit/s saves.
const LEVEL: i32 = 3;

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
}

/// A frame on its way.
pub(crate) type FrameStream = BoxStream<'static, Result<Bytes, CompressError>>;

/// Compresses the NAR that `nar` gives, all of whose `bytes` bytes.
///
/// # Errors
/// There is no memory for an encoder.
pub(crate) fn compressed(nar: ByteStream, bytes: u64, environment: Environment) -> io::Result<FrameStream> {
    let mut encoder = Encoder::new(Vec::new(), LEVEL)?;
    encoder.window_log(WINDOW_LOG)?;
    encoder.include_checksum(true)?;
    // The frame says how long the NAR is, and the encoder refuses to end one of another length.
    encoder.set_pledged_src_size(Some(bytes))?;
    let state = Some(State { encoder, nar, ahead: None });
    Ok(stream::try_unfold(state, move |state| next_piece(state, environment.clone())).boxed())
}

struct State {
    encoder: Encoder<'static, Vec<u8>>,
    nar: ByteStream,
    /// What comes next, if it was read already.
    ahead: Option<Option<Result<Bytes, ReadError>>>,
}

/// The next bytes of the frame, and what is left; nothing is left behind its end.
async fn next_piece(
    state: Option<State>,
    environment: Environment,
) -> Result<Option<(Bytes, Option<State>)>, CompressError> {
    let Some(State { mut encoder, mut nar, mut ahead }) = state else { return Ok(None) };
    loop {
        let piece = match ahead.take() {
            Some(piece) => piece,
            None => nar.next().await,
        };
        let Some(piece) = piece.transpose()? else {
            let end = environment.blocking(move || encoder.finish()).await?;
            return Ok(Some((end.into(), None)));
        };
        let work = move || {
            encoder.write_all(&piece)?;
            let made = std::mem::take(encoder.get_mut());
            Ok::<_, io::Error>((encoder, made))
        };
        // Reading goes on meanwhile.
        let (compressed, next) = join(environment.blocking(work), nar.next()).await;
        ahead = Some(next);
        let made;
        (encoder, made) = compressed?;
        if !made.is_empty() {
            return Ok(Some((made.into(), Some(State { encoder, nar, ahead }))));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    /// Text that compresses a little, in which nothing repeats exactly.
    fn nar(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise.iter().map(|byte| b'a' + byte % 16).collect()
    }

    async fn frame_of(nar: &[u8], piece: usize, bytes: u64) -> Result<Vec<u8>, CompressError> {
        let pieces: Vec<_> = nar.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let made = compressed(stream::iter(pieces).boxed(), bytes, Environment::real())?;
        Ok(made.try_collect::<Vec<_>>().await?.concat())
    }

    #[tokio::test]
    async fn the_pieces_that_a_nar_comes_in_do_not_show_in_its_frame() {
        let nar = nar(3_000_000);
        let frame = frame_of(&nar, 3_000_000, 3_000_000).await.unwrap();
        assert!(zstd::stream::decode_all(&frame[..]).unwrap() == nar);
        for piece in [1000, 99_999, 1 << 20] {
            assert!(frame_of(&nar, piece, 3_000_000).await.unwrap() == frame, "pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn a_form_has_these_bytes_for_ever() {
        let frame = frame_of(&nar(300_000), 50_000, 300_000).await.unwrap();
        let digest = blake3::hash(&frame).to_hex();
        // Other bytes need another name: caches may hold half of a file that is made of these.
        assert_eq!((FORM, frame.len(), &digest[..16]), ("zst1", 154_325, "b36395503b5971c9"));
    }

    #[tokio::test]
    async fn a_nar_of_another_length_than_announced_ends_in_an_error() {
        let nar = nar(300_000);
        for announced in [299_999, 300_001] {
            let error = frame_of(&nar, 100_000, announced).await.unwrap_err();
            assert!(matches!(error, CompressError::Encode(_)), "{error}");
        }
    }

    #[tokio::test]
    async fn a_nar_that_breaks_off_gives_no_whole_frame() {
        let nar = nar(3_000_000);
        let failure = ReadError::UnknownBundle { bundle: firn_base::BundleId::from_bytes([1; 32]) };
        let pieces = [Ok(Bytes::from(nar)), Err(failure)];
        let mut made = compressed(stream::iter(pieces).boxed(), 4_000_000, Environment::real()).unwrap();
        let mut sent = Vec::new();
        let error = loop {
            match made.next().await.expect("the error comes before the end") {
                Ok(piece) => sent.extend_from_slice(&piece),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, CompressError::Read(_)), "{error}");
        assert!(!sent.is_empty() && zstd::stream::decode_all(&sent[..]).is_err());
    }
}
