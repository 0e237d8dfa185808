//! What the archive relies on: any k shards are enough, and bytes are those of the crate underneath.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use firn_base::{Scheme, ShardIndex};
use firn_erasure::{Coder, TILE_BYTES};
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
    fn parity_is_what_the_crate_computes(k in ladder(), seed: u64, shard_bytes in 1..3 * TILE_BYTES) {
        let coder = Coder::new(k).unwrap();
        let ours = shards_of(&coder, seed, shard_bytes);
        let mut theirs = ours.clone();
        theirs[coder.k()..].iter_mut().for_each(|shard| shard.fill(0));
        ReedSolomon::new(coder.k(), coder.n_max() - coder.k()).unwrap().encode(&mut theirs).unwrap();
        prop_assert!(ours == theirs);
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
        let coder = Coder::new(k).unwrap();
        let shards = shards_of(&coder, seed, shard_bytes);
        let (present, lost) = order.split_at(coder.k());
        let present: Vec<_> = present.iter().map(|i| (index(*i), &*shards[*i])).collect();
        let mut made = vec![vec![0x55; shard_bytes]; lost.len()];
        let mut wanted: Vec<_> =
            lost.iter().zip(&mut made).map(|(i, buffer)| (index(*i), &mut **buffer)).collect();
        coder.rebuild(&present, &mut wanted).unwrap();
        for (i, made) in lost.iter().zip(&made) {
            prop_assert!(made == &shards[*i], "shard {i} of k {k} from {order:?}");
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
        let coder = Coder::new(k).unwrap();
        let mut shards = shards_of(&coder, seed, TILE_BYTES + 5);
        let count = coder.k() + extra;
        let listed = |shards: &[Vec<u8>]| {
            let given = (0..count).map(|i| (index(i), &*shards[i])).collect::<Vec<_>>();
            coder.agree(&given)
        };
        prop_assert_eq!(listed(&shards), Ok(true));
        let position = at.index(count * (TILE_BYTES + 5));
        shards[position / (TILE_BYTES + 5)][position % (TILE_BYTES + 5)] ^= 1 << bit;
        prop_assert_eq!(listed(&shards), Ok(false));
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
    for k in [1, 2, 4] {
        let coder = Coder::new(k).unwrap();
        let shards = shards_of(&coder, 5, 9);
        for subset in (0_u32..1 << coder.n_max()).filter(|set| set.count_ones() == u32::from(k)) {
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
    for k in LADDER {
        let coder = Coder::new(k).unwrap();
        let shards = shards_of(&coder, 23, 1_001);
        for lost in 0..coder.n_max() {
            let held = (0..coder.n_max()).filter(|i| *i != lost);
            let present: Vec<_> = held.map(|i| (index(i), &*shards[i])).collect();
            let mut made = vec![0; 1_001];
            coder.rebuild(&present, &mut [(index(lost), &mut made)]).unwrap();
            assert!(made == shards[lost], "shard {lost} of k {k}");
        }
    }
}

#[test]
fn a_code_of_one_makes_copies() {
    let shards = shards_of(&Coder::new(1).unwrap(), 3, 100);
    assert_eq!(shards.len(), 3);
    assert!(shards.iter().all(|shard| *shard == shards[0]));
}
