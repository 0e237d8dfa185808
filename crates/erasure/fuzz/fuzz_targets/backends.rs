//! All backends of this processor make the same shards of the same bytes, and rebuild them from any k of them,
//! wherever slices begin and however long they are.
//!
//! `cargo +nightly fuzz run backends` in `crates/erasure`, for as long as wished (`-- -max_total_time=600`).

#![no_main]

use arbitrary::Arbitrary;
use firn_base::ShardIndex;
use firn_erasure::{Backend, Coder};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    k: u8,
    shard_bytes: u16,
    // Where in its buffer each shard begins, cyclically.
    offsets: [u8; 7],
    // Sorting the indexes by these gives those that are held.
    order: [u8; 40],
    wanted: u8,
    threads: u8,
    bytes: Vec<u8>,
}

fuzz_target!(|input: Input| {
    let k = 1_u8 << (input.k % 5);
    // Up to a tile and a bit, and short ones as often.
    let shard_bytes = usize::from(input.shard_bytes) % if input.shard_bytes & 1 == 0 { 600 } else { 34_000 };
    let threads = std::num::NonZeroUsize::MIN.saturating_add(usize::from(input.threads % 3));
    let oracle = Coder::with_backend(k, Backend::Portable).expect("always there");
    let data: Vec<Vec<u8>> = (0..oracle.k())
        .map(|shard| {
            let byte = |j: usize| input.bytes.get((shard * shard_bytes + j) % input.bytes.len().max(1));
            (0..shard_bytes).map(|j| byte(j).copied().unwrap_or(0)).collect()
        })
        .collect();
    let expected = shards(&oracle, &data, &input, std::num::NonZeroUsize::MIN);
    let mut order: Vec<usize> = (0..oracle.n_max()).collect();
    order.sort_by_key(|position| input.order[*position]);
    let (held, lost) = order.split_at(oracle.k());
    let lost = &lost[..lost.len().min(1 + usize::from(input.wanted))];
    for backend in Backend::ALL.into_iter().filter(|backend| backend.is_available()) {
        let coder = Coder::with_backend(k, backend).expect("available");
        let made = shards(&coder, &data, &input, threads);
        assert!(made == expected, "{backend} encodes other bytes");
        let index = |position: &usize| ShardIndex(u8::try_from(*position).expect("at most 40"));
        let present: Vec<_> = held.iter().map(|i| (index(i), &*expected[*i])).collect();
        let mut rebuilt = vec![vec![0; shard_bytes]; lost.len()];
        let mut wanted: Vec<_> = lost.iter().zip(&mut rebuilt).map(|(i, to)| (index(i), &mut **to)).collect();
        coder.rebuild(&present, &mut wanted).expect("k shards of one length");
        for (i, rebuilt) in lost.iter().zip(&rebuilt) {
            assert!(*rebuilt == expected[*i], "{backend} rebuilds another shard {i} from {held:?}");
        }
        let all: Vec<_> = (0..coder.n_max()).map(|i| (index(&i), &*expected[i])).collect();
        assert_eq!(coder.verify(&all), Ok(true));
    }
});

/// All shards of `data`, coded in buffers that begin where the input says.
fn shards(coder: &Coder, data: &[Vec<u8>], input: &Input, threads: std::num::NonZeroUsize) -> Vec<Vec<u8>> {
    let shard_bytes = data[0].len();
    let offset = |shard: usize| usize::from(input.offsets[shard % input.offsets.len()]);
    let mut buffers: Vec<Vec<u8>> =
        (0..coder.n_max()).map(|shard| vec![0x5a; offset(shard) + shard_bytes]).collect();
    for (shard, bytes) in data.iter().enumerate() {
        buffers[shard][offset(shard)..].copy_from_slice(bytes);
    }
    let (sources, outputs) = buffers.split_at_mut(coder.k());
    let sources: Vec<&[u8]> = (0..).zip(&*sources).map(|(shard, buffer)| &buffer[offset(shard)..]).collect();
    let mut outputs: Vec<&mut [u8]> =
        (coder.k()..).zip(outputs).map(|(shard, buffer)| &mut buffer[offset(shard)..]).collect();
    coder.encode_on(threads, &sources, &mut outputs).expect("k slices of one length");
    (0..).zip(buffers).map(|(shard, mut buffer)| buffer.split_off(offset(shard))).collect()
}
