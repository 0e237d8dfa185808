//! LZMA: raw LZMA2 streams, behind the filter for x86 code where that makes them smaller.
//!
//! Owns: the chain of filters that a codec byte stands for. Always holds: the dictionary is as long as the raw bytes,
//! which both sides know, so a stream cannot ask for memory; a stream says at once how much comes out, and it is read
//! only if that is right, if its chunks are few, for each may begin the coder anew, and if it ends with its end marker.
//! Leaves to others: whether compressing is worth it, the hashes of what comes out.

use std::io;

use liblzma::stream::{Action, Filters, LzmaOptions, Status, Stream};

/// The highest level: those of `xz` above it differ in nothing but a longer dictionary.
pub(crate) const LEVEL_MAX: u32 = 6;

/// The smallest dictionary that the format knows.
const DICTIONARY_BYTES_MIN: u32 = 4096;

// What an encoder fills is a chunk of some 60 KiB, or one of 64 KiB that did not shrink; a few are shorter.
const CHUNK_STORED_BYTES_MIN: u64 = 16 << 10;
const CHUNK_RAW_BYTES_MIN: u64 = 64 << 10;
const SHORT_CHUNKS_MAX: u64 = 4;

/// The stream; none where it would not be shorter than the raw bytes. `x86` puts the filter before it.
///
/// Takes some twelve times the raw bytes of memory.
pub(crate) fn compress(raw: &[u8], x86: bool, level: u32) -> io::Result<Option<Vec<u8>>> {
    let raw_bytes = u32::try_from(raw.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut stream = Stream::new_raw_encoder(&filters(x86, raw_bytes, level)?)?;
    let mut stored = Vec::with_capacity(raw.len().saturating_sub(1));
    let ended = run(&mut stream, raw, &mut stored)?;
    Ok(Some(stored).filter(|stored| ended && stored.len() < raw.len()))
}

/// Exactly `raw_bytes` bytes out of exactly the stream, or none.
pub(crate) fn decompress(stored: &[u8], x86: bool, raw_bytes: u32) -> Option<Vec<u8>> {
    if !is_sound(stored, raw_bytes) {
        return None;
    }
    // All else that a level stands for is said by the stream itself, or is the encoder's alone.
    let any_level = 0;
    let filters = filters(x86, raw_bytes, any_level).ok()?;
    let mut stream = Stream::new_raw_decoder(&filters).ok()?;
    let length = usize::try_from(raw_bytes).ok()?;
    let mut raw = Vec::new();
    raw.try_reserve_exact(length).ok()?;
    let ended = run(&mut stream, stored, &mut raw).ok()?;
    (ended && raw.len() == length && stream.total_in() == stored.len() as u64).then_some(raw)
}

/// Whether the headers of the stream's chunks add up to the raw bytes and to all that is stored, and are not too many.
fn is_sound(stored: &[u8], raw_bytes: u32) -> bool {
    let chunks_max = stored.len() as u64 / CHUNK_STORED_BYTES_MIN
        + u64::from(raw_bytes) / CHUNK_RAW_BYTES_MIN
        + SHORT_CHUNKS_MAX;
    let (mut rest, mut raw) = (stored, 0);
    for _ in 0..=chunks_max {
        let (chunk_raw, next) = match *rest {
            [0] => return raw == u64::from(raw_bytes),
            // As it is: one more than the two bytes say.
            [1 | 2, high, low, ref rest @ ..] => {
                let bytes = usize::from(u16::from_be_bytes([high, low])) + 1;
                (bytes as u64, rest.get(bytes..))
            }
            [control @ 0x80..=0xff, high, low, stored_high, stored_low, ref rest @ ..] => {
                let bytes = u32::from_be_bytes([0, control & 0x1f, high, low]) + 1;
                // From 0xc0 on, a byte of properties stands before the rest.
                let properties = usize::from(control >= 0xc0);
                let stored = usize::from(u16::from_be_bytes([stored_high, stored_low])) + 1 + properties;
                (u64::from(bytes), rest.get(stored..))
            }
            _ => return false,
        };
        let Some(next) = next else { return false };
        raw += chunk_raw;
        rest = next;
    }
    false
}

fn filters(x86: bool, raw_bytes: u32, level: u32) -> io::Result<Filters> {
    let mut options = LzmaOptions::new_preset(level)?;
    options.dict_size(raw_bytes.max(DICTIONARY_BYTES_MIN));
    let mut filters = Filters::new();
    if x86 {
        filters.x86();
    }
    filters.lzma2(&options);
    Ok(filters)
}

/// Runs `input` through the stream into what room `output` has; whether the stream came to its end.
fn run(stream: &mut Stream, input: &[u8], output: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let before = (stream.total_in(), output.len());
        let rest = usize::try_from(stream.total_in()).ok().and_then(|taken| input.get(taken..));
        // Behind the last byte of room there may be the end marker still, so it is asked until nothing moves.
        let status = stream.process_vec(rest.unwrap_or_default(), output, Action::Finish)?;
        match status {
            Status::StreamEnd => return Ok(true),
            _ if (stream.total_in(), output.len()) == before => return Ok(false),
            _ => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// x86 code: calls of few functions from everywhere, between bytes that do not compress.
    pub(crate) fn code(calls: u32) -> Vec<u8> {
        let mut code = Vec::new();
        let mut noise = blake3::Hasher::new().finalize_xof();
        for call in 0..calls {
            let mut between = [0; 4];
            noise.fill(&mut between);
            // No byte that begins a call.
            code.extend(between.map(|byte| byte & 0x3f));
            let at = u32::try_from(code.len()).unwrap();
            code.push(0xe8);
            code.extend_from_slice(&((call % 7) * 0x1_2340).wrapping_sub(at + 5).to_le_bytes());
        }
        code
    }

    #[test]
    fn the_filter_shrinks_code() {
        let raw = code(10_000);
        let bytes = |x86| compress(&raw, x86, 6).unwrap().unwrap().len();
        assert!(bytes(true) * 10 < bytes(false) * 9);
    }

    #[test]
    fn a_stream_gives_exactly_its_raw_bytes_or_nothing() {
        for x86 in [false, true] {
            let raw = code(3000);
            let length = u32::try_from(raw.len()).unwrap();
            let stored = compress(&raw, x86, 6).unwrap().unwrap();
            assert_eq!(decompress(&stored, x86, length), Some(raw));
            for wrong in [0, 1, length - 1, length + 1, length * 2] {
                assert_eq!(decompress(&stored, x86, wrong), None, "{x86} {wrong}");
            }
        }
    }

    #[test]
    fn a_stream_that_is_cut_off_or_goes_on_behind_its_end_is_refused() {
        for x86 in [false, true] {
            let raw = code(500);
            let length = u32::try_from(raw.len()).unwrap();
            let stored = compress(&raw, x86, 6).unwrap().unwrap();
            assert_eq!(stored.last(), Some(&0));
            for end in 0..stored.len() {
                assert_eq!(decompress(&stored[..end], x86, length), None, "{x86} {end}");
            }
            for more in [&[0][..], &[1], &stored] {
                assert_eq!(decompress(&[&stored, more].concat(), x86, length), None, "{x86}");
            }
        }
    }

    #[test]
    fn no_turned_bit_gives_other_than_the_raw_length() {
        let raw = code(200);
        let length = u32::try_from(raw.len()).unwrap();
        let stored = compress(&raw, true, 6).unwrap().unwrap();
        for bit in 0..stored.len() * 8 {
            let mut turned = stored.clone();
            turned[bit / 8] ^= 1 << (bit % 8);
            let given = decompress(&turned, true, length);
            assert!(given.is_none_or(|given| given.len() == raw.len()), "{bit}");
        }
    }

    #[test]
    fn a_stream_of_more_chunks_than_an_encoder_makes_is_refused_before_it_is_read() {
        // Chunks of one byte each, which is what 4 MiB of state resets in a frame would be.
        let of = |chunks: usize| [[1, 0, 0, 7].repeat(chunks), vec![0]].concat();
        assert_eq!(decompress(&of(4), false, 4), Some(vec![7; 4]));
        assert_eq!(decompress(&of(6), false, 6), None);
        let many = u32::try_from(of(10_000).len()).unwrap();
        assert!(!is_sound(&of(10_000), 10_000) && many > 10_000);
    }

    #[test]
    fn what_does_not_shrink_is_not_compressed() {
        let mut noise = vec![0; 70_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for raw in [&noise[..], &noise[..1], b"ab"] {
            assert_eq!(compress(raw, false, 6).unwrap(), None);
        }
    }

    proptest! {
        #[test]
        fn whatever_was_compressed_reads_back(
            pieces in prop::collection::vec((any::<u8>(), 1usize..5000, 1usize..40), 1..40),
            x86 in any::<bool>(),
            level in 0u32..7,
        ) {
            let raw: Vec<u8> = pieces
                .into_iter()
                .flat_map(|(seed, length, period)| {
                    (0..length).map(move |at| seed.wrapping_mul(u8::try_from(at % period).unwrap() | 1))
                })
                .collect();
            if let Some(stored) = compress(&raw, x86, level).unwrap() {
                prop_assert!(stored.len() < raw.len());
                let length = u32::try_from(raw.len()).unwrap();
                prop_assert_eq!(decompress(&stored, x86, length), Some(raw));
            }
        }

        #[test]
        fn foreign_bytes_give_nothing_but_the_raw_length(
            // A control byte that begins a stream, and anything behind it.
            control in prop::sample::select(vec![0x00, 0x01, 0x02, 0x80, 0xa0, 0xc0, 0xe0, 0xff]),
            rest in prop::collection::vec(any::<u8>(), 0..2000),
            x86 in any::<bool>(),
            length in 0u32..100_000,
        ) {
            let stored = [&[control][..], &rest].concat();
            let given = decompress(&stored, x86, length);
            prop_assert!(given.is_none_or(|given| given.len() == length as usize));
        }
    }
}
