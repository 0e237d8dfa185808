//! A compressed stream, decompressed: a puller of bytes fed by what is pushed as it comes.
//!
//! Owns: running a decoder that wants to read without a thread that waits. A decoder that finds nothing to read
//! gives up with `WouldBlock` and goes on where it was when it has been fed. Always holds: memory is one piece
//! of input, one of output and the decoder's own, which `nix-format` bounds; damage is an error and not an end.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use firn_base::ObjectKey;
use firn_nix_format::{Compression, decoder};
use firn_transport::Environment;
use futures::stream::{self, StreamExt};

use crate::{ByteStream, ReadError};

const OUTPUT_BYTES: usize = 256 << 10;

/// What came and was not read yet.
#[derive(Debug, Default)]
struct Feed {
    pieces: VecDeque<Bytes>,
    ended: bool,
}

/// The decoder's end of the feed.
#[derive(Debug)]
struct FeedReader {
    feed: Arc<Mutex<Feed>>,
    current: Bytes,
}

impl BufRead for FeedReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
            match feed.pieces.pop_front() {
                Some(piece) => self.current = piece,
                None if feed.ended => break,
                None => return Err(io::ErrorKind::WouldBlock.into()),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        let _ = self.current.split_to(count.min(self.current.len()));
    }
}

impl Read for FeedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

type Decoder = Box<dyn Read + Send>;

struct Decoding {
    file: ByteStream,
    feed: Arc<Mutex<Feed>>,
    // None while it works elsewhere, and at the end.
    decoder: Option<Decoder>,
    hungry: bool,
}

enum Outcome {
    Full,
    Hungry,
    Ended,
    Failed(io::Error),
}

/// What `file` holds, decompressed.
pub(crate) fn decoded_stream(
    file: ByteStream,
    compression: Compression,
    key: ObjectKey,
    environment: Environment,
) -> ByteStream {
    let feed = Arc::new(Mutex::new(Feed::default()));
    let wrong = move |error: io::Error| ReadError::WrongObject { key, what: error.to_string() };
    let reader = FeedReader { feed: Arc::clone(&feed), current: Bytes::new() };
    let decoder = match decoder(compression, reader) {
        Ok(decoder) => decoder,
        Err(error) => return stream::iter([Err(wrong(error))]).boxed(),
    };
    let state = Decoding { file, feed, decoder: Some(decoder), hungry: true };
    stream::try_unfold((state, environment), move |(mut state, environment)| async move {
        loop {
            let Some(decoder) = state.decoder.take() else { return Ok(None) };
            if state.hungry {
                state.eat().await?;
            }
            let (decoder, output, outcome) = environment.blocking(move || run(decoder)).await;
            match outcome {
                Outcome::Full => state.decoder = Some(decoder),
                Outcome::Hungry => {
                    state.decoder = Some(decoder);
                    state.hungry = true;
                }
                Outcome::Ended => {}
                Outcome::Failed(error) => return Err(wrong(error)),
            }
            if !output.is_empty() {
                return Ok(Some((output, (state, environment))));
            }
        }
    })
    .boxed()
}

impl Decoding {
    /// Feeds the next piece, or the end.
    async fn eat(&mut self) -> Result<(), ReadError> {
        let next = self.file.next().await.transpose()?;
        let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        match next {
            Some(piece) => feed.pieces.push_back(piece),
            None => feed.ended = true,
        }
        self.hungry = false;
        Ok(())
    }
}

/// Decompresses until the output is full or the decoder wants more.
fn run(mut decoder: Decoder) -> (Decoder, Bytes, Outcome) {
    let mut output = vec![0; OUTPUT_BYTES];
    let mut filled = 0;
    let outcome = loop {
        if filled == output.len() {
            break Outcome::Full;
        }
        match decoder.read(&mut output[filled..]) {
            Ok(0) => break Outcome::Ended,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Outcome::Hungry,
            Err(error) => break Outcome::Failed(error),
        }
    };
    output.truncate(filled);
    (decoder, Bytes::from(output), outcome)
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    fn stream_of(file: &[u8], piece: usize) -> ByteStream {
        let pieces: Vec<_> = file.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        stream::iter(pieces).boxed()
    }

    async fn decode(file: &[u8], compression: Compression, piece: usize) -> Result<Vec<u8>, ReadError> {
        let key = ObjectKey::store_path([1; 20]);
        let decoded = decoded_stream(stream_of(file, piece), compression, key, Environment::real());
        decoded.try_fold(Vec::new(), |whole, piece| async move { Ok([whole, piece.to_vec()].concat()) }).await
    }

    #[tokio::test]
    async fn decoders_go_on_where_they_were_however_small_the_pieces() {
        let contents: Vec<u8> = (0..3000u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        let bzip2 = {
            use std::io::Write;
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(&contents).unwrap();
            encoder.finish().unwrap()
        };
        for (compression, file) in [
            (Compression::None, contents.clone()),
            (Compression::Xz, liblzma::encode_all(&contents[..], 1).unwrap()),
            (Compression::Bzip2, bzip2),
            (Compression::Zstd, zstd::encode_all(&contents[..], 3).unwrap()),
        ] {
            for piece in [1, 2, 7, 100, file.len()] {
                assert!(
                    decode(&file, compression, piece).await.unwrap() == contents,
                    "{compression} {piece}"
                );
                if compression != Compression::None {
                    let cut = decode(&file[..file.len() - 1], compression, piece).await;
                    assert!(matches!(cut, Err(ReadError::WrongObject { .. })), "{compression} {piece}");
                }
            }
            let twice = [&file[..], &file[..]].concat();
            assert!(
                decode(&twice, compression, 3).await.unwrap().len() == 2 * contents.len(),
                "{compression}"
            );
        }
    }
}
