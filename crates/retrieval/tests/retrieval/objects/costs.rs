//! What reading objects costs: requests, memory, and what is fetched or remembered without being asked for.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use firn_base::BundleId;
use firn_bundle::{BuilderOptions, BundleBuilder, ContentHeader, Encoding, FrameCompression, NewRecord};
use firn_retrieval::{
    ManifestOptions, ManifestReader, ObjectOptions, ObjectReader, PayloadReader, ReadError,
};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Turncoat, block_on, open, read};
use crate::common::{MemoryReader, Packed, info, inline, nar_record, noise, objects, pack};

#[test]
fn neighbouring_small_objects_cost_one_frame_read() {
    let small: Vec<(NewRecord, Vec<u8>)> = (1..9)
        .map(|seed| {
            let nar = noise(2000, seed);
            (nar_record(seed, &nar), nar)
        })
        .collect();
    let packed = pack(&small);
    block_on(async {
        let memory = MemoryReader::of(std::slice::from_ref(&packed));
        let reader = objects(Arc::clone(&memory) as _, inline());
        let reads = (0..small.len()).map(|number| {
            let (reader, packed) = (&reader, &packed);
            async move { read(&open(reader, packed, number).await, None).await }
        });
        for (bytes, (_, nar)) in futures::future::join_all(reads).await.into_iter().zip(&small) {
            assert!(bytes == *nar);
        }
        assert_eq!(memory.reads.lock().unwrap().len(), 2, "the manifest and one frame");
    });
}

#[test]
fn whoever_takes_a_short_object_keeps_nothing_else_of_its_frame_in_memory() {
    let (short, long) = (noise(60_000, 1), noise(100_000, 2));
    let packed = pack(&[(nar_record(1, &short), short.clone()), (nar_record(2, &long), long.clone())]);
    block_on(async {
        let reader = objects(MemoryReader::of(std::slice::from_ref(&packed)), inline());
        // From the node, and from memory.
        for _ in 0..2 {
            for (number, object, is_copied) in [(0, &short, true), (1, &long, false)] {
                let pieces = open(&reader, &packed, number).await.stream(None).unwrap();
                let pieces: Vec<Bytes> = pieces.map(Result::unwrap).collect().await;
                assert!(pieces.concat() == **object);
                assert!(pieces.iter().all(|piece| piece.is_unique() == is_copied), "{number}");
            }
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_takes_from_fetches_only_a_few_frames() {
    let nar = noise(6_000_000, 1);
    let packed = pack(&[(nar_record(1, &nar), nar.clone())]);
    let memory = MemoryReader::of(std::slice::from_ref(&packed));
    let manifests = ManifestReader::new(Arc::clone(&memory) as _, ManifestOptions::default());
    // A frame takes 400 kB, stored and decompressed.
    let options = ObjectOptions { bytes_ahead: 2_000_000, ..ObjectOptions::default() };
    let reader = ObjectReader::new(manifests, inline(), options);
    let mut stream = open(&reader, &packed, 0).await.stream(None).unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let reads = memory.reads.lock().unwrap().len();
    assert!(reads < 10, "{reads} reads, where all frames are 30");
    drop(stream);
}

/// Payloads of which no frame comes before a second one was asked for.
#[derive(Debug)]
struct TwoAtOnce {
    payloads: Arc<MemoryReader>,
    /// Where frames end.
    manifest_start: u64,
    frames_asked: watch::Sender<usize>,
}

impl PayloadReader for TwoAtOnce {
    fn content(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>> {
        self.payloads.content(bundle)
    }

    fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        async move {
            if range.start < self.manifest_start {
                self.frames_asked.send_modify(|asked| *asked += 1);
                let mut asked = self.frames_asked.subscribe();
                drop(asked.wait_for(|asked| *asked >= 2).await);
            }
            self.payloads.read(bundle, range).await
        }
        .boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_frame_of_a_large_nar_is_on_its_way_before_the_first_has_come() {
    let nar = noise(1_500_000, 1);
    let packed = pack(&[(nar_record(1, &nar), nar.clone())]);
    let payloads = TwoAtOnce {
        payloads: MemoryReader::of(std::slice::from_ref(&packed)),
        manifest_start: packed.content.manifest_extent().start,
        frames_asked: watch::Sender::new(0),
    };
    let reader = objects(Arc::new(payloads), inline());
    let plan = open(&reader, &packed, 0).await;
    // The clock goes on only where nothing else does: when the first frame is waited for alone.
    let bytes = timeout(Duration::from_secs(60), read(&plan, None)).await;
    assert!(bytes.expect("a second frame is asked for") == nar);
}

#[test]
fn a_budget_below_one_frame_still_gives_the_object() {
    let nar = noise(1_500_000, 1);
    let packed = pack(&[(nar_record(1, &nar), nar.clone())]);
    block_on(async {
        let memory = MemoryReader::of(std::slice::from_ref(&packed));
        let manifests = ManifestReader::new(memory, ManifestOptions::default());
        let options = ObjectOptions { bytes_ahead: 0, all_bytes_ahead: 0, frame_cache_bytes: 0 };
        let reader = ObjectReader::new(manifests, inline(), options);
        assert!(read(&open(&reader, &packed, 0).await, None).await == nar);
    });
}

/// A bundle of 20,000 objects, of which each is its number.
fn pack_twenty_thousand() -> Packed {
    let mut builder = BundleBuilder::new(BuilderOptions {
        frame_compression: FrameCompression::Zstd(1),
        ..BuilderOptions::default()
    });
    let mut payload = Vec::new();
    for number in 0..20_000u32 {
        let nar = number.to_le_bytes();
        let mut hash = [0; 20];
        hash[..4].copy_from_slice(&nar);
        hash[4..].copy_from_slice(&noise(16, nar[0] ^ nar[1]));
        let store_path = firn_nix_format::StorePath::from_parts(hash, "package-1.2.3").unwrap();
        let info = firn_nix_format::PathInfo { store_path, ..info(1, &nar, Vec::new()) };
        builder.begin_object();
        builder.push_chunk(&nar).unwrap();
        builder.finish_object(NewRecord::store_path(info, Encoding::Chunked)).unwrap();
        builder.append_pending(&mut payload).unwrap();
    }
    let sealed = builder.seal(&mut payload).unwrap();
    Packed { content: sealed.content, payload, positions: sealed.positions }
}

#[test]
fn small_objects_that_lie_together_are_opened_together() {
    let packed = pack_twenty_thousand();
    block_on(async {
        let memory = MemoryReader::of(std::slice::from_ref(&packed));
        let reader = objects(Arc::clone(&memory) as _, inline());
        for number in 0..20_000_u32 {
            let plan = open(&reader, &packed, usize::try_from(number).unwrap()).await;
            assert_eq!(read(&plan, None).await, number.to_le_bytes());
        }
        let reads = memory.reads.lock().unwrap().len();
        assert!(reads < 500, "{reads} reads, where there are 313 blocks");
        for number in (0..20_000).step_by(1000) {
            open(&reader, &packed, number).await;
        }
        assert_eq!(memory.reads.lock().unwrap().len(), reads, "what was opened is remembered");
    });
}

#[test]
fn a_chunk_list_that_cannot_be_read_is_not_remembered() {
    let packed = pack_twenty_thousand();
    let damaged = Packed { payload: vec![0xff; packed.payload.len()], ..packed.clone() };
    block_on(async {
        let before = MemoryReader::of(std::slice::from_ref(&packed));
        let payloads = Arc::new(Turncoat { before, after: damaged, turned: AtomicBool::new(false) });
        let reader = objects(Arc::clone(&payloads) as _, inline());
        let position = packed.positions[12_345];
        let record = reader.manifests().record(packed.id(), position.block, position.entry, &position.key);
        let record = record.await.unwrap();
        payloads.turned.store(true, Ordering::Relaxed);
        assert!(matches!(reader.open(packed.id(), record).await, Err(ReadError::Damaged { .. })));
        payloads.turned.store(false, Ordering::Relaxed);
        assert_eq!(read(&open(&reader, &packed, 12_345).await, None).await, 12_345_u32.to_le_bytes());
    });
}

#[test]
fn a_cold_record_among_twenty_thousand_costs_two_small_reads() {
    let packed = pack_twenty_thousand();
    block_on(async {
        let memory = MemoryReader::of(std::slice::from_ref(&packed));
        let reader = objects(Arc::clone(&memory) as _, inline());
        let position = packed.positions[12_345];
        let record = reader.manifests().record(packed.id(), position.block, position.entry, &position.key);
        assert_eq!(record.await.unwrap().key, position.key);
        assert_eq!(memory.reads.lock().unwrap().len(), 2);
        assert!(memory.bytes_read() <= 256 << 10, "{} bytes", memory.bytes_read());
    });
}
