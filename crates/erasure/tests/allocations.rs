//! Coding asks for no memory of its own: callers hold the buffers, plans are made once.

use allocation_counter::measure;
use firn_base::ShardIndex;
use firn_erasure::{Backend, Coder, ColumnBuffers};

// Not a multiple of any kernel's block.
const BYTES: usize = 70_001;

#[test]
fn coding_allocates_nothing_once_a_plan_is_made() {
    for backend in Backend::ALL.into_iter().filter(|backend| backend.is_available()) {
        let coder = Coder::with_backend(16, backend).unwrap();
        let mut buffers = ColumnBuffers::new(40, BYTES);
        let mut shards: Vec<&mut [u8]> = buffers.slices_mut().collect();
        let (data, parity) = shards.split_at_mut(16);
        let data: Vec<&[u8]> = data.iter().map(|shard| &**shard).collect();
        let mut encode = || coder.encode(&data, parity).unwrap();
        encode();
        assert_eq!(measure(encode).count_total, 0, "encoding by {backend}");

        let shards: Vec<(ShardIndex, &[u8])> = (0..).map(ShardIndex).zip(buffers.slices()).collect();
        let mut made = ColumnBuffers::new(4, BYTES);
        let mut wanted: Vec<(ShardIndex, &mut [u8])> =
            [0, 5, 16, 39].map(ShardIndex).into_iter().zip(made.slices_mut()).collect();
        let mut rebuild = || coder.rebuild(&shards[6..38], &mut wanted).unwrap();
        rebuild();
        assert_eq!(measure(rebuild).count_total, 0, "rebuilding by {backend}");

        let verify = || assert_eq!(coder.verify(&shards), Ok(true));
        verify();
        assert_eq!(measure(verify).count_total, 0, "verifying by {backend}");
    }
}
