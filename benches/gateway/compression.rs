//! What compressing costs by itself.

use std::io::{Write, sink};

use firn_benches::process::{Failure, cpu_time};
use zstd::stream::write::Encoder;

// As a gateway does it.
const LEVEL: i32 = 3;
const WINDOW_LOG: u32 = 20;
const FRAME_BYTES: usize = 16 << 20;

/// Millions of bytes of `nar` that zstd takes in a processor second on one thread, with a gateway's parameters.
pub(crate) fn megabytes_per_cpu_second(nar: &[u8]) -> Result<f64, Failure> {
    let before = cpu_time(std::process::id())?;
    for part in nar.chunks(FRAME_BYTES) {
        let mut encoder = Encoder::new(sink(), LEVEL)?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.include_checksum(true)?;
        encoder.set_pledged_src_size(Some(part.len() as u64))?;
        encoder.write_all(part)?;
        encoder.finish()?;
    }
    let took = cpu_time(std::process::id())?.saturating_sub(before);
    Ok(nar.len() as f64 / 1e6 / took.as_secs_f64())
}
