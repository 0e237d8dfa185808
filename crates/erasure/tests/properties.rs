//! What the archive relies on: any k shards are enough, and bytes are those of the crate underneath, whatever
//! computes them. Every property is checked on every backend that this processor has.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::num::NonZeroUsize;

use firn_base::{Scheme, ShardIndex};
use firn_erasure::{Backend, Coder, ColumnBuffers, TILE_BYTES};
use proptest::prelude::*;
use reed_solomon_erasure::galois_8::ReedSolomon;

const LADDER: [u8; 5] = [1, 2, 4, 8, 16];

/// Bytes that look random, alike for one seed.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..count).map(|_| byte()).collect()
}

/// All n_max shards of data that depends on `seed`.
fn shards_of(coder: &Coder, seed: u64, shard_bytes: usize) -> Vec<Vec<u8>> {
    let mut shards: Vec<_> =
        (0..coder.k()).map(|i| noise(seed.wrapping_mul(2 * i as u64 + 3), shard_bytes)).collect();
    shards.resize(coder.n_max(), vec![0xee; shard_bytes]);
    let (data, parity) = shards.split_at_mut(coder.k());
    let data: Vec<_> = data.iter().map(Vec::as_slice).collect();
    let mut parity: Vec<_> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    coder.encode(&data, &mut parity).unwrap();
    shards
}

/// One coder for `k` on each backend that runs here.
fn coders(k: u8) -> impl Iterator<Item = Coder> {
    let available = Backend::ALL.into_iter().filter(|backend| backend.is_available());
    available.map(move |backend| Coder::with_backend(k, backend).unwrap())
}

fn all_coders() -> impl Iterator<Item = Coder> {
    LADDER.into_iter().flat_map(coders)
}

/// What the crate itself makes of the first k shards, the rest being overwritten.
fn oracle(k: usize, shards: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut theirs = shards.to_vec();
    theirs[k..].iter_mut().for_each(|shard| shard.fill(0));
    ReedSolomon::new(k, shards.len() - k).unwrap().encode(&mut theirs).unwrap();
    theirs
}

fn index(position: usize) -> ShardIndex {
    ShardIndex(u8::try_from(position).unwrap())
}

fn ladder() -> impl Strategy<Value = u8> {
    proptest::sample::select(LADDER.to_vec())
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![0..80_usize, TILE_BYTES - 2..TILE_BYTES + 3, 2 * TILE_BYTES + 1..2 * TILE_BYTES + 99]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn parity_is_what_the_crate_computes_on_every_backend(
        k in ladder(), seed: u64, shard_bytes in 1..3 * TILE_BYTES,
    ) {
        for coder in coders(k) {
            let ours = shards_of(&coder, seed, shard_bytes);
            prop_assert!(ours == oracle(coder.k(), &ours), "{coder:?}");
        }
    }

    #[test]
    fn slices_may_begin_and_end_anywhere(
        k in ladder(), seed: u64, bytes in 1..700_usize, offsets in proptest::collection::vec(0..67_usize, 40),
    ) {
        for coder in coders(k) {
            let expected = shards_of(&coder, seed, bytes);
            // Each slice in a buffer of its own, with a margin that must stay as it is.
            let mut buffers = vec![vec![0xa5; bytes + 2 * 67]; coder.n_max()];
            for (position, buffer) in buffers.iter_mut().enumerate().take(coder.k()) {
                buffer[offsets[position]..][..bytes].copy_from_slice(&expected[position]);
            }
            let (data, parity) = buffers.split_at_mut(coder.k());
            let data: Vec<_> = data.iter().zip(&offsets).map(|(buffer, at)| &buffer[*at..][..bytes]).collect();
            let at = &offsets[coder.k()..];
            let mut parity: Vec<_> =
                parity.iter_mut().zip(at).map(|(buffer, at)| &mut buffer[*at..][..bytes]).collect();
            coder.encode(&data, &mut parity).unwrap();
            for (position, buffer) in buffers.iter().enumerate() {
                let (before, rest) = buffer.split_at(offsets[position]);
                let (made, after) = rest.split_at(bytes);
                prop_assert!(made == expected[position], "shard {position} of {coder:?}");
                prop_assert!(before.iter().chain(after).all(|byte| *byte == 0xa5));
            }
        }
    }

    #[test]
    fn columns_shared_out_over_threads_give_the_same_bytes(
        k in ladder(), seed: u64, shard_bytes in 0..5 * TILE_BYTES, threads in 1..6_usize,
    ) {
        for coder in coders(k) {
            let expected = shards_of(&coder, seed, shard_bytes);
            let threads = NonZeroUsize::new(threads).unwrap();
            let data: Vec<_> = expected[..coder.k()].iter().map(Vec::as_slice).collect();
            let mut parity = vec![vec![0x77; shard_bytes]; coder.n_max() - coder.k()];
            let mut outputs: Vec<_> = parity.iter_mut().map(Vec::as_mut_slice).collect();
            coder.encode_on(threads, &data, &mut outputs).unwrap();
            prop_assert!(parity == expected[coder.k()..], "{coder:?}");
            // And back, from the last k shards.
            let held: Vec<_> = (coder.n_max() - coder.k()..coder.n_max()).map(index).collect();
            let wanted: Vec<_> = (0..coder.k()).map(index).collect();
            let sources: Vec<_> = held.iter().map(|index| &*expected[index.position()]).collect();
            let mut made = vec![vec![0x77; shard_bytes]; coder.k()];
            let mut outputs: Vec<_> = made.iter_mut().map(Vec::as_mut_slice).collect();
            coder.plan_rebuild(&held, &wanted).unwrap().run_on(threads, &sources, &mut outputs).unwrap();
            prop_assert!(made == expected[..coder.k()], "{coder:?}");
        }
    }

    #[test]
    fn any_k_shards_in_any_order_give_all_the_others(
        (k, order) in ladder().prop_flat_map(|k| {
            let n_max = usize::from(Scheme::n_max(k).unwrap());
            (Just(k), Just((0..n_max).collect::<Vec<_>>()).prop_shuffle())
        }),
        seed: u64,
        shard_bytes in lengths(),
    ) {
        for coder in coders(k) {
            let shards = shards_of(&coder, seed, shard_bytes);
            let (present, lost) = order.split_at(coder.k());
            let present: Vec<_> = present.iter().map(|i| (index(*i), &*shards[*i])).collect();
            let mut made = vec![vec![0x55; shard_bytes]; lost.len()];
            let mut wanted: Vec<_> =
                lost.iter().zip(&mut made).map(|(i, buffer)| (index(*i), &mut **buffer)).collect();
            coder.rebuild(&present, &mut wanted).unwrap();
            for (i, made) in lost.iter().zip(&made) {
                prop_assert!(made == &shards[*i], "shard {i} from {order:?} by {coder:?}");
            }
        }
    }

    #[test]
    fn a_prefix_of_the_parity_is_the_start_of_all_of_it(k in ladder(), seed: u64, part in 0..25_usize) {
        let coder = Coder::new(k).unwrap();
        let all = shards_of(&coder, seed, 61);
        let asked = part.min(coder.n_max() - coder.k());
        let data: Vec<_> = all[..coder.k()].iter().map(Vec::as_slice).collect();
        let mut parity = vec![vec![0; 61]; asked];
        let mut outputs: Vec<_> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        coder.encode(&data, &mut outputs).unwrap();
        prop_assert!(parity == all[coder.k()..coder.k() + asked]);
    }

    #[test]
    fn encoding_by_columns_gives_the_bytes_of_encoding_at_once(
        k in ladder(), seed: u64, shard_bytes in 1..3 * TILE_BYTES, cut in 0..3 * TILE_BYTES,
    ) {
        let coder = Coder::new(k).unwrap();
        let whole = shards_of(&coder, seed, shard_bytes);
        let cut = cut.min(shard_bytes);
        let mut parity = vec![vec![0; shard_bytes]; coder.n_max() - coder.k()];
        for range in [0..cut, cut..shard_bytes] {
            let data: Vec<_> = whole[..coder.k()].iter().map(|shard| &shard[range.clone()]).collect();
            let mut outputs: Vec<_> = parity.iter_mut().map(|shard| &mut shard[range.clone()]).collect();
            coder.encode(&data, &mut outputs).unwrap();
        }
        prop_assert!(parity == whole[coder.k()..]);
    }

    #[test]
    fn one_flipped_bit_in_more_than_k_shards_is_noticed(
        k in ladder(), seed: u64, extra in 1..3_usize, at: prop::sample::Index, bit in 0..8_u32,
    ) {
        const BYTES: usize = 3 * 1024 + 5;
        for coder in coders(k) {
            let mut shards = shards_of(&coder, seed, BYTES);
            let count = coder.k() + extra;
            let listed = |shards: &[Vec<u8>]| {
                let given = (0..count).map(|i| (index(i), &*shards[i])).collect::<Vec<_>>();
                coder.verify(&given)
            };
            prop_assert_eq!(listed(&shards), Ok(true));
            let position = at.index(count * BYTES);
            shards[position / BYTES][position % BYTES] ^= 1 << bit;
            prop_assert_eq!(listed(&shards), Ok(false));
        }
    }
}

#[test]
fn parity_rows_do_not_depend_on_n() {
    for k in LADDER {
        let coder = Coder::new(k).unwrap();
        let all = shards_of(&coder, 11, 29);
        for n in coder.k() + 1..coder.n_max() {
            let mut fewer = all[..n].to_vec();
            fewer[coder.k()..].iter_mut().for_each(|shard| shard.fill(0));
            ReedSolomon::new(coder.k(), n - coder.k()).unwrap().encode(&mut fewer).unwrap();
            assert!(fewer == all[..n], "{k} of {n}");
        }
    }
}

#[test]
fn every_subset_of_k_shards_decodes_for_small_k() {
    for coder in [1, 2, 4].into_iter().flat_map(coders) {
        let shards = shards_of(&coder, 5, 9);
        let whole = |set: &u32| set.count_ones() as usize == coder.k();
        for subset in (0_u32..1 << coder.n_max()).filter(whole) {
            let (held, lost): (Vec<_>, Vec<_>) =
                (0..coder.n_max()).partition(|position| subset >> position & 1 == 1);
            let present: Vec<_> = held.iter().map(|i| (index(*i), &*shards[*i])).collect();
            for i in lost {
                let mut made = vec![0; 9];
                coder.rebuild(&present, &mut [(index(i), &mut made)]).unwrap();
                assert_eq!(made, shards[i]);
            }
        }
    }
}

#[test]
fn each_single_lost_shard_is_rebuilt_as_it_was_encoded() {
    for coder in all_coders() {
        let shards = shards_of(&coder, 23, 1_001);
        for lost in 0..coder.n_max() {
            let held = (0..coder.n_max()).filter(|i| *i != lost);
            let present: Vec<_> = held.map(|i| (index(i), &*shards[i])).collect();
            let mut made = vec![0; 1_001];
            coder.rebuild(&present, &mut [(index(lost), &mut made)]).unwrap();
            assert!(made == shards[lost], "shard {lost} by {coder:?}");
        }
    }
}

#[test]
fn long_shards_are_written_past_the_caches_with_the_same_bytes() {
    // 40 shards of 2 MiB and a little are more than STREAMING_BYTES_MIN.
    const BYTES: usize = (2 << 20) + 77;
    for coder in coders(16) {
        let mut buffers = ColumnBuffers::new(coder.n_max(), BYTES);
        for (seed, shard) in (0..).zip(buffers.slices_mut()) {
            shard.copy_from_slice(&noise(seed, BYTES));
        }
        let mut slices: Vec<_> = buffers.slices_mut().collect();
        let (data, parity) = slices.split_at_mut(coder.k());
        let data: Vec<_> = data.iter().map(|shard| &**shard).collect();
        coder.encode(&data, parity).unwrap();
        let made: Vec<_> = buffers.slices().map(<[u8]>::to_vec).collect();
        assert!(made == oracle(coder.k(), &made), "{coder:?}");
    }
}

#[test]
fn a_code_of_one_makes_copies() {
    let shards = shards_of(&Coder::new(1).unwrap(), 3, 100);
    assert_eq!(shards.len(), 3);
    assert!(shards.iter().all(|shard| *shard == shards[0]));
}
