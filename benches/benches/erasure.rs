//! Encoding and rebuilding, on one core, beside the crate underneath fed with whole shards.
//!
//! `cargo bench -p firn-benches --bench erasure`, with and without `--features simd`.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use firn_base::ShardIndex;
use firn_benches::{Loss, all_shards};
use firn_erasure::Coder;
use reed_solomon_erasure::galois_8::ReedSolomon;

const DATA_COUNTS: [u8; 3] = [4, 8, 16];
// The smallest shard, whose whole code stays in the cache, and one that comes from memory.
const SHARD_BYTES: [(&str, usize); 2] = [("64KiB", 64 << 10), ("1MiB", 1 << 20)];

fn encode(criterion: &mut Criterion) {
    each_code(criterion, "encode", |group, id, coder, shards| {
        let (data, parity) = shards.split_at_mut(coder.k());
        let data: Vec<_> = data.iter().map(Vec::as_slice).collect();
        let mut parity: Vec<_> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        group.bench_function(id, |bencher| {
            bencher.iter(|| coder.encode(black_box(&data), &mut parity).expect("right lengths"));
        });
    });
}

fn encode_by_the_crate(criterion: &mut Criterion) {
    each_code(criterion, "encode-whole-shards", |group, id, coder, shards| {
        let code = ReedSolomon::new(coder.k(), coder.n_max() - coder.k()).expect("a code of the ladder");
        let (data, parity) = shards.split_at_mut(coder.k());
        group.bench_function(id, |bencher| {
            bencher.iter(|| code.encode_sep(black_box(&*data), parity).expect("right lengths"));
        });
    });
}

fn rebuild(criterion: &mut Criterion) {
    for loss in [Loss::OneData, Loss::OneParity, Loss::HalfOfParity] {
        each_code(criterion, &format!("rebuild-{}", loss.name()), |group, id, coder, shards| {
            let lost = loss.indexes(coder);
            let held = (0..).map(ShardIndex).take(coder.n_max()).filter(|index| !lost.contains(index));
            let held: Vec<_> = held.take(coder.k()).collect();
            let sources: Vec<_> = held.iter().map(|index| &*shards[index.position()]).collect();
            let mut made = vec![vec![0; sources[0].len()]; lost.len()];
            let mut made: Vec<_> = made.iter_mut().map(Vec::as_mut_slice).collect();
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    let plan = coder.plan_rebuild(black_box(&held), &lost).expect("k shards are held");
                    plan.run(&sources, &mut made).expect("right lengths");
                });
            });
        });
    }
}

fn each_code(
    criterion: &mut Criterion,
    name: &str,
    mut measure: impl FnMut(&mut BenchmarkGroup<'_, WallTime>, BenchmarkId, &Coder, &mut Vec<Vec<u8>>),
) {
    let mut group = criterion.benchmark_group(name);
    for k in DATA_COUNTS {
        let coder = Coder::new(k).expect("k is of the ladder and the processor fits this build");
        for (size, shard_bytes) in SHARD_BYTES {
            let mut shards = all_shards(&coder, shard_bytes);
            let data_bytes = u64::try_from(coder.k() * shard_bytes).expect("a few MiB");
            group.throughput(Throughput::BytesDecimal(data_bytes));
            let id = BenchmarkId::new(format!("{k}of{}", coder.n_max()), size);
            measure(&mut group, id, &coder, &mut shards);
        }
    }
    group.finish();
}

criterion_group!(benches, encode, encode_by_the_crate, rebuild);
criterion_main!(benches);
