//! Decompressing a published file while it is read.
//!
//! Always holds: memory is bounded whatever the file claims (the dictionary of xz and the window of zstd are
//! limited); concatenated streams and frames are read to the end, as Nix does; a file that ends early is an
//! error and not a short NAR.
//! Leaves to others: how much may come out; a bomb is stopped by [`crate::VerifyingReader`].

use std::io::{self, BufRead, Read};

use crate::Compression;

/// Most memory of an xz decoder: enough for a dictionary of 128 MiB, twice that of `xz -9`.
pub const XZ_MEMORY_BYTES_MAX: u64 = 136 << 20;

/// Largest zstd window, as a power of two: 128 MiB, the limit of zstd itself without `--long`.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Reads the NAR out of `compressed`.
///
/// # Errors
/// When no decoder can be made for want of memory. Damage shows later, as an error of `read`.
pub fn decoder<'a>(
    compression: Compression,
    compressed: impl BufRead + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(compressed),
        Compression::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_BYTES_MAX, flags)?;
            let inner = liblzma::bufread::XzDecoder::new_stream(compressed, stream);
            Box::new(Named { compression, inner })
        }
        Compression::Bzip2 => {
            Box::new(Named { compression, inner: bzip2::bufread::MultiBzDecoder::new(compressed) })
        }
        Compression::Zstd => {
            let mut inner = zstd::stream::read::Decoder::with_buffer(compressed)?;
            inner.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(Named { compression, inner })
        }
    })
}

/// Adds the name of the compression to the errors of a decoder, which say little by themselves.
struct Named<R> {
    compression: Compression,
    inner: R,
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, format!("decompressing {} failed: {error}", self.compression)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn compress(compression: Compression, contents: &[u8]) -> Vec<u8> {
        match compression {
            Compression::None => contents.to_vec(),
            Compression::Xz => liblzma::encode_all(contents, 6).unwrap(),
            Compression::Bzip2 => {
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
                encoder.write_all(contents).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(contents, 3).unwrap(),
        }
    }

    fn decompress(compression: Compression, compressed: &[u8]) -> io::Result<Vec<u8>> {
        let mut contents = Vec::new();
        decoder(compression, compressed)?.read_to_end(&mut contents).map(|_| contents)
    }

    fn sample() -> Vec<u8> {
        (0..300_000_u32).flat_map(|number| (number / 3).to_le_bytes()).collect()
    }

    const COMPRESSED: [Compression; 3] = [Compression::Xz, Compression::Bzip2, Compression::Zstd];

    #[test]
    fn what_was_compressed_comes_back() {
        for compression in Compression::ALL {
            for contents in [Vec::new(), sample()] {
                let compressed = compress(compression, &contents);
                assert_eq!(decompress(compression, &compressed).unwrap(), contents, "{compression}");
            }
        }
    }

    #[test]
    fn concatenated_streams_are_read_to_the_end() {
        for compression in COMPRESSED {
            let twice = [compress(compression, b"one "), compress(compression, b"two")].concat();
            assert_eq!(decompress(compression, &twice).unwrap(), b"one two", "{compression}");
        }
    }

    #[test]
    fn a_file_cut_short_anywhere_is_an_error() {
        for compression in COMPRESSED {
            let whole = compress(compression, b"a few bytes of contents");
            for length in 1..whole.len() {
                let error = decompress(compression, &whole[..length]).unwrap_err().to_string();
                assert!(
                    error.starts_with(&format!("decompressing {compression} failed")),
                    "{length}: {error}"
                );
            }
        }
    }

    #[test]
    fn a_damaged_file_and_trailing_garbage_are_errors() {
        for compression in COMPRESSED {
            let whole = compress(compression, &sample());
            let mut damaged = whole.clone();
            damaged[whole.len() / 2] ^= 1;
            // bzip2 and xz carry checksums; zstd frames made here do not, so only its structure can break.
            if compression != Compression::Zstd {
                assert!(decompress(compression, &damaged).is_err(), "{compression}");
            }
            assert!(
                decompress(compression, &[whole, b"garbage!".to_vec()].concat()).is_err(),
                "{compression}"
            );
        }
    }

    #[test]
    fn an_xz_file_that_wants_a_huge_dictionary_is_refused() {
        let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
        options.dict_size(1 << 28);
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(&options);
        let stream =
            liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc64).unwrap();
        let mut encoder = liblzma::bufread::XzEncoder::new_stream(&b"small"[..], stream);
        let mut compressed = Vec::new();
        encoder.read_to_end(&mut compressed).unwrap();
        let error = decompress(Compression::Xz, &compressed).unwrap_err().to_string();
        assert_eq!(error, "decompressing xz failed: memory limit reached");
    }

    #[test]
    fn a_zstd_frame_that_wants_a_huge_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.write_all(&sample()).unwrap();
        let compressed = encoder.finish().unwrap();
        assert!(decompress(Compression::Zstd, &compressed).is_err());
    }
}
