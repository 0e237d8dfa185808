//! Encoding and rebuilding on every backend of this processor, beside a plain copy of the same bytes.
//!
//! `cargo bench -p firn-benches --bench erasure`; a filter such as `-- encode/16of40` takes a part.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use firn_base::ShardIndex;
use firn_benches::{Loss, all_shards};
use firn_erasure::{Backend, Coder, ColumnBuffers};

const DATA_COUNTS: [u8; 4] = [2, 4, 8, 16];
// The smallest shard, whose code stays in the second-level cache up to k = 8; one that stays in the last; and
// the longest, which comes from memory.
const SHARD_BYTES: [(&str, usize); 3] = [("64KiB", 64 << 10), ("1MiB", 1 << 20), ("16MiB", 16 << 20)];
const THREADS: [NonZeroUsize; 2] = [NonZeroUsize::MIN, NonZeroUsize::new(2).expect("not zero")];

fn encode(criterion: &mut Criterion) {
    each_code(criterion, "encode", |group, name, coder, threads, shards| {
        let mut slices: Vec<_> = shards.slices_mut().collect();
        let (data, parity) = slices.split_at_mut(coder.k());
        let data: Vec<_> = data.iter().map(|shard| &**shard).collect();
        group.bench_function(name, |bencher| {
            bencher.iter(|| coder.encode_on(threads, black_box(&data), parity).expect("right lengths"));
        });
    });
}

fn rebuild(criterion: &mut Criterion) {
    for loss in Loss::ALL {
        each_code(criterion, &format!("rebuild-{}", loss.name()), |group, name, coder, threads, shards| {
            let lost = loss.indexes(coder);
            let held = (0..).map(ShardIndex).take(coder.n_max()).filter(|index| !lost.contains(index));
            let held: Vec<_> = held.take(coder.k()).collect();
            let slices: Vec<_> = shards.slices().collect();
            let sources: Vec<_> = held.iter().map(|index| slices[index.position()]).collect();
            let mut made = ColumnBuffers::new(lost.len(), sources[0].len());
            let mut made: Vec<_> = made.slices_mut().collect();
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    let plan = coder.plan_rebuild(black_box(&held), &lost).expect("k shards are held");
                    plan.run_on(threads, &sources, &mut made).expect("right lengths");
                });
            });
        });
    }
}

/// Coding and hashing every shard, as a publisher does: in one pass over columns of several lengths, and one after
/// the other (the column is the whole shard).
fn encode_and_hash(criterion: &mut Criterion) {
    let mut group = quick(criterion, "encode-and-hash");
    let coder = Coder::new(16).expect("k is of the ladder");
    for (size, shard_bytes) in SHARD_BYTES {
        let mut shards = all_shards(&coder, shard_bytes);
        let mut slices: Vec<_> = shards.slices_mut().collect();
        group.throughput(Throughput::BytesDecimal((coder.k() * shard_bytes) as u64));
        let columns =
            [("16 KiB", 16 << 10), ("32 KiB", 32 << 10), ("256 KiB", 256 << 10), ("whole", shard_bytes)];
        for (column, column_bytes) in columns {
            group.bench_function(BenchmarkId::new(size, column), |bencher| {
                bencher.iter(|| {
                    let mut hashers = vec![blake3::Hasher::new(); coder.n_max()];
                    for start in (0..shard_bytes).step_by(column_bytes) {
                        let column = start..shard_bytes.min(start + column_bytes);
                        let mut columns: Vec<_> =
                            slices.iter_mut().map(|shard| &mut shard[column.clone()]).collect();
                        let (data, parity) = columns.split_at_mut(coder.k());
                        let data: Vec<_> = data.iter().map(|column| &**column).collect();
                        coder.encode(&data, parity).expect("right lengths");
                        for (hasher, column) in hashers.iter_mut().zip(&columns) {
                            hasher.update(column);
                        }
                    }
                    hashers
                });
            });
        }
    }
    group.finish();
}

/// What no code can beat: the data once read and once written.
fn copy(criterion: &mut Criterion) {
    let mut group = quick(criterion, "copy");
    for k in DATA_COUNTS {
        for (size, shard_bytes) in SHARD_BYTES {
            let bytes = usize::from(k) * shard_bytes;
            let (from, mut to) = (vec![1_u8; bytes], vec![0_u8; bytes]);
            group.throughput(Throughput::BytesDecimal(bytes as u64));
            group.bench_function(BenchmarkId::new(format!("k{k}"), size), |bencher| {
                bencher.iter(|| black_box(&mut to).copy_from_slice(black_box(&from)));
            });
        }
    }
    group.finish();
}

fn each_code(
    criterion: &mut Criterion,
    name: &str,
    mut measure: impl FnMut(
        &mut BenchmarkGroup<'_, WallTime>,
        BenchmarkId,
        &Coder,
        NonZeroUsize,
        &mut ColumnBuffers,
    ),
) {
    let mut group = quick(criterion, name);
    for k in DATA_COUNTS {
        for (size, shard_bytes) in SHARD_BYTES {
            let any = Coder::new(k).expect("k is of the ladder");
            let mut shards = all_shards(&any, shard_bytes);
            for backend in Backend::ALL.into_iter().filter(|backend| backend.is_available()) {
                let coder = Coder::with_backend(k, backend).expect("available");
                for threads in THREADS {
                    group.throughput(Throughput::BytesDecimal((coder.k() * shard_bytes) as u64));
                    let function = format!("{k}of{}/{size}/{backend}", coder.n_max());
                    let id = BenchmarkId::new(function, format!("{threads} threads"));
                    measure(&mut group, id, &coder, threads, &mut shards);
                }
            }
        }
    }
    group.finish();
}

// Some 600 figures: half a second for each is ten minutes in all.
fn quick<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400));
    group
}

criterion_group!(benches, copy, encode, rebuild, encode_and_hash);
criterion_main!(benches);
