//! The object that is being packed, and taking it back.
//!
//! Owns: how far the bundle had come before the object. Always holds: behind an object that is taken back the bundle is
//! as if it had not been begun, but for what was offered: no chunk, no frame and no dependency of it is left. Leaves to
//! others: cutting off what the spool got of it.

use crate::builder::BundleBuilder;
use crate::chunk_list::ChunkList;

#[derive(Debug)]
pub(crate) struct OpenObject {
    pub(crate) list: ChunkList,
    pub(crate) bytes: u64,
    before: Before,
}

/// The lengths of everything that objects make longer.
#[derive(Debug)]
struct Before {
    chunks: usize,
    foreign: usize,
    dependencies: usize,
    closed_frames: usize,
    open_frame_bytes: usize,
    // What the open frame held then, once it is closed.
    open_frame: Option<Vec<u8>>,
    // The payload and its length, once a frame is appended that holds some of the object.
    payload: Option<(Box<blake3::Hasher>, u64)>,
}

impl BundleBuilder {
    /// Begins an object.
    ///
    /// # Panics
    /// If the object before was neither finished nor abandoned.
    pub fn begin_object(&mut self) {
        assert!(self.object.is_none(), "an object is open: finish or abandon it first");
        let before = Before {
            chunks: self.chunks.len(),
            foreign: self.foreign.len(),
            dependencies: self.dependencies.len(),
            closed_frames: self.closed_bytes.len(),
            open_frame_bytes: self.open_frame.len(),
            open_frame: None,
            payload: None,
        };
        self.object = Some(OpenObject { list: ChunkList::new(), bytes: 0, before });
    }

    /// Takes the open object back, if there is one, with all that it brought, and says how many bytes of the payload
    /// count: the spool is to be cut off behind them. Frames that were taken and not given back must not come any more.
    #[must_use = "the spool is to be cut off there"]
    pub fn abandon_object(&mut self) -> u64 {
        let Some(OpenObject { before, .. }) = self.object.take() else { return self.appended_bytes };
        for chunk in self.chunks.drain(before.chunks..) {
            self.known.remove(&chunk.hash);
        }
        for chunk in self.foreign.drain(before.foreign..) {
            self.known.remove(&chunk.hash);
        }
        self.dependencies.truncate(before.dependencies);
        match before.open_frame {
            Some(open_frame) => self.open_frame = open_frame,
            None => self.open_frame.truncate(before.open_frame_bytes),
        }
        let is_older = |number: u32| (number as usize) < before.closed_frames;
        self.pending.retain(|frame| is_older(frame.number));
        self.closed_bytes.truncate(before.closed_frames);
        self.next_pending = self.next_pending.min(self.closed_frames());
        if let Some((payload, appended_bytes)) = before.payload {
            self.payload = *payload;
            self.appended_bytes = appended_bytes;
            self.frames.truncate(before.closed_frames);
        }
        self.appended_bytes
    }

    /// Keeps what the open frame held before the object: it is about to be closed.
    pub(crate) fn keep_open_frame(&mut self) {
        let Some(OpenObject { before, .. }) = &mut self.object else { return };
        if before.open_frame.is_none() {
            before.open_frame = self.open_frame.get(..before.open_frame_bytes).map(<[u8]>::to_vec);
        }
    }

    /// Keeps the payload as it is before the first frame with some of the object: the next one is about to be appended.
    pub(crate) fn keep_payload(&mut self) {
        let Some(OpenObject { before, .. }) = &mut self.object else { return };
        if before.payload.is_none() && self.frames.len() >= before.closed_frames {
            before.payload = Some((Box::new(self.payload.clone()), self.appended_bytes));
        }
    }
}
