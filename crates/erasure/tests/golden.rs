//! The matrix and a small data pattern are pinned: stored shards must decode with every later version.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use data_encoding::HEXLOWER;
use firn_base::ShardIndex;
use firn_erasure::{Backend, Coder};

const PATTERN_BYTES: usize = 37;

const GOLDEN: [(u8, &str); 5] = [
    (1, include_str!("golden/k1.txt")),
    (2, include_str!("golden/k2.txt")),
    (4, include_str!("golden/k4.txt")),
    (8, include_str!("golden/k8.txt")),
    (16, include_str!("golden/k16.txt")),
];

struct Row {
    index: ShardIndex,
    coefficients: Vec<u8>,
    bytes: Vec<u8>,
}

fn rows(text: &str) -> Vec<Row> {
    let hex = |field: Option<&str>| HEXLOWER.decode(field.unwrap().as_bytes()).unwrap();
    let row = |line: &str| {
        let mut fields = line.split(' ');
        let index = ShardIndex(fields.next().unwrap().parse().unwrap());
        Row { index, coefficients: hex(fields.next()), bytes: hex(fields.next()) }
    };
    text.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

/// One coder for `k` on each backend that runs here.
fn coders(k: u8) -> impl Iterator<Item = Coder> {
    let available = Backend::ALL.into_iter().filter(|backend| backend.is_available());
    available.map(move |backend| Coder::with_backend(k, backend).unwrap())
}

fn pattern(shard: usize) -> Vec<u8> {
    let byte = |j: usize| u8::try_from((7 * shard * shard + 31 * shard + 3 * j * j + 13 * j + 1) % 256);
    (0..PATTERN_BYTES).map(|j| byte(j).unwrap()).collect()
}

#[test]
fn the_coefficients_of_every_shard_are_the_golden_ones() {
    for (k, text) in GOLDEN {
        let (coder, rows) = (Coder::new(k).unwrap(), rows(text));
        assert_eq!(rows.len(), coder.n_max());
        for row in rows {
            assert_eq!(coder.coefficients(row.index), Some(&*row.coefficients), "k {k}, shard {}", row.index);
        }
    }
}

#[test]
fn the_parity_of_a_fixed_pattern_is_the_golden_one() {
    for (coder, text) in GOLDEN.into_iter().flat_map(|(k, text)| coders(k).map(move |coder| (coder, text))) {
        let rows = rows(text);
        let data: Vec<_> = (0..coder.k()).map(pattern).collect();
        let mut parity = vec![vec![0; PATTERN_BYTES]; coder.n_max() - coder.k()];
        let sources: Vec<_> = data.iter().map(Vec::as_slice).collect();
        let mut outputs: Vec<_> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        coder.encode(&sources, &mut outputs).unwrap();
        for (row, made) in rows.iter().zip(data.iter().chain(&parity)) {
            assert_eq!(&row.bytes, made, "shard {} by {coder:?}", row.index);
        }
    }
}

#[test]
fn the_golden_data_decodes_from_its_last_shards() {
    for (coder, text) in GOLDEN.into_iter().flat_map(|(k, text)| coders(k).map(move |coder| (coder, text))) {
        let rows = rows(text);
        let present: Vec<_> =
            rows[rows.len() - coder.k()..].iter().map(|row| (row.index, &*row.bytes)).collect();
        for row in &rows {
            let mut made = vec![0; PATTERN_BYTES];
            coder.rebuild(&present, &mut [(row.index, &mut made)]).unwrap();
            assert_eq!(made, row.bytes, "shard {} by {coder:?}", row.index);
        }
    }
}
