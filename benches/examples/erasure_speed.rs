//! Measures encoding and rebuilding for one k and one shard size, for `erasure-peers/run.sh`, which puts it
//! beside other programs.
//!
//! `erasure_speed K SHARD_BYTES THREADS [BACKEND]`; a backend is named as it is displayed. With more than one
//! thread only encoding is measured.
//!
//! Agreed with the other programs, so that figures compare:
//! - Data shard i is `noise(i + 1, SHARD_BYTES)`. Lost shards are those of `Loss`, made from the first k
//!   others, in their own place. What can be prepared once is prepared once: here, the plan.
//! - Passes are run for 30 ms unmeasured and then, in at least 5 samples of 1 ms or one pass, for 150 ms.
//! - Lines of output: `rate OPERATION K N SHARD_BYTES THREADS VARIANT BEST MEDIAN`, in GB/s of data;
//!   `sum K N SHARD_BYTES SUM`, FNV-1a over the 64-bit little-endian words of all parity; `with` and what
//!   computed.

use std::error::Error;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use firn_base::ShardIndex;
use firn_benches::{Loss, all_shards};
use firn_erasure::{Backend, Coder, ColumnBuffers};

const SAMPLE: Duration = Duration::from_millis(1);
const WARM_UP_SAMPLES: u32 = 30;
const SAMPLES_MIN: usize = 5;
const MEASURED: Duration = Duration::from_millis(150);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (given, backend) = match &arguments[..] {
        [k, bytes, threads] => ([k, bytes, threads], Backend::detected()),
        [k, bytes, threads, name] => ([k, bytes, threads], backend(name)?),
        _ => return Err("usage: erasure_speed K SHARD_BYTES THREADS [BACKEND]".into()),
    };
    let [k, bytes, threads] = given;
    let threads: NonZeroUsize = threads.parse()?;
    let figures =
        Figures { coder: Coder::with_backend(k.parse()?, backend)?, shard_bytes: bytes.parse()?, threads };
    let mut shards = all_shards(&figures.coder, figures.shard_bytes);
    figures.encode(&mut shards);
    if threads.get() == 1 {
        for loss in Loss::ALL {
            figures.rebuild(loss, &mut shards)?;
        }
        figures.copy();
    }
    println!("with {backend}");
    Ok(())
}

fn backend(name: &str) -> Result<Backend, String> {
    let named = Backend::ALL.into_iter().find(|backend| backend.to_string() == name);
    named.ok_or_else(|| {
        format!(
            "there is no backend {name}: name one of {}",
            Backend::ALL.map(|known| known.to_string()).join(", ")
        )
    })
}

struct Figures {
    coder: Coder,
    shard_bytes: usize,
    threads: NonZeroUsize,
}

impl Figures {
    fn encode(&self, shards: &mut ColumnBuffers) {
        let mut slices: Vec<_> = shards.slices_mut().collect();
        let (data, parity) = slices.split_at_mut(self.coder.k());
        let data: Vec<_> = data.iter().map(|shard| &**shard).collect();
        parity.iter_mut().for_each(|shard| shard.fill(0));
        self.report("encode", || {
            self.coder.encode_on(self.threads, black_box(&data), parity).expect("right counts and lengths");
        });
        let sum = sum(parity.iter().map(|shard| &**shard));
        println!("sum {} {} {} {sum:016x}", self.coder.k(), self.coder.n_max(), self.shard_bytes);
    }

    fn rebuild(&self, loss: Loss, shards: &mut ColumnBuffers) -> Result<(), Box<dyn Error>> {
        let whole = sum(shards.slices());
        let lost = loss.indexes(&self.coder);
        let (mut held, mut sources, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        for (index, shard) in (0..).map(ShardIndex).zip(shards.slices_mut()) {
            if lost.contains(&index) {
                shard.fill(0);
                outputs.push(shard);
            } else if held.len() < self.coder.k() {
                held.push(index);
                sources.push(&*shard);
            }
        }
        let plan = self.coder.plan_rebuild(&held, &lost)?;
        self.report(loss.name(), || {
            plan.run_on(self.threads, black_box(&sources), &mut outputs).expect("right counts and lengths");
        });
        if sum(shards.slices()) == whole { Ok(()) } else { Err("a rebuilt shard is wrong".into()) }
    }

    /// A plain copy of as many bytes as there are of data.
    fn copy(&self) {
        let mut buffers = ColumnBuffers::new(2, self.coder.k() * self.shard_bytes);
        let mut slices: Vec<_> = buffers.slices_mut().collect();
        let (from, to) = slices.split_at_mut(1);
        from[0].fill(1);
        self.report("copy", || black_box(&mut *to[0]).copy_from_slice(black_box(&*from[0])));
    }

    fn report(&self, operation: &str, pass: impl FnMut()) {
        let (k, n) = (self.coder.k(), self.coder.n_max());
        let (best, median) = rates(k * self.shard_bytes, pass);
        println!(
            "rate {operation} {k} {n} {} {} staggered {best:.3} {median:.3}",
            self.shard_bytes, self.threads
        );
    }
}

/// The best and the median rate of passes over so many bytes, in GB/s.
#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn rates(bytes: usize, mut pass: impl FnMut()) -> (f64, f64) {
    let (start, mut passes) = (Instant::now(), 0_u32);
    while passes == 0 || start.elapsed() < WARM_UP_SAMPLES * SAMPLE {
        pass();
        passes += 1;
    }
    let batch = passes.div_ceil(WARM_UP_SAMPLES);
    let mut rates = Vec::new();
    let (start, mut begun) = (Instant::now(), Instant::now());
    while rates.len() < SAMPLES_MIN || begun - start < MEASURED {
        (0..batch).for_each(|_| pass());
        let ended = Instant::now();
        rates.push(bytes as f64 * f64::from(batch) / (ended - begun).as_secs_f64() / 1e9);
        begun = ended;
    }
    rates.sort_by(|a, b| b.total_cmp(a));
    (rates[0], rates[rates.len() / 2])
}

fn sum<'a>(shards: impl Iterator<Item = &'a [u8]>) -> u64 {
    let words = shards.flat_map(|shard| shard.as_chunks().0).map(|word| u64::from_le_bytes(*word));
    words.fold(0xcbf2_9ce4_8422_2325, |sum, word| (sum ^ word).wrapping_mul(0x100_0000_01b3))
}
