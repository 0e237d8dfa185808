//! LZMA: raw LZMA2 streams, behind a branch filter where that makes them smaller.
//!
//! Owns: the chain of filters that a codec byte stands for. Always holds: the dictionary is as long as the raw bytes, which
//! both sides know, so a stream cannot ask for memory; a stream is read to its end marker, which is its last byte.
//! Leaves to others: whether compressing is worth it, the hashes of what comes out.

use std::io;

use liblzma::stream::{Action, Filters, LzmaOptions, Status, Stream};

/// The smallest dictionary that the format knows.
const DICTIONARY_BYTES_MIN: u32 = 4096;

/// Makes addresses in machine code absolute, so that calls of one function look alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BranchFilter {
    X86,
    Arm64,
}

/// The stream; none where it would not be shorter than the raw bytes.
///
/// Takes some twelve times the raw bytes of memory.
pub(crate) fn compress(raw: &[u8], filter: Option<BranchFilter>, level: u32) -> io::Result<Option<Vec<u8>>> {
    let raw_bytes = u32::try_from(raw.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut stream = Stream::new_raw_encoder(&filters(filter, raw_bytes, level)?)?;
    let mut stored = Vec::with_capacity(raw.len().saturating_sub(1));
    let ended = run(&mut stream, raw, &mut stored)?;
    Ok(Some(stored).filter(|stored| ended && stored.len() < raw.len()))
}

/// Exactly `raw_bytes` bytes out of exactly the stream, or none.
pub(crate) fn decompress(stored: &[u8], filter: Option<BranchFilter>, raw_bytes: u32) -> Option<Vec<u8>> {
    // All else that a level stands for is said by the stream itself, or is the encoder's alone.
    let any_level = 0;
    let filters = filters(filter, raw_bytes, any_level).ok()?;
    let mut stream = Stream::new_raw_decoder(&filters).ok()?;
    let length = usize::try_from(raw_bytes).ok()?;
    let mut raw = Vec::new();
    raw.try_reserve_exact(length).ok()?;
    let ended = run(&mut stream, stored, &mut raw).ok()?;
    (ended && raw.len() == length && stream.total_in() == stored.len() as u64).then_some(raw)
}

fn filters(filter: Option<BranchFilter>, raw_bytes: u32, level: u32) -> io::Result<Filters> {
    let mut options = LzmaOptions::new_preset(level)?;
    options.dict_size(raw_bytes.max(DICTIONARY_BYTES_MIN));
    let mut filters = Filters::new();
    match filter {
        None => {}
        Some(BranchFilter::X86) => {
            filters.x86();
        }
        Some(BranchFilter::Arm64) => {
            filters.arm64();
        }
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

    const FILTERS: [Option<BranchFilter>; 3] = [None, Some(BranchFilter::X86), Some(BranchFilter::Arm64)];

    /// Code of one processor: calls of few functions from everywhere, between bytes that do not compress.
    pub(crate) fn code(filter: BranchFilter, calls: u32) -> Vec<u8> {
        let mut code = Vec::new();
        let mut noise = blake3::Hasher::new().finalize_xof();
        for call in 0..calls {
            let mut between = [0; 4];
            noise.fill(&mut between);
            // No byte that begins a call.
            code.extend(between.map(|byte| byte & 0x3f));
            let function = (call % 7) * 0x1_2340;
            let at = u32::try_from(code.len()).unwrap();
            match filter {
                BranchFilter::X86 => {
                    code.push(0xe8);
                    code.extend_from_slice(&function.wrapping_sub(at + 5).to_le_bytes());
                }
                BranchFilter::Arm64 => {
                    let words = function.wrapping_sub(at) >> 2;
                    code.extend_from_slice(&(0x9400_0000 | words & 0x03ff_ffff).to_le_bytes());
                }
            }
        }
        code
    }

    #[test]
    fn each_filter_shrinks_the_code_of_its_processor() {
        let bytes = |raw: &[u8], filter| compress(raw, filter, 6).unwrap().map_or(raw.len(), |it| it.len());
        for own in [BranchFilter::X86, BranchFilter::Arm64] {
            let raw = code(own, 10_000);
            for other in FILTERS.into_iter().filter(|filter| *filter != Some(own)) {
                assert!(bytes(&raw, Some(own)) * 10 < bytes(&raw, other) * 9, "{own:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_stream_gives_exactly_its_raw_bytes_or_nothing() {
        for filter in FILTERS {
            let raw = code(BranchFilter::X86, 3000);
            let length = u32::try_from(raw.len()).unwrap();
            let stored = compress(&raw, filter, 6).unwrap().unwrap();
            assert_eq!(decompress(&stored, filter, length), Some(raw));
            for wrong in [0, 1, length - 1, length + 1, length * 2] {
                assert_eq!(decompress(&stored, filter, wrong), None, "{filter:?} {wrong}");
            }
        }
    }

    #[test]
    fn a_stream_that_is_cut_off_or_goes_on_behind_its_end_is_refused() {
        for filter in FILTERS {
            let raw = code(BranchFilter::Arm64, 500);
            let length = u32::try_from(raw.len()).unwrap();
            let stored = compress(&raw, filter, 6).unwrap().unwrap();
            assert_eq!(stored.last(), Some(&0));
            for end in 0..stored.len() {
                assert_eq!(decompress(&stored[..end], filter, length), None, "{filter:?} {end}");
            }
            for more in [&[0][..], &[1], &stored] {
                assert_eq!(decompress(&[&stored, more].concat(), filter, length), None, "{filter:?}");
            }
        }
    }

    #[test]
    fn no_turned_bit_gives_other_than_the_raw_length() {
        let raw = code(BranchFilter::X86, 200);
        let length = u32::try_from(raw.len()).unwrap();
        let stored = compress(&raw, Some(BranchFilter::X86), 6).unwrap().unwrap();
        for bit in 0..stored.len() * 8 {
            let mut turned = stored.clone();
            turned[bit / 8] ^= 1 << (bit % 8);
            let given = decompress(&turned, Some(BranchFilter::X86), length);
            assert!(given.is_none_or(|given| given.len() == raw.len()), "{bit}");
        }
    }

    #[test]
    fn a_stream_that_repeats_what_lies_behind_its_dictionary_is_refused() {
        // The first 5,000 bytes come again at the end, farther away than 4,096 bytes of dictionary reach.
        let mut raw = vec![0; 8000];
        blake3::Hasher::new().finalize_xof().fill(&mut raw);
        let again = raw[..3000].to_vec();
        raw.extend_from_slice(&again);
        let stored = compress(&raw, None, 6).unwrap().unwrap();
        assert_eq!(decompress(&stored, None, 8000), None);
        assert_eq!(decompress(&stored, None, 11_000), Some(raw));
    }

    #[test]
    fn what_does_not_shrink_is_not_compressed() {
        let mut noise = vec![0; 70_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for raw in [&noise[..], &noise[..1], b"ab"] {
            assert_eq!(compress(raw, None, 6).unwrap(), None);
        }
    }

    proptest! {
        #[test]
        fn whatever_was_compressed_reads_back(
            pieces in prop::collection::vec((any::<u8>(), 1usize..5000, 1usize..40), 1..40),
            filter in 0usize..3,
            level in 0u32..7,
        ) {
            let raw: Vec<u8> = pieces
                .into_iter()
                .flat_map(|(seed, length, period)| {
                    (0..length).map(move |at| seed.wrapping_mul(u8::try_from(at % period).unwrap() | 1))
                })
                .collect();
            if let Some(stored) = compress(&raw, FILTERS[filter], level).unwrap() {
                prop_assert!(stored.len() < raw.len());
                let length = u32::try_from(raw.len()).unwrap();
                prop_assert_eq!(decompress(&stored, FILTERS[filter], length), Some(raw));
            }
        }

        #[test]
        fn foreign_bytes_give_nothing_but_the_raw_length(
            // A control byte that begins a stream, and anything behind it.
            control in prop::sample::select(vec![0x00, 0x01, 0x02, 0x80, 0xa0, 0xc0, 0xe0, 0xff]),
            rest in prop::collection::vec(any::<u8>(), 0..2000),
            filter in 0usize..3,
            length in 0u32..100_000,
        ) {
            let stored = [&[control][..], &rest].concat();
            let given = decompress(&stored, FILTERS[filter], length);
            prop_assert!(given.is_none_or(|given| given.len() == length as usize));
        }
    }
}
